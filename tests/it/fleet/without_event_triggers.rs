//! Promise: the figures stay right where DDL that concerns them fires none of our event triggers: these are disabled, or
//! `event_triggers` is off. What changed is seen in the catalogs by each reader.

use harness::fleet::stats_at;
use harness::worker::is_sealed_and_right;
use harness::{Cluster, value};
use postgres::Client;
use std::sync::OnceLock;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start("busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'")
    })
}

const PLAIN: &str = ");";
const PARTITIONED: &str = ") partition by range (created_at);
    create table public.entries_old partition of public.entries
        for values from (minvalue) to (now() - interval '3 hours');
    create table public.entries_new partition of public.entries
        for values from (now() - interval '3 hours') to (maxvalue);";

/// A sealed fleet with so many entries, a minute apart.
fn sealed(shape: &str, entries: i32) -> Client {
    let database = cluster().create_database("unseen");
    let mut client = cluster().connect(&database);
    client
        .batch_execute(&format!(
            "create table public.devices (device_uuid uuid primary key, name text, connection_type text,
                                          last_seen_at timestamptz);
             create table public.entries (
                 id bigint, created_at timestamptz not null, device_uuid uuid, host text, status int, source text,
                 method text
             {shape}
             create index on public.entries (created_at);
             insert into public.entries (id, created_at, host, status, source, method)
             select n, now() - n * interval '1 min', 'h' || n % 7, 200, 'vpn', 'GET' from generate_series(1, {entries}) n;
             create extension busymate_stats;
             select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
    is_sealed_and_right(&mut client);
    client
}

/// Runs statements that none of the extension's event triggers fire for.
#[track_caller]
fn unseen(client: &mut Client, statements: &str) {
    let (before, after) = if value(client, "select current_setting('server_version_num')::int >= 170000") {
        ("set event_triggers = off".into(), "reset event_triggers".into())
    } else {
        (event_triggers(client, "disable"), event_triggers(client, "enable"))
    };
    for statements in [&before, statements, &after] {
        client.batch_execute(statements).unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }
}

/// `alter event trigger` with each of ours.
fn event_triggers(client: &mut Client, action: &str) -> String {
    let query = format!(
        "select coalesce(string_agg(format('alter event trigger %I {action}', evtname), ';'), '') from pg_event_trigger
          where evtfoid in (select oid from pg_proc where pronamespace = 'busymate_stats_internal'::regnamespace)"
    );
    value(client, &query)
}

/// `alter table` with each trigger of ours on a table.
fn triggers(client: &mut Client, table: &str, action: &str) -> String {
    let query = format!(
        "select string_agg(format('alter table {table} {action} trigger %I', tgname), ';') from pg_trigger
          where tgrelid = '{table}'::regclass and tgfoid in (select oid from pg_proc where pronamespace = 'busymate_stats_internal'::regnamespace)"
    );
    value(client, &query)
}

#[track_caller]
fn total(client: &mut Client) -> i64 {
    stats_at(client, "now")["total_entries"].as_i64().unwrap()
}

#[test]
fn a_child_of_empty_entries_counts() {
    let mut client = sealed(PLAIN, 0);
    unseen(&mut client, "create table public.child () inherits (public.entries)");
    assert_eq!(total(&mut client), 0);
    // On time and late.
    client
        .batch_execute(
            "insert into public.child (id, created_at, host, source) values
                 (1, now(), 'c', 'sdk'), (2, now() - interval '1 h', 'c', 'sdk')",
        )
        .unwrap();
    assert_eq!(total(&mut client), 2);
    client.batch_execute("update public.entries set created_at = created_at - interval '1 d'").unwrap();
    assert_eq!(total(&mut client), 2);
    unseen(&mut client, "drop table public.child");
    assert_eq!(total(&mut client), 0);
}

#[test]
fn a_child_of_entries_counts() {
    let mut client = sealed(PLAIN, 100);
    unseen(
        &mut client,
        "create table public.child (like public.entries);
         insert into public.child (id, created_at, host, source) values (101, now() - interval '1 h', 'c', 'sdk');
         alter table public.child inherit public.entries",
    );
    assert_eq!(total(&mut client), 101);
    unseen(&mut client, "alter table public.child no inherit public.entries");
    assert_eq!(total(&mut client), 100);
    is_sealed_and_right(&mut client);
}

/// What is written while our triggers are off, in a transaction of its own each.
#[track_caller]
fn changes_beside_disabled_triggers(shape: &str) {
    let mut client = sealed(shape, 100);
    for (change, rows) in [
        (
            "insert into public.entries (id, created_at, host) values (101, now() - interval '1 h', 'late')",
            101,
        ),
        (
            "update public.entries set host = 'other', created_at = created_at - interval '1 min' where id = 50",
            101,
        ),
        ("delete from public.entries where id between 21 and 30", 91),
    ] {
        let (disable, enable) = (
            triggers(&mut client, "public.entries", "disable"),
            triggers(&mut client, "public.entries", "enable always"),
        );
        unseen(&mut client, &format!("{disable}; {change}; {enable}"));
        assert_eq!(total(&mut client), rows, "{change}");
        is_sealed_and_right(&mut client);
    }
}

#[test]
fn entries_changed_beside_disabled_triggers_count() {
    changes_beside_disabled_triggers(PLAIN);
}

#[test]
fn partitioned_entries_changed_beside_disabled_triggers_count() {
    changes_beside_disabled_triggers(PARTITIONED);
}

/// On one partition alone, where PostgreSQL lets a clone be disabled.
#[test]
fn a_partition_changed_beside_its_disabled_trigger_counts() {
    let mut client = sealed(PARTITIONED, 300);
    let [disable, enable] =
        ["disable", "enable always"].map(|action| triggers(&mut client, "public.entries_old", action));
    let delete = "delete from public.entries where id between 200 and 219";
    unseen(&mut client, &format!("{disable}; {delete}; {enable}"));
    assert_eq!(total(&mut client), 280);
    is_sealed_and_right(&mut client);
}

#[test]
fn a_replaced_column_counts() {
    for shape in [PLAIN, PARTITIONED] {
        let mut client = sealed(shape, 100);
        // Nothing of it writes a row.
        unseen(
            &mut client,
            "alter table public.entries rename column source to was; alter table public.entries rename column method to source",
        );
        let stats = stats_at(&mut client, "now");
        assert!(stats.to_string().contains("GET"), "{stats}");
    }
}
