//! HTTP headers: the request's, as PostgREST hands them over in `request.headers`, and the response's, as it takes them
//! from `response.headers`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The headers that matter here. The others, the bearer token among them, are not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Whether there were any at all; psql sends none.
    pub any: bool,
    /// `Origin`: who wrote the page that sends this, if a browser sends it.
    pub origin: Option<String>,
    /// `MCP-Protocol-Version`
    pub version: Option<String>,
    /// `Mcp-Method`
    pub method: Option<String>,
    /// `Mcp-Name`
    pub name: Option<String>,
}

impl Headers {
    /// Reads the text of a JSON object with a string per header. Anything else is no headers.
    pub fn parse(json: &[u8]) -> Self {
        let all: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
        let header = |name: &str| {
            let (_, value) = all.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            // Blanks around a value are no part of it, and PostgREST leaves them.
            value.as_str().map(|value| value.trim().to_owned())
        };
        Self {
            any: !all.is_empty(),
            origin: header("origin"),
            version: header("mcp-protocol-version"),
            method: header("mcp-method"),
            name: header("mcp-name"),
        }
    }

    /// `Mcp-Name` as it was before a client wrapped it: what is not plain ASCII travels as `=?base64?…?=`.
    pub fn decoded_name(&self) -> Option<Cow<'_, str>> {
        let name = self.name.as_deref()?;
        let Some(wrapped) = name.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
            return Some(Cow::Borrowed(name));
        };
        let bytes = STANDARD.decode(wrapped).ok()?;
        String::from_utf8(bytes).ok().map(Cow::Owned)
    }
}

/// The text of `response.headers`: an array of objects with a header each. Those set `before` stay, unless ours say
/// otherwise. Every answer concerns one caller at one moment: none may be kept.
pub fn response(before: &[u8], allow: Option<&str>) -> String {
    let mut ours = vec![("Content-Type", "application/json"), ("Cache-Control", "no-store")];
    ours.extend(allow.map(|methods| ("Allow", methods)));
    let is_ours = |name: &str| ours.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let before: Vec<Map<String, Value>> = serde_json::from_slice(before).unwrap_or_default();
    let kept = before.into_iter().flatten().filter(|(name, _)| !is_ours(name));
    let headers: Vec<Value> = kept
        .map(|(name, value)| json!({ name: value }))
        .chain(ours.iter().map(|(name, value)| json!({ *name: value })))
        .collect();
    Value::Array(headers).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Headers, response};

    #[test]
    fn headers_of_a_pre_request_stay() {
        let ours = r#"{"Content-Type":"application/json"},{"Cache-Control":"no-store"}"#;
        for before in ["", "null", "{", "{}", "7", "[]", "[7]"] {
            assert_eq!(response(before.as_bytes(), None), format!("[{ours}]"), "{before}");
        }
        let before = br#"[{"X-Frame-Options":"DENY","cache-control":"public"},{"Set-Cookie":"a=1"},{"Set-Cookie":"b=2"}]"#;
        assert_eq!(
            response(before, Some("POST")),
            format!(
                r#"[{{"X-Frame-Options":"DENY"}},{{"Set-Cookie":"a=1"}},{{"Set-Cookie":"b=2"}},{ours},{{"Allow":"POST"}}]"#
            )
        );
    }

    #[test]
    fn what_postgrest_hands_over() {
        let headers = Headers::parse(
            br#"{"authorization":"Bearer x.y.z","mcp-protocol-version":"2026-07-28 ","mcp-method":"tools/call","mcp-name":"get_stats"}"#,
        );
        assert!(headers.any);
        assert_eq!(headers.version.as_deref(), Some("2026-07-28"));
        assert_eq!(headers.method.as_deref(), Some("tools/call"));
        assert_eq!(headers.decoded_name().as_deref(), Some("get_stats"));
        assert_eq!(headers.origin, None);
        assert!(!format!("{headers:?}").contains("x.y.z"));
    }

    #[test]
    fn none_at_all() {
        for text in ["", "{}", "null", "[]", "{", "\"a\"", "[{\"origin\":\"x\"}]"] {
            assert_eq!(Headers::parse(text.as_bytes()), Headers::default(), "{text}");
        }
    }

    #[test]
    fn a_wrapped_name() {
        let named = |name: &str| Headers { name: Some(name.into()), ..Headers::default() };
        assert_eq!(named("=?base64?Z2V0X3N0YXRz?=").decoded_name().as_deref(), Some("get_stats"));
        assert_eq!(named("=?base64?w7w=?=").decoded_name().as_deref(), Some("ü"));
        assert_eq!(named("=?base64?!?=").decoded_name(), None);
        assert_eq!(named("=?base64?/w==?=").decoded_name(), None);
        assert_eq!(named("").decoded_name().as_deref(), Some(""));
    }
}
