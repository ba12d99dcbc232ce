//! The two tools, and what a call of them gives.

use super::reply::RpcError;
use super::schema;
use serde_json::{Map, Value, json};

/// What stands behind a tool.
#[derive(Clone, Debug)]
pub enum Feed {
    /// The snapshot, a JSON object.
    Snapshot(Value),
    /// The caller lacks the capability.
    Forbidden,
    /// There is nothing to show yet.
    Missing,
    /// Something went wrong that is not for the caller to know.
    Broken,
}

/// Where the tools get what they show.
pub trait Feeds {
    /// The fleet's statistics, as of now.
    fn stats(&self) -> Feed;
    /// The infrastructure's health, as last written.
    fn status(&self) -> Feed;
}

#[derive(Clone, Copy)]
enum Tool {
    GetStats,
    GetStatus,
}

impl Tool {
    fn named(name: &str) -> Option<Self> {
        match name {
            "get_stats" => Some(Self::GetStats),
            "get_status" => Some(Self::GetStatus),
            _ => None,
        }
    }

    fn feed(self, feeds: &impl Feeds) -> Feed {
        match self {
            Self::GetStats => feeds.stats(),
            Self::GetStatus => feeds.status(),
        }
    }

    fn forbidden(self) -> String {
        let capability = match self {
            Self::GetStats => "stats:view",
            Self::GetStatus => "status:view",
        };
        format!(
            "Permission denied: this tool needs the capability {capability}, and the user of this access token does \
             not have it. An administrator of the system can assign a role that grants {capability}; the built-in \
             role \"viewer\" does."
        )
    }

    fn missing(self) -> &'static str {
        match self {
            Self::GetStats => {
                "There are no statistics: no fleet is attached, or an attached table is gone. The operator of the \
                 database attaches one with busymate_stats.attach()."
            }
            Self::GetStatus => {
                "No status snapshot has been written yet. The status service writes one every few seconds once it \
                 runs; if this stays so, its operator should look at busymate_stats.health."
            }
        }
    }
}

/// The result of `tools/list`.
pub fn list(params: &Map<String, Value>) -> Result<Value, RpcError> {
    if params.get("cursor").is_some_and(|cursor| !cursor.is_null()) {
        return Err(RpcError::invalid_params("The list has one page: leave cursor out"));
    }
    Ok(json!({ "tools": schema::tools() }))
}

/// The result of `tools/call`.
pub fn call(params: &Map<String, Value>, feeds: &impl Feeds) -> Result<Value, RpcError> {
    let Some(Value::String(name)) = params.get("name") else {
        return Err(RpcError::invalid_params("name must be a string"));
    };
    let Some(tool) = Tool::named(name) else {
        return Err(RpcError::invalid_params("Unknown tool: tools/list names those there are"));
    };
    match params.get("arguments") {
        None | Some(Value::Null) => {}
        Some(Value::Object(arguments)) if arguments.is_empty() => {}
        Some(Value::Object(_)) => return Ok(failure("This tool takes no arguments. Call it again with {}.")),
        Some(_) => return Err(RpcError::invalid_params("arguments must be an object")),
    }
    match tool.feed(feeds) {
        Feed::Snapshot(snapshot) if snapshot.is_object() => Ok(success(snapshot)),
        Feed::Forbidden => Ok(failure(&tool.forbidden())),
        Feed::Missing => Ok(failure(tool.missing())),
        // A snapshot that is no object can have been put there only by hand.
        Feed::Snapshot(_) | Feed::Broken => Err(RpcError::internal()),
    }
}

fn success(snapshot: Value) -> Value {
    json!({
        "content": [{ "type": "text", "text": snapshot.to_string() }],
        "structuredContent": snapshot,
        "isError": false,
    })
}

/// No structuredContent: it would have to fit the output schema.
fn failure(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }], "isError": true })
}
