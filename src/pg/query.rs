//! SQL through SPI.
//!
//! pgrx's client turns to read-write execution, with a new snapshot for every query, as soon as the transaction has an
//! id. [`select`] never does: all its queries see the caller's snapshot, and none assigns a transaction id.

use super::identity::{as_owner_without_request, owner_of};
use super::scan::find_relation;
use super::write_guard::{naming_own, writing_own};
use pgrx::{IntoDatum, pg_sys};
use std::cell::RefCell;
use std::collections::HashMap;

/// A parameter of a query.
#[derive(Clone, Copy)]
pub enum Param<'a> {
    /// `timestamptz`, microseconds since 2000-01-01 00:00 UTC.
    Timestamp(i64),
    /// `bigint`
    Int(i64),
    /// `oid`
    Oid(pg_sys::Oid),
    /// `text`
    Text(&'a str),
    /// `text[]`
    Texts(&'a [String]),
    /// `bytea`
    Bytes(&'a [u8]),
}

impl Param<'_> {
    fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Param::Timestamp(_) => pg_sys::TIMESTAMPTZOID,
            Param::Int(_) => pg_sys::INT8OID,
            Param::Oid(_) => pg_sys::OIDOID,
            Param::Text(_) => pg_sys::TEXTOID,
            Param::Texts(_) => pg_sys::TEXTARRAYOID,
            Param::Bytes(_) => pg_sys::BYTEAOID,
        }
    }

    fn datum(&self) -> pg_sys::Datum {
        let datum = match self {
            Param::Timestamp(value) | Param::Int(value) => value.into_datum(),
            Param::Oid(value) => value.into_datum(),
            Param::Text(value) => value.into_datum(),
            Param::Texts(values) => values.to_vec().into_datum(),
            Param::Bytes(value) => value.into_datum(),
        };
        datum.unwrap_or(pg_sys::Datum::null())
    }
}

/// One row of a result. Columns count from 1.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
}

