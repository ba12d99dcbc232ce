//! The worker keeps the status feed by itself, and whatever its probes do, it is in nobody's way.

use harness::listeners::{answering, counting, hanging};
use harness::status::{component, install, watch_url};
use harness::{Cluster, eventually, value};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Instant;

fn cluster(settings: &str) -> Cluster {
    Cluster::start(&format!("busymate_stats.status_interval = 1s\n{settings}"))
}

fn snapshot(client: &mut Client) -> Option<Value> {
    client.query_opt("select snapshot from public.service_status", &[]).unwrap().map(|row| row.get(0))
}

/// Waits for a snapshot that has this component.
fn shown(client: &mut Client, key: &str) -> Value {
    eventually(&format!("{key} is shown"), || {
        let snapshot = snapshot(client)?;
        let is_there = snapshot["components"].as_array()?.iter().any(|component| component["key"] == key);
        is_there.then(|| component(&snapshot, key).clone())
    })
}

fn updated_at(client: &mut Client) -> String {
    value(client, "select coalesce((select updated_at::text from public.service_status), 'never')")
}

/// A database whose every probe hangs for three seconds, and a worker that waits for them.
fn hang(cluster: &Cluster, prefix: &str) -> (Client, i32) {
    let mut client = install(cluster, prefix);
    let url = hanging();
    client
        .execute(
            "insert into busymate_stats.components (key, label, url, timeout)
             select 'hangs ' || n, 'Hangs', $1, interval '3 s' from generate_series(1, 10) n",
            &[&url],
        )
        .unwrap();
    let pid = waiting_worker(&mut client);
    (client, pid)
}

/// The worker of this database that waits for its probes. They hang for another three seconds, or little less.
fn waiting_worker(client: &mut Client) -> i32 {
    let database: String = value(client, "select current_database()");
    eventually("a worker waits for its probes", || {
        probing_workers(client, &database).first().map(|(pid, _)| *pid)
    })
}

#[test]
fn the_feed_is_kept_and_moves_with_every_tick() {
    let cluster = cluster("");
    let mut client = install(&cluster, "kept");
    watch_url(&mut client, "web", &answering("HTTP/1.1 200 OK\r\n\r\n"));
    assert_eq!(shown(&mut client, "web")["probe"]["up"], true);
    let before = updated_at(&mut client);
    eventually("the next tick", || (updated_at(&mut client) != before).then_some(()));
    let (stale, fresh): (bool, bool) = {
        let row = client
            .query_one(
                "select stale, age < interval '1 minute' from busymate_stats.health where feed = 'status'",
                &[],
            )
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert!(!stale && fresh);
}

#[test]
fn no_transaction_and_no_lock_while_it_waits() {
    let cluster = cluster("");
    let (mut client, pid) = hang(&cluster, "lockless");
    let locks: i64 = value(
        &mut client,
        &format!(
            "select count(*) from pg_locks where pid = {pid} and locktype in ('relation', 'virtualxid')"
        ),
    );
    assert_eq!(locks, 0);
    let snapshots: i64 = value(
        &mut client,
        &format!(
            "select count(*) from pg_stat_activity where pid = {pid} and (backend_xmin is not null or xact_start is not null)"
        ),
    );
    assert_eq!(snapshots, 0);
    // What takes the strongest lock on every table of ours.
    client.batch_execute("set lock_timeout = '2s'; drop extension busymate_stats").unwrap();
}

/// Runs what must not wait for the probes, and tells how long it took: three seconds had it waited.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    harness::worker::report(&format!("{what} while every probe hangs: {:?}", started.elapsed()));
    result
}

