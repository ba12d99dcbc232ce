//! The figures by plain SQL over every row. Slow, and obviously right.
//!
//! Entries and devices may have different owners: each is read by queries of its own, as its owner, and what they give
//! is joined here. All of them see one snapshot, the caller's.

use super::attachment::Attachment;
use super::clock::{DAY, HOUR, before};
use super::figures::{BusyDevice, Count, Figures, MIX_KEYS};
use crate::pg::query::{Param, Row, select, select_one, select_planned};
use crate::pg::relation::{column_number, column_type};
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
    figures.status_classes = select(
        &format!(
            "select ({status} / 100)::text, count(*) from {entries}
              where {last_day} and {status} between 100 and 599 group by 1"
        ),
        &[day_ago, as_of],
        count,
    );
    figures.sources = select(
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
        select(&sql, &[day_ago, as_of, Param::Int(settings::top_n())], count)
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

/// Fills in what comes from devices, the busiest ones' names too.
pub fn read_devices(fleet: &Attachment, devices: &str, busiest: Vec<Count>, figures: &mut Figures) {
    let [key, name, connection_type, last_seen] =
        [&fleet.device_key, &fleet.device_name, &fleet.connection_type, &fleet.last_seen]
            .map(quote_identifier);
    let online = match &fleet.online {
        Some(column) => quote_identifier(column),
        None => format!("{last_seen} > $1"),
    };
    let seen_after = Param::Timestamp(before(figures.as_of, settings::online_window_us()));

    // One scan for all three figures, by a plan that is kept: this is most of what a call costs once entries are sealed.
    let mut totals = (0, 0);
    let mut types = select_planned(
        &format!(
            "select (coalesce({connection_type}::text, 'unknown')) collate \"C\", count(*),
                    count(*) filter (where {online})
               from {devices} group by 1 order by 2 desc, 1"
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
    // A uuid's text casts back to it, whatever wrote it, so its index can be used.
    let is_uuid = |relation, column: &str| match column_number(relation, column) {
        number if number > 0 => column_type(relation, number) == pg_sys::UUIDOID,
        _ => false,
    };
    let wanted = if is_uuid(fleet.entries, &fleet.entry_device) && is_uuid(fleet.devices, &fleet.device_key) {
        format!("{key} = any ($1::uuid[])")
    } else {
        format!("{key}::text = any ($1)")
    };
    let keys: Vec<String> = busiest.iter().map(|device| device.key.clone()).collect();
    let mut names: HashMap<String, Option<String>> = select_planned(
        &format!(
            "select ({key}::text) collate \"C\", min(({name}::text) collate \"C\") from {devices}
              where {wanted} group by 1"
        ),
        &[Param::Texts(&keys)],
        |row| (row.text(1).unwrap_or_default(), row.text(2)),
    )
    .into_iter()
    .collect();
    figures.top_devices = busiest
        .into_iter()
        .map(|Count { key, count }| BusyDevice { name: names.remove(&key).flatten(), key, count })
        .collect();
}
