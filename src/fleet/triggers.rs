//! Putting the trigger that captures changes on entries, and taking it off.

use super::attachment::Attachment;
use super::capture;
use super::late::table::delete_all_packs;
use crate::pg::inheritance::children_of;
use crate::pg::new_trigger::{enable_always, go_with_extension};
use crate::pg::own_rows::delete_rows;
use crate::pg::partition::partitions_of;
use crate::pg::query::{Param, execute, execute_utility, select_latest};
use crate::pg::relation::{LockedRelation, TriggerState, lock, triggers};
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::thresholds;
use crate::pg::transaction::attempt_unless_ended;
use crate::schemas::INTERNAL;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

/// The name of the trigger, which PostgreSQL puts on every partition too.
pub const CAPTURE_TRIGGER: &str = "busymate_stats_capture";

/// The function behind it.
pub const CAPTURE_FUNCTION: &str = "busymate_stats_internal.capture_change";

/// The name of the trigger that a partition of another access method has instead: columnar takes no AFTER ROW triggers.
pub const FROZEN_TRIGGER: &str = "busymate_stats_frozen";

/// The function behind it.
pub const FROZEN_FUNCTION: &str = "busymate_stats_internal.frozen_change";

/// Makes the trigger, where the relation can have it. It goes with the extension, not with CASCADE.
///
/// A TRUNCATE needs no trigger: it gives every table another file.
pub fn create(entries: &LockedRelation, fleet: &Attachment) {
    let can_be_sealed = match entries.kind {
        b'r' => entries.is_heap,
        b'p' => !has_foreign_partition(entries),
        _ => false,
    };
    if !can_be_sealed {
        return notice_plain(entries);
    }
    if are_on_leaves(entries) {
        // No partition comes meanwhile, also below partitions.
        execute_utility(&format!("lock table {} in share row exclusive mode", entries.name));
        for leaf in leaves_of(entries.oid) {
            create_on_leaf(&leaf, &fleet.entry_time);
        }
        return;
    }
    grant_to_owner(entries);
    let (table, time) = (&entries.name, quote_literal(&fleet.entry_time));
    execute_utility(&format!(
        "create trigger {CAPTURE_TRIGGER} after insert or update or delete on {table}
            for each row execute function {CAPTURE_FUNCTION}({time})"
    ));
    if entries.kind == b'p' {
        // On partitions too, those that come later as well.
        for statement in [
            format!("alter table {table} enable always trigger {CAPTURE_TRIGGER}"),
            format!("alter trigger {CAPTURE_TRIGGER} on {table} depends on extension busymate_stats"),
        ] {
            execute_utility(&statement);
        }
        return;
    }
    let below = below(entries.oid);
    if below.iter().any(|table| capture_trigger(*table).is_none()) {
        // What cannot be sealed gets nothing.
        drop_triggers_of(entries, CAPTURE_FUNCTION);
        revoke_from_owner(entries);
        return notice_plain(entries);
    }
    // TimescaleDB has copied the trigger onto the chunks of a hypertable.
    for table in below.into_iter().chain([entries.oid]) {
        if let Some(trigger) = capture_trigger(table) {
            complete(table, CAPTURE_TRIGGER, trigger);
        }
    }
}

/// Whether each partition has a trigger of its own rather than a copy of the parent's: where a partition may be kept by an access
/// method which refuses that copy, and with it the partition.
pub fn are_on_leaves(entries: &LockedRelation) -> bool {
    entries.kind == b'p'
        && capture_trigger(entries.oid).is_none()
        && (leaves_of(entries.oid).iter().any(has_own_trigger)
            || has_other_access_method() && !has_foreign_partition(entries))
}

fn has_own_trigger(leaf: &LockedRelation) -> bool {
    matches!(leaf.kind, b'r') && triggers(leaf.oid).iter().any(is_of_leaf)
}

fn is_of_leaf(trigger: &TriggerState) -> bool {
    [CAPTURE_FUNCTION, FROZEN_FUNCTION].contains(&trigger.function.as_str())
}

