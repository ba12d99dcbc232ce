//! The figures by plain SQL over every row. Slow, and obviously right.
//!
//! Entries and devices may have different owners: each is read by queries of its own, as its owner, and what they give
//! is joined here. All of them see one snapshot, the caller's.

use super::attachment::Attachment;
use super::clock::{DAY, HOUR, before};
use super::figures::{BusyDevice, Count, Figures, MIX_KEYS};
use crate::pg::query::{Param, Row, select_one, select_planned, select_prepared};
use crate::pg::relation::{LockedRelation, column_number, column_type};
use crate::settings;
use pgrx::pg_sys;
use pgrx::spi::quote_identifier;
use std::collections::HashMap;

fn count(row: &Row) -> Count {
    Count { key: row.text(1).unwrap_or_default(), count: row.int(2) }
}

/// Fills in what comes from entries, and gives the busiest devices.
pub fn read_entries(fleet: &Attachment, entries: &str, figures: &mut Figures) -> Vec<Count> {
    let [time, host, status, source, device] =
        [&fleet.entry_time, &fleet.host, &fleet.status, &fleet.source, &fleet.entry_device]
            .map(quote_identifier);
    let as_of = Param::Timestamp(figures.as_of);
    let day_ago = Param::Timestamp(before(figures.as_of, DAY));
    let hour_ago = Param::Timestamp(before(figures.as_of, HOUR));
    let last_day = format!("{time} > $1 and {time} <= $2");

    (figures.total_entries, figures.entries_1h, figures.entries_24h) = select_one(
        &format!(
            "select count(*), count(*) filter (where {time} > $3 and {time} <= $2),
                    count(*) filter (where {last_day})
               from {entries}"
        ),
        &[day_ago, as_of, hour_ago],
        |row| (row.int(1), row.int(2), row.int(3)),
    );
    figures.status_classes = select_prepared(
        &format!(
            "select ({status} / 100)::text, count(*) from {entries}
              where {last_day} and {status} between 100 and 599 group by 1"
        ),
        &[day_ago, as_of],
        count,
    );
    figures.sources = select_prepared(
        &format!(
            "{} limit {MIX_KEYS}",
            by_key(&format!("coalesce({source}::text, 'unknown')"), entries, &last_day)
        ),
        &[day_ago, as_of],
        count,
    );
    let top = |column: &str| {
        let filter = format!("{last_day} and {column} is not null");
        let sql = format!("{} limit $3", by_key(&format!("{column}::text"), entries, &filter));
        select_prepared(&sql, &[day_ago, as_of, Param::Int(settings::top_n())], count)
    };
    figures.top_domains = top(&host);
    top(&device)
}

/// Occurrences by a key, the most frequent first, then by the key's bytes: other collations would take keys that differ
/// for the same, or order them by the server's locale.
fn by_key(key: &str, relation: &str, filter: &str) -> String {
    format!(
        "select ({key}) collate \"C\", count(*) from {relation} where {filter} group by 1 order by 2 desc, 1"
    )
}

/// A query over devices. Those in one table need no other plan for other values; of what stands behind a view or a foreign
/// table nobody knows, and Citus plans for known values only.
fn select_from<T>(
    devices: &LockedRelation,
    sql: &str,
    params: &[Param],
    each: impl FnMut(&Row) -> T,
) -> Vec<T> {
    match devices.kind {
        b'r' => select_planned(sql, params, each),
        _ => select_prepared(sql, params, each),
    }
}

/// Fills in how many devices there are, by connection type, and how many are online.
pub fn count_devices(fleet: &Attachment, devices: &LockedRelation, figures: &mut Figures) {
    let connection_type = quote_identifier(&fleet.connection_type);
    let (online, seen_after) = (online(fleet), seen_after(figures));
    // One scan for all three figures.
    let mut totals = (0, 0);
    let mut types = select_from(
        devices,
        &format!(
            "select (coalesce({connection_type}::text, 'unknown')) collate \"C\", count(*),
                    count(*) filter (where {online})
               from {} group by 1 order by 2 desc, 1",
            devices.name
        ),
        &[seen_after],
        |row| {
            totals = (totals.0 + row.int(2), totals.1 + row.int(3));
            count(row)
        },
    );
    types.truncate(MIX_KEYS as usize);
    (figures.total_devices, figures.online_devices) = totals;
    figures.connection_types = types;
}

/// Fills in how many devices are online.
pub fn count_online(fleet: &Attachment, devices: &LockedRelation, figures: &mut Figures) {
    let sql = format!("select count(*) from {} where {}", devices.name, online(fleet));
    figures.online_devices =
        select_from(devices, &sql, &[seen_after(figures)], |row| row.int(1)).pop().unwrap_or(0);
}

fn online(fleet: &Attachment) -> String {
    match &fleet.online {
        Some(column) => quote_identifier(column),
        None => format!("{} > $1", quote_identifier(&fleet.last_seen)),
    }
}

fn seen_after(figures: &Figures) -> Param<'static> {
    Param::Timestamp(before(figures.as_of, settings::online_window_us()))
}

/// The busiest devices with their names, which are looked up by the key's index where its type lets a text be one.
pub fn name_devices(fleet: &Attachment, devices: &LockedRelation, busiest: Vec<Count>) -> Vec<BusyDevice> {
    let [key, name] = [&fleet.device_key, &fleet.device_name].map(quote_identifier);
    let kind = match column_number(devices.oid, &fleet.device_key) {
        number if number > 0 => column_type(devices.oid, number),
        _ => pg_sys::InvalidOid,
    };
    let (wanted, is_key): (_, fn(&str) -> bool) = match kind {
        pg_sys::UUIDOID => (format!("{key} = any ($1::uuid[])"), is_uuid),
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => {
            (format!("{key} = any ($1::int8[])"), is_integer)
        }
        _ => (format!("{key}::text = any ($1)"), |_| true),
    };
    let keys: Vec<String> =
        busiest.iter().map(|device| device.key.clone()).filter(|key| is_key(key)).collect();
    let mut names: HashMap<String, Option<String>> = select_from(
        devices,
        &format!(
            "select ({key}::text) collate \"C\", min(({name}::text) collate \"C\") from {}
              where {wanted} group by 1",
            devices.name
        ),
        &[Param::Texts(&keys)],
        |row| (row.text(1).unwrap_or_default(), row.text(2)),
    )
    .into_iter()
    .collect();
    busiest
        .into_iter()
        .map(|Count { key, count }| BusyDevice { name: names.remove(&key).flatten(), key, count })
        .collect()
}

/// Whether a text is what a uuid reads as.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

/// Whether a text is what an integer reads as.
fn is_integer(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_key_reads_as_is_looked_up() {
        assert!(is_uuid("0b0ff1ce-0123-4567-89ab-cdef01234567"));
        for other in
            ["", "0B0FF1CE-0123-4567-89AB-CDEF01234567", "0b0ff1ce012345678 9abcdef012345678901", "{x}"]
        {
            assert!(!is_uuid(other), "{other}");
        }
        assert!(is_integer("0") && is_integer("-17") && is_integer("9223372036854775807"));
        for other in ["", "+1", "01", " 1", "1.0", "9223372036854775808", "-0"] {
            assert!(!is_integer(other), "{other}");
        }
    }
}
