//! The check of what is sealed, in the background: what it found is kept for `health`, and mended.

use super::health::{self, Refresh};
use crate::fleet::{self, Timestamp};
use crate::pg::query::{Param, execute};
use crate::pg::relation::lock_for_writing_now;
use crate::pg::scan::find_relation;
use crate::pg::transaction::{Failure, attempt, attempt_within};
use crate::schemas::INTERNAL;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

const FEED: &str = "verify";

/// More of a value than this is not logged: a list of a hundred hosts is for `health`.
const LOGGED: usize = 200;

/// What a worker's tick has before it.
pub enum VerifyRound {
    /// Nothing: no fleet is attached.
    Idle,
    /// Nothing is sealed that could be held against a count.
    TooEarly,
    /// The count is to be made.
    Due,
}

/// What the comparison gave: `None` where nothing was sealed any more.
pub struct Compared {
    found: Result<Option<Map<String, Value>>, Failure>,
    as_of: Timestamp,
    duration: Duration,
}

/// Whether there is anything to verify.
pub fn begin_verify() -> VerifyRound {
    if !fleet::is_attached() {
        return VerifyRound::Idle;
    }
    // Whatever goes wrong here is told by the refresh.
    if attempt(fleet::is_sealed).unwrap_or(false) { VerifyRound::Due } else { VerifyRound::TooEarly }
}

/// Computes the statistics both ways. `holding` is told what is read for long.
pub fn compare(limit_ms: i32, holding: impl FnOnce([pg_sys::Oid; 2])) -> Compared {
    let started = Instant::now();
    let as_of = pgrx::datetime::clock_timestamp().into_inner();
    let found = attempt_within(limit_ms, || fleet::compare(holding));
    Compared { found, as_of, duration: started.elapsed() }
}

/// Keeps what was found, and voids the seal when it was wrong. False when nothing could be compared, kept or voided: it is to
/// be done again soon.
pub fn finish_verify(compared: Compared) -> bool {
    let ours = ["feed_health", "seal_markers"].map(|table| find_relation(INTERNAL, table));
    if !ours.iter().all(|table| table.is_some_and(lock_for_writing_now)) {
        return false;
    }
    let Compared { found, as_of, duration } = compared;
    let differences = match found {
        Ok(None) => return false,
        Ok(Some(differences)) => differences,
        Err(failure) => {
            health::record_and_log(FEED, &Err(failure));
            return true;
        }
    };
    if !differences.is_empty() && !fleet::void_seal("verify found a difference") {
        return false;
    }
    health::record_and_log(FEED, &Ok(Refresh { as_of, duration }));
    if !differences.is_empty() {
        // Where the row cannot be written, the last line has said why.
        let _ = attempt(|| keep(&differences));
        tell(&differences);
    }
    true
}

/// The last difference stays to be seen after it was mended.
fn keep(differences: &Map<String, Value>) {
    let differences = Value::Object(differences.clone()).to_string();
    execute(
        "update busymate_stats_internal.feed_health set note = $2, note_since = pg_catalog.clock_timestamp() where feed = $1",
        &[Param::Text(FEED), Param::Text(&differences)],
    );
}

fn tell(differences: &Map<String, Value>) {
    let figures: Vec<String> = differences
        .iter()
        .map(|(figure, both)| {
            format!("{figure} {} instead of {}", short(&both["incremental"]), short(&both["recomputed"]))
        })
        .collect();
    ereport!(
        WARNING,
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        "busymate_stats: the sealed statistics differ from a plain count",
        format!(
            "{}. They are counted anew, and answered by the plain query until then; please report this.",
            figures.join("; ")
        )
    );
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(LOGGED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
