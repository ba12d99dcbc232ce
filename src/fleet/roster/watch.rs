//! What writers of devices do for the roster: nothing for a heartbeat.
//!
//! The trigger fires after the row was written, so the transaction holds its lock and its id. The threshold is read as it
//! is committed at that moment. It is kept in the backend, for reading it each time would cost a heartbeat more than all
//! the rest: whoever moves it sends a message that arrives before anybody looks for writers, and the trigger takes in
//! all messages first.

use super::state::{Capture, Device};
use crate::fleet::clock::Timestamp;
use crate::fleet::sealed::state::NEVER;
use crate::pg::invalidation::Watch;
use crate::pg::own_rows::{ColumnValue, insert_rows};
use crate::pg::relation::base_type;
use crate::pg::row_trigger::{RowTrigger, Rows, on_row};
use crate::pg::scan::{Seen, relation_in};
use crate::pg::screen;
use crate::pg::slot::Slot;
use crate::torture::{Mutant, broken};
use pgrx::pg_sys;
use std::cell::Cell;

/// After every moment that a timestamptz can hold.
const FOREVER: Timestamp = i64::MAX;

static TABLES: Watch = Watch::new();

thread_local! {
    static VIEW: Cell<Option<View>> = const { Cell::new(None) };
}

/// What the trigger goes by.
#[derive(Clone, Copy)]
struct View {
    generation: u64,
    trigger: pg_sys::Oid,
    gen_: i64,
    threshold: Timestamp,
    columns: Columns,
}

/// The counted columns: numbers and types.
#[derive(Clone, Copy)]
struct Columns {
    kind: (i16, pg_sys::Oid),
    seen: (i16, pg_sys::Oid),
}

/// Has changed rows of devices looked at.
pub fn register() {
    on_row(Rows::Devices, changed);
}

/// The trigger's arguments are the names of the columns that are counted: connection type, and last sign of life or
/// whether it is online.
fn changed(trigger: &RowTrigger) {
    let view = current(trigger);
    // Nobody counts; or a column is not what it was, which the relation's fingerprint tells everybody.
    if view.threshold == NEVER || !view.columns.can_be_read() {
        return;
    }
    let (old, new) = (trigger.before(), trigger.after());
    if let (Some(old), Some(new)) = (&old, &new)
        && view.counts_alike(old, new)
    {
        return;
    }
    if let Some(table) = relation_in(trigger.schema_of_function(), "roster_changes") {
        let [old, new] = [old, new].map(|row| row.map(|row| view.columns.device(&row)));
        let kind = |device: &Option<Device>| device.as_ref().map(|device| device.kind.clone());
        let (old_kind, new_kind) = (kind(&old), kind(&new));
        let seen = |device: Option<Device>| {
            device.map_or(ColumnValue::Null, |device| ColumnValue::Timestamp(device.seen))
        };
        let row = [
            ColumnValue::Int(view.gen_),
            old_kind.as_deref().map_or(ColumnValue::Null, ColumnValue::Text),
            seen(old),
            new_kind.as_deref().map_or(ColumnValue::Null, ColumnValue::Text),
            seen(new),
        ];
        assert_eq!(insert_rows(table, std::iter::once(row)), Ok(()), "a table of ours has another shape");
    }
}

/// What is in force now, from memory as long as nothing has changed.
fn current(trigger: &RowTrigger) -> View {
    let oid = trigger.oid();
    if let Some(view) = VIEW.get()
        && view.trigger == oid
        && (view.generation == TABLES.generation() || broken(Mutant::RosterThresholdKept))
    {
        return view;
    }
    let devices = trigger.relation();
    // Watched before they are read, so that no change falls between.
    let schema = trigger.schema_of_function();
    TABLES.watch([relation_in(schema, "roster_capture"), Some(devices), None, None]);
    let generation = TABLES.generation();
    let capture = Capture::newest_in(schema, Seen::Latest);
    let columns = Columns::named(trigger);
    // One that cannot be read counts as the end of time, and as newer than whatever a reader may hold: too much written
    // down is safe, too little never.
    let (gen_, threshold) = capture.map_or((i64::MAX, FOREVER), |capture| (capture.gen_, capture.threshold));
    let view = View { generation, trigger: oid, gen_, threshold, columns };
    // Nothing would tell of the table's coming.
    VIEW.set(capture.is_some().then_some(view));
    screen::keep_devices(view.columns.are_plain().then_some(screen::Devices {
        watch: &TABLES,
        generation,
        trigger: oid,
        threshold,
        seen: columns.seen.0,
        kind: columns.kind.0,
    }));
    view
}

impl Columns {
    fn named(trigger: &RowTrigger) -> Self {
        let column = |argument: usize| {
            let found = trigger.named_column(argument);
            found.map_or((0, pg_sys::InvalidOid), |(number, kind)| (number, base_type(kind)))
        };
        Self { kind: column(0), seen: column(1) }
    }

    fn can_be_read(&self) -> bool {
        self.kind.0 > 0 && self.seen.0 > 0 && [pg_sys::TIMESTAMPTZOID, pg_sys::BOOLOID].contains(&self.seen.1)
    }

    /// Whether a look at the bytes can tell that nothing has changed.
    fn are_plain(&self) -> bool {
        self.kind.0 > 0
            && [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&self.kind.1)
            && self.seen.0 > 0
            && self.seen.1 == pg_sys::TIMESTAMPTZOID
    }

    fn device(&self, row: &Slot) -> Device {
        Device {
            kind: row.text(self.kind.0, self.kind.1).unwrap_or_else(|| "unknown".into()),
            seen: self.seen(row),
        }
    }

    fn seen(&self, row: &Slot) -> Timestamp {
        match row.value(self.seen.0) {
            None => NEVER,
            Some(datum) if self.seen.1 == pg_sys::BOOLOID => {
                if datum.value() & 1 == 1 {
                    FOREVER
                } else {
                    NEVER
                }
            }
            Some(datum) => datum.value() as i64,
        }
    }
}

impl View {
    /// Whether no figure tells the two apart, whatever is counted under this threshold or an earlier one.
    fn counts_alike(&self, old: &Slot, new: &Slot) -> bool {
        let (before, after) = (self.columns.seen(old), self.columns.seen(new));
        (before == after || (before > self.threshold && after > self.threshold))
            && old.has_same_text(new, self.columns.kind.0, self.columns.kind.1)
    }
}
