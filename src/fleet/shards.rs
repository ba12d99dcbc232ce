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
        let total = format!("select count(*) from {table}");
        figures.total_entries += select(&total, &[], |row| row.int(1)).pop().unwrap_or(0);
        let within = format!("where {time} > $1 and {time} <= $2");
        let mixes = format!(
            "select (source::text) collate \"C\", (status::text) collate \"C\", n, recent
               from (select {source} as source, {status} as status, count(*) as n,
                            count(*) filter (where {time} > $3 and {time} <= $2) as recent
                       from {table} {within} group by {source}, {status}) mixed"
        );
        select(&mixes, &[day_ago, as_of, hour_ago], |row| {
            let n = row.int(3);
            figures.entries_24h += n;
            figures.entries_1h += row.int(4);
            add(&mut self.sources, row.text(1).as_deref().unwrap_or("unknown"), n);
            if let Some(class) = row.text(2).and_then(|status| status_class(&status)) {
                add(&mut self.classes, &class.to_string(), n);
            }
        });
        let group = |key: &str, sums: &mut Counts| {
            let sql = format!(
                "select (key::text) collate \"C\", n
                   from (select {key} as key, count(*) as n from {table} {within} group by {key}) by_key"
            );
            for (key, n) in select(&sql, &[day_ago, as_of], |row| (row.text(1), row.int(2))) {
                if let Some(key) = key {
                    add(sums, &key, n);
                }
            }
        };
        group(&host, &mut self.hosts);
        group(&device, &mut self.devices);
    }
}

/// The class of a status that is written as an integer.
fn status_class(status: &str) -> Option<i64> {
    status.parse().ok().filter(|status| (100..600).contains(status)).map(|status: i64| status / 100)
}
