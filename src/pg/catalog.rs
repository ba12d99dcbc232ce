//! Which version of a catalog's row is in force. Whatever DDL changes an object writes a new version of its row, with
//! the number of its own transaction; changing it back makes a third.

use pgrx::pg_sys;
use std::ffi::CStr;

// Of the catalogs' headers; pgrx does not bind them, and their numbers never change.
const INHERITS: u32 = 2611;
const INHERITS_PARENT_INDEX: u32 = 2187;
const INHERITS_PARENT: u32 = 2;
const INHERITS_CHILD_INDEX: u32 = 2680;
const INHERITS_CHILD: u32 = 1;
const ENUM: u32 = 3501;
const ENUM_TYPE_INDEX: u32 = 3503;
const ENUM_TYPE: u32 = 2;

/// A version of a catalog's row: who wrote it, and where it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    writer: u32,
    block: (u16, u16),
    line: u16,
}

impl std::fmt::Display for Version {
    fn fmt(&self, text: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(text, "{}/{}/{}/{}", self.writer, self.block.0, self.block.1, self.line)
    }
}

/// The version of a trigger's row, and the trigger's OID. `None` when the relation has no such trigger.
pub fn trigger_version(relation: pg_sys::Oid, name: &str) -> Option<(u32, Version)> {
    let mut found = None;
    each_by_oid(
        pg_sys::TriggerRelationId.to_u32(),
        pg_sys::TriggerRelidNameIndexId,
        pg_sys::Anum_pg_trigger_tgrelid,
        relation,
        |tuple| {
            // SAFETY: a row of pg_trigger, whose fixed part begins where GETSTRUCT points to; names end with NUL.
            unsafe {
                let trigger = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_trigger>();
                if CStr::from_ptr(trigger.tgname.data.as_ptr()).to_bytes() == name.as_bytes() {
                    found = Some((trigger.oid.to_u32(), version_of(tuple)));
                }
            }
        },
    );
    found
}

/// Hands over the row of the trigger with this OID.
pub fn each_trigger_with(oid: pg_sys::Oid, mut each: impl FnMut(&pg_sys::FormData_pg_trigger)) {
    each_by_oid(
        pg_sys::TriggerRelationId.to_u32(),
        pg_sys::TriggerOidIndexId,
        pg_sys::Anum_pg_trigger_oid,
        oid,
        // SAFETY: a row of pg_trigger, whose fixed part begins where GETSTRUCT points to.
        |tuple| each(unsafe { &*pg_sys::GETSTRUCT(tuple).cast() }),
    );
}

/// The versions of the rows of an enum's labels; empty for any other type.
pub fn label_versions(kind: pg_sys::Oid) -> Vec<(u32, Version)> {
    let mut found = Vec::new();
    // SAFETY: a syscache look-up in a transaction.
    if unsafe { pg_sys::type_is_enum(kind) } {
        each_by_oid(ENUM, ENUM_TYPE_INDEX, ENUM_TYPE, kind, |tuple| {
            // SAFETY: a row of pg_enum, whose fixed part begins where GETSTRUCT points to.
            unsafe {
                let label = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_enum>();
                found.push((label.oid.to_u32(), version_of(tuple)));
            }
        });
    }
    found
}

/// The version of a column's row. `None` when there is no such column.
pub fn column_version(relation: pg_sys::Oid, number: i16) -> Option<Version> {
    // SAFETY: a syscache look-up in a transaction; the row is read before it is released.
    unsafe {
        let row = pg_sys::SearchSysCache2(
            pg_sys::SysCacheIdentifier::ATTNUM as i32,
            pg_sys::Datum::from(relation),
            pg_sys::Datum::from(number),
        );
        if row.is_null() {
            return None;
        }
        let version = version_of(row);
        pg_sys::ReleaseSysCache(row);
        Some(version)
    }
}

/// Whether other relations inherit from this one, which is locked, so that reading it reads them too.
pub fn has_children(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is locked, and open while its entry is read.
    let ever = unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let ever = (*(*opened).rd_rel).relhassubclass;
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        ever
    };
    if !ever {
        return false;
    }
    !children(relation).is_empty()
}

/// A row of pg_inherits, as far as it is read: `FormData_pg_inherits`.
#[repr(C)]
struct Inherits {
    child: pg_sys::Oid,
    parent: pg_sys::Oid,
}

