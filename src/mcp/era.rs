//! Protocol versions, and which rules a request is judged by.

use super::headers::Headers;
use serde_json::{Map, Value};

/// The revision without a session: every request says what it is.
pub const MODERN: &str = "2026-07-28";

/// The revisions that begin with `initialize`, newest first.
pub const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// Every supported revision, newest first.
pub const ALL: [&str; 4] = [MODERN, LEGACY[0], LEGACY[1], LEGACY[2]];

/// Where a modern request names its version, in `params._meta`.
pub const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// The rules that a message is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// 2026-07-28.
    Modern,
    /// Everything with `initialize`.
    Legacy,
}

/// The era of a message with these parameters. A client that says nothing is an old one.
pub fn of(headers: &Headers, params: &Map<String, Value>) -> Era {
    let by_header = headers.version.as_deref().is_some_and(|version| !LEGACY.contains(&version));
    let by_params = version_in(params)
        .is_some_and(|version| version.as_str().is_none_or(|version| !LEGACY.contains(&version)));
    if by_header || by_params { Era::Modern } else { Era::Legacy }
}

/// The version that the parameters name, whatever type it has.
pub fn version_in(params: &Map<String, Value>) -> Option<&Value> {
    params.get("_meta")?.get(VERSION_KEY)
}