/// The workers of a database that wait for probes, each with how long it has been there. One that refreshes statistics may
/// come and go beside them.
fn probing_workers(admin: &mut Client, database: &str) -> Vec<(i32, f64)> {
    let query =
        "select pid, extract(epoch from clock_timestamp() - backend_start)::float8 from pg_stat_activity
                  where backend_type = 'busymate_stats worker' and datname = $1
                    and xact_start is null and wait_event_type = 'Extension'";
    admin.query(query, &[&database]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn another_database_can_be_dropped_while_every_probe_hangs() {
    let cluster = cluster("");
    let mut other = install(&cluster, "other");
    let other_name: String = value(&mut other, "select current_database()");
    drop(other);
    let (mut client, pid) = hang(&cluster, "hanging");
    let database: String = value(&mut client, "select current_database()");
    let mut admin = cluster.connect("postgres");
    timed("DROP DATABASE of another one", || {
        admin.batch_execute(&format!("drop database {other_name}")).unwrap();
    });
    // It did not wait for the worker, which waits on.
    let waiting: Vec<_> = probing_workers(&mut admin, &database).iter().map(|(pid, _)| *pid).collect();
    assert_eq!(waiting, [pid]);
}

#[test]
fn its_own_database_can_be_dropped_while_every_probe_hangs() {
    let cluster = cluster("");
    let (mut client, _) = hang(&cluster, "dropped");
    let database: String = value(&mut client, "select current_database()");
    drop(client);
    let mut admin = cluster.connect("postgres");
    harness::worker::nobody_connected(&mut admin, &database);
    // One that has just begun, with most of its three seconds to go.
    eventually("a worker is at it", || {
        probing_workers(&mut admin, &database).into_iter().find(|(_, age)| *age < 1.0)
    });
    timed("DROP DATABASE of its own", || {
        admin.batch_execute(&format!("drop database {database}")).unwrap();
    });
    // The worker did not end by itself. Nor may one have that refreshes statistics.
    assert!(harness::worker::logged(&cluster, ENDED) >= 1);
}

/// What the server logs of a worker that was ended.
const ENDED: &str = "terminating background worker \"busymate_stats worker\" due to administrator command";

/// A worker that had ended by itself would have written what it found.
#[test]
fn it_ends_when_asked_to_whatever_its_probes_do() {
    let cluster = cluster("");
    let (mut client, pid) = hang(&cluster, "ended");
    let stands = updated_at(&mut client);
    timed("SIGTERM", || {
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        eventually("the worker is gone", || kill(Pid::from_raw(pid), None).err());
    });
    assert_eq!(updated_at(&mut client), stands);
    // Nobody else noticed, and the next one comes.
    assert_ne!(waiting_worker(&mut client), pid);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn after_a_kill_the_cluster_recovers_and_the_next_tick_comes() {
    let cluster = cluster("");
    let (mut client, pid) = hang(&cluster, "killed");
    watch_url(&mut client, "web", &answering("HTTP/1.1 200 OK\r\n\r\n"));
    let database: String = value(&mut client, "select current_database()");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("the sessions are gone", || client.simple_query("select 1").err());
    let mut again = eventually("the cluster is back", || cluster.try_connect("postgres", &database).ok());
    assert_eq!(shown(&mut again, "web")["probe"]["up"], true);
}

#[test]
fn the_server_stops_while_every_probe_hangs() {
    let cluster = cluster("");
    let (mut client, _) = hang(&cluster, "stopped");
    let database: String = value(&mut client, "select current_database()");
    let stands = updated_at(&mut client);
    drop(client);
    timed("a fast stop", || cluster.stop("fast"));
    // Nobody had waited for the tick to be written.
    cluster.configure("busymate_stats.status_interval = 0");
    cluster.start_again();
    assert_eq!(updated_at(&mut cluster.connect(&database)), stands);
    assert!(!cluster.log().contains("PANIC") && !cluster.log().contains("terminated by signal"));
}

/// One worker slot is left to refreshes, however many databases have probes that hang.
#[test]
fn refreshes_go_on_while_probes_hang_everywhere() {
    let cluster = cluster("busymate_stats.refresh_interval = 1s");
    let clients: Vec<_> = (0..4).map(|_| hang(&cluster, "crowd").0).collect();
    for mut client in clients {
        client.batch_execute("select busymate_stats.create_fleet_tables()").unwrap();
        for _ in 0..3 {
            let query = "select coalesce((select updated_at::text from public.service_stats), 'never')";
            let before: String = value(&mut client, query);
            timed("a refresh of four databases'", || {
                eventually("a refresh", || (value::<String>(&mut client, query) != before).then_some(()));
            });
        }
    }
}

fn report(client: &mut Client, up: bool) -> Result<(), String> {
    let report = json!({
        "host": { "cpu": 0.5, "load": [1, 1, 1], "mem": { "usedMb": 1, "totalMb": 2 }, "uptime": 5 },
        "components": [{
            "key": "afar", "label": "Afar", "probe": { "up": up, "httpStatus": 200, "latencyMs": 1 }
        }]
    });
    let result = client.execute("select public.report_status($1::jsonb)", &[&report]);
    result.map(|_| ()).map_err(|error| error.as_db_error().unwrap().code().code().to_owned())
}

#[test]
fn a_young_report_stands_and_an_old_one_gives_way() {
    let cluster = cluster("");
    let mut client = install(&cluster, "standing");
    let (url, probed) = counting();
    watch_url(&mut client, "near", &url);
    shown(&mut client, "near");
    cluster.configure("busymate_stats.status_interval = 5s");
    cluster.reload();
    eventually("the interval is known", || {
        let interval: String = value(&mut client, "select current_setting('busymate_stats.status_interval')");
        (interval == "5s").then_some(())
    });
    report(&mut client, true).unwrap();
    let stood = probed.load(Ordering::SeqCst);
    let reported = updated_at(&mut client);
    let standing: String = value(&mut client, "select busymate_stats.refresh_status()::text");
    assert_eq!(standing, reported);
    // A tick that was under way when the report came neither overwrites it.
    eventually("the ticks are over for which it is young", || {
        let old: bool = value(
            &mut client,
            "select clock_timestamp() - updated_at > interval '12 s' from public.service_status",
        );
        assert_eq!(updated_at(&mut client), reported);
        old.then_some(())
    });
    assert!(probed.load(Ordering::SeqCst) <= stood + 1);
    shown(&mut client, "near");
}

#[test]
fn the_source_decides_who_writes() {
    let cluster = cluster("busymate_stats.status_source = reported");
    let mut client = install(&cluster, "source");
    let stale = "select stale from busymate_stats.health where feed = 'status'";
    assert!(value::<bool>(&mut client, stale), "nothing was reported yet");
    assert_eq!(harness::refusal(&mut client, "select busymate_stats.refresh_status()").code, "55000");
    report(&mut client, false).unwrap();
    assert!(!value::<bool>(&mut client, stale));
    eventually("the report is stale", || value::<bool>(&mut client, stale).then_some(()));
    assert_eq!(component(&snapshot(&mut client).unwrap(), "afar")["probe"]["up"], false);

    cluster.configure("busymate_stats.status_source = off");
    cluster.reload();
    eventually("the feed is off", || report(&mut client, false).err().filter(|code| code == "55000"));
    assert_eq!(report(&mut client, true), Err("55000".into()));
    assert!(!value::<bool>(&mut client, stale));
    assert_eq!(harness::refusal(&mut client, "select busymate_stats.refresh_status()").code, "55000");
    assert_eq!(component(&snapshot(&mut client).unwrap(), "afar")["probe"]["up"], false);

    cluster.configure("busymate_stats.status_source = local");
    cluster.reload();
    eventually("the worker writes", || {
        snapshot(&mut client)?["components"].as_array()?.is_empty().then_some(())
    });
}
