//! Who is asking, and acting as somebody else.

use pgrx::pg_sys;
use std::ffi::CStr;

/// The role that the session runs as, seen through any SECURITY DEFINER nesting: what `SET ROLE` set, or else the
/// role that logged in. In a parallel worker it is the leader's.
pub fn outer_role() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable that is set before any SQL function can run.
    unsafe { pg_sys::GetOuterUserId() }
}

/// The role that the session belongs to: the one that logged in, or that a superuser's session was handed to by
/// `SET SESSION AUTHORIZATION`. In a parallel worker it is the leader's.
pub fn session_role() -> pg_sys::Oid {
    // SAFETY: as in `outer_role`.
    unsafe { pg_sys::GetSessionUserId() }
}

/// The role whose rights are in force right now.
pub fn current_role() -> pg_sys::Oid {
    // SAFETY: as in `outer_role`.
    unsafe { pg_sys::GetUserId() }
}

/// The running transaction's id, the outermost one's; 0 while it has none.
#[cfg(feature = "torture")]
pub fn transaction_id() -> u32 {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetTopTransactionIdIfAny() }.into_inner()
}

/// Whether the running code was reached in a security-restricted operation, such as [`as_owner`] and REFRESH
/// MATERIALIZED VIEW are: it is then that of the role whose relation is read, or called by it.
pub fn is_restricted() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Whether row-level security does not apply to `role`: a superuser, or one with BYPASSRLS.
pub fn bypasses_rls(role: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up; needs a transaction, and every SQL function and show hook here runs in one.
    unsafe { pg_sys::has_bypassrls_privilege(role) }
}

/// The name of `role`; `None` when it is gone.
pub fn role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: a syscache look-up inside a transaction, told not to raise; the name is copied, and ends with NUL.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Whether what this session writes was decided elsewhere: by a superuser, or by the source of a replica.
pub fn writes_as_given() -> bool {
    // SAFETY: a syscache look-up inside a transaction, and a backend-local variable.
    unsafe {
        pg_sys::superuser_arg(outer_role())
            || pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as core::ffi::c_int
    }
}

/// Whether this session applies what a replication origin sends, a subscription's first copy included; not whether it only
/// has its triggers rest as a replica's do.
pub fn applies_changes() -> bool {
    // SAFETY: backend-local variables.
    unsafe {
        pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as core::ffi::c_int
            && u32::from(pg_sys::replorigin_session_origin) != pg_sys::InvalidRepOriginId
    }
}

/// Whether `role` owns `relation`, directly, by membership, or as a superuser.
pub fn owns_relation(role: pg_sys::Oid, relation: pg_sys::Oid) -> bool {
    #[cfg(feature = "pg15")]
    // SAFETY: a syscache look-up inside a transaction; it raises an error when the relation is gone.
    unsafe {
        pg_sys::pg_class_ownercheck(relation, role)
    }
    #[cfg(not(feature = "pg15"))]
    // SAFETY: as above; `relation` is a row of pg_class.
    unsafe {
        pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, role)
    }
}

/// Settings that decide how names are resolved, whether policies may hide rows, and how a value reads as text: under
/// these an owner's query means the same whoever asks.
const OWNER_SETTINGS: [(&CStr, &CStr); 8] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"row_security", c"off"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    // What compiling costs no query here earns back.
    (c"jit", c"off"),
];

/// Sets what any user may set, until the innermost level of settings is closed.
fn set_for_now(name: &CStr, value: &CStr) {
    // SAFETY: both strings end with NUL. An error raised inside leaves the level to the abort of the (sub)transaction.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Runs `work` as `owner` in a security-restricted operation, the way REFRESH MATERIALIZED VIEW runs a view's query:
/// whatever function, operator, view or policy `work` reaches, it has that owner's rights and cannot get out of them.
///
/// When `work` raises, the abort of the (sub)transaction puts role and settings back.
pub fn as_owner<R>(owner: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let mut role = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: both pointers are valid for the call. The flags are those that PostgreSQL itself uses for this purpose;
    // role and settings are put back below, or by the abort of the (sub)transaction.
    let nest_level = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut role, &mut context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            context
                | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION)
                    as core::ffi::c_int,
        );
        pg_sys::NewGUCNestLevel()
    };
    for (name, value) in OWNER_SETTINGS {
        set_for_now(name, value);
    }
    let result = work();
    // SAFETY: `nest_level` is the level opened above, and nothing between left one of its own open.
    unsafe {
        pg_sys::AtEOXact_GUC(false, nest_level);
        pg_sys::SetUserIdAndSecContext(role, context);
    }
    result
}

/// [`as_owner`], for what shall wait for a lock no longer than others can be kept waiting.
pub fn as_owner_briefly<R>(owner: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    as_owner(owner, || {
        set_for_now(c"lock_timeout", c"100ms");
        work()
    })
}

/// What PostgREST says of a request, the caller's token among it.
const REQUEST_SETTINGS: [&CStr; 3] = [c"request.headers", c"request.cookies", c"request.jwt.claims"];

