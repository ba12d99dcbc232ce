//! What is watched, and what a component may not be.

use std::ops::RangeInclusive;
use std::time::Duration;
use ureq::http::Uri;

/// Whoever waits for a probe waits no longer than this.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest key, label and URL, in bytes.
const MAX_TEXT: usize = 256;
const MAX_URL: usize = 2048;

/// systemd's own limit.
const MAX_UNIT: usize = 255;

/// The types of units, which a full name ends with.
const UNIT_TYPES: [&str; 11] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
];

/// One thing to watch: a URL, a systemd unit, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Component {
    /// What it is known by.
    pub key: String,
    /// What people call it.
    pub label: String,
    /// What to probe.
    pub url: Option<String>,
    /// The lowest status that counts as up.
    pub expect_min: i64,
    /// The highest.
    pub expect_max: i64,
    /// How long the probe may take, in microseconds.
    pub timeout_us: i64,
    /// The systemd unit.
    pub unit: Option<String>,
    /// Whether the whole is down when this is.
    pub critical: bool,
}

/// What is wrong with a component, and in which column.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The column, or two where either would do.
    pub column: &'static str,
    /// What is wrong with it.
    pub message: String,
}

fn problem<T>(column: &'static str, message: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { column, message: message.into() })
}

impl Component {
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), Problem> {
        self.check_text("key", &self.key)?;
        self.check_text("label", &self.label)?;
        if self.url.is_none() && self.unit.is_none() {
            return problem("url, unit", "a component has a url, a unit, or both");
        }
        if let Some(url) = &self.url {
            parse_url(url).or_else(|message| problem("url", message))?;
        }
        if let Some(unit) = &self.unit {
            check_unit(unit).or_else(|message| problem("unit", message))?;
        }
        if !(100..=599).contains(&self.expect_min) {
            return problem("expect_min", "an HTTP status is 100 to 599");
        }
        if !(100..=599).contains(&self.expect_max) {
            return problem("expect_max", "an HTTP status is 100 to 599");
        }
        if self.expect_min > self.expect_max {
            return problem("expect_min", "it is greater than expect_max");
        }
        if self.timeout_us < 1000 || self.timeout_us > MAX_TIMEOUT.as_micros() as i64 {
            return problem("timeout", "a timeout is 1 ms to 3 s");
        }
        Ok(())
    }

    fn check_text(&self, column: &'static str, text: &str) -> Result<(), Problem> {
        match text {
            "" => problem(column, "it is empty"),
            _ if text.len() > MAX_TEXT => problem(column, "it is longer than 256 bytes"),
            _ => Ok(()),
        }
    }

    /// The statuses that count as up.
    pub fn expected(&self) -> RangeInclusive<i64> {
        self.expect_min..=self.expect_max
    }

    /// How long its probe may take. Where a table's guard was off, a limit stays.
    pub fn timeout(&self) -> Duration {
        Duration::from_micros(self.timeout_us.max(1000) as u64).min(MAX_TIMEOUT)
    }

    /// The unit by systemd's full name: as for systemctl, a name without a type is a service, dots or not.
    pub fn unit_name(&self) -> Option<String> {
        self.unit.as_ref().map(|unit| match unit.rsplit_once('.') {
            Some((_, suffix)) if UNIT_TYPES.contains(&suffix) => unit.clone(),
            _ => format!("{unit}.service"),
        })
    }
}

/// A URL that can be probed.
pub fn parse_url(text: &str) -> Result<Uri, String> {
    if text.len() > MAX_URL {
        return Err("it is longer than 2048 bytes".into());
    }
    let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(other) => return Err(format!("the scheme is {other:?}, and only http and https are probed")),
        None => return Err(format!("{text:?} is no URL: it begins with neither http:// nor https://")),
    }
    let Some(authority) = uri.authority() else {
        return Err(format!("{text:?} has no host"));
    };
    if authority.as_str().contains('@') {
        return Err("it holds a user name or password, which every reader of the table would see".into());
    }
    if authority.host().is_empty() || authority.host() == "[]" {
        return Err(format!("{text:?} has no host"));
    }
    let port = &authority.as_str()[authority.host().len()..];
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(format!("{text:?} has no valid port"));
    }
    Ok(uri)
}

