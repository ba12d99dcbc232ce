//! Whether the infrastructure is healthy: the host, HTTP probes, systemd units, and the roll-up.
//!
//! Plain Rust: nothing here knows of PostgreSQL, and helper threads must not, for a server process has one thread.

mod check;
mod component;
mod host;
mod probe;
mod report;
mod rollup;
mod snapshot;
mod units;

pub use check::{Check, Checked};
pub use component::Component;
pub use host::{Reading, this_host};
pub use report::{LIMIT_BYTES, read_report};
pub use rollup::snapshot_of;
pub use snapshot::Snapshot;
