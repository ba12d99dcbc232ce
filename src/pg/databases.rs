//! The databases of the cluster, and whether somebody wants one for himself.

use super::transaction::bare_transaction;
use pgrx::pg_sys;

/// What pg_database says of a database that can be connected to.
const INVALID_LIMIT: i32 = -2;

/// Every database that a worker may connect to: no templates, no invalid ones, none that allows no connection.
///
/// For a process without a database: the shared catalog is scanned as autovacuum's launcher does.
pub fn list() -> Vec<pg_sys::Oid> {
    bare_transaction(|| {
        let mut found = Vec::new();
        // SAFETY: pg_database is a shared catalog, open and locked while it is scanned under a catalog snapshot. A
        // tuple's struct follows its header, and its fixed part is all that is read.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
            let scan = pg_sys::systable_beginscan(
                relation,
                pg_sys::InvalidOid,
                false,
                std::ptr::null_mut(),
                0,
                std::ptr::null_mut(),
            );
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let header = (*tuple).t_data;
                let row = &*header
                    .cast::<u8>()
                    .add((*header).t_hoff as usize)
                    .cast::<pg_sys::FormData_pg_database>();
                if !row.datistemplate && row.datallowconn && row.datconnlimit != INVALID_LIMIT {
                    found.push(row.oid);
                }
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, lock);
        }
        found
    })
}

/// Whether DROP, RENAME, SET TABLESPACE or a copy of `database` is under way: they hold a lock on the database's entry
/// that conflicts with the one that connecting takes. Waits for nobody.
pub fn is_claimed(database: pg_sys::Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0, // no database: its catalog is shared
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    conflicts(&tag, pg_sys::RowExclusiveLock)
}

/// Whether somebody holds `relation` of `database` against every reader, or waits to. Waits for nobody.
pub fn is_wanted_alone(database: pg_sys::Oid, relation: pg_sys::Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: database.to_u32(),
        locktag_field2: relation.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    conflicts(&tag, pg_sys::AccessShareLock)
}

/// Whether a lock could not be had at once: it is held in a mode that conflicts, or waited for in one.
fn conflicts(tag: &pg_sys::LOCKTAG, mode: u32) -> bool {
    let mode = mode as pg_sys::LOCKMODE;
    // SAFETY: a session lock needs no transaction, and is given back at once.
    unsafe {
        let result = pg_sys::LockAcquire(tag, mode, true, true);
        if result == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            return true;
        }
        pg_sys::LockRelease(tag, mode, true);
    }
    false
}
