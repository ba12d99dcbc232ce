//! The snapshot rows that PostgREST and Realtime serve, and how well they are kept.

mod components;
mod health;
mod stats;
mod status;
mod verify;

pub use health::{note_roster, note_seal};
pub use stats::tick;
pub use status::snapshot as status_snapshot;
pub use status::{StatusRound, begin_status, finish_status};
pub use verify::{VerifyRound, begin_verify, compare, finish_verify};
