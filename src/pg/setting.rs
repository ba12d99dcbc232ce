//! Settings that pgrx has no wrapper for. Among them one that nobody sets and everybody may read: its value is computed
//! when it is shown, as `is_superuser`'s is.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

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

/// Defines an interval of background work: milliseconds, at least a second, 0 for never. It changes on reload.
pub fn define_interval(name: &'static CStr, description: &'static CStr, milliseconds: &'static AtomicI32) {
    define_int(name, description, c"0 turns it off.", milliseconds, Some(check_interval));
}

/// Defines a length of time in milliseconds. It changes on reload.
pub fn define_milliseconds(
    name: &'static CStr,
    description: &'static CStr,
    milliseconds: &'static AtomicI32,
) {
    define_int(name, description, c"", milliseconds, None);
}

fn define_int(
    name: &'static CStr,
    description: &'static CStr,
    more: &'static CStr,
    milliseconds: &'static AtomicI32,
    check: pg_sys::GucIntCheckHook,
) {
    // SAFETY: every string and the variable are static; PostgreSQL writes the variable in the one thread of the backend.
    unsafe {
        pg_sys::DefineCustomIntVariable(
            name.as_ptr(),
            description.as_ptr(),
            more.as_ptr(),
            milliseconds.as_ptr(),
            milliseconds.load(Ordering::Relaxed),
            0,
            i32::MAX,
            pg_sys::GucContext::PGC_SIGHUP,
            pg_sys::GUC_UNIT_MS as c_int,
            check,
            None,
            None,
        );
    }
}

/// PostgreSQL asks whether a value will do.
unsafe extern "C-unwind" fn check_interval(
    value: *mut c_int,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes a valid pointer; the message is a string that it copies.
    unsafe {
        let acceptable = *value == 0 || *value >= 1000;
        if !acceptable {
            pg_sys::GUC_check_errdetail_string =
                pg_sys::pstrdup(c"The interval is 0 (off) or at least 1s.".as_ptr());
        }
        acceptable
    }
}

/// Sets `name` to `value` until the transaction ends, as `set_config(name, value, true)` does.
pub fn set_local(name: &CStr, value: &str) {
    let value = super::c_string(value);
    // SAFETY: both strings end with NUL and are copied. It is what set_config() calls for a role that is no superuser.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// Runs `work` with `limit` as `lock_timeout`, unless the session has one: then that counts.
pub fn with_lock_timeout<R>(limit: &CStr, work: impl FnOnce() -> R) -> R {
    // SAFETY: reads a backend-local variable.
    if unsafe { pg_sys::LockTimeout } > 0 {
        return work();
    }
    // SAFETY: both strings end with NUL; any user may set it, and GUC_ACTION_SAVE is allowed in parallel mode too. It is
    // put back below, or by the abort of the (sub)transaction when `work` raises.
    let nest_level = unsafe {
        let nest_level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"lock_timeout".as_ptr(),
            limit.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        nest_level
    };
    let result = work();
    // SAFETY: `nest_level` is the level opened above, and nothing between left one of its own open.
    unsafe { pg_sys::AtEOXact_GUC(false, nest_level) };
    result
}

/// What a text setting may hold.
pub trait TextCheck {
    /// What to do instead, when `value` will not do.
    fn hint(value: &str) -> Option<String>;
}

/// Defines a text setting that a superuser may change; `C` looks at every new value. Cached answers end with each.
pub fn define_text<C: TextCheck>(
    name: &'static CStr,
    description: &'static CStr,
    detail: &'static CStr,
    variable: &'static GucSetting<Option<CString>>,
) {
    define_checked::<C>(name, description, detail, variable, GucFlags::default());
}

/// [`define_text`], for a list separated by commas.
pub fn define_list<C: TextCheck>(
    name: &'static CStr,
    description: &'static CStr,
    detail: &'static CStr,
    variable: &'static GucSetting<Option<CString>>,
) {
    let flags = GucFlags::from_bits_retain(pg_sys::GUC_LIST_INPUT as c_int);
    define_checked::<C>(name, description, detail, variable, flags);
}

fn define_checked<C: TextCheck>(
    name: &'static CStr,
    description: &'static CStr,
    detail: &'static CStr,
    variable: &'static GucSetting<Option<CString>>,
    flags: GucFlags,
) {
    // SAFETY: the hooks are of the types asked for, and everything else is static.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            description,
            detail,
            variable,
            GucContext::Suset,
            flags,
            Some(check_text::<C>),
            Some(text_assigned),
            None,
        );
    }
}

