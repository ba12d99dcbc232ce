//! Promise: PostgREST is told to read the schema anew whenever what it can see of us has changed, by the transaction that
//! changes it, and by none that rolls back.

use harness::api::{postgrest, user};
use harness::postgrest::Request;
use harness::{Cluster, SUPABASE_DEFAULT_PRIVILEGES, shared, value};
use serde_json::json;
use std::path::Path;

#[test]
fn it_finds_the_functions_when_they_come_and_misses_them_when_they_go() {
    let database = shared().create_database("reload");
    let mut client = shared().connect(&database);
    let postgrest = postgrest(&mut client, 1);
    let status = || postgrest.handle(&Request::new("GET", "/rpc/get_stats", user("v"))).status;
    assert_eq!(status(), 404);

    client.batch_execute("begin; create extension busymate_stats").unwrap();
    assert_eq!(status(), 404, "not committed");
    client.batch_execute("rollback").unwrap();
    assert!(!postgrest.reload_if_told(), "rolled back");

    client.batch_execute("create extension busymate_stats").unwrap();
    assert_eq!(status(), 403, "there, and not granted");
    client.batch_execute("select busymate_stats.grant_api()").unwrap();
    assert!(postgrest.reload_if_told(), "grant_api");
    assert_eq!(status(), 200);

    client.batch_execute("begin; drop extension busymate_stats; rollback").unwrap();
    assert!(!postgrest.reload_if_told(), "not dropped");
    client.batch_execute("drop extension busymate_stats").unwrap();
    assert!(postgrest.reload_if_told(), "dropped");
    assert_eq!(status(), 404);
    assert_eq!(value::<i64>(&mut client, "select count(*) from pg_event_trigger"), 0);
}

/// Tables that are made show up, and so do those that are attached: whoever has made them a moment before, or granted.
#[test]
fn a_fleet_that_is_made_or_attached_is_told() {
    let database = shared().create_database("reload_fleet");
    let mut client = shared().connect(&database);
    client.batch_execute("create extension busymate_stats").unwrap();
    let postgrest = postgrest(&mut client, 1);
    client.batch_execute("begin; select busymate_stats.create_fleet_tables(); rollback").unwrap();
    assert!(!postgrest.reload_if_told(), "rolled back");
    client.batch_execute("select busymate_stats.create_fleet_tables()").unwrap();
    assert!(postgrest.reload_if_told(), "made and attached");
    // By a role that may not call pg_notify() itself.
    client
        .batch_execute(
            "create role reload_owner; revoke execute on function pg_notify(text, text) from public;
             alter table public.entries owner to reload_owner; alter table public.devices owner to reload_owner;
             grant usage on schema busymate_stats to reload_owner;
             grant execute on all functions in schema busymate_stats to reload_owner;
             select busymate_stats.detach();
             set role reload_owner; select busymate_stats.attach('entries', 'devices'); reset role",
        )
        .unwrap();
    assert!(postgrest.reload_if_told(), "attached");
    // Another fleet is attached already: the tables come all the same.
    client.batch_execute("drop table public.entries, public.devices").unwrap();
    client
        .batch_execute(
            "select busymate_stats.detach();
             create view own_entries as select now() as created_at, '' as host, 1 as status, '' as source, '' as device_uuid;
             create view own_devices as select '' as device_uuid, '' as name, '' as connection_type, now() as last_seen_at;
             select busymate_stats.attach('own_entries', 'own_devices')",
        )
        .unwrap();
    assert!(postgrest.reload_if_told(), "views");
    client.batch_execute("select busymate_stats.create_fleet_tables()").unwrap();
    assert!(postgrest.reload_if_told(), "made and not attached");
}

/// The event trigger fires at every DROP EXTENSION, whoever does it, and holds up none.
#[test]
fn a_drop_of_another_extension_is_not_held_up() {
    let database = shared().create_database("reload_other");
    let mut client = shared().connect(&database);
    client.batch_execute("create extension busymate_stats").unwrap();
    client.batch_execute("drop extension if exists no_such_extension").unwrap();
    client
        .batch_execute(&format!(
            "create role reload_dropper; grant create on database {database} to reload_dropper;
             set role reload_dropper; create extension hstore; reset role;
             revoke execute on function pg_notify(text, text) from public;
             set role reload_dropper; drop extension hstore; reset role"
        ))
        .unwrap();
    let fires = "select evtenabled::text from pg_event_trigger where evtname = 'busymate_stats_reload'";
    assert_eq!(value::<String>(&mut client, fires), "A");
}

/// ALTER EXTENSION … UPDATE runs upgrade scripts and nothing else, so each must tell PostgREST itself.
#[test]
fn every_upgrade_script_tells_it_too() {
    let folder = Path::new(harness::CHECKOUT).join("sql");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sql")
            && path.to_string_lossy().contains("--")
        {
            let script = std::fs::read_to_string(&path).unwrap();
            assert!(
                script.contains("\nselect pg_catalog.pg_notify('pgrst', 'reload schema')\n"),
                "{}",
                path.display()
            );
        }
    }
}

/// A coordinator of Citus commits DDL in two phases, and PostgreSQL prepares no transaction that has notified. Citus itself is in no
/// registry: another extension has its name here.
#[test]
fn where_citus_is_installed_nothing_is_notified() {
    let cluster = Cluster::start("max_prepared_transactions = 10");
    let mut client = cluster.connect(&cluster.create_database("citus"));
    client
        .batch_execute(
            "create extension citext; update pg_extension set extname = 'citus' where extname = 'citext'",
        )
        .unwrap();
    for statements in [
        "create extension busymate_stats",
        "select busymate_stats.create_fleet_tables()",
        "select busymate_stats.grant_api('postgres')",
        "select busymate_stats.detach()",
        "select busymate_stats.attach('public.entries', 'public.devices')",
        "drop extension busymate_stats",
    ] {
        client
            .batch_execute(&format!("begin; {statements}; prepare transaction 'ddl'"))
            .unwrap_or_else(|error| panic!("{statements}: {error:?}"));
        client.batch_execute("commit prepared 'ddl'").unwrap();
    }
}

/// Default privileges give nothing away, of the response body's type neither.
#[test]
fn nobody_may_use_what_was_not_granted() {
    let database = shared().create_database("reload_defaults");
    let mut client = shared().connect(&database);
    client.batch_execute(SUPABASE_DEFAULT_PRIVILEGES).unwrap();
    client.batch_execute("create extension busymate_stats").unwrap();
    for role in ["anon", "authenticated", "service_role"] {
        let given: serde_json::Value = value(
            &mut client,
            &format!(
                "select jsonb_build_array(has_function_privilege('{role}', 'public.mcp(jsonb)', 'execute'),
                        has_function_privilege('{role}', 'public.mcp()', 'execute'),
                        has_type_privilege('{role}', 'busymate_stats.\"*/*\"', 'usage'))"
            ),
        );
        assert_eq!(given, json!([false, false, false]), "{role}");
    }
}
