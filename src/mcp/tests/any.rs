//! Whatever comes in, what goes out is a JSON-RPC response, or nothing.

use super::*;
use proptest::prelude::*;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "2.0",
            "ping",
            "tools/call",
            "get_stats",
            "initialize",
            MODERN,
            "2025-06-18"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{0,6}", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Members that a message has, each of them now and then something else, so that every branch is reached.
fn message_like() -> impl Strategy<Value = Value> {
    let method = prop_oneof![
        6 => prop::sample::select(vec![
            "initialize", "ping", "server/discover", "tools/list", "tools/call", "prompts/get", "resources/read",
            "notifications/initialized",
        ]).prop_map(Value::from),
        1 => any_json(),
    ];
    let id = prop_oneof![3 => any::<i64>().prop_map(Value::from), 1 => ".{0,300}".prop_map(Value::from), 1 => any_json()];
    let params = prop_oneof![
        2 => Just(json!({ "name": "get_stats", "uri": "x", "protocolVersion": "2025-06-18" })),
        2 => Just(modern_params(json!({ "name": "get_status" }))),
        2 => any_json(),
        1 => any_json().prop_map(|meta| json!({ "name": "get_stats", "_meta": meta })),
        1 => any_json().prop_map(|arguments| json!({ "name": "get_stats", "arguments": arguments })),
    ];
    let version = prop_oneof![9 => Just(json!("2.0")), 1 => any_json()];
    let optional = |strategy: BoxedStrategy<Value>| prop::option::weighted(0.85, strategy);
    (
        optional(version.boxed()),
        optional(id.boxed()),
        optional(method.boxed()),
        optional(params.boxed()),
        prop::option::weighted(0.1, any_json()),
    )
        .prop_map(|(version, id, method, params, result)| {
            let members = [
                ("jsonrpc", version),
                ("id", id),
                ("method", method),
                ("params", params),
                ("result", result),
            ];
            members
                .into_iter()
                .filter_map(|(key, value)| value.map(|value| (key.to_owned(), value)))
                .collect()
        })
}

fn any_headers() -> impl Strategy<Value = Headers> {
    let version = prop_oneof![
        Just(None),
        prop::sample::select(vec![MODERN, "2025-11-25", "2025-06-18", "x"])
            .prop_map(|version| Some(version.to_owned())),
    ];
    let origin = prop_oneof![9 => Just(None), 1 => ".{0,20}".prop_map(Some)];
    let method = prop::option::of(prop::sample::select(vec!["tools/call", "tools/list", "server/discover"]));
    let name = prop::option::of(prop_oneof![Just("get_stats".to_owned()), ".{0,20}"]);
    (any::<bool>(), version, origin, method, name).prop_map(|(any, version, origin, method, name)| Headers {
        any,
        origin,
        version,
        method: method.map(Into::into),
        name,
    })
}

fn check(message: &Value, headers: &Headers) -> Result<(), TestCaseError> {
    let reply = post(message, headers);
    let Some(body) = &reply.body else {
        prop_assert_eq!(reply.status, 202);
        return Ok(());
    };
    let body: Value = serde_json::from_str(body)?;
    let body = body.as_object().unwrap();
    prop_assert_eq!(&body["jsonrpc"], "2.0");
    let error = body.get("error");
    prop_assert!(error.is_some() != body.contains_key("result"), "exactly one of the two: {body:?}");
    prop_assert!(body.keys().all(|key| ["jsonrpc", "id", "result", "error"].contains(&key.as_str())));
    match body.get("id") {
        Some(id) => {
            prop_assert!(id.is_string() || id.is_number());
            prop_assert_eq!(Some(id), message.get("id"));
        }
        None => prop_assert!(error.is_some()),
    }
    if let Some(error) = error {
        prop_assert!(error["code"].is_i64() && error["message"].is_string());
        prop_assert!([200, 400, 403, 404].contains(&reply.status));
    } else {
        prop_assert_eq!(reply.status, 200);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_json_is_answered(message in any_json(), headers in any_headers()) {
        check(&message, &headers)?;
    }

    #[test]
    fn anything_like_a_message_is_answered(message in message_like(), headers in any_headers()) {
        check(&message, &headers)?;
    }

    #[test]
    fn headers_of_any_text(text in ".{0,60}") {
        Headers::parse(text.as_bytes());
    }
}
