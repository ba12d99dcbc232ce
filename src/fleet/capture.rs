//! What writers do for the sealed window: nothing, unless a row is late.
//!
//! A row trigger fires at the end of each statement for every row of entries, in a plain table and in every partition. It
//! reads the capture threshold as it is committed at that moment, after the row was written: a statement that began before
//! the threshold moved must not miss the move. By then the transaction has its id and holds the table's lock, so a sealer
//! that lists the writers later finds it, and one that listed them earlier has already committed the threshold read here.

use super::attachment::{self, Attachment};
use super::clock::Timestamp;
use super::late::pack::{HourChange, Key, RowChange, hour_of};
use super::late::pending::{self, note_hour, note_row};
use super::late::table::OwnTables;
use super::sealed::tally::class_of;
use super::triggers::CAPTURE_TRIGGER;
use crate::pg::inheritance::stands_below;
use crate::pg::partition::changes_of_any;
use crate::pg::relation::base_type;
use crate::pg::row_trigger::{RowTrigger, Rows, on_row};
use crate::pg::scan::{Seen, Tuple, find_relation, find_schema, newest};
use crate::pg::screen;
use crate::pg::slot::{Slot, Value};
use crate::pg::thresholds::{self, Threshold};
use crate::schemas::INTERNAL;
use crate::torture::{self, Mutant, broken};
use pgrx::pg_sys;
use std::cell::RefCell;

/// Installs the trigger's function, and what goes with the transaction.
pub fn register() {
    screen::register(threshold_nolock);
    on_row(Rows::Entries, changed);
    on_row(Rows::Frozen, frozen_changed);
    pending::register();
}

/// The newest threshold that is seen.
pub fn threshold(seen: Seen) -> Option<Threshold> {
    newest_threshold(seen, of_row)
}

fn of_row(row: &Tuple) -> Threshold {
    Threshold { generation: row.int(1), moment: row.timestamp(2), window_start: row.timestamp(3) }
}

fn newest_threshold<T>(seen: Seen, each: impl FnOnce(&Tuple) -> T) -> Option<T> {
    let table = find_relation(INTERNAL, "capture")?;
    let index = find_relation(INTERNAL, "capture_pkey")?;
    newest(table, index, seen, each)
}

/// The threshold as it stands in its table, which is published for whoever comes next.
fn threshold_of_table() -> Option<Threshold> {
    let writes = thresholds::writes();
    let (threshold, is_own) = newest_threshold(Seen::Latest, |row| (of_row(row), row.identity().is_own()))?;
    // What this transaction has written may never come to be.
    if let Some(writes) = writes.filter(|_| !is_own) {
        thresholds::offer(writes, threshold);
    }
    Some(threshold)
}

/// Before which entry time rows count, without a lock or a look at the table, where that can be told.
fn threshold_nolock() -> Option<Timestamp> {
    if broken(Mutant::ThresholdOfStatement) || broken(Mutant::ThresholdOfTransaction) {
        return None;
    }
    thresholds::at_a_glance().map(|threshold| threshold.moment)
}

pub fn is_timestamptz(kind: pg_sys::Oid) -> bool {
    kind == pg_sys::TIMESTAMPTZOID || base_type(kind) == pg_sys::TIMESTAMPTZOID
}

/// Voids what is sealed: a row that the sealer will find.
pub fn mark(reason: &str) {
    if let Some(schema) = find_schema(INTERNAL) {
        OwnTables::of(schema).mark(reason);
    }
}

/// A row of a frozen partition changes, which nobody counted on: all is counted anew.
fn frozen_changed(trigger: &RowTrigger) {
    let schema = trigger.schema_of_function();
    let fleet = attachment::read_in(schema, Seen::Latest).flatten();
    if fleet.is_some_and(|fleet| stands_below(trigger.relation(), fleet.entries)) {
        OwnTables::of(schema).mark("a partition of another access method has changed");
    }
}

/// A counted column: its number, and its type with domains resolved.
type Column = (i16, pg_sys::Oid);

/// What is known of a table. It holds until a message says that some relation has changed: whatever changes it locks the
/// table, or a table above it, against writers.
#[derive(Clone, Copy)]
struct Table {
    tables: OwnTables,
    /// Whether the table belongs to the attached entries. Another one may have the trigger by hand, or from a dump.
    counts: bool,
    /// The number of the entry time; `None` when it is gone or of another type.
    time: Option<i16>,
    /// Of host, status, source, device; `None` when one is gone.
    columns: Option<[Column; 4]>,
}

impl Table {
    /// `None` when the extension's own tables are not where the trigger's function is.
    fn of(trigger: &RowTrigger) -> Option<Self> {
        let schema = trigger.schema_of_function();
        let fleet = attachment::read_in(schema, Seen::Latest)?;
        let relation = trigger.relation();
        let counts = fleet
            .as_ref()
            .is_some_and(|fleet| relation == fleet.entries || stands_below(relation, fleet.entries))
            // Another trigger with the same function would count each row once more.
            && trigger.is_named(CAPTURE_TRIGGER);
        let time = trigger.named_column(0).filter(|(_, kind)| is_timestamptz(*kind));
        Some(Self {
            tables: OwnTables::of(schema),
            counts: counts || broken(Mutant::AnyTableCounts),
            time: time.map(|(number, _)| number),
            columns: fleet.and_then(|fleet| columns(trigger, &fleet)),
        })
    }

