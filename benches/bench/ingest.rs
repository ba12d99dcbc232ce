//! What writers pay. The attached table and its twin take turns in pairs, in one database, and grow alike.
//!
//! `synchronous_commit` is off for the writers: waiting for the disk would hide what the extension costs.

use crate::Plan;
use crate::fleet::SOURCE;
use crate::harness::{Cluster, value};
use crate::measure::{Samples, note};
use crate::report::{Goal, Report, Row};
use crate::server;
use postgres::{Client, Statement};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;

/// Devices, each beaten for by one client: so many that two clients seldom meet in a page.
const DEVICES: usize = 100_000;

/// From one beat to the next; it has no factor in common with a client's share of them.
const STRIDE: usize = 7919;

/// The settings under which the seal follows within a round, so that a round pays for its own sealing.
const AT_ONCE: [(&str, &str); 2] =
    [("busymate_stats.seal_interval", "'1s'"), ("busymate_stats.seal_lag", "'1s'")];

/// Nothing is sealed: what is left is what the writer itself pays.
const NOT_AT_ALL: [(&str, &str); 2] =
    [("busymate_stats.seal_interval", "0"), ("busymate_stats.seal_lag", "'1s'")];

/// What is written.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// One row a statement.
    Single,
    /// A hundred rows a statement.
    Hundred,
    /// Ten thousand rows by COPY.
    Copy,
    /// A device's last sign of life.
    Heartbeat,
}

impl Kind {
    fn told(self) -> &'static str {
        match self {
            Kind::Single => "1-row inserts",
            Kind::Hundred => "100-row inserts",
            Kind::Copy => "COPY of 10,000 rows",
            Kind::Heartbeat => "heartbeat updates of devices",
        }
    }
}

/// Where it is written.
pub struct Tables {
    /// For people: how they differ from plain tables.
    pub told: &'static str,
    /// Statements that make `bare.entries`, and what else makes them differ from the extension's own.
    pub make: &'static str,
    /// Least share of the bare tables' speed.
    pub goal: fn(Kind) -> f64,
}

const PLAIN: Tables = Tables {
    told: "",
    // The copy's indexes are the user's own, without the one that attach() made.
    make: "create table bare.entries (like public.entries including all);
           do $$
           declare index regclass;
           begin
               select i.indexrelid into strict index from pg_index i
                 join pg_class c on c.oid = i.indexrelid
                 join pg_am m on m.oid = c.relam and m.amname = 'busymate_stats_capture'
                where i.indrelid = 'bare.entries'::regclass;
               execute format('drop index %s', index);
           end $$",
    goal: |_| 0.97,
};

/// Every kind, with the sealer at work and without.
pub fn all(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    for (settings, sealing) in [(AT_ONCE, true), (NOT_AT_ALL, false)] {
        server::set(cluster, &settings);
        for kind in [Kind::Single, Kind::Hundred, Kind::Copy, Kind::Heartbeat] {
            if sealing || kind != Kind::Heartbeat {
                compare(plan, cluster, kind, sealing, &PLAIN, report);
            }
        }
    }
    server::set(cluster, &[("busymate_stats.seal_interval", "'5s'"), ("busymate_stats.seal_lag", "'5s'")]);
}

/// Into partitioned tables, the writer alone.
pub fn into_partitions(plan: &Plan, cluster: &Cluster, tables: &Tables, report: &mut Report) {
    server::set(cluster, &NOT_AT_ALL);
    for kind in [Kind::Single, Kind::Hundred, Kind::Copy] {
        compare(plan, cluster, kind, false, tables, report);
    }
    server::set(cluster, &[("busymate_stats.seal_interval", "'5s'"), ("busymate_stats.seal_lag", "'5s'")]);
}

fn compare(plan: &Plan, cluster: &Cluster, kind: Kind, sealing: bool, tables: &Tables, report: &mut Report) {
    let what = format!(
        "ingest, attached ÷ not: {}{}, {CLIENTS} clients{}",
        kind.told(),
        tables.told,
        if sealing { "" } else { ", the writer alone (sealing off)" }
    );
    if !what.contains(&plan.rows) {
        return;
    }
    note(&format!("{}{}, sealing {}", kind.told(), tables.told, if sealing { "at once" } else { "off" }));
    let database = prepare(cluster, tables);
    let mut client = cluster.connect(&database);
    // Many short rounds rather than few long ones: what disturbs a round disturbs its twin less often.
    let length = Duration::from_millis(plan.pick(1500, 700));
    let round = |schema: &str| rate(cluster, &database, schema, kind, length);
    round("public");
    round("bare");
    let mut rates = [Samples::default(), Samples::default()];
    let mut ratios = Samples::default();
    for pair in 0..plan.pick(21, 3) {
        let mut found = [0.0; 2];
        // Who goes first changes, so that neither profits from its place.
        for place in [pair % 2, 1 - pair % 2] {
            if sealing {
                await_quiet(&mut client);
            }
            found[place] = round(["public", "bare"][place]);
            rates[place].add_value(found[place]);
        }
        ratios.add_value(found[0] / found[1]);
    }
    report.row(Row {
        what,
        entries: String::new(),
        ours: rates[0].told("rows/s"),
        other: rates[1].told("rows/s"),
        figure: ratios.median(),
        unit: "×",
        goal: Goal::AtLeast((tables.goal)(kind)),
    });
    drop(client);
    cluster.connect("postgres").batch_execute(&format!("drop database {database} with (force)")).unwrap();
}

