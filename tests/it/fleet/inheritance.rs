//! Promise: a table that gains children in any way, without an event trigger that tells of it, is read with their rows from then
//! on; what cannot be sealed gets nothing of ours; and figures that are not sealed take few passes, planned for what is asked.

use harness::fleet::stats_at;
use harness::worker::{is_sealed_and_right, seal};
use harness::{Cluster, eventually, shared, value};
use postgres::Client;

const SETTINGS: &str = "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'\n\
    busymate_stats.refresh_interval = 0\nbusymate_stats.verify_interval = 0";

const FLEET: &str = "create extension busymate_stats; select busymate_stats.create_fleet_tables();
    alter event trigger busymate_stats_partitions disable";

fn total(client: &mut Client) -> i64 {
    stats_at(client, "now")["total_entries"].as_i64().unwrap()
}

fn epoch(client: &mut Client) -> i64 {
    value(client, "select max(epoch) from busymate_stats_internal.seal_state")
}

/// Beside a table that holds rows, and beside one that is empty and would go on answering 0.
#[test]
fn rows_of_a_child_count_however_it_comes() {
    let cluster = Cluster::start(SETTINGS);
    for rows in [0, 300] {
        for comes in [
            "create table public.child () inherits (public.entries)",
            "create table public.child (like public.entries); alter table public.child inherit public.entries",
            "create table public.middle () inherits (public.entries); create table public.child () inherits (public.middle)",
        ] {
            let mut client = cluster.connect(&cluster.create_database("child"));
            client
                .batch_execute(&format!(
                    "{FLEET}; insert into public.entries (created_at, host, status)
                              select now() - n * interval '1 min', 'h', 200 from generate_series(1, {rows}) n"
                ))
                .unwrap();
            is_sealed_and_right(&mut client);
            client.batch_execute(comes).unwrap();
            client
                .batch_execute(
                    "insert into public.child (id, created_at, host) values
                         (-1, now(), 'now'), (-2, now() - interval '2 h', 'late'), (-3, now() + interval '1 h', 'ahead')",
                )
                .unwrap();
            assert_eq!(total(&mut client), rows + 3, "{comes}");
            client.batch_execute("update public.entries set host = 'moved' where id < 0").unwrap();
            client.batch_execute("delete from public.entries where id = -1").unwrap();
            assert_eq!(total(&mut client), rows + 2, "{comes}");
            client.batch_execute("alter table public.child no inherit public.entries").ok();
            client.batch_execute("drop table public.child").unwrap();
            client.batch_execute("drop table if exists public.middle").unwrap();
            assert_eq!(is_sealed_and_right(&mut client)["total_entries"], rows, "{comes}");
        }
    }
}

/// As an engine does it that copies the parent's triggers.
#[test]
fn children_with_the_trigger_are_sealed() {
    let cluster = Cluster::start(SETTINGS);
    let mut client = cluster.connect(&cluster.create_database("child"));
    client.batch_execute(FLEET).unwrap();
    client
        .batch_execute(
            "do $$ begin
                 -- A CHECK with a constant, as an engine makes it.
                 execute format('create table public.old (check (created_at < %L)) inherits (public.entries)',
                                date_trunc('hour', now()) - interval '30 h');
             end $$;
             create table public.young () inherits (public.entries);
             do $$
             declare child text;
             begin
                 foreach child in array array['old', 'young'] loop
                     execute format('create index on public.%I (created_at)', child);
                     execute format('create trigger busymate_stats_capture after insert or update or delete on public.%I
                         for each row execute function busymate_stats_internal.capture_change(''created_at'')', child);
                 end loop;
             end $$;
             insert into public.old (id, created_at, host, status)
                 select n, now() - interval '40 h', 'old', 200 from generate_series(1, 50) n;
             insert into public.young (id, created_at, host, status)
                 select 100 + n, now() - n * interval '1 h', 'young', 200 from generate_series(1, 20) n",
        )
        .unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 70);
    assert_eq!(seal(&mut client, "reason"), None);
    let state =
        "select string_agg(tgenabled::text, '') from pg_trigger where tgname = 'busymate_stats_capture'";
    assert_eq!(value::<String>(&mut client, state), "AAA");

    let begun = epoch(&mut client);
    client
        .batch_execute(
            "insert into public.young (id, created_at, host) values (-1, now() - interval '3 h', 'late');
             update public.old set host = 'moved', created_at = created_at - interval '1 d' where id <= 10;
             delete from public.entries where id between 40 and 45;
             set session_replication_role = replica;
             insert into public.old (id, created_at, host) values (-2, now() - interval '90 h', 'replicated');
             reset session_replication_role",
        )
        .unwrap();
    assert_eq!(total(&mut client), 66);
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 66);
    // It ended before the last 24 hours began, so it takes its count with it.
    client.batch_execute("drop table public.old").unwrap();
    assert_eq!(total(&mut client), 21);
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 21);
    assert_eq!(epoch(&mut client), begun, "everything was counted anew");

    client.batch_execute("truncate public.young").unwrap();
    assert_eq!(total(&mut client), 0);
    client.batch_execute("drop extension busymate_stats").unwrap();
    let left = "select count(*) from pg_trigger where tgname like 'busymate%'";
    assert_eq!(value::<i64>(&mut client, left), 0);
}

