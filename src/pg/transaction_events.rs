//! What PostgreSQL says of the running transaction and its subtransactions.

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::sync::OnceLock;

/// A subtransaction's number, which grows within a transaction; the transaction itself is 1.
pub type SubTransaction = pg_sys::SubTransactionId;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The transaction is about to commit or to be prepared: deferred triggers have fired, and it can still fail.
    BeforeEnd,
    /// The transaction has committed, was prepared, or has rolled back. Nothing may be allocated, and nothing may fail.
    Ended,
    /// The subtransaction is about to become part of its parent. It can still fail.
    BeforeSubCommit(SubTransaction),
    /// The subtransaction has rolled back, and all within it. Nothing may be allocated, and nothing may fail.
    SubAborted(SubTransaction),
}

static ON_EVENT: OnceLock<fn(Event)> = OnceLock::new();

/// Has `work` called for each event. To be called while the library is loaded: PostgreSQL calls callbacks that were registered later
/// first, and before a transaction ends `work` should be among the last.
pub fn on_event(work: fn(Event)) {
    if ON_EVENT.set(work).is_ok() {
        // SAFETY: callbacks of the types asked for, registered once in the backend's one thread.
        unsafe {
            pg_sys::RegisterXactCallback(Some(transaction), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(subtransaction), std::ptr::null_mut());
        }
    }
}

fn tell(event: Event) {
    if let Some(work) = ON_EVENT.get() {
        work(event);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _argument: *mut core::ffi::c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT | pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => {
            tell(Event::BeforeEnd);
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT
        | pg_sys::XactEvent::XACT_EVENT_PREPARE
        | pg_sys::XactEvent::XACT_EVENT_ABORT => tell(Event::Ended),
        // A parallel worker writes nothing.
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut core::ffi::c_void,
) {
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_PRE_COMMIT_SUB => tell(Event::BeforeSubCommit(own)),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => tell(Event::SubAborted(own)),
        _ => {}
    }
}

/// Without pgrx's guard, which costs more than they do: they read a variable and raise nothing.
mod raw {
    unsafe extern "C-unwind" {
        pub fn GetCurrentSubTransactionId() -> u32;
        pub fn GetCurrentCommandId(used: bool) -> u32;
    }
}

/// The running subtransaction; 1 outside of any.
pub fn current_subtransaction() -> SubTransaction {
    // SAFETY: inside a transaction.
    unsafe { raw::GetCurrentSubTransactionId() }
}

/// The running command. A snapshot sees what commands before its own have written.
pub fn current_command() -> u32 {
    // SAFETY: inside a transaction; the number is not marked as used.
    unsafe { raw::GetCurrentCommandId(false) }
}

/// The command of the active snapshot.
pub fn command_of_snapshot() -> u32 {
    // SAFETY: a snapshot is active wherever SQL runs.
    unsafe { (*pg_sys::GetActiveSnapshot()).curcid }
}
