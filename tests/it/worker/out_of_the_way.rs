//! DDL on databases and on the extension, and a server's stop, never fail because of the workers, and never wait for one.

use harness::worker::{
    EVERY_SECOND, first_refresh, fleet_in, launcher, mid_refresh, next_refresh, nobody_connected, refreshes,
    report, set_pause, slow_fleet_in,
};
use harness::{Cluster, eventually};
use postgres::Client;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// As good as for ever: whoever waited for such a refresh would fail.
const FOR_EVER: f64 = 3600.0;

fn every_second() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start(&format!("{EVERY_SECOND}\nallow_in_place_tablespaces = on"));
        cluster.connect("postgres").batch_execute("create tablespace elsewhere location ''").unwrap();
        cluster
    })
}

/// Runs a statement that PostgreSQL lets fail after five seconds if somebody stays in the database.
fn run_now(client: &mut Client, statement: &str, longest: &mut Duration) {
    let started = Instant::now();
    client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    *longest = started.elapsed().max(*longest);
}

/// Copies, renames, moves and drops in one go, at whatever moment of the ticks this falls on.
#[test]
fn databases_come_and_go_between_and_at_the_ticks() {
    let cluster = every_second();
    let (source, mut client) = fleet_in(cluster, "busy");
    let (_, mut witness) = fleet_in(cluster, "witness");
    let mut other = cluster.connect("postgres");
    next_refresh(&mut client);
    drop(client);
    nobody_connected(&mut other, &source);

    let mut longest = Duration::ZERO;
    let mut rounds = 0;
    let started = next_refresh(&mut witness);
    while harness::worker::updated_at(&mut witness) < Some(started + 10_000_000) {
        for statement in [
            format!("create database {source}_copy template {source}"),
            format!("alter database {source} rename to {source}_renamed"),
            format!("alter database {source}_renamed set tablespace elsewhere"),
            format!("alter database {source}_renamed set tablespace pg_default"),
            format!("alter database {source}_renamed rename to {source}"),
            format!("drop database {source}_copy"),
        ] {
            run_now(&mut other, &statement, &mut longest);
        }
        rounds += 1;
    }
    report(&format!("{rounds} rounds of DDL over ten ticks: the longest statement took {longest:?}"));
    refreshes(&mut cluster.connect(&source), 2);
}

#[test]
fn a_slow_refresh_is_ended_for_ddl_on_its_database() {
    let cluster = every_second();
    let (source, mut client) = slow_fleet_in(cluster, "slow");
    next_refresh(&mut client);
    set_pause(&mut client, FOR_EVER);
    drop(client);
    let mut other = cluster.connect("postgres");
    let mut longest = Duration::ZERO;
    let mut name = source.clone();
    for (statement, next_name) in [
        (format!("create database {source}_copy template {source}"), source.clone()),
        (format!("alter database {source} rename to {source}_renamed"), format!("{source}_renamed")),
        (format!("alter database {source}_renamed set tablespace elsewhere"), format!("{source}_renamed")),
        (format!("drop database {source}_renamed"), String::new()),
    ] {
        nobody_connected(&mut other, &name);
        mid_refresh(&mut other, &name);
        run_now(&mut other, &statement, &mut longest);
        name = next_name;
    }
    report(&format!("DDL on a database in a slow refresh: the longest statement took {longest:?}"));
    // The copy is in a slow refresh as well, or soon.
    other.batch_execute(&format!("drop database {source}_copy")).unwrap();
}

