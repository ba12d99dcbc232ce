//! Memory that goes with the transaction: PostgreSQL frees it, whatever way the transaction ends, and where there is none
//! left it raises an error. (Rust's own allocator would abort the process, and PostgreSQL then restarts the server.)

use pgrx::pg_sys;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicPtr, Ordering};

/// A context below the transaction's own; null while this transaction has none.
static CONTEXT: AtomicPtr<pg_sys::MemoryContextData> = AtomicPtr::new(std::ptr::null_mut());

/// The first allocation, in bytes.
const FIRST: usize = 512;

/// A list of plain values in that memory. [`TransactionVec::forget`] must be called when a transaction ends.
pub struct TransactionVec<T: Copy> {
    values: *mut T,
    length: usize,
    capacity: usize,
}

impl<T: Copy> TransactionVec<T> {
    /// An empty list.
    pub const fn new() -> Self {
        Self { values: std::ptr::null_mut(), length: 0, capacity: 0 }
    }

    /// Appends a value.
    pub fn push(&mut self, value: T) {
        self.extend(&[value]);
    }

    /// Appends values.
    pub fn extend(&mut self, values: &[T]) {
        let length = self.length + values.len();
        if length > self.capacity {
            self.grow(length);
        }
        // SAFETY: there is room for the new values, and they are not part of the list.
        unsafe { self.values.add(self.length).copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        self.length = length;
    }

    /// Removes all values from the one numbered `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Leaves the memory to PostgreSQL, which frees it or has done so.
    pub fn forget(&mut self) {
        *self = Self::new();
    }

    fn grow(&mut self, wanted: usize) {
        let capacity = wanted.max(2 * self.capacity).max(FIRST / size_of::<T>());
        let size = capacity * size_of::<T>();
        // SAFETY: the context belongs to the running transaction, and so does what it has allocated. Both functions raise
        // an error when there is no memory, and leave the old values where they are.
        unsafe {
            self.values = if self.values.is_null() {
                pg_sys::MemoryContextAllocHuge(context(), size).cast()
            } else {
                pg_sys::repalloc_huge(self.values.cast(), size).cast()
            };
        }
        self.capacity = capacity;
    }
}

impl<T: Copy> Deref for TransactionVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        if self.values.is_null() {
            return &[];
        }
        // SAFETY: so many values were written.
        unsafe { std::slice::from_raw_parts(self.values, self.length) }
    }
}

impl<T: Copy> DerefMut for TransactionVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if self.values.is_null() {
            return &mut [];
        }
        // SAFETY: as above, and the list is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.values, self.length) }
    }
}

fn context() -> pg_sys::MemoryContext {
    let present = CONTEXT.load(Ordering::Relaxed);
    if !present.is_null() {
        return present;
    }
    // SAFETY: inside a transaction, whose context is the parent. The name is a constant.
    let made = unsafe {
        pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopTransactionContext,
            c"busymate_stats late changes".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as pg_sys::Size,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as pg_sys::Size,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as pg_sys::Size,
        )
    };
    CONTEXT.store(made, Ordering::Relaxed);
    made
}

/// To be called when a transaction ends, with [`TransactionVec::forget`].
pub fn forget_context() {
    CONTEXT.store(std::ptr::null_mut(), Ordering::Relaxed);
}
