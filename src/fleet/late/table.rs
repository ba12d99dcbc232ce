//! Stores packs of late changes, one row each. Readers and the sealer get them back from here.

use crate::fleet::clock::Timestamp;
use crate::pg::own_rows::{ColumnValue, Place, WrongShape, delete_rows, insert_rows};
use crate::pg::range::RangeIndex;
use crate::pg::scan::{find_relation, relation_in};
use crate::schemas::INTERNAL;
use pgrx::pg_sys::{INT8OID, InvalidOid, Oid};

/// A pack with what is known of its changes.
#[derive(Clone, Copy, Debug)]
pub struct Pack<'a> {
    /// Where it begins in a transaction's log.
    pub start: usize,
    /// The highest generation of the thresholds that its changes were noted for.
    pub generation: i64,
    /// No change is to an earlier row.
    pub first: Timestamp,
    /// No change is to a later row.
    pub last: Timestamp,
    /// How many there are.
    pub changes: i64,
    /// In the format of [`super::pack`].
    pub bytes: &'a [u8],
}

/// The tables that writers write into, looked up in the schema of the trigger's function, so that they are found
/// when that schema is renamed.
#[derive(Clone, Copy, Debug)]
pub struct OwnTables {
    late_changes: Oid,
    markers: Oid,
}

impl OwnTables {
    /// None.
    pub const NONE: Self = Self { late_changes: InvalidOid, markers: InvalidOid };

    /// Those in a schema.
    pub fn of(schema: Oid) -> Self {
        let table = |name| relation_in(schema, name).unwrap_or(InvalidOid);
        Self { late_changes: table("late_changes"), markers: table("seal_markers") }
    }

    /// Inserts packs.
    pub fn insert<'a>(&self, packs: impl Iterator<Item = Pack<'a>>) -> Result<(), WrongShape> {
        let row = |pack: Pack<'a>| {
            [
                ColumnValue::Int(pack.generation),
                ColumnValue::Timestamp(pack.first),
                ColumnValue::Timestamp(pack.last),
                ColumnValue::Int(pack.changes),
                ColumnValue::Bytes(pack.bytes),
            ]
        };
        insert_rows(self.late_changes, packs.map(row))
    }

    /// Voids what is sealed: a row that the sealer will find. Nothing where even its table is gone.
    pub fn mark(&self, reason: &str) {
        let now = pgrx::datetime::clock_timestamp().into_inner();
        let row = [ColumnValue::Text(reason), ColumnValue::Timestamp(now)];
        let _ = insert_rows(self.markers, std::iter::once(row));
    }
}

/// Hands over each pack of `generation` and later that the active snapshot sees, with its place, until `each` says that
/// it has enough. None where the table is gone.
pub fn each_pack(generation: i64, mut each: impl FnMut(Place, &Pack) -> bool) {
    let ours = |relation| find_relation(INTERNAL, relation);
    let (Some(table), Some(index)) = (ours("late_changes"), ours("late_changes_gen")) else {
        return;
    };
    let mut enough = false;
    RangeIndex::of_numbers(table, index).each(generation, None, |row| {
        let int = |number| row.int(number, INT8OID).unwrap_or(0);
        row.with_text(5, |bytes| {
            enough = enough
                || !each(
                    row.place(),
                    &Pack {
                        start: 0,
                        generation: int(1),
                        first: int(2),
                        last: int(3),
                        changes: int(4),
                        bytes,
                    },
                );
        });
        !enough
    });
}

/// Deletes every pack that the active snapshot sees.
pub fn delete_all_packs() {
    let mut places = Vec::new();
    each_pack(i64::MIN, |place, _| {
        places.push(place);
        true
    });
    delete_packs(places);
}

/// Deletes packs that [`each_pack`] has handed over.
pub fn delete_packs(places: Vec<Place>) {
    if let Some(table) = find_relation(INTERNAL, "late_changes") {
        delete_rows(table, places);
    }
}
