//! Promise: figures are exact. A fleet small enough to count by hand, edge by edge.

use harness::fleet::{fleet, stats_at};
use harness::{as_caller, eventually, installed, refusal, refusal_of, shared, value};
use postgres::Client;
use serde_json::{Value, json};

const T: &str = "2026-06-02 10:00:00+00";

/// One row of entries: its time as an offset from T, then host, status, source and device as SQL.
fn entries(client: &mut Client, rows: &[(&str, &str)]) {
    for (time, rest) in rows {
        let time = match *time {
            "infinity" | "-infinity" => format!("'{time}'"),
            offset => format!("timestamptz '{T}' + interval '{offset}'"),
        };
        client
            .batch_execute(&format!(
                "insert into public.entries (created_at, host, status, source, device_uuid) values ({time}, {rest})"
            ))
            .unwrap();
    }
}

fn hand_countable(prefix: &str) -> Client {
    let (_, mut client) = fleet(prefix);
    client
        .batch_execute(&format!(
            "insert into public.devices (device_uuid, name, connection_type, last_seen_at) values
             ('00000000-0000-0000-0000-000000000001', 'BMH1', 'vpn', timestamptz '{T}' - interval '5 min'),
             ('00000000-0000-0000-0000-000000000002', 'BMH2', 'vpn', timestamptz '{T}' - interval '5 min' + interval '1 us'),
             ('00000000-0000-0000-0000-000000000003', 'BMH3', 'pac', timestamptz '{T}' + interval '1 hour'),
             ('00000000-0000-0000-0000-000000000004', 'BMH4', null, null),
             ('00000000-0000-0000-0000-000000000005', 'BMH5', 'unknown', '-infinity'),
             ('00000000-0000-0000-0000-000000000006', 'BMH6', 'pac', 'infinity')"
        ))
        .unwrap();
    let one = "'00000000-0000-0000-0000-000000000001'";
    let gone = "'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    entries(
        &mut client,
        &[
            ("-24 hours", "'gone.example', 200, 'cdp', null"),
            ("-24 hours 1 us", "null, 99, null, null"),
            ("-1 hour", &format!("'b.example', 100, 'unknown', {one}")),
            ("-1 hour 1 us", &format!("'b.example', 199, 'vpn', {one}")),
            ("-1 us", &format!("'c.example', null, 'pac', {gone}")),
            ("0", &format!("'a.example', 599, 'vpn', {gone}")),
            ("0", &format!("'a.example', 600, 'pac', {gone}")),
            ("1 us", &format!("'b.example', 200, 'cdp', {one}")),
            ("1 hour", "'later.example', 200, 'cdp', null"),
            ("-30 days", "'old.example', 200, 'cdp', null"),
            ("infinity", "'never.example', 200, 'cdp', null"),
            ("-infinity", "'always.example', 200, 'cdp', null"),
        ],
    );
    client
}

#[test]
fn counted_by_hand() {
    let mut client = hand_countable("hand");
    let expected = json!({
        "total_devices": 6,
        "online_devices": 3,
        "total_entries": 12,
        "entries_1h": 4,
        "entries_24h": 6,
        "requests_per_sec": 0,
        "status_class_mix": { "1": 2, "5": 1 },
        "source_mix": { "unknown": 2, "vpn": 2, "pac": 2 },
        "connection_type_mix": { "vpn": 2, "pac": 2, "unknown": 2 },
        "top_domains": [
            { "host": "a.example", "count": 2 },
            { "host": "b.example", "count": 2 },
            { "host": "c.example", "count": 1 },
        ],
        "top_devices": [
            { "device_uuid": "ffffffff-ffff-ffff-ffff-ffffffffffff", "name": null, "count": 3 },
            { "device_uuid": "00000000-0000-0000-0000-000000000001", "name": "BMH1", "count": 2 },
        ],
        "generated_at": "2026-06-02T10:00:00.000Z",
    });
    assert_eq!(stats_at(&mut client, T), expected);
}

/// `[total, 24 h, 1 h]` at an offset from T.
fn windows(client: &mut Client, offset: &str) -> [i64; 3] {
    let moment: String = value(client, &format!("select (timestamptz '{T}' + interval '{offset}')::text"));
    let stats = stats_at(client, &moment);
    ["total_entries", "entries_24h", "entries_1h"].map(|key| stats[key].as_i64().unwrap())
}

#[test]
fn windows_move_by_the_microsecond() {
    let mut client = hand_countable("windows");
    assert_eq!(windows(&mut client, "0"), [12, 6, 4]);
    // One microsecond on, the entry of T + 1 us is in; the last one of yesterday and that of an hour ago are out.
    assert_eq!(windows(&mut client, "1 us"), [12, 6, 4]);
    assert_eq!(windows(&mut client, "-1 us"), [12, 5, 3]);
    assert_eq!(windows(&mut client, "2 us"), [12, 6, 4]);
    assert_eq!(windows(&mut client, "59 min"), [12, 6, 4]);
    assert_eq!(windows(&mut client, "1 hour -1 us"), [12, 6, 3]);
    assert_eq!(windows(&mut client, "1 hour"), [12, 7, 2]);
    assert_eq!(windows(&mut client, "1 hour 1 us"), [12, 7, 1]);
    assert_eq!(windows(&mut client, "24 hours"), [12, 2, 0]);
    assert_eq!(windows(&mut client, "25 hours -1 us"), [12, 1, 0]);
    assert_eq!(windows(&mut client, "25 hours"), [12, 0, 0]);
    assert_eq!(windows(&mut client, "-30 days"), [12, 1, 1]);
    assert_eq!(windows(&mut client, "100 years"), [12, 0, 0]);
}

