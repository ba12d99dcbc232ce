//! The request's HTTP headers, as PostgREST hands them over in `request.headers`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
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

#[cfg(test)]
mod tests {
    use super::Headers;

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
