//! What goes out: an HTTP status, headers, and a JSON-RPC response or nothing.

use super::envelope::Id;
use serde_json::{Value, json};

/// The answer to one HTTP request. The edge applies status and headers; the protocol only says which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// `Allow`, where the status asks for it.
    pub allow: Option<&'static str>,
    /// The JSON-RPC response; `None` for an empty body.
    pub body: Option<String>,
}

/// A JSON-RPC error: its code, its message, and what else a client may use.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    code: i32,
    message: &'static str,
    data: Option<Value>,
}

impl RpcError {
    fn new(code: i32, message: &'static str) -> Self {
        Self { code, message, data: None }
    }

    /// The message is no JSON-RPC request that this server takes.
    pub fn invalid_request(message: &'static str) -> Self {
        Self::new(-32600, message)
    }

    /// The method is not one of this server's, or not of this protocol version.
    pub fn method_not_found() -> Self {
        Self::new(-32601, "Method not found")
    }

    /// The method's parameters do not fit.
    pub fn invalid_params(message: &'static str) -> Self {
        Self::new(-32602, message)
    }

    /// What went wrong is in the server's log, for the operator; never here.
    pub fn internal() -> Self {
        Self::new(-32603, "Internal error")
    }

    /// A header says something else than the message.
    pub fn header_mismatch(message: &'static str) -> Self {
        Self::new(-32020, message)
    }

    /// The protocol version is none of `supported`.
    pub fn unsupported_version(supported: &[&str], requested: &str) -> Self {
        /// How much is echoed of a version that may be anything.
        const ECHOED_CHARACTERS: usize = 64;
        let requested: String = requested.chars().take(ECHOED_CHARACTERS).collect();
        Self {
            data: Some(json!({ "supported": supported, "requested": requested })),
            ..Self::new(-32022, "Unsupported protocol version")
        }
    }

    /// Whether it is the server's fault rather than the client's.
    pub fn is_internal(&self) -> bool {
        self.code == -32603
    }
}

impl Reply {
    /// Nothing to say: a notification was taken in.
    pub fn accepted() -> Self {
        Self { status: 202, allow: None, body: None }
    }

    /// GET, which an MCP server without a stream of its own does not offer.
    pub fn post_only() -> Self {
        Self { status: 405, allow: Some("POST"), body: None }
    }

    /// A result.
    pub fn result(id: &Id, result: &Value) -> Self {
        Self { status: 200, allow: None, body: Some(response(Some(id), "result", result)) }
    }

    /// An error. Without a usable id the member is left out: MCP's schema does not know a null one.
    pub fn error(status: u16, id: Option<&Id>, error: RpcError) -> Self {
        let mut object = json!({ "code": error.code, "message": error.message });
        if let Some(data) = error.data {
            object["data"] = data;
        }
        Self { status, allow: None, body: Some(response(id, "error", &object)) }
    }
}

/// Put together as text, so that an id of any size comes back digit by digit.
fn response(id: Option<&Id>, member: &str, value: &Value) -> String {
    let id = id.map(|id| format!(r#","id":{}"#, id.as_json())).unwrap_or_default();
    format!(r#"{{"jsonrpc":"2.0"{id},"{member}":{value}}}"#)
}
