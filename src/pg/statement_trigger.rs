//! The trigger that fires once for each statement, of whose work nearly always nothing counts.

use super::{VERSION_1, screen};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::sync::OnceLock;

static ON_STATEMENT: OnceLock<fn(&PgTrigger)> = OnceLock::new();

/// Has `work` called at each firing that needs a second look.
pub fn on_statement(work: fn(&PgTrigger)) {
    // A second call is one with the same function: the library is loaded once.
    let _ = ON_STATEMENT.set(work);
}

/// What PostgreSQL asks a function's library for.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_capture_change_wrapper() -> *const pg_sys::Pg_finfo_record {
    &VERSION_1
}

/// AFTER UPDATE and DELETE on a plain table of entries, for each statement.
///
/// # Safety
/// Called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn capture_change_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: by the caller's promise. This frame has nothing to release.
    unsafe {
        if !screen::statement_does_not_count(call) {
            statement_fires(call);
        }
    }
    pg_sys::Datum::null()
}

/// # Safety
/// `call` is the function manager's.
#[pg_guard]
unsafe extern "C-unwind" fn statement_fires(call: pg_sys::FunctionCallInfo) {
    // SAFETY: by the caller's promise; a caller who is not the trigger manager is told apart.
    let trigger = unsafe { PgTrigger::from_fcinfo(&*call) };
    match (trigger, ON_STATEMENT.get()) {
        (Ok(trigger), Some(work)) if matches!(trigger.level(), PgTriggerLevel::Statement) => work(&trigger),
        _ => error!("the function must be called as a trigger for each statement"),
    }
}