/// A database with an attached fleet in `public` and its twin in `bare`, both empty but for devices.
pub fn prepare(cluster: &Cluster, tables: &Tables) -> String {
    let database = cluster.create_database("ingest");
    let mut client = cluster.connect(&database);
    client
        .batch_execute(&format!(
            "create extension busymate_stats;
             select busymate_stats.create_fleet_tables();
             insert into public.devices (device_uuid, name, connection_type, last_seen_at)
                 select md5('device' || n)::uuid, 'Device ' || n, 'vpn', now() from generate_series(1, {DEVICES}) n;
             create schema bare;
             create table bare.devices (like public.devices including all);
             alter table bare.devices enable row level security;
             insert into bare.devices select * from public.devices"
        ))
        .unwrap();
    client.batch_execute(tables.make).unwrap();
    client.batch_execute("alter table bare.entries enable row level security").unwrap();
    for statement in ["vacuum analyze public.devices", "vacuum analyze bare.devices", "checkpoint"] {
        client.batch_execute(statement).unwrap();
    }
    database
}

/// Waits until the attached table's entries are sealed, so that the twin's round pays for none of it.
fn await_quiet(client: &mut Client) {
    let now: i64 = value(client, "select (extract(epoch from clock_timestamp()) * 1000)::bigint");
    let sealed = format!(
        "select coalesce((select max(boundary) from busymate_stats.seal_state where boundary = goal)
                             > to_timestamp({now} / 1000.0), false)"
    );
    let started = Instant::now();
    while !value::<bool>(client, &sealed) {
        assert!(started.elapsed() < Duration::from_secs(120), "the sealer does not keep up");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Rows a second that the clients write together.
fn rate(cluster: &Cluster, database: &str, schema: &str, kind: Kind, length: Duration) -> f64 {
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let mut writer = Writer::new(cluster.connect(database), schema, kind, number);
                scope.spawn(move || writer.work(length))
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    })
}

struct Writer {
    client: Client,
    kind: Kind,
    insert: Statement,
    copy: String,
    batch: String,
    first: usize,
    next: usize,
}

impl Writer {
    fn new(mut client: Client, schema: &str, kind: Kind, number: usize) -> Self {
        client.batch_execute("set synchronous_commit = off").unwrap();
        let values = format!(
            "md5('device' || 1 + n % 1000)::uuid, 'host' || n % 997 || '.example.com', 'GET', 200 + n % 5, {SOURCE}"
        );
        let columns = "(device_uuid, host, method, status, source)";
        let sql = match kind {
            Kind::Heartbeat => format!(
                "update {schema}.devices set last_seen_at = now() where device_uuid = md5('device' || 1 + $1::int % {DEVICES})::uuid"
            ),
            Kind::Hundred => format!(
                "insert into {schema}.entries {columns} select {values} from generate_series($1::int, $1::int + 99) n"
            ),
            Kind::Single | Kind::Copy => {
                format!(
                    "insert into {schema}.entries {columns} select {values} from (values ($1::int)) given (n)"
                )
            }
        };
        let insert = client.prepare(&sql).unwrap();
        let mut batch = String::new();
        for n in 0..10_000_usize {
            let _ = writeln!(
                batch,
                "{:08x}-0000-4000-8000-000000000000\thost{}.example.com\tGET\t{}\t{}",
                n % 1000,
                n % 997,
                200 + n % 5,
                ["vpn", "pac", "cdp", "proxy", "sdk"][n % 5]
            );
        }
        let copy = format!("copy {schema}.entries {columns} from stdin");
        Self { client, kind, insert, copy, batch, first: number * DEVICES / CLIENTS, next: 0 }
    }

    /// Rows a second.
    fn work(&mut self, length: Duration) -> f64 {
        let started = Instant::now();
        let mut rows = 0;
        while started.elapsed() < length {
            rows += self.step();
        }
        rows as f64 / started.elapsed().as_secs_f64()
    }

    fn step(&mut self) -> u64 {
        if self.kind == Kind::Copy {
            let mut sink = self.client.copy_in(&self.copy).unwrap();
            sink.write_all(self.batch.as_bytes()).unwrap();
            return sink.finish().unwrap();
        }
        // Each client has devices of its own: updates of one row would wait for each other.
        self.next = (self.next + STRIDE) % (DEVICES / CLIENTS);
        self.client.execute(&self.insert, &[&((self.first + self.next) as i32)]).unwrap()
    }
}
