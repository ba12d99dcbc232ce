//! A row that an index is told of, as it stands in its table.

use super::slot::Slot;
use super::speculation;
use super::transition::column_of_relation;
use pgrx::{PgMemoryContexts, pg_sys};

/// A row that was just written.
pub struct InsertedRow {
    index: pg_sys::Relation,
    table: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    info: *mut pg_sys::IndexInfo,
    moment: Option<i64>,
}

/// How a row came to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An INSERT.
    Inserted,
    /// An INSERT with ON CONFLICT, which may still take it back.
    Speculated,
    /// An UPDATE: another version of a row.
    Updated,
}

impl InsertedRow {
    /// # Safety
    /// The pointers are what PostgreSQL hands over with a row that it tells an index of, and are used during that call only.
    pub(super) unsafe fn new(
        index: pg_sys::Relation,
        table: pg_sys::Relation,
        place: pg_sys::ItemPointer,
        info: *mut pg_sys::IndexInfo,
        moment: Option<i64>,
    ) -> Self {
        Self { index, table, place, info, moment }
    }

    /// Runs `work` in memory that is freed afterwards: the caller's lives as long as his statement.
    pub(super) fn with_own_memory(&self, work: fn(&Self)) {
        // SAFETY: what `work` leaves outside of this memory, it has allocated there by name.
        unsafe { PgMemoryContexts::new("busymate_stats row").switch_to(|_| work(self)) };
    }

    /// The table.
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: by the promise of `new`.
        unsafe { (*self.table).rd_id }
    }

    /// The index's value for the row; `None` when it is null or no timestamptz.
    pub fn moment(&self) -> Option<i64> {
        self.moment
    }

    /// The index.
    pub fn index(&self) -> pg_sys::Oid {
        // SAFETY: by the promise of `new`.
        unsafe { (*self.index).rd_id }
    }

    /// Whether the index is being built concurrently, and told of rows that have long been there.
    pub fn is_told_by_a_build(&self) -> bool {
        // SAFETY: by the promise of `new`.
        unsafe { (*self.info).ii_Concurrent }
    }

    /// A column of the table by its name: its number and its type, a domain not resolved.
    pub fn column_of(&self, name: &str) -> Option<(i16, pg_sys::Oid)> {
        // SAFETY: by the promise of `new`.
        unsafe { column_of_relation(self.table, &super::c_string(name)) }
    }

    /// Hands over the row. `None` when it is not there, as it should be.
    pub fn read<R>(&self, read: impl FnOnce(&Slot, Origin) -> R) -> Option<R> {
        // SAFETY: by the promise of `new`.
        unsafe { row_at(self.table, self.place, |slot, header| read(slot, origin(header))) }
    }

    /// Remembers that an INSERT with ON CONFLICT may take the row back. `time` is the number of the timestamptz column
    /// that has the value `moment`.
    pub fn remember_speculated(&self, time: i16, moment: i64) {
        // SAFETY: by the promise of `new`.
        let place = unsafe { *self.place };
        speculation::remember(self.relation(), place, time, moment);
    }

    /// What is kept from the first row on, as long as the statement runs.
    pub fn kept<T: Copy>(&self, first: impl FnOnce() -> (i64, T)) -> T {
        // SAFETY: by the promise of `new`; what is kept is of the one type that the one caller keeps.
        unsafe {
            if let Some(kept) = (*self.info).ii_AmCache.cast::<Kept<T>>().as_ref() {
                return kept.value;
            }
        }
        let (counts_before, value) = first();
        // SAFETY: the memory that the index's description is in lives as long as it.
        unsafe {
            let info = &mut *self.info;
            let kept = pg_sys::MemoryContextAlloc(info.ii_Context, size_of::<Kept<T>>());
            kept.cast::<Kept<T>>().write(Kept { counts_before, value });
            info.ii_AmCache = kept;
        }
        value
    }

    /// Puts another value in its place; called after [`Self::kept`].
    pub fn keep<T: Copy>(&self, value: T) {
        // SAFETY: as there.
        unsafe {
            if let Some(kept) = (*self.info).ii_AmCache.cast::<Kept<T>>().as_mut() {
                kept.value = value;
            }
        }
    }
}

/// What stands in `ii_AmCache`, which is this access method's own: null, or one of these.
#[repr(C)]
struct Kept<T> {
    /// Rows of this moment or later do not count for the statement.
    counts_before: i64,
    value: T,
}

/// Before which moment rows count for the running statement, once that is known.
///
/// # Safety
/// `info` describes an index of this access method.
#[inline]
pub(super) unsafe fn counts_before(info: *const pg_sys::IndexInfo) -> Option<i64> {
    // SAFETY: by the caller's promise; whatever the value's type, the moment comes first.
    unsafe { (*info).ii_AmCache.cast::<i64>().as_ref().copied() }
}

fn origin(header: &pg_sys::HeapTupleHeaderData) -> Origin {
    if u32::from(header.t_infomask) & pg_sys::HEAP_UPDATED != 0 {
        Origin::Updated
    } else if is_speculative(header) {
        Origin::Speculated
    } else {
        Origin::Inserted
    }
}

/// Whether it is not decided yet if the row stays.
pub(super) fn is_speculative(header: &pg_sys::HeapTupleHeaderData) -> bool {
    u32::from(header.t_ctid.ip_posid) == pg_sys::SpecTokenOffsetNumber
}

/// Hands over what stands at a place of a table kept by the heap, visible or not; `None` when nothing does.
///
/// # Safety
/// The table is open, and is kept by the heap.
pub(super) unsafe fn row_at<R>(
    table: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    read: impl FnOnce(&Slot, &pg_sys::HeapTupleHeaderData) -> R,
) -> Option<R> {
    let any = &raw mut pg_sys::SnapshotAnyData;
    // SAFETY: by the caller's promise. The slot is made for the table and dropped with the pin that it holds; a raise
    // inside leaves both to the abort of the (sub)transaction. The heap's slot holds a tuple with a header.
    unsafe {
        let fetch = (*(*table).rd_tableam).tuple_fetch_row_version?;
        let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
        let found = pg_sys::ffi::pg_guard_ffi_boundary(|| fetch(table, place, any, slot));
        let result = found.then(|| {
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, std::ptr::null_mut());
            read(&Slot::new(slot), &*(*tuple).t_data)
        });
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        result
    }
}
