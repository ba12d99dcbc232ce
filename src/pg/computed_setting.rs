//! A setting that nobody sets and everybody may read: its value is computed when it is shown, as `is_superuser`'s is.

use pgrx::pg_sys;
use std::ffi::{CStr, c_char};

/// Defines a read-only setting whose value is what `show` gives: `show` returns a palloc'ed or static string.
pub fn define(
    name: &'static CStr,
    description: &'static CStr,
    show: unsafe extern "C-unwind" fn() -> *const c_char,
) {
    /// PostgreSQL wants a variable to keep the (unused) stored value in.
    static mut STORED: *mut c_char = std::ptr::null_mut();
    let flags = pg_sys::GUC_NO_SHOW_ALL
        | pg_sys::GUC_NO_RESET_ALL
        | pg_sys::GUC_NOT_IN_SAMPLE
        | pg_sys::GUC_DISALLOW_IN_FILE;
    // SAFETY: every string is static. STORED is written by PostgreSQL only, in the one thread of the backend, and all
    // such settings may share it, since none is ever set.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            name.as_ptr(),
            description.as_ptr(),
            std::ptr::null(),
            &raw mut STORED,
            c"".as_ptr(),
            pg_sys::GucContext::PGC_INTERNAL,
            flags as core::ffi::c_int,
            None,
            None,
            Some(show),
        );
    }
}

/// Whether tables can be read: a transaction is open, in a database.
pub fn database_is_readable() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::IsTransactionState() && pg_sys::MyDatabaseId != pg_sys::InvalidOid }
}

/// Copies `text` to where PostgreSQL will free it.
pub fn palloc_string(text: &str) -> *const c_char {
    let text = super::c_string(text);
    // SAFETY: copies a string that ends with NUL into the current memory context.
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}

/// The value of setting `name`, or `None` when no such setting is known in this session.
pub fn read(name: &CStr) -> Option<Vec<u8>> {
    // SAFETY: the string that comes back stays until the setting changes; it is copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes().to_vec())
    }
}
