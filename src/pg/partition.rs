//! The partitions of a table, and a sign that they have changed.

use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::sync::Once;

/// A partition as its parent knows it.
pub struct Partition {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// The first moment that none of its rows can have in the column asked about; `None` where its bounds do not say.
    pub until: Option<i64>,
}

/// The partitions of one parent.
pub struct Partitions {
    /// Those that are there, in the order of their bounds.
    pub list: Vec<Partition>,
    /// Whether one of them is on its way out: DETACH CONCURRENTLY.
    pub detaching: bool,
}

/// The partitions of a partitioned table that is locked, as they are now. `until` tells of the timestamptz column of
/// that number.
pub fn partitions_of(parent: pg_sys::Oid, column: i16) -> Partitions {
    let key = first_key(parent);
    // SAFETY: the table is locked and partitioned, and open while its descriptor is read, whose arrays are as long as
    // its counts say. In a RANGE partitioned table the partition with index n in front of a bound ends at this bound, and
    // the bound's first datum is of the first key column's type.
    unsafe {
        let opened = pg_sys::relation_open(parent, pg_sys::NoLock as pg_sys::LOCKMODE);
        let description = &*pg_sys::RelationGetPartitionDesc(opened, false);
        let count = description.nparts as usize;
        let mut list: Vec<Partition> =
            (0..count).map(|place| Partition { oid: *description.oids.add(place), until: None }).collect();
        if count > 0 && key.column == column && key.strategy == RANGE {
            let bounds = &*description.boundinfo;
            for place in 0..bounds.ndatums as usize {
                let value =
                    **bounds.kind.add(place) == pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_VALUE;
                let index = usize::try_from(*bounds.indexes.add(place));
                if let Some(partition) = index.ok().and_then(|index| list.get_mut(index)).filter(|_| value) {
                    let bound = (**bounds.datums.add(place)).value() as i64;
                    // Where further columns decide, the bound's own moment may still be inside.
                    partition.until = Some(if key.columns == 1 { bound } else { bound.saturating_add(1) });
                }
            }
        }
        let detaching = description.detached_exist;
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        Partitions { list, detaching }
    }
}

/// Whether some partition other than the default one takes rows that have `moment` in the timestamptz column of that number, by
/// which the table is partitioned, in ranges of it alone; true for a table that is partitioned in another way.
pub fn takes(parent: pg_sys::Oid, column: i16, moment: i64) -> bool {
    let key = first_key(parent);
    if key.column != column || key.strategy != RANGE || key.columns != 1 {
        return true;
    }
    // SAFETY: as in `partitions_of`; there is one more index than there are bounds.
    unsafe {
        let opened = pg_sys::relation_open(parent, pg_sys::NoLock as pg_sys::LOCKMODE);
        let description = &*pg_sys::RelationGetPartitionDesc(opened, false);
        let mut taken = false;
        if description.nparts > 0 {
            let bounds = &*description.boundinfo;
            let is_after = |place: usize| match **bounds.kind.add(place) {
                pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_VALUE => {
                    (**bounds.datums.add(place)).value() as i64 > moment
                }
                kind => kind == pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MAXVALUE,
            };
            let next = (0..bounds.ndatums as usize).find(|place| is_after(*place));
            taken = next.is_some_and(|place| *bounds.indexes.add(place) >= 0);
        }
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        taken
    }
}

/// `PARTITION_STRATEGY_RANGE`, a macro in PostgreSQL 15 and an enum's member later.
const RANGE: u8 = b'r';

struct Key {
    strategy: u8,
    columns: i16,
    /// The number of the first column; 0 for an expression.
    column: i16,
}

fn first_key(parent: pg_sys::Oid) -> Key {
    let mut key = Key { strategy: 0, columns: 0, column: 0 };
    // pg_partitioned_table: partstrat is its second column, partnatts the third, partattrs the fifth.
    // SAFETY: the catalog's row is a copy that is given back; the columns are of the types that the catalog declares, and
    // the vector holds as many numbers as there are key columns, at least one.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PARTRELID as core::ffi::c_int;
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(parent));
        if row.is_null() {
            return key;
        }
        let value = |column: pg_sys::AttrNumber| {
            let mut is_null = false;
            let datum = pg_sys::SysCacheGetAttr(cache, row, column, &mut is_null);
            (!is_null).then_some(datum)
        };
        key.strategy = value(2).map_or(0, |datum| datum.value() as u8);
        key.columns = value(3).map_or(0, |datum| datum.value() as i16);
        if let Some(vector) = value(5) {
            let vector: *const pg_sys::int2vector = vector.cast_mut_ptr();
            key.column = *(*vector).values.as_ptr();
        }
        pg_sys::ReleaseSysCache(row);
    }
    key
}

unsafe extern "C-unwind" {
    /// Of `catalog/partition.h`, which pgrx does not bind.
    fn get_partition_parent(partition: pg_sys::Oid, even_if_detached: bool) -> pg_sys::Oid;
}

/// What a relation is a partition of, also while it is being detached.
pub fn parent_of_partition(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: syscache look-ups in a transaction. The parent is looked up for partitions alone, which have one; it may raise
    // an error, so it is guarded like a function that pgrx binds.
    unsafe {
        pg_sys::get_rel_relispartition(relation)
            .then(|| pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_parent(relation, true)))
    }
}

/// Locks a relation ACCESS SHARE until the transaction ends, whether it is there or not.
pub fn lock_for_reading(relation: pg_sys::Oid) {
    // SAFETY: takes the lock, and the messages that came before it.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
}

thread_local! {
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    /// How often any relation has changed.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    /// Sorted; `None` stands for every relation.
    static WATCHED: RefCell<Option<Vec<u32>>> = const { RefCell::new(None) };
}

/// Takes in what other sessions have committed, and gives a number that moves whenever a watched relation has changed.
pub fn generation() -> u64 {
    // SAFETY: allowed wherever SQL runs; the messages' own callbacks touch only the variables of this file.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    GENERATION.get()
}

/// A number that moves whenever any relation of the database has changed, as far as messages were taken in: with every lock
/// that this session had to ask for.
pub fn changes_of_any() -> u64 {
    register();
    CHANGES.get()
}

/// Watches every relation of the database until [`watch`] says which.
pub fn watch_all() {
    register();
    WATCHED.set(None);
}

fn register() {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // SAFETY: the callback is of the type asked for, and lives as long as the backend; a backend registers it once.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::null()) };
    });
}

/// Watches exactly these relations.
pub fn watch(relations: impl Iterator<Item = pg_sys::Oid>) {
    let mut watched: Vec<u32> = relations.map(|oid| oid.to_u32()).collect();
    watched.sort_unstable();
    WATCHED.set(Some(watched));
}

/// Called by PostgreSQL in the middle of its own work: sets a number and does nothing else.
extern "C-unwind" fn invalidated(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let relation = relation.to_u32();
    CHANGES.set(CHANGES.get() + 1);
    let concerned = WATCHED.with(|watched| {
        let Ok(watched) = watched.try_borrow() else { return true };
        // Relation 0 stands for all of them: the queue overflowed.
        relation == 0 || watched.as_ref().is_none_or(|watched| watched.binary_search(&relation).is_ok())
    });
    if concerned {
        GENERATION.set(GENERATION.get() + 1);
    }
}
