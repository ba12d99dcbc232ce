//! The snapshot rows that PostgREST and Realtime serve, and how well they are kept.

mod components;
mod health;
mod stats;
mod status;
mod verify;

pub use health::{note_roster, note_seal, tell_ended};
pub use stats::tick;
pub use status::snapshot as status_snapshot;
pub use status::{StatusRound, begin_status, finish_status};
pub use verify::{VerifyRound, begin_verify, compare, finish_verify};

/// How a worker's tick went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// It is done, well or badly: an error is kept for `health`.
    Done,
    /// Our tables are locked, as DROP EXTENSION does, or there was nothing to compare yet.
    Locked,
    /// The time was over, which is kept for `health`.
    OutOfTime,
}

/// What is written of a tick takes no longer: a few rows and what triggers of the operator make of them, or expired tokens.
const WRITE_MS: i32 = 60_000;
