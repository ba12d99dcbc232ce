//! A million devices: what reading their figures costs, what counting them costs, and what an update of all of them pays.

use crate::Plan;
use crate::measure::{Samples, note, timed};
use crate::report::{Goal, Report, Row, grouped, short};
use crate::server::{self, reader};
use harness::{Cluster, eventually_within, value};
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the first count may take to come.
const PATIENCE: Duration = Duration::from_secs(300);

/// Everything about devices.
pub fn all(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    let size = plan.pick(1_000_000, 200_000);
    for (online, told) in
        [("n % 60", "all online and beating"), ("n % 100 * 86400", "one in a hundred online")]
    {
        note(&format!("{} devices, {told}", grouped(size)));
        let database = prepare(cluster, size, online);
        read(plan, cluster, &database, size, told, report);
        if online == "n % 60" {
            update_all(plan, cluster, &database, size, report);
        }
        let drop = format!("drop database {database} with (force)");
        cluster.connect("postgres").batch_execute(&drop).unwrap();
    }
}

/// An attached fleet of so many devices, each last seen so many seconds ago.
fn prepare(cluster: &Cluster, size: i64, seconds_ago: &str) -> String {
    let database = cluster.create_database("devices");
    let mut client = cluster.connect(&database);
    client
        .batch_execute(&format!(
            "create extension busymate_stats;
             select busymate_stats.create_fleet_tables();
             insert into public.devices (device_uuid, name, connection_type, last_seen_at)
                 select md5('device' || n)::uuid, 'Device ' || n, (array['vpn', 'pac', 'vpn', 'cdp'])[1 + n % 4],
                        now() - interval '1 second' * ({seconds_ago})
                   from generate_series(1, {size}) n;
             insert into public.entries (device_uuid, host, status, source)
                 select md5('device' || n)::uuid, 'host' || n % 50, 200, 'vpn' from generate_series(1, 1000) n"
        ))
        .unwrap();
    client.batch_execute("vacuum analyze public.devices").unwrap();
    server::let_reader_in(&mut client);
    eventually_within(PATIENCE, "the devices are counted", || {
        let counted = "select coalesce((select total = $1 from busymate_stats_internal.roster_state order by version desc limit 1), false)";
        client.query_one(counted, &[&size]).unwrap().get::<_, bool>(0).then_some(())
    });
    database
}

fn read(plan: &Plan, cluster: &Cluster, database: &str, size: i64, told: &str, report: &mut Report) {
    let mut client = reader(cluster, database);
    let statement = client.prepare("select public.get_stats()").unwrap();
    let mut admin = cluster.connect(database);
    let mut plain = Samples::default();
    for _ in 0..plan.pick(10, 3) {
        plain.add(timed(|| {
            drop(admin.query_one("select busymate_stats.stats_recomputed(now())", &[]).unwrap())
        }));
    }
    let done = AtomicBool::new(false);
    let mut samples = Samples::default();
    std::thread::scope(|scope| {
        scope.spawn(|| beat(&mut cluster.connect(database), size, &done));
        // Long enough for counts to come in between.
        for round in 0..plan.pick(40, 8) {
            (0..50).for_each(|_| samples.add(timed(|| drop(client.query_one(&statement, &[]).unwrap()))));
            std::thread::sleep(Duration::from_millis(if round % 2 == 0 { 900 } else { 600 }));
        }
        done.store(true, Ordering::Relaxed);
    });
    let (counts, took): (i64, f64) = {
        let row = admin
            .query_one(
                "select max(version), (max(took) / 1000.0)::float8 from busymate_stats_internal.roster_state",
                &[],
            )
            .unwrap();
        (row.get(0), row.get(1))
    };
    report.row(Row {
        what: format!("`get_stats()` with {} devices, {told}", grouped(size)),
        entries: String::new(),
        ours: format!("{}, p95 {} ms", samples.told("ms"), short(samples.quantile(0.95))),
        other: format!("the plain query: {}", plain.told("ms")),
        figure: samples.median(),
        unit: "ms",
        goal: Goal::AtMost(2.0),
    });
    report.row(Row {
        what: format!("counting {} devices, {told}", grouped(size)),
        entries: String::new(),
        ours: format!("{} ms, {counts} counts so far", short(took)),
        other: String::new(),
        figure: took,
        unit: "ms",
        goal: Goal::AtMost(500.0),
    });
}

/// Devices say that they are there, a few hundred times a second.
fn beat(client: &mut Client, size: i64, done: &AtomicBool) {
    client.batch_execute("set synchronous_commit = off").unwrap();
    let update = client
        .prepare("update public.devices set last_seen_at = now() where device_uuid = md5('device' || $1::int8)::uuid")
        .unwrap();
    let mut next = 0;
    while !done.load(Ordering::Relaxed) {
        next = (next + 7919) % size;
        client.execute(&update, &[&(next + 1)]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An UPDATE of every device, attached and not, by turns.
fn update_all(plan: &Plan, cluster: &Cluster, database: &str, size: i64, report: &mut Report) {
    let mut client = cluster.connect(database);
    client
        .batch_execute(
            "create schema bare;
             create table bare.devices (like public.devices including all);
             alter table bare.devices enable row level security;
             insert into bare.devices select * from public.devices;
             set synchronous_commit = off",
        )
        .unwrap();
    let mut times = [Samples::default(), Samples::default()];
    let mut ratios = Samples::default();
    for pair in 0..plan.pick(5, 2) {
        let mut found = [0.0; 2];
        for place in [pair % 2, 1 - pair % 2] {
            let schema = ["public", "bare"][place];
            client.batch_execute(&format!("vacuum {schema}.devices")).unwrap();
            client.batch_execute("checkpoint").unwrap();
            let update = format!("update {schema}.devices set last_seen_at = now()");
            found[place] = timed(|| client.batch_execute(&update).unwrap()).as_secs_f64();
            times[place].add_value(found[place] * 1000.0);
        }
        ratios.add_value(found[1] / found[0]);
    }
    let rows: i64 = value(&mut client, "select count(*) from public.devices");
    assert_eq!(rows, size);
    report.row(Row {
        what: format!("one UPDATE of {} devices, attached ÷ not", grouped(size)),
        entries: String::new(),
        ours: times[0].told("ms"),
        other: times[1].told("ms"),
        figure: ratios.median(),
        unit: "×",
        goal: Goal::None,
    });
}
