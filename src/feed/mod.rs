//! The snapshot rows that PostgREST and Realtime serve, and how well they are kept.

mod health;
mod stats;

pub use health::note_seal;
pub use stats::tick;
