//! The revisions with `initialize`.

use super::*;
use crate::mcp::schema::INSTRUCTIONS;

fn ask(method: &str, params: Value) -> Reply {
    post(&json!({ "jsonrpc": "2.0", "id": "a", "method": method, "params": params }), &legacy_headers())
}

#[test]
fn initialize_agrees_on_a_version() {
    for (requested, agreed) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("", "2025-11-25"),
    ] {
        let params = json!({
            "protocolVersion": requested, "capabilities": { "roots": { "listChanged": true } },
            "clientInfo": { "name": "test", "version": "1" },
        });
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
        // A client has agreed on nothing yet, and sends no version header.
        let result = result(&post(&message, &Headers { any: true, ..Headers::default() }));
        assert_eq!(result["protocolVersion"], agreed, "{requested}");
        assert_eq!(result["capabilities"], json!({ "tools": {} }));
        assert_eq!(result["serverInfo"]["name"], "busymate_stats");
        assert_eq!(result["serverInfo"]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(result["instructions"], INSTRUCTIONS);
    }
    for params in [json!({}), json!({ "protocolVersion": 1 }), json!({ "protocolVersion": null })] {
        assert_error(&ask("initialize", params), 200, -32602, json!("a"));
    }
}

#[test]
fn ping() {
    assert_eq!(result(&ask("ping", json!({}))), json!({}));
    let bare = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(result(&post(&bare, &Headers::default())), json!({}));
}

#[test]
fn what_there_is_not() {
    for method in [
        "server/discover",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/read",
        "logging/setLevel",
        "completion/complete",
        "resources/subscribe",
        "notifications/initialized",
        "Ping",
        "tools",
        "",
    ] {
        assert_error(&ask(method, json!({})), 200, -32601, json!("a"));
    }
}

#[test]
fn nothing_of_the_modern_revision_shows() {
    for method in ["tools/list", "tools/call"] {
        let result = result(&ask(method, json!({ "name": "get_stats" })));
        for key in ["resultType", "ttlMs", "cacheScope", "_meta"] {
            assert_eq!(result.get(key), None, "{method} {key}");
        }
    }
}

#[test]
fn a_progress_token_makes_no_modern_request() {
    let params = json!({ "name": "get_stats", "_meta": { "progressToken": 1 } });
    assert_eq!(result(&ask("tools/call", params))["isError"], false);
    let named = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2025-11-25" } });
    assert_eq!(result(&ask("ping", named)), json!({}));
}

#[test]
fn the_seeds_two_messages() {
    for (id, name) in [(1, "get_stats"), (2, "get_status")] {
        let message = json!({
            "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": name, "arguments": {} }
        });
        let (status, body) = parts(&post(&message, &Headers::default()));
        assert_eq!((status, &body["id"]), (200, &json!(id)));
        let text = body["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), snapshot());
    }
}
