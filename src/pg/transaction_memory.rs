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

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::error_of;
    use pgrx::prelude::*;
    use pgrx_tests::proptest::PgTestRunner;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(i64),
        Extend(Vec<i64>),
        Truncate(usize),
        Forget,
    }

    #[pg_test]
    fn a_list_in_transaction_memory_is_like_any_other() {
        let step = prop_oneof![
            4 => any::<i64>().prop_map(Step::Push),
            2 => prop::collection::vec(any::<i64>(), 0..200).prop_map(Step::Extend),
            1 => (0usize..300).prop_map(Step::Truncate),
            1 => Just(Step::Forget),
        ];
        PgTestRunner::default()
            .run(&prop::collection::vec(step, 0..40), |steps| {
                let mut list = TransactionVec::new();
                let mut model = Vec::new();
                for step in steps {
                    match step {
                        Step::Push(value) => {
                            list.push(value);
                            model.push(value);
                        }
                        Step::Extend(values) => {
                            list.extend(&values);
                            model.extend(values);
                        }
                        Step::Truncate(length) => {
                            list.truncate(length);
                            model.truncate(length);
                        }
                        Step::Forget => {
                            list.forget();
                            model.clear();
                        }
                    }
                    prop_assert_eq!(&*list, &*model);
                }
                Ok(())
            })
            .unwrap();
    }

    #[pg_test]
    fn the_memory_is_the_transactions_own() {
        let mut list = TransactionVec::new();
        error_of(|| {
            list.extend(&[7u8; 100_000]);
            panic!("the subtransaction ends");
        });
        assert_eq!(*list, [7u8; 100_000]);
        let context = CONTEXT.load(Ordering::Relaxed);
        // SAFETY: the context is there for as long as the transaction, and allocated what the list holds.
        unsafe {
            let transactions = pg_sys::TopTransactionContext;
            assert_eq!((*context).parent, transactions);
            assert_eq!(pg_sys::GetMemoryChunkContext(list.values.cast()), context);
        }
    }
}
