//! What comes in: one JSON-RPC message, taken apart as far as every protocol version agrees.

use super::reply::{Reply, RpcError};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Longer ids are refused: nine bytes that come in, `1e100000`, would be a hundred thousand that go out.
const ID_CHARACTERS: usize = 256;

/// The id of a request, as JSON: it goes back as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    fn parse(json: &str) -> Option<Self> {
        let valid = match json.as_bytes().first()? {
            b'"' => serde_json::from_str::<String>(json).is_ok_and(|id| id.chars().count() <= ID_CHARACTERS),
            b'-' | b'0'..=b'9' => json.len() <= ID_CHARACTERS && is_integer(json),
            _ => false,
        };
        valid.then(|| Self(json.to_owned()))
    }

    /// The id as JSON.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// jsonb keeps the zeros of `1.0`, and prints no exponents.
fn is_integer(number: &str) -> bool {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    whole.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit())
        && fraction.bytes().all(|byte| byte == b'0')
}

/// A message of the client.
#[derive(Debug)]
pub enum Message {
    /// Asks for an answer.
    Request(Request),
    /// Asks for none, whatever its method.
    Notification,
    /// Answers something that this server never asked.
    Response,
}

/// A request of any method.
#[derive(Debug)]
pub struct Request {
    /// Its id.
    pub id: Id,
    /// Its method.
    pub method: String,
    /// Its parameters; empty when there are none.
    pub params: Map<String, Value>,
}

fn invalid(message: &'static str) -> Reply {
    Reply::error(400, None, RpcError::invalid_request(message))
}

/// Takes `json`, any JSON text, apart; or says why not.
pub fn parse(json: &str) -> Result<Message, Reply> {
    match json.trim_start().as_bytes().first() {
        Some(b'{') => {}
        Some(b'[') => return Err(invalid("Batches are not supported: send one message at a time")),
        _ => return Err(invalid("The message must be a JSON object")),
    }
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(json).map_err(|_| invalid("The message must be a JSON object"))?;
    let member = |name: &str| members.get(name).map(|value| value.get());

    let id = match member("id") {
        Some(id) => Some(
            Id::parse(id)
                .ok_or_else(|| invalid("id must be an integer or a string, of at most 256 characters"))?,
        ),
        None => None,
    };
    let refuse = |message| Err(Reply::error(400, id.as_ref(), RpcError::invalid_request(message)));
    if member("jsonrpc") != Some(r#""2.0""#) {
        return refuse(r#"jsonrpc must be "2.0""#);
    }
    let Some(method) = member("method") else {
        if member("result").is_some() || member("error").is_some() {
            return Ok(Message::Response);
        }
        return refuse("method is missing");
    };
    let Ok(method) = serde_json::from_str::<String>(method) else {
        return refuse("method must be a string");
    };
    let params = member("params");
    let unfit = |message| Reply::error(400, id.as_ref(), RpcError::invalid_params(message));
    if params.is_some_and(|params| !params.starts_with('{')) {
        return Err(unfit("params must be an object"));
    }
    let Some(id) = &id else {
        return Ok(Message::Notification);
    };
    // What PostgreSQL takes for JSON, and this reader does not: very deep nesting, numbers beyond a double.
    let params = serde_json::from_str(params.unwrap_or("{}"))
        .map_err(|_| unfit("params are nested too deeply, or hold a number out of range"))?;
    Ok(Message::Request(Request { id: id.clone(), method, params }))
}
