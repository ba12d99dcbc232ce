//! Triggers that come without a statement that says so. TimescaleDB copies those of a hypertable onto each chunk that it makes,
//! in the middle of an INSERT: no event trigger fires, and the copy neither fires always nor goes with the extension.

use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::OnceLock;

/// A trigger that has just been made, on a table that is locked and is no partition.
pub struct NewTrigger {
    /// The table.
    pub relation: pg_sys::Oid,
    /// The trigger.
    pub oid: pg_sys::Oid,
    /// Its function.
    pub function: pg_sys::Oid,
    /// Whether this transaction has made the table.
    pub is_on_new_table: bool,
    name: CString,
}

type OnTrigger = fn(&NewTrigger);

static ON_TRIGGER: OnceLock<OnTrigger> = OnceLock::new();
static mut NEXT: pg_sys::object_access_hook_type = None;

/// Has `on_trigger` called with each new trigger of a table that is no partition.
pub fn register(on_trigger: OnTrigger) {
    if ON_TRIGGER.set(on_trigger).is_ok() {
        // SAFETY: called once, in `_PG_init`, in a process with one thread; the hook that was there is called on.
        unsafe {
            NEXT = pg_sys::object_access_hook;
            pg_sys::object_access_hook = Some(object_accessed);
        }
    }
}

/// Bears no panic guard, as the hook in `lock_guard`.
unsafe extern "C-unwind" fn object_accessed(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        if let Some(next) = NEXT {
            next(access, class, object, part, argument);
        }
        if access == pg_sys::ObjectAccessType::OAT_POST_CREATE && class == pg_sys::TriggerRelationId {
            trigger_created(object);
        }
    }
}

/// # Safety
/// A transaction has just made this trigger.
#[pg_guard]
unsafe extern "C-unwind" fn trigger_created(trigger: pg_sys::Oid) {
    let Some(work) = ON_TRIGGER.get() else { return };
    // SAFETY: by the caller's promise; its statement goes on to nothing but closing what it has opened.
    unsafe { pg_sys::CommandCounterIncrement() };
    if let Some(found) = find(trigger) {
        work(&found);
    }
}

fn find(trigger: pg_sys::Oid) -> Option<NewTrigger> {
    let mut found = None;
    super::catalog::each_trigger_with(trigger, |row| {
        // SAFETY: a transaction that makes a trigger has its table locked; the name ends with NUL.
        unsafe {
            if !row.tgisinternal && !pg_sys::get_rel_relispartition(row.tgrelid) {
                let opened = pg_sys::relation_open(row.tgrelid, pg_sys::NoLock as pg_sys::LOCKMODE);
                let is_on_new_table = (*opened).rd_createSubid != 0;
                pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
                let name = CStr::from_ptr(row.tgname.data.as_ptr()).to_owned();
                let (relation, function) = (row.tgrelid, row.tgfoid);
                found = Some(NewTrigger { relation, oid: trigger, function, is_on_new_table, name });
            }
        }
    });
    found
}

impl NewTrigger {
    /// Whether it has this name.
    pub fn is_named(&self, name: &str) -> bool {
        self.name.to_bytes() == name.as_bytes()
    }
}

/// `ALTER TRIGGER … DEPENDS ON EXTENSION`. It checks no privilege.
pub fn go_with_extension(trigger: pg_sys::Oid, extension: &CStr) {
    let object = |class, oid| pg_sys::ObjectAddress { classId: class, objectId: oid, objectSubId: 0 };
    let Some(extension) = super::write_guard::extension(extension) else { return };
    // SAFETY: the trigger is there; a transaction runs that may write. The list is of OIDs, or null.
    unsafe {
        if pg_sys::getAutoExtensionsOfObject(pg_sys::TriggerRelationId, trigger).is_null() {
            pg_sys::recordDependencyOn(
                &object(pg_sys::TriggerRelationId, trigger),
                &object(pg_sys::ExtensionRelationId, extension),
                pg_sys::DependencyType::DEPENDENCY_AUTO_EXTENSION,
            );
        }
    }
}

/// `ALTER TABLE ONLY … ENABLE ALWAYS TRIGGER`, which TimescaleDB 2.19 refuses for hypertables.
pub fn enable_always(relation: pg_sys::Oid, trigger: &str) {
    let name = super::c_string(trigger);
    let mode = pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE;
    let always = pg_sys::TRIGGER_FIRES_ALWAYS as core::ffi::c_char;
    // SAFETY: the table and the trigger are there, and the name ends with NUL.
    unsafe {
        let opened = pg_sys::relation_open(relation, mode);
        #[cfg(feature = "pg15")]
        pg_sys::EnableDisableTriggerNew(opened, name.as_ptr(), always, true, false, mode);
        #[cfg(not(feature = "pg15"))]
        pg_sys::EnableDisableTrigger(opened, name.as_ptr(), pg_sys::InvalidOid, always, true, false, mode);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
    super::transaction::see_own_changes();
}
