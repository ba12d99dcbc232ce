//! The revision without a session.

use super::*;
use crate::mcp::era::ALL;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

fn message(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 5, "method": method, "params": params })
}

fn ask(method: &str, params: Value, name: Option<&str>) -> Reply {
    post(&message(method, &modern_params(params)), &modern_headers(method, name))
}

#[track_caller]
fn assert_complete(result: &Value) {
    assert_eq!(result["resultType"], "complete");
    let info = &result["_meta"]["io.modelcontextprotocol/serverInfo"];
    assert_eq!(
        (&info["name"], &info["version"]),
        (&json!("busymate_stats"), &json!(env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn discover() {
    let result = result(&ask("server/discover", json!({}), None));
    assert_complete(&result);
    assert_eq!(result["supportedVersions"], json!(ALL));
    assert_eq!(result["capabilities"], json!({ "tools": {} }));
    assert_eq!(result["cacheScope"], "public");
    assert!(result["ttlMs"].is_u64());
    assert!(result["instructions"].is_string());
}

#[test]
fn list_and_call() {
    let list = result(&ask("tools/list", json!({}), None));
    assert_complete(&list);
    assert_eq!((&list["cacheScope"], list["ttlMs"].is_u64()), (&json!("public"), true));
    let call = result(&ask("tools/call", json!({ "name": "get_status" }), Some("get_status")));
    assert_complete(&call);
    assert_eq!((call.get("ttlMs"), call.get("cacheScope")), (None, None));
    assert_eq!(call["structuredContent"], snapshot());
}

#[test]
fn what_there_is_not() {
    for method in [
        "initialize",
        "ping",
        "prompts/list",
        "resources/list",
        "subscriptions/listen",
        "logging/setLevel",
        "",
    ] {
        assert_error(&ask(method, json!({}), None), 404, -32601, json!(5));
    }
    assert_error(&ask("prompts/get", json!({ "name": "x" }), Some("x")), 404, -32601, json!(5));
    assert_error(&ask("resources/read", json!({ "uri": "x" }), Some("x")), 404, -32601, json!(5));
}

#[test]
fn meta_must_be_whole() {
    let whole = || modern_params(json!({}))["_meta"].clone();
    let mut unfit = vec![json!(null), json!([]), json!("x"), json!({})];
    for (key, value) in [
        (VERSION, json!(null)),
        (VERSION, json!(7)),
        (CAPABILITIES, json!(null)),
        (CAPABILITIES, json!("x")),
        (CAPABILITIES, json!([])),
    ] {
        let mut meta = whole();
        meta[key] = value;
        unfit.push(meta.clone());
        meta.as_object_mut().unwrap().remove(key);
        unfit.push(meta);
    }
    for meta in unfit {
        let message = message("tools/list", &json!({ "_meta": meta }));
        assert_error(&post(&message, &modern_headers("tools/list", None)), 400, -32602, json!(5));
    }
    let bare = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/list" });
    assert_error(&post(&bare, &modern_headers("tools/list", None)), 400, -32602, json!(5));
}

#[test]
fn versions_that_there_are_not() {
    let mut headers = modern_headers("tools/list", None);
    headers.version = Some("2030-01-01".into());
    let bare = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/list" });
    let reply = post(&bare, &headers);
    assert_error(&reply, 400, -32022, json!(5));
    assert_eq!(parts(&reply).1["error"]["data"], json!({ "supported": ALL, "requested": "2030-01-01" }));

    let mut params = modern_params(json!({}));
    params["_meta"][VERSION] = json!("2030-01-01");
    assert_error(&post(&message("tools/list", &params), &headers), 400, -32022, json!(5));
    // From psql, which has no headers.
    assert_error(&post(&message("tools/list", &params), &Headers::default()), 400, -32022, json!(5));

    headers.version = Some("x".repeat(10_000));
    let echoed = parts(&post(&bare, &headers)).1["error"]["data"]["requested"].as_str().unwrap().len();
    assert_eq!(echoed, 64);
}

#[test]
fn header_and_meta_name_one_version() {
    let modern = message("tools/list", &modern_params(json!({})));
    for version in [None, Some("2025-11-25"), Some("2030-01-01"), Some("")] {
        let mut headers = modern_headers("tools/list", None);
        headers.version = version.map(Into::into);
        assert_error(&post(&modern, &headers), 400, -32020, json!(5));
    }
    let mut older = modern_params(json!({}));
    older["_meta"][VERSION] = json!("2025-11-25");
    assert_error(
        &post(&message("tools/list", &older), &modern_headers("tools/list", None)),
        400,
        -32020,
        json!(5),
    );
}

#[test]
fn headers_repeat_method_and_name() {
    let call = message("tools/call", &modern_params(json!({ "name": "get_stats" })));
    for (method, name) in [
        (None, Some("get_stats")),
        (Some("tools/list"), Some("get_stats")),
        (Some("Tools/Call"), Some("get_stats")),
        (Some("tools/call"), None),
        (Some("tools/call"), Some("get_status")),
        (Some("tools/call"), Some("")),
        (Some("tools/call"), Some("=?base64?!?=")),
        (Some("tools/call"), Some("=?base64?Z2V0X3N0YXR1cw==?=")),
    ] {
        let mut headers = modern_headers("", name);
        headers.method = method.map(Into::into);
        assert_error(&post(&call, &headers), 400, -32020, json!(5));
    }
    let wrapped = modern_headers("tools/call", Some("=?base64?Z2V0X3N0YXRz?="));
    assert_eq!(result(&post(&call, &wrapped))["isError"], false);
    for (method, key) in [("prompts/get", "name"), ("resources/read", "uri")] {
        let message = message(method, &modern_params(json!({ key: "a" })));
        assert_error(&post(&message, &modern_headers(method, Some("b"))), 400, -32020, json!(5));
    }
    // A header that the method does not ask for says nothing.
    assert_complete(&result(&ask("tools/list", json!({}), Some("whatever"))));
}

#[test]
fn psql_sends_no_headers() {
    let call = message("tools/call", &modern_params(json!({ "name": "get_stats" })));
    assert_complete(&result(&post(&call, &Headers::default())));
}
