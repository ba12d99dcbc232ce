//! The sealed window: exact figures at a cost that does not grow with the table.
//!
//! `sealer` moves a boundary forward and counts what lies before it; `reader` corrects those counts by the few rows
//! between the sealed windows and the ones asked for; writers write down what they change behind the boundary's back
//! (`capture` and `late`, next door). What decides is pure: `window`, `counts`, `toplist`, `packed`.

mod base;
pub mod counts;
mod few;
pub mod look;
mod packed;
pub mod progress;
pub mod reader;
mod rows;
pub mod sealer;
pub mod state;
pub mod tally;
pub mod toplist;
pub mod window;
