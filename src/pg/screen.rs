//! The first look that a trigger takes at what was written. Nearly always nothing of it counts, and then the trigger is
//! done: without a panic guard, an allocation or a look-up, each of which would cost more than the look.
//!
//! All frames here are plain: nothing in them panics or has anything to release, so that an error of PostgreSQL's may
//! pass over them.

use super::bare::BareRow;
use super::invalidation::Watch;
use pgrx::pg_sys;
use pgrx::pg_sys::{Datum, Oid, TriggerData, TupleTableSlot};
use std::cell::UnsafeCell;
use std::sync::OnceLock;

/// PostgreSQL's functions without pgrx's guard.
mod raw {
    use pgrx::pg_sys::MemoryContext;
    use std::ffi::{c_char, c_int, c_void};

    unsafe extern "C-unwind" {
        pub fn AcceptInvalidationMessages();
        pub fn strcmp(one: *const c_char, other: *const c_char) -> c_int;
        pub fn MemoryContextAllocZero(context: MemoryContext, size: usize) -> *mut c_void;
    }
}

/// Says before which moment rows of entries count; `None` when that takes longer to find out. It must not panic.
pub type Glance = fn() -> Option<i64>;

static GLANCE: OnceLock<Glance> = OnceLock::new();

/// Names the function that says before which moment rows of entries count.
pub fn register(glance: Glance) {
    // A second call is one with the same function: the library is loaded once.
    let _ = GLANCE.set(glance);
}

fn threshold() -> Option<i64> {
    GLANCE.get().and_then(|glance| glance())
}

/// What the trigger on devices goes by, as long as `watch` stays at `generation`.
#[derive(Clone, Copy)]
pub struct Devices {
    /// What it depends on, besides the trigger.
    pub watch: &'static Watch,
    /// The generation of the watch for which it holds.
    pub generation: u64,
    /// The trigger.
    pub trigger: Oid,
    /// A device that was seen after this moment, before and afterwards, counts as it did.
    pub threshold: i64,
    /// The last sign of life, a timestamptz.
    pub seen: i16,
    /// The connection type, a text.
    pub kind: i16,
}

/// State of a backend, which has one thread that PostgreSQL's functions are called in.
struct OfTheBackend(UnsafeCell<Option<Devices>>);

// SAFETY: triggers fire in the backend's main thread; no other thread of ours comes here.
unsafe impl Sync for OfTheBackend {}

static DEVICES: OfTheBackend = OfTheBackend(UnsafeCell::new(None));

/// Keeps what the trigger on devices goes by.
pub fn keep_devices(devices: Option<Devices>) {
    // SAFETY: nobody holds a reference; those below end before anything is called that could come here.
    unsafe { *DEVICES.0.get() = devices };
}

/// The trigger manager's data, when it is the one who calls.
///
/// # Safety
/// `call` is the function manager's.
#[inline]
unsafe fn trigger_data<'a>(call: pg_sys::FunctionCallInfo) -> Option<&'a TriggerData> {
    // SAFETY: by the caller's promise; a node that says it is the trigger manager's data is, for the time of the call.
    unsafe {
        let context = (*call).context;
        let is_trigger = !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData;
        is_trigger.then(|| &*context.cast::<TriggerData>())
    }
}

#[inline]
fn is_after_row(data: &TriggerData) -> bool {
    data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0
        && data.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER
}

#[inline]
fn event(data: &TriggerData) -> u32 {
    data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK
}

/// A column of a row; `None` when null.
///
/// # Safety
/// The slot holds a row, which has this column.
#[inline]
unsafe fn value(slot: *mut TupleTableSlot, number: i16) -> Option<Datum> {
    // SAFETY: by the caller's promise; all frames here are plain.
    unsafe { BareRow::new(slot).value(number) }
}

/// The number of the column that the trigger is told, if it is a timestamptz: the entry time.
///
/// # Safety
/// The trigger manager fills the data.
#[inline]
unsafe fn time_column(data: &TriggerData) -> Option<i16> {
    // SAFETY: trigger and relation stay while the trigger runs. What it is told ends with NUL, as names of columns do; the
    // descriptor has natts columns.
    unsafe {
        let trigger = &*data.tg_trigger;
        if trigger.tgnargs == 0 {
            return None;
        }
        let name = *trigger.tgargs;
        let description = pgrx::PgTupleDesc::from_pg_unchecked((*data.tg_relation).rd_att);
        let column = description
            .iter()
            .find(|column| !column.attisdropped && raw::strcmp(column.attname.data.as_ptr(), name) == 0);
        column.filter(|column| column.atttypid == pg_sys::TIMESTAMPTZOID).map(|column| column.attnum)
    }
}

