//! The figures of entries that lie on other servers, wholly or in part: one plain aggregate for each foreign table or
//! partition, so that its server computes it, put together here. Over the parent, PostgreSQL would fetch the rows:
//! a foreign data wrapper is not asked for a part of an aggregate, only for a whole one.
//!
//! The keys are grouped as they are stored and read as text here, since not every wrapper ships a cast or COALESCE.

use super::attachment::Attachment;
use super::clock::{DAY, HOUR, before};
use super::figures::{Count, Figures, MIX_KEYS};
use super::sealed::counts::{Counts, add};
use super::sealed::toplist::top_of;
use crate::pg::identity::as_owner;
use crate::pg::partition::partitions_of;
use crate::pg::query::{Param, select};
use crate::pg::relation::{LockedRelation, lock};
use crate::settings;
use pgrx::spi::quote_identifier;

/// The tables that hold the entries, all locked, when one of them is foreign.
pub fn of(entries: &LockedRelation) -> Option<Vec<LockedRelation>> {
    if !matches!(entries.kind, b'p' | b'f') {
        return None;
    }
    let mut tables = Vec::new();
    let mut relations = vec![entries.oid];
    while let Some(oid) = relations.pop() {
        let relation = lock(oid)?;
        if relation.kind == b'p' {
            let partitions = partitions_of(oid, 0);
            // A snapshot may see a partition that is being detached: the parent knows which.
            if partitions.detaching {
                return None;
            }
            relations.extend(partitions.list.iter().map(|partition| partition.oid));
        } else {
            tables.push(relation);
        }
    }
    tables.iter().any(|table| table.kind == b'f').then_some(tables)
}

/// Fills in what comes from entries, and gives the busiest devices.
pub fn read_entries(fleet: &Attachment, tables: &[LockedRelation], figures: &mut Figures) -> Vec<Count> {
    let mut sums = Sums::default();
    for table in tables {
        as_owner(table.owner, || sums.read(fleet, &table.name, figures));
    }
    let n = settings::top_n() as usize;
    figures.sources = counts(&sums.sources, MIX_KEYS as usize);
    figures.status_classes = counts(&sums.classes, usize::MAX);
    figures.top_domains = counts(&sums.hosts, n);
    counts(&sums.devices, n)
}

fn counts(sums: &Counts, n: usize) -> Vec<Count> {
    top_of(sums, n).into_iter().map(|(key, count)| Count { key, count }).collect()
}

/// Of the last 24 hours, by key.
#[derive(Default)]
struct Sums {
    sources: Counts,
    classes: Counts,
    hosts: Counts,
    devices: Counts,
}

impl Sums {
    fn read(&mut self, fleet: &Attachment, table: &str, figures: &mut Figures) {
        let [time, host, status, source, device] = fleet.counted_columns().map(quote_identifier);
        let as_of = Param::Timestamp(figures.as_of);
        let day_ago = Param::Timestamp(before(figures.as_of, DAY));
        let hour_ago = Param::Timestamp(before(figures.as_of, HOUR));
        let count = |filter: &str, params: &[Param]| {
            let sql = format!("select count(*) from {table} {filter}");
            select(&sql, params, |row| row.int(1)).pop().unwrap_or(0)
        };
        let within = format!("where {time} > $1 and {time} <= $2");
        figures.total_entries += count("", &[]);
        figures.entries_1h += count(&within, &[hour_ago, as_of]);
        figures.entries_24h += count(&within, &[day_ago, as_of]);
        let group = |key: &str, more: &str, sums: &mut Counts, null: Option<&str>| {
            let sql = format!(
                "select (key::text) collate \"C\", n
                   from (select {key} as key, count(*) as n from {table} {within} {more} group by {key}) by_key"
            );
            for (key, n) in select(&sql, &[day_ago, as_of], |row| (row.text(1), row.int(2))) {
                if let Some(key) = key.as_deref().or(null) {
                    add(sums, key, n);
                }
            }
        };
        group(&source, "", &mut self.sources, Some("unknown"));
        group(&host, "", &mut self.hosts, None);
        group(&device, "", &mut self.devices, None);
        let mut statuses = Counts::new();
        group(&status, &format!("and {status} between 100 and 599"), &mut statuses, None);
        for (status, n) in &statuses {
            add(&mut self.classes, &status[..1], *n);
        }
    }
}
