//! Whatever ends a process of ours, or the whole server, refreshes go on by themselves afterwards.

use harness::worker::{
    EVERY_SECOND, fleet_in, launcher, logged, mid_refresh, next_refresh, refreshes, set_pause, slow_fleet_in,
};
use harness::{Cluster, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;

/// A session, once the server takes one.
fn reconnect(cluster: &Cluster, database: &str) -> Client {
    eventually("the server is back", || {
        let mut client = cluster.try_connect("postgres", database).ok()?;
        client.batch_execute("select 1").ok()?;
        Some(client)
    })
}

#[test]
fn killed_processes_cost_a_restart_and_nothing_else() {
    let cluster = Cluster::start(EVERY_SECOND);
    let (database, mut client) = slow_fleet_in(&cluster, "killed");
    next_refresh(&mut client);
    set_pause(&mut client, 3600.0);
    let worker = mid_refresh(&mut client, &database);
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    eventually("the server notices", || (logged(&cluster, "terminated by signal 9") == 1).then_some(()));
    client = reconnect(&cluster, &database);
    set_pause(&mut client, 0.0);
    refreshes(&mut client, 2);

    kill(Pid::from_raw(launcher(&mut client).unwrap()), Signal::SIGKILL).unwrap();
    eventually("the server notices", || (logged(&cluster, "terminated by signal 9") == 2).then_some(()));
    client = reconnect(&cluster, &database);
    refreshes(&mut client, 2);
}

#[test]
fn a_terminated_worker_costs_a_tick() {
    let cluster = Cluster::start(EVERY_SECOND);
    let (database, mut client) = slow_fleet_in(&cluster, "terminated");
    set_pause(&mut client, 3600.0);
    let worker = mid_refresh(&mut client, &database);
    client.execute("select pg_terminate_backend($1)", &[&worker]).unwrap();
    set_pause(&mut client, 0.0);
    refreshes(&mut client, 2);
}

#[test]
fn a_terminated_launcher_comes_back() {
    let cluster = Cluster::start(EVERY_SECOND);
    let (_, mut client) = fleet_in(&cluster, "led");
    next_refresh(&mut client);
    for _ in 0..2 {
        let before = launcher(&mut client).unwrap();
        client.execute("select pg_terminate_backend($1)", &[&before]).unwrap();
        eventually("another launcher runs", || launcher(&mut client).filter(|pid| *pid != before));
        refreshes(&mut client, 2);
        let running = harness::worker::health(&mut client, "worker_running");
        assert_eq!(running.as_deref(), Some("true"));
    }
}

#[test]
fn after_an_immediate_stop_it_goes_on() {
    let cluster = Cluster::start(EVERY_SECOND);
    let (database, mut client) = fleet_in(&cluster, "crashed");
    next_refresh(&mut client);
    drop(client);
    cluster.stop("immediate");
    cluster.start_again();
    refreshes(&mut cluster.connect(&database), 2);
}