/// The relations that are named as inheriting from one, partitions included.
pub fn children(parent: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    inherits(INHERITS_PARENT_INDEX, INHERITS_PARENT, parent, |row| row.child)
}

/// The relations that one inherits from, or is a partition of.
pub fn parents(child: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    inherits(INHERITS_CHILD_INDEX, INHERITS_CHILD, child, |row| row.parent)
}

/// The same, with the versions of the rows that say so.
pub fn parents_and_versions(child: pg_sys::Oid) -> Vec<(pg_sys::Oid, Version)> {
    let mut found = Vec::new();
    each_by_oid(INHERITS, INHERITS_CHILD_INDEX, INHERITS_CHILD, child, |tuple| {
        // SAFETY: a row of pg_inherits, whose fixed part begins where GETSTRUCT points to.
        unsafe { found.push(((*pg_sys::GETSTRUCT(tuple).cast::<Inherits>()).parent, version_of(tuple))) };
    });
    found
}

fn inherits(
    index: u32,
    column: u32,
    relation: pg_sys::Oid,
    wanted: fn(&Inherits) -> pg_sys::Oid,
) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    each_by_oid(INHERITS, index, column, relation, |tuple| {
        // SAFETY: a row of pg_inherits, whose fixed part begins where GETSTRUCT points to.
        found.push(unsafe { wanted(&*pg_sys::GETSTRUCT(tuple).cast::<Inherits>()) });
    });
    found
}

/// # Safety
/// `tuple` is a row on a page or a copy of one.
unsafe fn version_of(tuple: pg_sys::HeapTuple) -> Version {
    // SAFETY: by the caller's promise it has a header. Freezing leaves the writer's number in its place.
    unsafe {
        let place = (*tuple).t_self;
        Version {
            writer: pg_sys::HeapTupleHeaderGetRawXmin((*tuple).t_data).into_inner(),
            block: (place.ip_blkid.bi_hi, place.ip_blkid.bi_lo),
            line: place.ip_posid,
        }
    }
}

fn each_by_oid(
    catalog: u32,
    index: u32,
    column: u32,
    oid: pg_sys::Oid,
    mut each: impl FnMut(pg_sys::HeapTuple),
) {
    // SAFETY: a catalog, one of its indexes, and that index's first column, of type oid. The rows are read before the
    // scan ends. A raise inside leaves all this to the abort of the (sub)transaction.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(catalog.into(), lock);
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        pg_sys::ScanKeyInit(
            &mut key,
            column as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::F_OIDEQ.into(),
            pg_sys::Datum::from(oid),
        );
        let scan =
            pg_sys::systable_beginscan(relation, index.into(), true, std::ptr::null_mut(), 1, &mut key);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            each(tuple);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::{relation, run, value};
    use pgrx::prelude::*;

    #[pg_test]
    fn a_change_and_its_reversal_make_another_version() {
        run("create temp table fired (number int)");
        run("create function pg_temp.nothing() returns trigger language plpgsql as 'begin return null; end'");
        run("create trigger one after insert on fired for each row execute function pg_temp.nothing()");
        let fired = relation("fired");
        let first = trigger_version(fired, "one").unwrap();
        assert_eq!(trigger_version(fired, "one"), Some(first));
        run("alter table fired disable trigger one");
        run("alter table fired enable trigger one");
        let third = trigger_version(fired, "one").unwrap();
        assert!(third.0 == first.0 && third.1 != first.1);
        assert_eq!(trigger_version(fired, "another"), None);
        let column = column_version(fired, 1).unwrap();
        run("alter table fired rename number to numbers");
        assert_ne!(column_version(fired, 1), Some(column));
        assert_eq!(column_version(fired, 2), None);
    }

    #[pg_test]
    fn an_enum_has_a_version_of_each_label() {
        run("create type shade as enum ('light', 'dark')");
        let shade: pg_sys::Oid = value("select 'shade'::regtype::oid");
        let before = label_versions(shade);
        assert_eq!(before.len(), 2);
        run("alter type shade rename value 'dark' to 'light grey'");
        let after = label_versions(shade);
        assert_eq!(after.iter().filter(|label| before.contains(label)).count(), 1);
        assert!(label_versions(pg_sys::TEXTOID).is_empty());
    }
}
