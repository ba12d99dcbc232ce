//! What is done for a table that comes to stand below entries: by the event trigger for the few statements that make a partition,
//! and for a chunk of a hypertable, which no event trigger tells of, when it gets its copy of the trigger.

use super::attach::own_table;
use super::attachment;
use super::tree::Since;
use super::triggers::{CAPTURE_FUNCTION, CAPTURE_TRIGGER, are_on_leaves, complete, create_on_leaf};
use crate::pg::attached::Object;
use crate::pg::catalog::trigger_version;
use crate::pg::event_trigger::{self, Partitions};
use crate::pg::identity::as_owner;
use crate::pg::inheritance::stands_below;
use crate::pg::new_trigger::{self, NewTrigger};
use crate::pg::partition::partitions_of;
use crate::pg::query::{Param, execute};
use crate::pg::relation::{
    LockedRelation, has_no_page, is_function_named, is_locked_alone, is_locked_for_writing, lock,
    lock_for_writing_now, triggers,
};
use crate::pg::scan::{Seen, find_relation};
use crate::pg::transaction::attempt_unless_ended;
use crate::pg::write_guard::extension;
use crate::schemas::INTERNAL;
use pgrx::pg_sys;

/// Installs the event trigger's function, and what looks at new triggers.
pub fn register() {
    event_trigger::register(note_partitions);
    new_trigger::register(adopt_copy);
}

/// Makes a copy of the trigger what the trigger itself is, and remembers a chunk that comes without a row in it. It raises
/// nothing: a chunk whose trigger stays as it is has entries read by the plain query.
fn adopt_copy(trigger: &NewTrigger) {
    // Anybody may give a schema, a function and a trigger these names.
    if !trigger.is_named(CAPTURE_TRIGGER)
        || !is_ours(trigger.function)
        || !is_function_named(trigger.function, CAPTURE_FUNCTION)
    {
        return;
    }
    let NewTrigger { relation, oid, .. } = *trigger;
    let below = attempt_unless_ended(|| {
        let fleet = attachment::read(Seen::Latest).filter(|fleet| stands_below(relation, fleet.entries));
        if fleet.is_some() {
            complete(relation, CAPTURE_TRIGGER, oid);
        }
        fleet
    });
    // A chunk into which a writer may write whom the sealer cannot see is better not remembered.
    let Ok(Some(fleet)) = below else { return };
    if trigger.is_on_new_table && is_locked_for_writing(fleet.entries) && has_no_page(relation) {
        drop(attempt_unless_ended(|| {
            if let Some(chunk) = lock(relation) {
                note_empty(fleet.entries, &chunk, oid);
            }
        }));
    }
}

/// Whether a function came with this extension.
fn is_ours(function: pg_sys::Oid) -> bool {
    extension(c"busymate_stats").is_some_and(|ours| Object::function(function).extension() == Some(ours))
}

/// Remembers partitions of entries that come without a row in them. The trigger sits on every DDL of the database, so it
/// raises nothing: where this does not run, a partition that has come costs a recount.
fn note_partitions(partitions: &Partitions) {
    let noted = attempt_unless_ended(|| {
        let Some(fleet) = attachment::read(Seen::Latest) else { return };
        for partition in partitions.find() {
            if stands_below(partition, fleet.entries) {
                let by_leaf = lock(fleet.entries).is_some_and(|entries| are_on_leaves(&entries));
                note_empty_leaves(fleet.entries, partition, by_leaf.then_some(&*fleet.entry_time));
            }
        }
    });
    drop(noted);
}

/// Those at or below `partition` that hold no row, and are locked by this statement, so that nobody writes into them
/// before their trigger is there for everybody. Where each has a trigger of its own, with the entry time for its argument,
/// it gets it here.
fn note_empty_leaves(root: pg_sys::Oid, partition: pg_sys::Oid, time_for_own: Option<&str>) {
    let mut relations = vec![partition];
    while let Some(oid) = relations.pop() {
        let Some(relation) = lock(oid) else { continue };
        if relation.kind == b'p' {
            relations.extend(partitions_of(oid, 0).list.iter().map(|partition| partition.oid));
        }
        if relation.kind != b'r' || !is_locked_alone(oid) {
            continue;
        }
        if let Some(time) = time_for_own {
            as_owner(own_table().owner, || create_on_leaf(&relation, time));
        }
        if !has_no_page(oid) {
            continue;
        }
        let capture = triggers(oid)
            .into_iter()
            .find(|trigger| trigger.name == CAPTURE_TRIGGER && trigger.function == CAPTURE_FUNCTION);
        let Some(capture) = capture else { continue };
        note_empty(root, &relation, capture.oid);
    }
}

/// Waits for nobody: what is not noted is counted anew.
fn note_empty(root: pg_sys::Oid, leaf: &LockedRelation, trigger: pg_sys::Oid) {
    let table = find_relation(INTERNAL, "seal_partitions").filter(|table| lock_for_writing_now(*table));
    let (Some(table), Some((_, version))) =
        (table.and_then(lock), trigger_version(leaf.oid, CAPTURE_TRIGGER))
    else {
        return;
    };
    as_owner(table.owner, || {
        execute(
            "insert into busymate_stats_internal.seal_partitions (leaf, file, trigger, version)
             select $1, $2, $3, $4
              where not exists (select from busymate_stats_internal.seal_partitions known
                                 where (known.leaf, known.file, known.trigger, known.version) = ($1, $2, $3, $4))",
            &[
                Param::Oid(leaf.oid),
                Param::Oid(leaf.file.into()),
                Param::Oid(trigger),
                Param::Text(Since::of(root, leaf.oid, version).text()),
            ],
        );
    });
}