#[test]
fn online_by_the_microsecond() {
    let mut client = hand_countable("online");
    let online = |client: &mut Client, moment: &str| stats_at(client, moment)["online_devices"].clone();
    assert_eq!(online(&mut client, "2026-06-02 10:00:00+00"), 3);
    assert_eq!(online(&mut client, "2026-06-02 09:59:59.999999+00"), 4);
    assert_eq!(online(&mut client, "2026-06-02 10:00:00.000001+00"), 2);
    client.batch_execute("set busymate_stats.online_window = '1h'").unwrap();
    assert_eq!(online(&mut client, "2026-06-02 10:00:00+00"), 4);
    client.batch_execute("set busymate_stats.online_window = 0").unwrap();
    assert_eq!(online(&mut client, "2026-06-02 11:00:00+00"), 1);
    assert_eq!(online(&mut client, "2026-06-02 10:59:59.999999+00"), 2);
}

#[test]
fn an_online_column_wins_over_last_seen() {
    let mut client = hand_countable("online_column");
    client
        .batch_execute(
            "alter table public.devices add here boolean;
             update public.devices set here = true where name in ('BMH1', 'BMH4');
             update public.devices set here = false where name = 'BMH6';
             select busymate_stats.attach('public.entries', 'public.devices', online => 'here');",
        )
        .unwrap();
    let stats = stats_at(&mut client, T);
    assert_eq!((&stats["online_devices"], &stats["total_devices"]), (&json!(2), &json!(6)));
    // last_seen is not read, so it need not be there.
    client
        .batch_execute(
            "alter table public.devices drop last_seen_at;
             select busymate_stats.detach();
             select busymate_stats.attach('public.entries', 'public.devices', online => 'here');",
        )
        .unwrap();
    assert_eq!(stats_at(&mut client, T)["online_devices"], 2);
}

#[test]
fn an_empty_fleet_has_every_key() {
    let (_, mut client) = fleet("empty");
    let expected = json!({
        "total_devices": 0, "online_devices": 0, "total_entries": 0, "entries_1h": 0, "entries_24h": 0,
        "requests_per_sec": 0, "status_class_mix": {}, "source_mix": {}, "connection_type_mix": {},
        "top_domains": [], "top_devices": [], "generated_at": "2026-06-02T10:00:00.000Z",
    });
    assert_eq!(stats_at(&mut client, T), expected);
    let mut now: Value = value(&mut client, "select public.get_stats()");
    now["generated_at"] = expected["generated_at"].clone();
    assert_eq!(now, expected);
}

#[test]
fn requests_per_second_to_two_decimals() {
    let (_, mut client) = fleet("rate");
    let mut stored = 0;
    for (entries, shown) in
        [(17, "0"), (18, "0.01"), (53, "0.01"), (54, "0.02"), (512, "0.14"), (3600, "1"), (5400, "1.5")]
    {
        client
            .batch_execute(&format!(
                "insert into public.entries (created_at) select timestamptz '{T}' from generate_series(1, {})",
                entries - stored
            ))
            .unwrap();
        stored = entries;
        let rate: String =
            value(&mut client, &format!("select busymate_stats.stats_at('{T}') ->> 'requests_per_sec'"));
        assert_eq!(rate, shown, "{entries} entries");
    }
}

#[test]
fn moments_that_are_none() {
    let mut client = hand_countable("moments");
    for function in ["stats_at", "stats_recomputed"] {
        let null = refusal(&mut client, &format!("select busymate_stats.{function}(null)"));
        assert_eq!(
            (null.code.as_str(), null.message.as_str()),
            ("22004", "argument \"as_of\" must not be null")
        );
        assert!(null.hint.contains("get_stats()"));
        for moment in ["infinity", "-infinity"] {
            let infinite = refusal(&mut client, &format!("select busymate_stats.{function}('{moment}')"));
            assert_eq!(
                (infinite.code.as_str(), infinite.message.as_str()),
                ("22023", "argument \"as_of\" must be finite")
            );
        }
    }
}

