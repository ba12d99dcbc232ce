//! Reading the statistics.

use crate::Plan;
use crate::fleet::{self, DEVICE, Fleet, HOST, SOURCE, STATUS};
use crate::measure::{Samples, backend_cpu, note, timed};
use crate::report::{Goal, Report, Row, short};
use crate::seal;
use crate::server::reader;
use harness::{Cluster, value};
use postgres::{Client, Statement};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PLAIN: &str = include_str!("plain.sql");

struct Reader {
    client: Client,
    statement: Statement,
    pid: i32,
}

impl Reader {
    fn new(cluster: &Cluster, fleet: &Fleet) -> Self {
        let mut client = reader(cluster, &fleet.database);
        let statement = client.prepare("select public.get_stats()").unwrap();
        let pid = value(&mut client, "select pg_backend_pid()");
        let mut reader = Self { client, statement, pid };
        (0..50).for_each(|_| _ = reader.call());
        reader
    }

    fn call(&mut self) -> Duration {
        timed(|| drop(self.client.query_one(&self.statement, &[]).unwrap()))
    }

    /// How long a call takes, and the processor time that the server spends on it.
    fn call_with_cpu(&mut self) -> (Duration, Duration) {
        let before = backend_cpu(self.pid);
        let took = self.call();
        (took, backend_cpu(self.pid) - before)
    }
}

/// `get_stats()` in a warm session, against plain SQL and a materialized view; the sizes in turns.
pub fn warm(plan: &Plan, cluster: &Cluster, fleets: &[Fleet], report: &mut Report) {
    note("reading in warm sessions");
    let mut readers: Vec<_> = fleets.iter().map(|fleet| Reader::new(cluster, fleet)).collect();
    let mut found = vec![Samples::default(); fleets.len()];
    for _ in 0..plan.pick(20, 5) {
        for (reader, samples) in readers.iter_mut().zip(&mut found) {
            (0..10).for_each(|_| _ = reader.call());
            (0..100).for_each(|_| samples.add(reader.call()));
        }
    }
    for (fleet, samples) in fleets.iter().zip(&found) {
        warm_row(samples, fleet, report);
    }
    round_trip(&mut readers[0], report);
    for (fleet, samples) in fleets.iter().zip(&found) {
        against_plain(plan, cluster, fleet, samples, report);
    }
    if fleets.len() > 1 {
        let (smallest, largest) = (found[0].median(), found[found.len() - 1].median());
        report.row(Row {
            what: "flatness: largest ÷ smallest".into(),
            entries: format!("{} ÷ {}", fleets[fleets.len() - 1].shown(), fleets[0].shown()),
            ours: format!("{} ms", short(largest)),
            other: format!("{} ms", short(smallest)),
            figure: largest / smallest,
            unit: "×",
            goal: Goal::AtMost(1.2),
        });
    }
    materialized(plan, cluster, &fleets[fleets.len() - 1], report);
}

fn warm_row(samples: &Samples, fleet: &Fleet, report: &mut Report) {
    report.row(Row {
        what: "`get_stats()`, warm".into(),
        entries: fleet.shown(),
        ours: format!("{}, p95 {} ms", samples.told("ms"), short(samples.quantile(0.95))),
        other: String::new(),
        figure: samples.median(),
        unit: "ms",
        goal: Goal::AtMost(1.0),
    });
}

/// What of a call is the way there and back.
fn round_trip(reader: &mut Reader, report: &mut Report) {
    let statement = reader.client.prepare("select '{}'::jsonb").unwrap();
    let mut samples = Samples::default();
    for _ in 0..500 {
        samples.add(timed(|| drop(reader.client.query_one(&statement, &[]).unwrap())));
    }
    report.fact("a round trip of the client alone", samples.told("ms"));
}

fn against_plain(plan: &Plan, cluster: &Cluster, fleet: &Fleet, ours: &Samples, report: &mut Report) {
    cluster.connect(&fleet.database).batch_execute(PLAIN).unwrap();
    let mut client = reader(cluster, &fleet.database);
    agree(&mut client);
    let mut plain = Samples::default();
    for _ in 0..plan.pick(5, 3) {
        plain.add(timed(|| drop(client.query_one("select public.plain_get_stats()", &[]).unwrap())));
    }
    report.row(Row {
        what: "the same by a plain SQL function".into(),
        entries: fleet.shown(),
        ours: format!("{} ms", short(ours.median())),
        other: plain.told("ms"),
        figure: plain.median() / ours.median(),
        unit: "×",
        goal: if fleet.size >= 10_000_000 { Goal::AtLeast(3000.0) } else { Goal::None },
    });
}

/// Warms up, and makes sure that both answer the same question. Their moments differ a little.
fn agree(client: &mut Client) {
    let row = client.query_one("select public.plain_get_stats(), public.get_stats()", &[]).unwrap();
    let (plain, ours): (Value, Value) = (row.get(0), row.get(1));
    assert_eq!(plain["total_entries"], ours["total_entries"]);
    let day = |value: &Value| value["entries_24h"].as_f64().unwrap();
    assert!((day(&plain) / day(&ours) - 1.0).abs() < 0.01, "{plain}\n{ours}");
}

