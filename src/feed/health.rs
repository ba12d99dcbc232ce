//! How each feed fares, for the view `health`, and for the log when it changes.

use crate::fleet::Timestamp;
use crate::fleet::sealed::progress::progress;
use crate::pg::query::{Param, execute, select_latest};
use crate::pg::relation::lock_for_writing_now;
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::transaction::{Failure, attempt};
use crate::schemas::INTERNAL;
use pgrx::prelude::*;
use std::time::Duration;

/// A refresh that worked.
pub struct Refresh {
    /// The moment of its figures.
    pub as_of: Timestamp,
    /// How long it took.
    pub duration: Duration,
}

/// Whether how a feed fares can be written down: not where the table is locked against it or gone, as while DROP EXTENSION
/// runs. Where another table of ours is missing, somebody has moved it, and that can be told.
pub fn can_be_kept() -> bool {
    find_relation(INTERNAL, "feed_health").is_some_and(lock_for_writing_now)
}

/// Keeps how a refresh ended.
pub fn record(feed: &str, result: &Result<Refresh, Failure>) {
    match result {
        Ok(refresh) => execute(
            "insert into busymate_stats_internal.feed_health as kept (feed, last_refresh, duration)
             values ($1, $2, $3 * interval '1 microsecond')
             on conflict (feed) do update
                set last_refresh = excluded.last_refresh, duration = excluded.duration,
                    last_error = null, error_since = null",
            &[
                Param::Text(feed),
                Param::Timestamp(refresh.as_of),
                Param::Int(refresh.duration.as_micros() as i64),
            ],
        ),
        Err(failure) => execute(
            "insert into busymate_stats_internal.feed_health as kept (feed, last_error, error_since)
             values ($1, $2, pg_catalog.clock_timestamp())
             on conflict (feed) do update
                set last_error = excluded.last_error,
                    error_since = coalesce(kept.error_since, excluded.error_since)",
            &[Param::Text(feed), Param::Text(&describe(failure))],
        ),
    }
}

/// [`record`], and a line in the log when an error appears, changes or goes.
pub fn record_and_log(feed: &str, result: &Result<Refresh, Failure>) {
    let before = select_latest(
        "select last_error from busymate_stats_internal.feed_health where feed = $1",
        &[Param::Text(feed)],
        |row| row.text(1),
    )
    .pop()
    .flatten();
    // A row that cannot be written must not end the worker, which would do no more for the other feeds either.
    if let Err(failure) = attempt(|| record(feed, result)) {
        warn_unrecorded(&failure);
    }
    match (before, result) {
        (before, Err(failure)) if before.as_deref() != Some(&*describe(failure)) => {
            let message = format!("busymate_stats could not {}: {}", task(feed).0, failure.message);
            ereport!(
                WARNING,
                PgSqlErrorCode::ERRCODE_WARNING,
                message,
                format!(
                    "SQLSTATE {}. It is tried again at every tick; busymate_stats.health shows it.",
                    failure.sqlstate
                )
            );
        }
        (Some(_), Ok(_)) => log!("busymate_stats {} again", task(feed).1),
        _ => {}
    }
}

fn warn_unrecorded(failure: &Failure) {
    ereport!(
        WARNING,
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("busymate_stats could not keep how a feed fares: {}", failure.message),
        format!(
            "SQLSTATE {}. busymate_stats_internal.foreign_objects names what is in the way.",
            failure.sqlstate
        )
    );
}

/// What is done for a feed, as one says that it fails and that it goes on.
fn task(feed: &str) -> (String, String) {
    match feed {
        "verify" => ("verify what is sealed".into(), "verifies what is sealed".into()),
        _ => (format!("refresh the {feed} feed"), format!("refreshes the {feed} feed")),
    }
}

/// Keeps what is to be said of a feed that works, or that there is nothing. Writes only what is new.
pub fn set_note(feed: &str, note: Option<&str>) {
    execute(
        "insert into busymate_stats_internal.feed_health as kept (feed, note, note_since)
         select $1, said.note, case when said.note is not null then pg_catalog.clock_timestamp() end
           from (select nullif($2, '')) said (note)
          where said.note is distinct from
                (select present.note from busymate_stats_internal.feed_health present where present.feed = $1)
         on conflict (feed) do update
            set note = excluded.note,
                note_since = case when excluded.note is not null
                                  then coalesce(kept.note_since, excluded.note_since) end",
        &[Param::Text(feed), Param::Text(note.unwrap_or_default())],
    );
}

/// Whether something is said of a feed.
pub fn has_note(feed: &str) -> bool {
    let mut found = false;
    if let Some(table) = find_relation(INTERNAL, "feed_health") {
        // feed is the first column, note the sixth.
        scan(table, None, None, Seen::Latest, |row| {
            found = found || row.text(1) == feed.as_bytes() && !row.text(6).is_empty();
        });
    }
    found
}

/// Keeps how a tick of the sealer ended: well, with a reason why no more could be done, or with an error. False when our
/// table is locked against writing.
pub fn note_seal(result: &Result<Option<String>, Failure>) -> bool {
    note("seal", result, progress)
}

/// The same of a tick of the roster's sealer.
pub fn note_roster(result: &Result<Option<String>, Failure>) -> bool {
    note("devices", result, || None)
}

fn note(
    feed: &str,
    result: &Result<Option<String>, Failure>,
    progress: impl FnOnce() -> Option<String>,
) -> bool {
    if !can_be_kept() {
        return false;
    }
    match result {
        Ok(reason) => {
            let reason = reason.clone().or_else(progress);
            let kept = attempt(|| {
                execute(
                    "insert into busymate_stats_internal.feed_health as kept (feed, last_refresh, note, note_since)
                 values ($2, pg_catalog.clock_timestamp(), nullif($1, ''),
                         case when $1 <> '' then pg_catalog.clock_timestamp() end)
                 on conflict (feed) do update
                    set last_refresh = excluded.last_refresh, note = excluded.note,
                        note_since = case when excluded.note is null then null
                                          else coalesce(kept.note_since, excluded.note_since) end,
                        last_error = null, error_since = null",
                    &[Param::Text(reason.as_deref().unwrap_or_default()), Param::Text(feed)],
                )
            });
            if let Err(failure) = kept {
                warn_unrecorded(&failure);
            }
        }
        Err(failure) => record_and_log(feed, &Err(failure.clone())),
    }
    true
}

fn describe(failure: &Failure) -> String {
    let cure = failure.hint.as_ref().map_or_else(String::new, |hint| format!(". {hint}"));
    format!("{}: {}{cure}", failure.sqlstate, failure.message)
}
