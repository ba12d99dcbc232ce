//! Where the seal cannot be had or cannot be trusted, figures come from the plain query and are right, and `health` says
//! why and since when.

use harness::fleet::stats_at;
use harness::worker::{logged, seal, wait_for_seal};
use harness::{Cluster, eventually, value};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use std::sync::OnceLock;

const SETTINGS: &str = "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'";

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(SETTINGS))
}

const ENTRIES: &str = "insert into public.entries (created_at, host, status, source)
                       select now() - n * interval '7 min', 'h' || n % 5, 200, 'vpn' from generate_series(1, 300) n";

fn fleet_in(cluster: &Cluster, database: &str) -> Client {
    let mut client = cluster.connect(database);
    client
        .batch_execute("create extension busymate_stats; select busymate_stats.create_fleet_tables()")
        .unwrap();
    client.batch_execute(ENTRIES).unwrap();
    client
}

/// A sealed fleet.
fn sealed() -> Client {
    let mut client = fleet_in(cluster(), &cluster().create_database("plain"));
    wait_for_seal(&mut client);
    client
}

#[track_caller]
fn wait_for_reason(client: &mut Client, reason: &str) {
    eventually(reason, || seal(client, "reason").is_some_and(|shown| shown.contains(reason)).then_some(()));
    assert_eq!(seal(client, "sealed").as_deref(), Some("false"));
    assert!(value::<bool>(
        client,
        "select (detail ->> 'since')::timestamptz <= clock_timestamp() from busymate_stats.health where feed = 'seal'"
    ));
}

#[test]
fn an_unlogged_table_that_a_crash_empties() {
    let cluster = Cluster::start(SETTINGS);
    let database = cluster.create_database("unlogged");
    let mut client = fleet_in(&cluster, &database);
    wait_for_seal(&mut client);
    client.batch_execute("alter table public.entries set unlogged").unwrap();
    wait_for_reason(&mut client, "unlogged");
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 300);
    let pid: i32 = value(&mut client, "select pg_backend_pid()");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("the server notices", || (logged(&cluster, "terminated by signal 9") == 1).then_some(()));
    let mut client = eventually("the server is back", || {
        let mut client = cluster.try_connect("postgres", &database).ok()?;
        client.batch_execute("select 1").is_ok().then_some(client)
    });
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 0);
    client.batch_execute(ENTRIES).unwrap();
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 300);
    client.batch_execute("alter table public.entries set logged").unwrap();
    wait_for_seal(&mut client);
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 300);
}

/// Such a database may hold keys that differ only in bytes that no snapshot could show.
#[test]
fn a_database_without_an_encoding() {
    cluster()
        .connect("postgres")
        .batch_execute(
            "create database bytes template template0 encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'",
        )
        .unwrap();
    let mut client = fleet_in(cluster(), "bytes");
    client
        .batch_execute(
            r"insert into public.entries (host) select E'\xff' from generate_series(1, 70);
              insert into public.entries (host) select E'\xfe' from generate_series(1, 65)",
        )
        .unwrap();
    wait_for_reason(&mut client, "encoding is not UTF8");
    let figures = stats_at(&mut client, "now");
    assert_eq!(figures["total_entries"], 435);
    let top: Vec<_> = figures["top_domains"].as_array().unwrap().iter().map(|one| &one["count"]).collect();
    assert_eq!(top[..2], [70, 65], "{top:?}");
}

#[test]
fn a_threshold_that_nobody_can_read() {
    let cluster = Cluster::start(SETTINGS);
    let database = cluster.create_database("unreadable");
    let mut client = fleet_in(&cluster, &database);
    wait_for_seal(&mut client);
    client.batch_execute("delete from busymate_stats_internal.capture").unwrap();
    // What stands in memory goes too.
    cluster.restart();
    let mut client = cluster.connect(&database);
    wait_for_reason(&mut client, "there is no capture threshold");
    // Whoever writes cannot know what is late: everything is.
    client
        .batch_execute(
            "insert into public.entries (created_at) values (now()), (now() - interval '3 h'), (now() + interval '3 h')",
        )
        .unwrap();
    assert_eq!(
        value::<i64>(&mut client, "select sum(changes)::int8 from busymate_stats_internal.late_changes"),
        3
    );
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 303);
    client
        .batch_execute(
            "select busymate_stats.detach(); select busymate_stats.attach('public.entries', 'public.devices')",
        )
        .unwrap();
    wait_for_seal(&mut client);
    client.batch_execute("delete from public.entries where created_at < now() - interval '2 h'").unwrap();
    let rows: i64 = value(&mut client, "select count(*) from public.entries");
    assert_eq!(stats_at(&mut client, "now")["total_entries"], rows);
}