impl Row {
    fn value(&self, column: i32, expected: pg_sys::Oid) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: tuple and description come from the same SPI result, which lives until SPI_finish; SPI checks the
        // column's number itself.
        let (datum, found) = unsafe {
            (
                pg_sys::SPI_getbinval(self.tuple, self.description, column, &mut is_null),
                pg_sys::SPI_gettypeid(self.description, column),
            )
        };
        assert_eq!(found, expected, "column {column} of an internal query has another type");
        (!is_null).then_some(datum)
    }

    /// A `text` column. Bytes that are no UTF-8, which only a SQL_ASCII database can hold, are replaced.
    pub fn text(&self, column: i32) -> Option<String> {
        self.value(column, pg_sys::TEXTOID).map(|datum| {
            // SAFETY: the column is of type text and not null.
            let bytes = unsafe { super::scan::text_bytes(datum) };
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    /// A `bytea` column; empty when null.
    pub fn bytes(&self, column: i32) -> Vec<u8> {
        // SAFETY: the column is of type bytea, a varlena as text is, and not null.
        self.value(column, pg_sys::BYTEAOID)
            .map_or_else(Vec::new, |datum| unsafe { super::scan::text_bytes(datum) })
    }

    /// A `timestamptz` column, in microseconds since 2000; 0 when null.
    pub fn timestamp(&self, column: i32) -> i64 {
        self.value(column, pg_sys::TIMESTAMPTZOID).map_or(0, |datum| datum.value() as i64)
    }

    /// A `bigint` column; 0 when null.
    pub fn int(&self, column: i32) -> i64 {
        self.value(column, pg_sys::INT8OID).map_or(0, |datum| datum.value() as i64)
    }

    /// A `boolean` column; false when null.
    pub fn bool(&self, column: i32) -> bool {
        self.value(column, pg_sys::BOOLOID).is_some_and(|datum| datum.value() != 0)
    }

    /// An `oid` column; 0 when null.
    pub fn oid(&self, column: i32) -> pg_sys::Oid {
        self.value(column, pg_sys::OIDOID)
            .map_or(pg_sys::InvalidOid, |datum| pg_sys::Oid::from(datum.value() as u32))
    }
}

/// Runs a SELECT under the active snapshot, read-only, and maps its rows. What it names within
/// [`super::identity::as_owner`] must be that owner's, as of all of these: see [`naming_own`].
pub fn select<T>(sql: &str, params: &[Param], each: impl FnMut(&Row) -> T) -> Vec<T> {
    run(sql, params, true, each)
}

/// Runs a SELECT that sees what this very statement has done so far, which [`select`] does not.
pub fn select_latest<T>(sql: &str, params: &[Param], each: impl FnMut(&Row) -> T) -> Vec<T> {
    run(sql, params, false, each)
}

/// Plans a SELECT and forgets it: what it would read is locked until the transaction ends.
pub fn plan(sql: &str) {
    let sql = super::c_string(sql);
    // SAFETY: as in `run`. The plan is released before SPI_finish frees what it was made from.
    unsafe {
        pg_sys::SPI_connect();
        let prepared = naming_own(|| pg_sys::SPI_prepare(sql.as_ptr(), 0, std::ptr::null_mut()));
        assert!(!prepared.is_null(), "SPI could not prepare an internal query");
        let planned = pg_sys::SPI_plan_get_cached_plan(prepared);
        if !planned.is_null() {
            // Nobody owns the plan of a statement that is not kept.
            pg_sys::ReleaseCachedPlan(planned, std::ptr::null_mut());
        }
        pg_sys::SPI_finish();
    }
}

/// Runs a SELECT that gives exactly one row, as aggregates do.
pub fn select_one<T>(sql: &str, params: &[Param], each: impl FnMut(&Row) -> T) -> T {
    match select_prepared(sql, params, each).pop() {
        Some(value) => value,
        None => unreachable!("an aggregate without GROUP BY gives one row"),
    }
}

/// Runs a statement that writes, into tables of the extension's if into any: see [`writing_own`].
pub fn execute(sql: &str, params: &[Param]) {
    writing_own(|| run(sql, params, false, |_| ()));
}

/// Runs a statement that is none of DML: DDL, GRANT, LOCK. What event triggers of others write meanwhile is theirs.
pub fn execute_utility(sql: &str) {
    run(sql, &[], false, |_| ());
}

/// [`execute`], as the owner of `public.table`, which it writes into, in a security-restricted operation: code of others that
/// the write fires has no rights of the writer's and learns nothing of the request.
pub fn execute_confined(table: &str, sql: &str, params: &[Param]) {
    match find_relation("public", table).and_then(owner_of) {
        Some(owner) => as_owner_without_request(owner, || execute(sql, params)),
        // It says what is missing.
        None => execute(sql, params),
    }
}

fn run<T>(sql: &str, params: &[Param], read_only: bool, mut each: impl FnMut(&Row) -> T) -> Vec<T> {
    let sql = super::c_string(sql);
    let mut types: Vec<pg_sys::Oid> = params.iter().map(Param::type_oid).collect();
    let mut values: Vec<pg_sys::Datum> = params.iter().map(Param::datum).collect();
    let mut rows = Vec::new();
    // SAFETY: `sql` ends with NUL, and types and values are as long as `params`. Row-returning results are read before
    // SPI_finish frees them. When a call raises, the abort of the (sub)transaction closes the SPI connection.
    unsafe {
        pg_sys::SPI_connect();
        let status = naming_own(|| {
            pg_sys::SPI_execute_with_args(
                sql.as_ptr(),
                params.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                std::ptr::null(),
                read_only,
                0,
            )
        });
        assert!(status >= 0, "SPI refused an internal query with status {status}");
        read_rows(&mut rows, &mut each);
        pg_sys::SPI_finish();
    }
    rows
}

thread_local! {
    static PLANS: RefCell<HashMap<String, pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// How many plans a backend keeps; at one more, all are dropped.
const KEPT_PLANS: usize = 64;

/// [`select`] by one plan for all values, which the backend keeps. PostgreSQL makes it anew when what it rests on changes: a table, the
/// role, the search path.
pub fn select_planned<T>(sql: &str, params: &[Param], each: impl FnMut(&Row) -> T) -> Vec<T> {
    run_kept(sql, params, pg_sys::CURSOR_OPT_GENERIC_PLAN as i32, each)
}

/// [`select`] by a statement that the backend keeps, planned for the values of each call: where a window's width decides
/// between an index and the whole table, and where an engine can only plan for values, as Citus can. `plan_cache_mode` may
/// say otherwise.
pub fn select_prepared<T>(sql: &str, params: &[Param], each: impl FnMut(&Row) -> T) -> Vec<T> {
    run_kept(sql, params, pg_sys::CURSOR_OPT_CUSTOM_PLAN as i32, each)
}

fn run_kept<T>(sql: &str, params: &[Param], options: i32, mut each: impl FnMut(&Row) -> T) -> Vec<T> {
    let mut values: Vec<pg_sys::Datum> = params.iter().map(Param::datum).collect();
    let mut rows = Vec::new();
    // SAFETY: as in `run`. The plan has as many parameters as there are values: the text alone decides both.
    unsafe {
        pg_sys::SPI_connect();
        let plan = kept_plan(sql, params, options);
        // It is analyzed anew where something has been renamed.
        let status =
            naming_own(|| pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), std::ptr::null(), true, 0));
        assert!(status >= 0, "SPI refused an internal query with status {status}");
        read_rows(&mut rows, &mut each);
        pg_sys::SPI_finish();
    }
    rows
}

/// The kept plan for `sql`, made if there is none.
///
/// # Safety
/// SPI is connected.
unsafe fn kept_plan(sql: &str, params: &[Param], options: i32) -> pg_sys::SPIPlanPtr {
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(sql).copied()) {
        return plan;
    }
    let text = super::c_string(sql);
    let mut types: Vec<pg_sys::Oid> = params.iter().map(Param::type_oid).collect();
    // SAFETY: SPI is connected; the strings and arrays are valid for the calls. A kept plan lives until it is freed.
    unsafe {
        let plan = naming_own(|| {
            pg_sys::SPI_prepare_cursor(text.as_ptr(), params.len() as i32, types.as_mut_ptr(), options)
        });
        assert!(!plan.is_null(), "SPI could not prepare an internal query");
        pg_sys::SPI_keepplan(plan);
        PLANS.with_borrow_mut(|plans| {
            if plans.len() >= KEPT_PLANS {
                for (_, old) in plans.drain() {
                    pg_sys::SPI_freeplan(old);
                }
            }
            plans.insert(sql.to_owned(), plan);
        });
        plan
    }
}

