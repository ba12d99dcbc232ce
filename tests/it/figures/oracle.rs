//! Promise: figures are exact. Random fleets, their figures computed a second time from the same rows in plain Rust.
//!
//! The seed is printed; `BUSYMATE_TEST_SEED=… ` runs the same fleet again.

use harness::fleet::{fleet, stats_at};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
/// Microseconds from 1970 to 2026-06-02 10:00 UTC.
const T: i64 = 1_780_394_400_000_000;

/// A linear congruential generator: Knuth's constants for MMIX.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// Small numbers far more often than large ones, so that there is a busiest key, a long tail, and ties.
    fn skewed(&mut self, limit: u64) -> u64 {
        let once = self.below(limit) + 1;
        self.below(once)
    }

    /// A moment near a boundary: T and whole half hours around it, one microsecond off at most.
    fn moment(&mut self) -> i64 {
        T + (self.below(120) as i64 - 90) * HOUR / 2 + self.below(3) as i64 - 1
    }

    fn maybe<V>(&mut self, value: V) -> Option<V> {
        (self.below(8) > 0).then_some(value)
    }
}

#[derive(Clone, Copy)]
enum Time {
    At(i64),
    Infinity,
    MinusInfinity,
}

impl Time {
    fn random(random: &mut Random) -> Self {
        match random.below(40) {
            0 => Time::Infinity,
            1 => Time::MinusInfinity,
            _ => Time::At(random.moment()),
        }
    }

    fn sql(self) -> String {
        match self {
            Time::At(moment) => format!("'{}'", text(moment)),
            Time::Infinity => "'infinity'".into(),
            Time::MinusInfinity => "'-infinity'".into(),
        }
    }

    /// Whether it lies in (`after`, `until`].
    fn within(self, after: i64, until: i64) -> bool {
        matches!(self, Time::At(moment) if moment > after && moment <= until)
    }

    fn is_after(self, moment: i64) -> bool {
        match self {
            Time::At(own) => own > moment,
            Time::Infinity => true,
            Time::MinusInfinity => false,
        }
    }
}

/// A moment in PostgreSQL's syntax. All of them lie in a few days around T, so the calendar is short.
fn text(moment: i64) -> String {
    let since_may = moment - (T - 10 * HOUR - 32 * 24 * HOUR);
    let (day, rest) = (since_may / (24 * HOUR), since_may % (24 * HOUR));
    let (month, day) = if day < 31 { (5, day + 1) } else { (6, day - 30) };
    let (hour, rest) = (rest / HOUR, rest % HOUR);
    let (minute, rest) = (rest / MINUTE, rest % MINUTE);
    format!(
        "2026-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}.{:06}+00",
        rest / 1_000_000,
        rest % 1_000_000
    )
}

struct Entry {
    time: Time,
    host: Option<String>,
    status: Option<i64>,
    source: Option<String>,
    device: Option<String>,
}

struct Device {
    key: String,
    name: String,
    connection_type: Option<String>,
    last_seen: Option<Time>,
}

struct Fleet {
    entries: Vec<Entry>,
    devices: Vec<Device>,
}

fn uuid(number: u64) -> String {
    format!("00000000-0000-4000-8000-{:012x}", number * 0x9e37_79b9_7f4b % 0xffff_ffff_ffff)
}

impl Fleet {
    fn random(random: &mut Random) -> Self {
        let sources = 1 + random.below(400);
        let hosts = 1 + random.below(60);
        let known_devices = random.below(30);
        let statuses = [99, 100, 101, 199, 200, 204, 301, 399, 404, 499, 500, 599, 600, 0, -200, 1000];
        let hosts = (0..hosts)
            .map(|n| format!("{}{n}.example", ["", "API.", "ä", "🦊", "\u{1}", "o''", "\\"][n as usize % 7]))
            .collect::<Vec<_>>();
        let entries = (0..random.below(3000))
            .map(|_| Entry {
                time: Time::random(random),
                host: random.maybe(()).map(|()| hosts[random.skewed(hosts.len() as u64) as usize].clone()),
                status: random.maybe(()).map(|()| statuses[random.below(statuses.len() as u64) as usize]),
                source: random.maybe(()).map(|()| match random.skewed(sources) {
                    3 => "unknown".into(),
                    7 => "other".into(),
                    n => format!("s{n}"),
                }),
                device: random.maybe(()).map(|()| uuid(random.skewed(40))),
            })
            .collect();
        let types = 1 + random.below(4);
        let devices = (0..known_devices)
            .map(|n| Device {
                key: uuid(n),
                name: format!("BMH{n}"),
                connection_type: random.maybe(()).map(|()| format!("t{}", random.below(types))),
                last_seen: random.maybe(()).map(|()| Time::random(random)),
            })
            .collect();
        Self { entries, devices }
    }

    /// INSERT statements for all rows.
    fn sql(&self) -> String {
        let text = |value: &Option<String>| match value {
            // The hosts' quotes are doubled where they are made.
            Some(value) => format!("'{value}'"),
            None => "null".into(),
        };
        let mut statements = String::new();
        for entry in &self.entries {
            let status = entry.status.map_or("null".into(), |status| status.to_string());
            statements += &format!(
                "insert into public.entries (created_at, host, status, source, device_uuid) values ({}, {}, {status}, {}, {});",
                entry.time.sql(),
                text(&entry.host),
                text(&entry.source),
                text(&entry.device)
            );
        }
        for device in &self.devices {
            statements += &format!(
                "insert into public.devices (device_uuid, name, connection_type, last_seen_at) values ('{}', '{}', {}, {});",
                device.key,
                device.name,
                text(&device.connection_type),
                device.last_seen.map_or("null".into(), Time::sql)
            );
        }
        statements
    }

