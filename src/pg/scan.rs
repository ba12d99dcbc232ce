//! Reading the extension's own small tables without SQL: no plan, no privilege check, no transaction id, and safe in a
//! parallel worker.

use super::own_rows::Place;
use pgrx::pg_sys;

/// Which state of the table a scan sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// What is committed at this very moment, and the transaction's own changes, at every isolation level: a catalog
    /// snapshot, the only fresh one that can be had in a parallel worker.
    Latest,
    /// What the running statement sees.
    Statement,
}

/// The bytes of a text datum.
///
/// # Safety
/// `datum` is a non-null datum of type text.
pub unsafe fn text_bytes(datum: pg_sys::Datum) -> Vec<u8> {
    // SAFETY: by the caller's promise this is a varlena; the copy ends its dependence on the buffer behind it.
    unsafe {
        let text = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        let bytes = pgrx::varlena::varlena_to_byte_slice(text).to_vec();
        if !std::ptr::eq(text, datum.cast_mut_ptr()) {
            pg_sys::pfree(text.cast());
        }
        bytes
    }
}

/// One row of a scanned table. Columns count from 1.
pub struct Tuple<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
    identity: RowIdentity,
    place: Place,
}

/// Who wrote a version of a row, and where it lies: another for whatever has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowIdentity {
    writer: pg_sys::TransactionId,
    block: (u16, u16),
    line: u16,
}

impl RowIdentity {
    /// Whether this very transaction has written it, so that nobody else sees it yet.
    pub fn is_own(&self) -> bool {
        // SAFETY: looks into the backend's own list of its transaction's ids.
        unsafe { pg_sys::TransactionIdIsCurrentTransactionId(self.writer) }
    }
}

/// # Safety
/// `tuple` is one that a scan gave.
unsafe fn identity_of(tuple: pg_sys::HeapTuple) -> RowIdentity {
    // SAFETY: by the caller's promise; a stored tuple's header has the writer, as there is no other use of that field.
    unsafe {
        let place = (*tuple).t_self;
        RowIdentity {
            writer: (*(*tuple).t_data).t_choice.t_heap.t_xmin,
            block: (place.ip_blkid.bi_hi, place.ip_blkid.bi_lo),
            line: place.ip_posid,
        }
    }
}

impl Tuple<'_> {
    /// Tells this version of the row from any other.
    pub fn identity(&self) -> RowIdentity {
        self.identity
    }

    /// Where the row is stored.
    pub fn place(&self) -> Place {
        self.place
    }

    fn value(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.nulls[column - 1]).then(|| self.values[column - 1])
    }

    /// A column of type text; empty when null.
    pub fn text(&self, column: usize) -> Vec<u8> {
        // SAFETY: the callers name columns that the install script declares as text or bytea.
        self.value(column).map_or_else(Vec::new, |datum| unsafe { text_bytes(datum) })
    }

    /// A column of type name.
    pub fn name(&self, column: usize) -> Option<String> {
        self.value(column).map(|datum| {
            // SAFETY: the callers name columns that the install script declares as name: 64 bytes that end with NUL.
            let name = unsafe { std::ffi::CStr::from_ptr(datum.cast_mut_ptr()) };
            name.to_string_lossy().into_owned()
        })
    }

    /// A column of type bytea; empty when null.
    pub fn bytes(&self, column: usize) -> Vec<u8> {
        self.text(column)
    }

    /// A column of type bigint; 0 when null.
    pub fn int(&self, column: usize) -> i64 {
        self.value(column).map_or(0, |datum| datum.value() as i64)
    }

    /// A column of type timestamptz, in microseconds since 2000; 0 when null.
    pub fn timestamp(&self, column: usize) -> i64 {
        self.int(column)
    }

    /// A column of type boolean; false when null.
    pub fn bool(&self, column: usize) -> bool {
        self.value(column).is_some_and(|datum| datum.value() != 0)
    }

    /// A column of type oid or regclass; 0 when null.
    pub fn oid(&self, column: usize) -> pg_sys::Oid {
        self.value(column).map_or(pg_sys::InvalidOid, |datum| pg_sys::Oid::from(datum.value() as u32))
    }
}

