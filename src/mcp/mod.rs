//! An MCP server for the two feeds: stateless, and nothing but a function that PostgREST calls.
//!
//! `server` and what stands behind it know nothing of PostgreSQL: JSON text and headers in, a status and a body out.
//! This file is the edge: it reads what PostgREST sets, and sets what PostgREST reads.

mod envelope;
mod era;
mod headers;
mod legacy;
mod modern;
mod origin;
mod reply;
mod schema;
mod server;
mod tools;

#[cfg(test)]
mod tests;

pub use origin::AllowedOrigins;

use crate::access::caller_grants;
use crate::feed;
use crate::pg::json::{JsonbText, ResponseBody};
use crate::pg::setting;
use crate::pg::transaction::{Failure, attempt_unless_ended};
use crate::{fleet, settings};
use headers::Headers;
use pgrx::prelude::*;
use reply::Reply;
use serde_json::Value;
use tools::{Feed, Feeds};

/// What a POST brings: a JSON-RPC message of any protocol version, or whatever else is JSON.
#[pg_extern(volatile, name = "mcp", sql = false)]
fn mcp_post(message: Option<JsonbText>) -> ResponseBody {
    let headers = setting::read(c"request.headers").map(|json| Headers::parse(&json)).unwrap_or_default();
    let message = message.map_or_else(|| "null".to_owned(), |message| message.0);
    deliver(server::post(&message, &headers, &settings::mcp_allowed_origins(), &Database))
}

/// GET, and a POST of nothing.
#[pg_extern(volatile, name = "mcp", sql = false)]
fn mcp_get() -> ResponseBody {
    let method = setting::read(c"request.method").unwrap_or_default();
    deliver(server::without_message(&String::from_utf8_lossy(&method)))
}

/// Sets what PostgREST makes the response of, and leaves the headers that its `db-pre-request` has set.
fn deliver(reply: Reply) -> ResponseBody {
    let before = setting::read(c"response.headers").unwrap_or_default();
    setting::set_local(c"response.status", &reply.status.to_string());
    setting::set_local(c"response.headers", &headers::response(&before, reply.allow));
    ResponseBody(reply.body)
}

/// The feeds of this database, for the caller that the session runs as.
struct Database;

impl Feeds for Database {
    fn stats(&self) -> Feed {
        fleet::within_lock_timeout(|| guarded("stats", || Some(fleet::snapshot_now().value)))
    }

    fn status(&self) -> Feed {
        guarded("status", || {
            feed::status_snapshot().map(|json| serde_json::from_str(&json).unwrap_or_default())
        })
    }
}

/// Reads a feed for who may view its section. An error stays inside: the text of one may tell what is not the caller's
/// to know.
fn guarded(section: &str, read: impl FnOnce() -> Option<Value>) -> Feed {
    let read = || {
        if caller_grants().hold(section, "view") {
            read().map_or(Feed::Missing, Feed::Snapshot)
        } else {
            Feed::Forbidden
        }
    };
    attempt_unless_ended(read).unwrap_or_else(|failure: Failure| match failure.sqlstate.as_str() {
        // No fleet is attached, or an attached relation is gone.
        "42P01" => Feed::Missing,
        _ => Feed::Broken,
    })
}

#[cfg(feature = "pg_test")]
mod in_backend {
    #[pgrx::pg_schema]
    mod tests {
        use crate::pg::query::{Param, select_latest};
        use crate::pg::setting::read;
        use pgrx::prelude::*;
        use pgrx_tests::proptest::PgTestRunner;
        use proptest::prelude::*;

        fn post(message: &str) -> (Option<String>, String) {
            let body = select_latest("select public.mcp($1::jsonb)::text", &[Param::Text(message)], |row| {
                row.text(1)
            });
            let status = read(c"response.status").unwrap_or_default();
            (body.into_iter().next().flatten(), String::from_utf8(status).unwrap())
        }

        #[pg_test]
        fn whatever_is_posted_is_answered() {
            let word = || {
                prop::sample::select(vec![
                    "null",
                    "1e400",
                    "-0",
                    "\"\\u00fc\\ud83d\\ude00\"",
                    "[]",
                    "{}",
                    "\"tools/call\"",
                    "\"get_stats\"",
                    "\"2.0\"",
                    "{\"name\": \"get_status\"}",
                    "{\"name\": \"get_stats\", \"arguments\": {\"x\": 1}}",
                ])
            };
            let message = (word(), word(), word(), word(), any::<bool>()).prop_map(
                |(version, id, method, parameters, is_batch)| {
                    let one = format!(
                        r#"{{"jsonrpc": {version}, "id": {id}, "method": {method}, "params": {parameters}}}"#
                    );
                    if is_batch { format!("[{one}, {one}]") } else { one }
                },
            );
            PgTestRunner::default()
                .run(&prop_oneof![message, word().prop_map(String::from)], |message| {
                    let (body, status) = post(&message);
                    prop_assert!(status.len() == 3, "{} to {}", status, message);
                    if let Some(body) = body {
                        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                        prop_assert!(body.is_object() || body.is_array(), "{}", body);
                    }
                    Ok(())
                })
                .unwrap();
        }
    }
}
