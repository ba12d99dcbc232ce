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

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::pg::query::{Param, select_latest};
    use crate::pg::relation::column_number;
    use crate::pg::slot::Value;
    use crate::testing::{error_of, relation, run, value};
    use pgrx::prelude::*;
    use pgrx_tests::proptest::PgTestRunner;
    use proptest::prelude::*;

    /// Rows written by this test are seen from here on: a scan reads under the active snapshot.
    fn with_own_rows<R>(work: impl FnOnce() -> R) -> R {
        // SAFETY: in a transaction; the snapshot is popped in the order in which it was pushed.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            let result = work();
            pg_sys::PopActiveSnapshot();
            result
        }
    }

    #[pg_test]
    fn only_an_index_over_all_rows_in_their_order_is_taken() {
        run("create temp table entry (host text, at timestamptz)");
        let table = relation("entry");
        let column = column_number(table, "at");
        let is_taken = |definition: &str| {
            run(&format!("create index candidate on entry {definition}"));
            let found = RangeIndex::find(table, column);
            let is_taken = found.is_some_and(|found| found.index == relation("candidate"));
            assert_eq!(found.is_some(), is_taken, "{definition}");
            run("drop index candidate");
            is_taken
        };
        for good in ["(at)", "(at desc)", "(at nulls first, host)", "(at) include (host)"] {
            assert!(is_taken(good), "{good}");
        }
        for bad in [
            "(host)",
            "(host, at)",
            "((coalesce(at, at)))",
            "(at) where host is not null",
            "using brin (at)",
            "using hash (at)",
        ] {
            assert!(!is_taken(bad), "{bad}");
        }
        run("create index candidate on entry (at)");
        run("update pg_index set indisvalid = false where indexrelid = 'candidate'::regclass");
        assert!(RangeIndex::find(table, column).is_none(), "an index that is not valid");
    }

    #[pg_test]
    fn a_range_is_what_sql_says_it_is() {
        run("create temp table entry (at timestamptz not null)");
        run("create index entry_at on entry (at)");
        let index = RangeIndex::find(relation("entry"), 1).unwrap();
        let moment = || prop_oneof![-5i64..5, Just(i64::MIN), Just(i64::MAX)];
        let strategy = (prop::collection::vec(moment(), 0..12), moment(), prop::option::of(moment()));
        PgTestRunner::default()
            .run(&strategy, |(moments, from, to)| {
                run("delete from entry");
                for moment in &moments {
                    select_latest("insert into entry values ($1)", &[Param::Timestamp(*moment)], |_| ());
                }
                let mut expected: Vec<i64> = moments
                    .into_iter()
                    .filter(|moment| *moment >= from && to.is_none_or(|to| *moment < to))
                    .collect();
                expected.sort_unstable();
                let (mut read, mut bare) = (Vec::new(), Vec::new());
                with_own_rows(|| {
                    index.each(from, to, |row| {
                        read.push(row.value(1).unwrap().value() as i64);
                        true
                    });
                    index.each_bare(from, to, |row| {
                        bare.push(row.value(1).unwrap().value() as i64);
                        true
                    });
                });
                prop_assert_eq!(&read, &expected);
                prop_assert_eq!(&bare, &expected);
                Ok(())
            })
            .unwrap();
    }

    fn numbers(rows: i64) -> RangeIndex {
        run("create temp table event (number int8 primary key)");
        run(&format!("insert into event select generate_series(1, {rows})"));
        RangeIndex::of_numbers(relation("event"), relation("event_pkey"))
    }

    #[pg_test]
    fn rows_are_read_on_from_one_guard_to_the_next_until_enough() {
        let index = numbers(2500);
        with_own_rows(|| {
            let mut sum = 0;
            index.each_bare(i64::MIN, None, |row| {
                sum += row.int(1, pg_sys::INT8OID).unwrap();
                true
            });
            assert_eq!(sum, 2500 * 2501 / 2);
            let mut read = 0;
            index.each_bare(5, None, |_| {
                read += 1;
                read < 1200
            });
            assert_eq!(read, 1200);
        });
    }

    #[pg_test]
    fn a_panic_and_an_error_leave_a_scan_as_errors() {
        let index = numbers(10);
        with_own_rows(|| {
            let panicked = error_of(|| index.each_bare(1, None, |_| panic!("stopped here")));
            assert_eq!((panicked.sqlstate.as_str(), panicked.message.as_str()), ("XX000", "stopped here"));
            let raised = error_of(|| {
                index.each(1, None, |_| {
                    run("select 1 / 0");
                    true
                });
            });
            assert_eq!(raised.sqlstate, "22012");
        });
        // The session goes on, and nothing keeps the table.
        run("alter table event add column more int");
        assert_eq!(value::<i64>("select count(*) from event"), 10);
    }

    #[pg_test]
    fn a_row_is_read_in_the_type_of_its_columns() {
        run("create type shade as enum ('light', 'dark')");
        run(
            "create temp table mixed (number int8 primary key, two int2, four int4, eight int8, id uuid, word text, \
             short varchar(9), padded char(9), shade shade, nothing text)",
        );
        run("alter table mixed alter word set storage external");
        run(
            "insert into mixed values (1, -2, -4, -8, '00000000-0000-0000-0000-0000000000ff', repeat('w', 9000), 'v', \
             ' c ', 'dark')",
        );
        let index = RangeIndex::of_numbers(relation("mixed"), relation("mixed_pkey"));
        let shade: pg_sys::Oid = value("select 'shade'::regtype::oid");
        let mut rows = 0;
        with_own_rows(|| {
            index.each(1, None, |row| {
                rows += 1;
                assert_eq!(row.stored(2, pg_sys::INT2OID), Value::Int(-2));
                assert_eq!(row.stored(3, pg_sys::INT4OID), Value::Int(-4));
                assert_eq!(row.stored(4, pg_sys::INT8OID), Value::Int(-8));
                assert_eq!(row.stored(5, pg_sys::UUIDOID), Value::Uuid(&255u128.to_be_bytes()));
                assert_eq!(row.stored(6, pg_sys::TEXTOID), Value::Text(&[b'w'; 9000]));
                assert_eq!(row.stored(7, pg_sys::VARCHAROID), Value::Text(b"v"));
                assert_eq!(row.stored(8, pg_sys::BPCHAROID), Value::Text(b" c"));
                assert_eq!(row.text(8, pg_sys::BPCHAROID).as_deref(), Some(" c"));
                assert_eq!(row.stored(9, shade), Value::Text(b"dark"));
                assert_eq!(row.stored(10, pg_sys::TEXTOID), Value::Null);
                assert!(row.has_same_text(row, 10, pg_sys::TEXTOID));
                true
            });
            index.each_bare(1, None, |row| {
                rows += 1;
                assert_eq!(row.int(2, pg_sys::INT2OID), Some(-2));
                assert_eq!(row.uuid(5), Some(255u128.to_be_bytes()));
                assert_eq!(row.with_text(6, |text| text.to_vec()), Some(vec![b'w'; 9000]));
                assert_eq!(row.with_text(10, <[u8]>::len), None);
                true
            });
        });
        assert_eq!(rows, 2);
    }
}