fn has_other_access_method() -> bool {
    let others = "select oid from pg_catalog.pg_am where amtype = 't' and amname <> 'heap'";
    !select_latest(others, &[], |row| row.oid(1)).is_empty()
}

/// Makes the trigger of one partition, anew where it has come with one. One whose access method refuses that too is read by the plain query, and so are entries.
pub fn create_on_leaf(leaf: &LockedRelation, time: &str) {
    let (name, time) = (&leaf.name, quote_literal(time));
    let made = if leaf.is_heap {
        execute_utility(&format!(
            "create or replace trigger {CAPTURE_TRIGGER} after insert or update or delete on {name}
                for each row execute function {CAPTURE_FUNCTION}({time})"
        ));
        CAPTURE_TRIGGER
    } else {
        let statement = format!(
            "create or replace trigger {FROZEN_TRIGGER} before insert or update or delete on {name}
                for each row execute function {FROZEN_FUNCTION}()"
        );
        if attempt_unless_ended(|| execute_utility(&statement)).is_err() {
            return;
        }
        FROZEN_TRIGGER
    };
    if let Some(trigger) = triggers(leaf.oid).into_iter().find(|trigger| trigger.name == made) {
        complete(leaf.oid, made, trigger.oid);
    }
}

/// The partitions of a table that hold rows, each of them locked.
fn leaves_of(table: pg_sys::Oid) -> Vec<LockedRelation> {
    let (mut leaves, mut parents) = (Vec::new(), vec![table]);
    while let Some(parent) = parents.pop() {
        for partition in partitions_of(parent, 0).list {
            match lock(partition.oid) {
                Some(relation) if relation.kind == b'p' => parents.push(relation.oid),
                Some(relation) => leaves.push(relation),
                None => {}
            }
        }
    }
    leaves
}

/// What the role that owns entries needs to make a partition: PostgreSQL makes the trigger of the partition with that role's
/// rights.
const EXECUTE: &str = "execute on function busymate_stats_internal.capture_change()";

/// What it needs to make a chunk besides: TimescaleDB looks the function up by name.
const USAGE: &str = "usage on schema busymate_stats_internal";

fn grant_to_owner(entries: &LockedRelation) {
    let lacks = select_latest(
        "select pg_catalog.quote_ident(pg_catalog.pg_get_userbyid($1)),
                -- It is preloaded wherever it is to be used.
                pg_catalog.strpos(pg_catalog.current_setting('shared_preload_libraries'), 'timescaledb') > 0
          where not pg_catalog.has_function_privilege($1, 'busymate_stats_internal.capture_change()', 'execute')",
        &[Param::Oid(entries.owner)],
        |row| (row.text(1), row.bool(2)),
    );
    for (owner, chunks) in lacks {
        let Some(owner) = owner else { continue };
        execute_utility(&format!("grant {EXECUTE} to {owner}"));
        if chunks && entries.kind == b'r' {
            execute_utility(&format!("grant {USAGE} to {owner}"));
        }
    }
}

/// Takes back what [`grant_to_owner`] gave.
fn revoke_from_owner(entries: &LockedRelation) {
    let granted = select_latest(
        "select pg_catalog.quote_ident(pg_catalog.pg_get_userbyid($1))
           from pg_catalog.pg_namespace where nspname = 'busymate_stats_internal' and nspowner <> $1",
        &[Param::Oid(entries.owner)],
        |row| row.text(1),
    );
    for owner in granted.into_iter().flatten() {
        for right in [EXECUTE, USAGE] {
            execute_utility(&format!("revoke {right} from {owner}"));
        }
    }
}

/// The capture trigger of a relation.
fn capture_trigger(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    lock(relation)?;
    triggers(relation)
        .into_iter()
        .find(|trigger| trigger.name == CAPTURE_TRIGGER && trigger.function == CAPTURE_FUNCTION)
        .map(|trigger| trigger.oid)
}

