//! The messages that the specification's schema gives as examples for the methods that are served, in the form that it
//! gives them, and for what a client may send besides.

use super::*;
use crate::mcp::era::LEGACY;

fn client_info() -> Value {
    json!({ "name": "ExampleClient", "version": "1.0.0" })
}

fn legacy(version: &str, message: Value) -> Reply {
    post(&message, &Headers { any: true, version: Some(version.into()), ..Headers::default() })
}

fn modern(mut message: Value) -> Reply {
    let meta = modern_params(json!({}))["_meta"].clone();
    for (key, value) in meta.as_object().unwrap() {
        message["params"]["_meta"][key] = value.clone();
    }
    message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] = client_info();
    let method = message["method"].as_str().unwrap().to_owned();
    let name = message["params"]["name"].as_str().map(ToOwned::to_owned);
    post(&message, &modern_headers(&method, name.as_deref()))
}

fn request(id: Value, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

#[track_caller]
fn assert_id(reply: &Reply, id: &str) {
    assert_eq!(parts(reply).1["id"], id);
}

#[test]
fn initialize_with_everything_that_a_client_can_declare() {
    let params = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {
            "roots": { "listChanged": true },
            "sampling": { "context": {}, "tools": {} },
            "elicitation": { "form": {}, "url": {} },
            "tasks": {
                "list": {}, "cancel": {},
                "requests": { "sampling": { "createMessage": {} }, "elicitation": { "create": {} } },
            },
            "experimental": { "com.example/feature": { "depth": 2 } },
        },
        "clientInfo": {
            "name": "ExampleClient", "title": "Example Client", "version": "1.0.0",
            "description": "A client that shows everything", "websiteUrl": "https://example.com",
            "icons": [{ "src": "https://example.com/icon.png", "mimeType": "image/png", "sizes": ["48x48"], "theme": "light" }],
        },
    });
    let reply = post(
        &request(json!("initialize-example"), "initialize", params),
        &Headers { any: true, ..Headers::default() },
    );
    assert_id(&reply, "initialize-example");
    assert_eq!(result(&reply)["protocolVersion"], "2025-11-25");
}

#[test]
fn ping_without_params() {
    for version in LEGACY {
        let reply = legacy(version, json!({ "jsonrpc": "2.0", "id": "ping-example", "method": "ping" }));
        assert_eq!(parts(&reply), (200, json!({ "jsonrpc": "2.0", "id": "ping-example", "result": {} })));
    }
}

#[test]
fn discover() {
    let reply = modern(request(json!("discover-1"), "server/discover", json!({})));
    assert_id(&reply, "discover-1");
    assert!(result(&reply)["supportedVersions"].is_array());
}

#[test]
fn tools_list_from_the_start_and_from_a_cursor() {
    let list = |params| request(json!("list-tools-example"), "tools/list", params);
    for version in LEGACY {
        let reply = legacy(version, list(json!({})));
        assert_id(&reply, "list-tools-example");
        assert_eq!(result(&reply)["tools"].as_array().unwrap().len(), 2);
        assert_eq!(result(&reply).get("nextCursor"), None);
        // There is one page, so nobody can have been given a cursor.
        let id = json!("list-tools-example");
        assert_error(&legacy(version, list(json!({ "cursor": "eyJwYWdlIjogMn0=" }))), 200, -32602, id);
    }
    assert_eq!(result(&modern(list(json!({}))))["tools"].as_array().unwrap().len(), 2);
    let reply = modern(list(json!({ "cursor": "eyJwYWdlIjogMn0=" })));
    assert_error(&reply, 400, -32602, json!("list-tools-example"));
}

/// The examples call tools that there are not here, with arguments, a token for progress, as a task, and again with what
/// a server has asked back for. Of a tool that there is they are ignored where the specification has a server without
/// the feature ignore them.
#[test]
fn tools_call_in_all_its_forms() {
    let call = |params| request(json!("call-tool-example"), "tools/call", params);
    let weather = json!({ "name": "get_weather", "arguments": { "location": "Lisbon", "units": "metric" } });
    for params in [
        json!({}),
        json!({ "_meta": { "progressToken": "weather-1" } }),
        json!({ "_meta": { "progressToken": 7 } }),
        json!({ "task": { "ttl": 60_000 } }),
        json!({ "requestState": "c3RhdGU=", "inputResponses": {
            "where": { "action": "accept", "content": { "city": "Lisbon" } } } }),
    ] {
        let with = |base: &Value| {
            let mut whole = base.clone();
            whole.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
            whole
        };
        let id = json!("call-tool-example");
        let ours = with(&json!({ "name": "get_status", "arguments": {} }));
        for version in LEGACY {
            assert_error(&legacy(version, call(with(&weather))), 200, -32602, id.clone());
            let reply = legacy(version, call(ours.clone()));
            assert_eq!(result(&reply)["structuredContent"], snapshot(), "{params}");
        }
        assert_error(&modern(call(with(&weather))), 400, -32602, id);
        assert_eq!(result(&modern(call(ours)))["structuredContent"], snapshot(), "{params}");
    }
    let file =
        json!({ "name": "get_status", "arguments": { "image": "data:image/png;base64,iVBORw0KGgo=" } });
    assert_eq!(result(&modern(call(file)))["isError"], true);
}

#[test]
fn notifications_of_every_kind() {
    for (method, params) in [
        ("notifications/initialized", json!({})),
        ("notifications/cancelled", json!({ "requestId": "123", "reason": "User asked for it" })),
        (
            "notifications/progress",
            json!({ "progressToken": "upload-1", "progress": 50, "total": 100, "message": "Halfway" }),
        ),
        ("notifications/roots/list_changed", json!({})),
        (
            "notifications/tasks/status",
            json!({ "taskId": "t-1", "status": "working", "createdAt": "2025-11-25T10:30:00Z",
                    "lastUpdatedAt": "2025-11-25T10:30:00Z", "ttl": 60_000 }),
        ),
    ] {
        let mut message = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        for version in LEGACY {
            let reply = legacy(version, message.clone());
            assert_eq!((reply.status, reply.body), (202, None), "{method}");
        }
        message.as_object_mut().unwrap().remove("params");
        assert_eq!(legacy(LEGACY[0], message).status, 202, "{method}");
    }
}

#[test]
fn answers_to_what_we_never_ask() {
    let roots = json!({ "roots": [{ "uri": "file:///home/user/project", "name": "Project" }] });
    for version in LEGACY {
        let reply = legacy(version, json!({ "jsonrpc": "2.0", "id": "roots-1", "result": roots }));
        assert_eq!((reply.status, reply.body), (202, None));
        let refused = json!({ "code": -32601, "message": "Roots are not supported" });
        let reply = legacy(version, json!({ "jsonrpc": "2.0", "id": "roots-1", "error": refused }));
        assert_eq!((reply.status, reply.body), (202, None));
    }
}
