//! A refresh that fails is seen in `health` and in the log, once, and heals by itself; so does whatever kills a process.

use harness::worker::{
    EVERY_SECOND, fleet_in, health, logged, next_refresh, refreshes, set_pause, slow_fleet_in,
};
use harness::{Cluster, eventually, value};
use postgres::Client;
use std::sync::OnceLock;

fn every_second() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(EVERY_SECOND))
}

/// Awaits an error in `health`, and gives it.
#[track_caller]
fn failed(client: &mut Client) -> String {
    eventually("health shows an error", || health(client, "last_error"))
}

#[test]
fn an_error_is_shown_and_logged_once_and_heals() {
    // A cluster of its own, for its log.
    let cluster = Cluster::start(EVERY_SECOND);
    let (_, mut client) = fleet_in(&cluster, "broken");
    let (_, mut witness) = fleet_in(&cluster, "witness");
    next_refresh(&mut client);
    client.batch_execute("alter table public.entries rename column host to hostname").unwrap();
    let renamed = "42703: column \"host\" of the attached relation public.entries does not exist. \
                   Run SELECT busymate_stats.detach(), then attach it again with the column's new name: attach(…, host => '…').";
    assert_eq!(failed(&mut client), renamed);
    let since = health(&mut client, "detail ->> 'error_since'");
    assert!(since.is_some());
    refreshes(&mut witness, 3);
    assert_eq!(health(&mut client, "detail ->> 'error_since'"), since, "it fails since then");

    client.batch_execute("alter table public.entries rename column hostname to host").unwrap();
    refreshes(&mut client, 3);
    assert_eq!(health(&mut client, "last_error"), None);
    assert_eq!(health(&mut client, "detail ->> 'error_since'"), None);
    assert_eq!(logged(&cluster, "WARNING:  busymate_stats could not refresh the stats feed: column"), 1);
    assert_eq!(logged(&cluster, "busymate_stats refreshes the stats feed again"), 1);
    assert_eq!(logged(&cluster, "ERROR"), 0);

    client.batch_execute("drop table public.entries").unwrap();
    let dropped = "42P01: the attached relation of entries no longer exists. \
                   Run SELECT busymate_stats.detach(), then attach the relation that took its place.";
    assert_eq!(failed(&mut client), dropped);
}

#[test]
fn a_lock_is_not_waited_for_long() {
    let (database, mut client) = fleet_in(every_second(), "locked");
    next_refresh(&mut client);
    let mut holder = every_second().connect(&database);
    holder.batch_execute("begin; lock table public.entries in access exclusive mode").unwrap();
    assert_eq!(failed(&mut client), "55P03: canceling statement due to lock timeout");
    holder.batch_execute("rollback").unwrap();
    refreshes(&mut client, 2);
    assert_eq!(health(&mut client, "last_error"), None);
}

#[test]
fn a_refresh_that_takes_too_long_is_ended() {
    let (_, mut client) = slow_fleet_in(every_second(), "endless");
    next_refresh(&mut client);
    set_pause(&mut client, 3600.0);
    assert_eq!(failed(&mut client), "57014: canceling statement due to statement timeout");
    set_pause(&mut client, 0.0);
    refreshes(&mut client, 2);
    assert_eq!(health(&mut client, "last_error"), None);
}

#[test]
fn no_free_worker_slot_is_told_once_and_heals() {
    // The replication launcher and ours leave one slot.
    let cluster = Cluster::start(&format!("{EVERY_SECOND}\nmax_worker_processes = 3"));
    let (database, mut client) = fleet_in(&cluster, "crowded");
    next_refresh(&mut client);
    let holder = take_the_last_slot(&cluster, &database, &mut client);
    let since = |client: &mut Client| health(client, "detail ->> 'no_free_worker_slot_since'");
    eventually("health shows that no slot is free", || since(&mut client));
    // It goes on trying meanwhile, and says no more.
    let server_time =
        |client: &mut Client| value::<f64>(client, "select extract(epoch from clock_timestamp())::float8");
    let until = server_time(&mut client) + 4.0;
    eventually("several attempts have failed", || (server_time(&mut client) > until).then_some(()));
    assert_eq!(logged(&cluster, "WARNING:  busymate_stats found no free background worker slot"), 1);
    assert!(since(&mut client).is_some());

    client.execute("select pg_cancel_backend($1)", &[&holder.pid]).unwrap();
    holder.thread.join().unwrap();
    refreshes(&mut client, 2);
    assert_eq!(since(&mut client), None);
    assert_eq!(logged(&cluster, "WARNING:  busymate_stats found no free background worker slot"), 1);
    assert_eq!(logged(&cluster, "busymate_stats has a background worker slot again"), 1);
    assert_eq!(logged(&cluster, "terminated by signal"), 0);
}

