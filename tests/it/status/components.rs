//! What gets into the table of components, who reads and writes it, and how it is shown.

use harness::listeners::answering;
use harness::status::{install, quiet_cluster, reason, refreshed, snapshot, watch_unit, watch_url};
use harness::{Cluster, as_caller, refusal, run, value};
use postgres::Client;
use serde_json::{Value, json};
use std::sync::OnceLock;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| quiet_cluster(&[]))
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn what_could_not_be_watched_is_refused_by_its_column() {
    let mut client = install(cluster(), "guard");
    for (columns, values, column, says) in [
        ("url", "'ftp://example.com/'", "url", "the scheme is \"ftp\""),
        ("url", "'example.com'", "url", "is no URL"),
        ("url", "''", "url", "is no URL"),
        ("url", "'http://user:secret@example.com/'", "url", "user name or password"),
        ("unit", "'no unit.service'", "unit", "is no name of a systemd unit"),
        ("critical", "true", "url, unit", "a url, a unit, or both"),
        ("url, timeout", "'http://x/', '3001 ms'", "timeout", "1 ms to 3 s"),
        ("url, timeout", "'http://x/', '1 month'", "timeout", "1 ms to 3 s"),
        ("url, timeout", "'http://x/', '0'", "timeout", "1 ms to 3 s"),
        ("url, timeout", "'http://x/', '-1 s'", "timeout", "1 ms to 3 s"),
        ("url, timeout", "'http://x/', '178000000 years'", "timeout", "1 ms to 3 s"),
        ("url, expect_min", "'http://x/', 99", "expect_min", "100 to 599"),
        ("url, expect_max", "'http://x/', 600", "expect_max", "100 to 599"),
        ("url, expect_min", "'http://x/', 500", "expect_min", "greater than expect_max"),
    ] {
        let insert = format!(
            "insert into busymate_stats.components (key, label, {columns}) values ('web', 'Web', {values})"
        );
        let refused = refusal(&mut client, &insert);
        assert_eq!(refused.code, "23514", "{insert}");
        let begins = format!("invalid {column} in busymate_stats.components: ");
        assert!(refused.message.starts_with(&begins), "{refused:?}");
        assert!(refused.message.contains(says), "{refused:?}");
    }
    let empty = refusal(
        &mut client,
        "insert into busymate_stats.components (key, label, url) values ('', 'Web', 'http://x/')",
    );
    assert!(empty.message.starts_with("invalid key "), "{empty:?}");
    let null =
        refusal(&mut client, "insert into busymate_stats.components (key, url) values ('web', 'http://x/')");
    assert_eq!(null.code, "23502");
    assert!(null.message.contains("\"label\""), "{null:?}");
    watch_url(&mut client, "web", "http://x/");
    let update = refusal(&mut client, "update busymate_stats.components set url = null");
    assert!(update.message.starts_with("invalid url, unit "), "{update:?}");
}

#[test]
fn the_snapshot_has_them_by_position_then_key_and_without_those_that_are_off() {
    let mut client = install(cluster(), "ordered");
    let url = answering(OK);
    for key in ["b", "a", "Z", "last", "off"] {
        watch_url(&mut client, key, &url);
    }
    client
        .batch_execute(
            "update busymate_stats.components set position = 1 where key = 'last';
             update busymate_stats.components set enabled = false where key = 'off'",
        )
        .unwrap();
    let snapshot = refreshed(&mut client);
    let keys: Vec<&Value> =
        snapshot["components"].as_array().unwrap().iter().map(|component| &component["key"]).collect();
    assert_eq!(keys, ["Z", "a", "b", "last"]);
}

