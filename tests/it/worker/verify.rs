//! The worker holds what is sealed against a plain count: a difference is told, shown and mended, and the count is in
//! nobody's way.

use harness::worker::{fleet_in, logged, mid_refresh, report, set_pause, sleeping_worker};
use harness::{Cluster, eventually, value};
use postgres::Client;
use std::collections::BTreeSet;
use std::time::Instant;

const DIFFERS: &str = "the sealed statistics differ from a plain count";

/// Each test has one of its own: in a cluster one database after the other is verified, and some here take for ever.
fn cluster() -> Cluster {
    Cluster::start(
        "busymate_stats.refresh_interval = 0\nbusymate_stats.status_interval = 0\n\
         busymate_stats.seal_interval = 1s\nbusymate_stats.seal_lag = 200ms\nbusymate_stats.verify_interval = 1s",
    )
}

fn write_entries(client: &mut Client) {
    client
        .batch_execute(
            "insert into entries (created_at, host, status, source)
             select now() - i * interval '1 minute', 'host' || i % 7, 200, 'vpn' from generate_series(0, 2000) i",
        )
        .unwrap();
}

fn seal(client: &mut Client, expression: &str) -> Option<String> {
    value(client, &format!("select ({expression})::text from busymate_stats.health where feed = 'seal'"))
}

/// Awaits a verification that was begun from now on.
fn next_verification(client: &mut Client) {
    let now: String = value(client, "select clock_timestamp()::text");
    let later = format!("(detail ->> 'verified_at')::timestamptz > '{now}'");
    eventually("it is verified", || (seal(client, &later).as_deref() == Some("true")).then_some(()));
}

#[test]
fn what_is_right_is_verified_in_silence() {
    let cluster = cluster();
    let (_, mut client) = fleet_in(&cluster, "right");
    write_entries(&mut client);
    next_verification(&mut client);
    next_verification(&mut client);
    assert_eq!(seal(&mut client, "detail ->> 'mismatch'"), None);
    assert_eq!(seal(&mut client, "detail ->> 'verify_error'"), None);
    assert_eq!(seal(&mut client, "detail ->> 'verify_interval'").as_deref(), Some("00:00:01"));
    let markers: i64 = value(&mut client, "select count(*) from busymate_stats_internal.seal_markers");
    assert_eq!(markers, 0);
}

/// A state that counts what is not there: nobody but a superuser with a mind to can make one, so it stands for a fault
/// of ours.
#[test]
fn a_difference_is_logged_once_shown_and_mended() {
    let cluster = cluster();
    let (_, mut client) = fleet_in(&cluster, "wrong");
    write_entries(&mut client);
    next_verification(&mut client);
    client
        .batch_execute(
            "begin; lock table busymate_stats_internal.seal_state;
             update busymate_stats_internal.seal_state set total = total + 5, last_hour = last_hour - 1;
             commit",
        )
        .unwrap();
    let found = eventually("the difference is found", || seal(&mut client, "detail ->> 'mismatch'"));
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["total_entries"], serde_json::json!({"incremental": 2006, "recomputed": 2001}));
    let hour = &found["entries_1h"];
    assert_eq!(hour["incremental"].as_i64().unwrap() + 1, hour["recomputed"].as_i64().unwrap());
    assert!(seal(&mut client, "detail ->> 'mismatch_at'").is_some());

    eventually("it is sealed again", || {
        (seal(&mut client, "detail ->> 'sealed'").as_deref() == Some("true")).then_some(())
    });
    let wrong: i64 = value(&mut client, "select count(*) from busymate_stats.verify()");
    assert_eq!(wrong, 0);
    next_verification(&mut client);
    next_verification(&mut client);
    assert_eq!(logged(&cluster, DIFFERS), 1);
    assert_eq!(logged(&cluster, "total_entries 2006 instead of 2001"), 1);
    // What happened can still be seen.
    assert!(seal(&mut client, "detail ->> 'mismatch'").is_some());
}

#[test]
fn a_difference_in_devices_is_mended_too() {
    let cluster = cluster();
    let (_, mut client) = fleet_in(&cluster, "wrong_devices");
    write_entries(&mut client);
    client
        .batch_execute("insert into devices (name) select 'one of ' || n from generate_series(1, 7) n")
        .unwrap();
    next_verification(&mut client);
    let counted = "exists (select from busymate_stats_internal.roster_state)";
    eventually("devices are counted", || {
        value::<bool>(&mut client, &format!("select {counted}")).then_some(())
    });
    client
        .batch_execute(
            "begin; lock table busymate_stats_internal.roster_state;
             update busymate_stats_internal.roster_state set total = total + 5;
             commit",
        )
        .unwrap();
    let found = eventually("the difference is found", || seal(&mut client, "detail ->> 'mismatch'"));
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["total_devices"], serde_json::json!({"incremental": 12, "recomputed": 7}));
    eventually("it is right again", || {
        value::<bool>(&mut client, "select get_stats() -> 'total_devices' = '7'").then_some(())
    });
    next_verification(&mut client);
    next_verification(&mut client);
    assert_eq!(logged(&cluster, DIFFERS), 1);
}

