//! `service_status`: one row, replaced in place, by this server or by a reporter elsewhere.

use super::components;
use super::health::{self, Refresh};
use super::stats::restore_publications;
use super::{Round, WRITE_MS};
use crate::access::caller_grants;
use crate::error::UserError;
use crate::fleet::{self, Timestamp};
use crate::pg::background;
use crate::pg::identity::as_owner;
use crate::pg::jsonb::{Jsonb, TooBig};
use crate::pg::query::{Param, execute, execute_confined, select, select_latest};
use crate::pg::relation::{self, lock_for_reading_now, lock_for_writing_now};
use crate::pg::scan::find_relation;
use crate::pg::transaction::{Failure, attempt_within};
use crate::pg::write_guard::reading_own;
use crate::schemas::{INTERNAL, OPERATORS};
use crate::settings::{self, StatusSource};
use crate::status::{self, Check, Checked, Component, LIMIT_BYTES, Reading, Snapshot, snapshot_of};
use crate::version;
use pgrx::prelude::*;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

const FEED: &str = "status";

/// Where the health of reporting is kept: when the last report came.
const REPORT: &str = "report";

/// The deepest value of the shape has five levels above it.
const MOST_LEVELS: usize = 16;

/// What a worker's tick has before it.
pub enum StatusRound {
    /// Nothing: somebody else writes the feed.
    Idle,
    /// These components are to be asked.
    Due(Due),
}

/// Components to be asked, or why they could not be read.
pub struct Due(Result<Vec<Component>, Failure>);

/// What they answered.
pub struct Answers {
    found: Result<(Reading, Vec<Checked>), Failure>,
    duration: Duration,
}

/// The first part of a background worker's tick: reads what is to be asked. `None` when our tables are locked against
/// reading, as DROP EXTENSION does.
pub fn begin_status() -> Option<StatusRound> {
    let ours = [find_relation(OPERATORS, "components"), find_relation(INTERNAL, "feed_health")];
    if !ours.iter().all(|table| table.is_some_and(lock_for_reading_now)) {
        return None;
    }
    if settings::status_source() != StatusSource::Local || report_stands() {
        return Some(StatusRound::Idle);
    }
    Some(StatusRound::Due(Due(attempt_within(WRITE_MS, components::enabled))))
}

impl Due {
    /// Asks all of them, and sleeps by `pause` until they have answered or their time is over. `pause` may end the
    /// process: nobody waits for the threads.
    pub fn ask(self, pause: impl Fn(i64)) -> Answers {
        let started = Instant::now();
        let found = self.0.and_then(|components| {
            let mut check = Check::start(components);
            while let Some(time) = check.pause() {
                pause(time.as_millis().max(1) as i64);
            }
            let reading = status::this_host().map_err(host_unknown)?;
            Ok((reading, check.finish()))
        });
        Answers { found, duration: started.elapsed() }
    }
}

fn host_unknown(message: String) -> Failure {
    // io_error
    Failure { sqlstate: "58030".into(), message, ..Failure::default() }
}

/// The last part of a tick: writes what was found.
pub fn finish_status(answers: Answers) -> Round {
    let ours = [find_relation("public", "service_status"), find_relation(INTERNAL, "component_checks")];
    if !health::can_be_kept() || ours.into_iter().flatten().any(|table| !lock_for_writing_now(table)) {
        return Round::Locked;
    }
    let Answers { found, duration } = answers;
    let written = found
        .and_then(|(reading, checked)| attempt_within(WRITE_MS, || write_unless_reported(reading, checked)));
    let result = match written {
        Ok(None) => return Round::Done,
        Ok(Some(as_of)) => {
            attempt_within(WRITE_MS, restore_publications).map(|()| Refresh { as_of, duration })
        }
        Err(failure) => Err(failure),
    };
    health::record_seldom_and_log(FEED, &result)
}

/// A report may have come while the components were asked, or be about to commit: with the row locked, one that is there
/// is seen.
fn write_unless_reported(reading: Reading, checked: Vec<Checked>) -> Option<Timestamp> {
    execute_confined("service_status", "select from public.service_status where id = 1 for update", &[]);
    if settings::status_source() != StatusSource::Local || report_stands() {
        return None;
    }
    Some(write(reading, checked))
}

fn write(reading: Reading, checked: Vec<Checked>) -> Timestamp {
    let as_of = now();
    let mut reasons = Map::new();
    let mut components = Vec::new();
    for one in checked {
        reasons.insert(one.status.key.clone(), one.reason.into());
        components.push((one.status, one.critical));
    }
    store(&snapshot_of(reading.host, components), as_of);
    health::set_note(FEED, reading.unknown.as_deref());
    execute(
        "insert into busymate_stats_internal.component_checks as kept (id, checked_at, reasons)
         values (1, $1, $2::pg_catalog.jsonb)
         on conflict (id) do update set checked_at = excluded.checked_at, reasons = excluded.reasons",
        &[Param::Timestamp(as_of), Param::Text(&Value::Object(reasons).to_string())],
    );
    as_of
}

