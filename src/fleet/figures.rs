//! The figures of a fleet, and the snapshot that shows them. Pure.

use super::clock::{self, Timestamp};
use serde_json::{Map, Number, Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How many keys a mix shows by name.
pub const MIX_KEYS: i64 = 100;

/// The key under which a mix sums up the rest.
const OTHER: &str = "other";

/// Longest key that is shown whole, in bytes; also the longest that is shown at all.
const KEY_BYTES: usize = 256;

/// How much of the hash stands behind a key that is cut, in hexadecimal digits.
const HASH_DIGITS: usize = 12;

/// Occurrences of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The whole key.
    pub key: String,
    /// How often it occurs.
    pub count: i64,
}

/// A device among the busiest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusyDevice {
    /// Its key, as text.
    pub key: String,
    /// Its name; `None` when the device has none, or its row is gone.
    pub name: Option<String>,
    /// Its entries in the window.
    pub count: i64,
}

/// Everything that a snapshot shows. Lists are in the order in which they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The moment that the windows end at.
    pub as_of: Timestamp,
    /// Rows of devices.
    pub total_devices: i64,
    /// Devices that are online.
    pub online_devices: i64,
    /// Devices by connection type: the largest [`MIX_KEYS`].
    pub connection_types: Vec<Count>,
    /// Rows of entries.
    pub total_entries: i64,
    /// Entries in the last hour.
    pub entries_1h: i64,
    /// Entries in the last 24 hours.
    pub entries_24h: i64,
    /// Entries in the last 24 hours by status class, `"1"` to `"5"`.
    pub status_classes: Vec<Count>,
    /// Entries in the last 24 hours by source: the largest [`MIX_KEYS`].
    pub sources: Vec<Count>,
    /// The busiest hosts in the last 24 hours.
    pub top_domains: Vec<Count>,
    /// The busiest devices in the last 24 hours.
    pub top_devices: Vec<BusyDevice>,
    /// No part of the snapshot: what entries dated after `as_of` cost.
    pub ahead: Ahead,
}

/// Entries that are dated after the moment of the figures. They are in the total, and read each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// How many there are.
    pub entries: i64,
    /// How long it took to count them.
    pub took: Duration,
}

/// So many entries that are dated ahead take about a millisecond.
const WORTH_SAYING: i64 = 10_000;

impl Ahead {
    /// What is to be said of it, if it is worth it.
    pub fn told(&self) -> Option<String> {
        // Whole steps, so that it is not another text each time.
        let milliseconds = (self.took.as_millis() as i64 / 10 + 1) * 10;
        (self.entries >= WORTH_SAYING).then(|| {
            format!(
                "{} entries are dated in the future, and each read visits them: about {milliseconds} ms of it",
                grouped(self.entries)
            )
        })
    }
}

/// A number that is not negative, with a comma before each three digits.
pub fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

impl Figures {
    /// The snapshot: every key always there.
    pub fn snapshot(&self) -> Value {
        let domains: Vec<_> = self
            .top_domains
            .iter()
            .map(|host| json!({ "host": shown(&host.key), "count": host.count }))
            .collect();
        let devices: Vec<_> = self
            .top_devices
            .iter()
            .map(|device| {
                json!({
                    "device_uuid": shown(&device.key),
                    "name": device.name.as_deref().map(shown),
                    "count": device.count,
                })
            })
            .collect();
        json!({
            "total_devices": self.total_devices,
            "online_devices": self.online_devices,
            "total_entries": self.total_entries,
            "entries_1h": self.entries_1h,
            "entries_24h": self.entries_24h,
            "requests_per_sec": requests_per_second(self.entries_1h),
            "status_class_mix": mix(&self.status_classes, None),
            "source_mix": mix(&self.sources, Some(self.entries_24h)),
            "connection_type_mix": mix(&self.connection_types, Some(self.total_devices)),
            "top_domains": domains,
            "top_devices": devices,
            "generated_at": clock::iso(self.as_of),
        })
    }
}

/// `entries_1h` / 3600, rounded to two decimals, halves up.
fn requests_per_second(entries_1h: i64) -> Number {
    let hundredths = (entries_1h + 18) / 36;
    if hundredths % 100 == 0 {
        return Number::from(hundredths / 100);
    }
    // A quotient of finite numbers by 100 is finite.
    Number::from_f64(hundredths as f64 / 100.0).unwrap_or_else(|| Number::from(0))
}

/// `{key: count, …}`; with a total, what the keys leave of it is shown as `other`.
fn mix(counts: &[Count], total: Option<i64>) -> Value {
    let mut shown_counts = Map::new();
    let mut add = |key: String, count: i64| {
        let sum = shown_counts.get(&key).and_then(Value::as_i64).unwrap_or(0) + count;
        shown_counts.insert(key, Value::from(sum));
    };
    for Count { key, count } in counts {
        add(shown(key), *count);
    }
    let named: i64 = counts.iter().map(|count| count.count).sum();
    if let Some(rest) = total.map(|total| total - named).filter(|rest| *rest != 0) {
        add(OTHER.into(), rest);
    }
    Value::Object(shown_counts)
}

