//! What the launcher, its workers and ordinary sessions tell each other, in shared memory.
//!
//! It is there only where the library was preloaded at server start. Whatever must outlive a crash stands in tables.

use super::{identity, transaction};
use pgrx::lwlock::PgLwLock;
use pgrx::prelude::*;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{pg_shmem_init, pg_sys};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How many workers may run at once at most.
pub const WORKER_SLOTS: usize = 4;

/// How many databases can wait to be looked at; one more, and the launcher looks at all of them.
const ANNOUNCEMENTS: usize = 64;

/// Databases whose sealer's last tick is known; one more takes the place of the one that was given longest ago.
const TICKING: usize = 256;

/// How many relations a worker can say it reads for long.
pub const HELD: usize = 2;

/// How many databases are named that wait for a worker: those that have waited longest.
const LATE: usize = 64;

/// What a worker is doing, for the launcher to see that it comes to an end.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Which one of this slot's it is: another number, another step.
    pub number: u32,
    /// How long it may take, in milliseconds; 0 between steps.
    pub limit_ms: i32,
}

/// The board that all processes share.
#[derive(Clone, Copy)]
pub struct Board {
    /// The launcher's process, 0 when there is none.
    pub launcher: i32,
    /// Since when no worker could be had, as a timestamptz; 0 when they can.
    pub no_slot_since: i64,
    announced: [u32; ANNOUNCEMENTS],
    announcements: usize,
    outcomes: [u8; WORKER_SLOTS],
    held: [[u32; HELD]; WORKER_SLOTS],
    steps: [Step; WORKER_SLOTS],
    /// The databases that workers are in, 0 for a slot without one.
    at_work: [u32; WORKER_SLOTS],
    /// Databases that wait for a worker, and since when, as a timestamptz.
    late: [(u32, i64); LATE],
    /// By database, when its sealer's last tick ended well, as a timestamptz.
    ticks: [(u32, i64); TICKING],
    next_tick: usize,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            launcher: 0,
            no_slot_since: 0,
            announced: [0; ANNOUNCEMENTS],
            announcements: 0,
            outcomes: [0; WORKER_SLOTS],
            held: [[0; HELD]; WORKER_SLOTS],
            steps: [Step::default(); WORKER_SLOTS],
            at_work: [0; WORKER_SLOTS],
            late: [(0, 0); LATE],
            ticks: [(0, 0); TICKING],
            next_tick: 0,
        }
    }
}

// SAFETY: plain numbers without pointers, only ever touched under the lock.
unsafe impl PGRXSharedMemory for Board {}

// SAFETY: the name is this static's alone.
static BOARD: PgLwLock<Board> = unsafe { PgLwLock::new(c"busymate_stats board") };

static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Asks for the shared memory. Only while the server loads its preloaded libraries.
pub fn request() {
    pg_shmem_init!(BOARD);
    super::thresholds::request();
    PRELOADED.store(true, Ordering::Relaxed);
}

/// Whether the library was preloaded at server start, so that the board exists.
pub fn is_preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

/// The board as it is now.
pub fn read() -> Board {
    if is_preloaded() { *BOARD.share() } else { Board::default() }
}

/// Changes the board.
pub fn write<R>(change: impl FnOnce(&mut Board) -> R) -> Option<R> {
    is_preloaded().then(|| change(&mut BOARD.exclusive()))
}

impl Board {
    /// Asks the launcher to look at `database` soon.
    pub fn announce(&mut self, database: pg_sys::Oid) {
        if let Some(slot) = self.announced.get_mut(self.announcements) {
            *slot = database.to_u32();
        }
        self.announcements = (self.announcements + 1).min(ANNOUNCEMENTS + 1);
    }

    /// Takes the announced databases off the board; `None` stands for all there are.
    pub fn take_announced(&mut self) -> Option<Vec<pg_sys::Oid>> {
        let count = std::mem::take(&mut self.announcements);
        (count <= ANNOUNCEMENTS)
            .then(|| self.announced[..count].iter().map(|oid| pg_sys::Oid::from(*oid)).collect())
    }

    /// A worker's outcome, as a number that is not 0.
    pub fn report(&mut self, slot: usize, outcome: u8) {
        if let Some(place) = self.outcomes.get_mut(slot) {
            *place = outcome;
        }
    }

