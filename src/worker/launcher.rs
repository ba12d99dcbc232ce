//! The launcher: finds the databases, gives each its turn, and keeps workers out of DDL's way.

use super::job::{JOBS, Job};
use super::outcome::Outcome;
use super::refresher::Assignment;
use super::schedule::{Cause, DatabaseId, Intervals, LOOK_AGAIN, Schedule};
use super::{LAUNCHER, WORKER};
use crate::pg::background::{self, OnTerminate, Worker};
use crate::pg::{databases, locks, shared};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::c_int;
use std::time::{Duration, Instant};

/// How often the list of databases is read: a new one is found within this.
const SCAN: Duration = Duration::from_secs(5);

/// How often, while workers run, the launcher looks whether DDL waits for one of their databases.
const WATCH: Duration = Duration::from_millis(100);

/// How often the launcher looks whether anybody waits for a lock that a worker holds, and how long a worker has run that
/// it looks for: as long as a session waits before it has autovacuum step aside.
const LOOK_FOR_WAITING: Duration = Duration::from_secs(1);

/// How much longer than it may a step goes on before its worker is ended: its own timeout comes first.
const GRACE: Duration = Duration::from_secs(3);

/// How long a worker may do what has no limit of its own: asking components takes a minute at most.
const UNLIMITED: Duration = Duration::from_secs(5 * 60);

/// After this, a worker that was ended is taken for one that does not end.
const STUCK: Duration = Duration::from_secs(10);

struct Running {
    database: DatabaseId,
    job: Job,
    worker: Worker,
    started: Instant,
    /// Its step, and since when.
    step: (shared::Step, Instant),
    ended: Option<(Cause, Instant)>,
}

impl Running {
    fn end(&mut self, cause: Cause) {
        self.worker.terminate();
        self.ended = Some((cause, Instant::now()));
    }

    fn is_stuck(&self) -> bool {
        self.ended.is_some_and(|(_, moment)| moment.elapsed() > STUCK)
    }

    /// Whether the worker has gone on for longer than its step may take.
    fn is_out_of_time(&mut self, step: shared::Step) -> bool {
        if self.step.0 != step {
            self.step = (step, Instant::now());
        }
        let limit = match u64::try_from(step.limit_ms) {
            Ok(limit) if limit > 0 => Duration::from_millis(limit) + GRACE,
            _ => UNLIMITED,
        };
        self.step.1.elapsed() > limit
    }
}

struct Launcher {
    schedule: Schedule,
    running: [Option<Running>; shared::WORKER_SLOTS],
    next_scan: Instant,
    next_look: Instant,
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
        next_look: Instant::now(),
        slots_exhausted: false,
    };
    launcher.schedule.slots_are(share());
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
        board.late_are(std::iter::empty());
        for slot in 0..shared::WORKER_SLOTS {
            board.works_in(slot, 0);
        }
    });
}

fn intervals() -> Intervals {
    JOBS.map(Job::interval)
}

/// How many of the server's worker slots this extension takes.
pub fn share() -> usize {
    (background::max_workers() / 4).clamp(1, shared::WORKER_SLOTS)
}

impl Launcher {
    /// Does what is to be done now, and gives how long to wait.
    fn turn(&mut self) -> Duration {
        self.schedule.intervals_are(intervals());
        self.take_news();
        self.take_outcomes();
        self.end_workers_that_must();
        self.start_due();
        self.tell_who_is_late();
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
            let number = shared::write(|board| {
                board.works_in(slot, 0);
                board.take_outcome(slot)
            });
            let number = number.unwrap_or(0);
            let outcome = Outcome::from_number(number);
            let now = Instant::now();
            let cause = running.ended.map(|(cause, _)| cause);
            if self.schedule.ended(running.database, running.job, outcome, cause, now) {
                warn_of_versions(running.database);
            }
        }
    }

    /// Ends the workers that are in somebody's way, those that go on for longer than they may, and one whose slot another
    /// database waits for.
    fn end_workers_that_must(&mut self) {
        let waited_for = self.waited_for();
        for (slot, running) in self.running.iter_mut().enumerate() {
            let Some(running) = running else {
                continue;
            };
            if running.ended.is_some() {
                if running.is_stuck() {
                    self.schedule.does_not_end(running.database, running.job);
                }
                continue;
            }
            let database = pg_sys::Oid::from(running.database);
            if databases::is_claimed(database)
                || relations_are_wanted(database, slot)
                || running.worker.process().is_some_and(|process| waited_for.contains(&process))
            {
                running.end(Cause::InTheWay);
            } else if running.is_out_of_time(shared::read().step(slot)) {
                running.end(Cause::OutOfTime);
            }
        }
        let overstayer = self.schedule.overstayer(Instant::now());
        let mut running = self.running.iter_mut().flatten();
        if let Some(running) = running.find(|running| Some((running.database, running.job)) == overstayer)
            && running.ended.is_none()
        {
            running.end(Cause::OthersTurn);
        }
    }

    /// The workers that others wait for. One that has just begun is soon done, or seen the next time.
    fn waited_for(&mut self) -> Vec<i32> {
        let now = Instant::now();
        if now < self.next_look {
            return Vec::new();
        }
        self.next_look = now + LOOK_FOR_WAITING;
        let workers = self.running.iter().flatten().filter(|running| {
            running.ended.is_none() && now.saturating_duration_since(running.started) > LOOK_FOR_WAITING
        });
        let processes: Vec<_> = workers.filter_map(|running| running.worker.process()).collect();
        if processes.is_empty() { processes } else { locks::in_the_way(&processes) }
    }

    /// Has `health` say in each database that waits for a worker that it does.
    fn tell_who_is_late(&self) {
        let (now, clock) = (Instant::now(), pgrx::datetime::clock_timestamp().into_inner());
        let late = self.schedule.late(now);
        if late.is_empty() && !shared::read().is_anyone_late() {
            return;
        }
        let since = |moment: Instant| clock - now.saturating_duration_since(moment).as_micros() as i64;
        shared::write(|board| {
            board.late_are(late.into_iter().map(|(database, moment)| (database, since(moment))));
        });
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
            shared::write(|board| {
                board.works_in(slot, database);
                board.take_outcome(slot)
            });
            let brief = self.schedule.brief(database, job);
            let assignment = Assignment { database, job, slot, brief };
            match background::start(WORKER, assignment.to_argument()) {
                Some(worker) => {
                    let step = (shared::read().step(slot), now);
                    self.running[slot] =
                        Some(Running { database, job, worker, started: now, step, ended: None });
                    self.schedule.started(database, job, now);
                    self.slots_are_free();
                }
                None => {
                    shared::write(|board| board.works_in(slot, 0));
                    self.schedule.no_slot(now);
                    self.slots_are_taken();
                    return;
                }
            }
        }
    }

    /// A slot that no worker has, as long as this extension has no more than its share of them.
    fn free_slot(&self) -> Option<usize> {
        let taken = self.running.iter().flatten().filter(|running| !running.is_stuck()).count();
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
