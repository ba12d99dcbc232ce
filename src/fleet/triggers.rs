//! Putting the capture triggers on entries, and taking them off.

use super::attachment::Attachment;
use super::capture;
use super::sealed::state::{ROW_FUNCTION, ROW_TRIGGER, TRIGGER_FUNCTION, TRIGGERS};
use crate::pg::query::{Param, execute, select_latest};
use crate::pg::relation::LockedRelation;
use crate::pg::scan::Seen;
use crate::pg::thresholds;
use pgrx::prelude::*;
use pgrx::spi::quote_literal;

/// What each trigger fires on, in the order of [`TRIGGERS`].
const EVENTS: [&str; 4] = [
    "insert on {} referencing new table as new_rows",
    "update on {} referencing old table as old_rows new table as new_rows",
    "delete on {} referencing old table as old_rows",
    "truncate on {}",
];

/// Makes the triggers, where the relation can have them. They go with the extension, not with CASCADE.
pub fn create(entries: &LockedRelation, fleet: &Attachment) {
    let time = quote_literal(&fleet.entry_time);
    match entries.kind {
        b'r' => {
            for (name, event) in TRIGGERS.into_iter().zip(EVENTS) {
                let event = event.replace("{}", &entries.name);
                create_one(
                    entries,
                    name,
                    &event,
                    &format!("statement execute function {TRIGGER_FUNCTION}({time})"),
                );
            }
        }
        b'p' if !has_foreign_partition(entries) => {
            // A TRUNCATE needs none: it gives every partition another file.
            let event = format!("insert or update or delete on {}", entries.name);
            create_one(entries, ROW_TRIGGER, &event, &format!("row execute function {ROW_FUNCTION}({time})"));
        }
        _ => notice_plain(entries),
    }
}

fn create_one(entries: &LockedRelation, name: &str, event: &str, action: &str) {
    let table = &entries.name;
    execute(&format!("create trigger {name} after {event} for each {action}"), &[]);
    // On partitions too, those that come later as well.
    execute(&format!("alter table {table} enable always trigger {name}"), &[]);
    execute(&format!("alter trigger {name} on {table} depends on extension busymate_stats"), &[]);
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

/// Drops the triggers, and forgets what was counted.
pub fn drop(entries: Option<&LockedRelation>) {
    let names: &[&str] = match entries.map(|entries| entries.kind) {
        Some(b'r') => &TRIGGERS,
        Some(b'p') => &[ROW_TRIGGER],
        _ => &[],
    };
    if let Some(entries) = entries {
        for name in names {
            execute(&format!("drop trigger if exists {name} on {}", entries.name), &[]);
        }
    }
    for table in ["seal_state", "seal_keys", "seal_look", "seal_markers", "seal_partitions", "late_changes"] {
        execute(&format!("delete from busymate_stats.{table}"), &[]);
    }
    // A snapshot that is older than this transaction's work may have left rows: whoever seals next begins anew.
    capture::mark("detached");
    thresholds::forget();
    // A generation of its own: a look that was taken for the last one says nothing about this relation. The latest, for
    // the transaction's snapshot may be older than a tick of the sealer.
    let next = Param::Int(capture::threshold(Seen::Latest).map_or(0, |(gen_, _)| gen_) + 1);
    execute("insert into busymate_stats.capture values ($1, '-infinity')", &[next]);
}