/// Maps the rows of the result that SPI holds.
///
/// # Safety
/// SPI is connected, and its last call was a successful execution.
unsafe fn read_rows<T>(rows: &mut Vec<T>, each: &mut impl FnMut(&Row) -> T) {
    // SAFETY: by the caller's promise the table is the last result's, or null where it has no rows to give.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        if !table.is_null() {
            let table = &*table;
            rows.reserve(table.numvals as usize);
            for index in 0..table.numvals as usize {
                rows.push(each(&Row { tuple: *table.vals.add(index), description: table.tupdesc }));
            }
        }
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::{error_of, run};
    use pgrx::prelude::*;
    use pgrx_tests::proptest::PgTestRunner;
    use proptest::prelude::*;

    fn is_writing() -> bool {
        // SAFETY: reads backend-local state.
        unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
    }

    #[pg_test]
    fn reading_assigns_no_transaction_id() {
        let count = "select count(*) from busymate_stats.roles";
        for read in [select, select_planned, select_prepared, select_latest] {
            assert_eq!(read(count, &[], |row: &Row| row.int(1)).len(), 1);
            assert!(!is_writing());
        }
        execute("select pg_current_xact_id()::text", &[]);
        assert!(is_writing());
    }

    #[pg_test]
    fn a_statement_sees_its_own_rows_only_where_it_asks_for_them() {
        run("create temp table seen (number int8)");
        run("insert into seen values (1), (2)");
        let count = "select count(*) from seen";
        for read in [select, select_planned, select_prepared] {
            assert_eq!(read(count, &[], |row: &Row| row.int(1)), [0]);
        }
        assert_eq!(select_latest(count, &[], |row| row.int(1)), [2]);
    }

    #[pg_test]
    fn every_parameter_arrives_as_it_was_given() {
        let text = || "[^\\x00]{0,40}";
        let strategy = (
            any::<i64>(),
            text(),
            prop::collection::vec(text(), 0..5),
            prop::collection::vec(any::<u8>(), 0..100),
            any::<u32>(),
        );
        PgTestRunner::default()
            .run(&strategy, |(number, text, texts, bytes, oid)| {
                let params = [
                    Param::Int(number),
                    Param::Text(&text),
                    Param::Texts(&texts),
                    Param::Bytes(&bytes),
                    Param::Oid(oid.into()),
                    Param::Timestamp(i64::from(oid)),
                ];
                let sql = "select $1, $2, array_to_json($3)::text, $4, $5, $6, $2 = any ($3)";
                for read in [select, select_prepared] {
                    let rows = read(sql, &params, |row: &Row| {
                        let list: Vec<String> = serde_json::from_str(&row.text(3).unwrap()).unwrap();
                        (
                            row.int(1),
                            row.text(2),
                            list,
                            row.bytes(4),
                            row.oid(5),
                            row.timestamp(6),
                            row.bool(7),
                        )
                    });
                    let (moment, is_among) = (i64::from(oid), texts.contains(&text));
                    let expected = (
                        number,
                        Some(text.clone()),
                        texts.clone(),
                        bytes.clone(),
                        oid.into(),
                        moment,
                        is_among,
                    );
                    prop_assert_eq!(rows, vec![expected]);
                }
                Ok(())
            })
            .unwrap();
    }

    #[pg_test]
    fn nulls_and_other_types_are_told_apart() {
        let nulls = "select null::text, null::bytea, null::int8, null::bool, null::oid, null::timestamptz";
        let row = select(nulls, &[], |row| {
            assert_eq!(row.text(1), None);
            (row.bytes(2), row.int(3), row.bool(4), row.oid(5), row.timestamp(6))
        });
        assert_eq!(row, [(Vec::new(), 0, false, pg_sys::InvalidOid, 0)]);
        let failure = error_of(|| select("select 1::int4", &[], |row| row.int(1)));
        assert!(
            failure.message.contains("column 1 of an internal query has another type"),
            "{}",
            failure.message
        );
        assert_eq!(select("select 1::int8", &[], |row| row.int(1)), [1]);
    }

    #[pg_test]
    fn a_kept_plan_follows_ddl_and_makes_room() {
        run("create temp table kept (number int8)");
        let count =
            || select_planned("select count(*), max(number) from kept", &[], |row| (row.int(1), row.int(2)));
        assert_eq!(count(), [(0, 0)]);
        run("drop table kept");
        assert_eq!(error_of(count).sqlstate, "42P01");
        run("create temp table kept (word text, number int8)");
        assert_eq!(count(), [(0, 0)]);
        for number in 0..2 * KEPT_PLANS as i64 {
            let sql = format!("select {number}::int8");
            assert_eq!(select_planned(&sql, &[], |row| row.int(1)), [number]);
            assert!(PLANS.with_borrow(HashMap::len) <= KEPT_PLANS);
        }
        assert_eq!(count(), [(0, 0)]);
    }
}
