//! Promise: `public.mcp`, behind PostgREST, is an MCP server: the conditions that concern HTTP, the two tools for every
//! kind of caller, and the seed's two messages.

use harness::api::{STATUS, served, user};
use harness::postgrest::{PostgRest, Request, Response};
use harness::shared;
use serde_json::{Value, json};

fn post(body: &Value, claims: Option<Value>) -> Request {
    Request::new("POST", "/rpc/mcp", claims).body(body.to_string())
}

fn call(tool: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": {} } })
}

#[track_caller]
fn assert_answer(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("Content-Type"), Some("application/json"));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
}

#[track_caller]
fn assert_error(response: &Response, status: u16, code: i32) {
    assert_answer(response, status);
    assert_eq!(response.json()["error"]["code"], code, "{response:?}");
}

#[test]
fn the_seeds_two_messages() {
    let (_client, postgrest) = served("mcp_seed");
    let stats = postgrest.handle(&post(
        &serde_json::from_str(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_stats","arguments":{}}}"#,
        )
        .unwrap(),
        user("v"),
    ));
    assert_answer(&stats, 200);
    let text = stats.json()["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&text["total_entries"], &text["top_domains"][0]["host"]), (&json!(1), &json!("example.com")));
    assert_eq!(stats.json()["result"]["structuredContent"], text);

    let status = postgrest.handle(&post(
        &serde_json::from_str(
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"get_status","arguments":{}}}"#,
        )
        .unwrap(),
        user("v"),
    ));
    assert_answer(&status, 200);
    assert_eq!(status.json()["id"], 2);
    let text = status.json()["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), serde_json::from_str::<Value>(STATUS).unwrap());
}

