use super::*;
use crate::status::snapshot::Overall;
use proptest::prelude::*;
use serde_json::json;

fn never(_: &str) -> bool {
    false
}

fn example() -> Value {
    json!({
        "overall": "ok",
        "host": {
            "cpu": 0.07, "load": [0.21, 0.18, 0.15], "mem": { "usedMb": 1840, "totalMb": 3920 }, "uptime": 1820394
        },
        "components": [{
            "key": "dashboard", "label": "Dashboard",
            "probe": { "up": true, "httpStatus": 200, "latencyMs": 42 }, "unitState": "active"
        }]
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut report = example();
    *report.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    report
}

fn refusal(report: &Value) -> String {
    read_report(report, &never).unwrap_err()
}

#[test]
fn the_documented_example_comes_back_as_it_is() {
    let snapshot = read_report(&example(), &never).unwrap();
    assert_eq!(serde_json::to_value(snapshot).unwrap(), example());
}

#[test]
fn overall_is_found_anew() {
    let down = with("/components/0/probe/up", json!(false));
    assert_eq!(read_report(&down, &never).unwrap().overall, Overall::Down);
    let mut report = example();
    let mut second = report["components"][0].clone();
    second["key"] = json!("api");
    second["probe"]["up"] = json!(false);
    report["components"].as_array_mut().unwrap().push(second);
    assert_eq!(read_report(&report, &never).unwrap().overall, Overall::Degraded);
    assert_eq!(read_report(&report, &|key| key == "api").unwrap().overall, Overall::Down);
    report.as_object_mut().unwrap().remove("overall");
    assert_eq!(read_report(&report, &never).unwrap().overall, Overall::Degraded);
}

#[test]
fn what_does_not_fit_is_told_by_its_path() {
    for (pointer, value, expected) in [
        ("", json!(null), "the report: expected an object"),
        ("", json!([]), "the report: expected an object"),
        ("/overall", json!(1), "overall: expected a string"),
        ("/overall", json!("fine"), "overall: expected one of ok, degraded, down"),
        ("/host", json!("vps"), "host: expected an object"),
        ("/host/cpu", json!(1.5), "host.cpu: expected a number from 0 to 1"),
        ("/host/cpu", json!("0.5"), "host.cpu: expected a number"),
        ("/host/load", json!([1, 2]), "host.load: expected three numbers"),
        ("/host/load", json!([1, 2, 3, 4]), "host.load: expected three numbers"),
        ("/host/load/1", json!(null), "host.load[1]: expected a number"),
        ("/host/mem/usedMb", json!(-1), "host.mem.usedMb: expected a number from 0 to 1000000000000"),
        ("/host/mem/totalMb", json!(1.5), "host.mem.totalMb: expected a whole number"),
        ("/host/uptime", json!(true), "host.uptime: expected a number"),
        ("/components", json!({}), "components: expected an array"),
        ("/components/0", json!(7), "components[0]: expected an object"),
        ("/components/0/key", json!(""), "components[0].key: expected a string that is not empty"),
        (
            "/components/0/label",
            json!("x".repeat(300)),
            "components[0].label: expected a string of at most 256 bytes",
        ),
        ("/components/0/probe", json!(null), "components[0].probe: expected an object"),
        ("/components/0/probe/up", json!("yes"), "components[0].probe.up: expected true or false"),
        (
            "/components/0/probe/httpStatus",
            json!(99),
            "components[0].probe.httpStatus: expected a number from 100 to 599",
        ),
        ("/components/0/probe/latencyMs", json!("42"), "components[0].probe.latencyMs: expected a number"),
        ("/components/0/unitState", json!(7), "components[0].unitState: expected a string"),
    ] {
        assert_eq!(refusal(&with(pointer, value)), expected);
    }
}

/// Other languages write null where something is not applicable, or not known.
#[test]
fn null_where_it_means_something() {
    let not_applicable = read_report(&with("/components/0/unitState", json!(null)), &never).unwrap();
    assert_eq!(not_applicable.components[0].unit_state, None);
    assert_eq!(not_applicable.overall, Overall::Ok);
    let written = serde_json::to_value(&not_applicable).unwrap();
    assert_eq!(written.pointer("/components/0/unitState"), None);
    let mut alone = with("/components/0/unitState", json!(null));
    alone.pointer_mut("/components/0").unwrap().as_object_mut().unwrap().remove("probe");
    assert_eq!(refusal(&alone), "components[0]: expected a probe, a unitState, or both");
    let unknown = read_report(&with("/host/mem/usedMb", json!(null)), &never).unwrap();
    assert_eq!(unknown.host.mem.used_mb, None);
    assert_eq!(serde_json::to_value(&unknown).unwrap(), with("/host/mem/usedMb", json!(null)));
}

#[test]
fn what_is_missing_or_too_much_is_told_too() {
    let without = |pointer: &str, key: &str| {
        let mut report = example();
        report.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
        refusal(&report)
    };
    assert_eq!(without("", "host"), "host: is missing");
    assert_eq!(without("/host/mem", "usedMb"), "host.mem.usedMb: is missing");
    assert_eq!(without("/components/0/probe", "httpStatus"), "components[0].probe.httpStatus: is missing");
    let extra = |pointer: &str, key: &str| {
        let mut report = example();
        report.pointer_mut(pointer).unwrap()[key] = json!(1);
        refusal(&report)
    };
    assert!(extra("", "generated_at").starts_with("generated_at: unexpected key"));
    assert!(extra("/host", "disk").starts_with("host.disk: unexpected key"));
    assert!(extra("/components/0", "a\nb").starts_with("components[0].\"a\\nb\": unexpected key"));
    let mut bare = example();
    let component = bare.pointer_mut("/components/0").unwrap().as_object_mut().unwrap();
    component.remove("probe");
    component.remove("unitState");
    assert_eq!(refusal(&bare), "components[0]: expected a probe, a unitState, or both");
    let mut twice = example();
    let copy = twice["components"][0].clone();
    twice["components"].as_array_mut().unwrap().push(copy);
    assert_eq!(refusal(&twice), "components[1].key: is there twice");
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u32..700).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ]
}

/// Any JSON.
fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 32, 4, |inner| {
        let key = prop_oneof![
            "[a-z]{1,6}",
            prop::sample::select(vec!["host", "components", "key", "label", "probe", "mem", "load"])
                .prop_map(String::from),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

/// The example with one field replaced by anything.
fn mutation() -> impl Strategy<Value = Value> {
    let pointers = vec![
        "",
        "/overall",
        "/host",
        "/host/cpu",
        "/host/load",
        "/host/load/0",
        "/host/mem",
        "/host/mem/usedMb",
        "/host/uptime",
        "/components",
        "/components/0",
        "/components/0/key",
        "/components/0/label",
        "/components/0/probe",
        "/components/0/probe/up",
        "/components/0/probe/httpStatus",
        "/components/0/probe/latencyMs",
        "/components/0/unitState",
    ];
    (prop::sample::select(pointers), prop_oneof![leaf(), tree()])
        .prop_map(|(pointer, value)| with(pointer, value))
}

proptest! {
    #[test]
    fn nothing_panics_and_what_is_accepted_has_the_shape(report in prop_oneof![tree(), mutation()]) {
        if let Ok(snapshot) = read_report(&report, &never) {
            let written = serde_json::to_value(&snapshot).unwrap();
            prop_assert_eq!(read_report(&written, &never), Ok(snapshot));
        }
    }
}