/// PostgreSQL sets a value, or puts an earlier one back.
unsafe extern "C-unwind" fn text_assigned(_value: *const c_char, _extra: *mut c_void) {
    super::question::DEPENDENCIES.expire();
}

/// PostgreSQL asks whether a value will do.
#[pg_guard]
unsafe extern "C-unwind" fn check_text<C: TextCheck>(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes a valid pointer to a string, or to null for the boot value; it copies the hint.
    unsafe {
        if (*value).is_null() {
            return true;
        }
        let hint = C::hint(&CStr::from_ptr(*value).to_string_lossy());
        if let Some(hint) = &hint {
            pg_sys::GUC_check_errhint_string = palloc_string(hint).cast_mut();
        }
        hint.is_none()
    }
}

/// Keeps names that begin with `prefix.` for the settings defined so far, so that a misspelt one is told.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: a static string; called from _PG_init, after the settings.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::{error_of, run, value};
    use pgrx::prelude::*;

    #[pg_test]
    fn an_interval_is_off_or_at_least_a_second() {
        for (milliseconds, is_accepted) in [(0, true), (1, false), (999, false), (1000, true), (-1, false)] {
            let mut value = milliseconds;
            // SAFETY: a valid pointer; the hook uses nothing else. The detail is PostgreSQL's, null or a string.
            let (answer, detail) = unsafe {
                pg_sys::GUC_check_errdetail_string = std::ptr::null_mut();
                let answer = check_interval(&mut value, std::ptr::null_mut(), pg_sys::GucSource::PGC_S_TEST);
                (answer, pg_sys::GUC_check_errdetail_string)
            };
            assert_eq!((answer, detail.is_null()), (is_accepted, is_accepted), "{milliseconds}");
        }
    }

    #[pg_test]
    fn a_text_that_will_not_do_is_refused_with_a_hint() {
        for (name, bad, good) in [
            ("role_claim", "a..b", "app_metadata.role"),
            ("claims_trusted_from", "a,,b", "authenticator, \"Odd, role\""),
            ("mcp_allowed_origins", "example.com", "https://example.com"),
        ] {
            let set = |value| run(&format!("set busymate_stats.{name} = $${value}$$"));
            set(good);
            let failure = error_of(|| set(bad));
            assert_eq!(failure.sqlstate, "22023", "{name}: {}", failure.message);
            assert!(failure.hint.is_some(), "{name}");
            assert_eq!(value::<String>(&format!("show busymate_stats.{name}")), good);
        }
        // Within the reserved prefix a name that is not defined is a mistake.
        assert_eq!(error_of(|| run("set busymate_stats.rol_claim = 'x'")).sqlstate, "42602");
    }

    #[pg_test]
    fn a_lock_timeout_is_put_back() {
        let shown = || value::<String>("show lock_timeout");
        assert_eq!(with_lock_timeout(c"50ms", shown), "50ms");
        assert_eq!(shown(), "0");
        let failure = error_of(|| with_lock_timeout(c"50ms", || run("select 1 / 0")));
        assert_eq!((failure.sqlstate.as_str(), shown().as_str()), ("22012", "0"));
        run("set lock_timeout = '3s'");
        assert_eq!(with_lock_timeout(c"50ms", shown), "3s");
    }

    #[pg_test]
    fn what_is_set_locally_goes_with_the_subtransaction() {
        assert_eq!(read(c"response.of_a_test"), None);
        assert_eq!(
            error_of(|| {
                set_local(c"response.of_a_test", "201");
                assert_eq!(read(c"response.of_a_test").as_deref(), Some(&b"201"[..]));
                run("select 1 / 0");
            })
            .sqlstate,
            "22012"
        );
        assert!(read(c"response.of_a_test").unwrap_or_default().is_empty());
        set_local(c"response.of_a_test", "cut\0here");
        assert_eq!(read(c"response.of_a_test").as_deref(), Some(&b"cut"[..]));
    }
}
