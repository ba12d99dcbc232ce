//! Who waits for whom: the server's table of locks, as pg_locks shows it.

use pgrx::pg_sys;

/// Those of these processes that hold a lock which somebody else waits for, in a mode that conflicts with theirs. What a
/// parallel worker holds is its leader's. Waits for nobody.
pub fn in_the_way(processes: &[i32]) -> Vec<i32> {
    let mut found = Vec::new();
    // SAFETY: the data is palloc'ed in the current context, and freed below; the array is as long as it says.
    unsafe {
        let data = pg_sys::GetLockStatusData();
        let count = usize::try_from((*data).nelements).unwrap_or(0);
        let locks = match count {
            0 => &[],
            count => std::slice::from_raw_parts((*data).locks, count),
        };
        let is_ours = |lock: &&pg_sys::LockInstanceData| processes.contains(&lock.leaderPid);
        let waiting: Vec<_> = locks
            .iter()
            .filter(|lock| lock.waitLockMode != pg_sys::NoLock as pg_sys::LOCKMODE && !is_ours(lock))
            .collect();
        for held in locks.iter().filter(|lock| lock.holdMask != 0 && is_ours(lock)) {
            if waiting.iter().any(|wanted| is_same(&wanted.locktag, &held.locktag) && conflict(held, wanted))
            {
                found.push(held.leaderPid);
            }
        }
        if !(*data).locks.is_null() {
            pg_sys::pfree((*data).locks.cast());
        }
        pg_sys::pfree(data.cast());
    }
    found
}

fn is_same(one: &pg_sys::LOCKTAG, other: &pg_sys::LOCKTAG) -> bool {
    let fields = |tag: &pg_sys::LOCKTAG| {
        (
            tag.locktag_field1,
            tag.locktag_field2,
            tag.locktag_field3,
            tag.locktag_field4,
            tag.locktag_type,
            tag.locktag_lockmethodid,
        )
    };
    fields(one) == fields(other)
}

fn conflict(held: &pg_sys::LockInstanceData, wanted: &pg_sys::LockInstanceData) -> bool {
    let modes = pg_sys::AccessShareLock..=pg_sys::AccessExclusiveLock;
    modes.into_iter().any(|mode| {
        // SAFETY: looks both modes up in a constant table; both are lock modes of PostgreSQL's.
        held.holdMask & (1 << mode) != 0
            && unsafe { pg_sys::DoLockModesConflict(mode as pg_sys::LOCKMODE, wanted.waitLockMode) }
    })
}