const WITH_TRIGGERS: &str = "do $$
    declare child regclass;
    begin
        for child in select inhrelid from pg_inherits where not exists (select from pg_trigger where tgrelid = inhrelid) loop
            execute format('create index on %s (created_at)', child);
            execute format('create trigger busymate_stats_capture after insert or update or delete on %s
                for each row execute function busymate_stats_internal.capture_change(''created_at'')', child);
        end loop;
    end $$";

/// While a table is elsewhere its trigger notes nothing.
#[test]
fn what_comes_into_a_child_that_is_away_counts_when_it_is_back() {
    let cluster = Cluster::start(SETTINGS);
    let mut client = cluster.connect(&cluster.create_database("away"));
    client
        .batch_execute(&format!(
            "{FLEET}; create table public.child () inherits (public.entries); {WITH_TRIGGERS};
             insert into public.child (id, created_at, host)
             select n, now() - n * interval '10 min', 'h' from generate_series(1, 100) n"
        ))
        .unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 100);
    // In one transaction, so that no sealer finds it away.
    client
        .batch_execute(
            "begin; alter table public.child no inherit public.entries;
             insert into public.child (id, created_at) values (-9, now() - interval '5 h'), (-8, now() - interval '30 h');
             alter table public.child inherit public.entries; commit",
        )
        .unwrap();
    assert_eq!(total(&mut client), 102);
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 102);
}

/// INHERIT of a table does not wait for who writes into tables below it, who saw nothing to note: so these are read by the plain
/// query.
#[test]
fn what_is_written_below_a_table_that_comes_counts() {
    let cluster = Cluster::start(SETTINGS);
    let database = cluster.create_database("below");
    let [mut client, mut writer] = [(), ()].map(|()| cluster.connect(&database));
    client
        .batch_execute(&format!(
            "{FLEET}; create table public.middle (like public.entries including all);
             create table public.child () inherits (public.middle);
             create table public.other () inherits (public.entries); {WITH_TRIGGERS};
             insert into public.entries (created_at) select now() - n * interval '10 min' from generate_series(1, 50) n"
        ))
        .unwrap();
    client.batch_execute("alter table public.middle alter id drop identity if exists").unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 50);
    writer
        .batch_execute("begin; insert into public.child (id, created_at) values (-1, now() - interval '5 h')")
        .unwrap();
    client
        .batch_execute("set lock_timeout = '5s'; alter table public.middle inherit public.entries")
        .unwrap();
    let reason =
        eventually("it is told", || seal(&mut client, "reason").filter(|reason| reason.contains("itself")));
    assert_eq!(reason, "tables inherit from public.middle, which itself inherits");
    writer.batch_execute("commit").unwrap();
    assert_eq!(total(&mut client), 51);
    client.batch_execute(&format!("drop table public.child; {WITH_TRIGGERS}")).unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 50);
}

#[test]
fn a_parent_whose_children_have_no_trigger_gets_none() {
    let database = shared().create_database("parent");
    let (mut client, heard) = shared().connect_hearing(&database);
    client
        .batch_execute(
            "create extension busymate_stats;
             create table public.devices (device_uuid uuid, name text, connection_type text, last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int, source text);
             create index on public.entries (created_at);
             create table public.child () inherits (public.entries);
             insert into public.child values (now(), null, 'h', 200, 's');
             select busymate_stats.attach('public.entries', 'public.devices')",
        )
        .unwrap();
    assert!(heard.lock().unwrap().iter().any(|notice| notice.message
        == "relation public.entries has tables that inherit from it, so its changes cannot be captured"));
    assert_eq!(
        value::<i64>(
            &mut client,
            "select count(*) from pg_trigger where tgrelid = 'public.entries'::regclass"
        ),
        0
    );
    assert_eq!(total(&mut client), 1);
}

/// The planner knows how many rows a window takes only from its ends: under a plan for any of them it thinks of half a percent.
#[test]
fn what_is_not_sealed_is_planned_for_the_values_at_hand() {
    let mut client = shared().connect(&shared().create_database("values"));
    client
        .batch_execute(
            "create extension busymate_stats;
             create table public.devices (device_uuid uuid, name text, connection_type text, last_seen_at timestamptz);
             create table public.rows (created_at timestamptz not null, device_uuid uuid, host text, status int, source text);
             insert into public.rows select now() - n * interval '1 s', null, 'h' || n, 200, 's' from generate_series(1, 30000) n;
             create index rows_time on public.rows (created_at);
             analyze public.rows;
             create view public.entries as select * from public.rows where host <> '';
             select busymate_stats.attach('public.entries', 'public.devices')",
        )
        .unwrap();
    for _ in 0..7 {
        assert_eq!(total(&mut client), 30_000);
    }
    client.batch_execute("select pg_stat_force_next_flush()").unwrap();
    // The planner itself looks for the first and the last time by the index.
    let read = "select pg_stat_get_tuples_returned('public.rows_time'::regclass)";
    let read: i64 = value(&mut client, read);
    assert!(read < 1000, "{read} rows were read by the index");
}
