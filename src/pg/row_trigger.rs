//! The trigger that fires for each row, as near to PostgreSQL as it goes: what it costs, every row of a COPY pays.

use super::screen::Kept;
use super::slot::Slot;
use super::{VERSION_1, screen};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::sync::OnceLock;

/// `InvalidSubTransactionId`.
const NO_SUBTRANSACTION: pg_sys::SubTransactionId = 0;

/// One firing.
pub struct RowTrigger {
    data: *mut pg_sys::TriggerData,
    call: *mut pg_sys::FmgrInfo,
}

/// The relation whose rows a trigger is for: each has a function of its own.
#[derive(Clone, Copy)]
pub enum Rows {
    /// `capture_change`
    Entries,
    /// `roster_change`
    Devices,
    /// `frozen_change`
    Frozen,
}

static ON_ROW: [OnceLock<fn(&RowTrigger)>; 3] = [const { OnceLock::new() }; 3];

/// Has `work` called at each firing.
pub fn on_row(of: Rows, work: fn(&RowTrigger)) {
    // A second call is one with the same function: the library is loaded once.
    let _ = ON_ROW[of as usize].set(work);
}

/// What PostgreSQL asks a function's library for.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_capture_change_wrapper() -> *const pg_sys::Pg_finfo_record {
    &VERSION_1
}

/// The same.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_roster_change_wrapper() -> *const pg_sys::Pg_finfo_record {
    &VERSION_1
}

/// The same.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_frozen_change_wrapper() -> *const pg_sys::Pg_finfo_record {
    &VERSION_1
}

/// AFTER INSERT, UPDATE and DELETE on entries, for each row.
///
/// # Safety
/// Called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn capture_change_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: by the caller's promise. This frame has nothing to release.
    unsafe {
        if !screen::entry_does_not_count(call) {
            entry_fires(call);
        }
    }
    pg_sys::Datum::null()
}

/// # Safety
/// `call` is the function manager's.
#[pg_guard]
unsafe extern "C-unwind" fn entry_fires(call: pg_sys::FunctionCallInfo) {
    // SAFETY: by the caller's promise.
    unsafe { fire(Rows::Entries, call) }
}

/// AFTER INSERT, UPDATE and DELETE on devices, for each row.
///
/// # Safety
/// Called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn roster_change_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: by the caller's promise. This frame has nothing to release.
    unsafe {
        if !screen::device_does_not_count(call) {
            device_fires(call);
        }
    }
    pg_sys::Datum::null()
}

/// # Safety
/// `call` is the function manager's.
#[pg_guard]
unsafe extern "C-unwind" fn device_fires(call: pg_sys::FunctionCallInfo) {
    // SAFETY: by the caller's promise.
    unsafe { fire(Rows::Devices, call) }
}

/// BEFORE INSERT, UPDATE and DELETE on a frozen partition, for each row, which stays as it is. The first of a statement is
/// enough.
///
/// # Safety
/// Called by PostgreSQL's function manager.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn frozen_change_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: by the caller's promise. What the function manager keeps for this function lasts as long as the statement, and is
    // this function's to fill; the trigger manager's rows stay while the trigger runs.
    unsafe {
        let Some(trigger) = fired(call).filter(RowTrigger::is_before_row) else {
            error!("the function must be called as a trigger before each row");
        };
        let told = &mut (*trigger.call).fn_extra;
        if told.is_null() {
            if let Some(work) = ON_ROW[Rows::Frozen as usize].get() {
                work(&trigger);
            }
            *told = call.cast();
        }
        let data = trigger.data();
        pg_sys::Datum::from(match trigger.event() {
            pg_sys::TRIGGER_EVENT_UPDATE => data.tg_newtuple,
            _ => data.tg_trigtuple,
        })
    }
}

/// What fires, when the trigger manager is who calls.
///
/// # Safety
/// `call` is the function manager's.
unsafe fn fired(call: pg_sys::FunctionCallInfo) -> Option<RowTrigger> {
    // SAFETY: the function manager's argument is valid; its context says whether the trigger manager called.
    unsafe {
        let context = (*call).context;
        let fired = !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData;
        fired.then(|| RowTrigger { data: context.cast(), call: (*call).flinfo })
    }
}

/// # Safety
/// `call` is the function manager's.
unsafe fn fire(of: Rows, call: pg_sys::FunctionCallInfo) {
    // SAFETY: by the caller's promise.
    let trigger = unsafe { fired(call) };
    match (trigger, ON_ROW[of as usize].get()) {
        (Some(trigger), Some(work)) if trigger.is_after_row() => work(&trigger),
        _ => error!("the function must be called as a trigger after each row"),
    }
}

impl RowTrigger {
    fn data(&self) -> &pg_sys::TriggerData {
        // SAFETY: the trigger manager's structure stays while the trigger runs, and so does this.
        unsafe { &*self.data }
    }

    fn is_after_row(&self) -> bool {
        self.data().tg_event & pg_sys::TRIGGER_EVENT_ROW != 0
            && self.data().tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER
    }

    fn is_before_row(&self) -> bool {
        self.data().tg_event & pg_sys::TRIGGER_EVENT_ROW != 0
            && self.data().tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE
    }