/// What is kept of a table for as long as a statement runs, in the `fn_extra` of the trigger's function.
#[repr(C)]
pub(super) struct Kept {
    /// The number of the entry time; 0 when it is not a timestamptz.
    time: i16,
    /// Whether `value` holds one.
    pub(super) is_filled: bool,
    /// What [`super::row_trigger::RowTrigger`] keeps there.
    pub(super) value: [u64; 24],
}

/// # Safety
/// `call` is the function manager's, and `data` the trigger manager's for it.
#[inline]
unsafe fn kept(call: pg_sys::FunctionCallInfo, data: &TriggerData) -> *mut Kept {
    // SAFETY: by the caller's promise. `fn_extra` is this function's own: null, or what is put there here, in the memory that
    // the function manager gives such things.
    unsafe {
        let function = &mut *(*call).flinfo;
        if function.fn_extra.is_null() {
            let made: *mut Kept = raw::MemoryContextAllocZero(function.fn_mcxt, size_of::<Kept>()).cast();
            (*made).time = time_column(data).unwrap_or(0);
            function.fn_extra = made.cast();
        }
        function.fn_extra.cast()
    }
}

/// Whether a row of entries that was written does not count, as far as that can be told at once.
///
/// # Safety
/// Called by PostgreSQL's function manager, as AFTER ROW trigger or in error.
pub unsafe fn entry_does_not_count(call: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: by the caller's promise; the slots hold the row, before and after for an UPDATE.
    unsafe {
        let Some(data) = trigger_data(call).filter(|data| is_after_row(data)) else { return false };
        let time = (*kept(call, data)).time;
        let Some(threshold) = threshold().filter(|_| time > 0) else { return false };
        let is_late = |slot| value(slot, time).is_none_or(|moment| (moment.value() as i64) < threshold);
        !is_late(data.tg_trigslot)
            && (event(data) != pg_sys::TRIGGER_EVENT_UPDATE || !is_late(data.tg_newslot))
    }
}

/// Whether an UPDATE of a device changes nothing that counts, as far as that can be told at once.
///
/// # Safety
/// Called by PostgreSQL's function manager, as AFTER ROW trigger or in error.
pub unsafe fn device_does_not_count(call: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: by the caller's promise. Messages may be taken in wherever SQL runs; the kept value is copied first.
    unsafe {
        let (Some(data), Some(devices)) = (trigger_data(call), *DEVICES.0.get()) else { return false };
        if !is_after_row(data)
            || event(data) != pg_sys::TRIGGER_EVENT_UPDATE
            || (*data.tg_trigger).tgoid != devices.trigger
        {
            return false;
        }
        raw::AcceptInvalidationMessages();
        if devices.watch.moved_to() != devices.generation {
            return false;
        }
        let is_seen =
            |slot| value(slot, devices.seen).is_some_and(|moment| moment.value() as i64 > devices.threshold);
        let (old, new) = (data.tg_trigslot, data.tg_newslot);
        is_seen(old) && is_seen(new) && same_text(value(old, devices.kind), value(new, devices.kind))
    }
}

/// Whether two values of a text type are the same bytes, and lie there whole.
///
/// # Safety
/// Both are of a text type.
unsafe fn same_text(one: Option<Datum>, other: Option<Datum>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return one.is_none() && other.is_none() };
    // SAFETY: a header of one or four bytes that says the text is neither compressed nor kept elsewhere stands before
    // its bytes.
    unsafe {
        let (one, other): (*const pg_sys::varlena, *const pg_sys::varlena) =
            (one.cast_mut_ptr(), other.cast_mut_ptr());
        let is_whole = |text| !pgrx::varlena::varatt_is_1b_e(text) && !pgrx::varlena::varatt_is_4b_c(text);
        is_whole(one)
            && is_whole(other)
            && pgrx::varlena::varlena_to_byte_slice(one) == pgrx::varlena::varlena_to_byte_slice(other)
    }
}
