//! What writers pay. The attached table and its twin take turns in pairs, in one database, and grow alike.
//!
//! Each rate has a second figure beside it: the processor time that one server process spends on a row. Other work on
//! the machine shifts it far less than a rate.
//!
//! `synchronous_commit` is off for the writers: waiting for the disk would hide what the extension costs.

use crate::Plan;
use crate::fleet::SOURCE;
use crate::measure::{Samples, backend_cpu, note};
use crate::report::{Goal, Report, Row};
use crate::server;
use harness::{Cluster, value};
use postgres::{Client, Statement};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;

/// Devices, each beaten for by one client: so many that two clients seldom meet in a page.
const DEVICES: usize = 100_000;

/// From one beat to the next; it has no factor in common with a client's share of them.
const STRIDE: usize = 7919;

/// Rows of one COPY.
const COPIED: usize = 10_000;

/// Pairs of rounds between two seals while sealing is off: what is 60 s late at the first pair still is at the last.
const PAIRS_A_SEAL: usize = 7;

/// The settings under which the seal follows within a round, so that a round pays for its own sealing.
const AT_ONCE: [(&str, &str); 2] =
    [("busymate_stats.seal_interval", "'1s'"), ("busymate_stats.seal_lag", "'1s'")];

/// Nothing is sealed: what is left is what the writer itself pays.
const NOT_AT_ALL: [(&str, &str); 2] =
    [("busymate_stats.seal_interval", "0"), ("busymate_stats.seal_lag", "'1s'")];

/// As the extension sets them.
const DEFAULTS: [(&str, &str); 2] =
    [("busymate_stats.seal_interval", "'5s'"), ("busymate_stats.seal_lag", "'5s'")];

/// What is written.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// One row a statement.
    Single,
    /// A hundred rows a statement.
    Hundred,
    /// [`COPIED`] rows by COPY.
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

/// How long after its entry time a row is written.
#[derive(Clone, Copy, PartialEq)]
enum Delay {
    /// The entry time is the column's default, now().
    None,
    /// A minute: once sealed, every row lies before the capture threshold.
    Minute,
    /// An hour.
    Hour,
    /// Anything up to a day.
    UpToADay,
}

impl Delay {
    fn told(self) -> &'static str {
        match self {
            Delay::None => "",
            Delay::Minute => ", every row 60 s late",
            Delay::Hour => ", every row 1 h late",
            Delay::UpToADay => ", every row late, spread over 24 h",
        }
    }

    /// The n-th row's entry time in SQL, if it is given at all. No two rows of a statement have the same.
    fn entry_time(self) -> Option<&'static str> {
        match self {
            Delay::None => None,
            Delay::Minute => Some("now() - interval '60 s' - n % 10000 * interval '1 ms'"),
            Delay::Hour => Some("now() - interval '1 h' - n % 10000 * interval '1 ms'"),
            Delay::UpToADay => Some("now() - interval '60 s' - n % 10000 * 7919 % 86280 * interval '1 s'"),
        }
    }
}

/// What is written, and when.
#[derive(Clone, Copy)]
struct Load {
    kind: Kind,
    delay: Delay,
}

impl Load {
    const fn new(kind: Kind, delay: Delay) -> Self {
        Self { kind, delay }
    }

    /// Least share of the bare table's speed.
    fn goal(self) -> f64 {
        match (self.delay, self.kind) {
            (_, Kind::Heartbeat) => 0.97,
            (Delay::Minute, Kind::Single) => 0.88,
            (Delay::None | Delay::Minute, _) => 0.95,
            (Delay::Hour | Delay::UpToADay, _) => 0.90,
        }
    }
}

const ON_TIME: [Load; 3] = [
    Load::new(Kind::Single, Delay::None),
    Load::new(Kind::Hundred, Delay::None),
    Load::new(Kind::Copy, Delay::None),
];

const A_MINUTE_LATE: [Load; 3] = [
    Load::new(Kind::Single, Delay::Minute),
    Load::new(Kind::Hundred, Delay::Minute),
    Load::new(Kind::Copy, Delay::Minute),
];

