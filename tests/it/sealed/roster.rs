//! Promise: what devices cost. A heartbeat writes nothing and stays HOT, writers need no right on the extension's tables
//! and never wait for it, `health` says how the devices' figures are come by, and nothing is left behind.

use harness::worker::fleet_in;
use harness::{Cluster, eventually, installed, value};
use postgres::Client;
use serde_json::Value;
use std::sync::OnceLock;

/// A cluster whose worker counts.
fn counting() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start("busymate_stats.seal_interval = 1s\nbusymate_stats.refresh_interval = 0\nbusymate_stats.status_interval = 0")
    })
}

/// An attached fleet of so many devices that were seen a moment ago, counted.
fn counted(prefix: &str, devices: i32) -> (String, Client) {
    let (database, mut client) = fleet_in(counting(), prefix);
    client
        .batch_execute(&format!(
            "insert into public.devices (name, connection_type, last_seen_at)
             select 'd' || n, 'vpn', now() from generate_series(1, {devices}) n"
        ))
        .unwrap();
    await_count(&mut client);
    (database, client)
}

/// Awaits a count of what is committed by now.
#[track_caller]
fn await_count(client: &mut Client) {
    let begun: i64 =
        value(client, "select coalesce(max(gen), 0) from busymate_stats_internal.roster_capture");
    // A threshold that moves later has a look of its own, so the count that follows sees everything.
    client.batch_execute("update busymate_stats_internal.roster_capture set due = '-infinity'").unwrap();
    eventually("the devices are counted", || {
        let gen_: i64 =
            value(client, "select coalesce(max(gen), -1) from busymate_stats_internal.roster_state");
        (gen_ > begun).then_some(())
    });
}

fn changes(client: &mut Client) -> i64 {
    value(client, "select count(*) from busymate_stats_internal.roster_changes")
}

fn devices_health(client: &mut Client) -> Value {
    value(client, "select detail -> 'devices' from busymate_stats.health where feed = 'seal'")
}

#[track_caller]
fn agrees(client: &mut Client) -> Value {
    let row = client
        .query_one(
            "select at, plain from (
                 select busymate_stats.stats_at(t) as at, busymate_stats.stats_recomputed(t) as plain
                   from (select clock_timestamp()) now (t) offset 0) both_ways",
            &[],
        )
        .unwrap();
    let (at, plain): (Value, Value) = (row.get(0), row.get(1));
    assert_eq!(at, plain);
    at
}

#[test]
fn a_heartbeat_writes_nothing_and_stays_hot() {
    let (_, mut client) = counted("heartbeat", 20);
    client.batch_execute("vacuum full public.devices").unwrap();
    await_count(&mut client);
    for _ in 0..3 {
        client
            .batch_execute("update public.devices set last_seen_at = clock_timestamp(), name = name")
            .unwrap();
    }
    assert_eq!(changes(&mut client), 0);
    eventually("the statistics have come", || {
        let (all, hot): (i64, i64) = {
            let row = client
                .query_one(
                    "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'devices'",
                    &[],
                )
                .unwrap();
            (row.get(0), row.get(1))
        };
        (all == 60 && hot == all).then_some(())
    });
    assert_eq!(agrees(&mut client)["online_devices"], 20);
    // What changes a figure is one row each: in a transaction, since a count that comes in between has no use for them.
    client
        .batch_execute(
            "begin;
             update public.devices set last_seen_at = now() - interval '1 day' where name = 'd1';
             update public.devices set last_seen_at = now() where name = 'd1';
             update public.devices set connection_type = 'pac' where name = 'd2';
             delete from public.devices where name = 'd3';
             insert into public.devices (name) values ('d21')",
        )
        .unwrap();
    assert_eq!(changes(&mut client), 5);
    client.batch_execute("commit").unwrap();
    let stats = agrees(&mut client);
    assert_eq!(stats["connection_type_mix"], serde_json::json!({ "vpn": 18, "pac": 1, "unknown": 1 }));
    assert_eq!(stats["online_devices"], 19);
}