/// A materialized view, refreshed as pg_cron would every minute.
fn materialized(plan: &Plan, cluster: &Cluster, fleet: &Fleet, report: &mut Report) {
    let mut client = cluster.connect(&fleet.database);
    client
        .batch_execute("create materialized view public.cached_stats as select 1 as id, public.plain_get_stats() as stats")
        .unwrap();
    let mut refresh = Samples::default();
    for _ in 0..plan.pick(3, 2) {
        refresh.add(timed(|| client.batch_execute("refresh materialized view public.cached_stats").unwrap()));
    }
    let mut read = Samples::default();
    for _ in 0..500 {
        read.add(timed(|| drop(client.query_one("select stats from public.cached_stats", &[]).unwrap())));
    }
    report.row(Row {
        what: "a materialized view refreshed every 60 s (pg_cron): up to 60 s and a REFRESH stale".into(),
        entries: fleet.shown(),
        ours: "exact at each call".into(),
        other: format!("REFRESH {}; reading it {} ms", refresh.told("ms"), short(read.median())),
        figure: (60_000.0 + refresh.median()) / 1000.0,
        unit: "s stale",
        goal: Goal::None,
    });
}

/// Inserts `per_second` entries a second, one by one, until told to stop; gives how many. `entry_time` is in SQL.
fn paced_writer(
    cluster: &Cluster,
    database: &str,
    per_second: u32,
    entry_time: &str,
    stop: &AtomicBool,
) -> u64 {
    let mut client = cluster.connect(database);
    let insert = client
        .prepare(&format!(
            "insert into public.entries (created_at, device_uuid, host, method, status, source)
             select {entry_time}, {DEVICE}, {HOST}, 'GET', {STATUS}, {SOURCE} from (values ($1::int)) given (n)"
        ))
        .unwrap();
    client.batch_execute("set synchronous_commit = off").unwrap();
    let started = Instant::now();
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        while written < due {
            client.execute(&insert, &[&((written % 1_000_000) as i32)]).unwrap();
            written += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    written
}

/// Runs `work` while 1,000 entries a second arrive, after `warm_up`; gives how many a second did.
pub fn while_entries_arrive<T>(
    cluster: &Cluster,
    fleet: &Fleet,
    warm_up: Duration,
    work: impl FnOnce() -> T,
) -> (T, f64) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let started = Instant::now();
        let writer = scope.spawn(|| paced_writer(cluster, &fleet.database, 1000, "now()", &stop));
        std::thread::sleep(warm_up);
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let seconds = started.elapsed().as_secs_f64();
        (result, writer.join().unwrap() as f64 / seconds)
    })
}

/// `get_stats()` while 1,000 entries a second arrive: calls spread over several ticks of the sealer.
pub fn under_load(plan: &Plan, cluster: &Cluster, fleet: &Fleet, report: &mut Report) {
    note("reading while 1,000 entries a second arrive");
    let warm_up = Duration::from_secs(plan.pick(10, 7));
    let calls = plan.pick(1500, 500);
    let (samples, rate) = while_entries_arrive(cluster, fleet, warm_up, || {
        let mut reader = Reader::new(cluster, fleet);
        let mut samples = Samples::default();
        for _ in 0..calls {
            samples.add(reader.call());
            std::thread::sleep(Duration::from_millis(15));
        }
        samples
    });
    report.row(Row {
        what: format!("`get_stats()` while entries arrive ({}/s did)", short(rate)),
        entries: fleet.shown(),
        ours: format!("{}, p95 {} ms", samples.told("ms"), short(samples.quantile(0.95))),
        other: String::new(),
        figure: samples.median(),
        unit: "ms",
        goal: Goal::AtMost(5.0),
    });
}

/// `get_stats()` while 2,000 entries a second arrive an hour late, against as many on time. Two fleets take turns call by
/// call, so whatever disturbs the one disturbs the other.
pub fn while_late_entries_arrive(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    note("reading while 2,000 entries a second arrive, an hour late and on time");
    let fleets = [(); 2].map(|()| fleet::load(cluster, plan.smallest()));
    for fleet in &fleets {
        let mut client = cluster.connect(&fleet.database);
        fleet::attach(&mut client);
        seal::await_seal(&mut client);
    }
    let mut took = [Samples::default(), Samples::default()];
    let mut cpu = [Samples::default(), Samples::default()];
    let stop = AtomicBool::new(false);
    let rates = std::thread::scope(|scope| {
        let started = Instant::now();
        let writers = ["now() - interval '1 h'", "now()"].into_iter().zip(&fleets);
        let writers: Vec<_> = writers
            .map(|(entry_time, fleet)| {
                let stop = &stop;
                scope.spawn(move || paced_writer(cluster, &fleet.database, 2000, entry_time, stop))
            })
            .collect();
        // Until as much is unsealed as ever will be.
        std::thread::sleep(Duration::from_secs(plan.pick(15, 12)));
        let mut readers = fleets.each_ref().map(|fleet| Reader::new(cluster, fleet));
        for pair in 0..plan.pick(1500, 300) {
            for place in [pair % 2, 1 - pair % 2] {
                let (call, server) = readers[place].call_with_cpu();
                took[place].add(call);
                cpu[place].add(server);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        stop.store(true, Ordering::Relaxed);
        let seconds = started.elapsed().as_secs_f64();
        let rates: Vec<_> =
            writers.into_iter().map(|writer| writer.join().unwrap() as f64 / seconds).collect();
        rates
    });
    let what = format!(
        "`get_stats()` while entries arrive an hour late ÷ on time ({}/s and {}/s did)",
        short(rates[0]),
        short(rates[1])
    );
    for (what, [late, on_time], goal) in
        [(what.clone(), took, Goal::AtMost(1.3)), (format!("{what}, processor time"), cpu, Goal::None)]
    {
        report.row(Row {
            what,
            entries: fleets[0].shown(),
            ours: late.told("ms"),
            other: on_time.told("ms"),
            figure: late.median() / on_time.median(),
            unit: "×",
            goal,
        });
    }
    for fleet in &fleets {
        fleet::drop(cluster, fleet);
    }
}
