//! Reading a table's rows by a B-tree index over a moment or a number, without SQL: no plan and no function of anybody's.
//! Under the active snapshot, with the predicate locks that a serializable transaction needs.

use super::bare::{BareRow, each_row};
use super::slot::Slot;
use pgrx::pg_sys;

/// An index over every row of a table, in the default order of its first column or the reverse.
#[derive(Clone, Copy)]
pub struct RangeIndex {
    table: pg_sys::Oid,
    index: pg_sys::Oid,
    over: Over,
}

/// The type of an index's first column.
#[derive(Clone, Copy)]
enum Over {
    Moments,
    Numbers,
}

impl Over {
    /// The functions behind >= and <.
    fn comparisons(self) -> (u32, u32) {
        match self {
            Over::Moments => (pg_sys::F_TIMESTAMPTZ_GE, pg_sys::F_TIMESTAMPTZ_LT),
            Over::Numbers => (pg_sys::F_INT8GE, pg_sys::F_INT8LT),
        }
    }
}

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

impl RangeIndex {
    /// `index` of `table`, both the extension's own, over a bigint.
    pub fn of_numbers(table: pg_sys::Oid, index: pg_sys::Oid) -> Self {
        Self { table, index, over: Over::Numbers }
    }

    /// One of a locked table's indexes over `column`, a timestamptz; `None` when there is no such index, or none that
    /// every snapshot may use.
    pub fn find(table: pg_sys::Oid, column: i16) -> Option<Self> {
        // SAFETY: the table is locked, and open while its list is read. The list is a copy of OIDs, and an index on it
        // cannot go while the table is locked.
        unsafe {
            let opened = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
            let list = pg_sys::RelationGetIndexList(opened);
            let length = if list.is_null() { 0 } else { (*list).length as usize };
            let found = (0..length)
                .map(|place| (*(*list).elements.add(place)).oid_value)
                .find(|index| is_over(*index, column));
            pg_sys::list_free(list);
            pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
            found.map(|index| Self { table, index, over: Over::Moments })
        }
    }

    /// Hands over each row from `from` on and, where it is given, before `to`, until `each` says that it has enough.
    pub fn each(&self, from: i64, to: Option<i64>, mut each: impl FnMut(&Slot) -> bool) {
        self.scan(from, to, |scan, slot| {
            // SAFETY: slot and scan are open and made for one table.
            unsafe {
                let row = Slot::new(slot);
                while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot)
                    && each(&row)
                {
                    pgrx::check_for_interrupts!();
                }
            }
        });
    }

    /// [`Self::each`] for many rows, until `each` says that it has enough. It should hold nothing to release while it reads a
    /// row.
    pub fn each_bare(&self, from: i64, to: Option<i64>, each: impl FnMut(BareRow) -> bool) {
        // SAFETY: as above.
        self.scan(from, to, |scan, slot| unsafe { each_row(scan, slot, each) });
    }

    fn scan(
        &self,
        from: i64,
        to: Option<i64>,
        read: impl FnOnce(pg_sys::IndexScanDesc, *mut pg_sys::TupleTableSlot),
    ) {
        let (at_least, before) = self.over.comparisons();
        // SAFETY: table and index are opened under a lock, which raises when they are gone. The keys compare the index's
        // first column by its type's own functions; slot and scan are made for this table, and let go in reverse. A
        // raise inside leaves them to the abort of the (sub)transaction.
        unsafe {
            let table = pg_sys::relation_open(self.table, LOCK);
            let index = pg_sys::index_open(self.index, LOCK);
            let mut keys: [pg_sys::ScanKeyData; 2] = std::mem::zeroed();
            init(&mut keys[0], pg_sys::BTGreaterEqualStrategyNumber, at_least, from);
            let mut count = 1;
            if let Some(to) = to {
                init(&mut keys[1], pg_sys::BTLessStrategyNumber, before, to);
                count = 2;
            }
            let scan = begin(table, index, count);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
            let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
            read(scan, slot);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::index_endscan(scan);
            pg_sys::index_close(index, LOCK);
            pg_sys::relation_close(table, LOCK);
        }
    }
}

/// # Safety
/// `function` compares two values of the index's first column, which are passed by value.
unsafe fn init(key: &mut pg_sys::ScanKeyData, strategy: u32, function: u32, value: i64) {
    // SAFETY: by the caller's promise.
    unsafe {
        pg_sys::ScanKeyInit(
            key,
            1,
            strategy as pg_sys::StrategyNumber,
            function.into(),
            pg_sys::Datum::from(value),
        );
    }
}

/// # Safety
/// `index` is an index of `table`, both are open and locked, and a snapshot is active.
unsafe fn begin(table: pg_sys::Relation, index: pg_sys::Relation, keys: i32) -> pg_sys::IndexScanDesc {
    // SAFETY: by the caller's promise.
    unsafe {
        let snapshot = pg_sys::GetActiveSnapshot();
        #[cfg(not(feature = "pg18"))]
        return pg_sys::index_beginscan(table, index, snapshot, keys, 0);
        #[cfg(feature = "pg18")]
        return pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0);
    }
}

/// # Safety
/// `index` is on the list of a locked table.
unsafe fn is_over(index: pg_sys::Oid, column: i16) -> bool {
    // SAFETY: by the caller's promise the index is there; its entries are read while it is open. A B-tree has at least
    // one column.
    unsafe {
        let opened = pg_sys::index_open(index, LOCK);
        let class = &*(*opened).rd_rel;
        let entry = &*(*opened).rd_index;
        let is_whole = class.relam == pg_sys::BTREE_AM_OID
            && entry.indisvalid
            // A snapshot may be older than what such an index knows.
            && !entry.indcheckxmin
            && entry.indkey.values.as_slice(1)[0] == column
            && *(*opened).rd_opfamily == pg_sys::get_opclass_family(pg_sys::TIMESTAMPTZ_BTREE_OPS_OID)
            && pg_sys::RelationGetIndexPredicate(opened).is_null();
        pg_sys::index_close(opened, LOCK);
        is_whole
    }
}