struct Holder {
    pid: i32,
    thread: std::thread::JoinHandle<()>,
}

/// A session whose parallel worker sleeps. It may lose the race for the slot against ours, and then tries again.
fn take_the_last_slot(cluster: &Cluster, database: &str, observer: &mut Client) -> Holder {
    eventually("another has the last slot", || {
        let mut session = cluster.connect(database);
        let pid = value(&mut session, "select pg_backend_pid()");
        let thread = std::thread::spawn(move || {
            let forced = harness::forces_parallel_plans();
            session.batch_execute(&format!("set {forced} = on")).unwrap();
            let _ = session.batch_execute("select pg_sleep(3600)");
        });
        let sleeper: String = eventually("somebody sleeps", || {
            let query = format!(
                "select backend_type from pg_stat_activity
                  where wait_event = 'PgSleep' and (pid = {pid} or leader_pid = {pid})"
            );
            observer.query(&query, &[]).unwrap().first().map(|row| row.get(0))
        });
        if sleeper == "parallel worker" {
            return Some(Holder { pid, thread });
        }
        observer.execute("select pg_cancel_backend($1)", &[&pid]).unwrap();
        thread.join().unwrap();
        None
    })
}

#[test]
fn a_library_of_another_version_does_nothing_and_says_so_once() {
    let cluster = Cluster::start(EVERY_SECOND);
    let (_, mut client) = fleet_in(&cluster, "older");
    let (_, mut witness) = fleet_in(&cluster, "witness");
    next_refresh(&mut client);
    let set = |client: &mut Client, version: &str| {
        let update = "update pg_extension set extversion = $1 where extname = 'busymate_stats'";
        client.execute(update, &[&version]).unwrap();
    };
    let differs = "has another version than the library";
    for round in 1..=2 {
        set(&mut client, "0.0.9");
        eventually("the log tells", || (logged(&cluster, differs) == round).then_some(()));
        let before = harness::worker::updated_at(&mut client);
        refreshes(&mut witness, 3);
        assert_eq!(harness::worker::updated_at(&mut client), before);
        assert_eq!(logged(&cluster, differs), round);
        assert_eq!(health(&mut client, "detail -> 'versions_differ'").as_deref(), Some("true"));
        assert_eq!(health(&mut client, "detail ->> 'extension_version'").as_deref(), Some("0.0.9"));
        set(&mut client, env!("CARGO_PKG_VERSION"));
        refreshes(&mut client, 2);
        assert_eq!(health(&mut client, "detail -> 'versions_differ'").as_deref(), Some("false"));
    }
}

#[test]
fn settings_of_a_database_do_not_stop_it() {
    let (database, mut client) = fleet_in(every_second(), "odd");
    client
        .batch_execute("create role odd_role; create schema odd; create table odd.service_stats ()")
        .unwrap();
    for (name, setting) in [
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("search_path", "odd"),
        ("role", "odd_role"),
        ("session_authorization", "odd_role"),
        ("exit_on_error", "on"),
        ("statement_timeout", "1ms"),
        ("lock_timeout", "1ms"),
        ("idle_in_transaction_session_timeout", "1ms"),
        ("session_replication_role", "replica"),
        ("row_security", "off"),
        ("client_encoding", "latin1"),
        ("datestyle", "German"),
        ("intervalstyle", "sql_standard"),
        ("timezone", "Asia/Kathmandu"),
        ("transform_null_equals", "on"),
        ("log_statement", "all"),
    ] {
        client.batch_execute(&format!("alter database {database} set {name} = '{setting}'")).unwrap();
    }
    refreshes(&mut client, 3);
    assert_eq!(health(&mut client, "last_error"), None);
    drop(client);
}