#[test]
fn who_may_call_which_tool() {
    let (_client, postgrest) = served("mcp_callers");
    let service = Some(json!({ "role": "service_role" }));
    for (claims, stats, status) in [
        (user("v"), true, true),
        (user("s"), true, false),
        (user("nobody"), false, false),
        (service, true, true),
        (Some(json!({ "role": "authenticated" })), false, false),
        (Some(json!({ "sub": "v" })), true, true),
        (None, false, false),
    ] {
        for (tool, capability, allowed) in
            [("get_stats", "stats:view", stats), ("get_status", "status:view", status)]
        {
            let response = postgrest.handle(&post(&call(tool), claims.clone()));
            assert_answer(&response, 200);
            let result = &response.json()["result"];
            assert_eq!(result["isError"], !allowed, "{claims:?} {tool}");
            if !allowed {
                let text = result["content"][0]["text"].as_str().unwrap();
                assert!(text.contains(capability), "{text}");
                assert_eq!(result.get("structuredContent"), None);
            }
        }
        let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        let list = postgrest.handle(&post(&list, claims)).json();
        assert_eq!(list["result"]["tools"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn who_may_not_execute_it_is_told_by_postgrest() {
    let (mut client, postgrest) = served("mcp_execute");
    client
        .batch_execute("revoke execute on function public.mcp(jsonb), public.mcp() from anon, authenticated")
        .unwrap();
    for request in [post(&call("get_stats"), None), Request::new("GET", "/rpc/mcp", None)] {
        let response = postgrest.handle(&request);
        assert_eq!((response.status, response.header("WWW-Authenticate")), (401, Some("Bearer")));
    }
    assert_eq!(postgrest.handle(&post(&call("get_stats"), user("v"))).status, 403);
}

#[test]
fn nothing_to_show() {
    let (mut client, postgrest) = served("mcp_nothing");
    client.batch_execute("delete from public.service_status; select busymate_stats.detach()").unwrap();
    for (tool, said) in [("get_stats", "no fleet is attached"), ("get_status", "No status snapshot")] {
        let response = postgrest.handle(&post(&call(tool), user("v")));
        assert_answer(&response, 200);
        let result = &response.json()["result"];
        assert_eq!(result["isError"], true);
        assert!(result["content"][0]["text"].as_str().unwrap().contains(said), "{result}");
        // The capability comes first.
        let refused = postgrest.handle(&post(&call(tool), user("nobody"))).json();
        assert!(refused["result"]["content"][0]["text"].as_str().unwrap().contains("Permission denied"));
    }
}

#[test]
fn get_and_bodies_that_hold_no_message() {
    let (_client, postgrest) = served("mcp_get");
    for claims in [None, user("v")] {
        for method in ["GET", "HEAD"] {
            let response = postgrest.handle(&Request::new(method, "/rpc/mcp", claims.clone()));
            assert_answer(&response, 405);
            assert_eq!((response.header("Allow"), response.body.as_str()), (Some("POST"), ""));
        }
        for body in ["", "{}", "[]", "null", "7", "\"x\"", " {} "] {
            let response = postgrest.handle(&Request::new("POST", "/rpc/mcp", claims.clone()).body(body));
            assert_error(&response, 400, -32600);
            assert_eq!(response.json().get("id"), None, "{body}");
        }
        let batch =
            Request::new("POST", "/rpc/mcp", claims.clone()).body(json!([call("get_stats")]).to_string());
        assert_error(&postgrest.handle(&batch), 400, -32600);
    }
}

#[test]
fn notifications_get_an_empty_202() {
    let (_client, postgrest) = served("mcp_notify");
    let message = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let response = postgrest.handle(&post(&message, user("v")));
    assert_answer(&response, 202);
    assert_eq!(response.body, "");
}

#[test]
fn both_eras_by_header() {
    let (_client, postgrest) = served("mcp_eras");
    let legacy = |version: &str| {
        let ping = json!({ "jsonrpc": "2.0", "id": "p", "method": "ping" });
        postgrest.handle(&post(&ping, user("v")).header("mcp-protocol-version", version))
    };
    for version in ["2025-11-25", "2025-06-18", "2025-03-26", "2025-06-18  "] {
        assert_eq!(legacy(version).json(), json!({ "jsonrpc": "2.0", "id": "p", "result": {} }));
    }
    assert_error(&legacy("1999-01-01"), 400, -32022);

    let params = json!({ "name": "get_stats", "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} } });
    let message = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
    let modern = |name: &str| {
        let request = post(&message, user("v")).header("mcp-protocol-version", "2026-07-28 ");
        postgrest.handle(&request.header("mcp-method", "tools/call").header("mcp-name", name))
    };
    let answer = modern("get_stats");
    assert_answer(&answer, 200);
    assert_eq!(answer.json()["result"]["resultType"], "complete");
    assert_error(&modern("get_status"), 400, -32020);
    let unknown = json!({ "jsonrpc": "2.0", "id": 7, "method": "ping", "params": message["params"] });
    let request = post(&unknown, user("v")).header("mcp-protocol-version", "2026-07-28");
    assert_error(&postgrest.handle(&request.header("mcp-method", "ping")), 404, -32601);
    // A legacy error keeps its code only under 200.
    let unknown = json!({ "jsonrpc": "2.0", "id": 7, "method": "server/discover" });
    assert_error(&postgrest.handle(&post(&unknown, user("v"))), 200, -32601);
}

#[test]
fn origins() {
    let (mut client, postgrest) = served("mcp_origin");
    let from = |origin: &str| {
        let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        postgrest.handle(&post(&ping, user("v")).header("origin", origin))
    };
    assert_answer(&from("http://localhost:6274"), 200);
    for origin in ["https://app.example", "null", "https://evil.example"] {
        assert_error(&from(origin), 403, -32600);
        assert_eq!(from(origin).json().get("id"), None);
    }
    let database: String = harness::value(&mut client, "select current_database()::text");
    client
        .batch_execute(&format!(
            "alter database {database} set busymate_stats.mcp_allowed_origins = 'https://app.example', 'app://x'"
        ))
        .unwrap();
    let postgrest = PostgRest::start(shared(), &database, 1);
    let from = |origin: &str| {
        let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        postgrest.handle(&post(&ping, user("v")).header("origin", origin)).status
    };
    assert_eq!(
        ["https://app.example", "app://x", "null", "https://evil.example"].map(from),
        [200, 200, 403, 403]
    );
}

/// PostgREST's clients for tables ask for one object, and libraries built on them do so everywhere.
#[test]
fn who_asks_for_one_object_gets_one() {
    let (_client, postgrest) = served("mcp_object");
    let one_object = "application/vnd.pgrst.object+json";
    for tool in ["get_stats", "get_status"] {
        let plain = postgrest.handle(&post(&call(tool), user("v")));
        let response = postgrest.handle(&post(&call(tool), user("v")).accept(one_object));
        assert_answer(&response, 200);
        let mut result = response.json();
        assert!(result["result"]["structuredContent"].is_object(), "{response:?}");
        let generated = &plain.json()["result"]["structuredContent"]["generated_at"];
        if tool == "get_stats" {
            assert!(generated.is_string());
            assert_eq!(result["result"]["isError"], false);
            result["result"]["structuredContent"]["generated_at"] = generated.clone();
            assert_eq!(result["result"]["structuredContent"], plain.json()["result"]["structuredContent"]);
        } else {
            assert_eq!(result, plain.json());
        }
    }
    let nothing = postgrest.handle(&post(&json!([]), user("v")).accept(one_object));
    assert_error(&nothing, 400, -32600);
}

/// What PostgREST calls before each request may have set headers of its own.
#[test]
fn headers_of_a_pre_request_stay() {
    let (mut client, mut postgrest) = served("mcp_pre_request");
    client
        .batch_execute(
            r#"create function public.pre_request() returns void language sql
                   as $$ select set_config('response.headers',
                       '[{"Strict-Transport-Security": "max-age=1"}, {"cache-control": "public", "Vary": "Origin"}]', true) $$"#,
        )
        .unwrap();
    postgrest.pre_request = Some("public.pre_request".into());
    for (request, status) in
        [(post(&call("get_stats"), user("v")), 200), (Request::new("GET", "/rpc/mcp", user("v")), 405)]
    {
        let response = postgrest.handle(&request);
        assert_answer(&response, status);
        assert_eq!(response.header("Strict-Transport-Security"), Some("max-age=1"));
        assert_eq!(response.header("Vary"), Some("Origin"));
        let ours = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("cache-control"));
        assert_eq!(ours.count(), 1, "{response:?}");
    }
}