/// A key as a snapshot shows it: whole up to 256 bytes, else cut, with the beginning of its SHA-256 behind it.
fn shown(key: &str) -> String {
    if key.len() <= KEY_BYTES {
        return key.to_owned();
    }
    let mark = "…#";
    let room = KEY_BYTES - mark.len() - HASH_DIGITS;
    let hash = Sha256::digest(key.as_bytes());
    let digits: String = hash.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    format!("{}{mark}{digits}", &key[..key.floor_char_boundary(room)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(list: &[(&str, i64)]) -> Vec<Count> {
        list.iter().map(|(key, count)| Count { key: (*key).into(), count: *count }).collect()
    }

    #[test]
    fn the_seeds_own_example() {
        let figures = Figures {
            as_of: 833_709_600_000_000,
            total_devices: 12,
            online_devices: 4,
            connection_types: counts(&[("vpn", 9), ("pac", 3)]),
            total_entries: 184_203,
            entries_1h: 512,
            entries_24h: 9841,
            status_classes: counts(&[("2", 7321), ("3", 88), ("4", 410), ("5", 12)]),
            sources: counts(&[("vpn", 6200), ("pac", 1900), ("cdp", 1741)]),
            top_domains: counts(&[("api.stripe.com", 1840)]),
            top_devices: vec![BusyDevice { key: "…".into(), name: Some("BMH3".into()), count: 5120 }],
            ahead: Ahead::default(),
        };
        let seed = json!({
            "total_devices": 12,
            "online_devices": 4,
            "total_entries": 184203,
            "entries_1h": 512,
            "entries_24h": 9841,
            "requests_per_sec": 0.14,
            "status_class_mix":     { "2": 7321, "3": 88, "4": 410, "5": 12 },
            "source_mix":           { "vpn": 6200, "pac": 1900, "cdp": 1741 },
            "connection_type_mix":  { "vpn": 9, "pac": 3 },
            "top_domains": [ { "host": "api.stripe.com", "count": 1840 } ],
            "top_devices": [ { "device_uuid": "…", "name": "BMH3", "count": 5120 } ],
            "generated_at": "2026-06-02T10:00:00.000Z"
        });
        assert_eq!(figures.snapshot(), seed);
    }

    #[test]
    fn long_numbers_are_grouped() {
        let numbers = [0, 999, 1_000, 1_204_332].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,204,332"]);
    }

    #[test]
    fn many_entries_of_the_future_are_worth_a_word() {
        let took = Duration::from_micros(23_456);
        assert_eq!(Ahead { entries: 9_999, took }.told(), None);
        assert_eq!(
            Ahead { entries: 300_000, took }.told().unwrap(),
            "300,000 entries are dated in the future, and each read visits them: about 30 ms of it"
        );
    }

    #[test]
    fn an_empty_fleet_has_every_key() {
        let snapshot = Figures::default().snapshot();
        assert_eq!(snapshot.as_object().unwrap().len(), 12);
        assert_eq!(snapshot["requests_per_sec"], json!(0));
        assert_eq!(snapshot["source_mix"], json!({}));
        assert_eq!(snapshot["top_devices"], json!([]));
    }

    #[test]
    fn requests_per_second_rounds_halves_up() {
        for (entries, shown) in [(0, "0"), (17, "0"), (18, "0.01"), (53, "0.01"), (54, "0.02"), (3600, "1")] {
            assert_eq!(requests_per_second(entries).to_string(), shown, "{entries}");
        }
        assert_eq!(requests_per_second(3_600_000_000_018).to_string(), "1000000000.01");
    }

    #[test]
    fn a_key_named_other_and_the_rest_fall_together() {
        assert_eq!(mix(&counts(&[("other", 2), ("a", 1)]), Some(6)), json!({ "other": 5, "a": 1 }));
        assert_eq!(mix(&counts(&[("a", 1)]), Some(1)), json!({ "a": 1 }));
    }

    #[test]
    fn long_keys_are_cut_and_stay_apart() {
        let whole = "ü".repeat(128);
        assert_eq!(shown(&whole), whole);
        let (one, two) = ("ü".repeat(5000), "ü".repeat(5001));
        assert!(shown(&one).starts_with(&"ü".repeat(119)));
        assert_ne!(shown(&one), shown(&two));
        let abc = "abc".repeat(200);
        assert!(shown(&abc).ends_with("…#1318642cb851"), "{}", shown(&abc));
    }

    proptest! {
        #[test]
        fn a_shown_key_is_bounded(key in ".{0,400}") {
            prop_assert!(shown(&key).len() <= KEY_BYTES);
        }

        #[test]
        fn a_mix_sums_to_its_total(list in proptest::collection::vec((".{0,4}", 1..100_i64), 0..20), more in 0..50_i64) {
            let counts: Vec<_> = list.into_iter().map(|(key, count)| Count { key, count }).collect();
            let total = counts.iter().map(|count| count.count).sum::<i64>() + more;
            let sum: i64 = mix(&counts, Some(total)).as_object().unwrap().values().filter_map(Value::as_i64).sum();
            prop_assert_eq!(sum, total);
        }
    }
}
