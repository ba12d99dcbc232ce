//! Promise: an hour of load beside a held snapshot, and beside a writer left open, leaves the figures exact, the state's
//! tables bounded, and the seal caught up once they are gone. `make held`, MINUTES=… for another length; it prints what
//! readers waited and how large the tables were.

use harness::{Cluster, eventually_within, value};
use postgres::Client;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Nothing is sealed until all is loaded.
const SETTINGS: &str = "shared_buffers = 1GB
max_wal_size = 8GB
work_mem = 32MB
random_page_cost = 1.1
synchronous_commit = off
busymate_stats.seal_interval = 0
busymate_stats.status_interval = 0";

/// Entries from the days before, and what arrives every second in statements of ten.
const LOADED: i64 = 1_000_000;
const STATEMENTS_A_SECOND: u32 = 100;

const FLEET: &str = "create extension busymate_stats;
    select busymate_stats.create_fleet_tables();
    insert into public.devices (device_uuid, name, connection_type, last_seen_at)
        select md5('device' || n)::uuid, 'Device ' || n, (array['vpn', 'pac'])[1 + n % 2], now()
          from generate_series(0, 9999) n";

/// What came in before the measurement begins, over thirty days.
const PAST: &str = "insert into public.entries (created_at, device_uuid, host, method, status, source)
    select now() - interval '30 days' * random(), md5('device' || n % 10000)::uuid, 'host' || n % 5000 || '.example.com',
           'GET', 200 + n % 300, (array['vpn', 'pac', 'sdk'])[1 + n % 3]
      from generate_series(1, $1::bigint) n";

/// Ten entries that are stamped now.
const ARRIVING: &str = "insert into public.entries (device_uuid, host, method, status, source)
    select md5('device' || ($1 * 10 + n) % 10000)::uuid, 'host' || ($1 * 7 + n) % 5000 || '.example.com', 'GET',
           200 + n % 300, 'vpn'
      from generate_series(1, 10) n";

/// One of some hours ago is corrected: a late change.
const CORRECTED: &str = "update public.entries set status = 503
    where created_at = (select min(created_at) from public.entries where created_at > now() - interval '1 hour' * (1 + $1 % 20))";

const HEARTBEAT: &str =
    "update public.devices set last_seen_at = now() where device_uuid = md5('device' || $1 % 10000)::uuid";
const RECONNECTED: &str =
    "update public.devices set connection_type = case connection_type when 'vpn' then 'pac' else 'vpn' end
    where device_uuid = md5('device' || $1 * 31 % 10000)::uuid";

const TABLES: [&str; 11] = [
    "capture",
    "late_changes",
    "seal_keys",
    "seal_look",
    "seal_markers",
    "seal_state",
    "roster_capture",
    "roster_changes",
    "roster_look",
    "roster_moments",
    "roster_state",
];

/// What somebody holds open all the while.
struct Case {
    told: &'static str,
    held: &'static str,
}

const CASES: [Case; 3] = [
    Case { told: "nothing held", held: "" },
    Case {
        told: "a snapshot held",
        held: "begin isolation level repeatable read; select count(*) from public.devices",
    },
    Case {
        told: "a writer left open",
        held: "begin; insert into public.entries (host, status) values ('open.example.com', 200)",
    },
];

fn minutes() -> u64 {
    std::env::var("BUSYMATE_MINUTES")
        .ok()
        .filter(|text| !text.is_empty())
        .map_or(60, |text| text.parse().unwrap())
}

fn prepare(cluster: &Cluster) -> String {
    let database = cluster.create_database("held");
    let mut client = cluster.connect(&database);
    client.batch_execute(FLEET).unwrap();
    client.execute(PAST, &[&LOADED]).unwrap();
    client.batch_execute("vacuum analyze").unwrap();
    database
}

/// Waits until entries are sealed; gives how long that took.
fn caught_up(client: &mut Client) -> Duration {
    let started = Instant::now();
    let sealed = "select coalesce((detail ->> 'sealed')::boolean, false) from busymate_stats.health where feed = 'seal'";
    eventually_within(Duration::from_secs(900), "the seal catches up", || {
        value::<bool>(client, sealed).then_some(())
    });
    started.elapsed()
}

/// Writes at a steady rate until it is told to stop.
fn write(mut client: Client, stop: &AtomicBool) {
    let [arriving, corrected, heartbeat, reconnected] = [ARRIVING, CORRECTED, HEARTBEAT, RECONNECTED]
        .map(|sql| client.prepare_typed(sql, &[postgres::types::Type::INT4]).unwrap());
    let started = Instant::now();
    for number in 0_i32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        client.execute(&arriving, &[&number]).unwrap();
        client.execute(&heartbeat, &[&number]).unwrap();
        if number % 10 == 0 {
            client.execute(&corrected, &[&number]).unwrap();
            client.execute(&reconnected, &[&number]).unwrap();
        }
        let due = Duration::from_secs(1) * number as u32 / STATEMENTS_A_SECOND;
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
}

