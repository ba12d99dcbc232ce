//! Cached answers and the messages that end them.

use pgrx::pg_sys;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many relations a watch has an eye on at most.
const WATCHED: usize = 4;

/// An eye on relations from which something is cached. A static, since PostgreSQL is told its address for good.
pub struct Watch {
    generation: AtomicU64,
    relations: [AtomicU32; WATCHED],
    register: Once,
}

impl Watch {
    /// Watches nothing yet.
    pub const fn new() -> Self {
        Self {
            generation: AtomicU64::new(0),
            relations: [const { AtomicU32::new(0) }; WATCHED],
            register: Once::new(),
        }
    }

    /// Takes in what other sessions have committed, and gives the generation of the watched relations: it moves whenever
    /// one of them was invalidated. What was cached under another generation is void.
    ///
    /// A statement that takes no lock accepts no message by itself, hence the explicit call.
    pub fn generation(&self) -> u64 {
        // SAFETY: allowed wherever SQL runs; the messages' own callbacks touch only a watch's numbers.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        self.generation.load(Ordering::Relaxed)
    }

    /// Watches exactly these relations from now on.
    pub fn watch(&'static self, relations: [Option<pg_sys::Oid>; WATCHED]) {
        self.register.call_once(|| {
            let this = pg_sys::Datum::from(std::ptr::from_ref(self).cast_mut());
            // SAFETY: the callback is of the type asked for, and it and the watch live as long as the backend, which
            // registers each watch once: PostgreSQL has room for ten.
            unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), this) };
        });
        for (slot, relation) in self.relations.iter().zip(relations) {
            slot.store(relation.map_or(0, |oid| oid.to_u32()), Ordering::Relaxed);
        }
    }
}

/// Makes every session drop what it cached from `relation` once this transaction commits, and this one at the end of
/// the running command and again if it rolls back.
pub fn invalidate(relation: pg_sys::Oid) {
    // SAFETY: the callers have the relation locked, so it exists, and a transaction is open.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
}

/// Called by PostgreSQL in the middle of its own work: sets a number and does nothing else.
extern "C-unwind" fn invalidated(watch: pg_sys::Datum, relation: pg_sys::Oid) {
    // SAFETY: the argument is the address of the static that `Watch::watch` registered.
    let watch = unsafe { &*watch.cast_mut_ptr::<Watch>() };
    let relation = relation.to_u32();
    // Relation 0 stands for all of them: the queue overflowed.
    if relation == 0 || watch.relations.iter().any(|watched| watched.load(Ordering::Relaxed) == relation) {
        watch.generation.fetch_add(1, Ordering::Relaxed);
    }
}