const AN_HOUR_LATE: [Load; 2] = [Load::new(Kind::Hundred, Delay::Hour), Load::new(Kind::Copy, Delay::Hour)];

const UP_TO_A_DAY_LATE: [Load; 2] =
    [Load::new(Kind::Hundred, Delay::UpToADay), Load::new(Kind::Copy, Delay::UpToADay)];

const HEARTBEATS: [Load; 1] = [Load::new(Kind::Heartbeat, Delay::None)];

/// Where it is written.
pub struct Tables {
    /// For people: how they differ from plain tables.
    pub told: &'static str,
    /// Statements that make `bare.entries`, and what else makes them differ from the extension's own.
    pub make: &'static str,
}

/// Plain tables, as `create_fleet_tables()` makes them.
pub const PLAIN: Tables = Tables {
    told: "",
    // The copy's indexes are the user's own. Versions that capture inserts by an index have that copied too.
    make: "create table bare.entries (like public.entries including all);
           do $$
           declare index regclass;
           begin
               for index in
                   select i.indexrelid from pg_index i
                     join pg_class c on c.oid = i.indexrelid
                     join pg_am m on m.oid = c.relam and m.amname = 'busymate_stats_capture'
                    where i.indrelid = 'bare.entries'::regclass
               loop
                   execute format('drop index %s', index);
               end loop;
           end $$",
};

/// Plain tables, with the sealer at work and without.
pub fn into_plain_tables(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    for load in [&ON_TIME[..], &HEARTBEATS, &A_MINUTE_LATE, &UP_TO_A_DAY_LATE].concat() {
        Comparison { load, sealing: true, tables: &PLAIN }.run(plan, cluster, report);
    }
    for load in [&ON_TIME[..], &A_MINUTE_LATE, &AN_HOUR_LATE, &UP_TO_A_DAY_LATE].concat() {
        Comparison { load, sealing: false, tables: &PLAIN }.run(plan, cluster, report);
    }
    server::set(cluster, &DEFAULTS);
}

/// Partitioned tables, the writer alone.
pub fn into_partitions(plan: &Plan, cluster: &Cluster, tables: &Tables, report: &mut Report) {
    for load in [ON_TIME, A_MINUTE_LATE].concat() {
        Comparison { load, sealing: false, tables }.run(plan, cluster, report);
    }
    server::set(cluster, &DEFAULTS);
}

/// One load, into attached tables and into bare ones.
struct Comparison<'a> {
    load: Load,
    /// Whether the sealer is at work, or has sealed before and is off while rows are written.
    sealing: bool,
    tables: &'a Tables,
}

