//! Reading entries by their time with SQL, as their owner. Every query has the interval's ends as its only parameters,
//! so that a backend plans each once.

use super::counts::{Changes, add};
use super::window::Interval;
use crate::fleet::attachment::Attachment;
use crate::fleet::clock::Timestamp;
use crate::pg::identity::as_owner;
use crate::pg::query::{Param, select, select_planned};
use crate::pg::relation::{LockedRelation, lock};
use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

/// The queries over one relation of entries.
pub struct Rows {
    /// Whose rights they run with.
    pub owner: pg_sys::Oid,
    relation: String,
    time: String,
    values: String,
}

fn ends(interval: Interval) -> [Param<'static>; 2] {
    [Param::Timestamp(interval.from), Param::Timestamp(interval.to)]
}

/// A row as it is counted.
pub struct Values<'a> {
    /// Its source; `None` when null.
    pub source: Option<&'a str>,
    /// Its status class, 0 to 5.
    pub class: usize,
    /// Its host.
    pub host: Option<&'a str>,
    /// Its device.
    pub device: Option<&'a str>,
}

impl Rows {
    /// The queries over `entries`.
    pub fn of(entries: &LockedRelation, fleet: &Attachment) -> Self {
        let [time, host, status, source, device] =
            [&fleet.entry_time, &fleet.host, &fleet.status, &fleet.source, &fleet.entry_device]
                .map(quote_identifier);
        let values = format!(
            "coalesce({source}::text, 'unknown') collate \"C\" as source,
             case when {status} between 100 and 599 then {status} / 100 else 0 end::int8 as class,
             {host}::text collate \"C\" as host, {device}::text collate \"C\" as device"
        );
        Self { owner: entries.owner, relation: entries.name.clone(), time, values }
    }

    fn within(&self) -> String {
        format!("from {} where {} >= $1 and {} < $2", self.relation, self.time, self.time)
    }

    /// How many rows are in an interval.
    pub fn count(&self, interval: Interval) -> i64 {
        select_planned(&format!("select count(*) {}", self.within()), &ends(interval), |row| row.int(1))
            .pop()
            .unwrap_or(0)
    }

    /// The same, but no more than `most`.
    pub fn count_few(&self, interval: Interval, most: i64) -> i64 {
        let sql = format!("select count(*) from (select {} limit {most}) few", self.within());
        select_planned(&sql, &ends(interval), |row| row.int(1)).pop().unwrap_or(0)
    }

    /// How many rows there are from `from` on, to the end of time.
    pub fn count_from(&self, from: Timestamp) -> i64 {
        // An interval with two ends, though nothing is later: the planner takes one with a single end for a third of the
        // table.
        let sql = format!(
            "select count(*) from {} where {} >= $1 and {} <= $2",
            self.relation, self.time, self.time
        );
        let ends = [Param::Timestamp(from), Param::Timestamp(Timestamp::MAX)];
        select_planned(&sql, &ends, |row| row.int(1)).pop().unwrap_or(0)
    }

    /// How many rows are in an interval, by the table that holds them.
    pub fn count_by_leaf(&self, interval: Interval) -> Vec<(pg_sys::Oid, i64)> {
        let sql = format!("select tableoid, count(*) {} group by 1", self.within());
        select_planned(&sql, &ends(interval), |row| (row.oid(1), row.int(2)))
    }

    /// The same, each table asked by itself, as its owner: columnar raises an error when it is asked for `tableoid`.
    pub fn count_each(&self, tables: &[pg_sys::Oid], interval: Interval) -> Vec<(pg_sys::Oid, i64)> {
        let (time, tables) = (&self.time, tables.iter().filter_map(|table| lock(*table)));
        let count = |table: LockedRelation| {
            let name = &table.name;
            let sql = format!("select count(*) from only {name} where {time} >= $1 and {time} < $2");
            let count = as_owner(table.owner, || select(&sql, &ends(interval), |row| row.int(1)));
            (table.oid, count.into_iter().sum())
        };
        tables.map(count).collect()
    }

    /// Hands over each row of an interval: for few rows.
    pub fn each(&self, interval: Interval, mut each: impl FnMut(Values)) {
        let sql = format!("select {} {}", self.values, self.within());
        select_planned(&sql, &ends(interval), |row| {
            let (source, host, device) = (row.text(1), row.text(3), row.text(4));
            each(Values {
                source: source.as_deref(),
                class: usize::try_from(row.int(2)).unwrap_or(0),
                host: host.as_deref(),
                device: device.as_deref(),
            });
        });
    }

    /// Counts the rows of an interval into the figures of the last 24 hours, `weight` times: for many rows. Gives how
    /// many they were.
    pub fn count_into_day(&self, interval: Interval, weight: i64, changes: &mut Changes) -> i64 {
        let sql = format!(
            "select grouping(source, class, host, device)::int8, source, class, host, device, count(*)
               from (select {} {}) entry
              group by grouping sets ((source), (class), (host), (device), ())",
            self.values,
            self.within()
        );
        let mut rows = 0;
        select(&sql, &ends(interval), |row| {
            let count = weight * row.int(6);
            // A bit is set for each column that the row is not grouped by.
            match row.int(1) {
                0b0111 => add(&mut changes.sources, &row.text(2).unwrap_or_default(), count),
                0b1011 => changes.count_class(row.int(3), count),
                0b1101 => row.text(4).iter().for_each(|host| add(&mut changes.hosts, host, count)),
                0b1110 => row.text(5).iter().for_each(|device| add(&mut changes.devices, device, count)),
                _ => rows = row.int(6),
            }
        });
        changes.day += weight * rows;
        rows
    }

    /// The first moment at or after `from` that an entry has, before `to`.
    pub fn first_time(&self, interval: Interval) -> Option<Timestamp> {
        let sql = format!("select min({}) {}", self.time, self.within());
        // -infinity is a moment that an entry may have, so null needs a sign of its own.
        let sql = format!("select m is not null, m from ({sql}) first (m)");
        select(&sql, &ends(interval), |row| row.bool(1).then(|| row.timestamp(2))).pop().flatten()
    }
}
