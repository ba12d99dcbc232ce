//! What an INSERT does for the sealed window of a plain table: nothing, but for rows that come late.
//!
//! The index is told of each row once it is written, and by then the transaction has its id and holds the table's lock:
//! whoever looks for writers later finds it, and whoever looked before has committed the threshold that is read here. The
//! transaction keeps both, so what is read at the first row that needs a second look holds for the whole statement.

use super::attachment;
use super::capture::{Column, counted_columns, entry_of, is_timestamptz, mark, threshold_now, write_down};
use super::clock::Timestamp;
use crate::pg::insert_index::{find, on_insert};
use crate::pg::inserted_row::{InsertedRow, Origin};
use crate::pg::scan::Seen;
use crate::pg::speculation;
use crate::torture::{Mutant, broken};

/// Has rows captured.
pub fn register() {
    on_insert(inserted);
    speculation::on_taken_back(|| {
        if !broken(Mutant::TakenBackTrusted) {
            mark("a conflicting row was taken back");
        }
    });
}

/// Whether this transaction has written down a row that is not there. It is voided as it commits.
pub fn is_void_here() -> bool {
    speculation::was_any_taken_back() && !broken(Mutant::TakenBackTrusted)
}

/// What is known for as long as one statement runs.
#[derive(Clone, Copy)]
struct Known {
    gen_: i64,
    threshold: Timestamp,
    /// Looked up when the first late row comes.
    table: Option<Table>,
}

#[derive(Clone, Copy)]
struct Table {
    /// Whether the table is attached, and the index the one that counts.
    counts: bool,
    /// The number of the entry time; 0 when it is gone or of another type.
    time: i16,
    /// Of host, status, source, device: looked up when one is to be written down.
    columns: Option<[Column; 4]>,
    /// Whether the statement has voided what is sealed.
    marked: bool,
}

fn inserted(row: &InsertedRow) {
    // A concurrent build goes through rows that have long been there.
    if row.is_told_by_a_build() && !broken(Mutant::BuildCounts) {
        return;
    }
    let known = row.kept(|| {
        let (gen_, threshold) = threshold_now();
        (threshold, Known { gen_, threshold, table: None })
    });
    if row.moment().is_some_and(|moment| moment >= known.threshold) {
        return;
    }
    let keep = |table| row.keep(Known { table: Some(table), ..known });
    let table = known.table.unwrap_or_else(|| {
        let table = look_up(row);
        keep(table);
        table
    });
    if !table.counts || table.marked {
        return;
    }
    let void = |reason| {
        mark(reason);
        keep(Table { marked: true, ..table });
    };
    if table.time == 0 {
        return void("entry time changed");
    }
    let told = row.read(|slot, origin| {
        // The trigger on UPDATE is told of both versions.
        if origin == Origin::Updated && !broken(Mutant::UpdateCountsTwice) {
            return;
        }
        // A null entry time is in no window, but in the total: it stands before every moment.
        let moment = slot.value(table.time).map_or(i64::MIN, |datum| datum.value() as i64);
        if moment >= known.threshold {
            return;
        }
        let columns = table.columns.unwrap_or_else(|| {
            let columns = counted_columns(|name| row.column_of(name));
            keep(Table { columns: Some(columns), ..table });
            columns
        });
        write_down(known.gen_, row.relation(), std::iter::once((&entry_of(moment, &columns, slot), 1)));
        if origin == Origin::Speculated {
            row.remember_speculated(table.time, moment);
        }
    });
    if told.is_none() {
        void("an inserted row is not in its place");
    }
}

fn look_up(row: &InsertedRow) -> Table {
    let nothing = Table { counts: false, time: 0, columns: None, marked: false };
    let fleet = attachment::read(Seen::Latest).filter(|fleet| fleet.entries == row.relation());
    let Some((number, kind)) = fleet.and_then(|fleet| row.column_of(&fleet.entry_time)) else {
        return nothing;
    };
    let is_the_one = find(row.relation(), number).is_some_and(|index| index.oid == row.index());
    Table {
        counts: is_the_one || broken(Mutant::EveryIndexCounts),
        time: if is_timestamptz(kind) { number } else { 0 },
        ..nothing
    }
}