impl Comparison<'_> {
    fn written(&self) -> String {
        format!("{}{}{}", self.load.kind.told(), self.tables.told, self.load.delay.told())
    }

    fn run(&self, plan: &Plan, cluster: &Cluster, report: &mut Report) {
        let sealer = if self.sealing { "the sealer at work on the same cores" } else { "the writer alone" };
        let rate = format!("ingest, attached ÷ not: {}, {CLIENTS} clients, {sealer}", self.written());
        let cpu = format!("processor time a row, not ÷ attached: {}, one session, {sealer}", self.written());
        // The sealer works in processes of its own, so the writer's takes the same time beside it.
        let (rate_wanted, cpu_wanted) = (plan.wants(&rate), !self.sealing && plan.wants(&cpu));
        if !rate_wanted && !cpu_wanted {
            return;
        }
        note(&format!("{}, {sealer}", self.written()));
        server::set(cluster, if self.sealing { &AT_ONCE } else { &NOT_AT_ALL });
        let database = prepare(cluster, self.tables);
        if rate_wanted {
            self.rates(plan, cluster, &database, rate, report);
        }
        if cpu_wanted {
            self.processor_time(plan, cluster, &database, cpu, report);
        }
        let drop = format!("drop database {database} with (force)");
        cluster.connect("postgres").batch_execute(&drop).unwrap();
    }

    fn rates(&self, plan: &Plan, cluster: &Cluster, database: &str, what: String, report: &mut Report) {
        let mut client = cluster.connect(database);
        // Many short rounds rather than few long ones: what disturbs a round disturbs its twin less often.
        let length = Duration::from_millis(plan.pick(1500, 700));
        let round = |schema: &str| rate(cluster, database, schema, self.load, length);
        round("public");
        round("bare");
        let mut rates = [Samples::default(), Samples::default()];
        let mut ratios = Samples::default();
        for pair in 0..plan.pick(21, 3) {
            if !self.sealing && pair % PAIRS_A_SEAL == 0 {
                seal_once(cluster, &mut client);
            }
            let mut found = [0.0; 2];
            // Who goes first changes, so that neither profits from its place.
            for place in [pair % 2, 1 - pair % 2] {
                if self.sealing {
                    await_quiet(&mut client);
                }
                found[place] = round(["public", "bare"][place]);
                rates[place].add_value(found[place]);
            }
            ratios.add_value(found[0] / found[1]);
        }
        self.require_captured(&mut client);
        report.row(Row {
            what,
            entries: String::new(),
            ours: rates[0].told("rows/s"),
            other: rates[1].told("rows/s"),
            figure: ratios.median(),
            unit: "×",
            goal: Goal::AtLeast(self.load.goal()),
        });
    }

    /// The processor time that one server process spends on each row, commits included.
    fn processor_time(
        &self,
        plan: &Plan,
        cluster: &Cluster,
        database: &str,
        what: String,
        report: &mut Report,
    ) {
        let mut client = cluster.connect(database);
        let mut writers =
            ["public", "bare"].map(|schema| Writer::new(cluster.connect(database), schema, self.load, 0));
        let pids =
            writers.each_mut().map(|writer| value::<i32>(&mut writer.client, "select pg_backend_pid()"));
        for writer in &mut writers {
            writer.work_in_server();
        }
        seal_once(cluster, &mut client);
        let mut found = [Samples::default(), Samples::default()];
        let mut ratios = Samples::default();
        for pair in 0..plan.pick(41, 7) {
            let mut each = [0.0; 2];
            for place in [pair % 2, 1 - pair % 2] {
                let before = backend_cpu(pids[place]);
                let rows = writers[place].work_in_server();
                each[place] = (backend_cpu(pids[place]) - before).as_secs_f64() * 1e6 / rows as f64;
                found[place].add_value(each[place]);
            }
            ratios.add_value(each[1] / each[0]);
        }
        self.require_captured(&mut client);
        report.row(Row {
            what,
            entries: String::new(),
            ours: found[0].told("µs"),
            other: found[1].told("µs"),
            figure: ratios.median(),
            unit: "×",
            goal: Goal::None,
        });
    }

    /// With nothing sealed since, late rows have left late changes and others none: otherwise something else was
    /// measured than the row says.
    fn require_captured(&self, client: &mut Client) {
        if !self.sealing && self.load.kind != Kind::Heartbeat {
            let captured: bool =
                value(client, "select exists (select from busymate_stats_internal.late_changes)");
            assert_eq!(captured, self.load.delay != Delay::None, "{}: late changes", self.written());
        }
    }
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

