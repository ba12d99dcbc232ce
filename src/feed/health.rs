//! How each feed fares, for the view `health`, and for the log when it changes.

use super::{Round, WRITE_MS};
use crate::fleet::Timestamp;
use crate::fleet::sealed::progress::progress;
use crate::pg::identity;
use crate::pg::query::{Param, execute, select_latest};
use crate::pg::relation::lock_for_writing_now;
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::shared;
use crate::pg::transaction::{Failure, attempt_within};
use crate::schemas::INTERNAL;
use pgrx::prelude::*;
use std::time::Duration;

/// How old what is kept of a feed may grow while nothing but its moment changes. The moment itself stands in shared memory,
/// or in the feed: an idle database would otherwise write a row every few seconds. What is kept is for after a restart,
/// and for standbys.
const KEPT: &str = "5 min";

const SEAL: &str = "seal";

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

/// What is kept of a feed.
struct Kept {
    last_error: Option<String>,
    note: Option<String>,
    is_young: bool,
}

impl Kept {
    fn of(feed: &str) -> Option<Self> {
        let sql = format!(
            "select last_error, note,
                    coalesce(last_refresh between pg_catalog.clock_timestamp() - interval '{KEPT}'
                                              and pg_catalog.clock_timestamp(), false)
               from busymate_stats_internal.feed_health where feed = $1"
        );
        let kept = select_latest(&sql, &[Param::Text(feed)], |row| Self {
            last_error: row.text(1),
            note: row.text(2),
            is_young: row.bool(3),
        });
        kept.into_iter().next()
    }

    /// Whether nothing but the moment has changed, when the feed works and this is to be said of it.
    fn says(&self, note: Option<&str>) -> bool {
        self.is_young && self.last_error.is_none() && self.note.as_deref() == note
    }
}

/// [`record_and_log`] of a feed whose row says itself when it was written: what is young enough is not kept anew.
pub fn record_seldom_and_log(feed: &str, result: &Result<Refresh, Failure>) -> Round {
    let kept = Kept::of(feed);
    let says_it = match (&kept, result) {
        (Some(kept), Ok(_)) => kept.is_young && kept.last_error.is_none(),
        (Some(kept), Err(failure)) => kept.last_error.as_deref() == Some(&*describe(failure)),
        (None, _) => false,
    };
    if says_it { ended(result) } else { record_and_log(feed, result) }
}

/// How a round ended whose work ended so.
fn ended(result: &Result<Refresh, Failure>) -> Round {
    match result {
        Err(failure) if failure.out_of_time => Round::OutOfTime,
        _ => Round::Done,
    }
}

/// [`record`] for a background worker, and a line in the log when an error appears, changes or goes.
pub fn record_and_log(feed: &str, result: &Result<Refresh, Failure>) -> Round {
    let before = select_latest(
        "select last_error from busymate_stats_internal.feed_health where feed = $1",
        &[Param::Text(feed)],
        |row| row.text(1),
    )
    .pop()
    .flatten();
    // A row that cannot be written must not end the worker, which would do no more for the other feeds either.
    if let Err(failure) = attempt_within(WRITE_MS, || record(feed, result)) {
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
    ended(result)
}

/// Keeps that a worker was ended from outside, which could not say so itself.
pub fn tell_ended(feed: &str, message: &str) -> Round {
    if !can_be_kept() {
        return Round::Locked;
    }
    // query_canceled, as where the worker's own time limit ends it.
    let failure = Failure { sqlstate: "57014".into(), message: message.into(), ..Failure::default() };
    record_and_log(feed, &Err(failure))
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
    note(SEAL, result, progress)
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
            ticked(feed);
            if Kept::of(feed).is_some_and(|kept| kept.says(reason.as_deref())) {
                return true;
            }
            let kept = attempt_within(WRITE_MS, || {
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
        Err(failure) => {
            record_seldom_and_log(feed, &Err(failure.clone()));
        }
    }
    true
}

/// Of the sealers' ticks, `health` shows the moment of those that seal entries.
fn ticked(feed: &str) {
    if feed == SEAL {
        let now = pgrx::datetime::clock_timestamp().into_inner();
        shared::write(|board| board.ticked(identity::database(), now));
    }
}

fn describe(failure: &Failure) -> String {
    let cure = failure.hint.as_ref().map_or_else(String::new, |hint| format!(". {hint}"));
    format!("{}: {}{cure}", failure.sqlstate, failure.message)
}
