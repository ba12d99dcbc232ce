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
