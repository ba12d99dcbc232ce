//! A number for each database that every writer there reads after each statement, in shared memory: reading a table, be
//! it of one row, would cost a fifth of a one-row INSERT, and a lock as much as all the rest of the trigger.
//!
//! The numbers are a copy. Where one is missing (the library was not preloaded, the server has just started, too many
//! databases), the table must be read.

use super::identity;
use pgrx::lwlock::PgLwLock;
use pgrx::pg_shmem_init;
use pgrx::prelude::*;
use pgrx::shmem::PGRXSharedMemory;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// Databases that have a place; one more takes the place of the one that was given longest ago.
const PLACES: usize = 256;

/// What is known of one database. Written under the lock, read without.
#[derive(Default)]
struct Place {
    /// Odd while it is being written, and another number whenever it was.
    turn: AtomicU64,
    database: AtomicU32,
    generation: AtomicI64,
    moment: AtomicI64,
    window_start: AtomicI64,
}

/// What a writer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Counts the thresholds of a database.
    pub generation: i64,
    /// Changes to rows with an entry time before this are noted.
    pub moment: i64,
    /// Of rows before this, no more than their number in each hour: they are in no window.
    pub window_start: i64,
}

impl Threshold {
    /// For when none can be read: too much noted is safe, too little is not; and newer than any that a reader holds.
    pub const UNKNOWN: Self = Self { generation: i64::MAX, moment: i64::MAX, window_start: i64::MIN };
}

struct Places {
    places: [Place; PLACES],
    /// The next to be given to a database that has none.
    next: AtomicUsize,
    /// How often any place was written.
    writes: AtomicU64,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            places: std::array::from_fn(|_| Place::default()),
            next: AtomicUsize::new(0),
            writes: AtomicU64::new(0),
        }
    }
}

// SAFETY: atomic numbers without pointers.
unsafe impl PGRXSharedMemory for Places {}

// SAFETY: the name is this static's alone.
static THRESHOLDS: PgLwLock<Places> = unsafe { PgLwLock::new(c"busymate_stats thresholds") };

/// Where this backend's database was found last.
static FOUND: AtomicPtr<Place> = AtomicPtr::new(std::ptr::null_mut());

impl Place {
    /// The number, unless somebody is writing it, or wrote it meanwhile, or it is another database's.
    #[inline]
    fn read(&self, database: u32) -> Option<Threshold> {
        let turn = self.turn.load(Ordering::Acquire);
        let found = Threshold {
            generation: self.generation.load(Ordering::Relaxed),
            moment: self.moment.load(Ordering::Relaxed),
            window_start: self.window_start.load(Ordering::Relaxed),
        };
        let is_own = self.database.load(Ordering::Relaxed) == database;
        fence(Ordering::Acquire);
        (is_own && turn.is_multiple_of(2) && self.turn.load(Ordering::Relaxed) == turn).then_some(found)
    }

    fn write(&self, database: u32, threshold: Threshold) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.database.store(database, Ordering::Relaxed);
        self.generation.store(threshold.generation, Ordering::Relaxed);
        self.moment.store(threshold.moment, Ordering::Relaxed);
        self.window_start.store(threshold.window_start, Ordering::Relaxed);
        self.turn.store(turn + 2, Ordering::Release);
    }
}

impl Places {
    fn find(&self, database: u32) -> Option<&Place> {
        self.places.iter().find(|place| place.database.load(Ordering::Relaxed) == database)
    }

    /// To be called under the exclusive lock.
    fn write(&self, place: &Place, database: u32, threshold: Threshold) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        place.write(database, threshold);
    }

    /// A place for a database that has none. To be called under the exclusive lock.
    fn give(&self) -> &Place {
        let next = self.next.load(Ordering::Relaxed);
        self.next.store((next + 1) % PLACES, Ordering::Relaxed);
        &self.places[next]
    }
}

/// Asks for the shared memory. Only while the server loads its preloaded libraries.
pub fn request() {
    pg_shmem_init!(THRESHOLDS);
}

fn own_database() -> u32 {
    identity::database().to_u32()
}

/// This database's threshold, if it can be had without a lock: what [`published`] gives, or
/// `None` when that must be asked.
///
/// Whoever has written a row and then comes here reads what was published before somebody looked at the locks and did
/// not find him: the fence keeps the row's lock, which stands in shared memory, before the number.
#[inline]
pub fn at_a_glance() -> Option<Threshold> {
    fence(Ordering::SeqCst);
    // SAFETY: null, or a place in shared memory, which stays where it is as long as this process lives. All of it is
    // atomic.
    let place = unsafe { FOUND.load(Ordering::Relaxed).as_ref() }?;
    place.read(own_database())
}

/// This database's threshold, as last published; `None` when the table must be read.
pub fn published() -> Option<Threshold> {
    if !super::shared::is_preloaded() {
        return None;
    }
    let shared = THRESHOLDS.share();
    let place = shared.find(own_database())?;
    FOUND.store(std::ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
    place.read(own_database())
}

/// Lets every writer know.
pub fn publish(threshold: Threshold) {
    if !super::shared::is_preloaded() {
        return;
    }
    let database = own_database();
    let shared = THRESHOLDS.exclusive();
    let place = shared.find(database).unwrap_or_else(|| shared.give());
    shared.write(place, database, threshold);
}

/// How often anything was published or forgotten, to be asked before the table is read for [`offer`].
pub fn writes() -> Option<u64> {
    super::shared::is_preloaded().then(|| THRESHOLDS.share().writes.load(Ordering::Relaxed))
}

/// Publishes what a writer has found in the table, unless somebody has published or forgotten anything since `writes`
/// was asked: then it may be out of date.
pub fn offer(writes: u64, threshold: Threshold) {
    let database = own_database();
    let shared = THRESHOLDS.exclusive();
    if shared.writes.load(Ordering::Relaxed) == writes && shared.find(database).is_none() {
        shared.write(shared.give(), database, threshold);
    }
}

/// Has every writer read the table again.
pub fn forget() {
    if !super::shared::is_preloaded() {
        return;
    }
    let shared = THRESHOLDS.exclusive();
    match shared.find(own_database()) {
        Some(found) => shared.write(found, 0, Threshold::UNKNOWN),
        None => drop(shared.writes.fetch_add(1, Ordering::Relaxed)),
    }
}