fn check_unit(unit: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "@:-_.\\".contains(c);
    if unit.is_empty() {
        Err("it is empty".into())
    } else if unit.len() > MAX_UNIT {
        Err("it is longer than 255 bytes".into())
    } else if !unit.chars().all(valid) || unit.starts_with(['.', '@']) {
        Err(format!("{unit:?} is no name of a systemd unit"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Component {
        Component {
            key: "web".into(),
            label: "Web".into(),
            url: Some("http://localhost/".into()),
            expect_min: 200,
            expect_max: 399,
            timeout_us: 2_000_000,
            ..Component::default()
        }
    }

    #[test]
    fn urls_that_can_be_probed() {
        for url in [
            "http://localhost",
            "https://example.com:8443/health?deep=1",
            "http://127.0.0.1:80/",
            "http://[::1]:8080/x",
            "HTTP://EXAMPLE.COM/",
        ] {
            assert_eq!(parse_url(url).err(), None, "{url}");
        }
    }

    #[test]
    fn urls_that_cannot() {
        for url in [
            "",
            " ",
            "example.com",
            "/health",
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com",
            "http://",
            "http:///x",
            "http://:80/",
            "http://a b/",
            "http://example.com:0/",
            "http://example.com:99999/",
            "http://example.com:/",
            "http://user:secret@example.com/",
            "http://[::1/",
            "http://[]/",
            "javascript:alert(1)",
        ] {
            assert!(parse_url(url).is_err(), "{url}");
        }
        assert!(parse_url(&format!("http://x/{}", "a".repeat(3000))).is_err());
    }

    #[test]
    fn each_problem_names_its_column() {
        assert_eq!(good().check(), Ok(()));
        let with_unit = |unit: &str| Component { unit: Some(unit.into()), ..good() };
        assert_eq!(with_unit("nginx.service").check(), Ok(()));
        assert_eq!(with_unit("getty@tty1.service").check(), Ok(()));
        for (component, column) in [
            (Component { key: String::new(), ..good() }, "key"),
            (Component { label: "x".repeat(300), ..good() }, "label"),
            (Component { url: None, ..good() }, "url, unit"),
            (Component { url: Some("ftp://x/".into()), ..good() }, "url"),
            (with_unit(""), "unit"),
            (with_unit("../etc/passwd"), "unit"),
            (with_unit("a b.service"), "unit"),
            (Component { expect_min: 99, ..good() }, "expect_min"),
            (Component { expect_max: 600, ..good() }, "expect_max"),
            (Component { expect_min: 300, expect_max: 200, ..good() }, "expect_min"),
            (Component { timeout_us: 3_000_001, ..good() }, "timeout"),
            (Component { timeout_us: 0, ..good() }, "timeout"),
            (Component { timeout_us: -1, ..good() }, "timeout"),
        ] {
            assert_eq!(component.check().unwrap_err().column, column);
        }
    }

    #[test]
    fn a_unit_without_a_type_is_a_service() {
        let named = |unit: &str| Component { unit: Some(unit.into()), ..good() }.unit_name();
        assert_eq!(named("nginx").as_deref(), Some("nginx.service"));
        for full in UNIT_TYPES {
            let unit = format!("docker.{full}");
            assert_eq!(named(&unit).as_deref(), Some(&*unit));
        }
        for dotted in ["php8.2-fpm", "openvpn@client.conf", "app.SERVICE", "a.b.c", "timer"] {
            assert_eq!(named(dotted), Some(format!("{dotted}.service")));
        }
    }

    #[test]
    fn a_timeout_has_its_bounds_whatever_the_table_holds() {
        assert_eq!(Component { timeout_us: i64::MAX, ..good() }.timeout(), MAX_TIMEOUT);
        assert_eq!(Component { timeout_us: -5, ..good() }.timeout(), Duration::from_millis(1));
    }
}