#[test]
fn a_slow_refresh_does_not_hold_up_ddl_on_other_databases() {
    let cluster = every_second();
    let (slow, mut client) = slow_fleet_in(cluster, "slow_elsewhere");
    set_pause(&mut client, FOR_EVER);
    let mut other = cluster.connect("postgres");
    let worker = mid_refresh(&mut other, &slow);
    let mut longest = Duration::ZERO;
    for statement in [
        "create database bystander",
        "create database bystander_copy template bystander strategy file_copy",
        "alter database bystander rename to bystander_renamed",
        "alter database bystander_renamed set tablespace elsewhere",
        "drop database bystander_renamed",
        "drop database bystander_copy",
    ] {
        run_now(&mut other, statement, &mut longest);
    }
    report(&format!("DDL on databases beside a slow refresh: the longest statement took {longest:?}"));
    // And it went on all the while.
    let pid: i64 = harness::value(
        &mut other,
        &format!("select count(*) from pg_stat_activity where pid = {worker} and datname = '{slow}'"),
    );
    assert_eq!(pid, 1);
    drop(client);
    nobody_connected(&mut other, &slow);
    other.batch_execute(&format!("drop database {slow}")).unwrap();
}

/// A fleet in the middle of a refresh that nothing but a signal ends: a refresh may take ten intervals, here ten hours.
fn endless_refresh(cluster: &Cluster, prefix: &str) -> (String, Client) {
    let (database, mut client) = slow_fleet_in(cluster, prefix);
    first_refresh(&mut client);
    set_pause(&mut client, FOR_EVER);
    client
        .batch_execute(
            "select busymate_stats.detach(); select busymate_stats.attach('slow_entries', 'devices')",
        )
        .unwrap();
    mid_refresh(&mut client, &database);
    (database, client)
}

/// A terminated launcher leaves no worker behind that nobody watches.
#[test]
fn a_slow_refresh_is_ended_for_ddl_though_the_launcher_was_terminated() {
    let cluster = Cluster::start("busymate_stats.refresh_interval = 1h");
    let (slow, client) = endless_refresh(&cluster, "orphaned");
    let mut other = cluster.connect("postgres");
    let worker = mid_refresh(&mut other, &slow);
    let before = launcher(&mut other).unwrap();
    other.execute("select pg_terminate_backend($1)", &[&before]).unwrap();
    eventually("the worker ends with its launcher", || {
        let left = format!("select count(*) from pg_stat_activity where pid = {worker}");
        (harness::value::<i64>(&mut other, &left) == 0).then_some(())
    });
    mid_refresh(&mut other, &slow);
    drop(client);
    nobody_connected(&mut other, &slow);
    other.batch_execute(&format!("drop database {slow}")).unwrap();
}

#[test]
fn the_extension_can_be_altered_and_dropped_during_a_slow_refresh() {
    let cluster = every_second();
    let (slow, mut client) = slow_fleet_in(cluster, "slow_extension");
    set_pause(&mut client, FOR_EVER);
    let worker = mid_refresh(&mut client, &slow);
    client
        .batch_execute(
            "set lock_timeout = '4s';
             create table member ();
             alter extension busymate_stats add table member;
             alter extension busymate_stats drop table member;
             drop extension busymate_stats",
        )
        .unwrap();
    // What went by was a refresh: it reads on, and finds at its end that there is nowhere to write.
    assert_eq!(mid_refresh(&mut client, &slow), worker);
    client.execute("select pg_terminate_backend($1)", &[&worker]).unwrap();
    set_pause(&mut client, 0.0);
    client
        .batch_execute(
            "create extension busymate_stats; select busymate_stats.attach('slow_entries', 'devices')",
        )
        .unwrap();
    refreshes(&mut client, 2);
}

#[test]
fn the_server_stops_during_a_slow_refresh() {
    let cluster = Cluster::start("busymate_stats.refresh_interval = 1h");
    let (slow, mut client) = endless_refresh(&cluster, "stopped");
    for mode in ["fast", "smart"] {
        // After a start every database is refreshed at once.
        mid_refresh(&mut client, &slow);
        drop(client);
        let started = Instant::now();
        cluster.stop(mode);
        report(&format!("{mode} stop during a slow refresh: {:?}", started.elapsed()));
        cluster.start_again();
        client = cluster.connect(&slow);
    }
    assert!(!cluster.log().contains("PANIC") && !cluster.log().contains("terminated by signal"));
}
