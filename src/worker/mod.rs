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
    let database = identity::database();
    let waiting_since = board.late_since(database).map(crate::fleet::iso);
    let state = json!({
        "preloaded": shared::is_preloaded(),
        "launcher_pid": (board.launcher != 0).then_some(board.launcher),
        "no_free_worker_slot_since": no_slot_since,
        "waiting_for_worker_since": waiting_since,
        "late_because": why_late(&board),
        "library_version": crate::version::LIBRARY,
        "sealer_ticked_at": sealed_at,
    });
    setting::palloc_string(&state.to_string())
}

/// Why this database's feeds may be stale, where that is none of its own doing.
fn why_late(board: &shared::Board) -> Option<String> {
    let database = identity::database();
    if !shared::is_preloaded() {
        return Some("busymate_stats is not in shared_preload_libraries".into());
    }
    if board.launcher == 0 {
        return Some("the launcher does not run".into());
    }
    if board.no_slot_since != 0 {
        return Some("the server has no free background worker slot: see max_worker_processes".into());
    }
    board.late_since(database)?;
    let because = match board.at_work(database) {
        (all, _) if all < launcher::share() => "jobs that take long run one after the other",
        (_, false) => "all workers are at work in other databases",
        (_, true) => "all workers are at work, here and in other databases",
    };
    Some(because.into())
}

/// Has the launcher look at this database once the running transaction has committed, so that a new extension is
/// refreshed at once.
#[pg_extern(sql = false)]
fn announce() {
    shared::announce_at_commit();
}