#[test]
fn one_that_is_critical_takes_the_whole_down() {
    let mut client = install(cluster(), "critical");
    let (good, bad) = (answering(OK), answering("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(refreshed(&mut client)["overall"], "ok");
    watch_url(&mut client, "good", &good);
    assert_eq!(refreshed(&mut client)["overall"], "ok");
    watch_url(&mut client, "bad", &bad);
    assert_eq!(refreshed(&mut client)["overall"], "degraded");
    client.batch_execute("update busymate_stats.components set critical = true where key = 'bad'").unwrap();
    assert_eq!(refreshed(&mut client)["overall"], "down");
    client
        .batch_execute(
            "update busymate_stats.components set critical = false;
             delete from busymate_stats.components where key = 'good'",
        )
        .unwrap();
    assert_eq!(refreshed(&mut client)["overall"], "down");
}

/// Without systemd on the machine, or with it: nobody there knows this unit.
#[test]
fn the_shape_is_the_documented_one_and_reasons_stay_out_of_it() {
    let mut client = install(cluster(), "shape");
    watch_url(&mut client, "web", &answering("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"));
    watch_unit(&mut client, "daemon", "busymate-nobody-has-this");
    let snapshot = refreshed(&mut client);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&snapshot), ["components", "host", "overall"]);
    assert_eq!(keys(&snapshot["host"]), ["cpu", "load", "mem", "uptime"]);
    assert_eq!(keys(&snapshot["host"]["mem"]), ["totalMb", "usedMb"]);
    assert_eq!(keys(&snapshot["components"][0]), ["key", "label", "unitState"]);
    assert_eq!(keys(&snapshot["components"][1]), ["key", "label", "probe"]);
    assert_eq!(keys(&snapshot["components"][1]["probe"]), ["httpStatus", "latencyMs", "up"]);
    assert!(reason(&mut client, "web").is_some());
    assert!(reason(&mut client, "daemon").is_some());
}

const INSERT: &str =
    "insert into busymate_stats.components (key, label, url) values ('new', 'New', 'http://x/')";

/// A caller's statement in a transaction that may write; rolled back.
fn as_writer(client: &mut Client, claims: &str, statement: &str) -> Result<u64, String> {
    client.batch_execute("begin").unwrap();
    client.execute("select set_config('request.jwt.claims', $1, true)", &[&claims]).unwrap();
    client.batch_execute("set local role authenticated").unwrap();
    let result =
        client.execute(statement, &[]).map_err(|error| error.as_db_error().unwrap().code().code().to_owned());
    client.batch_execute("rollback").unwrap();
    result
}

