//! Writing into the extension's own tables without SQL: no plan and no privilege check, so that writers of the fleet
//! need no right on them, and nothing that logical decoding would see.
//!
//! A table that is written to in this way is a heap with plain indexes, and has REPLICA IDENTITY NOTHING: decoding gets
//! nothing of an inserted row (`HEAP_INSERT_NO_LOGICAL`), and of a deleted one that there was one.

use pgrx::{IntoDatum, pg_sys};
use std::ffi::c_int;

/// A value of a row.
pub enum ColumnValue<'a> {
    /// SQL NULL.
    Null,
    /// `bigint`
    Int(i64),
    /// `timestamptz`, microseconds since 2000.
    Timestamp(i64),
    /// `text`
    Text(&'a str),
    /// `bytea`
    Bytes(&'a [u8]),
}

impl ColumnValue<'_> {
    fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            ColumnValue::Null => None,
            ColumnValue::Int(value) | ColumnValue::Timestamp(value) => value.into_datum(),
            ColumnValue::Text(value) => value.into_datum(),
            ColumnValue::Bytes(value) => value.into_datum(),
        }
    }
}

/// The table is gone, or has another number of columns than this version of the library knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongShape;

/// Inserts rows into `table`, whose columns are the row's values, in their order and of their types. Waits for nobody but
/// who locks the whole table.
pub fn insert_rows<'a, const WIDTH: usize>(
    table: pg_sys::Oid,
    rows: impl Iterator<Item = [ColumnValue<'a>; WIDTH]>,
) -> Result<(), WrongShape> {
    // SAFETY: the table is locked and open; the width that was compared and the callers' promise on types make the tuples
    // valid. A raise inside leaves the rest to the abort of the (sub)transaction.
    unsafe {
        let relation = pg_sys::try_table_open(table, WRITE);
        if relation.is_null() {
            return Err(WrongShape);
        }
        let description = (*relation).rd_att;
        if (*description).natts as usize != WIDTH {
            pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            return Err(WrongShape);
        }
        // At the end of a transaction the last statement's snapshot has gone; a value that is stored out of line asks for one.
        let push = !pg_sys::ActiveSnapshotSet();
        if push {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let mut indexes = Indexes::open(relation);
        let command = pg_sys::GetCurrentCommandId(true);
        for row in rows {
            let mut values = [pg_sys::Datum::null(); WIDTH];
            let mut nulls = [true; WIDTH];
            for (place, value) in row.iter().enumerate() {
                if let Some(datum) = value.datum() {
                    values[place] = datum;
                    nulls[place] = false;
                }
            }
            let tuple = pg_sys::heap_form_tuple(description, values.as_mut_ptr(), nulls.as_mut_ptr());
            let options = pg_sys::HEAP_INSERT_NO_LOGICAL as c_int;
            pg_sys::heap_insert(relation, tuple, command, options, std::ptr::null_mut());
            indexes.insert(relation, tuple);
            pg_sys::heap_freetuple(tuple);
        }
        indexes.close();
        if push {
            pg_sys::PopActiveSnapshot();
        }
        // The lock stays until the transaction ends, as for any writer.
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
    Ok(())
}

const WRITE: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;

/// Every index that rows must be entered into: those that REINDEX CONCURRENTLY is making too, or they would lack rows.
struct Indexes {
    open: Vec<(pg_sys::Relation, *mut pg_sys::IndexInfo)>,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Indexes {
    /// # Safety
    /// `relation` is a table that is open and locked for writing. [`Self::close`] follows, unless an error is raised.
    unsafe fn open(relation: pg_sys::Relation) -> Self {
        let mut open = Vec::new();
        // SAFETY: by the caller's promise; the list is a copy of OIDs, and no index on it can go while the table is locked.
        unsafe {
            let list = pg_sys::RelationGetIndexList(relation);
            let length = if list.is_null() { 0 } else { (*list).length as usize };
            for place in 0..length {
                let index = pg_sys::index_open((*(*list).elements.add(place)).oid_value, WRITE);
                let info = pg_sys::BuildIndexInfo(index);
                // One over expressions or with a condition is not ours, and computing it would run somebody's code.
                let is_plain = (*info).ii_Expressions.is_null() && (*info).ii_Predicate.is_null();
                if (*info).ii_ReadyForInserts && is_plain {
                    open.push((index, info));
                } else {
                    pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
                }
            }
            pg_sys::list_free(list);
            let slot =
                pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &raw const pg_sys::TTSOpsHeapTuple);
            Self { open, slot }
        }
    }

    /// # Safety
    /// `tuple` was just inserted into the table.
    unsafe fn insert(&mut self, relation: pg_sys::Relation, tuple: pg_sys::HeapTuple) {
        // SAFETY: by the caller's promise; the arrays have room for as many columns as an index can have, and an index
        // without expressions needs no executor state.
        unsafe {
            pg_sys::ExecStoreHeapTuple(tuple, self.slot, false);
            for (index, info) in &self.open {
                let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
                let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
                pg_sys::FormIndexDatum(
                    *info,
                    self.slot,
                    std::ptr::null_mut(),
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
                let check = if (*(*(*index)).rd_index).indisunique {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                } else {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                };
                pg_sys::index_insert(
                    *index,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                    &raw mut (*tuple).t_self,
                    relation,
                    check,
                    false,
                    *info,
                );
            }
        }
    }

    /// # Safety
    /// Called once.
    unsafe fn close(self) {
        // SAFETY: the slot and the indexes were made and opened in `open`.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            for (index, _info) in &self.open {
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                pg_sys::index_insert_cleanup(*index, *_info);
                pg_sys::index_close(*index, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
    }
}

/// Where a row of a table is stored.
pub type Place = pg_sys::ItemPointerData;

/// Deletes rows of `table` that the caller has seen, and that may have been deleted since.
pub fn delete_rows(table: pg_sys::Oid, places: impl IntoIterator<Item = Place>) {
    // SAFETY: the table is locked and open, and a heap. A raise inside leaves the rest to the abort of the (sub)transaction.
    unsafe {
        let relation = pg_sys::try_table_open(table, WRITE);
        if relation.is_null() {
            return;
        }
        let command = pg_sys::GetCurrentCommandId(true);
        for mut place in places {
            let mut failure: pg_sys::TM_FailureData = std::mem::zeroed();
            // Whatever else it answers, somebody else has deleted the row: nothing here is ever updated.
            pg_sys::heap_delete(
                relation,
                &mut place,
                command,
                std::ptr::null_mut(),
                true,
                &mut failure,
                false,
            );
        }
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
