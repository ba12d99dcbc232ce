//! One tick in one database.

use super::outcome::Outcome;
use crate::pg::background::{self, OnTerminate};
use crate::pg::{shared, transaction};
use crate::{feed, settings, version};
use pgrx::pg_sys;

/// The database and the place to report to, packed into a background worker's one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The database's OID.
    pub database: u32,
    /// The slot in shared memory.
    pub slot: usize,
}

impl Assignment {
    /// As a background worker's argument.
    pub fn to_argument(self) -> u64 {
        (self.slot as u64) << 32 | u64::from(self.database)
    }

    /// From a background worker's argument.
    pub fn from_argument(argument: u64) -> Self {
        Self { database: argument as u32, slot: (argument >> 32) as usize }
    }
}

/// The main function of a worker's process.
pub fn run(assignment: Assignment) {
    background::begin(OnTerminate::EndQuery, Some(pg_sys::Oid::from(assignment.database)));
    pin_settings();
    let outcome = transaction::transaction(tick);
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

fn tick() -> Outcome {
    match version::installed() {
        None => return Outcome::Absent,
        Some(version) if version != version::LIBRARY => return Outcome::VersionDiffers,
        Some(_) => {}
    }
    // A refresh that takes ten intervals is not one: better told than waited for.
    let limit = settings::refresh_interval_ms().saturating_mul(10).max(10_000);
    if feed::tick(limit) { Outcome::Done } else { Outcome::SteppedAside }
}

#[cfg(test)]
mod tests {
    use super::Assignment;

    #[test]
    fn an_assignment_survives_the_trip() {
        let assignment = Assignment { database: u32::MAX, slot: 3 };
        assert_eq!(Assignment::from_argument(assignment.to_argument()), assignment);
    }
}
