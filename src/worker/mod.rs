//! The refresher: a launcher that belongs to no database, and short-lived workers, one per database and tick.
//!
//! A worker that stayed connected would hold up DROP DATABASE and CREATE DATABASE … TEMPLATE; one that comes and goes is
//! out of the way between ticks, and within one the launcher ends it when somebody wants the database for himself.

mod job;
mod launcher;
mod outcome;
mod refresher;
mod roster;
mod schedule;
mod sealing;

use crate::pg::background::{self, Mains};
use crate::pg::{identity, setting, shared};
use pgrx::prelude::*;
use serde_json::json;
use std::ffi::{CStr, c_char};

const LAUNCHER: &CStr = c"busymate_stats launcher";
const WORKER: &CStr = c"busymate_stats worker";

/// Registers the launcher, where the server preloads the library, and the setting that shows how it fares.
pub fn register() {
    setting::define(
        c"busymate_stats.launcher_state",
        c"How the launcher fares, as JSON; computed.",
        show_state,
    );
    background::set_mains(Mains {
        launcher: || launcher::run(),
        worker: |argument| refresher::run(refresher::Assignment::from_argument(argument)),
    });
    if background::is_preloading() {
        shared::request();
        background::register_launcher(LAUNCHER);
    }
}

/// What `health` shows of the launcher. A setting, since a function would need EXECUTE for whoever reads the view.
#[pg_guard]
extern "C-unwind" fn show_state() -> *const c_char {
    let board = shared::read();
    let database = identity::database();
    let sealed_at = board.last_tick(database).map(crate::fleet::iso);
    let no_slot_since = (board.no_slot_since != 0).then(|| crate::fleet::iso(board.no_slot_since));
    let state = json!({
        "preloaded": shared::is_preloaded(),
        "launcher_pid": (board.launcher != 0).then_some(board.launcher),
        "no_free_worker_slot_since": no_slot_since,
        "library_version": crate::version::LIBRARY,
        "sealer_ticked_at": sealed_at,
    });
    setting::palloc_string(&state.to_string())
}

/// Has the launcher look at this database once the running transaction has committed, so that a new extension is
/// refreshed at once.
#[pg_extern]
fn announce() {
    shared::announce_at_commit();
}
