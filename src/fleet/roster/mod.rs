//! The roster: how many devices there are, of which connection type, and how many are online, at a cost that depends on
//! neither their number nor their heartbeats.
//!
//! `sealer` counts all devices now and then; a trigger (`watch`) writes down what changes a figure from then on, and a
//! heartbeat does not; `reader` adds that to what was counted. What decides is pure: `pace`, `moments`.

mod changes;
mod moments;
mod pace;
mod print;
pub mod reader;
pub mod sealer;
mod state;
pub mod triggers;
mod watch;

pub use watch::register;

/// The name of the trigger on devices.
const TRIGGER: &str = "busymate_stats_roster";
