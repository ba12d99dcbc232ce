//! Writing into the extension's own tables without SQL: no plan and no privilege check, so that writers of the fleet
//! need no right on them, and nothing that logical decoding would see.
//!
//! A table that is written to in this way is a heap with plain indexes, and has REPLICA IDENTITY NOTHING: decoding gets
//! nothing of an inserted row (`HEAP_INSERT_NO_LOGICAL`), and of a deleted one that there was one.

use pgrx::pg_sys;
use pgrx::pg_sys::Datum;
use std::ffi::c_int;

/// PostgreSQL's functions without pgrx's guard, which costs more than most of them: one guard stands around all.
mod raw {
    use pgrx::pg_sys::{
        BulkInsertState, CommandId, Datum, HeapTuple, IndexInfo, IndexUniqueCheck, ItemPointerData, LOCKMODE,
        List, Oid, Relation, Snapshot, TupleDesc,
    };
    use std::ffi::{c_int, c_void};

    unsafe extern "C-unwind" {
        pub fn try_table_open(table: Oid, lock: LOCKMODE) -> Relation;
        pub fn table_close(relation: Relation, lock: LOCKMODE);
        pub fn index_open(index: Oid, lock: LOCKMODE) -> Relation;
        pub fn index_close(index: Relation, lock: LOCKMODE);
        pub fn RelationGetIndexList(relation: Relation) -> *mut List;
        pub fn list_free(list: *mut List);
        pub fn BuildIndexInfo(index: Relation) -> *mut IndexInfo;
        pub fn GetCurrentCommandId(used: bool) -> CommandId;
        pub fn GetTransactionSnapshot() -> Snapshot;
        pub fn ActiveSnapshotSet() -> bool;
        pub fn PushActiveSnapshot(snapshot: Snapshot);
        pub fn PopActiveSnapshot();
        pub fn heap_form_tuple(columns: TupleDesc, values: *mut Datum, nulls: *mut bool) -> HeapTuple;
        pub fn heap_insert(
            relation: Relation,
            tuple: HeapTuple,
            command: CommandId,
            options: c_int,
            bulk: BulkInsertState,
        );
        pub fn heap_freetuple(tuple: HeapTuple);
        pub fn index_insert(
            index: Relation,
            values: *mut Datum,
            nulls: *mut bool,
            place: *mut ItemPointerData,
            table: Relation,
            check: IndexUniqueCheck::Type,
            unchanged: bool,
            info: *mut IndexInfo,
        ) -> bool;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        pub fn index_insert_cleanup(index: Relation, info: *mut IndexInfo);
        pub fn palloc(size: usize) -> *mut c_void;
        pub fn pfree(pointer: *mut c_void);
    }
}

/// A value of a row.
#[derive(Clone, Copy)]
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
    fn bytes(&self) -> &[u8] {
        match self {
            ColumnValue::Text(text) => text.as_bytes(),
            ColumnValue::Bytes(bytes) => bytes,
            _ => &[],
        }
    }
}

/// A varlena in the current memory context.
///
/// # Safety
/// Called under a guard, with nothing to release up to it.
unsafe fn varlena(bytes: &[u8]) -> Datum {
    let header = size_of::<u32>();
    let size = header + bytes.len();
    // SAFETY: there is room for header and bytes.
    unsafe {
        let value: *mut pg_sys::varlena = raw::palloc(size).cast();
        pgrx::varlena::set_varsize_4b(value, size as i32);
        value.cast::<u8>().add(header).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        Datum::from(value)
    }
}

/// The table is gone, or has another number of columns than this version of the library knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongShape;

/// A longer value may be stored out of line.
const INLINE: usize = 1000;

/// Inserts rows into `table`, whose columns are the row's values, in their order and of their types. Waits for nobody but
/// who locks the whole table.
pub fn insert_rows<'a, const WIDTH: usize>(
    table: pg_sys::Oid,
    mut rows: impl Iterator<Item = [ColumnValue<'a>; WIDTH]>,
) -> Result<(), WrongShape> {
    // SAFETY: the table is locked and open; the width that was compared and the callers' promise on types make the tuples
    // valid. The closure and what it calls have nothing to release: the callers' iterators borrow what they hand over. A
    // raise inside leaves the rest to the abort of the (sub)transaction.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let relation = raw::try_table_open(table, WRITE);
            if relation.is_null() {
                return Err(WrongShape);
            }
            if (*(*relation).rd_att).natts as usize != WIDTH {
                raw::table_close(relation, UNTIL_THE_END);
                return Err(WrongShape);
            }
            let indexes = Indexes::open(relation);
            let command = raw::GetCurrentCommandId(true);
            let mut pushed = false;
            for row in rows.by_ref() {
                // A value that is stored out of line asks for a snapshot, and at the end of a transaction the last
                // statement's has gone. 18 asserts that there is one for every row that might have such a value.
                let asks = cfg!(feature = "pg18") || row.iter().any(|value| value.bytes().len() > INLINE);
                if asks && !raw::ActiveSnapshotSet() {
                    raw::PushActiveSnapshot(raw::GetTransactionSnapshot());
                    pushed = true;
                }
                insert_row(relation, &indexes, command, &row);
            }
            if pushed {
                raw::PopActiveSnapshot();
            }
            indexes.close();
            raw::table_close(relation, UNTIL_THE_END);
            Ok(())
        })
    }
}