/// Waits until the attached table's entries are sealed, so that the twin's round pays for none of it. While nothing comes the
/// boundary stands still.
fn await_quiet(client: &mut Client) {
    let now: i64 = value(client, "select (extract(epoch from clock_timestamp()) * 1000)::bigint");
    let sealed = format!(
        "select coalesce(boundary > moment
                         or not exists (select from public.entries where created_at >= boundary and created_at < moment)
                            and not exists (select from busymate_stats_internal.late_changes), false)
           from (select max(boundary), to_timestamp({now} / 1000.0)
                   from busymate_stats_internal.seal_state where boundary = goal) sealed (boundary, moment)"
    );
    let started = Instant::now();
    while !value::<bool>(client, &sealed) {
        assert!(started.elapsed() < Duration::from_secs(120), "the sealer does not keep up");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Has everything sealed once, and leaves sealing off: the capture threshold is at most some seconds old.
pub fn seal_once(cluster: &Cluster, client: &mut Client) {
    server::set(cluster, &AT_ONCE);
    await_quiet(client);
    server::set(cluster, &NOT_AT_ALL);
}

/// Rows a second that the clients write together.
fn rate(cluster: &Cluster, database: &str, schema: &str, load: Load, length: Duration) -> f64 {
    let writers: Vec<_> =
        (0..CLIENTS).map(|number| Writer::new(cluster.connect(database), schema, load, number)).collect();
    std::thread::scope(|scope| {
        let rates: Vec<_> =
            writers.into_iter().map(|mut writer| scope.spawn(move || writer.work(length))).collect();
        rates.into_iter().map(|rate| rate.join().unwrap()).sum()
    })
}

struct Writer {
    client: Client,
    kind: Kind,
    insert: Statement,
    /// The same as a loop within the server, a transaction for each statement, and how many rows it writes.
    in_server: (String, u64),
    copy: String,
    batch: String,
    first: usize,
    next: usize,
}

impl Writer {
    fn new(mut client: Client, schema: &str, load: Load, number: usize) -> Self {
        client.batch_execute("set synchronous_commit = off").unwrap();
        let Load { kind, delay } = load;
        let time = delay.entry_time();
        let values = format!(
            "{}md5('device' || 1 + n % 1000)::uuid, 'host' || n % 997 || '.example.com', 'GET', 200 + n % 5, {SOURCE}",
            time.map_or_else(String::new, |time| format!("{time}, "))
        );
        let columns = format!(
            "({}device_uuid, host, method, status, source)",
            if time.is_some() { "created_at, " } else { "" }
        );
        let (sql, statements) = match kind {
            Kind::Heartbeat => (
                format!(
                    "update {schema}.devices set last_seen_at = now() where device_uuid = md5('device' || 1 + $1::int % {DEVICES})::uuid"
                ),
                2_000,
            ),
            Kind::Hundred => (
                format!(
                    "insert into {schema}.entries {columns} select {values} from generate_series($1::int, $1::int + 99) n"
                ),
                100,
            ),
            Kind::Single | Kind::Copy => (
                format!(
                    "insert into {schema}.entries {columns} select {values} from (values ($1::int)) given (n)"
                ),
                2_000,
            ),
        };
        let insert = client.prepare(&sql).unwrap();
        let in_server = format!(
            "do $$ begin for number in 1..{statements} loop {}; commit; end loop; end $$",
            sql.replace("$1::int", "number")
        );
        let rows = statements * if kind == Kind::Hundred { 100 } else { 1 };
        let batch = if kind == Kind::Copy { batch(&mut client, time) } else { String::new() };
        let copy = format!("copy {schema}.entries {columns} from stdin");
        Self {
            client,
            kind,
            insert,
            in_server: (in_server, rows),
            copy,
            batch,
            first: number * DEVICES / CLIENTS,
            next: 0,
        }
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

    /// Writes as many rows as take the server some tenths of a second, with as little as possible done for the client;
    /// gives how many.
    fn work_in_server(&mut self) -> u64 {
        if self.kind == Kind::Copy {
            return (0..3).map(|_| self.step()).sum();
        }
        self.client.batch_execute(&self.in_server.0).unwrap();
        self.in_server.1
    }
}

/// The rows of one COPY; the server tells what their entry times are.
fn batch(client: &mut Client, time: Option<&str>) -> String {
    let times: Vec<String> = time.map_or_else(Vec::new, |time| {
        let sql = format!("select ({time})::text from generate_series(1, {COPIED}) n");
        client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    });
    let mut batch = String::new();
    for n in 0..COPIED {
        if let Some(time) = times.get(n) {
            let _ = write!(batch, "{time}\t");
        }
        let _ = writeln!(
            batch,
            "{:08x}-0000-4000-8000-000000000000\thost{}.example.com\tGET\t{}\t{}",
            n % 1000,
            n % 997,
            200 + n % 5,
            ["vpn", "pac", "cdp", "proxy", "sdk"][n % 5]
        );
    }
    batch
}
