//! What a reporter may say through report_status(), and what becomes of it.

use harness::status::{component, install, snapshot, watch_url};
use harness::{Cluster, Refusal, refusal_of, value};
use postgres::Client;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::sync::OnceLock;

const REPORTER: &str = r#"{"sub":"reporter","role":"authenticated"}"#;
const VIEWER: &str = r#"{"sub":"viewer","role":"authenticated"}"#;

/// A database where a reporter and a viewer are known, and nobody but a reporter writes the feed.
fn database(prefix: &str) -> Client {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| {
        let cluster = Cluster::start("busymate_stats.status_source = reported");
        cluster.connect("postgres").batch_execute(harness::SUPABASE_ROLES).unwrap();
        cluster
    });
    let mut client = install(cluster, prefix);
    client
        .batch_execute(
            "select busymate_stats.grant_api();
             insert into busymate_stats.roles (name) values ('reporter');
             select busymate_stats.grant_capability('reporter', 'status:edit'),
                    busymate_stats.assign_role('reporter', 'reporter'), busymate_stats.assign_role('viewer', 'viewer')",
        )
        .unwrap();
    client
}

/// As PostgREST calls it.
fn report(client: &mut Client, claims: &str, body: &Value) -> Result<(), Refusal> {
    client.batch_execute("begin isolation level read committed read write").unwrap();
    client
        .execute(
            "select set_config('search_path', 'public', true), set_config('role', 'authenticated', true),
                    set_config('request.jwt.claims', $1, true)",
            &[&claims],
        )
        .unwrap();
    let result = client.execute(r#"select "public"."report_status"($1::jsonb)"#, &[body]);
    client.batch_execute(if result.is_ok() { "commit" } else { "rollback" }).unwrap();
    result.map(|_| ()).map_err(|error| refusal_of(&error))
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
    *report.pointer_mut(pointer).unwrap() = value;
    report
}

#[test]
fn the_documented_example_stands_as_it_was_reported() {
    let mut client = database("example");
    report(&mut client, REPORTER, &example()).unwrap();
    assert_eq!(snapshot(&mut client), example());
    let moved: bool =
        value(&mut client, "select updated_at > now() - interval '1 minute' from public.service_status");
    assert!(moved);
    let before: String = value(&mut client, "select updated_at::text from public.service_status");
    report(&mut client, REPORTER, &example()).unwrap();
    let after: String = value(&mut client, "select updated_at::text from public.service_status");
    assert_ne!(before, after);
}

#[test]
fn it_takes_status_edit() {
    let mut client = database("capability");
    for claims in [VIEWER, r#"{"sub":"stranger"}"#, "", "{"] {
        let refused = report(&mut client, claims, &example()).unwrap_err();
        assert_eq!(refused.code, "42501", "{claims}");
        assert!(refused.detail.contains("status:edit"), "{refused:?}");
        // Nobody learns more than that, whatever he sends.
        assert_eq!(report(&mut client, claims, &json!(null)).unwrap_err().code, "42501");
    }
    let rows: i64 = value(&mut client, "select count(*) from public.service_status");
    assert_eq!(rows, 0);
    client.batch_execute("select public.report_status('{}'::jsonb)").expect_err("not the shape");
    client.execute("select public.report_status($1::jsonb)", &[&example()]).unwrap();
}

#[test]
fn overall_is_found_anew_and_critical_is_the_tables_word() {
    let mut client = database("overall");
    let mut two = with("/components/0/probe/up", json!(false));
    let mut second = example()["components"][0].clone();
    second["key"] = json!("unheard of");
    two["components"].as_array_mut().unwrap().push(second);
    report(&mut client, REPORTER, &two).unwrap();
    assert_eq!(snapshot(&mut client)["overall"], "degraded");
    watch_url(&mut client, "dashboard", "http://x/");
    client.batch_execute("update busymate_stats.components set critical = true").unwrap();
    report(&mut client, REPORTER, &two).unwrap();
    assert_eq!(snapshot(&mut client)["overall"], "down");
    assert_eq!(component(&snapshot(&mut client), "unheard of")["label"], "Dashboard");
}

#[test]
fn what_does_not_fit_is_refused_by_its_path_and_changes_nothing() {
    let mut client = database("refused");
    report(&mut client, REPORTER, &example()).unwrap();
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let long = with("/components/0/label", json!("x".repeat(70_000)));
    for (body, expected) in [
        (
            with("/components/0/probe/latencyMs", json!("42")),
            "components[0].probe.latencyMs: expected a number",
        ),
        (with("/host/cpu", json!(2)), "host.cpu: expected a number from 0 to 1"),
        (json!({}), "host: is missing"),
        (json!([]), "the report: expected an object"),
        (json!(null), "the report: expected an object"),
        (json!("text"), "the report: expected an object"),
        (deep, "the report: it is nested too deep"),
        (long, "the report: it is longer than 64 kB"),
    ] {
        let refused = report(&mut client, REPORTER, &body).unwrap_err();
        assert_eq!((refused.code.as_str(), refused.message.as_str()), ("22023", expected));
    }
    assert_eq!(snapshot(&mut client), example());
}

/// JSON that PostgreSQL holds and a double does not, and numbers whose text is far longer than they are.
#[test]
fn numbers_without_bounds_are_refused_like_any_other() {
    let mut client = database("numbers");
    let huge = format!("[{}]", vec!["1e131071"; 5000].join(","));
    let body = |cpu: &str| example().to_string().replace("0.07", cpu);
    for (text, expected) in [
        (body("1e400"), "host.cpu: expected a number from 0 to 1"),
        (body("-1e400"), "host.cpu: expected a number from 0 to 1"),
        (body(&huge), "the report: it is longer than 64 kB"),
    ] {
        let error =
            client.batch_execute(&format!("select public.report_status('{text}'::jsonb)")).unwrap_err();
        let refused = refusal_of(&error);
        assert_eq!((refused.code.as_str(), refused.message.as_str()), ("22023", expected));
    }
    client.batch_execute(&format!("select public.report_status('{}'::jsonb)", body("1e-400"))).unwrap();
    let null = refusal_of(&client.batch_execute("select public.report_status(null)").unwrap_err());
    assert_eq!((null.code.as_str(), null.message.as_str()), ("22023", "the report: expected an object"));
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u32..700).prop_map(Value::from),
        // jsonb has no \0.
        "[^\\x00]{0,8}".prop_map(Value::from),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,6}|host|components|key|probe", inner, 0..4)
                .prop_map(Value::from_iter),
        ]
    })
}

