//! What the event trigger does, for the few statements that make a partition of entries.

use super::attachment;
use super::triggers::{CAPTURE_FUNCTION, CAPTURE_TRIGGER};
use crate::pg::event_trigger::{self, Partitions};
use crate::pg::identity::as_owner;
use crate::pg::partition::{is_partition_of, partitions_of};
use crate::pg::query::{Param, execute};
use crate::pg::relation::{has_no_page, is_locked_alone, lock, triggers};
use crate::pg::scan::{Seen, find_relation};
use crate::pg::transaction::attempt_unless_ended;
use crate::schemas::INTERNAL;
use pgrx::pg_sys;

/// Installs the event trigger's function.
pub fn register() {
    event_trigger::register(note_partitions);
}

/// Remembers partitions of entries that come without a row in them. The trigger sits on every DDL of the database, so it
/// raises nothing: where this does not run, a partition that has come costs a recount.
fn note_partitions(partitions: &Partitions) {
    let noted = attempt_unless_ended(|| {
        let Some(fleet) = attachment::read(Seen::Latest) else { return };
        for partition in partitions.find() {
            if is_partition_of(partition, fleet.entries) {
                note_empty_leaves(partition);
            }
        }
    });
    drop(noted);
}

/// Those at or below `partition` that hold no row, and are locked by this statement, so that nobody writes into them
/// before their trigger is there for everybody.
fn note_empty_leaves(partition: pg_sys::Oid) {
    let Some(table) = find_relation(INTERNAL, "seal_partitions").and_then(lock) else { return };
    let mut relations = vec![partition];
    while let Some(oid) = relations.pop() {
        let Some(relation) = lock(oid) else { continue };
        if relation.kind == b'p' {
            relations.extend(partitions_of(oid, 0).list.iter().map(|partition| partition.oid));
        }
        if relation.kind != b'r' || !is_locked_alone(oid) || !has_no_page(oid) {
            continue;
        }
        let capture = triggers(oid)
            .into_iter()
            .find(|trigger| trigger.name == CAPTURE_TRIGGER && trigger.function == CAPTURE_FUNCTION);
        let Some(capture) = capture else { continue };
        as_owner(table.owner, || {
            execute(
                "insert into busymate_stats_internal.seal_partitions (leaf, file, trigger)
                 select $1, $2, $3
                  where not exists (select from busymate_stats_internal.seal_partitions known
                                     where (known.leaf, known.file, known.trigger) = ($1, $2, $3))",
                &[Param::Oid(oid), Param::Oid(relation.file.into()), Param::Oid(capture.oid)],
            );
        });
    }
}
