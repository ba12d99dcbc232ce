//! Rows read without a panic guard around each of PostgreSQL's functions: the guard costs more than the function. Either
//! no guard is needed, since every frame is plain, or one stands around many rows.

use pgrx::pg_sys;
use pgrx::pg_sys::{Datum, TupleTableSlot};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

mod raw {
    use pgrx::pg_sys::{IndexScanDesc, ScanDirection, TupleTableSlot, varlena};
    use std::ffi::{c_int, c_void};

    unsafe extern "C-unwind" {
        pub fn slot_getsomeattrs_int(slot: *mut TupleTableSlot, number: c_int);
        pub fn index_getnext_slot(
            scan: IndexScanDesc,
            direction: ScanDirection::Type,
            slot: *mut TupleTableSlot,
        ) -> bool;
        pub fn pg_detoast_datum_packed(datum: *mut varlena) -> *mut varlena;
        pub fn pfree(pointer: *mut c_void);
    }
}

/// Rows read under one guard.
const ROWS_A_GUARD: usize = 1000;

/// A row in a slot, to be read only where PostgreSQL's errors pass over plain frames.
#[derive(Clone, Copy)]
pub struct BareRow(*mut TupleTableSlot);

impl BareRow {
    /// # Safety
    /// The slot holds a row as long as this is used, and whatever calls into it, up to the nearest guard, has nothing to
    /// release.
    #[inline]
    pub unsafe fn new(slot: *mut TupleTableSlot) -> Self {
        Self(slot)
    }

    /// A column by its number; `None` when null.
    #[inline]
    pub fn value(self, number: i16) -> Option<Datum> {
        // SAFETY: by the promise of `new` the slot holds a row; the callers name columns that it has. The attributes up
        // to it are taken apart before the arrays are read.
        unsafe {
            if (*self.0).tts_nvalid < number {
                raw::slot_getsomeattrs_int(self.0, i32::from(number));
            }
            let place = number as usize - 1;
            (!*(*self.0).tts_isnull.add(place)).then(|| *(*self.0).tts_values.add(place))
        }
    }

    /// A column of type smallint, integer or bigint; `None` when null.
    #[inline]
    pub fn int(self, number: i16, kind: pg_sys::Oid) -> Option<i64> {
        self.value(number).map(|datum| match kind {
            pg_sys::INT2OID => i64::from(datum.value() as i16),
            pg_sys::INT4OID => i64::from(datum.value() as i32),
            _ => datum.value() as i64,
        })
    }

    /// The bytes of a column of type uuid; `None` when null.
    #[inline]
    pub fn uuid(self, number: i16) -> Option<[u8; 16]> {
        // SAFETY: the callers name columns of type uuid: 16 bytes behind a pointer.
        self.value(number).map(|datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// Hands over the bytes of a column of a text type, copied only where they are compressed or out of line; `None`
    /// when null.
    #[inline]
    pub fn with_text<R>(self, number: i16, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.value(number).map(|datum| {
            // SAFETY: the callers name columns of text types, whose datums are varlenas; the bytes are read before the
            // copy is freed or the slot moves on.
            unsafe {
                let text = raw::pg_detoast_datum_packed(datum.cast_mut_ptr());
                let result = read(pgrx::varlena::varlena_to_byte_slice(text));
                if !std::ptr::eq(text, datum.cast_mut_ptr()) {
                    raw::pfree(text.cast());
                }
                result
            }
        })
    }
}

/// Hands over the rest of an index scan's rows, until `each` says that it has enough. While it reads a row it should hold
/// nothing to release: an error there would leave it unreleased.
///
/// # Safety
/// Scan and slot belong together, and both are open.
pub unsafe fn each_row(
    scan: pg_sys::IndexScanDesc,
    slot: *mut TupleTableSlot,
    mut each: impl FnMut(BareRow) -> bool,
) {
    // SAFETY: the guarded closure and what it calls are plain frames: references and numbers. An error of PostgreSQL's
    // comes from the scan or from a row that is read. A panic must not cross the guard, so it is carried around it.
    unsafe {
        let mut rows = || {
            for _ in 0..ROWS_A_GUARD {
                let is_row = raw::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot);
                if !is_row || !each(BareRow::new(slot)) {
                    return false;
                }
            }
            true
        };
        loop {
            let some = pg_sys::ffi::pg_guard_ffi_boundary(|| catch_unwind(AssertUnwindSafe(&mut rows)));
            match some {
                Ok(true) => {
                    pgrx::check_for_interrupts!();
                }
                Ok(false) => return,
                Err(panic) => resume_unwind(panic),
            }
        }
    }
}
