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
}

/// Every job. The first that is on looks whether a database has the extension.
pub const JOBS: [Job; 3] = [Job::Refresh, Job::Seal, Job::Status];

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

    /// How often it runs; `None` for never.
    pub fn interval(self) -> Option<Duration> {
        let milliseconds = match self {
            Job::Refresh => settings::refresh_interval_ms(),
            Job::Seal => settings::seal_interval_ms(),
            Job::Status if settings::status_source() != StatusSource::Local => 0,
            Job::Status => settings::status_interval_ms(),
        };
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds as u64))
    }
}
