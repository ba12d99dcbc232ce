//! Appending rows to the extension's own tables without SQL: no plan and no privilege check, so that whoever writes into
//! the fleet needs no right on them.

use pgrx::{IntoDatum, pg_sys};

/// A value of a row.
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// `bigint`
    Int(i64),
    /// `timestamptz`, microseconds since 2000.
    Timestamp(i64),
    /// `text`
    Text(&'a str),
    /// `oid`
    Oid(pg_sys::Oid),
}

impl Cell<'_> {
    fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            Cell::Null => None,
            Cell::Int(value) | Cell::Timestamp(value) => value.into_datum(),
            Cell::Text(value) => value.into_datum(),
            Cell::Oid(value) => value.into_datum(),
        }
    }
}

/// Appends rows to `table`, whose columns are the row's cells, in their order and of their types, and whose indexes are
/// plain ones. Waits for nobody but who locks the whole table.
pub fn append<'a, const WIDTH: usize>(table: pg_sys::Oid, rows: impl Iterator<Item = [Cell<'a>; WIDTH]>) {
    // SAFETY: the table is locked and open; the asserted width and the callers' promise on types make the tuples valid.
    // The index insertion is that of system catalogs, which knows plain indexes only. A raise inside leaves the rest to
    // the abort of the (sub)transaction.
    unsafe {
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(table, lock);
        let description = (*relation).rd_att;
        assert_eq!((*description).natts as usize, WIDTH, "a table of ours has another shape");
        let indexes = pg_sys::CatalogOpenIndexes(relation);
        for row in rows {
            let mut values = [pg_sys::Datum::null(); WIDTH];
            let mut nulls = [true; WIDTH];
            for (place, cell) in row.iter().enumerate() {
                if let Some(datum) = cell.datum() {
                    values[place] = datum;
                    nulls[place] = false;
                }
            }
            let tuple = pg_sys::heap_form_tuple(description, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::CatalogTupleInsertWithInfo(relation, tuple, indexes);
            pg_sys::heap_freetuple(tuple);
        }
        pg_sys::CatalogCloseIndexes(indexes);
        // The lock stays until the transaction ends, as for any writer.
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
