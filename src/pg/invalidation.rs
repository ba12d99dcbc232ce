//! Cached answers and the messages that end them.

use pgrx::pg_sys;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many relations a watch has an eye on at most.
const WATCHED: usize = 4;

/// An eye on relations, and perhaps on roles, from which something is cached. A static, since PostgreSQL is told its
/// address for good.
pub struct Watch {
    generation: AtomicU64,
    relations: [AtomicU32; WATCHED],
    register: Once,
    register_roles: Once,
}

impl Watch {
    /// Watches nothing yet.
    pub const fn new() -> Self {
        Self {
            // Under generation 0 nothing was ever cached.
            generation: AtomicU64::new(1),
            relations: [const { AtomicU32::new(0) }; WATCHED],
            register: Once::new(),
            register_roles: Once::new(),
        }
    }

    /// Takes in what other sessions have committed, and gives the generation of what is watched: it moves whenever some
    /// of it was invalidated, and by [`Self::expire`]. What was cached under another generation is void.
    ///
    /// A statement that takes no lock accepts no message by itself, hence the explicit call.
    pub fn generation(&self) -> u64 {
        // SAFETY: allowed wherever SQL runs; the messages' own callbacks touch only a watch's numbers.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        self.moved_to()
    }

    /// [`Self::generation`], as the messages taken in so far have left it.
    #[inline]
    pub fn moved_to(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Ends what this session has cached: something else that it depends on changes.
    pub fn expire(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn address(&'static self) -> pg_sys::Datum {
        pg_sys::Datum::from(std::ptr::from_ref(self).cast_mut())
    }

    /// Watches exactly these relations from now on.
    pub fn watch(&'static self, relations: [Option<pg_sys::Oid>; WATCHED]) {
        // SAFETY: the callback is of the type asked for, and it and the watch live as long as the backend, which
        // registers each watch once: PostgreSQL has room for ten.
        self.register.call_once(|| unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), self.address());
        });
        for (slot, relation) in self.relations.iter().zip(relations) {
            slot.store(relation.map_or(0, |oid| oid.to_u32()), Ordering::Relaxed);
        }
    }

    /// Watches the roles of the cluster too.
    pub fn watch_roles(&'static self) {
        // SAFETY: as above; of such callbacks PostgreSQL has room for 64.
        self.register_roles.call_once(|| unsafe {
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::AUTHOID as _,
                Some(role_changed),
                self.address(),
            );
        });
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
        watch.expire();
    }
}

/// As [`invalidated`], for a role: whichever it is, for they seldom change.
extern "C-unwind" fn role_changed(watch: pg_sys::Datum, _cache: core::ffi::c_int, _hash: u32) {
    // SAFETY: as there.
    unsafe { &*watch.cast_mut_ptr::<Watch>() }.expire();
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::{relation, run};
    use pgrx::prelude::*;

    #[pg_test]
    fn a_watch_moves_with_what_it_watches() {
        static WATCH: Watch = Watch::new();
        run("create temp table watched (number int)");
        run("create temp table other (number int)");
        run("create temp table later (number int)");
        let (watched, other, later) = (relation("watched"), relation("other"), relation("later"));
        WATCH.watch([None, Some(watched), None, None]);
        let moves = |work: &dyn Fn()| {
            let before = WATCH.generation();
            work();
            // PostgreSQL sends a transaction's own messages to itself at the end of a command.
            crate::pg::transaction::see_own_changes();
            WATCH.generation() != before
        };
        assert!(moves(&|| invalidate(watched)));
        assert!(!moves(&|| invalidate(other)));
        assert!(!moves(&|| run("insert into watched values (1)")));
        assert!(moves(&|| run("alter table watched add more int")));
        assert!(!moves(&|| run("alter table other add more int")));
        WATCH.watch([Some(later), None, None, None]);
        assert!(!moves(&|| invalidate(watched)));
        assert!(moves(&|| invalidate(later)));
        assert!(moves(&|| WATCH.expire()));
        // What PostgreSQL does when a session has missed messages: it names no relation.
        WATCH.watch([Some(watched), Some(other), Some(later), Some(later)]);
        // SAFETY: allowed in a transaction.
        assert!(moves(&|| unsafe { pg_sys::InvalidateSystemCaches() }));
    }

    #[pg_test]
    fn a_watch_on_roles_moves_with_any_role() {
        static WATCH: Watch = Watch::new();
        let moves = |sql: &str| {
            let before = WATCH.generation();
            run(sql);
            WATCH.generation() != before
        };
        assert!(!moves("create role watched_one"));
        WATCH.watch_roles();
        assert!(moves("create role watched_two"));
        assert!(moves("alter role watched_two bypassrls"));
        assert!(!moves("create temp table watched (number int)"));
        assert!(moves("drop role watched_one, watched_two"));
    }
}
