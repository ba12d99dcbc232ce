//! What the status feed costs.

use crate::Plan;
use crate::measure::note;
use crate::report::{Goal, Report, Row, short};
use crate::seal::ended_children;
use crate::server;
use harness::Cluster;
use harness::listeners::counting;
use std::sync::atomic::Ordering;
use std::time::Duration;

const COMPONENTS: usize = 20;

/// The CPU time of a worker's tick over components on this machine that answer at once.
pub fn tick_cpu(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    note("the CPU time of a status tick");
    let quiet = [
        ("autovacuum", "off"),
        ("busymate_stats.refresh_interval", "0"),
        ("busymate_stats.seal_interval", "0"),
    ];
    server::set(cluster, &quiet);
    let mut client = cluster.connect(&cluster.create_database("status"));
    let (url, probes) = counting();
    client.batch_execute("create extension busymate_stats").unwrap();
    client
        .execute(
            "insert into busymate_stats.components (key, label, url)
             select 'c' || n, 'Component', $1 from generate_series(1, $2::int) n",
            &[&url, &(COMPONENTS as i32)],
        )
        .unwrap();
    server::set(cluster, &[("busymate_stats.status_interval", "'1s'")]);
    let postmaster = cluster.postmaster();
    let ticks = || probes.load(Ordering::SeqCst) / COMPONENTS;
    while ticks() < 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = (ticks(), ended_children(postmaster));
    std::thread::sleep(Duration::from_secs(plan.pick(60, 10)));
    let (ticks, cpu) = (ticks() - before.0, ended_children(postmaster) - before.1);
    server::set(cluster, &[("busymate_stats.status_interval", "0")]);
    server::set(
        cluster,
        &[
            ("autovacuum", "on"),
            ("busymate_stats.refresh_interval", "'60s'"),
            ("busymate_stats.seal_interval", "'5s'"),
        ],
    );
    report.row(Row {
        what: format!("a status tick's CPU time, fork and connection included ({COMPONENTS} components, a tick each second)"),
        entries: String::new(),
        ours: format!("{} ms in {ticks} ticks", short(cpu * 1000.0)),
        other: String::new(),
        figure: cpu * 1000.0 / ticks as f64,
        unit: "ms",
        goal: Goal::None,
    });
}
