//! The protocol without a database: every condition, in both eras, and any JSON at all.

mod any;
mod envelope;
mod examples;
mod legacy;
mod modern;
mod tools;

use super::era::MODERN;
use super::headers::Headers;
use super::origin::AllowedOrigins;
use super::reply::Reply;
use super::server;
use super::tools::{Feed, Feeds};
use serde_json::{Value, json};

/// A database in which every feed is in the given state.
pub struct Fixed(pub Feed);

impl Feeds for Fixed {
    fn stats(&self) -> Feed {
        self.0.clone()
    }

    fn status(&self) -> Feed {
        self.0.clone()
    }
}

pub fn snapshot() -> Value {
    json!({ "total_devices": 12, "top_domains": [{ "host": "api.stripe.com", "count": 1840 }] })
}

/// Headers as a client of the initialize era sends them after `initialize`.
pub fn legacy_headers() -> Headers {
    Headers { any: true, version: Some("2025-06-18".into()), ..Headers::default() }
}

pub fn modern_headers(method: &str, name: Option<&str>) -> Headers {
    Headers {
        any: true,
        origin: None,
        version: Some(MODERN.into()),
        method: Some(method.into()),
        name: name.map(Into::into),
    }
}

pub fn modern_params(mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
    });
    params
}

pub fn post(message: &Value, headers: &Headers) -> Reply {
    post_text(&message.to_string(), headers)
}

pub fn post_text(message: &str, headers: &Headers) -> Reply {
    server::post(message, headers, &AllowedOrigins::default(), &Fixed(Feed::Snapshot(snapshot())))
}

/// Status and body of an answer that has one.
#[track_caller]
pub fn parts(reply: &Reply) -> (u16, Value) {
    (reply.status, serde_json::from_str(reply.body.as_deref().unwrap()).unwrap())
}

/// Checks status, code and id of an error; `Value::Null` stands for no id.
#[track_caller]
pub fn assert_error(reply: &Reply, status: u16, code: i32, id: Value) {
    let (found, body) = parts(reply);
    assert_eq!((found, &body["error"]["code"]), (status, &json!(code)), "{body}");
    assert_eq!(body.get("id").cloned().unwrap_or_default(), id, "{body}");
    assert!(!(id.is_null() && body.as_object().unwrap().contains_key("id")), "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
}

/// The result of an answer that has one.
#[track_caller]
pub fn result(reply: &Reply) -> Value {
    let (status, body) = parts(reply);
    assert_eq!(status, 200, "{body}");
    body.get("result").cloned().unwrap_or_else(|| panic!("{body}"))
}