/// A sealer that is at work may be doing anything but counting: what was found must not pass for mended.
#[test]
fn a_difference_is_not_told_before_it_can_be_mended() {
    let cluster = cluster();
    let (database, mut client) = fleet_in(&cluster, "held");
    write_entries(&mut client);
    client.batch_execute("insert into devices (name) values ('one')").unwrap();
    next_verification(&mut client);
    eventually("devices are counted", || {
        value::<bool>(&mut client, "select exists (select from busymate_stats_internal.roster_state)")
            .then_some(())
    });
    let mut sealer = cluster.connect(&database);
    sealer
        .batch_execute(
            "begin; lock table busymate_stats_internal.roster_state in share update exclusive mode;
             update busymate_stats_internal.roster_state set total = total + 5; commit;
             begin; lock table busymate_stats_internal.roster_state in share update exclusive mode",
        )
        .unwrap();
    // Seals come too; of so many ticks some are verifications.
    let mut seen = BTreeSet::new();
    eventually("workers have come and gone", || {
        let found = client
            .query("select pid from pg_stat_activity where backend_type = 'busymate_stats worker'", &[])
            .unwrap();
        seen.extend(found.iter().map(|row| row.get::<_, i32>(0)));
        (seen.len() > 2).then_some(())
    });
    assert_eq!(logged(&cluster, DIFFERS), 0);
    sealer.batch_execute("commit").unwrap();
    eventually("the difference is found", || seal(&mut client, "detail ->> 'mismatch'"));
    assert_eq!(value::<i64>(&mut client, "select (get_stats() ->> 'total_devices')::int8"), 1);
    next_verification(&mut client);
    assert_eq!(logged(&cluster, DIFFERS), 1);
}

/// Plain entries, whose devices take as long to read as [`set_pause`] says.
fn slow_count(cluster: &Cluster, prefix: &str) -> (String, Client) {
    let database = cluster.create_database(prefix);
    let mut client = cluster.connect(&database);
    client
        .batch_execute(
            "create extension busymate_stats;
             create table pause (seconds float8 not null);
             insert into pause values (0);
             create table entries (created_at timestamptz not null, device_uuid uuid, host text, status int, source text);
             create index on entries (created_at);
             create view slow_devices as
                select gen_random_uuid() as device_uuid, 'slow' as name, 'vpn' as connection_type,
                       now() as last_seen_at
                  from pause, lateral pg_sleep(pause.seconds);
             select busymate_stats.attach('entries', 'slow_devices')",
        )
        .unwrap();
    write_entries(&mut client);
    next_verification(&mut client);
    set_pause(&mut client, 3600.0);
    (database, client)
}

#[test]
fn a_count_is_ended_for_whoever_waits() {
    let cluster = cluster();
    let (database, mut client) = slow_count(&cluster, "waiting");
    let mut other = cluster.connect("postgres");
    client.batch_execute("set lock_timeout = '4s'").unwrap();
    for statement in [
        "alter table entries add column note text",
        "truncate entries",
        "lock table entries",
        "create or replace view slow_devices as
            select gen_random_uuid() as device_uuid, 'slow' as name, 'vpn' as connection_type,
                   now() as last_seen_at, 1 as note
              from pause, lateral pg_sleep(pause.seconds)",
        "drop extension busymate_stats",
    ] {
        mid_refresh(&mut other, &database);
        let started = Instant::now();
        client.batch_execute(&format!("begin; {statement}; commit")).unwrap_or_else(|error| {
            panic!("{statement}: {error:?}");
        });
        report(&format!("{statement:.30}… during a verification: {:?}", started.elapsed()));
    }
}

#[test]
fn a_count_is_ended_for_ddl_on_its_database() {
    let cluster = cluster();
    let (database, client) = slow_count(&cluster, "copied");
    let mut other = cluster.connect("postgres");
    mid_refresh(&mut other, &database);
    drop(client);
    harness::worker::nobody_connected(&mut other, &database);
    let started = Instant::now();
    other.batch_execute(&format!("create database {database}_copy template {database}")).unwrap();
    report(&format!("a copy of the database during a verification: {:?}", started.elapsed()));
    // One of the two is counted, and the other when that one is gone.
    let mut left = vec![format!("{database}_copy"), database];
    while !left.is_empty() {
        let counted = eventually("a database is counted", || {
            left.iter().position(|name| sleeping_worker(&mut other, name).is_some())
        });
        other.batch_execute(&format!("drop database {}", left.remove(counted))).unwrap();
    }
}

/// A count that was cancelled is an error that is told, and the next one comes.
#[test]
fn a_cancelled_count_is_told_and_made_again() {
    let cluster = cluster();
    let (database, mut client) = slow_count(&cluster, "cancelled");
    let worker = mid_refresh(&mut client, &database);
    client.execute("select pg_cancel_backend($1)", &[&worker]).unwrap();
    let told = eventually("it is told", || seal(&mut client, "detail ->> 'verify_error'"));
    assert!(told.starts_with("57014: "), "{told}");
    let again = mid_refresh(&mut client, &database);
    assert_ne!(again, worker);
    set_pause(&mut client, 0.0);
    client.execute("select pg_cancel_backend($1)", &[&again]).unwrap();
    next_verification(&mut client);
    assert_eq!(seal(&mut client, "detail ->> 'verify_error'"), None);
}
