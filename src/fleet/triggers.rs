//! Putting the capture triggers on entries, and taking them off.

use super::attachment::Attachment;
use super::capture;
use super::sealed::state::{TRIGGER_FUNCTION, TRIGGERS};
use crate::pg::query::{Param, execute};
use crate::pg::relation::LockedRelation;
use crate::pg::scan::Seen;
use crate::pg::thresholds;
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
    if entries.kind != b'r' {
        return;
    }
    let columns = [&fleet.entry_time, &fleet.host, &fleet.status, &fleet.source, &fleet.entry_device];
    let arguments: Vec<String> = columns.into_iter().map(quote_literal).collect();
    for (name, event) in TRIGGERS.into_iter().zip(EVENTS) {
        let event = event.replace("{}", &entries.name);
        let arguments = arguments.join(", ");
        execute(
            &format!(
                "create trigger {name} after {event} for each statement execute function {TRIGGER_FUNCTION}({arguments})"
            ),
            &[],
        );
        execute(&format!("alter table {} enable always trigger {name}", entries.name), &[]);
        execute(
            &format!("alter trigger {name} on {} depends on extension busymate_stats", entries.name),
            &[],
        );
    }
}

/// Drops the triggers, and forgets what was counted.
pub fn drop(entries: Option<&LockedRelation>) {
    if let Some(entries) = entries.filter(|entries| entries.kind == b'r') {
        for name in TRIGGERS {
            execute(&format!("drop trigger if exists {name} on {}", entries.name), &[]);
        }
    }
    for table in ["seal_state", "seal_keys", "seal_look", "seal_markers", "late_changes"] {
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