fn any_report() -> impl Strategy<Value = Value> {
    let pointers = [
        "",
        "/overall",
        "/host",
        "/host/cpu",
        "/host/load",
        "/host/load/2",
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
    (prop::sample::select(pointers.to_vec()), any_json()).prop_map(|(pointer, value)| with(pointer, value))
}

fn number_within(value: &Value, most: f64) -> bool {
    value.as_f64().is_some_and(|number| (0.0..=most).contains(&number))
}

fn has_the_shape(snapshot: &Value) -> bool {
    let keys = |value: &Value, known: &[&str]| {
        value.as_object().unwrap().keys().all(|key| known.contains(&key.as_str()))
    };
    let host = &snapshot["host"];
    let whole = |value: &Value| value.as_u64().is_some();
    let null_or_whole = |value: &Value| value.is_null() || whole(value);
    keys(snapshot, &["overall", "host", "components"])
        && ["ok", "degraded", "down"].contains(&snapshot["overall"].as_str().unwrap())
        && number_within(&host["cpu"], 1.0)
        && host["load"]
            .as_array()
            .is_some_and(|load| load.len() == 3 && load.iter().all(|one| number_within(one, 1e6)))
        && null_or_whole(&host["mem"]["usedMb"])
        && whole(&host["mem"]["totalMb"])
        && whole(&host["uptime"])
        && snapshot["components"].as_array().unwrap().iter().all(|component| {
            let probe = component.get("probe");
            keys(component, &["key", "label", "probe", "unitState"])
                && component["key"].is_string()
                && component["label"].is_string()
                && component.get("unitState").is_none_or(Value::is_string)
                && probe.is_none_or(|probe| {
                    keys(probe, &["up", "httpStatus", "latencyMs"])
                        && probe["up"].is_boolean()
                        && null_or_whole(&probe["httpStatus"])
                        && null_or_whole(&probe["latencyMs"])
                })
        })
}

#[test]
fn no_json_makes_it_fail_otherwise_and_what_it_takes_has_the_shape() {
    let client = std::cell::RefCell::new(database("property"));
    let mut runner = TestRunner::new(Config { cases: 1000, failure_persistence: None, ..Config::default() });
    runner
        .run(&prop_oneof![any_json(), any_report()], |body| {
            let client = &mut client.borrow_mut();
            match report(client, REPORTER, &body) {
                Ok(()) => prop_assert!(has_the_shape(&snapshot(client)), "{}", body),
                Err(refused) => prop_assert_eq!(refused.code, "22023"),
            }
            Ok(())
        })
        .unwrap();
}
