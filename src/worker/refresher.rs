//! One tick of one job in one database.

use super::job::Job;
use super::outcome::Outcome;
use super::sealing;
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
    let mut outcome = transaction::transaction(presence);
    if outcome == Outcome::Done {
        outcome = match assignment.job {
            Job::Refresh => transaction::transaction(refresh),
            Job::Seal => sealing::run(),
        };
    }
    shared::write(|board| board.report(assignment.slot, outcome.to_number()));
}

/// ALTER DATABASE and ALTER ROLE may set anything, for people's sessions. These decide whether a worker can work.
fn pin_settings() {
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"role", c"none"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"session_replication_role", c"origin"),
        (c"lock_timeout", c"5s"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"application_name", c"busymate_stats"),
    ] {
        background::override_setting(name, value);
    }
}

/// Whether the extension is there, in the library's version.
fn presence() -> Outcome {
    match version::installed() {
        None => Outcome::Absent,
        Some(version) if version != version::LIBRARY => Outcome::VersionDiffers,
        Some(_) => Outcome::Done,
    }
}

fn refresh() -> Outcome {
    if feed::tick(refresh_limit_ms()) { Outcome::Done } else { Outcome::SteppedAside }
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
        let assignment = Assignment { database: u32::MAX, job: Job::Refresh, slot: 3 };
        assert_eq!(Assignment::from_argument(assignment.to_argument()), assignment);
    }
}
