//! A look at every table that a statement is about to write into, so that code which others have put on it does not run
//! with more rights than theirs.
//!
//! The look is taken by `ExecutorCheckPerms_hook`: the relations are known by OID and locked by then, so no rename or DDL
//! comes between it and the write, and nothing on them has run yet.

use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::sync::OnceLock;

/// What is asked about a table that is about to be written into.
#[derive(Clone, Copy)]
pub struct Target {
    /// The table, which is locked.
    pub relation: pg_sys::Oid,
    /// Whether the library itself writes, and means a table of its own.
    pub is_meant_as_own: bool,
}

/// Raises where the write must not take place.
type Check = fn(Target);

static CHECK: OnceLock<Check> = OnceLock::new();
static mut NEXT: pg_sys::ExecutorCheckPerms_hook_type = None;

thread_local! {
    static MEANT_AS_OWN: Cell<bool> = const { Cell::new(false) };
}

/// Has `check` called for each table that a statement writes into with a superuser's rights, or with those that a
/// SECURITY DEFINER function or [`super::identity::as_owner`] has lent it.
pub fn register(check: Check) {
    if CHECK.set(check).is_ok() {
        // SAFETY: called once, in `_PG_init`, in a process with one thread; the hook that was there is called on.
        unsafe {
            NEXT = pg_sys::ExecutorCheckPerms_hook;
            pg_sys::ExecutorCheckPerms_hook = Some(check_permissions);
        }
    }
}

/// Runs `work`, whose first statement writes into tables of the library's own if into any: `check` is told.
pub fn writing_own<R>(work: impl FnOnce() -> R) -> R {
    /// Whatever happens, the next statement is nobody's but its caller's.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            MEANT_AS_OWN.set(false);
        }
    }
    let _reset = Reset;
    MEANT_AS_OWN.set(true);
    work()
}

#[cfg(feature = "pg15")]
#[pg_guard]
unsafe extern "C-unwind" fn check_permissions(tables: *mut pg_sys::List, raises: bool) -> bool {
    // SAFETY: PostgreSQL's own arguments, passed on; the list is of RangeTblEntry.
    unsafe {
        if let Some(next) = NEXT
            && !next(tables, raises)
        {
            return false;
        }
        check_targets(tables, |entry: &pg_sys::RangeTblEntry| {
            (entry.rtekind == pg_sys::RTEKind::RTE_RELATION).then_some((entry.relid, entry.requiredPerms))
        });
    }
    true
}

#[cfg(not(feature = "pg15"))]
#[pg_guard]
unsafe extern "C-unwind" fn check_permissions(
    tables: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
    raises: bool,
) -> bool {
    // SAFETY: PostgreSQL's own arguments, passed on; the second list is of RTEPermissionInfo.
    unsafe {
        if let Some(next) = NEXT
            && !next(tables, permissions, raises)
        {
            return false;
        }
        check_targets(permissions, |entry: &pg_sys::RTEPermissionInfo| {
            Some((entry.relid, entry.requiredPerms))
        });
    }
    true
}

const WRITES: pg_sys::AclMode =
    (pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) as pg_sys::AclMode;

/// # Safety
/// The list is null or of pointers to `Entry`.
unsafe fn check_targets<Entry>(
    list: *mut pg_sys::List,
    target: impl Fn(&Entry) -> Option<(pg_sys::Oid, pg_sys::AclMode)>,
) {
    let is_meant_as_own = MEANT_AS_OWN.take();
    let Some(check) = CHECK.get() else { return };
    // SAFETY: reads backend-local state, and in a transaction the syscache; the list is as the caller promises.
    unsafe {
        if list.is_null() || !(is_meant_as_own || pg_sys::superuser() || pg_sys::InLocalUserIdChange()) {
            return;
        }
        for place in 0..(*list).length as usize {
            let entry = (*(*list).elements.add(place)).ptr_value.cast::<Entry>();
            if let Some((relation, permissions)) = target(&*entry)
                && permissions & WRITES != 0
            {
                check(Target { relation, is_meant_as_own });
            }
        }
    }
}

/// Whether code that runs with the current role's rights has all those of `owner`.
pub fn has_rights_of(owner: pg_sys::Oid) -> bool {
    // SAFETY: syscache look-ups in a transaction.
    unsafe { pg_sys::superuser() || pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) }
}

/// Whether an extension's script runs, or pg_upgrade: nobody else has come near the tables yet.
pub fn is_installing() -> bool {
    // SAFETY: reads backend-local variables.
    unsafe { pg_sys::creating_extension || pg_sys::IsBinaryUpgrade }
}

/// The extension that a relation is a member of.
pub fn extension_of(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: reads pg_depend in a transaction.
    let found = unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// The extension of this name, where it is installed.
pub fn extension(name: &std::ffi::CStr) -> Option<pg_sys::Oid> {
    // SAFETY: reads pg_extension in a transaction, told not to raise; the string ends with NUL.
    let found = unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// The schema and the name of a relation that is locked.
pub fn name_of(relation: pg_sys::Oid) -> (pg_sys::Oid, String) {
    // SAFETY: syscache look-ups in a transaction; the name is copied, and ends with NUL where there is one.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        let text = if name.is_null() {
            String::new()
        } else {
            std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
        };
        (pg_sys::get_rel_namespace(relation), text)
    }
}

/// Runs `work` under a snapshot that sees what is committed by now, at every isolation level: the catalogs as they are.
pub fn with_latest_snapshot<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: called in a transaction, outside of parallel mode, for its caller writes. A raise leaves the snapshot to the
    // abort of the (sub)transaction.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}
