//! Facts about a relation, held still by a lock.

use pgrx::pg_sys;
use std::ffi::CStr;

/// A relation that exists and stays as it is until the transaction ends.
pub struct LockedRelation {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// The role that owns it.
    pub owner: pg_sys::Oid,
    /// `schema.name`, quoted.
    pub name: String,
    /// `relkind` of pg_class.
    pub kind: u8,
    /// Whether it is temporary.
    pub temporary: bool,
    /// Whether its policies apply to its own owner too.
    pub force_row_security: bool,
}

/// Locks `relation` ACCESS SHARE until the transaction ends; `None` when it does not exist (any more).
pub fn lock(relation: pg_sys::Oid) -> Option<LockedRelation> {
    // SAFETY: try_relation_open takes the lock before it looks, and gives null for what is gone; the entry is read
    // while it is open. relation_close without a lock mode keeps the lock.
    unsafe {
        let opened = pg_sys::try_relation_open(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if opened.is_null() {
            return None;
        }
        let class = &*(*opened).rd_rel;
        let schema = pg_sys::get_namespace_name(class.relnamespace);
        let name = pg_sys::quote_qualified_identifier(schema, class.relname.data.as_ptr());
        let locked = LockedRelation {
            oid: relation,
            owner: class.relowner,
            name: CStr::from_ptr(name).to_string_lossy().into_owned(),
            kind: class.relkind as u8,
            temporary: class.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP,
            force_row_security: class.relrowsecurity && class.relforcerowsecurity,
        };
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        Some(locked)
    }
}

/// The type behind a domain, however deep; any other type is its own.
pub fn base_type(of: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up inside a transaction; raises when the type is gone.
    unsafe { pg_sys::getBaseType(of) }
}

/// Locks `relation` ROW EXCLUSIVE for writing until the transaction ends, unless somebody holds a lock against it:
/// false then, or when it is gone.
pub fn lock_for_writing_now(relation: pg_sys::Oid) -> bool {
    lock_now(relation, pg_sys::RowExclusiveLock)
}

/// The same for reading: ACCESS SHARE.
pub fn lock_for_reading_now(relation: pg_sys::Oid) -> bool {
    lock_now(relation, pg_sys::AccessShareLock)
}

fn lock_now(relation: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: takes the lock and accepts the messages that came with it, or does nothing.
    let locked = unsafe { pg_sys::ConditionalLockRelationOid(relation, mode as pg_sys::LOCKMODE) };
    locked && lock(relation).is_some()
}
