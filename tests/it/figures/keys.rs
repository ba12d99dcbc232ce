//! Promise: figures are exact. What the mixes and top lists show of keys: order, cut, rest, names.

use harness::fleet::{fleet, stats_at};
use harness::{refusal, value};
use postgres::Client;
use serde_json::{Value, json};

const T: &str = "2026-06-02 10:00:00+00";

/// Puts `count` entries at T, with `columns` from SQL expressions over the entry's number `n`.
fn insert(client: &mut Client, count: i64, columns: &str, expressions: &str) {
    client
        .batch_execute(&format!(
            "insert into public.entries (created_at, {columns})
             select '{T}', {expressions} from generate_series(1, {count}) n"
        ))
        .unwrap();
}

fn keys(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

#[test]
fn ties_go_by_bytes() {
    let (_, mut client) = fleet("ties");
    for host in ["b", "B", "a", "Z", "ä", "z", "é", "e", "", " a", "🦊", "_", "10", "9"] {
        client
            .execute(&format!("insert into public.entries (created_at, host) values ('{T}', $1)"), &[&host])
            .unwrap();
    }
    client.batch_execute("set busymate_stats.top_n = 100").unwrap();
    let stats = stats_at(&mut client, T);
    let expected = ["", " a", "10", "9", "B", "Z", "_", "a", "b", "e", "z", "ä", "é", "🦊"];
    assert_eq!(keys(&stats["top_domains"], "host"), expected);
    // A count above the rest comes first, whatever its bytes.
    insert(&mut client, 1, "host", "'🦊'");
    assert_eq!(stats_at(&mut client, T)["top_domains"][0], json!({ "host": "🦊", "count": 2 }));
    // Where the list ends among equals, the bytes decide who is in.
    client.batch_execute("set busymate_stats.top_n = 3").unwrap();
    assert_eq!(keys(&stats_at(&mut client, T)["top_domains"], "host"), ["🦊", "", " a"]);
}

#[test]
fn devices_tie_by_their_keys_text() {
    let (_, mut client) = fleet("device_ties");
    insert(
        &mut client,
        12,
        "device_uuid",
        "('00000000-0000-0000-0000-0000000000' || lpad(to_hex(16 - n), 2, '0'))::uuid",
    );
    client
        .batch_execute(
            "insert into public.devices (device_uuid, name) values
             ('00000000-0000-0000-0000-000000000004', 'four'), ('00000000-0000-0000-0000-00000000000d', 'thirteen')",
        )
        .unwrap();
    let top = &stats_at(&mut client, T)["top_devices"];
    assert_eq!(top.as_array().unwrap().len(), 10);
    assert_eq!(
        top[0],
        json!({ "device_uuid": "00000000-0000-0000-0000-000000000004", "name": "four", "count": 1 })
    );
    assert_eq!(
        top[1],
        json!({ "device_uuid": "00000000-0000-0000-0000-000000000005", "name": null, "count": 1 })
    );
    assert_eq!(
        top[9],
        json!({ "device_uuid": "00000000-0000-0000-0000-00000000000d", "name": "thirteen", "count": 1 })
    );
}

#[test]
fn as_many_as_asked_for() {
    let (_, mut client) = fleet("top_n");
    insert(&mut client, 150, "host, device_uuid", "'h' || n, gen_random_uuid()");
    let lengths = |client: &mut Client| {
        let stats = stats_at(client, T);
        ["top_domains", "top_devices"].map(|key| stats[key].as_array().unwrap().len())
    };
    assert_eq!(lengths(&mut client), [10, 10]);
    for n in [1, 3, 100] {
        client.batch_execute(&format!("set busymate_stats.top_n = {n}")).unwrap();
        assert_eq!(lengths(&mut client), [n, n]);
    }
    for n in ["0", "101", "-1"] {
        assert_eq!(refusal(&mut client, &format!("set busymate_stats.top_n = {n}")).code, "22023");
    }
    // Everybody sees the same list: a reader cannot set its length.
    client.batch_execute("set role anon").unwrap();
    for setting in ["top_n = 5", "online_window = '1h'"] {
        assert_eq!(refusal(&mut client, &format!("set busymate_stats.{setting}")).code, "42501");
    }
}

#[test]
fn long_hosts_are_cut_and_stay_apart() {
    let (_, mut client) = fleet("long");
    // Three hosts of 10 kB with one prefix, one of them in characters of four bytes; and the two sides of the limit.
    let hosts = [
        ("repeat('x', 10000)", 5),
        ("repeat('x', 9999) || 'y'", 4),
        ("repeat('🦊', 2500)", 3),
        ("repeat('l', 256)", 2),
        ("repeat('l', 257)", 1),
    ];
    for (host, count) in hosts {
        insert(&mut client, count, "host, source", &format!("{host}, {host}"));
    }
    let stats = stats_at(&mut client, T);
    let shown = keys(&stats["top_domains"], "host");
    assert_eq!(shown.len(), 5);
    for (index, ((host, count), shown)) in hosts.iter().zip(&shown).enumerate() {
        assert_eq!(stats["top_domains"][index]["count"], *count);
        assert!(shown.len() <= 256, "{} bytes", shown.len());
        // The mark ends with the beginning of the whole value's SHA-256, so that the host can be found again.
        let hash: String = value(
            &mut client,
            &format!("select left(encode(sha256(convert_to({host}, 'UTF8')), 'hex'), 12)"),
        );
        let whole: String = value(&mut client, &format!("select {host}"));
        match shown.strip_suffix(&format!("…#{hash}")) {
            Some(prefix) => assert!(whole.len() > 256 && prefix.len() > 230 && whole.starts_with(prefix)),
            None => assert_eq!(*shown, whole),
        }
        assert_eq!(whole.len() > 256, shown.ends_with(&hash));
        assert_eq!(stats["source_mix"][shown], *count);
    }
}

/// A snapshot's size has a bound, whatever is stored.
#[test]
fn the_largest_snapshot_is_small() {
    let (_, mut client) = fleet("largest");
    client
        .batch_execute(
            "set busymate_stats.top_n = 100; alter table public.entries alter device_uuid type text",
        )
        .unwrap();
    insert(
        &mut client,
        200,
        "host, source, device_uuid, status",
        "repeat(chr(1), 9000) || n, repeat(chr(1), 9000) || n, repeat(chr(1), 9000) || n, n * 3",
    );
    client
        .batch_execute(
            "alter table public.devices alter device_uuid drop default, alter device_uuid type text;
             insert into public.devices select device_uuid, repeat(chr(1), 10000), device_uuid from public.entries",
        )
        .unwrap();
    let size: i32 = value(&mut client, &format!("select length(busymate_stats.stats_at('{T}')::text)"));
    assert!(size < 1 << 20, "{size} bytes");
    let stats = stats_at(&mut client, T);
    assert_eq!(stats["top_devices"].as_array().unwrap().len(), 100);
    assert_eq!(stats["connection_type_mix"]["other"], 100);
}

fn sum(mix: &Value) -> i64 {
    mix.as_object().unwrap().values().map(|count| count.as_i64().unwrap()).sum()
}

#[test]
fn a_hundred_sources_and_the_rest() {
    let (_, mut client) = fleet("sources");
    // s001 to s100 twice: all are shown.
    insert(&mut client, 200, "source", "'s' || lpad((1 + n % 100)::text, 3, '0')");
    let mix = stats_at(&mut client, T)["source_mix"].clone();
    assert_eq!((mix.as_object().unwrap().len(), mix.get("other"), sum(&mix)), (100, None, 200));
    // The 101st has as many entries as the others, and its bytes come before theirs: s100 is in the rest.
    insert(&mut client, 2, "source", "'S101'");
    let mix = stats_at(&mut client, T)["source_mix"].clone();
    assert_eq!((&mix["S101"], mix.get("s100"), &mix["other"]), (&json!(2), None, &json!(2)));
    assert_eq!((mix.as_object().unwrap().len(), sum(&mix)), (101, 202));
    // NULL is a key like any other: with one entry it is in the rest, with three it is shown.
    insert(&mut client, 1, "source", "null");
    let mix = stats_at(&mut client, T)["source_mix"].clone();
    assert_eq!((mix.get("unknown"), &mix["other"]), (None, &json!(3)));
    insert(&mut client, 2, "source", "case n when 1 then 'unknown' end");
    let mix = stats_at(&mut client, T)["source_mix"].clone();
    assert_eq!((&mix["unknown"], &mix["other"]), (&json!(3), &json!(4)));
    // A source called "other" falls together with the rest, and the sum still holds.
    insert(&mut client, 7, "source", "'other'");
    let mix = stats_at(&mut client, T)["source_mix"].clone();
    assert_eq!((&mix["other"], sum(&mix), mix.as_object().unwrap().len()), (&json!(13), 212, 100));
}

#[test]
fn more_connection_types_than_are_shown() {
    let (_, mut client) = fleet("types");
    client
        .batch_execute(
            "insert into public.devices (name, connection_type)
             select 'd', 't' || lpad(n::text, 3, '0') from generate_series(1, 150) n;
             insert into public.devices (name, connection_type) values ('d', 't150'), ('d', null), ('d', 'unknown')",
        )
        .unwrap();
    let stats = stats_at(&mut client, T);
    let mix = &stats["connection_type_mix"];
    assert_eq!(stats["total_devices"], 153);
    // t150 and unknown have two each, then t001 to t098 with one.
    assert_eq!(
        (&mix["t150"], &mix["unknown"], &mix["t098"], mix.get("t099")),
        (&json!(2), &json!(2), &json!(1), None)
    );
    assert_eq!((&mix["other"], sum(mix), mix.as_object().unwrap().len()), (&json!(51), 153, 101));
}

/// A collation that takes different keys for the same, or sorts them its own way, changes nothing.
#[test]
fn collations_do_not_merge_keys() {
    let (_, mut client) = fleet("icu");
    let icu: bool = value(&mut client, "select exists (select from pg_collation where collprovider = 'i')");
    if !icu {
        eprintln!("skipped: this server is built without ICU");
        return;
    }
    client
        .batch_execute(
            "create collation blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
             alter table public.entries alter host type text collate blind, alter source type text collate blind,
                 alter device_uuid type text collate blind;
             alter table public.devices alter name type text collate blind, alter connection_type type text collate blind,
                 alter device_uuid drop default, alter device_uuid type text collate blind;
             insert into public.devices (device_uuid, name, connection_type) values
                 ('D', 'upper', 'VPN'), ('e', 'e', 'vpn')",
        )
        .unwrap();
    let equal: bool = value(&mut client, "select 'a' = 'Ä' collate blind");
    assert!(equal, "the collation takes a and Ä for the same");
    insert(&mut client, 2, "host, source, device_uuid", "'a', 'unknown', 'd'");
    insert(&mut client, 2, "host, source, device_uuid", "'A', 'UNKNOWN', 'D'");
    insert(&mut client, 1, "host, source, device_uuid", "'ä', null, 'd'");
    let stats = stats_at(&mut client, T);
    assert_eq!(
        stats["top_domains"],
        json!([{ "host": "A", "count": 2 }, { "host": "a", "count": 2 }, { "host": "ä", "count": 1 }])
    );
    assert_eq!(stats["source_mix"], json!({ "unknown": 3, "UNKNOWN": 2 }));
    assert_eq!(stats["connection_type_mix"], json!({ "VPN": 1, "vpn": 1 }));
    assert_eq!(
        stats["top_devices"],
        json!([{ "device_uuid": "d", "name": null, "count": 3 }, { "device_uuid": "D", "name": "upper", "count": 2 }])
    );
}
