//! What is decided before the protocol version is known.

use super::*;
use crate::mcp::era::ALL;

fn request(id: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "ping" })
}

#[test]
fn what_is_no_message() {
    for message in
        ["[]", r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, "null", "7", "\"ping\"", "true", "{}"]
    {
        assert_error(&post_text(message, &Headers::default()), 400, -32600, Value::Null);
    }
    for message in [
        json!({ "id": 1, "method": "ping" }),
        json!({ "jsonrpc": "1.0", "id": 1, "method": "ping" }),
        json!({ "jsonrpc": 2.0, "id": 1, "method": "ping" }),
        json!({ "jsonrpc": "2.0", "id": 1 }),
        json!({ "jsonrpc": "2.0", "id": 1, "method": 7 }),
        json!({ "jsonrpc": "2.0", "id": 1, "method": null }),
    ] {
        assert_error(&post(&message, &Headers::default()), 400, -32600, json!(1));
    }
}

#[test]
fn ids() {
    let long = "ü".repeat(256);
    for id in [json!(1), json!(0), json!(-5), json!(""), json!("a\"b"), json!(u64::MAX), json!(long)] {
        let (status, body) = parts(&post(&request(id.clone()), &Headers::default()));
        assert_eq!((status, &body["id"]), (200, &id));
    }
    // As jsonb prints them: digit by digit, beyond what a double or 64 bits hold.
    for id in ["123456789012345678901234567890", "1.0", "1.000", "-7", &"9".repeat(256)] {
        let message = format!(r#"{{"id": {id}, "method": "ping", "jsonrpc": "2.0"}}"#);
        let reply = post_text(&message, &Headers::default());
        assert_eq!(reply.body.unwrap(), format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
    }
    let over = "x".repeat(257);
    for id in [json!(null), json!(true), json!(1.5), json!({}), json!([1]), json!({ "a": 1 }), json!(over)] {
        assert_error(&post(&request(id), &Headers::default()), 400, -32600, Value::Null);
    }
    for id in ["9".repeat(257).as_str(), "1e100000", "1.01"] {
        let message = format!(r#"{{"id": {id}, "method": "ping", "jsonrpc": "2.0"}}"#);
        assert_error(&post_text(&message, &Headers::default()), 400, -32600, Value::Null);
    }
}

#[test]
fn params_are_an_object() {
    for params in [json!([]), json!([1]), json!("a"), json!(7), json!(null), json!(false)] {
        let message = json!({ "jsonrpc": "2.0", "id": 3, "method": "ping", "params": params });
        assert_error(&post(&message, &Headers::default()), 400, -32602, json!(3));
    }
    let notification = json!({ "jsonrpc": "2.0", "method": "notifications/initialized", "params": [] });
    assert_error(&post(&notification, &Headers::default()), 400, -32602, Value::Null);
}

#[test]
fn params_that_this_reader_cannot_hold() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let huge = "9".repeat(5000);
    for argument in [deep, huge] {
        let message = format!(
            r#"{{"id": 4, "method": "tools/call", "params": {{"name": "get_stats", "arguments": {{"a": {argument}}}}}, "jsonrpc": "2.0"}}"#
        );
        assert_error(&post_text(&message, &Headers::default()), 400, -32602, json!(4));
        // Where nothing needs to be read, nothing is wrong.
        let notification = format!(r#"{{"method": "x", "params": {{"a": {argument}}}, "jsonrpc": "2.0"}}"#);
        assert_eq!(post_text(&notification, &Headers::default()), Reply::accepted());
    }
}

#[test]
fn notifications_are_taken_in_and_do_nothing() {
    for method in ["notifications/initialized", "notifications/cancelled", "tools/call", "initialize", ""] {
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": { "name": "get_stats" } });
        for version in [None, Some(MODERN), Some("2025-11-25"), Some("2025-03-26")] {
            let headers = Headers { any: true, version: version.map(Into::into), ..Headers::default() };
            assert_eq!(post(&message, &headers), Reply::accepted());
        }
    }
    let headers = Headers { any: true, version: Some("1999-01-01".into()), ..Headers::default() };
    let reply = post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }), &headers);
    assert_error(&reply, 400, -32022, Value::Null);
    assert_eq!(parts(&reply).1["error"]["data"], json!({ "supported": ALL, "requested": "1999-01-01" }));
}

#[test]
fn responses_to_what_nobody_asked() {
    for message in [
        json!({ "jsonrpc": "2.0", "id": 1, "result": {} }),
        json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -1, "message": "m" } }),
    ] {
        assert_eq!(post(&message, &Headers::default()), Reply::accepted());
        assert_eq!(post(&message, &legacy_headers()), Reply::accepted());
        assert_error(&post(&message, &modern_headers("", None)), 400, -32600, Value::Null);
    }
}

#[test]
fn an_origin_comes_first() {
    for (message, origin) in [("[]", "https://evil.example"), ("{}", "null"), ("7", "")] {
        let headers = Headers { any: true, origin: Some(origin.into()), ..Headers::default() };
        assert_error(&post_text(message, &headers), 403, -32600, Value::Null);
    }
    let headers = Headers { any: true, origin: Some("http://localhost:6274".into()), ..Headers::default() };
    assert_eq!(result(&post(&request(json!(1)), &headers)), json!({}));
}

#[test]
fn without_a_message() {
    for method in ["GET", "HEAD"] {
        assert_eq!(
            server::without_message(method),
            Reply { status: 405, allow: Some("POST"), body: None },
            "{method}"
        );
    }
    for method in ["POST", "", "get"] {
        assert_error(&server::without_message(method), 400, -32600, Value::Null);
    }
}
