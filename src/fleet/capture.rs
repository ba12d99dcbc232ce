//! What writers do for the sealed window: nothing, but for rows that come late.
//!
//! The triggers on UPDATE and DELETE fire after a statement, with its rows in transition tables. The threshold is read as
//! it is committed at that moment, after the rows were written: a statement that began before the threshold moved must not
//! miss the move. `capture_insert` does the same for INSERTs, `capture_row` for partitioned entries.

use super::attachment::{self, Attachment};
use super::clock::Timestamp;
use super::sealed::counts::Entry;
use super::sealed::tally::class_of;
use crate::pg::append::{Cell, append};
use crate::pg::relation::base_type;
use crate::pg::scan::{Seen, Tuple, find_relation, newest};
use crate::pg::screen;
use crate::pg::slot::Slot;
use crate::pg::statement_trigger::on_statement;
use crate::pg::thresholds;
use crate::pg::transition::{Transition, column_of, told_column};
use crate::torture::{Mutant, broken};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::HashMap;

const SCHEMA: &str = "busymate_stats";

/// Late changes kept in memory before they are written: an UPDATE of everything must not need memory for everything.
const PENDING: usize = 10_000;

/// The newest threshold: its generation, and the moment before which changes are written down.
pub fn threshold(seen: Seen) -> Option<(i64, Timestamp)> {
    newest_threshold(seen, |row| (row.int(1), row.timestamp(2)))
}

fn newest_threshold<T>(seen: Seen, each: impl FnOnce(&Tuple) -> T) -> Option<T> {
    let table = find_relation(SCHEMA, "capture")?;
    let index = find_relation(SCHEMA, "capture_pkey")?;
    newest(table, index, seen, each)
}

/// The threshold that a writer goes by: the one that is committed, whatever snapshot its statement has. Called once its
/// rows are written, so that whoever looks for writers after a threshold was published finds those who read the one
/// before.
///
/// One that cannot be read counts as the end of time, and as newer than whatever a reader may hold: too much written
/// down is safe, too little never.
pub fn threshold_now() -> (i64, Timestamp) {
    if broken(Mutant::ThresholdOfStatement) {
        return threshold(Seen::Statement).unwrap_or((i64::MAX, i64::MAX));
    }
    thresholds::published().or_else(threshold_of_table).unwrap_or((i64::MAX, i64::MAX))
}

/// The threshold as it stands in its table, which is published for whoever comes next.
fn threshold_of_table() -> Option<(i64, Timestamp)> {
    let writes = thresholds::writes();
    let (gen_, threshold, is_own) =
        newest_threshold(Seen::Latest, |row| (row.int(1), row.timestamp(2), row.identity().is_own()))?;
    // What this transaction has written may never come to be.
    if let Some(writes) = writes.filter(|_| !is_own) {
        thresholds::offer(writes, gen_, threshold);
    }
    Some((gen_, threshold))
}

/// Before which moment rows count, without a lock or a look at the table, where that can be told.
fn threshold_at_a_glance() -> Option<Timestamp> {
    if broken(Mutant::ThresholdOfStatement) {
        return None;
    }
    thresholds::at_a_glance().map(|(_, threshold)| threshold)
}

/// Has rows captured.
pub fn register() {
    screen::register(threshold_at_a_glance);
    on_statement(changed);
}

pub fn is_timestamptz(kind: pg_sys::Oid) -> bool {
    kind == pg_sys::TIMESTAMPTZOID || base_type(kind) == pg_sys::TIMESTAMPTZOID
}

/// AFTER UPDATE and DELETE on entries, by statement. All that is told is the name of the entry time, to one of the two:
/// whatever triggers are told is copied for every statement, and the rest is asked for when a row is late.
fn changed(trigger: &PgTrigger) {
    let time = told_column(trigger).filter(|(_, kind)| is_timestamptz(*kind));
    let (Some((time, _)), Ok(relation)) = (time, trigger.relid()) else {
        return mark("entry time changed");
    };
    let (gen_, threshold) = threshold_now();
    let mut late = Late { gen_, threshold, time, relation, trigger, columns: None, pending: HashMap::new() };
    late.read(Transition::old(trigger), Transition::new(trigger));
    late.write();
}