/// With exit_on_error any error ends a session: the worker's is told all the same.
#[test]
fn an_error_is_told_where_errors_end_sessions() {
    let (database, mut client) = fleet_in(every_second(), "strict");
    next_refresh(&mut client);
    client
        .batch_execute(&format!(
            "alter database {database} set exit_on_error = on;
             alter table public.entries rename column host to hostname"
        ))
        .unwrap();
    assert!(failed(&mut client).starts_with("42703: "));
    client.batch_execute("alter table public.entries rename column hostname to host").unwrap();
    refreshes(&mut client, 2);
    assert_eq!(health(&mut client, "last_error"), None);
}

/// What settings do to every job, one setting at a time: what one of them breaks, another could hide.
#[test]
fn no_setting_of_a_database_stops_any_job() {
    let cluster = Cluster::start(&format!(
        "{EVERY_SECOND}\nbusymate_stats.seal_interval = 1s\nbusymate_stats.status_interval = 1s
         busymate_stats.verify_interval = 1s"
    ));
    let (database, mut client) = fleet_in(&cluster, "set");
    client.batch_execute("create role odd_role; create schema odd").unwrap();
    let verified = "(detail ->> 'verified_at')::timestamptz";
    let jobs =
        [("stats", "last_refresh"), ("seal", "last_refresh"), ("status", "last_refresh"), ("seal", verified)];
    let last = |client: &mut Client, (feed, moment): (&str, &str)| -> Option<i64> {
        let query = format!(
            "select (extract(epoch from {moment}) * 1000000)::int8 from busymate_stats.health where feed = '{feed}'"
        );
        value(client, &query)
    };
    let forced = harness::forces_parallel_plans();
    for (name, setting) in [
        ("session_authorization", "odd_role"),
        ("role", "odd_role"),
        ("exit_on_error", "on"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("statement_timeout", "1ms"),
        ("lock_timeout", "1ms"),
        ("idle_in_transaction_session_timeout", "1ms"),
        ("idle_session_timeout", "1ms"),
        ("row_security", "off"),
        ("session_replication_role", "replica"),
        ("search_path", "odd"),
        ("standard_conforming_strings", "off"),
        ("backslash_quote", "off"),
        ("array_nulls", "off"),
        ("quote_all_identifiers", "on"),
        ("transform_null_equals", "on"),
        (forced, "on"),
    ] {
        client.batch_execute(&format!("alter database {database} set {name} = '{setting}'")).unwrap();
        let now: i64 = value(&mut client, "select (extract(epoch from clock_timestamp()) * 1000000)::int8");
        for job in jobs {
            eventually(&format!("{job:?} goes on with {name} = {setting}"), || {
                (last(&mut client, job)? > now + 1_000_000).then_some(())
            });
        }
        let errors: i64 = value(
            &mut client,
            "select count(*) from busymate_stats.health where last_error is not null or detail ->> 'verify_error' is not null",
        );
        assert_eq!(errors, 0, "with {name} = {setting}");
        client.batch_execute(&format!("alter database {database} reset {name}")).unwrap();
    }
}

/// A standby that is named and not there holds up whoever waits for it. The worker does not.
#[test]
fn it_waits_for_no_standby() {
    let cluster = Cluster::start(EVERY_SECOND);
    let (_, mut client) = fleet_in(&cluster, "unsynchronous");
    next_refresh(&mut client);
    cluster.configure("synchronous_standby_names = 'nobody'\nsynchronous_commit = remote_apply");
    cluster.reload();
    let setting = "select current_setting('synchronous_standby_names')";
    eventually("the setting is known", || (value::<String>(&mut client, setting) == "nobody").then_some(()));
    refreshes(&mut client, 3);
}
