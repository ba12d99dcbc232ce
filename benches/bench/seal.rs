//! What the sealer costs.

use crate::Plan;
use crate::fleet::{Fleet, attach};
use crate::measure::{Samples, note, timed};
use crate::read::while_entries_arrive;
use crate::report::{Goal, Report, Row, short};
use crate::server;
use harness::{Cluster, value};
use postgres::Client;
use std::fs;
use std::time::{Duration, Instant};

/// A seal longer than this is none.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Waits until everything is sealed.
pub fn await_seal(client: &mut Client) {
    let started = Instant::now();
    let sealed = "select (detail ->> 'sealed')::boolean from busymate_stats.health where feed = 'seal'";
    while value::<Option<bool>>(client, sealed) != Some(true) {
        assert!(started.elapsed() < PATIENCE, "gave up waiting for the seal");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Attaches every fleet; the time until the largest one is sealed is told.
pub fn first_seals(plan: &Plan, cluster: &Cluster, fleets: &[Fleet], report: &mut Report) {
    server::set(cluster, &[("busymate_stats.seal_interval", "'1s'")]);
    for fleet in fleets {
        note(&format!("the first seal of {}", fleet.shown()));
        let mut client = cluster.connect(&fleet.database);
        let mut count = Samples::default();
        let mut group =
            || timed(|| drop(client.query("select source, count(*) from public.entries group by 1", &[])));
        group();
        for _ in 0..3 {
            count.add(group());
        }
        let mut seal = Samples::default();
        seal.add(timed(|| {
            attach(&mut client);
            await_seal(&mut client);
        }));
        if fleet.size != plan.largest() {
            continue;
        }
        for _ in 0..plan.pick(2, 0) {
            client.batch_execute("select busymate_stats.detach()").unwrap();
            seal.add(timed(|| {
                attach(&mut client);
                await_seal(&mut client);
            }));
        }
        report.row(Row {
            what: "first seal ÷ `select source, count(*) … group by 1`, parallel".into(),
            entries: fleet.shown(),
            ours: seal.told("ms"),
            other: count.told("ms"),
            figure: seal.median() / count.median(),
            unit: "×",
            goal: Goal::AtMost(3.0),
        });
    }
    server::set(cluster, &[("busymate_stats.seal_interval", "'5s'")]);
}

/// CPU seconds of the postmaster's children that have ended: user and system.
pub fn ended_children(postmaster: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{postmaster}/stat")).unwrap();
    // The name, in parentheses, may hold anything; what follows is numbers, the process state first.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
    (ticks(13) + ticks(14)) / 100.0
}

/// The CPU time of a tick while 1,000 entries a second arrive. Workers are short-lived, so their parent's account of
/// ended children is read; nobody else ends meanwhile: autovacuum and the refresh are off, and sessions stay.
pub fn tick_cpu(plan: &Plan, cluster: &Cluster, fleet: &Fleet, report: &mut Report) {
    note("the CPU time of a tick");
    server::set(cluster, &[("autovacuum", "off"), ("busymate_stats.refresh_interval", "0")]);
    let mut client = cluster.connect(&fleet.database);
    let mut moves = move || value::<i64>(&mut client, "select max(gen) from busymate_stats_internal.capture");
    let postmaster = cluster.postmaster();
    let seconds = Duration::from_secs(plan.pick(60, 10));
    let ((ticks, cpu), rate) =
        while_entries_arrive(cluster, fleet, Duration::from_secs(plan.pick(12, 7)), || {
            let before = (moves(), ended_children(postmaster));
            std::thread::sleep(seconds);
            (moves() - before.0, ended_children(postmaster) - before.1)
        });
    server::set(cluster, &[("autovacuum", "on"), ("busymate_stats.refresh_interval", "'60s'")]);
    report.row(Row {
        what: format!(
            "a tick's CPU time, fork and connection included ({} entries/s, a tick each 5 s)",
            short(rate)
        ),
        entries: fleet.shown(),
        ours: format!("{} ms in {ticks} ticks", short(cpu * 1000.0)),
        other: String::new(),
        figure: cpu * 1000.0 / ticks as f64,
        unit: "ms",
        goal: Goal::AtMost(20.0),
    });
}