/// Voids what is sealed: a row that the sealer will find.
pub fn mark(reason: &str) {
    if let Some(table) = find_relation(SCHEMA, "seal_markers") {
        let now = pgrx::datetime::clock_timestamp().into_inner();
        append(table, std::iter::once([Cell::Text(reason), Cell::Timestamp(now)]));
    }
}

/// A counted column: its number and its type; `None` when it is gone.
pub type Column = Option<(i16, pg_sys::Oid)>;

/// Host, status, source and device of the attached fleet; `named` finds a column of the changed relation by its name.
pub fn counted_columns(named: impl Fn(&str) -> Column) -> [Column; 4] {
    let fleet = attachment::read(Seen::Latest);
    let names = fleet.as_ref().map(Attachment::counted_columns);
    std::array::from_fn(|place| {
        let column = names.and_then(|names| named(names[place + 1]));
        if column.is_none() {
            mark("column changed");
        }
        column.map(|(number, kind)| (number, base_type(kind)))
    })
}

/// What is counted of a row.
pub fn entry_of(time: Timestamp, columns: &[Column; 4], row: &Slot) -> Entry {
    let [host, status, source, device] = *columns;
    let text = |column: Column| column.and_then(|(number, kind)| row.text(number, kind));
    let class = class_of(text(status).and_then(|status| status.parse().ok())) as i64;
    Entry {
        time,
        source: text(source).unwrap_or_else(|| "unknown".into()),
        class,
        host: text(host),
        device: text(device),
    }
}

/// Appends late changes to rows of a relation: how many came, less those that went.
pub fn write_down<'a>(gen_: i64, relation: pg_sys::Oid, changes: impl Iterator<Item = (&'a Entry, i64)>) {
    let Some(table) = find_relation(SCHEMA, "late_changes") else {
        return;
    };
    let rows = changes.map(|(entry, n)| {
        [
            Cell::Int(gen_),
            Cell::Timestamp(entry.time),
            Cell::Text(&entry.source),
            Cell::Int(entry.class),
            entry.host.as_deref().map_or(Cell::Null, Cell::Text),
            entry.device.as_deref().map_or(Cell::Null, Cell::Text),
            Cell::Int(n),
            Cell::Oid(relation),
        ]
    });
    append(table, rows);
}

struct Late<'a> {
    gen_: i64,
    threshold: Timestamp,
    time: i16,
    relation: pg_sys::Oid,
    trigger: &'a PgTrigger<'a>,
    /// Of host, status, source, device: looked up when the first late row comes.
    columns: Option<[Column; 4]>,
    pending: HashMap<Entry, i64>,
}

impl Late<'_> {
    /// Reads both tables side by side, so that an UPDATE that changes nothing counted cancels itself out as it goes.
    fn read(&mut self, mut old: Option<Transition>, mut new: Option<Transition>) {
        loop {
            let before = old.as_mut().is_some_and(Transition::next);
            let after = new.as_mut().is_some_and(Transition::next);
            if before && let Some(row) = &old {
                self.take(row.row(), -1);
            }
            if after && let Some(row) = &new {
                self.take(row.row(), 1);
            }
            if !before && !after {
                return;
            }
            if self.pending.len() >= PENDING {
                self.write();
            }
        }
    }

    fn take(&mut self, row: &Slot, n: i64) {
        // A null entry time is in no window, but in the total: it stands before every moment.
        let time = row.value(self.time).map_or(i64::MIN, |datum| datum.value() as i64);
        if time >= self.threshold {
            return;
        }
        let entry = self.entry(row, time);
        let sum = self.pending.entry(entry).or_insert(0);
        *sum += n;
    }

    fn entry(&mut self, row: &Slot, time: Timestamp) -> Entry {
        let trigger = self.trigger;
        let columns = self.columns.get_or_insert_with(|| counted_columns(|name| column_of(trigger, name)));
        entry_of(time, columns, row)
    }

    fn write(&mut self) {
        self.pending.retain(|_, n| *n != 0);
        if self.pending.is_empty() {
            return;
        }
        write_down(self.gen_, self.relation, self.pending.iter().map(|(entry, n)| (entry, *n)));
        self.pending.clear();
    }
}
