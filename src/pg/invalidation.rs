//! Cached answers and the messages that end them.

use pgrx::pg_sys;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many relations a backend watches at most.
const WATCHED: usize = 4;

/// Begins at 1: under generation 0 nothing was ever cached.
static GENERATION: AtomicU64 = AtomicU64::new(1);
static RELATIONS: [AtomicU32; WATCHED] = [const { AtomicU32::new(0) }; WATCHED];
static REGISTER: Once = Once::new();

/// Takes in what other sessions have committed, and gives the generation of the watched relations: it moves whenever
/// one of them or a role was changed, and by [`expire`]. What was cached under another generation is void.
///
/// A statement that takes no lock accepts no message by itself, hence the explicit call.
pub fn generation() -> u64 {
    // Before anything is cached, whatever it depends on: a superuser's answers depend on no relation.
    REGISTER.call_once(|| {
        // SAFETY: the callbacks are of the types asked for, and live as long as the backend; it registers them once.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::null());
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::AUTHOID as _,
                Some(role_changed),
                pg_sys::Datum::null(),
            );
        }
    });
    // SAFETY: allowed wherever SQL runs; the messages' own callbacks touch only the statics of this file.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    moved_to()
}

/// [`generation`], as the messages taken in so far have left it.
#[inline]
pub fn moved_to() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Ends what this session has cached: a setting that it depends on changes.
pub fn expire() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Watches exactly these relations from now on.
pub fn watch(relations: [Option<pg_sys::Oid>; WATCHED]) {
    for (slot, relation) in RELATIONS.iter().zip(relations) {
        slot.store(relation.map_or(0, |oid| oid.to_u32()), Ordering::Relaxed);
    }
}

/// Makes every session drop what it cached from `relation` once this transaction commits, and this one at the end of
/// the running command and again if it rolls back.
pub fn invalidate(relation: pg_sys::Oid) {
    // SAFETY: called from a trigger on `relation`, so it exists and a transaction is open.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
}

/// Called by PostgreSQL in the middle of its own work: sets a number and does nothing else.
extern "C-unwind" fn invalidated(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let relation = relation.to_u32();
    // Relation 0 stands for all of them: the queue overflowed.
    if relation == 0 || RELATIONS.iter().any(|watched| watched.load(Ordering::Relaxed) == relation) {
        expire();
    }
}

/// As [`invalidated`], for a role: whichever it is, for they seldom change.
extern "C-unwind" fn role_changed(_argument: pg_sys::Datum, _cache: core::ffi::c_int, _hash: u32) {
    expire();
}
