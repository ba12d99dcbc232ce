//! Promise: reading works in READ ONLY transactions, on old snapshots and on a hot standby, and assigns no transaction id.

use harness::fleet::fleet;
use harness::{Cluster, SUPABASE_ROLES, as_caller, eventually, refusal_of, shared, value};
use postgres::Client;
use serde_json::Value;

/// Everything that a reader may ask for; each gives one value.
const READS: [&str; 7] = [
    "select public.get_stats() -> 'total_entries'",
    "select busymate_stats.stats_at(now()) -> 'total_entries'",
    "select busymate_stats.stats_recomputed(now()) -> 'total_entries'",
    "select snapshot -> 'total_entries' from public.service_stats where id = 1",
    "select snapshot -> 'total_entries' from public.service_status where id = 1",
    "select to_jsonb(count(*)) from busymate_stats.roles where name = 'viewer'",
    "select to_jsonb(public.has_capability('stats', 'view')::int)",
];

const PREPARE: &str = "
    insert into public.entries (host) values ('a.example');
    select busymate_stats.refresh_stats();
    insert into public.service_status (snapshot) values ('{\"total_entries\": 1}');
    select busymate_stats.grant_api();
    grant execute on all functions in schema busymate_stats to authenticated;
    grant select on busymate_stats.roles to authenticated;
    select busymate_stats.assign_role('v', 'viewer');
";

const CALLERS: [(&str, Option<&str>); 2] = [("postgres", None), ("authenticated", Some(r#"{"sub":"v"}"#))];

/// Each read gives 1 in the open transaction, which has no transaction id afterwards.
#[track_caller]
fn assert_reads(client: &mut Client) {
    for read in READS {
        assert_eq!(value::<Value>(client, read), 1, "{read}");
        let id: Option<String> = value(client, "select pg_current_xact_id_if_assigned()::text");
        assert_eq!(id, None, "{read}");
    }
}

#[test]
fn in_read_only_transactions() {
    let (_, mut client) = fleet("read_only");
    client.batch_execute(PREPARE).unwrap();
    for (role, claims) in CALLERS {
        as_caller(&mut client, role, claims, assert_reads);
    }
    client.batch_execute("begin isolation level serializable read only deferrable").unwrap();
    assert_reads(&mut client);
}

/// A transaction that could write is given no id by reading either.
#[test]
fn in_transactions_that_could_write() {
    let (_, mut client) = fleet("read_write");
    client.batch_execute(PREPARE).unwrap();
    for (role, claims) in CALLERS {
        client.batch_execute("begin").unwrap();
        client
            .execute("select set_config('request.jwt.claims', $1, true)", &[&claims.unwrap_or_default()])
            .unwrap();
        client.batch_execute(&format!("set local role {role}")).unwrap();
        assert_reads(&mut client);
        client.batch_execute("rollback").unwrap();
    }
    // Nor does an error on the way leave one.
    client.batch_execute("begin; savepoint s").unwrap();
    let refused = refusal_of(&client.batch_execute("select busymate_stats.stats_at(null)").unwrap_err());
    assert_eq!(refused.code, "22004");
    client.batch_execute("rollback to s").unwrap();
    assert_reads(&mut client);
}

/// Once the transaction has an id, every query still sees the statement's snapshot, and the transaction's own rows.
#[test]
fn in_transactions_that_have_written() {
    let (_, mut client) = fleet("written");
    client.batch_execute(PREPARE).unwrap();
    client.batch_execute("begin; insert into public.entries (host) values ('b.example')").unwrap();
    let stats: Value = value(&mut client, "select public.get_stats()");
    assert_eq!(stats["total_entries"], 2);
    // What one statement inserts, that statement does not count.
    let stats: Value = value(
        &mut client,
        "with added as (insert into public.entries (host) values ('c.example') returning 1)
         select public.get_stats() from added",
    );
    assert_eq!((&stats["total_entries"], stats["top_domains"].as_array().unwrap().len()), (&2.into(), 2));
}

/// An old snapshot has the figures of its time, whatever others have committed since.
#[test]
fn on_old_snapshots() {
    for isolation in ["repeatable read", "serializable"] {
        let (database, mut writer) = fleet("snapshot");
        writer.batch_execute(PREPARE).unwrap();
        let mut reader = shared().connect(&database);
        reader.batch_execute(&format!("begin isolation level {isolation}")).unwrap();
        assert_reads(&mut reader);
        writer
            .batch_execute(
                "insert into public.entries (host, source) select 'b.example', 'late' from generate_series(1, 10);
                 insert into public.devices (name) values ('late');
                 delete from public.entries where host = 'a.example';
                 select busymate_stats.refresh_stats();",
            )
            .unwrap();
        assert_reads(&mut reader);
        let stats: Value = value(&mut reader, "select busymate_stats.stats_at(now() + interval '1 minute')");
        assert_eq!(stats["top_domains"], serde_json::json!([{ "host": "a.example", "count": 1 }]));
        assert_eq!((&stats["total_devices"], &stats["entries_1h"]), (&0.into(), &1.into()));
        reader.batch_execute("commit").unwrap();
        assert_eq!(value::<Value>(&mut reader, "select public.get_stats() -> 'total_entries'"), 10);
    }
}

#[test]
fn on_a_hot_standby() {
    let primary = Cluster::start(harness::NO_WORKER);
    primary.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
    let database = primary.create_database("replicated");
    let mut writer = primary.connect(&database);
    writer
        .batch_execute("create extension busymate_stats; select busymate_stats.create_fleet_tables()")
        .unwrap();
    writer.batch_execute(PREPARE).unwrap();
    let standby = primary.standby();
    let mut reader =
        eventually("the standby accepts sessions", || standby.try_connect("postgres", &database).ok());
    assert!(value::<bool>(&mut reader, "select pg_is_in_recovery()"));
    for (role, claims) in CALLERS {
        as_caller(&mut reader, role, claims, |client| {
            for read in READS {
                assert_eq!(value::<Value>(client, read), 1, "{read}");
            }
        });
    }
    as_caller(&mut reader, "authenticated", Some(r#"{"sub":"nobody"}"#), |client| {
        assert_eq!(value::<Option<Value>>(client, "select public.get_stats()"), None);
        assert_eq!(value::<i64>(client, "select count(*) from public.service_stats"), 0);
    });
    // What the primary commits, the standby's next call counts; a revoke counts in a session that has cached the answer.
    writer
        .batch_execute("insert into public.entries (host) values ('b.example'); select busymate_stats.unassign_role('v', 'viewer')")
        .unwrap();
    eventually("the standby has the second entry", || {
        (value::<Value>(&mut reader, "select public.get_stats() -> 'total_entries'") == 2).then_some(())
    });
    as_caller(&mut reader, "authenticated", Some(r#"{"sub":"v"}"#), |client| {
        eventually("the standby has the revoke", || {
            (!value::<bool>(client, "select public.has_capability('stats', 'view')")).then_some(())
        });
        assert_eq!(value::<Option<Value>>(client, "select public.get_stats()"), None);
    });
}