/// Has the trigger of a table fire always, and go with the extension.
pub fn complete(table: pg_sys::Oid, name: &str, trigger: pg_sys::Oid) {
    enable_always(table, name);
    go_with_extension(trigger, c"busymate_stats");
}

/// What inherits from a table.
fn below(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut found: Vec<pg_sys::Oid> = Vec::new();
    let mut next = vec![table];
    while let Some(parent) = next.pop() {
        for child in children_of(parent) {
            if !found.contains(&child) {
                found.push(child);
                next.push(child);
            }
        }
    }
    found
}

/// Whether some partition is a foreign table: what is written into it elsewhere fires no trigger here.
fn has_foreign_partition(entries: &LockedRelation) -> bool {
    let found = select_latest(
        "with recursive tree as (
             select $1 as oid
             union all
             select i.inhrelid from tree join pg_catalog.pg_inherits i on i.inhparent = tree.oid
         )
         select c.oid from tree join pg_catalog.pg_class c on c.oid = tree.oid and c.relkind = 'f'",
        &[Param::Oid(entries.oid)],
        |row| row.oid(1),
    );
    !found.is_empty()
}

fn notice_plain(entries: &LockedRelation) {
    let what = match entries.kind {
        b'p' => "has foreign partitions",
        b'f' => "is a foreign table",
        b'r' if !entries.is_heap => "is kept by another access method than heap",
        b'r' => "has tables that inherit from it",
        _ => "is a view",
    };
    ereport!(
        PgLogLevel::NOTICE,
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!("relation {} {what}, so its changes cannot be captured", entries.name),
        "Each call of get_stats() reads it by plain queries, whose aggregates PostgreSQL pushes down where it can. \
         Let callers read service_stats, which a worker refreshes."
    );
}

/// Drops the trigger, and forgets what was counted.
pub fn drop(entries: Option<&LockedRelation>) {
    if let Some(entries) = entries.filter(|entries| matches!(entries.kind, b'r' | b'p')) {
        drop_triggers_of(entries, CAPTURE_FUNCTION);
        if are_on_leaves(entries) {
            // The parent first, as writers lock it.
            execute_utility(&format!("lock table {} in access exclusive mode", entries.name));
            for leaf in leaves_of(entries.oid) {
                drop_triggers_of(&leaf, CAPTURE_FUNCTION);
                drop_triggers_of(&leaf, FROZEN_FUNCTION);
            }
        }
        revoke_from_owner(entries);
    }
    for table in ["seal_state", "seal_keys", "seal_look", "seal_partitions"] {
        execute(&format!("delete from busymate_stats_internal.{table}"), &[]);
    }
    delete_all_packs();
    delete_markers();
    // A snapshot that is older than this transaction's work may have left rows: whoever seals next begins anew.
    capture::mark("detached");
    thresholds::forget();
    // A generation of its own: a look that was taken for the last one says nothing about this relation. The latest, for
    // the transaction's snapshot may be older than a tick of the sealer.
    let next = Param::Int(capture::threshold(Seen::Latest).map_or(0, |threshold| threshold.generation) + 1);
    execute("insert into busymate_stats_internal.capture values ($1, '-infinity', '-infinity')", &[next]);
}

/// Drops the triggers that call a function, whatever they are called by now.
pub fn drop_triggers_of(relation: &LockedRelation, function: &str) {
    for trigger in triggers(relation.oid).into_iter().filter(|trigger| trigger.function == function) {
        let name = quote_identifier(trigger.name);
        execute_utility(&format!("drop trigger {name} on {}", relation.name));
    }
}

/// Removes the markers that the active snapshot sees.
pub fn delete_markers() {
    delete_markers_after(0);
}

/// Removes all of them but one, which voids what is sealed as well as many do.
pub fn keep_one_marker() {
    delete_markers_after(1);
}

fn delete_markers_after(kept: usize) {
    let Some(table) = find_relation(INTERNAL, "seal_markers") else {
        return;
    };
    let mut places = Vec::new();
    scan(table, None, None, Seen::Statement, |row| places.push(row.place()));
    delete_rows(table, places.into_iter().skip(kept));
}
