//! Ten thousand ticks leak nothing: no memory, no file descriptor, no worker slot, no line in the log. `make soak`.

use harness::worker::{EVERY_SECOND, fleet_in, launcher, next_refresh, nobody_connected, report, workers};
use harness::{Cluster, eventually, eventually_within, value};
use postgres::Client;
use std::time::{Duration, Instant};

const DATABASES: usize = 50;
const TICKS: i64 = 10_000;
/// Of which so many pass before the first measurement: caches are warm then.
const WARM_UP: i64 = 1_000;

fn names(template: &str) -> Vec<String> {
    (1..DATABASES).map(|number| format!("soak_{number}")).chain([template.to_owned()]).collect()
}

fn databases(cluster: &Cluster) -> (Vec<String>, Client) {
    let (template, mut client) = fleet_in(cluster, "soak");
    next_refresh(&mut client);
    drop(client);
    let mut other = cluster.connect("postgres");
    nobody_connected(&mut other, &template);
    for name in names(&template).iter().filter(|name| **name != template) {
        other.batch_execute(&format!("create database {name} template {template}")).unwrap();
    }
    (names(&template), other)
}

/// How many refreshes the workers have reported.
fn ticks(cluster: &Cluster, databases: &[String]) -> i64 {
    let query = "select n_tup_ins + n_tup_upd from pg_stat_user_tables where relid = 'busymate_stats_internal.feed_health'::regclass";
    databases.iter().map(|database| value::<i64>(&mut cluster.connect(database), query)).sum()
}

/// Resident memory of its own in kB, and open file descriptors.
fn resources(pid: i32) -> (i64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (memory, std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

/// How many slots a greedy parallel query gets.
fn free_slots(client: &mut Client) -> String {
    client
        .batch_execute(
            "create table if not exists wide as select generate_series(1, 1000000) as id;
             alter table wide set (parallel_workers = 14);
             set max_parallel_workers = 16; set max_parallel_workers_per_gather = 14;
             set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0",
        )
        .unwrap();
    let plan =
        client.query("explain (analyze, costs off, timing off) select count(*) from wide", &[]).unwrap();
    let lines = plan.iter().map(|row| row.get::<_, String>(0));
    lines.filter(|line| line.contains("Workers Launched")).collect::<String>().trim().to_owned()
}

#[test]
#[ignore = "takes minutes: make soak"]
fn ten_thousand_ticks_leak_nothing() {
    let cluster = Cluster::start(&format!(
        "{EVERY_SECOND}\nmax_worker_processes = 16\nautovacuum = off\nlog_checkpoints = off"
    ));
    let (databases, mut other) = databases(&cluster);
    let reach = |count| {
        eventually_within(Duration::from_secs(3600), "the ticks go by", || {
            std::thread::sleep(Duration::from_secs(2));
            Some(ticks(&cluster, &databases)).filter(|now| *now >= count)
        })
    };
    let first = reach(WARM_UP);
    let pid = launcher(&mut other).unwrap();
    let before = resources(pid);
    let lines = cluster.log().lines().count();
    let started = Instant::now();
    let ticks = reach(first + TICKS) - first;
    let after = resources(pid);
    let new_lines = cluster.log().lines().count() - lines;
    report(&format!("{ticks} ticks in {} databases in {:.0?}", databases.len(), started.elapsed()));
    report(&format!(
        "launcher: RssAnon {} -> {} kB, file descriptors {} -> {}",
        before.0, after.0, before.1, after.1
    ));
    report(&format!("lines logged: {new_lines}"));

    cluster.configure("busymate_stats.refresh_interval = 0\nmax_worker_processes = 16");
    cluster.reload();
    eventually("no worker is left", || (workers(&mut other) == 0).then_some(()));
    let slots = free_slots(&mut other);
    report(&format!("slots for others afterwards, of 14: {slots}"));

    assert_eq!(launcher(&mut other), Some(pid), "one launcher all along");
    assert_eq!(after.1, before.1, "file descriptors");
    assert!(after.0 <= before.0 + 256, "memory grew from {} to {} kB", before.0, after.0);
    assert_eq!(new_lines, 0, "lines in the log");
    assert_eq!(slots, "Workers Launched: 14");
}
