//! The revision without a session, 2026-07-28: every request names its version and what its client can do, and headers
//! repeat what a gateway may want to route by.

use super::envelope::Request;
use super::era::{ALL, MODERN, version_in};
use super::headers::Headers;
use super::reply::{Reply, RpcError};
use super::schema;
use super::tools::{self, Feeds};
use serde_json::{Value, json};
use std::borrow::Cow;

/// How long a client may keep what does not change while this version runs, in milliseconds.
const TTL_MS: u32 = 3_600_000;

const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// Answers a request.
pub fn answer(request: &Request, headers: &Headers, feeds: &impl Feeds) -> Reply {
    let refuse = |status, error| Reply::error(status, Some(&request.id), error);
    if let Err(error) = check_meta(request, headers).and_then(|()| check_headers(request, headers)) {
        return refuse(400, error);
    }
    let result = match request.method.as_str() {
        "server/discover" => Ok(discover()),
        "tools/list" => tools::list(&request.params).map(lasting),
        "tools/call" => tools::call(&request.params, feeds),
        _ => return refuse(404, RpcError::method_not_found()),
    };
    match result {
        Ok(result) => Reply::result(&request.id, &complete(result)),
        // An error of ours keeps its code only under 200.
        Err(error) => refuse(if error.is_internal() { 200 } else { 400 }, error),
    }
}

/// The version that the request names must be there and be the one that these rules are for.
fn check_meta(request: &Request, headers: &Headers) -> Result<(), RpcError> {
    let version = version_in(&request.params);
    if let (Some(header), None) = (&headers.version, version)
        && !ALL.contains(&header.as_str())
    {
        return Err(RpcError::unsupported_version(&ALL, header));
    }
    let Some(Value::String(version)) = version else {
        return Err(RpcError::invalid_params("_meta must name the protocol version, a string"));
    };
    if !request.params["_meta"].get(CLIENT_CAPABILITIES).is_some_and(Value::is_object) {
        return Err(RpcError::invalid_params("_meta must hold the client's capabilities, an object"));
    }
    if headers.any && headers.version.as_deref() != Some(version) {
        return Err(RpcError::header_mismatch("MCP-Protocol-Version and _meta name different versions"));
    }
    if version != MODERN {
        return Err(RpcError::unsupported_version(&ALL, version));
    }
    Ok(())
}

fn check_headers(request: &Request, headers: &Headers) -> Result<(), RpcError> {
    if !headers.any {
        return Ok(());
    }
    if headers.method.as_deref() != Some(request.method.as_str()) {
        return Err(RpcError::header_mismatch("Mcp-Method must be the request's method"));
    }
    let named_by = match request.method.as_str() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return Ok(()),
    };
    let name = request.params.get(named_by).and_then(Value::as_str).map(Cow::Borrowed);
    if headers.decoded_name() != name {
        return Err(RpcError::header_mismatch(
            "Mcp-Name must be the name or uri in the request's parameters",
        ));
    }
    Ok(())
}

fn discover() -> Value {
    lasting(json!({
        "supportedVersions": ALL,
        "capabilities": schema::capabilities(),
        "instructions": schema::INSTRUCTIONS,
    }))
}

/// The same for every caller, for a while.
fn lasting(mut result: Value) -> Value {
    result["ttlMs"] = TTL_MS.into();
    result["cacheScope"] = "public".into();
    result
}

/// What every result of this revision says besides.
fn complete(mut result: Value) -> Value {
    result["resultType"] = "complete".into();
    result["_meta"] = json!({ SERVER_INFO: schema::server_info() });
    result
}
