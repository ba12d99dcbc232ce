//! A role that owns what is attached, or a slow query, keeps no worker for ever: every step has a time limit, no database
//! keeps the workers from the others, and a worker ends for the session that waits for what it holds.

use harness::worker::{
    EVERY_SECOND, fleet_in, health, mid_refresh, next_refresh, refreshes, report, sleeping_worker, updated_at,
};
use harness::{Cluster, eventually, eventually_within, value};
use postgres::Client;
use std::time::{Duration, Instant};

/// Longer than a step may take, and its grace.
const LIMIT: Duration = Duration::from_secs(300);

/// Has reading `table` sleep for ever, for a worker alone: an ordinary role owns it, and an index whose predicate PostgreSQL
/// computes when it plans a query. `heeds` is whether a cancel ends it.
fn sleeps_in_the_planner(client: &mut Client, table: &str, heeds: bool) {
    let caught = if heeds { "" } else { "exception when query_canceled then null;" };
    client
        .batch_execute(&format!(
            "do $$ begin create role sleeper; exception when duplicate_object then null; end $$;
             create schema lair;
             create function lair.nap(ready int) returns bool language plpgsql immutable as $$
             begin
                while current_setting('application_name') = 'busymate_stats' loop
                    begin
                        perform pg_sleep(3600);
                    {caught} end;
                end loop;
                return true;
             end $$;
             grant usage on schema lair to sleeper;
             alter function lair.nap owner to sleeper;
             create index on {table} (device_uuid) where lair.nap(1);
             select busymate_stats.detach();
             alter table {table} owner to sleeper;
             select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
}

fn error_of(client: &mut Client, feed: &str) -> Option<String> {
    value(client, &format!("select last_error from busymate_stats.health where feed = '{feed}'"))
}

/// Two of them used to take both slots, and no other database had a tick of any kind.
#[test]
fn owners_who_sleep_in_the_planner_keep_no_other_database_waiting() {
    let cluster = Cluster::start(&format!("{EVERY_SECOND}\nbusymate_stats.seal_interval = 1s"));
    let (_, mut witness) = fleet_in(&cluster, "witness");
    let mut hostile = Vec::new();
    for heeds in [true, false] {
        let (_, mut client) = fleet_in(&cluster, "hostile");
        next_refresh(&mut client);
        sleeps_in_the_planner(&mut client, "public.entries", heeds);
        hostile.push(client);
    }
    refreshes(&mut witness, 5);
    for client in &mut hostile {
        eventually_within(LIMIT, "health shows why it is not refreshed", || error_of(client, "stats"));
        refreshes(&mut witness, 2);
    }
}

#[test]
fn a_step_of_the_sealer_has_a_time_limit_too() {
    let cluster = Cluster::start(&format!("{EVERY_SECOND}\nbusymate_stats.seal_interval = 1s"));
    let (_, mut client) = fleet_in(&cluster, "sleepy");
    next_refresh(&mut client);
    sleeps_in_the_planner(&mut client, "public.entries", true);
    for feed in ["stats", "seal"] {
        let error = eventually_within(LIMIT, "health shows the error", || error_of(&mut client, feed));
        assert_eq!(error, "57014: canceling statement due to statement timeout", "{feed}");
    }
    client
        .batch_execute(
            "create or replace function lair.nap(ready int) returns bool language sql immutable return true",
        )
        .unwrap();
    for feed in ["stats", "seal"] {
        eventually_within(LIMIT, "it heals", || error_of(&mut client, feed).is_none().then_some(()));
    }
}

#[test]
fn whoever_catches_the_cancel_is_ended_all_the_same() {
    let cluster = Cluster::start(&format!("{EVERY_SECOND}\nbusymate_stats.seal_interval = 1s"));
    let (_, mut client) = fleet_in(&cluster, "deaf");
    next_refresh(&mut client);
    sleeps_in_the_planner(&mut client, "public.entries", false);
    for feed in ["stats", "seal"] {
        let error = eventually_within(LIMIT, "health shows the error", || error_of(&mut client, feed));
        assert_eq!(error, "57014: a worker was ended: its time was over, and it went on", "{feed}");
    }
}

/// `statement` waits for what a worker holds that reads `table` for ten hours.
fn is_not_kept_waiting(table: &str, statements: &[&str]) {
    let cluster = Cluster::start("busymate_stats.refresh_interval = 1h\nbusymate_stats.seal_interval = 0");
    let (database, mut client) = fleet_in(&cluster, "wanted");
    eventually("it is refreshed", || updated_at(&mut client));
    client.batch_execute("create table public.bystander (x int)").unwrap();
    sleeps_in_the_planner(&mut client, table, true);
    client.batch_execute("set lock_timeout = '50s'").unwrap();
    for statement in statements {
        mid_refresh(&mut client, &database);
        let started = Instant::now();
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        report(&format!("{statement} beside a refresh that sleeps: {:?}", started.elapsed()));
    }
}

#[test]
fn a_worker_makes_way_for_ddl_on_entries() {
    is_not_kept_waiting(
        "public.entries",
        &[
            "vacuum full public.entries",
            "alter table public.entries add column extra int",
            // It waits for every snapshot that is older.
            "create index concurrently on public.bystander (x)",
        ],
    );
}

#[test]
fn a_worker_makes_way_for_ddl_on_devices() {
    is_not_kept_waiting("public.devices", &["vacuum full public.devices", "truncate public.devices"]);
}

/// Statements that do not conflict leave it alone.
#[test]
fn a_worker_does_not_make_way_for_writers() {
    let cluster = Cluster::start("busymate_stats.refresh_interval = 1h\nbusymate_stats.seal_interval = 0");
    let (database, mut client) = fleet_in(&cluster, "written");
    eventually("it is refreshed", || updated_at(&mut client));
    sleeps_in_the_planner(&mut client, "public.entries", true);
    let worker = mid_refresh(&mut client, &database);
    // One waits for the other, and not for the worker; several looks of the launcher's go by.
    let mut first = cluster.connect(&database);
    first.batch_execute("begin; lock table public.entries in share row exclusive mode").unwrap();
    let mut second = cluster.connect(&database);
    second.batch_execute("set lock_timeout = '4s'").unwrap();
    second.batch_execute("insert into public.entries (owner, host) values (0, 'h')").unwrap_err();
    assert_eq!(sleeping_worker(&mut client, &database), Some(worker));
}

#[test]
fn health_says_that_other_databases_have_the_workers() {
    // Our share of four slots is one.
    let cluster = Cluster::start(&format!("{EVERY_SECOND}\nmax_worker_processes = 4"));
    let (_, mut witness) = fleet_in(&cluster, "late");
    next_refresh(&mut witness);
    let because = |client: &mut Client| health(client, "detail ->> 'late_because'");
    eventually("nothing is late", || because(&mut witness).is_none().then_some(()));
    let (_, mut hostile) = fleet_in(&cluster, "hog");
    next_refresh(&mut hostile);
    sleeps_in_the_planner(&mut hostile, "public.entries", true);
    let said = eventually("health says so", || because(&mut witness));
    assert_eq!(said, "all workers are at work in other databases");
    refreshes(&mut witness, 1);
    hostile.batch_execute("select busymate_stats.detach()").unwrap();
    eventually_within(LIMIT, "nothing is late any more", || because(&mut witness).is_none().then_some(()));
}
