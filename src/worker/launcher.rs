//! The launcher: finds the databases, gives each its turn, and keeps workers out of DDL's way.

use super::job::{JOBS, Job};
use super::outcome::Outcome;
use super::refresher::Assignment;
use super::schedule::{DatabaseId, Intervals, LOOK_AGAIN, Schedule};
use super::{LAUNCHER, WORKER};
use crate::pg::background::{self, OnTerminate, Worker};
use crate::pg::{databases, shared};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::c_int;
use std::time::{Duration, Instant};

/// How often the list of databases is read: a new one is found within this.
const SCAN: Duration = Duration::from_secs(5);

/// How often, while workers run, the launcher looks whether DDL waits for one of their databases.
const WATCH: Duration = Duration::from_millis(100);

struct Running {
    database: DatabaseId,
    job: Job,
    worker: Worker,
    terminated: bool,
}

struct Launcher {
    schedule: Schedule,
    running: [Option<Running>; shared::WORKER_SLOTS],
    next_scan: Instant,
    slots_exhausted: bool,
}

/// The main function of the launcher's process. Returns never: it ends by a signal, and is started again.
pub fn run() -> ! {
    background::begin(OnTerminate::Flag, None);
    background::at_exit(off_the_board);
    shared::write(|board| board.launcher = background::my_pid());
    log!("{} started", LAUNCHER.to_string_lossy());

    let mut launcher = Launcher {
        schedule: Schedule::new(intervals()),
        running: [const { None }; shared::WORKER_SLOTS],
        next_scan: Instant::now(),
        slots_exhausted: false,
    };
    launcher.schedule.most_waiting_is(share().saturating_sub(1).max(1));
    while !background::shutdown_requested() {
        let wait = launcher.turn();
        background::wait(wait.as_millis().clamp(1, 60_000) as i64);
    }
    // The next launcher does not know them, so could not have them step aside.
    launcher.end_workers();
    background::exit_to_be_restarted()
}

#[pg_guard]
extern "C-unwind" fn off_the_board(_code: c_int, _argument: pg_sys::Datum) {
    shared::write(|board| {
        board.launcher = 0;
        board.no_slot_since = 0;
    });
}

fn intervals() -> Intervals {
    JOBS.map(Job::interval)
}

/// How many of the server's worker slots this extension takes.
fn share() -> usize {
    (background::max_workers() / 4).clamp(1, shared::WORKER_SLOTS)
}

impl Launcher {
    /// Does what is to be done now, and gives how long to wait.
    fn turn(&mut self) -> Duration {
        self.schedule.intervals_are(intervals());
        self.take_news();
        self.take_outcomes();
        self.step_aside();
        self.start_due();
        self.time_to_wait()
    }

    fn take_news(&mut self) {
        let now = Instant::now();
        let announced = shared::write(shared::Board::take_announced).unwrap_or(Some(Vec::new()));
        let overflow = announced.is_none();
        if now >= self.next_scan || announced.as_ref().is_none_or(|list| !list.is_empty()) {
            let present: Vec<DatabaseId> = databases::list().iter().map(|oid| oid.to_u32()).collect();
            self.schedule.databases_are(&present, now);
            self.next_scan = now + SCAN;
        }
        for database in announced.into_iter().flatten() {
            self.schedule.announced(Some(database.to_u32()), now);
        }
        if overflow {
            self.schedule.announced(None, now);
        }
    }

    fn take_outcomes(&mut self) {
        for slot in 0..self.running.len() {
            let Some(running) = self.running[slot].take_if(|running| running.worker.has_ended()) else {
                continue;
            };
            let number = shared::write(|board| board.take_outcome(slot)).unwrap_or(0);
            let outcome = Outcome::from_number(number);
            let now = Instant::now();
            if self.schedule.ended(running.database, running.job, outcome, running.terminated, now) {
                warn_of_versions(running.database);
            }
        }
    }

    /// Ends the workers whose database somebody wants for himself.
    fn step_aside(&mut self) {
        for (slot, running) in self.running.iter_mut().enumerate() {
            let Some(running) = running.as_mut().filter(|running| !running.terminated) else {
                continue;
            };
            let database = pg_sys::Oid::from(running.database);
            if databases::is_claimed(database) || relations_are_wanted(database, slot) {
                running.worker.terminate();
                running.terminated = true;
            }
        }
    }

    fn end_workers(&self) {
        for running in self.running.iter().flatten() {
            running.worker.terminate();
        }
    }

    fn start_due(&mut self) {
        while let Some(slot) = self.free_slot() {
            let now = Instant::now();
            let Some((database, job)) = self.schedule.next(now) else {
                return;
            };
            if databases::is_claimed(pg_sys::Oid::from(database)) {
                self.schedule.claimed(database, job, now);
                continue;
            }
            shared::write(|board| board.take_outcome(slot));
            let assignment = Assignment { database, job, slot };
            match background::start(WORKER, assignment.to_argument()) {
                Some(worker) => {
                    self.running[slot] = Some(Running { database, job, worker, terminated: false });
                    self.schedule.started(database, job, now);
                    self.slots_are_free();
                }
                None => {
                    self.schedule.no_slot(now);
                    self.slots_are_taken();
                    return;
                }
            }
        }
    }

    /// A slot that no worker has, as long as this extension has no more than its share of them.
    fn free_slot(&self) -> Option<usize> {
        let taken = self.running.iter().flatten().count();
        if taken >= share() {
            return None;
        }
        self.running.iter().position(Option::is_none)
    }

    fn slots_are_taken(&mut self) {
        if std::mem::replace(&mut self.slots_exhausted, true) {
            return;
        }
        let since = pgrx::datetime::clock_timestamp().into_inner();
        shared::write(|board| board.no_slot_since = since);
        ereport!(
            WARNING,
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "busymate_stats found no free background worker slot",
            "Refreshes are late until one is free. Consider raising \"max_worker_processes\"."
        );
    }

    fn slots_are_free(&mut self) {
        if std::mem::replace(&mut self.slots_exhausted, false) {
            shared::write(|board| board.no_slot_since = 0);
            log!("busymate_stats has a background worker slot again");
        }
    }

    fn time_to_wait(&self) -> Duration {
        let now = Instant::now();
        let busy = self.running.iter().flatten().next().is_some();
        let mut until = self.next_scan;
        if self.free_slot().is_some()
            && let Some(due) = self.schedule.next_due()
        {
            until = until.min(due);
        }
        let wait = until.saturating_duration_since(now).min(LOOK_AGAIN);
        if busy { wait.min(WATCH) } else { wait }
    }
}

/// Whether a statement waits for a relation that the worker in `slot` reads for long.
fn relations_are_wanted(database: pg_sys::Oid, slot: usize) -> bool {
    shared::read().held(slot).into_iter().any(|relation| databases::is_wanted_alone(database, relation))
}

fn warn_of_versions(database: DatabaseId) {
    ereport!(
        WARNING,
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "busymate_stats in database with OID {database} has another version than the library, {}",
            crate::version::LIBRARY
        ),
        "It is not refreshed until ALTER EXTENSION busymate_stats UPDATE has been run there."
    );
}
