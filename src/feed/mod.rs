//! The snapshot rows that PostgREST and Realtime serve, and how well they are kept.

mod components;
mod health;
mod stats;
mod status;

pub use health::{note_roster, note_seal};
pub use stats::tick;
pub use status::snapshot as status_snapshot;
pub use status::{StatusRound, begin_status, finish_status};