fn store(snapshot: &Snapshot, as_of: Timestamp) {
    let text = serde_json::to_string(snapshot).unwrap_or_else(|error| panic!("a snapshot is JSON: {error}"));
    execute_confined(
        "service_status",
        "insert into public.service_status as feed (id, snapshot, updated_at) values (1, $1::pg_catalog.jsonb, $2) \
         on conflict (id) do update set snapshot = excluded.snapshot, updated_at = excluded.updated_at",
        &[Param::Text(&text), Param::Timestamp(as_of)],
    );
}

fn now() -> Timestamp {
    pgrx::datetime::clock_timestamp().into_inner()
}

/// Whether the last report is younger than three intervals. One from the future, before the clock was set back, is not.
fn report_stands() -> bool {
    let young = 3_000 * i64::from(settings::status_interval_ms());
    let found = select_latest(
        "select last_refresh from busymate_stats_internal.feed_health where feed = $1 and last_refresh is not null",
        &[Param::Text(REPORT)],
        |row| row.timestamp(1),
    );
    // Any moment at all may stand there, infinite ones too.
    found.iter().any(|reported| now().abs_diff(*reported) < young.unsigned_abs())
}

/// Checks the infrastructure and puts what it finds into the row of `service_status`; gives its `updated_at`. A report
/// that is young enough stands, as it does for the worker.
///
/// Not gated by claims, like `refresh_stats`.
#[pg_extern(sql = false)]
fn refresh_status() -> TimestampWithTimeZone {
    version::require_match();
    if settings::status_source() != StatusSource::Local {
        UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "busymate_stats.status_source keeps this server from writing service_status",
        )
        .hint("Set busymate_stats.status_source to \"local\" in postgresql.conf, and reload.")
        .raise()
    }
    if report_stands() {
        let sql = "select (extract(epoch from updated_at - timestamptz '2000-01-01 00:00+00') * 1000000)\
                   ::pg_catalog.int8 from public.service_status";
        // As the table's owner: what stands in its place, should somebody have moved the schema, has no more rights.
        let table = find_relation("public", "service_status").and_then(relation::lock);
        let read = |owner| as_owner(owner, || reading_own(|| select_latest(sql, &[], |row| row.int(1))));
        if let Some(updated_at) = table.and_then(|table| read(table.owner).pop()) {
            return fleet::timestamp(updated_at);
        }
    }
    let Answers { found, duration } = Due(Ok(components::enabled())).ask(background::pause);
    let (reading, checked) = found
        .unwrap_or_else(|failure| UserError::new(PgSqlErrorCode::ERRCODE_IO_ERROR, failure.message).raise());
    let as_of = write(reading, checked);
    health::record(FEED, &Ok(Refresh { as_of, duration }));
    restore_publications();
    fleet::timestamp(as_of)
}

/// Puts a reporter's snapshot into the row of `service_status`. Needs `status:edit`; what does not have the feed's
/// shape is refused with the path of the field.
#[pg_extern(sql = false)]
fn report_status(message: Option<Jsonb>) {
    let started = Instant::now();
    if !caller_grants().hold("status", "edit") {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to report the status",
        )
        .detail("It takes the capability \"status:edit\".")
        .hint("SELECT busymate_stats.assign_role('<sub>', '<role>') gives a user a role that holds it.")
        .raise()
    }
    version::require_match();
    if settings::status_source() == StatusSource::Off {
        UserError::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the status feed is off")
            .hint("Set busymate_stats.status_source to \"local\" or \"reported\" in postgresql.conf, and reload.")
            .raise()
    }
    let report = match message.map(|message| message.read(LIMIT_BYTES, MOST_LEVELS)) {
        None => Value::Null,
        Some(Ok(report)) => report,
        Some(Err(TooBig::Long)) => refuse("the report: it is longer than 64 kB".into()),
        Some(Err(TooBig::Deep)) => refuse("the report: it is nested too deep".into()),
    };
    let Some(table) = find_relation("public", "service_status").and_then(relation::lock) else {
        unreachable!("the extension has its tables");
    };
    // The caller needs no right on the tables; what a trigger on them does, it does with their owner's rights.
    let outcome = as_owner(table.owner, || {
        let critical = components::critical_keys();
        let snapshot = status::read_report(&report, &|key| critical.contains(key))?;
        let as_of = now();
        store(&snapshot, as_of);
        health::set_note(FEED, None);
        for feed in [FEED, REPORT] {
            health::record(feed, &Ok(Refresh { as_of, duration: started.elapsed() }));
        }
        Ok(())
    });
    outcome.unwrap_or_else(|problem| refuse(problem));
}

fn refuse(problem: String) -> ! {
    UserError::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, problem)
        .hint("A report has the shape of service_status.snapshot.")
        .raise()
}

/// The snapshot in the row, as JSON text; `None` before there is one. Who may see it is the caller's to check: the row
/// is read as the table's owner, whatever rights the reader has on it.
pub fn snapshot() -> Option<String> {
    let table = find_relation("public", "service_status").and_then(relation::lock)?;
    let sql = "select snapshot::pg_catalog.text from public.service_status where id = 1";
    as_owner(table.owner, || reading_own(|| select(sql, &[], |row| row.text(1)))).pop().flatten()
}