/// [`as_owner`], where code of others may run that is to learn nothing of the request.
pub fn as_owner_without_request<R>(owner: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    as_owner(owner, || {
        for name in REQUEST_SETTINGS {
            // SAFETY: the name ends with NUL; told not to raise for a setting that was never made.
            if !unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) }.is_null() {
                set_for_now(name, c"");
            }
        }
        work()
    })
}

/// The database that this process is connected to.
pub fn database() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable that is set at connection.
    unsafe { pg_sys::MyDatabaseId }
}

/// The owner of a relation; `None` when it is gone.
pub fn owner_of(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up in a transaction; the row is read before it is released.
    unsafe {
        let row =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(relation));
        if row.is_null() {
            return None;
        }
        let header = (*row).t_data;
        let class = header.cast::<u8>().add((*header).t_hoff as usize).cast::<pg_sys::FormData_pg_class>();
        let owner = (*class).relowner;
        pg_sys::ReleaseSysCache(row);
        Some(owner)
    }
}

/// How many triggers deep this call is; 0 outside of all.
pub fn trigger_depth() -> i32 {
    // SAFETY: the function takes no argument, and its result is a number that is never null.
    unsafe { pgrx::direct_function_call::<i32>(pg_sys::pg_trigger_depth, &[]) }.unwrap_or(0)
}

/// Whether text in this database is UTF-8. In a SQL_ASCII one it is any bytes.
pub fn database_is_utf8() -> bool {
    // SAFETY: reads a backend-local variable that is set at connection.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as core::ffi::c_int }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::pg::setting::read;
    use crate::testing::{error_of, relation, run, value};
    use pgrx::prelude::*;

    fn role(name: &str) -> pg_sys::Oid {
        value(&format!("select '{name}'::regrole::oid"))
    }

    /// Whose rights are in force, and how names and values read.
    fn state() -> (pg_sys::Oid, bool, Option<Vec<u8>>, Option<Vec<u8>>) {
        (current_role(), is_restricted(), read(c"search_path"), read(c"TimeZone"))
    }

    #[pg_test]
    fn as_owner_is_somebody_else_and_nobody_afterwards() {
        run("create role owner_of_a_test");
        run("set search_path = public, pg_temp");
        run("set TimeZone = 'Asia/Tokyo'");
        let (before, owner) = (state(), role("owner_of_a_test"));
        let inside = as_owner(owner, state);
        assert_eq!(inside, (owner, true, Some(b"pg_catalog, pg_temp".into()), Some(b"UTC".into())));
        assert_eq!(state(), before);
        assert_eq!(error_of(|| as_owner(owner, || run("select 1 / 0"))).sqlstate, "22012");
        assert_eq!(state(), before);
        // The caller is still who it was.
        assert_eq!(as_owner(owner, outer_role), outer_role());
    }

    #[pg_test]
    fn nobody_gets_out_of_as_owner() {
        run("create role owner_of_a_test");
        let owner = role("owner_of_a_test");
        for escape in [
            "set role none",
            "set session authorization default",
            "create temp table t (number int)",
            "select set_config('role', 'none', false)",
        ] {
            let failure = error_of(|| as_owner(owner, || run(escape)));
            assert_eq!(failure.sqlstate, "42501", "{escape}: {}", failure.message);
        }
        assert_eq!(error_of(|| as_owner(owner, || run("table pg_authid"))).sqlstate, "42501");
    }

    #[pg_test]
    fn code_of_others_learns_nothing_of_the_request() {
        let claims = c"request.jwt.claims";
        run("set request.jwt.claims = '{\"sub\": \"me\"}'");
        let owner = current_role();
        assert_eq!(as_owner(owner, || read(claims)).as_deref(), Some(&b"{\"sub\": \"me\"}"[..]));
        assert_eq!(as_owner_without_request(owner, || read(claims)).as_deref(), Some(&b""[..]));
        assert_eq!(read(claims).as_deref(), Some(&b"{\"sub\": \"me\"}"[..]));
        // It makes no setting that was not there.
        as_owner_without_request(owner, || assert_eq!(read(c"request.cookies"), None));
    }

    #[pg_test]
    fn owners_and_roles_that_are_gone_have_no_name() {
        run("create role gone_of_a_test");
        run("create temp table owned (number int)");
        let (gone, owned) = (role("gone_of_a_test"), relation("owned"));
        assert_eq!(role_name(gone).as_deref(), Some("gone_of_a_test"));
        assert!(owner_of(owned) == Some(current_role()) && owns_relation(current_role(), owned));
        assert!(!owns_relation(gone, owned) && !bypasses_rls(gone) && bypasses_rls(current_role()));
        run("alter table owned owner to gone_of_a_test");
        assert_eq!(owner_of(owned), Some(gone));
        run("drop table owned");
        run("drop role gone_of_a_test");
        assert_eq!((role_name(gone), owner_of(owned)), (None, None));
    }
}
