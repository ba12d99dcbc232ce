//! The snapshot rows that PostgREST and Realtime serve, and how well they are kept.

mod health;
mod stats;

pub use stats::tick;
