//! A number for each database that every writer there reads after each statement, in shared memory: reading a table, be
//! it of one row, would cost a fifth of a one-row INSERT.
//!
//! The numbers are a copy. Where one is missing (the library was not preloaded, the server has just started, too many
//! databases), the table must be read.

use super::identity;
use pgrx::lwlock::PgLwLock;
use pgrx::pg_shmem_init;
use pgrx::prelude::*;
use pgrx::shmem::PGRXSharedMemory;
use std::cell::Cell;

/// Databases that have a place; one more takes the place of the one that was given longest ago.
const PLACES: usize = 256;

#[derive(Clone, Copy, Default)]
struct Place {
    database: u32,
    generation: i64,
    moment: i64,
}

#[derive(Clone, Copy)]
struct Places {
    places: [Place; PLACES],
    /// The next to be given to a database that has none.
    next: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { places: [Place::default(); PLACES], next: 0 }
    }
}

// SAFETY: plain numbers without pointers, only ever touched under the lock.
unsafe impl PGRXSharedMemory for Places {}

// SAFETY: the name is this static's alone.
static THRESHOLDS: PgLwLock<Places> = unsafe { PgLwLock::new(c"busymate_stats thresholds") };

thread_local! {
    /// Where this backend's database was found last.
    static FOUND: Cell<usize> = const { Cell::new(0) };
}

impl Places {
    fn find(&self, database: u32) -> Option<usize> {
        let hint = FOUND.get();
        if self.places[hint].database == database {
            return Some(hint);
        }
        let found = self.places.iter().position(|place| place.database == database)?;
        FOUND.set(found);
        Some(found)
    }
}

/// Asks for the shared memory. Only while the server loads its preloaded libraries.
pub fn request() {
    pg_shmem_init!(THRESHOLDS);
}

fn own_database() -> u32 {
    identity::database().to_u32()
}

/// Generation and moment of this database's threshold, as last published; `None` when the table must be read.
pub fn published() -> Option<(i64, i64)> {
    if !super::shared::is_preloaded() {
        return None;
    }
    let shared = THRESHOLDS.share();
    let place = &shared.places[shared.find(own_database())?];
    Some((place.generation, place.moment))
}

/// Lets every writer know.
pub fn publish(generation: i64, moment: i64) {
    if !super::shared::is_preloaded() {
        return;
    }
    let database = own_database();
    let mut shared = THRESHOLDS.exclusive();
    let found = shared.find(database).unwrap_or_else(|| {
        let next = shared.next;
        shared.next = (next + 1) % PLACES;
        next
    });
    shared.places[found] = Place { database, generation, moment };
}

/// Has every writer read the table again.
pub fn forget() {
    if !super::shared::is_preloaded() {
        return;
    }
    let mut shared = THRESHOLDS.exclusive();
    if let Some(found) = shared.find(own_database()) {
        shared.places[found] = Place::default();
    }
}
