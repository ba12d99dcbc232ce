//! The rows that a statement has changed, as its AFTER STATEMENT trigger finds them in the transition tables.

use super::slot::Slot;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, c_char};

/// One of a statement's transition tables, read from the beginning.
pub struct Transition {
    store: *mut pg_sys::Tuplestorestate,
    slot: Slot,
}

impl Transition {
    /// The rows as they were before an UPDATE or DELETE; `None` when the trigger has no such table.
    pub fn old(trigger: &PgTrigger) -> Option<Self> {
        let data = trigger.trigger_data();
        Self::read(data, data.tg_oldtable)
    }

    /// The rows as they are after an INSERT or UPDATE; `None` when the trigger has no such table.
    pub fn new(trigger: &PgTrigger) -> Option<Self> {
        let data = trigger.trigger_data();
        Self::read(data, data.tg_newtable)
    }

    fn read(data: &pg_sys::TriggerData, store: *mut pg_sys::Tuplestorestate) -> Option<Self> {
        if store.is_null() {
            return None;
        }
        // SAFETY: the trigger manager fills the store before it calls the trigger, with minimal tuples of the relation's
        // row type. Its first read pointer may have been left anywhere by another trigger, hence the rescan.
        unsafe {
            pg_sys::tuplestore_select_read_pointer(store, 0);
            pg_sys::tuplestore_rescan(store);
            let description = (*data.tg_relation).rd_att;
            let slot = pg_sys::MakeSingleTupleTableSlot(description, &raw const pg_sys::TTSOpsMinimalTuple);
            Some(Self { store, slot: Slot::new(slot) })
        }
    }

    /// Steps to the next row; false at the end.
    pub fn next(&mut self) -> bool {
        // SAFETY: store and slot belong together, and the trigger manager keeps the store while the trigger runs.
        unsafe { pg_sys::tuplestore_gettupleslot(self.store, true, false, self.slot.as_ptr()) }
    }

    /// The current row; called after `next` gave true.
    pub fn row(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Transition {
    fn drop(&mut self) {
        // SAFETY: made in `read`, dropped once.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot.as_ptr()) };
    }
}

/// The column that a trigger is told: its number in the changed relation, and its type, a domain not resolved. `None` when
/// it is told none, or one that there is not.
pub fn told_column(trigger: &PgTrigger) -> Option<(i16, pg_sys::Oid)> {
    // SAFETY: the relation stays open while its trigger runs; what a trigger is told ends with NUL.
    unsafe {
        let relation = trigger.trigger_data().tg_relation;
        column_of_relation(relation, CStr::from_ptr(told(trigger.trigger(), relation)?))
    }
}

/// A trigger's first argument; where it has none, that of another trigger of the relation with the same function. Whatever
/// the triggers of a relation are told, PostgreSQL copies for each statement, so one is told for all.
///
/// # Safety
/// `relation` is open, and `trigger` a trigger of it.
#[inline]
pub(super) unsafe fn told(trigger: &pg_sys::Trigger, relation: pg_sys::Relation) -> Option<*const c_char> {
    // SAFETY: tgargs holds tgnargs strings; the relation's description of its triggers holds as many as it says.
    unsafe {
        if trigger.tgnargs > 0 {
            return Some(*trigger.tgargs);
        }
        let all = (*relation).trigdesc.as_ref()?;
        let all = std::slice::from_raw_parts(all.triggers, all.numtriggers as usize);
        let other = all.iter().find(|other| other.tgfoid == trigger.tgfoid && other.tgnargs > 0)?;
        Some(*other.tgargs)
    }
}

/// A column of the changed relation by its name, as in [`told_column`].
pub fn column_of(trigger: &PgTrigger, name: &str) -> Option<(i16, pg_sys::Oid)> {
    // SAFETY: the relation stays open while its trigger runs.
    unsafe { column_of_relation(trigger.trigger_data().tg_relation, &super::c_string(name)) }
}

/// The column that an argument of a trigger names, counted from 0, as in [`told_column`].
///
/// # Safety
/// `relation` is open, and `definition` a trigger of it.
pub unsafe fn named_column_of(
    definition: &pg_sys::Trigger,
    relation: pg_sys::Relation,
    argument: usize,
) -> Option<(i16, pg_sys::Oid)> {
    if argument >= usize::try_from(definition.tgnargs).unwrap_or(0) {
        return None;
    }
    // SAFETY: tgargs holds tgnargs strings that end with NUL, as names of columns do.
    unsafe { column_of_relation(relation, CStr::from_ptr(*definition.tgargs.add(argument))) }
}

/// A column of a relation: its number and its type, a domain not resolved.
///
/// # Safety
/// `relation` is open.
pub unsafe fn column_of_relation(relation: pg_sys::Relation, name: &CStr) -> Option<(i16, pg_sys::Oid)> {
    // SAFETY: the descriptor stays as long as the relation is open; names of columns end with NUL.
    unsafe {
        let description = pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att);
        description
            .iter()
            .find(|column| !column.attisdropped && CStr::from_ptr(column.attname.data.as_ptr()) == name)
            .map(|column| (column.attnum, column.atttypid))
    }
}