    /// From memory, as long as nothing has changed.
    fn kept(trigger: &RowTrigger) -> Self {
        let identity = (trigger.relation(), trigger.oid());
        let place = identity.0.to_u32() as usize % KEPT_TABLES;
        let changes = changes_of_any();
        let kept = TABLES.with_borrow(|tables| tables[place]);
        if let Some((_, _, table)) = kept.filter(|(at, of, _)| *at == changes && *of == identity) {
            return table;
        }
        let Some(table) = Self::of(trigger) else {
            let tables = OwnTables::of(trigger.schema_of_function());
            tables.mark("a table of the extension is gone");
            return Self { tables, counts: false, time: None, columns: None };
        };
        // Looking it up may have taken in a message.
        let unchanged = changes == changes_of_any();
        TABLES.with_borrow_mut(|tables| tables[place] = unchanged.then_some((changes, identity, table)));
        table
    }
}

/// How many tables a backend knows: partitions that are written to at a time.
const KEPT_TABLES: usize = 64;

/// When it was looked up, the table's OID and the trigger's, and what was found.
type KeptTable = (u64, (pg_sys::Oid, pg_sys::Oid), Table);

thread_local! {
    static TABLES: RefCell<[Option<KeptTable>; KEPT_TABLES]> = const { RefCell::new([None; KEPT_TABLES]) };
}

/// What is known of a table for as long as one statement runs.
#[derive(Clone, Copy)]
struct Known {
    table: Table,
    /// Read once a statement where it is not in shared memory.
    threshold: Option<Threshold>,
    /// Whether the statement has voided what is sealed, so that nothing more need be noted.
    is_void: bool,
}

impl Known {
    fn of(trigger: &RowTrigger) -> Self {
        Self { table: Table::kept(trigger), threshold: None, is_void: false }
    }
}

fn changed(trigger: &RowTrigger) {
    let known = trigger.kept(|| Known::of(trigger));
    let Table { tables, counts, time, columns } = known.table;
    if !counts || known.is_void {
        return;
    }
    let void = |reason| {
        tables.mark(reason);
        trigger.keep(Known { is_void: true, ..known });
    };
    let Some(time) = time else {
        return void("entry time changed");
    };
    let threshold = threshold_for(trigger, &known);
    let late = |row: &Slot| time_of(row, time) < threshold.moment;
    let (old, new) = (trigger.before().filter(late), trigger.after().filter(late));
    if old.is_none() && new.is_none() {
        return;
    }
    // A TRUNCATE later in this transaction would empty the file in place: nothing would tell that the rows are gone.
    if trigger.is_in_new_file() && !broken(Mutant::NewFileTrusted) {
        return void("written into a new file");
    }
    let Some(columns) = columns else {
        return void("column changed");
    };
    let relation = trigger.relation().to_u32();
    let old = old.as_ref().map(|slot| row_of(slot, relation, time, &columns, false));
    let new = new.as_ref().map(|slot| row_of(slot, relation, time, &columns, true));
    if let (Some(old), Some(new)) = (&old, &new)
        && (RowChange { came: true, ..*old }) == *new
    {
        return;
    }
    for row in [old, new].into_iter().flatten() {
        if row.time < threshold.window_start {
            let n = if row.came { 1 } else { -1 };
            let change = HourChange { relation, hour: hour_of(row.time), n };
            note_hour(tables, threshold.generation, change);
        } else {
            note_row(tables, threshold.generation, &row);
        }
    }
}

fn row_of<'a>(
    slot: &'a Slot,
    relation: u32,
    time: i16,
    columns: &[Column; 4],
    came: bool,
) -> RowChange<Key<'a>> {
    let [host, status, source, device] = *columns;
    slot.take_apart(host.0.max(status.0).max(source.0).max(device.0));
    RowChange {
        relation,
        time: time_of(slot, time),
        came,
        class: class_of(slot.int(status.0, status.1)) as u8,
        source: key_of(slot.stored(source.0, source.1)),
        host: key_of(slot.stored(host.0, host.1)),
        device: key_of(slot.stored(device.0, device.1)),
    }
}

/// A row without an entry time is in no window, but in the total: it stands before every moment.
fn time_of(row: &Slot, time: i16) -> Timestamp {
    row.value(time).map_or(Timestamp::MIN, |datum| datum.value() as i64)
}

fn key_of(value: Value) -> Key {
    match value {
        Value::Null => Key::Null,
        Value::Text(text) => Key::Text(text),
        Value::Uuid(uuid) => Key::Uuid(uuid),
        Value::Int(number) => Key::Int(number),
    }
}

/// Host, status, source and device; `None` when one of them is gone.
fn columns(trigger: &RowTrigger, fleet: &Attachment) -> Option<[Column; 4]> {
    let [_, host, status, source, device] = fleet.counted_columns();
    let column = |name: &String| {
        let (number, kind) = trigger.column_of(name)?;
        Some((number, base_type(kind)))
    };
    Some([column(host)?, column(status)?, column(source)?, column(device)?])
}

/// The threshold that is committed at this moment, whatever snapshot the statement has. What is read from the table holds
/// for the whole statement: the transaction keeps its id and the table's lock for as long.
fn threshold_for(trigger: &RowTrigger, known: &Known) -> Threshold {
    if broken(Mutant::ThresholdOfStatement) {
        return threshold(Seen::Statement).unwrap_or(Threshold::UNKNOWN);
    }
    if broken(Mutant::ThresholdOfTransaction) {
        return torture::kept_for_transaction(|| threshold_of_table().unwrap_or(Threshold::UNKNOWN));
    }
    if let Some(published) = thresholds::at_a_glance().or_else(thresholds::published) {
        return published;
    }
    known.threshold.unwrap_or_else(|| {
        let read = threshold_of_table().unwrap_or(Threshold::UNKNOWN);
        trigger.keep(Known { threshold: Some(read), ..*known });
        read
    })
}
