//! Where PostgreSQL keeps a setting's value, to look at it without a search or a copy, or beneath what a command has set.

use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int};

/// Where a setting was found. It may have moved since, which is noticed at each look.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "pg15"), allow(dead_code))]
pub struct Place {
    number: usize,
    name: *const c_char,
}

impl Place {
    /// Where no setting is.
    pub const NOWHERE: Self = Self { number: usize::MAX, name: std::ptr::null() };

    /// The value of the text setting `name`, if it still stands at this place.
    ///
    /// # Safety
    /// The value stays until the setting changes: no setting may be set while it is used.
    #[inline]
    pub unsafe fn value(self, name: &CStr) -> Option<*const c_char> {
        // SAFETY: what `record` gives is a setting that PostgreSQL knows at this moment; one that says it is a text
        // lies inside a config_string, whose variable points to a string that ends with NUL, or to null.
        unsafe {
            let record = self.record(name)?;
            if (*record).vartype != pg_sys::config_type::PGC_STRING {
                return None;
            }
            let value: *const c_char = *(*record.cast::<pg_sys::config_string>()).variable;
            (!value.is_null()).then_some(value)
        }
    }

    #[cfg(feature = "pg15")]
    #[inline]
    unsafe fn record(self, _name: &CStr) -> Option<*const pg_sys::config_generic> {
        // SAFETY: the array holds as many settings as PostgreSQL says. It never frees a setting's name, so that the
        // same address is the same name.
        unsafe {
            if self.number >= raw::GetNumConfigOptions() as usize {
                return None;
            }
            let record = *raw::get_guc_variables().add(self.number);
            std::ptr::eq((*record).name, self.name).then_some(record)
        }
    }

    #[cfg(not(feature = "pg15"))]
    #[inline]
    unsafe fn record(self, name: &CStr) -> Option<*const pg_sys::config_generic> {
        // SAFETY: the name ends with NUL; told to skip errors, the function raises none.
        let record = unsafe { raw::find_option(name.as_ptr(), false, true, 0) };
        (!record.is_null()).then_some(record)
    }
}

/// The enum setting `name` as it was before the innermost command that set it for as long as it runs.
pub fn enum_outside_command(name: &CStr) -> Option<c_int> {
    // SAFETY: `record` gives a setting that PostgreSQL knows at this moment; one that says it is an enum lies inside a
    // config_enum. A stack entry with the state GUC_SAVE keeps in `prior` a value of the setting's type (guc.c).
    unsafe {
        let record = find(name).record(name)?;
        if (*record).vartype != pg_sys::config_type::PGC_ENUM {
            return None;
        }
        let saved = (*record).stack;
        if !saved.is_null() && (*saved).state == pg_sys::GucStackState::GUC_SAVE {
            return Some((*saved).prior.val.enumval);
        }
        Some(*(*record.cast::<pg_sys::config_enum>()).variable)
    }
}

/// Where the setting `name` is, written as it was first set.
#[cfg(feature = "pg15")]
pub fn find(name: &CStr) -> Place {
    // SAFETY: the array holds as many settings as PostgreSQL says, each with a name that ends with NUL.
    unsafe {
        let settings =
            std::slice::from_raw_parts(raw::get_guc_variables(), raw::GetNumConfigOptions() as usize);
        settings
            .iter()
            .position(|setting| CStr::from_ptr((**setting).name) == name)
            .map_or(Place::NOWHERE, |number| Place { number, name: (*settings[number]).name })
    }
}

/// From PostgreSQL 16 on its settings are in a hash table, which finds them fast enough.
#[cfg(not(feature = "pg15"))]
pub fn find(_name: &CStr) -> Place {
    Place::NOWHERE
}

/// PostgreSQL's functions without pgrx's guard, which would cost more than they do. None of them raises.
mod raw {
    use pgrx::pg_sys;
    use std::ffi::c_int;

    #[cfg(feature = "pg15")]
    unsafe extern "C" {
        pub fn GetNumConfigOptions() -> c_int;
        pub fn get_guc_variables() -> *const *const pg_sys::config_generic;
    }

    #[cfg(not(feature = "pg15"))]
    unsafe extern "C" {
        pub fn find_option(
            name: *const std::ffi::c_char,
            create_placeholders: bool,
            skip_errors: bool,
            elevel: c_int,
        ) -> *const pg_sys::config_generic;
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::run;
    use pgrx::prelude::*;

    #[pg_test]
    fn a_place_follows_its_setting() {
        let name = c"request.of_a_test";
        // SAFETY: no setting is set while a value is used: it is copied.
        let value = |place: Place| unsafe {
            place.value(name).map(|text| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        run("set request.of_a_test = 'one'");
        let place = find(name);
        assert_eq!(value(place).as_deref(), Some("one"));
        run("set request.of_a_test = 'another one, elsewhere in memory'");
        assert_eq!(value(place).as_deref(), Some("another one, elsewhere in memory"));
        // More settings than there was room for: PostgreSQL moves them, and sorts them anew.
        for number in 0..300 {
            run(&format!("set a_test.number_{number} = '{number}'"));
        }
        assert_eq!(value(find(name)).as_deref(), Some("another one, elsewhere in memory"));
        assert!(value(place).is_none_or(|text| text == "another one, elsewhere in memory"));
        // A setting, but of another kind.
        // SAFETY: as above.
        assert!(unsafe { find(c"work_mem").value(c"work_mem") }.is_none());
        // SAFETY: as above.
        assert!(unsafe { find(c"request.of_nobody").value(c"request.of_nobody") }.is_none());
    }
}