    /// The definitions, one after the other, in the words in which they are promised.
    fn figures(&self, as_of: i64, top_n: usize, online_window: i64) -> Value {
        let last =
            |length: i64| self.entries.iter().filter(move |entry| entry.time.within(as_of - length, as_of));
        let day: Vec<&Entry> = last(24 * HOUR).collect();
        let last_hour = last(HOUR).count() as i64;
        let classes =
            day.iter().filter_map(|entry| entry.status).filter(|status| (100..=599).contains(status));
        let top_devices = ranked(day.iter().filter_map(|entry| entry.device.clone()));
        let name =
            |key: &str| self.devices.iter().find(|device| device.key == key).map(|device| &device.name);
        let online =
            |device: &&Device| device.last_seen.is_some_and(|seen| seen.is_after(as_of - online_window));
        let or_unknown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        json!({
            "total_devices": self.devices.len(),
            "online_devices": self.devices.iter().filter(online).count(),
            "total_entries": self.entries.len(),
            "entries_1h": last_hour,
            "entries_24h": day.len(),
            "requests_per_sec": rate(last_hour),
            "status_class_mix": mix(ranked(classes.map(|status| (status / 100).to_string()))),
            "source_mix": mix(ranked(day.iter().map(|entry| or_unknown(&entry.source)))),
            "connection_type_mix": mix(ranked(self.devices.iter().map(|device| or_unknown(&device.connection_type)))),
            "top_domains": ranked(day.iter().filter_map(|entry| entry.host.as_ref().map(|host| host.replace("''", "'"))))
                .into_iter().take(top_n).map(|(host, count)| json!({ "host": host, "count": count })).collect::<Vec<_>>(),
            "top_devices": top_devices.into_iter().take(top_n)
                .map(|(key, count)| json!({ "device_uuid": key, "name": name(&key), "count": count })).collect::<Vec<_>>(),
            "generated_at": text(as_of).replace(' ', "T")[..23].to_owned() + "Z",
        })
    }
}

/// Keys and how often they occur: the most frequent first, then by their bytes.
fn ranked(keys: impl Iterator<Item = String>) -> Vec<(String, i64)> {
    let mut counts: HashMap<String, i64> = HashMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    let mut ranked: Vec<_> = counts.into_iter().collect();
    ranked.sort_by(|(a, n), (b, m)| m.cmp(n).then(a.as_bytes().cmp(b.as_bytes())));
    ranked
}

fn mix(ranked: Vec<(String, i64)>) -> Value {
    let mut mix: Map<String, Value> = Map::new();
    for (rank, (key, count)) in ranked.into_iter().enumerate() {
        let key = if rank < 100 { key } else { "other".into() };
        let sum = mix.get(&key).and_then(Value::as_i64).unwrap_or(0) + count;
        mix.insert(key, sum.into());
    }
    Value::Object(mix)
}

fn rate(last_hour: i64) -> Value {
    // Fewer than ten thousand entries, so that no rounding of the division matters.
    let text = format!("{:.2}", (last_hour as f64 / 36.0 + 1e-9).round() / 100.0);
    serde_json::from_str(text.trim_end_matches('0').trim_end_matches('.')).unwrap()
}

#[test]
fn random_fleets_against_plain_rust() {
    let seed = match std::env::var("BUSYMATE_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("BUSYMATE_TEST_SEED={seed}");
    let mut random = Random(seed);
    let (_, mut client) = fleet("random");
    for round in 0..8 {
        let fleet = Fleet::random(&mut random);
        client.batch_execute("truncate public.entries, public.devices").unwrap();
        client.batch_execute(&fleet.sql()).unwrap();
        for _ in 0..40 {
            let as_of = random.moment();
            let top_n = 1 + random.skewed(100) as usize;
            let online_minutes = random.below(4) as i64 * 30;
            client
                .batch_execute(&format!(
                    "set busymate_stats.top_n = {top_n}; set busymate_stats.online_window = '{online_minutes}min'"
                ))
                .unwrap();
            let found = stats_at(&mut client, &text(as_of));
            let expected = fleet.figures(as_of, top_n, online_minutes * MINUTE);
            assert_eq!(found, expected, "seed {seed}, round {round}, as of {}", text(as_of));
        }
    }
}

/// The fleets above reach what they are meant to reach: boundaries hit exactly, the rest of a mix, ties.
#[test]
fn the_oracle_itself() {
    assert_eq!(text(T), "2026-06-02 10:00:00.000000+00");
    assert_eq!(text(T - 34 * HOUR - 1), "2026-05-31 23:59:59.999999+00");
    assert_eq!(
        (rate(0), rate(17), rate(18), rate(3600), rate(5400)),
        (json!(0), json!(0), json!(0.01), json!(1), json!(1.5))
    );
    let mut random = Random(1);
    let fleets: Vec<Fleet> = (0..8).map(|_| Fleet::random(&mut random)).collect();
    let on = |offset: i64| {
        fleets
            .iter()
            .flat_map(|fleet| &fleet.entries)
            .filter(|entry| matches!(entry.time, Time::At(at) if at == T + offset))
            .count()
    };
    assert!(on(0) > 0 && on(-HOUR) > 0 && on(-24 * HOUR + 1) > 0 && on(1) > 0);
    assert!(
        fleets.iter().any(|fleet| fleet.figures(T, 100, 0)["source_mix"].as_object().unwrap().len() >= 100)
    );
}
