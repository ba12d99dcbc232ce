//! The check of what is sealed, in the background: what it found is kept for `health`, and mended.

use super::health::{self, Refresh};
use super::{Round, WRITE_MS};
use crate::fleet::{self, Timestamp};
use crate::pg::query::{Param, execute};
use crate::pg::relation::lock_for_writing_now;
use crate::pg::scan::find_relation;
use crate::pg::transaction::{Failure, attempt_within};
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
    if attempt_within(WRITE_MS, fleet::is_sealed).unwrap_or(false) {
        VerifyRound::Due
    } else {
        VerifyRound::TooEarly
    }
}

/// Computes the statistics both ways. `holding` is told what is read for long.
pub fn compare(limit_ms: i32, holding: impl FnOnce([pg_sys::Oid; 2])) -> Compared {
    let started = Instant::now();
    let as_of = pgrx::datetime::clock_timestamp().into_inner();
    let found = attempt_within(limit_ms, || fleet::compare(holding));
    Compared { found, as_of, duration: started.elapsed() }
}

/// Keeps what was found, and voids the seal when it was wrong.
pub fn finish_verify(compared: Compared) -> Round {
    let ours = ["feed_health", "seal_markers"].map(|table| find_relation(INTERNAL, table));
    if !ours.iter().all(|table| table.is_some_and(lock_for_writing_now)) {
        return Round::Locked;
    }
    let Compared { found, as_of, duration } = compared;
    let differences = match found {
        Ok(None) => return Round::Locked,
        Ok(Some(differences)) => differences,
        Err(failure) => {
            return health::record_and_log(FEED, &Err(failure));
        }
    };
    if !differences.is_empty() && !fleet::void_seal("verify found a difference") {
        return Round::Locked;
    }
    health::record_and_log(FEED, &Ok(Refresh { as_of, duration }));
    if !differences.is_empty() {
        // Where the row cannot be written, the last line has said why.
        let _ = attempt_within(WRITE_MS, || keep(&differences));
        tell(&differences);
    }
    Round::Done
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
