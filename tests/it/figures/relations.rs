//! Promise: figures are exact, whatever kind of relation is attached, and whatever its columns are called.

use harness::fleet::stats_at;
use harness::{installed, value};
use postgres::Client;
use serde_json::json;

const T: &str = "2026-06-02 10:00:00+00";

/// Two entries in the hour, one more in the day, one older; one device of two online.
const ROWS: &str = "
    insert into base_entries values
        ('2026-06-02 10:00:00+00', 'a.example', 200, 'vpn', 'd1'),
        ('2026-06-02 09:30:00+00', 'b.example', 404, 'pac', 'd1'),
        ('2026-06-01 11:00:00+00', 'a.example', 500, 'vpn', 'd2'),
        ('2026-05-01 10:00:00+00', 'a.example', 200, 'vpn', 'd1');
    insert into base_devices values ('d1', 'one', 'vpn', '2026-06-02 09:59:00+00'), ('d2', 'two', 'pac', null);
";

const TABLES: &str = "
    create table base_entries (created_at timestamptz not null, host text, status int, source text, device_uuid text);
    create index on base_entries (created_at);
    create table base_devices (device_uuid text, name text, connection_type text, last_seen_at timestamptz);
";

#[track_caller]
fn assert_figures(client: &mut Client) {
    assert_eq!(
        stats_at(client, T),
        json!({
            "total_devices": 2,
            "online_devices": 1,
            "total_entries": 4,
            "entries_1h": 2,
            "entries_24h": 3,
            "requests_per_sec": 0,
            "status_class_mix": { "2": 1, "4": 1, "5": 1 },
            "source_mix": { "vpn": 2, "pac": 1 },
            "connection_type_mix": { "vpn": 1, "pac": 1 },
            "top_domains": [{ "host": "a.example", "count": 2 }, { "host": "b.example", "count": 1 }],
            "top_devices": [
                { "device_uuid": "d1", "name": "one", "count": 2 },
                { "device_uuid": "d2", "name": "two", "count": 1 },
            ],
            "generated_at": "2026-06-02T10:00:00.000Z",
        })
    );
}

#[test]
fn tables() {
    let (_, mut client) = installed("tables");
    client.batch_execute(TABLES).unwrap();
    client.batch_execute(ROWS).unwrap();
    client.batch_execute("select busymate_stats.attach('base_entries', 'base_devices')").unwrap();
    assert_figures(&mut client);
    // Two columns may be one.
    client
        .batch_execute(
            "select busymate_stats.detach();
             select busymate_stats.attach('base_entries', 'base_devices', source => 'host', device_name => 'device_uuid')",
        )
        .unwrap();
    let stats = stats_at(&mut client, T);
    assert_eq!(stats["source_mix"], json!({ "a.example": 2, "b.example": 1 }));
    assert_eq!(stats["top_devices"][0]["name"], "d1");
}

#[test]
fn names_that_need_quoting() {
    let (_, mut client) = installed("odd");
    client
        .batch_execute(
            r#"create schema "Odd.schema; ""--";
               set search_path = "Odd.schema; ""--";"#,
        )
        .unwrap();
    client.batch_execute(TABLES).unwrap();
    client.batch_execute(ROWS).unwrap();
    client
        .batch_execute(
            r#"alter table base_entries rename to "user";
               alter table "user" rename created_at to "My Time";
               alter table "user" rename host to "select";
               alter table "user" rename status to "Straße 🦊";
               alter table "user" rename source to "a""b'c$1";
               alter table "user" rename device_uuid to "count(*)";
               alter table base_devices rename to "My, Devices";
               alter table "My, Devices" rename device_uuid to "group";
               alter table "My, Devices" rename name to "NULL";
               alter table "My, Devices" rename connection_type to "x; drop table devices";
               alter table "My, Devices" rename last_seen_at to "%s %I";
               select busymate_stats.attach('"user"', '"My, Devices"', 'My Time', 'select', 'Straße 🦊', 'a"b''c$1',
                                            'count(*)', 'group', 'NULL', 'x; drop table devices', '%s %I');
               reset search_path;"#,
        )
        .unwrap();
    assert_figures(&mut client);
    // A longer name is cut as PostgreSQL cuts it.
    let long = "x".repeat(63);
    client
        .batch_execute(&format!(
            r#"set search_path = "Odd.schema; ""--"; select busymate_stats.detach();
               alter table "user" rename "select" to {long}yz;
               select busymate_stats.attach('"user"', '"My, Devices"', 'My Time', '{long}yz', 'Straße 🦊', 'a"b''c$1',
                                            'count(*)', 'group', 'NULL', 'x; drop table devices', '%s %I')"#
        ))
        .unwrap();
    assert_figures(&mut client);
}

#[test]
fn views() {
    let (_, mut client) = installed("views");
    client.batch_execute(TABLES).unwrap();
    client.batch_execute(ROWS).unwrap();
    client
        .batch_execute(
            "create view entries as select * from base_entries;
             create view devices as select * from base_devices union all select null, null, null, null where false;
             select busymate_stats.attach('entries', 'devices')",
        )
        .unwrap();
    assert_figures(&mut client);
    // A view may give a null time: that entry is in no window, but is an entry.
    client
        .batch_execute("create or replace view entries as select * from base_entries union all values (null::timestamptz, 'x', 200, 'x', 'x')")
        .unwrap();
    let stats = stats_at(&mut client, T);
    assert_eq!((&stats["total_entries"], &stats["entries_24h"]), (&json!(5), &json!(3)));
}

