//! Rows that an INSERT with ON CONFLICT has written and may take back: when another session commits the same key in the
//! middle, PostgreSQL kills the row without a word to its indexes, and begins anew.
//!
//! The last such row is remembered, and looked at again before anybody goes by it: when the next one comes, when this
//! session reads, and before the transaction commits. One that was taken back voids what is sealed.

use super::inserted_row::{is_speculative, row_at};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::sync::{Once, OnceLock};

/// A row that was told of before it was decided whether it stays.
#[derive(Clone, Copy)]
struct Speculated {
    table: pg_sys::Oid,
    place: pg_sys::ItemPointerData,
    /// The number of its timestamptz column.
    time: i16,
    moment: i64,
    within: pg_sys::SubTransactionId,
}

thread_local! {
    static LAST: Cell<Option<Speculated>> = const { Cell::new(None) };
    /// Whether a row of this transaction was taken back.
    static TAKEN_BACK: Cell<bool> = const { Cell::new(false) };
}

static BEFORE_COMMIT: OnceLock<fn()> = OnceLock::new();

/// Has `work` called before a transaction commits or is prepared in which a row was taken back.
pub fn on_taken_back(work: fn()) {
    // A second call is one with the same function: the library is loaded once.
    let _ = BEFORE_COMMIT.set(work);
}

pub(super) fn remember(table: pg_sys::Oid, place: pg_sys::ItemPointerData, time: i16, moment: i64) {
    static REGISTER: Once = Once::new();
    // SAFETY: callbacks of the types asked for, registered once in the backend's one thread.
    REGISTER.call_once(|| unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ends), std::ptr::null_mut());
    });
    was_any_taken_back();
    // SAFETY: inside the transaction that has written the row.
    let within = unsafe { pg_sys::GetCurrentSubTransactionId() };
    LAST.set(Some(Speculated { table, place, time, moment, within }));
}

/// Whether this transaction has told of a row that was taken back, or that may yet be.
pub fn was_any_taken_back() -> bool {
    if let Some(last) = LAST.take().filter(|_| !TAKEN_BACK.get()) {
        TAKEN_BACK.set(!stands(last));
    }
    TAKEN_BACK.get()
}

/// Whether the row stands where it was written. Whatever else may have come to its place since does not pass for it:
/// another row that was told of would have its turn here first, all others have another moment or are updates.
fn stands(row: Speculated) -> bool {
    // SAFETY: a relation that is gone gives null; this transaction has written into the table, so its lock is held. The
    // table was kept by the heap when the row was told of.
    unsafe {
        let table = pg_sys::try_relation_open(row.table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if table.is_null() {
            return false;
        }
        let mut place = row.place;
        let block = pgrx::itemptr::item_pointer_get_block_number_no_check(place);
        // A TRUNCATE since may have given the table another, shorter file.
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
        let stands = (block < blocks).then(|| {
            row_at(table, &raw mut place, |slot, header| {
                let by_whom = header.t_choice.t_heap.t_xmin;
                pg_sys::TransactionIdIsCurrentTransactionId(by_whom)
                    && !is_speculative(header)
                    && u32::from(header.t_infomask) & pg_sys::HEAP_UPDATED == 0
                    && slot.value(row.time).is_some_and(|moment| moment.value() as i64 == row.moment)
            })
        });
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        stands.flatten().unwrap_or(false)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(
    event: pg_sys::XactEvent::Type,
    _argument: *mut core::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT | pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => {
            if was_any_taken_back()
                && let Some(work) = BEFORE_COMMIT.get()
            {
                // The last statement's snapshot has gone, and who writes must have one.
                // SAFETY: the transaction has not ended; should `work` raise, its abort takes the snapshot off.
                unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
                work();
                // SAFETY: the one pushed above.
                unsafe { pg_sys::PopActiveSnapshot() };
            }
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT
        | pg_sys::XactEvent::XACT_EVENT_PREPARE
        | pg_sys::XactEvent::XACT_EVENT_ABORT => {
            LAST.set(None);
            TAKEN_BACK.set(false);
        }
        _ => {}
    }
}

/// What a subtransaction has written goes with it, and what it has told of its rows too.
unsafe extern "C-unwind" fn subtransaction_ends(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut core::ffi::c_void,
) {
    // Those inside it have greater numbers, and come to it when they commit.
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB
        && LAST.get().is_some_and(|last| last.within >= own)
    {
        LAST.set(None);
    }
}
