//! Putting what captures changes on entries, and taking it off: an index and triggers on a plain table, a trigger on a
//! partitioned one.

use super::attachment::Attachment;
use super::capture;
use super::sealed::state::{INSERT_INDEX, ROW_FUNCTION, ROW_TRIGGER, TOLD, TRIGGER_FUNCTION, TRIGGERS};
use crate::pg::insert_index::ACCESS_METHOD;
use crate::pg::query::{Param, execute, select_latest};
use crate::pg::relation::LockedRelation;
use crate::pg::scan::Seen;
use crate::pg::thresholds;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

/// What each trigger fires on, in the order of [`TRIGGERS`]. A TRUNCATE needs none: it
/// gives every table another file, or empties one that this transaction has begun, of which nothing can be sealed yet.
const EVENTS: [&str; 2] = [
    "update on {} referencing old table as old_rows new table as new_rows",
    "delete on {} referencing old table as old_rows",
];

/// Makes them, where the relation can have them. They go with the extension, not with CASCADE.
pub fn create(entries: &LockedRelation, fleet: &Attachment) {
    let time = quote_literal(&fleet.entry_time);
    match entries.kind {
        b'r' => {
            // One may have come with CREATE TABLE … (LIKE … INCLUDING INDEXES).
            drop_indexes(entries);
            for (name, event) in TRIGGERS.into_iter().zip(EVENTS) {
                let event = event.replace("{}", &entries.name);
                // One is told the entry time for both.
                let told = if name == TOLD { &time } else { "" };
                let action = format!("statement execute function {TRIGGER_FUNCTION}({told})");
                create_one(entries, name, &event, &action);
            }
            // After the triggers, whose lock is the stronger one: nobody can come between the two.
            create_index(entries, fleet);
        }
        b'p' if !has_foreign_partition(entries) => {
            let event = format!("insert or update or delete on {}", entries.name);
            create_one(entries, ROW_TRIGGER, &event, &format!("row execute function {ROW_FUNCTION}({time})"));
        }
        _ => notice_plain(entries),
    }
}

fn create_index(entries: &LockedRelation, fleet: &Attachment) {
    let (table, method) = (&entries.name, ACCESS_METHOD);
    execute(
        &format!(
            "create index {INSERT_INDEX} on {table} using {method} ({})",
            quote_identifier(&fleet.entry_time)
        ),
        &[],
    );
    // It stands in its table's schema.
    let schema = &entries.schema;
    execute(&format!("alter index {schema}.{INSERT_INDEX} depends on extension busymate_stats"), &[]);
}

fn drop_indexes(entries: &LockedRelation) {
    let found = select_latest(
        "select pg_catalog.format('%I.%I', n.nspname, c.relname)
           from pg_catalog.pg_index i
           join pg_catalog.pg_class c on c.oid = i.indexrelid
           join pg_catalog.pg_namespace n on n.oid = c.relnamespace
           join pg_catalog.pg_am m on m.oid = c.relam and m.amname = $2
          where i.indrelid = $1",
        &[Param::Oid(entries.oid), Param::Text(ACCESS_METHOD)],
        |row| row.text(1),
    );
    for index in found.into_iter().flatten() {
        execute(&format!("drop index {index}"), &[]);
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
        drop_indexes(entries);
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
