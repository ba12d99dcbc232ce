//! `service_stats`: one row, replaced in place.

use super::health::{self, Refresh};
use super::{Round, WRITE_MS};
use crate::access::clear_expired_tokens;
use crate::fleet::SnapshotNow;
use crate::pg::query::{Param, execute, execute_confined};
use crate::pg::relation::lock_for_writing_now;
use crate::pg::scan::find_relation;
use crate::pg::transaction::attempt_within;
use crate::{fleet, version};
use pgrx::prelude::*;
use serde_json::Value;
use std::time::Instant;

const FEED: &str = "stats";

/// Longer than this, making partitions does not take, nor keep anybody waiting.
const PARTITIONS_MS: i32 = 1000;

/// Where it is noted which partitions cannot be made. No feed: `health` shows it beside the seal.
const PARTITIONS: &str = "partitions";

/// Computes the fleet's statistics and puts them into the row of `service_stats`; gives its `updated_at`.
///
/// Not gated by claims (a scheduled job has none): EXECUTE is the owner's to grant, and the function is a SECURITY
/// DEFINER one, for its caller needs no right on the table.
#[pg_extern(sql = false)]
fn refresh_stats() -> TimestampWithTimeZone {
    version::require_match();
    let started = Instant::now();
    let SnapshotNow { value, as_of, note } = fleet::snapshot_for_feed();
    store(&value, as_of);
    health::record(FEED, &Ok(Refresh { as_of, duration: started.elapsed() }));
    keep_note(FEED, note.as_deref());
    keep_note(PARTITIONS, fleet::keep_ahead(as_of).as_deref());
    restore_publications();
    clear_expired_tokens();
    fleet::timestamp(as_of)
}

/// A background worker's refresh. Where our tables are locked nothing was done.
///
/// The figures are computed before any of our tables is locked, so that DROP and ALTER EXTENSION need not wait for a
/// slow computation.
pub fn tick(limit_ms: i32) -> Round {
    if !fleet::is_attached() {
        // What goes wrong is told where a feed is refreshed.
        let cleared = attempt_within(WRITE_MS, clear_expired_tokens).unwrap_or(true);
        return if cleared { Round::Done } else { Round::Locked };
    }
    let started = Instant::now();
    let computed = attempt_within(limit_ms, fleet::snapshot_for_feed);
    if !health::can_be_kept()
        || find_relation("public", "service_stats").is_some_and(|table| !lock_for_writing_now(table))
    {
        return Round::Locked;
    }
    let cleared = attempt_within(WRITE_MS, clear_expired_tokens);
    if let Ok(false) = cleared {
        return Round::Locked;
    }
    let result = computed.and_then(|SnapshotNow { value, as_of, note }| {
        attempt_within(WRITE_MS, || {
            store(&value, as_of);
            keep_note(FEED, note.as_deref());
            Refresh { as_of, duration: started.elapsed() }
        })
    });
    let result = result.and_then(|refresh| attempt_within(WRITE_MS, restore_publications).map(|()| refresh));
    let result = result.and_then(|refresh| {
        // What goes wrong with them costs no figures.
        let partitions = attempt_within(PARTITIONS_MS, || fleet::keep_ahead(refresh.as_of));
        let partitions = partitions.unwrap_or_else(|failure| Some(failure.message));
        attempt_within(WRITE_MS, || keep_note(PARTITIONS, partitions.as_deref())).map(|()| refresh)
    });
    let result = result.and_then(|refresh| cleared.map(|_| refresh));
    health::record_and_log(FEED, &result)
}

/// Keeps what is to be said: of what reading costs, or of partitions. Mostly there is nothing, and nothing is run then.
fn keep_note(of: &str, note: Option<&str>) {
    if note.is_some() || health::has_note(of) {
        health::set_note(of, note);
    }
}

fn store(snapshot: &Value, as_of: fleet::Timestamp) {
    execute_confined(
        "service_stats",
        "insert into public.service_stats as feed (id, snapshot, updated_at) values (1, $1::pg_catalog.jsonb, $2) \
         on conflict (id) do update set snapshot = excluded.snapshot, updated_at = excluded.updated_at",
        &[Param::Text(&snapshot.to_string()), Param::Timestamp(as_of)],
    );
}

/// pg_dump of PostgreSQL 15 to 17 loses the membership of an extension's tables in a publication; the remembered row stays.
pub fn restore_publications() {
    execute("select busymate_stats_internal.restore_publications()", &[]);
}
