//! Which web pages may call: the defence against DNS rebinding.
//!
//! A page whose own host name was made to point at this server sends that name as `Origin` and as `Host`, so that the
//! two agreeing proves nothing. Only names that nobody else can claim pass: loopback, and what the operator lists.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The origins that the operator allows, besides loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins(Vec<String>);

/// An origin in its parts: `scheme://host[:port]`, lower-cased.
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
            let (host, rest) = bracketed.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (&authority[..host.len() + 2], rest)
        } else {
            authority.split_at(authority.find(':').unwrap_or(authority.len()))
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            None if port.is_empty() => None,
            _ => return None,
        };
        let scheme_fits = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let host_fits = !host.is_empty()
            && (host.starts_with('[')
                || host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)));
        (scheme_fits && host_fits).then(|| Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    fn is_loopback(&self) -> bool {
        let bracketed = self.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        ["http", "https"].contains(&self.scheme.as_str())
            && (self.host == "localhost"
                || self.host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
                || bracketed
                    .and_then(|host| host.parse::<Ipv6Addr>().ok())
                    .is_some_and(|address| address.is_loopback()))
    }

    /// As a browser writes it: without the scheme's own port.
    fn normal(&self) -> String {
        let usual = match self.scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        match self.port.filter(|port| Some(*port) != usual) {
            Some(port) => format!("{}://{}:{port}", self.scheme, self.host),
            None => format!("{}://{}", self.scheme, self.host),
        }
    }
}

impl AllowedOrigins {
    /// Reads a list separated by commas, or gives the first entry that is no origin.
    pub fn parse(list: &str) -> Result<Self, &str> {
        if list.trim().is_empty() {
            return Ok(Self::default());
        }
        list.split(',')
            .map(|entry| Origin::parse(entry.trim()).map(|origin| origin.normal()).ok_or(entry.trim()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether a request with this `Origin` may go on.
    pub fn allow(&self, origin: &str) -> bool {
        Origin::parse(origin).is_some_and(|origin| origin.is_loopback() || self.0.contains(&origin.normal()))
    }
}

#[cfg(test)]
mod tests {
    use super::AllowedOrigins;
    use proptest::prelude::*;

    #[test]
    fn loopback_needs_no_listing() {
        let none = AllowedOrigins::default();
        for origin in [
            "http://localhost",
            "http://localhost:6274",
            "https://LOCALHOST:1",
            "http://127.0.0.1:3000",
            "http://127.8.9.1",
            "http://[::1]:80",
        ] {
            assert!(none.allow(origin), "{origin}");
        }
        for origin in [
            "null",
            "",
            "localhost",
            "http://localhost.evil.example",
            "http://evil.example",
            "http://localhost@evil.example",
            "http://evil.example#localhost",
            "http://localhost:80:80",
            "http://localhost:x",
            "http://localhost:99999",
            "http://localhost:+80",
            "http://localhost/",
            "http://127.0.0.1.evil.example",
            "http://0.0.0.0",
            "http://[::2]",
            "http://[::1",
            "http://[::1]x",
            "file://localhost",
            "://localhost",
            "http://",
            "http://local host",
        ] {
            assert!(!none.allow(origin), "{origin}");
        }
    }

    #[test]
    fn what_the_operator_lists() {
        let list =
            "https://app.example, http://tool.example:8080,vscode-webview://abc,https://other.example:443";
        let allowed = AllowedOrigins::parse(list).unwrap();
        for origin in [
            "https://app.example",
            "https://APP.example:443",
            "http://tool.example:8080",
            "vscode-webview://abc",
            "https://other.example",
        ] {
            assert!(allowed.allow(origin), "{origin}");
        }
        for origin in [
            "http://app.example",
            "https://app.example:8443",
            "https://x.app.example",
            "http://tool.example",
            "null",
        ] {
            assert!(!allowed.allow(origin), "{origin}");
        }
        assert_eq!(AllowedOrigins::parse(" "), Ok(AllowedOrigins::default()));
    }

    #[test]
    fn what_is_no_origin() {
        for (list, culprit) in [
            ("*", "*"),
            ("https://a.example,", ""),
            ("app.example", "app.example"),
            ("https://a.example/path", "https://a.example/path"),
            ("https://a.example, null", "null"),
            ("https://*.example", "https://*.example"),
            ("https://a.example https://b.example", "https://a.example https://b.example"),
        ] {
            assert_eq!(AllowedOrigins::parse(list), Err(culprit), "{list}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "\\PC{0,40}") {
            AllowedOrigins::default().allow(&text);
            let _ = AllowedOrigins::parse(&text);
        }

        #[test]
        fn an_entry_allows_itself(scheme in "[a-z][a-z0-9+.-]{0,8}", host in "[a-z0-9.-]{1,20}", port in proptest::option::of(1..u16::MAX)) {
            let origin = match port {
                Some(port) => format!("{scheme}://{host}:{port}"),
                None => format!("{scheme}://{host}"),
            };
            prop_assert!(AllowedOrigins::parse(&origin).unwrap().allow(&origin));
        }
    }
}