/// ENABLE TRIGGER ALL is what a data-only restore ends with: it leaves triggers that do not fire on a replica.
#[test]
fn triggers_that_are_enabled_but_not_always() {
    let mut client = sealed();
    client
        .batch_execute(
            "alter table public.entries disable trigger all; delete from public.entries where id <= 100;
             alter table public.entries enable trigger all",
        )
        .unwrap();
    wait_for_reason(&mut client, "trigger busymate_stats_capture is disabled on public.entries");
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 200);
    client
        .batch_execute(
            "alter table public.entries
                enable always trigger busymate_stats_capture",
        )
        .unwrap();
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 200);
    wait_for_seal(&mut client);
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 200);
}

/// What a clock that was far ahead has left behind when it is set right.
#[test]
fn a_seal_beyond_the_clock() {
    let mut client = sealed();
    let seal_ahead = |client: &mut Client, by: &str| {
        let threshold = format!(
            "insert into busymate_stats_internal.capture
             select max(gen) + 1, clock_timestamp() + interval '{by}', '-infinity' from busymate_stats_internal.capture"
        );
        client.batch_execute(&threshold).unwrap();
    };
    // By less than a day, answers are corrected.
    seal_ahead(&mut client, "61 min");
    eventually("it is sealed beyond the clock", || {
        let is_ahead = "select max(boundary) > clock_timestamp() + interval '1 hour' from busymate_stats_internal.seal_state";
        value::<bool>(&mut client, is_ahead).then_some(())
    });
    assert_eq!(seal(&mut client, "sealed").as_deref(), Some("true"));
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 300);
    seal_ahead(&mut client, "25 h");
    wait_for_reason(&mut client, "sealed beyond the clock");
    client
        .batch_execute(
            "insert into public.entries (created_at) values (now()), (now() + interval '30 min'), (now() + interval '3 h');
             delete from public.entries where id <= 10",
        )
        .unwrap();
    let moments = "select count(*) from generate_series(now() - interval '2 h', now() + interval '3 h', interval '7 min') t
                    where busymate_stats.stats_at(t) is distinct from busymate_stats.stats_recomputed(t)";
    assert_eq!(value::<i64>(&mut client, moments), 0);
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 293);
}

#[test]
fn a_fleet_that_was_let_go_under_an_old_snapshot() {
    // No tick comes before the old snapshot, so what is sealed is beyond its sight.
    let cluster = Cluster::start("busymate_stats.seal_interval = 0\nbusymate_stats.seal_lag = '200ms'");
    let database = cluster.create_database("let_go");
    let mut old = cluster.connect(&database);
    old.batch_execute("create extension busymate_stats; select busymate_stats.create_fleet_tables()")
        .unwrap();
    old.batch_execute("begin isolation level repeatable read; select 1").unwrap();
    cluster.configure("busymate_stats.seal_interval = '1s'");
    cluster.reload();
    let mut client = cluster.connect(&database);
    client.batch_execute(ENTRIES).unwrap();
    wait_for_seal(&mut client);
    let gen_of_the_last: i64 = value(&mut client, "select max(gen) from busymate_stats_internal.capture");
    // It may have to give way to a tick. If not, what is sealed stays; and rows go while nobody writes down what changes.
    if let Err(error) = old.batch_execute("select busymate_stats.detach(); commit") {
        assert_eq!(harness::refusal_of(&error).code, "40001");
        old.batch_execute("rollback").unwrap();
        assert_eq!(stats_at(&mut client, "now")["total_entries"], 300);
        old.batch_execute("select busymate_stats.detach()").unwrap();
    }
    client.batch_execute("delete from public.entries where id <= 100").unwrap();
    old.batch_execute("select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 200);
    assert!(
        value::<i64>(&mut client, "select max(gen) from busymate_stats_internal.capture") > gen_of_the_last
    );
    wait_for_seal(&mut client);
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 200);
}

#[test]
fn a_fleet_is_not_let_go_under_a_snapshot_that_does_not_see_it() {
    let mut client = sealed();
    client.batch_execute("select busymate_stats.detach()").unwrap();
    let database: String = value(&mut client, "select current_database()");
    // No sealer takes anything away meanwhile that the old snapshot sees.
    let mut holder = cluster().connect(&database);
    holder
        .batch_execute("begin; lock table busymate_stats_internal.seal_state, busymate_stats_internal.roster_state in share update exclusive mode")
        .unwrap();
    let mut old = cluster().connect(&database);
    old.batch_execute("begin isolation level repeatable read; select 1").unwrap();
    client.batch_execute("select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
    let refused = harness::refusal(&mut old, "select busymate_stats.detach()");
    assert_eq!(refused.code, "40001");
    assert_eq!(refused.message, "the fleet was attached after this transaction took its snapshot");
    old.batch_execute("rollback").unwrap();
    holder.batch_execute("rollback").unwrap();
    wait_for_seal(&mut client);
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 300);
}
