//! An index that holds nothing: PostgreSQL tells it of each row that is inserted, and to be told is all that it is for.
//!
//! A trigger is told the same, but its events are queued or its rows are copied, and a statement of one row pays for
//! setting that up. An index is handed the row's moment once the row is written, and nearly always that does not count.

use super::inserted_row::{InsertedRow, counts_before};
use super::{VERSION_1, screen};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::sync::OnceLock;

/// The access method's name.
pub const ACCESS_METHOD: &str = "busymate_stats_capture";

static ON_INSERT: OnceLock<fn(&InsertedRow)> = OnceLock::new();

/// Has `work` called for each row that needs a second look.
pub fn on_insert(work: fn(&InsertedRow)) {
    // A second call is one with the same function: the library is loaded once.
    let _ = ON_INSERT.set(work);
}

/// An index of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InsertIndex {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// Whether every writer tells it of every row.
    pub is_ready: bool,
}

/// The index of a locked table that counts: of those over every row and over `column` alone, the one with the least OID.
/// There are two while one is rebuilt concurrently, and both are told of a row.
pub fn find(table: pg_sys::Oid, column: i16) -> Option<InsertIndex> {
    let name = super::c_string(ACCESS_METHOD);
    // SAFETY: the table is locked, and open while its list is read. The list is a copy of OIDs in ascending order, and an
    // index on it cannot go while the table is locked.
    unsafe {
        let method = pg_sys::get_index_am_oid(name.as_ptr(), true);
        let opened = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let list = pg_sys::RelationGetIndexList(opened);
        let length = if list.is_null() { 0 } else { (*list).length as usize };
        let found = (0..length)
            .map(|place| (*(*list).elements.add(place)).oid_value)
            .find_map(|index| insert_index(index, method, column));
        pg_sys::list_free(list);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// # Safety
/// `index` is on the list of a locked table.
unsafe fn insert_index(index: pg_sys::Oid, method: pg_sys::Oid, column: i16) -> Option<InsertIndex> {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: by the caller's promise the index is there; its entries are read while it is open. Every index has at
    // least one column.
    unsafe {
        let opened = pg_sys::index_open(index, LOCK);
        let entry = &*(*opened).rd_index;
        let is_ours = (*(*opened).rd_rel).relam == method
            && entry.indkey.values.as_slice(1)[0] == column
            && pg_sys::RelationGetIndexPredicate(opened).is_null();
        let is_ready = entry.indisvalid && entry.indisready && entry.indislive;
        pg_sys::index_close(opened, LOCK);
        is_ours.then_some(InsertIndex { oid: index, is_ready })
    }
}

/// What PostgreSQL asks a function's library for.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_insert_index_handler_wrapper() -> *const pg_sys::Pg_finfo_record {
    &VERSION_1
}

/// The access method: it can be told of rows, and nothing can be asked of it.
///
/// # Safety
/// Called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn insert_index_handler_wrapper(
    _call: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: a node of this type, of which what is not set is zero: no, none and no function.
    let mut routine =
        unsafe { PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine) };
    routine.ambuild = Some(build);
    routine.ambuildempty = Some(build_empty);
    routine.aminsert = Some(insert);
    routine.ambulkdelete = Some(bulk_delete);
    routine.amvacuumcleanup = Some(clean_up);
    routine.amcostestimate = Some(estimate_cost);
    routine.amoptions = Some(options);
    routine.amvalidate = Some(validate);
    routine.into_pg().into()
}

/// There is nothing to build. PostgreSQL takes the count of rows over as the table's: it stays what it is.
#[pg_guard]
unsafe extern "C-unwind" fn build(
    table: pg_sys::Relation,
    _index: pg_sys::Relation,
    _info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: the table is open.
    let rows = unsafe { (*(*table).rd_rel).reltuples };
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut result = unsafe { PgBox::<pg_sys::IndexBuildResult>::alloc0() };
    result.heap_tuples = f64::from(rows);
    result.into_pg()
}

unsafe extern "C-unwind" fn build_empty(_index: pg_sys::Relation) {}

unsafe extern "C-unwind" fn bulk_delete(
    _vacuum: *mut pg_sys::IndexVacuumInfo,
    statistics: *mut pg_sys::IndexBulkDeleteResult,
    _is_dead: pg_sys::IndexBulkDeleteCallback,
    _state: *mut core::ffi::c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    statistics
}

unsafe extern "C-unwind" fn clean_up(
    _vacuum: *mut pg_sys::IndexVacuumInfo,
    statistics: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    statistics
}

/// No condition can be asked of it, so the planner does not come here; if it did, it should not choose it.
unsafe extern "C-unwind" fn estimate_cost(
    _root: *mut pg_sys::PlannerInfo,
    _path: *mut pg_sys::IndexPath,
    _loops: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: places for the answers.
    unsafe {
        (*startup, *total, *selectivity, *correlation, *pages) = (f64::MAX, f64::MAX, 1.0, 0.0, 0.0);
    }
}

unsafe extern "C-unwind" fn options(_options: pg_sys::Datum, _validate: bool) -> *mut pg_sys::bytea {
    std::ptr::null_mut()
}

unsafe extern "C-unwind" fn validate(_class: pg_sys::Oid) -> bool {
    true
}

/// A row was inserted, or a new version of one by an UPDATE that touched an indexed column.
unsafe extern "C-unwind" fn insert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    place: pg_sys::ItemPointer,
    table: pg_sys::Relation,
    _unique: pg_sys::IndexUniqueCheck::Type,
    _unchanged: bool,
    info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: index and table are open, values and nulls are as many as the index has columns: at least one. This frame
    // has nothing to release.
    unsafe {
        let moment = screen::moment_of(index, values, nulls);
        if !screen::inserted_does_not_count(moment, || counts_before(info)) {
            row_counts(&InsertedRow::new(index, table, place, info, moment));
        }
    }
    // Nothing was found to be a duplicate.
    false
}

/// # Safety
/// The row's parts are PostgreSQL's.
#[pg_guard]
#[allow(improper_ctypes_definitions)] // It is called from here alone; the guard asks for an extern function.
unsafe extern "C-unwind" fn row_counts(row: &InsertedRow) {
    if let Some(work) = ON_INSERT.get() {
        row.with_own_memory(*work);
    }
}