    fn event(&self) -> u32 {
        self.data().tg_event & pg_sys::TRIGGER_EVENT_OPMASK
    }

    /// The row before an UPDATE or DELETE.
    pub fn before(&self) -> Option<Slot> {
        // SAFETY: the trigger manager's slot holds the row while the trigger runs.
        (self.event() != pg_sys::TRIGGER_EVENT_INSERT).then(|| unsafe { Slot::new(self.data().tg_trigslot) })
    }

    /// The row after an INSERT or UPDATE.
    pub fn after(&self) -> Option<Slot> {
        let slot = match self.event() {
            pg_sys::TRIGGER_EVENT_INSERT => self.data().tg_trigslot,
            pg_sys::TRIGGER_EVENT_UPDATE => self.data().tg_newslot,
            _ => return None,
        };
        // SAFETY: as above.
        Some(unsafe { Slot::new(slot) })
    }

    /// The table that holds the row: of partitioned entries, a partition.
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open while the trigger runs.
        unsafe { (*self.data().tg_relation).rd_id }
    }

    /// Whether the file that holds the row was begun by this transaction, so that a TRUNCATE in it may empty the file
    /// in place.
    pub fn is_in_new_file(&self) -> bool {
        // SAFETY: the relation is open while the trigger runs.
        let relation = unsafe { &*self.data().tg_relation };
        #[cfg(feature = "pg15")]
        let begun = [relation.rd_newRelfilenodeSubid, relation.rd_firstRelfilenodeSubid];
        #[cfg(not(feature = "pg15"))]
        let begun = [relation.rd_newRelfilelocatorSubid, relation.rd_firstRelfilelocatorSubid];
        relation.rd_createSubid != NO_SUBTRANSACTION
            || begun.iter().any(|subtransaction| *subtransaction != NO_SUBTRANSACTION)
    }

    /// Whether the trigger has this name.
    pub fn is_named(&self, name: &str) -> bool {
        // SAFETY: the trigger's description stays while it runs; its name ends with NUL.
        unsafe { CStr::from_ptr((*self.data().tg_trigger).tgname).to_bytes() == name.as_bytes() }
    }

    /// The trigger's OID.
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the trigger's description stays while it runs.
        unsafe { (*self.data().tg_trigger).tgoid }
    }

    /// The column that an argument, counted from 0, names: its number and its type, a domain not resolved. `None` when
    /// there is no such argument or column.
    pub fn named_column(&self, argument: usize) -> Option<(i16, pg_sys::Oid)> {
        // SAFETY: relation and trigger stay while it runs; tgargs holds tgnargs strings that end with NUL.
        unsafe {
            let trigger = &*self.data().tg_trigger;
            if argument >= usize::try_from(trigger.tgnargs).unwrap_or(0) {
                return None;
            }
            column_of_relation(self.data().tg_relation, CStr::from_ptr(*trigger.tgargs.add(argument)))
        }
    }

    /// A column by its name, as in [`Self::named_column`].
    pub fn column_of(&self, name: &str) -> Option<(i16, pg_sys::Oid)> {
        // SAFETY: the relation is open while the trigger runs.
        unsafe { column_of_relation(self.data().tg_relation, &super::c_string(name)) }
    }

    /// The schema of the trigger's function; no schema's OID when the function is gone.
    pub fn schema_of_function(&self) -> pg_sys::Oid {
        // SAFETY: a syscache look-up; the trigger's description stays while it runs.
        unsafe { pg_sys::get_func_namespace((*self.data().tg_trigger).tgfoid) }
    }

    /// What is kept from the first firing on, for this table and as long as the statement runs.
    pub fn kept<T: Copy>(&self, first: impl FnOnce() -> T) -> T {
        // SAFETY: the first look has put the structure there; its value is of the one type that the one caller keeps.
        unsafe {
            let kept: *const Kept = (*self.call).fn_extra.cast();
            if (*kept).is_filled {
                return (&raw const (*kept).value).cast::<T>().read();
            }
        }
        let value = first();
        self.keep(value);
        value
    }

    /// Keeps another value in its place.
    pub fn keep<T: Copy>(&self, value: T) {
        const { assert!(size_of::<T>() <= size_of::<[u64; 24]>() && align_of::<T>() <= align_of::<u64>()) };
        // SAFETY: as in `kept`; there is room for the value.
        unsafe {
            let kept: *mut Kept = (*self.call).fn_extra.cast();
            (&raw mut (*kept).value).cast::<T>().write(value);
            (*kept).is_filled = true;
        }
    }
}

/// A column of a relation: its number and its type, a domain not resolved.
///
/// # Safety
/// `relation` is open.
unsafe fn column_of_relation(relation: pg_sys::Relation, name: &CStr) -> Option<(i16, pg_sys::Oid)> {
    // SAFETY: the descriptor stays as long as the relation is open; names of columns end with NUL.
    unsafe {
        let description = pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att);
        description
            .iter()
            .find(|column| !column.attisdropped && CStr::from_ptr(column.attname.data.as_ptr()) == name)
            .map(|column| (column.attnum, column.atttypid))
    }
}
