//! One tick of one job in one database.

use super::job::Job;
use super::outcome::Outcome;
use super::schedule::{Brief, Cause};
use super::sealing;
use crate::feed::{Round, StatusRound, VerifyRound};
use crate::pg::background::{self, OnTerminate};
use crate::pg::{shared, transaction};
use crate::{feed, settings, version};
use pgrx::pg_sys;

/// The database, the job and the place to report to, packed into a background worker's one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The database's OID.
    pub database: u32,
    /// What to do there.
    pub job: Job,
    /// The slot in shared memory.
    pub slot: usize,
    /// How the job has fared.
    pub brief: Brief,
}

impl Assignment {
    /// As a background worker's argument.
    pub fn to_argument(self) -> u64 {
        let tell = match self.brief.tell {
            None => 0,
            Some(Cause::InTheWay) => 1,
            Some(Cause::OutOfTime) => 2,
            Some(Cause::OthersTurn) => 3,
        };
        tell << 56
            | (self.job.index() as u64) << 48
            | u64::from(self.brief.ended) << 40
            | (self.slot as u64) << 32
            | u64::from(self.database)
    }

    /// From a background worker's argument.
    pub fn from_argument(argument: u64) -> Self {
        Self {
            database: argument as u32,
            slot: (argument >> 32) as usize & 0xFF,
            job: Job::at((argument >> 48) as usize & 0xFF),
            brief: Brief {
                ended: (argument >> 40) as u8,
                tell: match argument >> 56 {
                    1 => Some(Cause::InTheWay),
                    2 => Some(Cause::OutOfTime),
                    3 => Some(Cause::OthersTurn),
                    _ => None,
                },
            },
        }
    }
}

/// The main function of a worker's process.
pub fn run(assignment: Assignment) {
    background::begin(OnTerminate::EndQuery, Some(pg_sys::Oid::from(assignment.database)));
    shared::work_in_slot(assignment.slot);
    pin_settings();
    let ended = assignment.brief.ended;
    let outcome = match (assignment.brief.tell, assignment.job) {
        (Some(cause), job) => transaction::transaction(|| tell(cause, job)),
        (None, Job::Refresh) => transaction::transaction(refresh),
        (None, Job::Seal) => {
            transaction::transaction(obstacle).unwrap_or_else(|| sealing::run(seal_limit_ms(ended), ended))
        }
        (None, Job::Status) => check_infrastructure(),
        (None, Job::Verify) => verify(assignment.slot, verify_limit_ms(ended)),
    };
    shared::write(|board| board.report(assignment.slot, outcome.to_number()));
}

/// ALTER DATABASE and ALTER ROLE may set anything, for people's sessions. These decide whether a worker can work.
fn pin_settings() {
    background::belong_to_first_superuser();
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        // Whoever owns the database may set these too.
        (c"exit_on_error", c"off"),
        (c"role", c"none"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"session_replication_role", c"origin"),
        // Before anybody's deadlock_timeout: where a worker and a user's DDL wait for each other, the worker gives way.
        (c"lock_timeout", c"500ms"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"application_name", c"busymate_stats"),
        // A standby that does not answer must not hold up a worker.
        (c"synchronous_commit", c"local"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
    ] {
        background::override_setting(name, value);
    }
}

/// Why nothing is to be done in this database, if so.
fn obstacle() -> Option<Outcome> {
    match version::installed() {
        None => Some(Outcome::Absent),
        Some(version) if version != version::LIBRARY => Some(Outcome::VersionDiffers),
        Some(_) => None,
    }
}

fn refresh() -> Outcome {
    obstacle().unwrap_or_else(|| done(feed::tick(refresh_limit_ms())))
}

/// Keeps for `health` that the job was ended from outside, when it could no longer say so.
fn tell(cause: Cause, job: Job) -> Outcome {
    let message = match cause {
        Cause::OutOfTime => "a worker was ended: its time was over, and it went on",
        Cause::InTheWay => "a worker was ended: others waited for what it held",
        Cause::OthersTurn => "a worker was ended: other databases waited for its turn to be over",
    };
    let feed = match job {
        Job::Refresh => "stats",
        Job::Seal => "seal",
        Job::Status => "status",
        Job::Verify => "verify",
    };
    obstacle().unwrap_or_else(|| done(feed::tell_ended(feed, message)))
}

fn done(round: Round) -> Outcome {
    match round {
        Round::Done => Outcome::Done,
        Round::Locked => Outcome::SteppedAside,
        Round::OutOfTime => Outcome::OutOfTime,
    }
}

/// No transaction is open while the components are asked: they may take seconds, and a snapshot would hold up vacuum.
fn check_infrastructure() -> Outcome {
    let begun = transaction::transaction(|| match obstacle() {
        Some(outcome) => Err(outcome),
        None => feed::begin_status().ok_or(Outcome::SteppedAside),
    });
    match begun {
        Err(outcome) => outcome,
        Ok(StatusRound::Idle) => Outcome::Done,
        Ok(StatusRound::Due(due)) => {
            let answers = due.ask(background::wait);
            transaction::transaction(|| obstacle().unwrap_or_else(|| done(feed::finish_status(answers))))
        }
    }
}

/// Three transactions: while the second counts, it holds no table of ours, and the last is over at once.
fn verify(slot: usize, limit_ms: i32) -> Outcome {
    // It may take long, but not much.
    background::override_setting(c"max_parallel_workers_per_gather", c"0");
    let begun = transaction::transaction(|| obstacle().map_or_else(|| Ok(feed::begin_verify()), Err));
    match begun {
        Err(outcome) => return outcome,
        Ok(VerifyRound::Idle) => return Outcome::Done,
        Ok(VerifyRound::TooEarly) => return Outcome::SteppedAside,
        Ok(VerifyRound::Due) => {}
    }
    let compared = transaction::transaction(|| {
        feed::compare(limit_ms, |relations| {
            shared::write(|board| board.hold(slot, relations));
        })
    });
    transaction::transaction(|| obstacle().unwrap_or_else(|| done(feed::finish_verify(compared))))
}

const HOUR_MS: i32 = 60 * 60 * 1000;

/// An hour is time for some thousand million entries. Who has more has twice as much the next time, up to a working day.
fn verify_limit_ms(ended: u8) -> i32 {
    (HOUR_MS << ended.min(3)).min(settings::verify_interval_ms().max(HOUR_MS))
}

/// A refresh that takes ten intervals is not one: better told than waited for.
fn refresh_limit_ms() -> i32 {
    settings::refresh_interval_ms().saturating_mul(10).max(10_000)
}

/// For one step, which is made to take a third of a second: a minute by default. Where a step cannot be made shorter, since so
/// many entries have the same time, the next try has twice as long, up to an hour.
fn seal_limit_ms(ended: u8) -> i32 {
    let first = settings::seal_interval_ms().saturating_mul(12).clamp(10_000, HOUR_MS);
    (first << ended.min(6)).min(HOUR_MS).max(first)
}

#[cfg(test)]
mod tests {
    use super::{Assignment, Brief, Cause, Job};

    #[test]
    fn an_assignment_survives_the_trip() {
        for tell in [None, Some(Cause::InTheWay), Some(Cause::OutOfTime), Some(Cause::OthersTurn)] {
            let brief = Brief { ended: u8::MAX, tell };
            let assignment = Assignment { database: u32::MAX, job: Job::Status, slot: 3, brief };
            assert_eq!(Assignment::from_argument(assignment.to_argument()), assignment);
        }
    }
}