#[test]
fn materialized_views() {
    let (_, mut client) = installed("matviews");
    client.batch_execute(TABLES).unwrap();
    client
        .batch_execute(
            "create materialized view entries as select * from base_entries;
             create materialized view devices as select * from base_devices;
             select busymate_stats.attach('entries', 'devices')",
        )
        .unwrap();
    client.batch_execute(ROWS).unwrap();
    assert_eq!(stats_at(&mut client, T)["total_entries"], 0);
    client.batch_execute("refresh materialized view entries; refresh materialized view devices").unwrap();
    assert_figures(&mut client);
}

#[test]
fn foreign_tables() {
    let (database, mut client) = installed("foreign");
    let available: bool =
        value(&mut client, "select exists (select from pg_available_extensions where name = 'postgres_fdw')");
    if !available {
        eprintln!("skipped: this server comes without postgres_fdw");
        return;
    }
    client.batch_execute(TABLES).unwrap();
    client.batch_execute(ROWS).unwrap();
    client
        .batch_execute(&format!(
            "create extension postgres_fdw;
             create server loop foreign data wrapper postgres_fdw options (host '{}', dbname '{database}');
             create user mapping for postgres server loop options (user 'postgres');
             create schema far;
             import foreign schema public limit to (base_entries, base_devices) from server loop into far;
             alter foreign table far.base_entries alter created_at drop not null;
             select busymate_stats.attach('far.base_entries', 'far.base_devices')",
            harness::shared().socket_directory().display()
        ))
        .unwrap();
    assert_figures(&mut client);
}

#[test]
fn partitioned_tables() {
    let (_, mut client) = installed("partitioned");
    client
        .batch_execute(
            "create table base_entries (created_at timestamptz not null, host text, status int, source text, device_uuid text)
                 partition by range (created_at);
             create table old partition of base_entries for values from (minvalue) to ('2026-06-02');
             create table today partition of base_entries for values from ('2026-06-02') to ('2026-06-03') partition by list (source);
             create table vpn partition of today for values in ('vpn');
             create table others partition of today default;
             create index on base_entries (created_at);
             create table base_devices (device_uuid text, name text, connection_type text, last_seen_at timestamptz)
                 partition by hash (device_uuid);
             create table d0 partition of base_devices for values with (modulus 2, remainder 0);
             create table d1 partition of base_devices for values with (modulus 2, remainder 1);
             select busymate_stats.attach('base_entries', 'base_devices')",
        )
        .unwrap();
    client.batch_execute(ROWS).unwrap();
    assert_figures(&mut client);
    client.batch_execute("alter table base_entries detach partition today").unwrap();
    assert_eq!(stats_at(&mut client, T)["total_entries"], 2);
    client
        .batch_execute("alter table base_entries attach partition today for values from ('2026-06-02') to ('2026-06-03')")
        .unwrap();
    assert_figures(&mut client);
}

#[test]
fn inheriting_tables_count_with_their_parent() {
    let (_, mut client) = installed("inherited");
    client.batch_execute(TABLES).unwrap();
    client
        .batch_execute(
            "create table child (extra int) inherits (base_entries);
             select busymate_stats.attach('base_entries', 'base_devices')",
        )
        .unwrap();
    client.batch_execute(ROWS).unwrap();
    client
        .batch_execute("with moved as (delete from base_entries where status = 404 returning *) insert into child select * from moved")
        .unwrap();
    assert_figures(&mut client);
}

#[test]
fn other_types() {
    for (status, label, time) in [
        ("smallint", "varchar(20)", "timestamptz(6)"),
        ("bigint", "name", "timestamptz"),
        ("code", "kind", "moment"),
        ("code", "char(9)", "deeper"),
    ] {
        let (_, mut client) = installed("types");
        client
            .batch_execute(&format!(
                "create domain moment as timestamptz;
                 create domain deeper as moment check (value > '1990-01-01');
                 create domain code as int check (value between 0 and 1000);
                 create type kind as enum ('a.example', 'pac', 'vpn', 'b.example');
                 create table base_entries (created_at {time} not null, host {label}, status {status}, source {label}, device_uuid varchar);
                 create index on base_entries (created_at desc, source);
                 create table base_devices (device_uuid bpchar, name name, connection_type {label}, last_seen_at {time});"
            ))
            .unwrap();
        client.batch_execute(ROWS).unwrap();
        client.batch_execute("select busymate_stats.attach('base_entries', 'base_devices')").unwrap();
        assert_figures(&mut client);
    }
}

#[test]
fn bigint_statuses_beyond_an_int() {
    let (_, mut client) = installed("bigint");
    client.batch_execute(&TABLES.replace("status int", "status bigint")).unwrap();
    client.batch_execute(ROWS).unwrap();
    client
        .batch_execute(
            "update base_entries set status = 9223372036854775807 where status = 404;
             update base_entries set status = -200 where status = 500;
             select busymate_stats.attach('base_entries', 'base_devices')",
        )
        .unwrap();
    assert_eq!(stats_at(&mut client, T)["status_class_mix"], json!({ "2": 1 }));
}

/// Renaming is no change of the fleet; a column that is gone is told.
#[test]
fn renamed_and_moved_relations_stay_attached() {
    let (_, mut client) = installed("renamed");
    client.batch_execute(TABLES).unwrap();
    client.batch_execute(ROWS).unwrap();
    client
        .batch_execute(
            "select busymate_stats.attach('base_entries', 'base_devices');
             create schema elsewhere;
             alter table base_entries set schema elsewhere;
             alter table elsewhere.base_entries rename to \"Renamed\";
             alter table base_devices rename to d",
        )
        .unwrap();
    assert_figures(&mut client);
}