#[test]
fn before_the_first_count_nothing_is_written_down() {
    let (_, mut client) = installed("uncounted");
    client
        .batch_execute(
            "select busymate_stats.create_fleet_tables();
             insert into public.devices (name) select 'd' from generate_series(1, 100);
             update public.devices set connection_type = 'vpn'; delete from public.devices",
        )
        .unwrap();
    assert_eq!(changes(&mut client), 0);
}

#[test]
fn writers_need_no_right_and_take_no_transaction_id_for_nothing() {
    let (database, mut admin) = counted("rights", 5);
    admin
        .batch_execute(
            "create role roster_writer login; grant select, insert, update, delete on public.devices to roster_writer;
             create policy everybody on public.devices using (true)",
        )
        .unwrap();
    let mut writer = counting().connect_as("roster_writer", &database);
    writer.batch_execute("begin; update public.devices set last_seen_at = now() where false").unwrap();
    assert!(value::<bool>(&mut writer, "select pg_current_xact_id_if_assigned() is null"));
    writer
        .batch_execute("update public.devices set last_seen_at = now(); update public.devices set connection_type = 'pac' where name = 'd1'")
        .unwrap();
    // The strongest lock that a writer has on a table of ours is the one that any writer takes.
    let modes: Vec<String> = admin
        .query(
            "select distinct mode from pg_locks where relation::regclass::text like 'busymate_stats_internal.roster%'
                and pid = (select pid from pg_stat_activity where usename = 'roster_writer')",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(modes, ["RowExclusiveLock"]);
    writer.batch_execute("commit").unwrap();
    assert!(writer.batch_execute("select from busymate_stats_internal.roster_changes").is_err());
    assert_eq!(agrees(&mut admin)["connection_type_mix"]["pac"], 1);
}

/// An open writer does not keep the figures from being exact, nor the sealer a user from his DDL.
#[test]
fn a_writer_that_stays_open_holds_up_the_count_and_nobody() {
    let (database, mut client) = counted("open", 5);
    let mut writer = counting().connect(&database);
    writer
        .batch_execute("begin; insert into public.devices (name, connection_type) values ('open', 'cdp')")
        .unwrap();
    client.batch_execute("update busymate_stats_internal.roster_capture set due = '-infinity'").unwrap();
    eventually("health names the writer", || {
        let reason = devices_health(&mut client)["reason"].clone();
        reason.as_str().is_some_and(|reason| reason.starts_with("held up by transaction")).then_some(())
    });
    client.batch_execute("insert into public.devices (name, connection_type) values ('new', 'pac')").unwrap();
    let stats = agrees(&mut client);
    assert_eq!((&stats["total_devices"], &stats["connection_type_mix"]["pac"]), (&6.into(), &1.into()));
    writer.batch_execute("commit").unwrap();
    assert_eq!(agrees(&mut client)["total_devices"], 7);
    eventually("health is well again", || devices_health(&mut client)["reason"].is_null().then_some(()));
    assert_eq!(agrees(&mut client)["total_devices"], 7);
}

#[test]
fn health_says_how_and_why() {
    let (_, mut client) = counted("health", 5);
    assert_eq!(devices_health(&mut client)["counted"], true);
    client.batch_execute("alter table public.devices disable trigger busymate_stats_roster").unwrap();
    eventually("health says that the trigger is disabled", || {
        let health = devices_health(&mut client);
        let told = health["reason"] == "trigger busymate_stats_roster is disabled on public.devices";
        (told && health["counted"] == false).then_some(())
    });
    client
        .batch_execute(
            "insert into public.devices (name) values ('unseen');
             alter table public.devices enable always trigger busymate_stats_roster",
        )
        .unwrap();
    assert_eq!(agrees(&mut client)["total_devices"], 6);
    eventually("they are counted again", || (devices_health(&mut client)["counted"] == true).then_some(()));
    assert_eq!(agrees(&mut client)["total_devices"], 6);
    assert!(devices_health(&mut client)["reason"].is_null());
}

/// What the devices' table may be is another question than what the entries' may be: neither voids the other.
#[test]
fn a_truncate_of_devices_leaves_the_seal_alone() {
    let (_, mut client) = counted("apart", 5);
    client.batch_execute("truncate public.devices").unwrap();
    assert_eq!(agrees(&mut client)["total_devices"], 0);
    assert_eq!(value::<i64>(&mut client, "select count(*) from busymate_stats_internal.seal_markers"), 0);
    await_count(&mut client);
    assert_eq!(agrees(&mut client)["total_devices"], 0);
}

#[test]
fn many_connection_types_are_counted() {
    let (_, mut client) = counted("types", 3);
    client
        .batch_execute(
            "insert into public.devices (name, connection_type, last_seen_at)
             select 'd', case when n % 50 = 0 then null else 't' || n % 1000 end,
                    case n % 7 when 0 then null when 1 then 'infinity' when 2 then '-infinity'
                               when 3 then now() + interval '1 year' else now() - n * interval '1 s' end
               from generate_series(1, 3000) n",
        )
        .unwrap();
    let before = agrees(&mut client);
    await_count(&mut client);
    // The sealer removes those that the last count had, in a transaction of its own, after the count's.
    eventually("the changes are removed", || (changes(&mut client) == 0).then_some(()));
    let after = agrees(&mut client);
    for figure in ["total_devices", "connection_type_mix"] {
        assert_eq!(before[figure], after[figure]);
    }
}

#[test]
fn names_of_busy_devices_are_found_whatever_their_keys_type() {
    for kind in ["uuid", "bigint", "smallint", "text", "varchar(80)", "name"] {
        let (_, mut client) = installed("names");
        let key = if kind == "uuid" { "'0b0ff1ce-0123-4567-89ab-cdef01234567'" } else { "'17'" };
        client
            .batch_execute(&format!(
                "create table public.devices (device_uuid {kind} primary key, name text, connection_type text, last_seen_at timestamptz);
                 create table public.entries (created_at timestamptz primary key, host text, status int, source text, device_uuid text);
                 insert into public.devices values ({key}, 'found');
                 insert into public.entries values (now(), 'h', 200, 's', {key}), (now() - interval '1 s', 'h', 200, 's', 'no key at all'),
                     (now() - interval '2 s', 'h', 200, 's', '99999999999999999999'), (now() - interval '3 s', 'h', 200, 's', '017');
                 select busymate_stats.attach('public.entries', 'public.devices')"
            ))
            .unwrap();
        let names: Value = value(
            &mut client,
            "select jsonb_agg(d -> 'name' order by d ->> 'device_uuid' collate \"C\")
               from jsonb_array_elements(public.get_stats() -> 'top_devices') d",
        );
        let named = names.as_array().unwrap().iter().filter(|name| *name == "found").count();
        assert_eq!((named, names.as_array().unwrap().len()), (1, 4), "{kind}: {names}");
    }
}

#[test]
fn detach_and_drop_leave_nothing() {
    let (_, mut client) = counted("leave", 3);
    client.batch_execute("insert into public.devices (name) values ('late')").unwrap();
    client.batch_execute("select busymate_stats.detach()").unwrap();
    let left: i64 = value(
        &mut client,
        "select (select count(*) from pg_trigger where tgrelid = 'public.devices'::regclass and not tgisinternal)
              + (select count(*) from busymate_stats_internal.roster_state) + (select count(*) from busymate_stats_internal.roster_moments)
              + (select count(*) from busymate_stats_internal.roster_changes) + (select count(*) from busymate_stats_internal.roster_look)",
    );
    assert_eq!(left, 0);
    client.batch_execute("insert into public.devices (name) values ('alone')").unwrap();
    assert_eq!(changes(&mut client), 0);
    client
        .batch_execute(
            "select busymate_stats.attach('public.entries', 'public.devices'); drop extension busymate_stats",
        )
        .unwrap();
    let left: i64 = value(
        &mut client,
        "select count(*) from pg_trigger where tgrelid = 'public.devices'::regclass and not tgisinternal",
    );
    assert_eq!(left, 0);
}
