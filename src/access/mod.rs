//! Who may read: claims → caller → capability.
//!
//! The caller is the session's outer role. A superuser or a BYPASSRLS role holds every capability; anybody else is
//! judged by the `sub` in `request.jwt.claims`. Whatever the claims hold, the answer is yes or no, never an error: a
//! policy that raised for one subscriber would end delivery for all of Realtime's.

mod caller;
mod claims;
mod grants;
mod guard;
mod manage;
mod revoked;
mod role_claim;
mod stamp;
mod trusted;

pub use caller::{caller_grants, is_builtin};
pub use revoked::clear_expired_tokens;
pub use role_claim::RoleClaim;
pub use trusted::TrustedLogins;

use crate::pg::argument::TextBytes;
use crate::pg::{question, setting};
use crate::settings;
use pgrx::prelude::*;
use std::ffi::{CStr, c_char};

/// Whether the caller holds the capability `section:action`. A null argument is false, for superusers too.
///
/// SQL calls `question::remembered_answer`, which comes here with what it does not remember.
#[pg_extern(stable, parallel_safe)]
fn has_capability(section: Option<TextBytes>, action: Option<TextBytes>) -> bool {
    let (Some(TextBytes(section)), Some(TextBytes(action))) = (section, action) else { return false };
    let (grants, caller) = caller::caller();
    let held = grants.hold(&section, &action);
    if let Some(caller) = caller {
        question::remember(&caller, &section, &action, held);
    }
    held
}

/// The setting that view `my_capabilities` reads.
///
/// A function behind the view would need EXECUTE for whoever reads the view, and nothing but `has_capability` is
/// executable by PUBLIC; a setting needs none.
pub const MY_CAPABILITIES: &CStr = c"busymate_stats.my_capabilities";

/// Defines [`MY_CAPABILITIES`], and has answers remembered.
pub fn register() {
    question::register(settings::CLAIMS, has_capability_wrapper);
    setting::define(MY_CAPABILITIES, c"What the caller may do, as JSON; computed.", show_my_capabilities);
}

#[pg_guard]
extern "C-unwind" fn show_my_capabilities() -> *const c_char {
    if !setting::database_is_readable() {
        return c"[]".as_ptr();
    }
    setting::palloc_string(&caller_grants().to_json())
}
