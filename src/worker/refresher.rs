//! One tick of one job in one database.

use super::job::Job;
use super::outcome::Outcome;
use super::sealing;
use crate::feed::{StatusRound, VerifyRound};
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
}

impl Assignment {
    /// As a background worker's argument.
    pub fn to_argument(self) -> u64 {
        (self.job.index() as u64) << 48 | (self.slot as u64) << 32 | u64::from(self.database)
    }

    /// From a background worker's argument.
    pub fn from_argument(argument: u64) -> Self {
        Self {
            database: argument as u32,
            slot: (argument >> 32) as usize & 0xFFFF,
            job: Job::at((argument >> 48) as usize),
        }
    }
}

/// The main function of a worker's process.
pub fn run(assignment: Assignment) {
    background::begin(OnTerminate::EndQuery, Some(pg_sys::Oid::from(assignment.database)));
    pin_settings();
    let outcome = match assignment.job {
        Job::Refresh => transaction::transaction(refresh),
        Job::Seal => transaction::transaction(obstacle).unwrap_or_else(sealing::run),
        Job::Status => check_infrastructure(),
        Job::Verify => verify(assignment.slot),
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

fn done(done: bool) -> Outcome {
    if done { Outcome::Done } else { Outcome::SteppedAside }
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
fn verify(slot: usize) -> Outcome {
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
        feed::compare(verify_limit_ms(), |relations| {
            shared::write(|board| board.hold(slot, relations));
        })
    });
    transaction::transaction(|| obstacle().unwrap_or_else(|| done(feed::finish_verify(compared))))
}

/// The other databases wait for their turn.
fn verify_limit_ms() -> i32 {
    settings::verify_interval_ms().max(10 * 60 * 1000)
}

/// A refresh that takes ten intervals is not one: better told than waited for.
fn refresh_limit_ms() -> i32 {
    settings::refresh_interval_ms().saturating_mul(10).max(10_000)
}

#[cfg(test)]
mod tests {
    use super::{Assignment, Job};

    #[test]
    fn an_assignment_survives_the_trip() {
        let assignment = Assignment { database: u32::MAX, job: Job::Status, slot: 3 };
        assert_eq!(Assignment::from_argument(assignment.to_argument()), assignment);
    }
}
