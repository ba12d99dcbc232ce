//! A look at every LOCK TABLE, before PostgreSQL takes a lock for it or waits for one: who waits for a strong lock keeps all
//! others waiting behind.

use super::attached::relations_behind;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_char;
use std::sync::OnceLock;

/// Raises where the relation must not be locked in a mode that keeps others from reading or changing rows.
type Check = fn(pg_sys::Oid);

static CHECK: OnceLock<Check> = OnceLock::new();
static mut NEXT: pg_sys::ProcessUtility_hook_type = None;

mod raw {
    use pgrx::pg_sys::{
        DestReceiver, ParamListInfo, PlannedStmt, ProcessUtilityContext, QueryCompletion, QueryEnvironment,
    };

    unsafe extern "C-unwind" {
        pub fn standard_ProcessUtility(
            statement: *mut PlannedStmt,
            text: *const std::ffi::c_char,
            is_read_only_tree: bool,
            context: ProcessUtilityContext::Type,
            parameters: ParamListInfo,
            environment: *mut QueryEnvironment,
            destination: *mut DestReceiver,
            completion: *mut QueryCompletion,
        );
    }
}

/// Has `check` called for each relation that a LOCK TABLE would lock in a mode stronger than ROW EXCLUSIVE: what it names,
/// and what views among these read.
pub fn register(check: Check) {
    if CHECK.set(check).is_ok() {
        // SAFETY: called once, in `_PG_init`, in a process with one thread; the hook that was there is called on.
        unsafe {
            NEXT = pg_sys::ProcessUtility_hook;
            pg_sys::ProcessUtility_hook = Some(process_utility);
        }
    }
}

/// Bears no panic guard, which would make every other utility statement's errors anew and lose their parts: each frame here
/// is plain, and PostgreSQL's errors pass over it.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    is_read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: PostgreSQL's own arguments, passed on; a utility statement's node begins with its tag.
    unsafe {
        let node = (*statement).utilityStmt;
        if (*node).type_ == pg_sys::NodeTag::T_LockStmt {
            check_lock(node.cast());
        }
        let next = match NEXT {
            Some(next) => next,
            None => raw::standard_ProcessUtility,
        };
        next(statement, text, is_read_only_tree, context, parameters, environment, destination, completion);
    }
}

/// # Safety
/// `statement` is a LockStmt, and a transaction runs.
#[pg_guard]
unsafe extern "C-unwind" fn check_lock(statement: *const pg_sys::LockStmt) {
    let Some(check) = CHECK.get() else { return };
    let mut relations = Vec::new();
    // SAFETY: by the caller's promise; the list is of RangeVar. A name that is not there is left to PostgreSQL's own error.
    unsafe {
        if (*statement).mode <= pg_sys::RowExclusiveLock as i32 || (*statement).relations.is_null() {
            return;
        }
        let names = &*(*statement).relations;
        for place in 0..names.length as usize {
            relations.push(pg_sys::RangeVarGetRelidExtended(
                (*names.elements.add(place)).ptr_value.cast(),
                pg_sys::NoLock as pg_sys::LOCKMODE,
                pg_sys::RVROption::RVR_MISSING_OK,
                None,
                std::ptr::null_mut(),
            ));
        }
    }
    relations.retain(|&relation| relation != pg_sys::InvalidOid);
    let mut place = 0;
    while let Some(&relation) = relations.get(place) {
        check(relation);
        for behind in relations_behind(relation) {
            if !relations.contains(&behind) {
                relations.push(behind);
            }
        }
        place += 1;
    }
}