/// A window that begins before the first moment there is still holds that moment, and nothing older.
#[test]
fn the_ends_of_time() {
    let (_, mut client) = fleet("ends");
    client
        .batch_execute(
            "insert into public.entries (created_at) values
             ('-infinity'), ('4714-11-24 00:00:00+00 BC'), ('4714-11-24 00:00:01+00 BC'),
             ('294276-12-31 23:59:59.999999+00'), ('infinity');
             insert into public.devices (name, last_seen_at) values
             ('a', '-infinity'), ('b', '4714-11-24 00:00:00+00 BC'), ('c', 'infinity')",
        )
        .unwrap();
    let counted = |client: &mut Client, moment: &str| {
        let stats = stats_at(client, moment);
        ["total_entries", "entries_24h", "entries_1h", "online_devices"]
            .map(|key| stats[key].as_i64().unwrap())
    };
    assert_eq!(counted(&mut client, "4714-11-24 00:00:00+00 BC"), [5, 1, 1, 2]);
    assert_eq!(counted(&mut client, "4714-11-24 00:00:01+00 BC"), [5, 2, 2, 2]);
    assert_eq!(counted(&mut client, "4714-11-24 01:00:00+00 BC"), [5, 2, 1, 1]);
    assert_eq!(counted(&mut client, "294276-12-31 23:59:59.999999+00"), [5, 1, 1, 1]);
}

#[test]
fn nothing_attached() {
    let (_, mut client) = installed("nothing");
    let calls = [
        "select public.get_stats()",
        "select busymate_stats.stats_at(now())",
        "select busymate_stats.stats_recomputed(now())",
        "select busymate_stats.refresh_stats()",
    ];
    for call in calls {
        let refused = refusal(&mut client, call);
        assert_eq!(
            (refused.code.as_str(), refused.message.as_str()),
            ("42P01", "no fleet is attached"),
            "{call}"
        );
        assert!(refused.hint.contains("busymate_stats.attach("), "{}", refused.hint);
        assert!(refused.hint.contains("SELECT busymate_stats.create_fleet_tables()"), "{}", refused.hint);
    }
    // Who may not read is not told whether there is anything to read.
    client
        .batch_execute(
            "select busymate_stats.grant_api();
             grant execute on all functions in schema busymate_stats to authenticated;
             select busymate_stats.assign_role('viewer', 'viewer')",
        )
        .unwrap();
    for call in &calls[..3] {
        let answer: Option<Value> =
            as_caller(&mut client, "authenticated", Some(r#"{"sub":"nobody"}"#), |client| {
                value(client, call)
            });
        assert_eq!(answer, None, "{call}");
        let refused = as_caller(&mut client, "authenticated", Some(r#"{"sub":"viewer"}"#), |client| {
            refusal_of(&client.query_one(*call, &[]).unwrap_err())
        });
        assert_eq!(refused.code, "42P01", "{call}");
    }
    // What the hint says, mends it.
    client.batch_execute("select busymate_stats.create_fleet_tables(); select public.get_stats()").unwrap();
}

#[test]
fn every_call_computes_anew() {
    let (database, mut client) = fleet("fresh");
    let mut writer = shared().connect(&database);
    client.batch_execute("begin isolation level read committed").unwrap();
    for expected in 1..=3 {
        writer.batch_execute("insert into public.entries (host) values ('a.example')").unwrap();
        let stats: Value = value(&mut client, "select public.get_stats()");
        assert_eq!((&stats["total_entries"], &stats["entries_1h"]), (&json!(expected), &json!(expected)));
    }
    let first: Value = value(&mut client, "select public.get_stats()->'generated_at'");
    eventually("generated_at moves on inside one transaction", || {
        let later: Value = value(&mut client, "select public.get_stats()->'generated_at'");
        (later.as_str() > first.as_str()).then_some(())
    });
    client.batch_execute("rollback").unwrap();
}

#[test]
fn generated_at_is_as_of() {
    let mut client = hand_countable("generated");
    client
        .batch_execute(
            "insert into public.entries (created_at, host) select clock_timestamp(), 'now.example'",
        )
        .unwrap();
    for _ in 0..20 {
        let row = client
            .query_one(
                "with called as materialized (select clock_timestamp() as before, public.get_stats() as stats)
                 select stats, before <= at and at <= clock_timestamp() + interval '1 ms',
                        stats = busymate_stats.stats_recomputed(at)
                   from called, lateral (select (stats->>'generated_at')::timestamptz as at) moment",
                &[],
            )
            .unwrap();
        let stats: Value = row.get(0);
        let written = stats["generated_at"].as_str().unwrap();
        let shape: String = written.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000Z");
        assert!(row.get::<_, bool>(1), "generated_at is the moment of the call, rounded up to a millisecond");
        assert!(
            row.get::<_, bool>(2),
            "nothing changed, so the figures of generated_at are those of get_stats()"
        );
        // The entry stamped a moment ago is in the hour, however short ago.
        assert_eq!(stats["entries_1h"], 1);
    }
    client.batch_execute("set timezone = 'Asia/Tokyo'").unwrap();
    assert_eq!(
        stats_at(&mut client, "2026-06-02 10:00:00.123999+00")["generated_at"],
        "2026-06-02T10:00:00.123Z"
    );
    assert_eq!(
        stats_at(&mut client, "1999-12-31 23:59:59.9999+00")["generated_at"],
        "1999-12-31T23:59:59.999Z"
    );
}
