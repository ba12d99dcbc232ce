//! The late changes, read by the index on their generation.

use super::counts::Entry;
use crate::fleet::clock::Timestamp;
use crate::pg::range::RangeIndex;
use crate::pg::scan::find_relation;
use pgrx::pg_sys::{INT8OID, InvalidOid, Oid, TEXTOID};

/// The late changes of `gen_` and later that this snapshot sees, to rows before `boundary`: each with how many such rows
/// came, less those that went, and the relation that holds them. None where the table is gone.
pub fn late_changes(boundary: Timestamp, gen_: i64) -> Vec<(Entry, i64, Oid)> {
    let ours = |relation| find_relation("busymate_stats", relation);
    let mut changes = Vec::new();
    let (Some(table), Some(index)) = (ours("late_changes"), ours("late_changes_gen")) else {
        return changes;
    };
    // Columns: gen, entry_time, source, class, host, device, n, relation.
    RangeIndex::of_numbers(table, index).each(gen_, None, |row| {
        let time = row.int(2, INT8OID).unwrap_or(i64::MIN);
        if time >= boundary {
            return;
        }
        let entry = Entry {
            time,
            source: row.text(3, TEXTOID).unwrap_or_default(),
            class: row.int(4, INT8OID).unwrap_or(0),
            host: row.text(5, TEXTOID),
            device: row.text(6, TEXTOID),
        };
        let relation = row.value(8).map_or(InvalidOid, |datum| Oid::from(datum.value() as u32));
        changes.push((entry, row.int(7, INT8OID).unwrap_or(0), relation));
    });
    changes
}