/// The OID of a schema, or `None` when there is no such schema.
pub fn find_schema(schema: &str) -> Option<pg_sys::Oid> {
    let schema = super::c_string(schema);
    // SAFETY: a syscache look-up with a string that ends with NUL, inside a transaction.
    let found = unsafe { pg_sys::get_namespace_oid(schema.as_ptr(), true) };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// The OID of a relation in a schema, or `None` when there is no such relation.
pub fn relation_in(schema: pg_sys::Oid, relation: &str) -> Option<pg_sys::Oid> {
    let relation = super::c_string(relation);
    // SAFETY: as above.
    let found = unsafe { pg_sys::get_relname_relid(relation.as_ptr(), schema) };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// The OID of `schema.relation`, or `None` when there is no such relation.
pub fn find_relation(schema: &str, relation: &str) -> Option<pg_sys::Oid> {
    relation_in(find_schema(schema)?, relation)
}

/// The version of an extension in this database; `None` where it is not installed.
pub fn extension_version(name: &str) -> Option<String> {
    let mut version = None;
    // pg_extension: extname is its second column, of type name, and extversion the sixth, of type text.
    scan(pg_sys::ExtensionRelationId, None, None, Seen::Latest, |row| {
        if row.name(2).as_deref() == Some(name) {
            version = Some(String::from_utf8_lossy(&row.text(6)).into_owned());
        }
    });
    version
}

/// Reads the rows of `table` whose first column, of type text, equals `first_column`, by `index`; all rows when it is
/// `None`. Nothing when the table is gone.
pub fn scan(
    table: pg_sys::Oid,
    index: Option<pg_sys::Oid>,
    first_column: Option<&[u8]>,
    seen: Seen,
    mut each: impl FnMut(&Tuple),
) {
    // SAFETY: the relation is locked and open for as long as it is scanned. The arrays are as wide as its descriptor.
    // The scan key's procedure is text equality, and the callers' first columns are text. A null snapshot makes
    // systable_beginscan take a catalog snapshot, which is a new one for a relation that is no catalog; the active
    // snapshot outlives the statement. A raise inside leaves all this to the abort of the (sub)transaction.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_table_open(table, lock);
        if relation.is_null() {
            return;
        }
        let description = (*relation).rd_att;
        let width = (*description).natts as usize;
        let mut values = vec![pg_sys::Datum::null(); width];
        let mut nulls = vec![true; width];
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        let keys = match first_column {
            Some(text) => {
                let datum = pg_sys::cstring_to_text_with_len(text.as_ptr().cast(), text.len() as i32);
                pg_sys::ScanKeyInit(
                    &mut key,
                    1,
                    pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                    pg_sys::F_TEXTEQ.into(),
                    pg_sys::Datum::from(datum),
                );
                1
            }
            None => 0,
        };
        let snapshot = match seen {
            Seen::Latest => std::ptr::null_mut(),
            Seen::Statement => pg_sys::GetActiveSnapshot(),
        };
        let scan = pg_sys::systable_beginscan(
            relation,
            index.unwrap_or(pg_sys::InvalidOid),
            index.is_some() && keys > 0,
            snapshot,
            keys,
            &mut key,
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(tuple, description, values.as_mut_ptr(), nulls.as_mut_ptr());
            each(&Tuple {
                values: &values,
                nulls: &nulls,
                identity: identity_of(tuple),
                place: (*tuple).t_self,
            });
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
}

/// The row of `table` that stands last in `index` among those that are seen. Rows that are not seen yet cost a step
/// each, those that are long gone nothing.
pub fn newest<T>(
    table: pg_sys::Oid,
    index: pg_sys::Oid,
    seen: Seen,
    each: impl FnOnce(&Tuple) -> T,
) -> Option<T> {
    // SAFETY: as in `scan`; the index is one of the table's, and open as long as the scan.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_table_open(table, lock);
        if relation.is_null() {
            return None;
        }
        let index = pg_sys::index_open(index, lock);
        let description = (*relation).rd_att;
        let width = (*description).natts as usize;
        let snapshot = match seen {
            Seen::Latest => std::ptr::null_mut(),
            Seen::Statement => pg_sys::GetActiveSnapshot(),
        };
        let scan = pg_sys::systable_beginscan_ordered(relation, index, snapshot, 0, std::ptr::null_mut());
        let tuple = pg_sys::systable_getnext_ordered(scan, pg_sys::ScanDirection::BackwardScanDirection);
        let result = (!tuple.is_null()).then(|| {
            let mut values = vec![pg_sys::Datum::null(); width];
            let mut nulls = vec![true; width];
            pg_sys::heap_deform_tuple(tuple, description, values.as_mut_ptr(), nulls.as_mut_ptr());
            each(&Tuple {
                values: &values,
                nulls: &nulls,
                identity: identity_of(tuple),
                place: (*tuple).t_self,
            })
        });
        pg_sys::systable_endscan_ordered(scan);
        pg_sys::index_close(index, lock);
        pg_sys::table_close(relation, lock);
        result
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::{relation, run};
    use pgrx::prelude::*;

    fn texts(table: pg_sys::Oid, index: Option<pg_sys::Oid>, first: Option<&str>, seen: Seen) -> Vec<String> {
        let mut found = Vec::new();
        scan(table, index, first.map(str::as_bytes), seen, |row| {
            found.push(String::from_utf8(row.text(2)).unwrap());
        });
        found.sort();
        found
    }

    #[pg_test]
    fn only_the_latest_snapshot_sees_what_the_statement_has_written() {
        run("create temp table word (key text primary key, word text)");
        run("insert into word values ('a', 'alpha'), ('b', 'beta')");
        let table = relation("word");
        assert_eq!(texts(table, None, None, Seen::Latest), ["alpha", "beta"]);
        // That of the statement which called this test.
        assert!(texts(table, None, None, Seen::Statement).is_empty());
        run("update word set word = 'gamma' where key = 'b'");
        assert_eq!(texts(table, None, None, Seen::Latest), ["alpha", "gamma"]);
    }

    #[pg_test]
    fn a_key_is_found_with_and_without_an_index() {
        run("create temp table word (key text primary key, word text)");
        run("insert into word select repeat('k', n), 'word ' || n from generate_series(1, 300) n");
        let (table, index) = (relation("word"), relation("word_pkey"));
        for index in [None, Some(index)] {
            assert_eq!(texts(table, index, Some("kkk"), Seen::Latest), ["word 3"]);
            assert!(texts(table, index, Some("k "), Seen::Latest).is_empty());
            assert!(texts(table, index, Some(""), Seen::Latest).is_empty());
        }
    }

    #[pg_test]
    fn values_are_read_wherever_they_are_stored() {
        run(
            "create temp table kept (key text, packed text, external text, raw bytea, flag bool, number int8, \
             at timestamptz, of oid)",
        );
        run("alter table kept alter external set storage external");
        run(
            "insert into kept values ('full', repeat('p', 100000), repeat('e', 100000), '\\x00ff', true, -1, \
             '2000-01-01 00:00:01+00', 4294967295)",
        );
        run("insert into kept (key) values ('empty')");
        let mut rows = 0;
        scan(relation("kept"), None, Some(b"full"), Seen::Latest, |row| {
            rows += 1;
            assert_eq!(row.text(2), [b'p'; 100_000]);
            assert_eq!(row.text(3), [b'e'; 100_000]);
            assert_eq!(row.bytes(4), [0, 0xff]);
            assert!(row.bool(5));
            assert_eq!(row.int(6), -1);
            assert_eq!(row.timestamp(7), 1_000_000);
            assert_eq!(row.oid(8).to_u32(), u32::MAX);
        });
        scan(relation("kept"), None, Some(b"empty"), Seen::Latest, |row| {
            rows += 1;
            assert!(row.text(2).is_empty() && row.bytes(4).is_empty() && !row.bool(5));
            assert_eq!((row.int(6), row.timestamp(7), row.oid(8)), (0, 0, pg_sys::InvalidOid));
        });
        assert_eq!(rows, 2);
    }

    #[pg_test]
    fn each_version_of_a_row_has_an_identity_of_its_own() {
        run("create temp table word (key text, word text)");
        run("insert into word values ('a', 'alpha')");
        let identity = || {
            let mut found = None;
            scan(relation("word"), None, None, Seen::Latest, |row| found = Some(row.identity()));
            found.unwrap()
        };
        let first = identity();
        assert_eq!(identity(), first);
        assert!(first.is_own());
        run("update word set word = word");
        assert_ne!(identity(), first);
        let mut is_any_own = false;
        scan(pg_sys::ExtensionRelationId, None, None, Seen::Latest, |row| {
            is_any_own |= row.identity().is_own();
        });
        assert!(!is_any_own, "a catalog's rows were there before this transaction");
    }

    #[pg_test]
    fn the_newest_row_is_the_last_that_is_seen() {
        run("create temp table event (number int8 primary key, word text)");
        let (table, index) = (relation("event"), relation("event_pkey"));
        let newest = |seen| newest(table, index, seen, |row| row.int(1));
        assert_eq!(newest(Seen::Latest), None);
        run("insert into event select n, n::text from generate_series(1, 500) n");
        run("delete from event where number > 400");
        assert_eq!(newest(Seen::Latest), Some(400));
        assert_eq!(newest(Seen::Statement), None);
    }

    #[pg_test]
    fn a_relation_that_is_gone_has_no_rows() {
        run("create temp table word (key text, word text)");
        let table = relation("word");
        run("drop table word");
        assert!(texts(table, None, None, Seen::Latest).is_empty());
        assert_eq!(newest(table, table, Seen::Latest, |_| ()), None);
        assert_eq!(find_relation("busymate_stats", "no_such"), None);
        assert_eq!(find_relation("no_such", "roles"), None);
        // A NUL ends the name, as anywhere in PostgreSQL.
        assert_eq!(find_schema("busymate_stats\0x"), find_schema("busymate_stats"));
        assert_eq!(extension_version("busymate_stats").as_deref(), Some(crate::version::LIBRARY));
        assert_eq!(extension_version("no_such"), None);
    }
}