#[test]
fn the_capabilities_decide_who_reads_and_writes() {
    let mut client = install(cluster(), "access");
    watch_url(&mut client, "web", "http://x/");
    client
        .batch_execute(
            "select busymate_stats.grant_api();
             grant select, insert, update, delete on busymate_stats.components to authenticated;
             grant select on busymate_stats.component_health to authenticated;
             insert into busymate_stats.roles (name) values ('operator');
             select busymate_stats.grant_capability('operator', 'status:edit'),
                    busymate_stats.grant_capability('operator', 'status:view'),
                    busymate_stats.assign_role('operator', 'operator'), busymate_stats.assign_role('viewer', 'viewer')",
        )
        .unwrap();
    let (operator, viewer, nobody) = (r#"{"sub":"operator"}"#, r#"{"sub":"viewer"}"#, r#"{"sub":"nobody"}"#);
    for view in ["components", "component_health"] {
        for (claims, rows) in [(operator, 1_i64), (viewer, 1), (nobody, 0)] {
            let seen: i64 = as_caller(&mut client, "authenticated", Some(claims), |client| {
                value(client, &format!("select count(*) from busymate_stats.{view}"))
            });
            assert_eq!(seen, rows, "{view} {claims}");
        }
    }
    assert_eq!(as_writer(&mut client, operator, INSERT), Ok(1));
    assert_eq!(as_writer(&mut client, viewer, INSERT), Err("42501".into()));
    for statement in
        ["update busymate_stats.components set label = 'x'", "delete from busymate_stats.components"]
    {
        assert_eq!(as_writer(&mut client, operator, statement), Ok(1), "{statement}");
        assert_eq!(as_writer(&mut client, viewer, statement), Ok(0), "{statement}");
    }
    let bad =
        "insert into busymate_stats.components (key, label, url) values ('new', 'New', 'file:///etc/passwd')";
    assert_eq!(as_writer(&mut client, operator, bad), Err("23514".into()));
}

#[test]
fn nobody_may_refresh_but_the_owner() {
    let mut client = install(cluster(), "owner");
    client.batch_execute("select busymate_stats.grant_api()").unwrap();
    let refused =
        refusal(&mut client, "begin; set local role authenticated; select busymate_stats.refresh_status()");
    assert_eq!(refused.code, "42501");
    client
        .batch_execute("rollback; create role status_job; grant usage on schema busymate_stats to status_job")
        .unwrap();
    client.batch_execute("grant execute on function busymate_stats.refresh_status() to status_job").unwrap();
    client.batch_execute("set role status_job; select busymate_stats.refresh_status(); reset role").unwrap();
    assert_eq!(snapshot(&mut client)["components"], json!([]));
}

#[test]
fn a_dump_has_the_components_and_no_snapshot() {
    let database = cluster().create_database("dumped");
    let mut client = cluster().connect(&database);
    client.batch_execute("create extension busymate_stats").unwrap();
    watch_url(&mut client, "web", "http://x/");
    refreshed(&mut client);
    let dump = run(cluster().client_program("pg_dump").arg(&database));
    let copy = cluster().create_database("restored");
    let file = cluster().socket_directory().join("status.dump");
    std::fs::write(&file, dump).unwrap();
    run(cluster()
        .client_program("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &copy, "-f"])
        .arg(&file));
    let mut restored = cluster().connect(&copy);
    let found: String =
        value(&mut restored, "select key || ' ' || url || ' ' || timeout from busymate_stats.components");
    assert_eq!(found, "web http://x/ 00:00:00.5");
    let rows: i64 = value(&mut restored, "select count(*) from public.service_status");
    assert_eq!(rows, 0);
}

#[test]
fn a_function_that_is_there_already_is_named() {
    let database = cluster().create_database("preflight");
    let mut client = cluster().connect(&database);
    client
        .batch_execute("create function public.report_status(jsonb) returns void language sql as 'select'")
        .unwrap();
    let refused = refusal(&mut client, "create extension busymate_stats");
    assert!(refused.message.contains("report_status(jsonb)"), "{refused:?}");
    assert!(
        refused.hint.contains("ALTER FUNCTION public.report_status(jsonb) RENAME TO old_report_status"),
        "{refused:?}"
    );
}

/// Attack: thousands of components with a silent peer, each of which has a thread while it is asked.
#[test]
fn no_more_than_two_hundred_are_watched() {
    let (_, mut client) = harness::installed("many_components");
    let add = |first: u32, last: u32, enabled: bool| {
        format!(
            "insert into busymate_stats.components (key, label, unit, enabled)
             select 'c' || n, 'C', 'a.service', {enabled} from generate_series({first}, {last}) n"
        )
    };
    client.batch_execute(&add(1, 200, true)).unwrap();
    client.batch_execute(&add(201, 2000, false)).unwrap();
    for more in
        [&*add(3000, 3000, true), "update busymate_stats.components set enabled = true where key = 'c201'"]
    {
        let refused = harness::refusal(&mut client, more);
        assert_eq!(refused.code, "54000", "{more}");
        assert!(refused.hint.contains("enabled = false"), "{refused:?}");
    }
    client
        .batch_execute(
            "alter table busymate_stats.components disable trigger guard_component_count;
             update busymate_stats.components set enabled = true;
             select busymate_stats.refresh_status()",
        )
        .unwrap();
    let shown: i64 = harness::value(
        &mut client,
        "select jsonb_array_length(snapshot -> 'components')::int8 from public.service_status",
    );
    assert_eq!(shown, 200);
}