    /// A worker will read these for long, and is to be ended when somebody waits for one.
    pub fn hold(&mut self, slot: usize, relations: [pg_sys::Oid; HELD]) {
        if let Some(place) = self.held.get_mut(slot) {
            *place = relations.map(|relation| relation.to_u32());
        }
    }

    /// What a worker reads for long.
    pub fn held(&self, slot: usize) -> Vec<pg_sys::Oid> {
        let held = self.held.get(slot).into_iter().flatten();
        held.filter(|relation| **relation != 0).map(|relation| pg_sys::Oid::from(*relation)).collect()
    }

    /// What the worker in `slot` is doing.
    pub fn step(&self, slot: usize) -> Step {
        self.steps.get(slot).copied().unwrap_or_default()
    }

    fn steps_on(&mut self, slot: usize, limit_ms: i32) {
        if let Some(step) = self.steps.get_mut(slot) {
            *step = Step { number: step.number.wrapping_add(1), limit_ms };
        }
    }

    /// A worker is in `database` now, or with 0 no longer is.
    pub fn works_in(&mut self, slot: usize, database: u32) {
        self.steps_on(slot, 0);
        if let Some(place) = self.at_work.get_mut(slot) {
            *place = database;
        }
    }

    /// How many workers are at work, and whether one of them is in `database`.
    pub fn at_work(&self, database: pg_sys::Oid) -> (usize, bool) {
        let all = self.at_work.iter().filter(|at| **at != 0).count();
        (all, self.at_work.contains(&database.to_u32()))
    }

    /// These databases wait for a worker, those that have waited longest first.
    pub fn late_are(&mut self, late: impl Iterator<Item = (u32, i64)>) {
        self.late = [(0, 0); LATE];
        for (place, one) in self.late.iter_mut().zip(late) {
            *place = one;
        }
    }

    /// Since when `database` has waited for a worker.
    pub fn late_since(&self, database: pg_sys::Oid) -> Option<i64> {
        self.late.iter().find(|(late, _)| *late == database.to_u32()).map(|(_, since)| *since)
    }

    /// Whether any database waits for a worker.
    pub fn is_anyone_late(&self) -> bool {
        self.late[0].0 != 0
    }

    /// A tick of a database's sealer has ended well.
    pub fn ticked(&mut self, database: pg_sys::Oid, moment: i64) {
        let database = database.to_u32();
        let place = self.ticks.iter().position(|(of, _)| *of == database).unwrap_or_else(|| {
            let next = self.next_tick;
            self.next_tick = (next + 1) % TICKING;
            next
        });
        self.ticks[place] = (database, moment);
    }

    /// When it last did, since the server was started.
    pub fn last_tick(&self, database: pg_sys::Oid) -> Option<i64> {
        let database = database.to_u32();
        self.ticks.iter().find(|(of, _)| *of == database).map(|(_, moment)| *moment)
    }

    /// Takes a worker's outcome off the board, and what it held; 0 when it left none.
    pub fn take_outcome(&mut self, slot: usize) -> u8 {
        self.hold(slot, [pg_sys::InvalidOid; HELD]);
        self.outcomes.get_mut(slot).map_or(0, std::mem::take)
    }
}

/// The slot of the worker that this process is.
static MY_SLOT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// This process is the worker in `slot`.
pub fn work_in_slot(slot: usize) {
    MY_SLOT.store(slot, Ordering::Relaxed);
}

/// Has the launcher know that a step begins which takes so long at most, or with 0 that it has ended. Nothing in a process
/// that is no worker.
pub fn step(limit_ms: i32) {
    let slot = MY_SLOT.load(Ordering::Relaxed);
    if slot < WORKER_SLOTS {
        write(|board| board.steps_on(slot, limit_ms));
    }
}

/// Has the launcher look at this database once the running transaction has committed; nothing where there is none.
pub fn announce_at_commit() {
    transaction::at_commit(|| {
        write(|board| board.announce(identity::database()));
        wake_launcher();
    });
}

fn wake_launcher() {
    let launcher = read().launcher;
    if launcher == 0 {
        return;
    }
    // SAFETY: gives null when no such process is there; its PGPROC stays mapped even if the process ends right now, and
    // a latch set for its successor only wakes that one once.
    unsafe {
        let process = pg_sys::BackendPidGetProc(launcher);
        if !process.is_null() {
            pg_sys::SetLatch(&mut (*process).procLatch);
        }
    }
}
