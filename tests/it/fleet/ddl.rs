//! Promise: DDL that makes no partition of entries costs nothing more for the extension's event trigger, and partitions
//! that come empty are noted however they come.

use harness::{installed, shared, value};
use postgres::Client;

/// A partitioned fleet with one partition.
fn tree() -> Client {
    let (_, mut client) = installed("ddl");
    client
        .batch_execute(
            "create table public.devices (device_uuid uuid primary key, name text, connection_type text,
                                          last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int,
                                          source text) partition by range (created_at);
             create index on public.entries (created_at);
             create table public.day0 partition of public.entries for values from ('2026-01-01') to ('2026-01-02');
             select busymate_stats.attach('public.entries', 'public.devices')",
        )
        .unwrap();
    client
}

/// How often this session has read a table of the extension lately: counts wait for a moment before they are handed over, in
/// no transaction.
fn reads(client: &mut Client, table: &str) -> i64 {
    value(
        client,
        &format!(
            "select coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::int8 from pg_stat_xact_all_tables
              where relid = 'busymate_stats_internal.{table}'::regclass"
        ),
    )
}

#[test]
fn ddl_that_is_nobody_elses_business_reads_nothing_of_the_fleet() {
    let mut client = tree();
    client.batch_execute("begin").unwrap();
    let before = ["attachment", "seal_partitions"].map(|table| reads(&mut client, table));
    client
        .batch_execute(
            "create table public.plain (id int primary key, note text);
             alter table public.plain add column more int default 7;
             create table public.heir () inherits (public.plain);
             create schema other create table inside (id int);
             create table public.copied as select 1 as one;
             create table public.logs (at timestamptz) partition by range (at)",
        )
        .unwrap();
    assert_eq!(["attachment", "seal_partitions"].map(|table| reads(&mut client, table)), before);
    // Another's tree: whose it is must be looked up, and no more.
    client
        .batch_execute(
            "create table public.logs0 partition of public.logs for values from ('2026-01-01') to ('2026-01-02')",
        )
        .unwrap();
    assert_eq!(reads(&mut client, "seal_partitions"), before[1]);
    client.batch_execute("rollback").unwrap();
}

/// Every way in which a partition comes.
#[test]
fn partitions_that_come_empty_are_noted_however_they_come() {
    let mut client = tree();
    client
        .batch_execute(
            r#"create schema "Other Schema";
               create table public.ready (like public.entries);
               create table public.branch (like public.entries) partition by range (created_at);
               create table public.leaf1 partition of public.branch for values from ('2026-01-05') to ('2026-01-06');
               create table public.leaf2 partition of public.branch for values from ('2026-01-06') to ('2026-01-07');
               create table public.full (like public.entries);
               insert into public.full (created_at) values ('2026-01-10')"#,
        )
        .unwrap();
    for (comes, noted) in [
        (
            "create table public.day1 partition of public.entries for values from ('2026-01-02') to ('2026-01-03')",
            "day1",
        ),
        (
            r#"set search_path = "Other Schema", public;
               create table "Day Two" partition of entries for values from ('2026-01-03') to ('2026-01-04');
               reset search_path"#,
            r#""Other Schema"."Day Two""#,
        ),
        (
            "alter table public.entries attach partition public.ready for values from ('2026-01-04') to ('2026-01-05')",
            "ready",
        ),
        (
            "alter table public.entries attach partition public.branch for values from ('2026-01-05') to ('2026-01-07')",
            "leaf1,leaf2",
        ),
        (
            "create schema made create table inside partition of public.entries for values from ('2026-01-07') to ('2026-01-08')",
            "made.inside",
        ),
        (
            "do $$ begin execute 'create table public.dynamic partition of public.entries for values from (''2026-01-08'') to (''2026-01-09'')'; end $$",
            "dynamic",
        ),
        (
            "alter table public.entries attach partition public.full for values from ('2026-01-10') to ('2026-01-11')",
            "",
        ),
    ] {
        client.batch_execute("delete from busymate_stats_internal.seal_partitions").unwrap();
        client.batch_execute(comes).unwrap();
        let found: Option<String> = value(
            &mut client,
            "select string_agg(p.leaf::regclass::text, ',' order by p.leaf::regclass::text)
               from busymate_stats_internal.seal_partitions p
               join pg_class c on c.oid = p.leaf and c.relfilenode = p.file
               join pg_trigger t on t.oid = p.trigger and t.tgrelid = p.leaf
                                and t.tgfoid = 'busymate_stats_internal.capture_change'::regproc",
        );
        assert_eq!(found.unwrap_or_default(), noted, "{comes}");
    }
}

/// Whatever goes wrong in it, the statement goes on: here the table that it notes partitions in is another's.
#[test]
fn the_event_trigger_fails_no_statement() {
    let mut client = tree();
    client
        .batch_execute(
            "alter schema busymate_stats_internal rename to moved;
             create table public.day1 partition of public.entries for values from ('2026-01-02') to ('2026-01-03');
             alter schema moved rename to busymate_stats_internal;
             alter table busymate_stats_internal.seal_partitions rename column leaf to other;
             create table public.day2 partition of public.entries for values from ('2026-01-03') to ('2026-01-04')",
        )
        .unwrap();
}

/// A log of DDL, as many keep: what it writes is its own, in whatever statement of ours it is fired.
#[test]
fn an_event_trigger_that_writes_is_in_nobodys_way() {
    for shape in ["", "'day'"] {
        let database = shared().create_database("logged");
        let mut client = shared().connect(&database);
        client
            .batch_execute(
                "create schema audit; create table audit.log (tag text);
                 create function audit.log() returns event_trigger language plpgsql security definer
                     as 'begin insert into audit.log values (tg_tag); end';
                 create event trigger log on ddl_command_end execute function audit.log();
                 create event trigger dropped on sql_drop execute function audit.log()",
            )
            .unwrap();
        for statement in [
            "create extension busymate_stats",
            &format!("select busymate_stats.create_fleet_tables({shape})"),
            "select busymate_stats.detach()",
            "select busymate_stats.attach('public.entries', 'public.devices')",
            "insert into public.entries (host) values ('h')",
            "select busymate_stats.grant_api('pg_monitor')",
            "select busymate_stats.refresh_stats()",
            "drop extension busymate_stats",
        ] {
            client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        assert!(
            value::<i64>(&mut client, "select count(*) from audit.log where tag = 'CREATE TRIGGER'") >= 2
        );
    }
}