/// # Safety
/// As in [`insert_rows`], of which it is a part.
unsafe fn insert_row<const WIDTH: usize>(
    relation: pg_sys::Relation,
    indexes: &Indexes,
    command: pg_sys::CommandId,
    row: &[ColumnValue; WIDTH],
) {
    let mut values = [Datum::null(); WIDTH];
    let mut nulls = [false; WIDTH];
    // SAFETY: by the caller's promise.
    unsafe {
        for (place, value) in row.iter().enumerate() {
            match value {
                ColumnValue::Null => nulls[place] = true,
                ColumnValue::Int(number) | ColumnValue::Timestamp(number) => {
                    values[place] = Datum::from(*number);
                }
                ColumnValue::Text(_) | ColumnValue::Bytes(_) => values[place] = varlena(value.bytes()),
            }
        }
        let tuple = raw::heap_form_tuple((*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        let options = pg_sys::HEAP_INSERT_NO_LOGICAL as c_int;
        raw::heap_insert(relation, tuple, command, options, std::ptr::null_mut());
        indexes.insert(relation, &raw mut (*tuple).t_self, &values, &nulls);
        raw::heap_freetuple(tuple);
        for (value, datum) in row.iter().zip(values) {
            if matches!(value, ColumnValue::Text(_) | ColumnValue::Bytes(_)) {
                raw::pfree(datum.cast_mut_ptr());
            }
        }
    }
}

const WRITE: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;

/// A lock stays until the transaction ends, as for any writer.
const UNTIL_THE_END: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

/// An index and how its entries are made.
type Index = (pg_sys::Relation, *mut pg_sys::IndexInfo);

/// Every index that rows must be entered into: those that REINDEX CONCURRENTLY is making too, or they would lack rows.
/// In memory of PostgreSQL's, and with nothing to release when an error passes over it.
struct Indexes {
    open: *mut Index,
    length: usize,
}

impl Indexes {
    /// # Safety
    /// `relation` is a table that is open and locked for writing, and this is called under a guard. [`Self::close`]
    /// follows, unless an error is raised.
    unsafe fn open(relation: pg_sys::Relation) -> Self {
        // SAFETY: by the caller's promise; the list is a copy of OIDs, and no index on it can go while the table is locked.
        unsafe {
            let list = raw::RelationGetIndexList(relation);
            let most = if list.is_null() { 0 } else { (*list).length as usize };
            let open: *mut Index = raw::palloc(most.max(1) * size_of::<Index>()).cast();
            let mut length = 0;
            for place in 0..most {
                let index = raw::index_open((*(*list).elements.add(place)).oid_value, WRITE);
                let info = raw::BuildIndexInfo(index);
                // One over expressions or with a condition is not ours, and computing it would run somebody's code.
                let is_plain = (*info).ii_Expressions.is_null() && (*info).ii_Predicate.is_null();
                if (*info).ii_ReadyForInserts && is_plain {
                    open.add(length).write((index, info));
                    length += 1;
                } else {
                    raw::index_close(index, UNTIL_THE_END);
                }
            }
            raw::list_free(list);
            Self { open, length }
        }
    }

    fn each(&self) -> &[Index] {
        // SAFETY: so many were written.
        unsafe { std::slice::from_raw_parts(self.open, self.length) }
    }

    /// # Safety
    /// A row with these values was just inserted into the table at `place`.
    unsafe fn insert(
        &self,
        relation: pg_sys::Relation,
        place: *mut pg_sys::ItemPointerData,
        row: &[Datum],
        row_nulls: &[bool],
    ) {
        for (index, info) in self.each() {
            let mut values = [Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            // SAFETY: by the caller's promise; the arrays have room for as many columns as an index can have, and each is
            // a column of the table, which has no more than the row.
            unsafe {
                let columns = (**info).ii_NumIndexAttrs as usize;
                for (key, number) in (&(**info).ii_IndexAttrNumbers)[..columns].iter().enumerate() {
                    values[key] = row[*number as usize - 1];
                    nulls[key] = row_nulls[*number as usize - 1];
                }
                let check = if (*(**index).rd_index).indisunique {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                } else {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                };
                raw::index_insert(
                    *index,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                    place,
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
        // SAFETY: the indexes were opened in `open`, which made the array.
        unsafe {
            for (index, _info) in self.each() {
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                raw::index_insert_cleanup(*index, *_info);
                raw::index_close(*index, UNTIL_THE_END);
            }
            raw::pfree(self.open.cast());
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
        pg_sys::table_close(relation, UNTIL_THE_END);
    }
}
