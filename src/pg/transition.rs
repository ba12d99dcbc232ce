//! The rows that a statement has changed, as its AFTER STATEMENT trigger finds them in the transition tables.

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// One of a statement's transition tables, read from the beginning.
pub struct Transition {
    store: *mut pg_sys::Tuplestorestate,
    slot: *mut pg_sys::TupleTableSlot,
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
            Some(Self { store, slot })
        }
    }

    /// Steps to the next row; false at the end.
    pub fn next(&mut self) -> bool {
        // SAFETY: store and slot belong together, and the trigger manager keeps the store while the trigger runs.
        unsafe { pg_sys::tuplestore_gettupleslot(self.store, true, false, self.slot) }
    }

    /// A column of the current row by its number; `None` when null.
    pub fn value(&self, number: i16) -> Option<pg_sys::Datum> {
        // SAFETY: called after `next` gave true, with a number of the relation's; the attributes up to it are taken
        // apart before the arrays are read.
        unsafe {
            let slot = &*self.slot;
            if slot.tts_nvalid < number {
                pg_sys::slot_getsomeattrs_int(self.slot, i32::from(number));
            }
            let place = number as usize - 1;
            let slot = &*self.slot;
            (!*slot.tts_isnull.add(place)).then(|| *slot.tts_values.add(place))
        }
    }

    /// A column as text, by its type's output function.
    pub fn text(&self, number: i16, type_oid: pg_sys::Oid) -> Option<String> {
        // SAFETY: the value is not null, and of this type.
        self.value(number).map(|datum| unsafe { datum_text(datum, type_oid) })
    }
}

/// A value as its type's output function writes it.
///
/// # Safety
/// `datum` is a non-null value of type `kind`.
pub unsafe fn datum_text(datum: pg_sys::Datum, kind: pg_sys::Oid) -> String {
    if kind == pg_sys::TEXTOID || kind == pg_sys::VARCHAROID {
        // SAFETY: a non-null datum of a text type.
        let bytes = unsafe { super::scan::text_bytes(datum) };
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    let mut output = pg_sys::InvalidOid;
    let mut is_varlena = false;
    // SAFETY: the datum is of this type, and the output function's string is NUL-terminated.
    unsafe {
        pg_sys::getTypeOutputInfo(kind, &mut output, &mut is_varlena);
        let text = pg_sys::OidOutputFunctionCall(output, datum);
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

impl Drop for Transition {
    fn drop(&mut self) {
        // SAFETY: made in `read`, dropped once.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
    }
}

/// The arguments that a trigger was made with.
pub fn arguments(trigger: &PgTrigger) -> Vec<String> {
    let trigger = trigger.trigger();
    let count = usize::try_from(trigger.tgnargs).unwrap_or(0);
    // SAFETY: tgargs holds tgnargs strings that end with NUL.
    unsafe {
        (0..count)
            .map(|place| CStr::from_ptr(*trigger.tgargs.add(place)).to_string_lossy().into_owned())
            .collect()
    }
}
