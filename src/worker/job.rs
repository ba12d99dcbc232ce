//! What a worker is started for.

use crate::settings::{self, StatusSource};
use std::time::Duration;

/// A kind of tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Refresh `service_stats`.
    Refresh,
    /// Move the seal forward.
    Seal,
    /// Check the infrastructure, for `service_status`.
    Status,
    /// Hold the sealed statistics against a plain count.
    Verify,
}

/// Every job. The first that is on looks whether a database has the extension.
pub const JOBS: [Job; 4] = [Job::Refresh, Job::Seal, Job::Status, Job::Verify];

/// How long a job that has time waits before a database's first turn: until a server that has just started has done
/// what is asked of it first.
const REST: Duration = Duration::from_secs(10 * 60);

/// When such a job is tried again that could not be done, or was ended for DDL.
const RETRY: Duration = Duration::from_secs(60 * 60);

/// When any other is.
pub const ASIDE: Duration = Duration::from_secs(1);

impl Job {
    /// Its place among [`JOBS`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The job at a place among [`JOBS`]; the first for a place that is none.
    pub fn at(index: usize) -> Self {
        JOBS.get(index).copied().unwrap_or(JOBS[0])
    }

    /// Whether it spends its time waiting for others: up to three seconds when they hang.
    pub fn waits(self) -> bool {
        self == Job::Status
    }

    /// Whether it reads so much that one database after the other has it, and none at once.
    pub fn has_time(self) -> bool {
        self == Job::Verify
    }

    /// How long after a database was found its first turn comes.
    pub fn first_after(self, interval: Duration) -> Duration {
        if self.has_time() { interval.min(REST) } else { Duration::ZERO }
    }

    /// When to try again after stepping aside.
    pub fn again_after(self, interval: Duration) -> Duration {
        if self.has_time() { interval.min(RETRY) } else { ASIDE }
    }

    /// How often it runs; `None` for never.
    pub fn interval(self) -> Option<Duration> {
        let milliseconds = match self {
            Job::Refresh => settings::refresh_interval_ms(),
            Job::Seal => settings::seal_interval_ms(),
            Job::Status if settings::status_source() != StatusSource::Local => 0,
            Job::Status => settings::status_interval_ms(),
            Job::Verify => settings::verify_interval_ms(),
        };
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds as u64))
    }
}