/// Median of some calls of `get_stats()` in this session, in milliseconds.
fn latency(client: &mut Client) -> f64 {
    let mut took: Vec<f64> = (0..15)
        .map(|_| {
            let started = Instant::now();
            client.simple_query("select public.get_stats()").unwrap();
            started.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    took.sort_unstable_by(f64::total_cmp);
    took[took.len() / 2]
}

/// Bytes of the state's tables with their indexes: all of them, and the largest by name.
fn sizes(client: &mut Client) -> (i64, String) {
    let names: Vec<String> = TABLES.iter().map(|name| format!("'{name}'")).collect();
    let rows = client
        .query(
            &format!(
                "select t, pg_total_relation_size(format('busymate_stats_internal.%I', t)) from unnest(array[{}]) t order by 2 desc",
                names.join(", ")
            ),
            &[],
        )
        .unwrap();
    (rows.iter().map(|row| row.get::<_, i64>(1)).sum(), rows[0].get(0))
}

fn line(minute: &str, case: &Case, session: &mut Client, fresh: &mut Client) -> String {
    let first = Instant::now();
    fresh.simple_query("select public.get_stats()").unwrap();
    let first = first.elapsed().as_secs_f64() * 1000.0;
    let (bytes, largest) = sizes(session);
    let behind: f64 = value(
        session,
        "select extract(epoch from clock_timestamp() - max(boundary))::float8 from busymate_stats_internal.seal_state",
    );
    let late: i64 = value(session, "select count(*) from busymate_stats_internal.late_changes");
    format!(
        "| {} | {minute} | {:.2} | {first:.1} | {behind:.0} | {late} | {:.1} | {largest} |",
        case.told,
        latency(session),
        bytes as f64 / 1_048_576.0
    )
}

/// The whole hour of one case; gives its lines of the table.
fn hour(cluster: &Cluster, database: &str, case: &Case) -> String {
    let stop = AtomicBool::new(false);
    let mut told = String::new();
    std::thread::scope(|scope| {
        let mut holder = cluster.connect(database);
        holder.batch_execute(case.held).unwrap();
        let mut session = cluster.connect(database);
        let writer = cluster.connect(database);
        scope.spawn(|| write(writer, &stop));
        let started = Instant::now();
        for tenth in 0..=6 {
            let due = Duration::from_secs(minutes() * 10 * tenth);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            let minute = (minutes() * tenth).div_euclid(6).to_string();
            let line = line(&minute, case, &mut session, &mut cluster.connect(database));
            eprintln!("{line}");
            let _ = writeln!(told, "{line}");
        }
        if !case.held.is_empty() {
            holder.batch_execute("commit").unwrap();
        }
        let took = caught_up(&mut session);
        let minute = format!("let go, caught up after {:.0} s", took.as_secs_f64());
        let line = line(&minute, case, &mut session, &mut cluster.connect(database));
        stop.store(true, Ordering::Relaxed);
        eprintln!("{line}");
        let _ = writeln!(told, "{line}");
    });
    told
}

fn agree(client: &mut Client) {
    let differs: Option<String> = client
        .query_opt(
            "select format('%s, not %s', at, plain)
               from (select busymate_stats.stats_at(t) as at, busymate_stats.stats_recomputed(t) as plain
                       from (values (clock_timestamp())) v (t) offset 0) both_ways
              where at is distinct from plain",
            &[],
        )
        .unwrap()
        .map(|row| row.get(0));
    assert_eq!(differs, None);
}

#[test]
#[ignore = "takes an hour: make held"]
fn an_hour_beside_what_is_left_open() {
    let cluster = Cluster::start(SETTINGS);
    let databases: Vec<String> = CASES.iter().map(|_| prepare(&cluster)).collect();
    cluster.configure(&format!("{SETTINGS}\nbusymate_stats.seal_interval = 5s"));
    cluster.reload();
    for database in &databases {
        caught_up(&mut cluster.connect(database));
    }
    let told: Vec<String> = std::thread::scope(|scope| {
        let cluster = &cluster;
        let hours: Vec<_> = CASES
            .iter()
            .zip(&databases)
            .map(|(case, database)| scope.spawn(move || hour(cluster, database, case)))
            .collect();
        hours.into_iter().map(|hour| hour.join().unwrap()).collect()
    });
    for database in &databases {
        agree(&mut cluster.connect(database));
    }
    println!(
        "| case | minute | get_stats(), ms | first call of a session, ms | seal behind, s | late changes | state, MiB | of it most |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    print!("{}", told.concat());
}
