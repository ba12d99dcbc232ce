//! Putting the trigger that captures changes on entries, and taking it off.

use super::attachment::Attachment;
use super::capture;
use super::late::table::delete_all_packs;
use crate::pg::own_rows::delete_rows;
use crate::pg::query::{Param, execute, select_latest};
use crate::pg::relation::{LockedRelation, triggers};
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::thresholds;
use crate::schemas::INTERNAL;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

/// The name of the trigger, which PostgreSQL puts on every partition too.
pub const CAPTURE_TRIGGER: &str = "busymate_stats_capture";

/// The function behind it.
pub const CAPTURE_FUNCTION: &str = "busymate_stats_internal.capture_change";

/// Makes the trigger, where the relation can have it. It goes with the extension, not with CASCADE.
///
/// A TRUNCATE needs no trigger: it gives every table another file.
pub fn create(entries: &LockedRelation, fleet: &Attachment) {
    if entries.kind != b'r' && (entries.kind != b'p' || has_foreign_partition(entries)) {
        return notice_plain(entries);
    }
    let (table, time) = (&entries.name, quote_literal(&fleet.entry_time));
    for statement in [
        format!(
            "create trigger {CAPTURE_TRIGGER} after insert or update or delete on {table}
                for each row execute function {CAPTURE_FUNCTION}({time})"
        ),
        // On partitions too, those that come later as well.
        format!("alter table {table} enable always trigger {CAPTURE_TRIGGER}"),
        format!("alter trigger {CAPTURE_TRIGGER} on {table} depends on extension busymate_stats"),
    ] {
        execute(&statement, &[]);
    }
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
        execute(&format!("drop trigger {name} on {}", relation.name), &[]);
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
