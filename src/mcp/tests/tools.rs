//! The tools: how they are listed, and how each way of calling them ends, in both eras.

use super::*;
use crate::mcp::schema;

fn call(params: Value, modern: bool, feed: &Feed) -> Reply {
    let (params, headers) = if modern {
        let name = params["name"].as_str().map(str::to_owned);
        (modern_params(params), modern_headers("tools/call", name.as_deref()))
    } else {
        (params, legacy_headers())
    };
    let message = json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params });
    server::post(&message.to_string(), &headers, &AllowedOrigins::default(), &Fixed(feed.clone()))
}

#[test]
fn a_call_that_works() {
    for modern in [false, true] {
        for arguments in [None, Some(json!(null)), Some(json!({}))] {
            let mut params = json!({ "name": "get_stats" });
            if let Some(arguments) = arguments {
                params["arguments"] = arguments;
            }
            let result = result(&call(params, modern, &Feed::Snapshot(snapshot())));
            assert_eq!(result["isError"], false);
            assert_eq!(result["structuredContent"], snapshot());
            assert_eq!(result["content"].as_array().unwrap().len(), 1);
            assert_eq!(result["content"][0]["type"], "text");
            let text = result["content"][0]["text"].as_str().unwrap();
            assert_eq!(serde_json::from_str::<Value>(text).unwrap(), snapshot());
        }
    }
}

#[test]
fn a_call_that_does_not_fit() {
    for (modern, status) in [(false, 200), (true, 400)] {
        for params in [
            json!({}),
            json!({ "name": null }),
            json!({ "name": 7 }),
            json!({ "name": "get_secrets" }),
            json!({ "name": "GET_STATS" }),
            json!({ "name": "get_stats", "arguments": [] }),
            json!({ "name": "get_stats", "arguments": "x" }),
            json!({ "name": "get_stats", "arguments": false }),
        ] {
            let reply = call(params.clone(), modern, &Feed::Snapshot(snapshot()));
            assert_error(&reply, status, -32602, json!(9));
        }
    }
}

#[track_caller]
fn failure(reply: &Reply) -> String {
    let result = result(reply);
    assert_eq!(result["isError"], true);
    assert_eq!(result.get("structuredContent"), None);
    assert_eq!(result["content"][0]["type"], "text");
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_call_that_fails() {
    for modern in [false, true] {
        let extra = json!({ "name": "get_stats", "arguments": { "since": "yesterday" } });
        assert!(failure(&call(extra, modern, &Feed::Snapshot(snapshot()))).contains("no arguments"));
        for (name, capability) in [("get_stats", "stats:view"), ("get_status", "status:view")] {
            let refused = failure(&call(json!({ "name": name }), modern, &Feed::Forbidden));
            assert!(refused.contains(capability) && refused.contains("administrator"), "{refused}");
            let missing = failure(&call(json!({ "name": name }), modern, &Feed::Missing));
            assert!(missing.contains(if name == "get_stats" {
                "no fleet is attached"
            } else {
                "No status snapshot"
            }));
        }
    }
}

#[test]
fn an_error_of_ours_keeps_its_code_and_says_nothing() {
    for modern in [false, true] {
        for feed in [Feed::Broken, Feed::Snapshot(json!([1])), Feed::Snapshot(Value::Null)] {
            let reply = call(json!({ "name": "get_stats" }), modern, &feed);
            assert_error(&reply, 200, -32603, json!(9));
            assert_eq!(parts(&reply).1["error"]["message"], "Internal error");
        }
    }
}

#[test]
fn the_list() {
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let list = result(&post(&message, &legacy_headers()));
    let tools = list["tools"].as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["get_stats", "get_status"]);
    assert_eq!(list.get("nextCursor"), None);
    for tool in tools {
        assert_eq!(
            tool["inputSchema"],
            json!({ "type": "object", "properties": {}, "additionalProperties": false })
        );
        assert_eq!(tool["outputSchema"]["type"], "object");
        assert!(tool["title"].is_string() && tool["description"].as_str().unwrap().len() > 100);
        let hints = &tool["annotations"];
        assert_eq!((&hints["readOnlyHint"], &hints["idempotentHint"]), (&json!(true), &json!(true)));
        assert_eq!((&hints["destructiveHint"], &hints["openWorldHint"]), (&json!(false), &json!(false)));
    }
    let with =
        |cursor| json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "cursor": cursor } });
    assert_eq!(result(&post(&with(json!(null)), &legacy_headers())), list);
    assert_error(&post(&with(json!("2")), &legacy_headers()), 200, -32602, json!(1));
}

/// A client throws away a result that does not fit: nothing may be forbidden, and only what is always there required.
#[test]
fn output_schemas_forbid_nothing() {
    fn walk(schema: &Value, path: &str) {
        assert_ne!(schema.get("additionalProperties"), Some(&json!(false)), "{path}");
        for (key, value) in schema.as_object().into_iter().flatten() {
            walk(value, &format!("{path}/{key}"));
        }
    }
    for tool in schema::tools().as_array().unwrap() {
        walk(&tool["outputSchema"], tool["name"].as_str().unwrap());
    }
}
