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
#[pg_extern(stable, parallel_safe, sql = false)]
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

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use crate::pg::setting::set_local;
    use crate::settings::CLAIMS;
    use crate::testing::{run, value};
    use pgrx::prelude::*;
    use pgrx_tests::proptest::PgTestRunner;
    use proptest::prelude::*;
    use serde_json::json;

    fn may(section: &str, action: &str) -> bool {
        let sql = "select public.has_capability($1, $2)";
        let params = [crate::pg::query::Param::Text(section), crate::pg::query::Param::Text(action)];
        crate::pg::query::select(sql, &params, |row| row.bool(1)) == [true]
    }

    #[pg_test]
    fn no_claims_raise_and_none_but_the_users_own_are_enough() {
        run("select busymate_stats.assign_role('user of a test', 'viewer')");
        // Not the other test's, which it would wait for.
        run("create role stranger_of_a_test");
        run("set local role stranger_of_a_test");
        let text = "\\PC{0,30}";
        let claims = prop_oneof![
            text.prop_map(String::from),
            "[\\[\\]{}\",:a-z0-9 \\\\]{0,30}".prop_map(String::from),
            text.prop_map(|sub| json!({ "sub": sub }).to_string()),
            any::<i64>().prop_map(|sub| json!({ "sub": sub, "role": "viewer" }).to_string()),
            text.prop_map(|sub| json!({ "sub": [sub], "app_metadata": { "role": "admin" } }).to_string()),
        ];
        PgTestRunner::default()
            .run(&claims, |claims| {
                set_local(CLAIMS, &claims);
                prop_assert!(!may("stats", "view"));
                Ok(())
            })
            .unwrap();
        set_local(CLAIMS, &json!({ "sub": "user of a test" }).to_string());
        assert!(may("stats", "view") && !may("stats", "edit"));
    }

    #[pg_test]
    fn a_change_ends_what_was_remembered_at_once() {
        run("create role caller_of_a_test");
        let claims = json!({ "sub": "user of a test" }).to_string();
        set_local(CLAIMS, &claims);
        let may_view = || {
            run("set local role caller_of_a_test");
            // The second answer comes from memory.
            let answers = [may("stats", "view"), may("stats", "view")];
            run("reset role");
            assert_eq!(answers[0], answers[1]);
            answers[0]
        };
        assert!(!may_view());
        run("select busymate_stats.assign_role('user of a test', 'viewer')");
        assert!(may_view());
        run("delete from busymate_stats.user_roles where sub = 'user of a test'");
        assert!(!may_view());
        run("set busymate_stats.role_claim = 'role'");
        set_local(CLAIMS, &json!({ "sub": "somebody", "role": "viewer" }).to_string());
        assert!(may_view());
        run("set busymate_stats.claims_trusted_from = 'nobody_here'");
        assert!(!may_view());
        run("reset busymate_stats.claims_trusted_from");
        assert!(may_view());
        run("alter role caller_of_a_test bypassrls");
        set_local(CLAIMS, "");
        assert!(may_view(), "a role past row-level security may do everything");
        run("alter role caller_of_a_test nobypassrls");
        assert!(!may_view());
        assert!(!value::<bool>("select public.has_capability(null, 'view')"));
    }
}
