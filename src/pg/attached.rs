//! What stands on a table and what code that comes to, read from pg_depend without a plan: a process that has just started
//! pays some index look-ups for it.

use pgrx::pg_sys;

// Of the catalogs' headers; pgrx does not bind them, and their numbers never change.
const DEPEND: u32 = 2608;
const DEPEND_BY_DEPENDENT: u32 = 2673;
const DEPEND_BY_REFERENCED: u32 = 2674;
const COLUMN_DEFAULT: u32 = 2604;
const CONSTRAINT: u32 = 2606;
const REWRITE: u32 = 2618;
/// `DEPENDENCY_INTERNAL`, of a view's rule on the view.
const INTERNAL: u8 = b'i';

/// An object by the catalog that its row is in, and its OID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// The catalog.
    pub class: pg_sys::Oid,
    /// The object.
    pub oid: pg_sys::Oid,
}

impl Object {
    /// A table, a view, an index.
    pub fn relation(oid: pg_sys::Oid) -> Self {
        Self { class: pg_sys::RelationRelationId, oid }
    }

    /// A function.
    pub fn function(oid: pg_sys::Oid) -> Self {
        Self { class: pg_sys::ProcedureRelationId, oid }
    }

    /// The extension that it is a member of.
    pub fn extension(self) -> Option<pg_sys::Oid> {
        // SAFETY: reads pg_depend in a transaction.
        let found = unsafe { pg_sys::getExtensionOfObject(self.class, self.oid) };
        (found != pg_sys::InvalidOid).then_some(found)
    }

    /// Whether a statement that writes into a table runs it, where something on the table depends on it.
    fn is_code(self) -> bool {
        [
            pg_sys::ProcedureRelationId,
            pg_sys::OperatorRelationId,
            pg_sys::OperatorClassRelationId,
            pg_sys::TypeRelationId,
        ]
        .contains(&self.class)
    }
}

/// A row of pg_depend: `FormData_pg_depend`.
#[repr(C)]
struct Dependency {
    dependent_class: pg_sys::Oid,
    dependent: pg_sys::Oid,
    dependent_column: i32,
    referenced_class: pg_sys::Oid,
    referenced: pg_sys::Oid,
    referenced_column: i32,
    kind: core::ffi::c_char,
}

/// A table's defaults, constraints, indexes and the table itself; the constraints of other tables that refer to it too. It
/// is locked.
pub fn parts_of(relation: pg_sys::Oid) -> Vec<Object> {
    let mut parts = vec![Object::relation(relation)];
    // SAFETY: the relation is locked, and open while its indexes are listed; the list is a copy, of OIDs.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let list = pg_sys::RelationGetIndexList(opened);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        if !list.is_null() {
            for place in 0..(*list).length as usize {
                parts.push(Object::relation((*(*list).elements.add(place)).oid_value));
            }
            pg_sys::list_free(list);
        }
    }
    each_dependency(DEPEND_BY_REFERENCED, Object::relation(relation), |row| {
        let dependent = Object { class: row.dependent_class, oid: row.dependent };
        if [COLUMN_DEFAULT, CONSTRAINT].contains(&dependent.class.to_u32()) && !parts.contains(&dependent) {
            parts.push(dependent);
        }
    });
    parts
}

/// The functions, operators, operator classes and types that a part of a table depends on. Of PostgreSQL's own pg_depend
/// has no row.
pub fn code_of(part: Object) -> Vec<Object> {
    let mut code = Vec::new();
    each_dependency(DEPEND_BY_DEPENDENT, part, |row| {
        let referenced = Object { class: row.referenced_class, oid: row.referenced };
        if referenced.is_code() {
            code.push(referenced);
        }
    });
    code
}

/// The relations that a relation's query names, where it is a view; itself among them.
pub fn relations_behind(view: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut rules = Vec::new();
    each_dependency(DEPEND_BY_REFERENCED, Object::relation(view), |row| {
        if row.dependent_class.to_u32() == REWRITE && row.kind as u8 == INTERNAL {
            rules.push(Object { class: row.dependent_class, oid: row.dependent });
        }
    });
    let mut relations = Vec::new();
    for rule in rules {
        each_dependency(DEPEND_BY_DEPENDENT, rule, |row| {
            if row.referenced_class == pg_sys::RelationRelationId {
                relations.push(row.referenced);
            }
        });
    }
    relations
}

/// The referencing and the referenced table, where the object is a foreign key.
pub fn foreign_key(object: Object) -> Option<[pg_sys::Oid; 2]> {
    const KIND: pg_sys::AttrNumber = 4;
    if object.class.to_u32() != CONSTRAINT {
        return None;
    }
    // SAFETY: the catalog's row is a copy that is given back. `contype` is the fourth column in every version; the others
    // are looked up by name. All three are never null and passed by value.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::CONSTROID as core::ffi::c_int;
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(object.oid));
        if row.is_null() {
            return None;
        }
        let value = |column| {
            let mut is_null = false;
            pg_sys::SysCacheGetAttr(cache, row, column, &mut is_null)
        };
        let table =
            |column: &std::ffi::CStr| value(pg_sys::get_attnum(object.class, column.as_ptr())).value() as u32;
        let tables = (value(KIND).value() as u8 == b'f').then(|| [c"conrelid", c"confrelid"].map(table));
        pg_sys::ReleaseSysCache(row);
        tables.map(|tables| tables.map(pg_sys::Oid::from))
    }
}

/// Whether a table that is locked has rules, or has had some.
pub fn may_have_rules(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is locked, and open while its entry is read.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let found = (*(*opened).rd_rel).relhasrules;
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// The rows of pg_depend, as it is now, in which `object` stands on the index's side.
fn each_dependency(index: u32, object: Object, mut each: impl FnMut(&Dependency)) {
    let first = if index == DEPEND_BY_DEPENDENT { 1 } else { 4 };
    let keys = [(first, object.class), (first + 1, object.oid)];
    // SAFETY: pg_depend is open under its lock for as long as it is scanned; the index's first columns are the two that
    // are compared, of type oid, which `each` does not hold on to. A null snapshot stands for a catalog snapshot.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let catalog = pg_sys::table_open(DEPEND.into(), lock);
        let mut scan_keys: [pg_sys::ScanKeyData; 2] = std::mem::zeroed();
        for (key, (column, oid)) in scan_keys.iter_mut().zip(keys) {
            pg_sys::ScanKeyInit(
                key,
                column,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::F_OIDEQ.into(),
                pg_sys::Datum::from(oid),
            );
        }
        let scan = pg_sys::systable_beginscan(
            catalog,
            index.into(),
            true,
            std::ptr::null_mut(),
            2,
            scan_keys.as_mut_ptr(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            each(&*pg_sys::GETSTRUCT(tuple).cast::<Dependency>());
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
    }
}
