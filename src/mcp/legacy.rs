//! The revisions with `initialize`: 2025-11-25, 2025-06-18 and 2025-03-26.
//!
//! An error of a well-formed request goes out with HTTP 200: a client of these revisions takes any other status for a
//! failure of the transport, and the error's code is lost.

use super::envelope::Request;
use super::era::LEGACY;
use super::reply::{Reply, RpcError};
use super::schema;
use super::tools::{self, Feeds};
use serde_json::{Value, json};

/// Answers a request.
pub fn answer(request: &Request, feeds: &impl Feeds) -> Reply {
    let result = match request.method.as_str() {
        "initialize" => initialize(request),
        "ping" => Ok(json!({})),
        "tools/list" => tools::list(&request.params),
        "tools/call" => tools::call(&request.params, feeds),
        _ => Err(RpcError::method_not_found()),
    };
    match result {
        Ok(result) => Reply::result(&request.id, &result),
        Err(error) => Reply::error(200, Some(&request.id), error),
    }
}

/// Nothing is kept of it: there is no session, and every later request stands for itself.
fn initialize(request: &Request) -> Result<Value, RpcError> {
    let Some(Value::String(requested)) = request.params.get("protocolVersion") else {
        return Err(RpcError::invalid_params("protocolVersion must be a string"));
    };
    let agreed = LEGACY.into_iter().find(|version| version == requested).unwrap_or(LEGACY[0]);
    Ok(json!({
        "protocolVersion": agreed,
        "capabilities": schema::capabilities(),
        "serverInfo": schema::server_info(),
        "instructions": schema::INSTRUCTIONS,
    }))
}
