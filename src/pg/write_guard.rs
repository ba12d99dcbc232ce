//! A look at every table that a statement is about to write into, so that code which others have put on it does not run
//! with more rights than theirs.
//!
//! The look is taken twice, each time at relations that are known by OID and locked, so that no rename or DDL comes between
//! it and the write. `planner_hook` takes it before anything on them runs: the planner computes what is immutable in a
//! default, a view or an index. `ExecutorCheckPerms_hook` takes it again, for the plan may be an old one.

use super::attached::Object;
use super::identity::{current_role, is_restricted, owner_of};
use super::partition::changes_of_any;
use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::sync::OnceLock;

/// What is asked about a table that is about to be written into.
#[derive(Clone, Copy)]
pub struct Target {
    /// The table, which is locked.
    pub relation: pg_sys::Oid,
    /// Whether the library itself writes, or reads, and means a table of its own.
    pub is_meant_as_own: bool,
    /// Whether the writer has no more than a user's rights. His claims may give him more.
    pub is_ordinary: bool,
}

/// Raises where the write must not take place; gives whether the table is the library's.
type Check = fn(Target) -> bool;

static CHECK: OnceLock<Check> = OnceLock::new();
static mut NEXT: pg_sys::ExecutorCheckPerms_hook_type = None;
static mut NEXT_PLANNER: pg_sys::planner_hook_type = None;
static mut NEXT_ANALYSIS: pg_sys::post_parse_analyze_hook_type = None;

mod raw {
    use pgrx::pg_sys::{ParamListInfo, PlannedStmt, Query};

    unsafe extern "C-unwind" {
        pub fn standard_planner(
            query: *mut Query,
            text: *const std::ffi::c_char,
            options: std::ffi::c_int,
            parameters: ParamListInfo,
        ) -> *mut PlannedStmt;
    }
}

/// What the next statement means to be the library's own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meant {
    Nothing,
    WhatItWrites,
    WhatItReads,
}

thread_local! {
    /// Whose relations the next statement names, and nobody else's.
    static NAMED_OF: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    static MEANT: Cell<Meant> = const { Cell::new(Meant::Nothing) };
    /// The last table that an ordinary user has written into and that is not the library's, and when.
    static OTHERS: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
    static CHANGES_OF_CODE: Cell<u64> = const { Cell::new(0) };
}

/// Has `check` called for each table that a statement writes into. Of those into which an ordinary user writes, a table that
/// `check` has called somebody else's is asked about again only when a relation has changed.
pub fn register(check: Check) {
    if CHECK.set(check).is_ok() {
        // SAFETY: called once, in `_PG_init`, in a process with one thread; the hook that was there is called on.
        unsafe {
            NEXT = pg_sys::ExecutorCheckPerms_hook;
            pg_sys::ExecutorCheckPerms_hook = Some(check_permissions);
            NEXT_PLANNER = pg_sys::planner_hook;
            pg_sys::planner_hook = Some(plan);
            NEXT_ANALYSIS = pg_sys::post_parse_analyze_hook;
            pg_sys::post_parse_analyze_hook = Some(analyzed);
        }
    }
}

/// Numbers that move whenever a relation of the database, a function, or a role has changed, as far as messages were taken
/// in.
pub fn changes() -> (u64, u64) {
    static REGISTER: std::sync::Once = std::sync::Once::new();
    REGISTER.call_once(|| {
        for cache in [pg_sys::SysCacheIdentifier::PROCOID, pg_sys::SysCacheIdentifier::AUTHOID] {
            // SAFETY: the callback is of the type asked for, and lives as long as the backend, which registers it once.
            unsafe {
                pg_sys::CacheRegisterSyscacheCallback(cache as _, Some(changed), pg_sys::Datum::null());
            }
        }
    });
    (changes_of_any(), CHANGES_OF_CODE.get())
}

/// Called by PostgreSQL in the middle of its own work: sets a number and does nothing else.
extern "C-unwind" fn changed(_argument: pg_sys::Datum, _cache: core::ffi::c_int, _hash: u32) {
    CHANGES_OF_CODE.set(CHANGES_OF_CODE.get() + 1);
}

/// Runs `work`, whose first statement writes into tables of the library's own if into any: `check` is told.
pub fn writing_own<R>(work: impl FnOnce() -> R) -> R {
    meaning(Meant::WhatItWrites, work)
}

/// Runs `work`, whose first statement reads tables of the library's own and nothing else: `check` is called for each.
pub fn reading_own<R>(work: impl FnOnce() -> R) -> R {
    meaning(Meant::WhatItReads, work)
}

fn meaning<R>(meant: Meant, work: impl FnOnce() -> R) -> R {
    /// Whatever happens, the next statement is nobody's but its caller's.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            MEANT.set(Meant::Nothing);
        }
    }
    let _reset = Reset;
    MEANT.set(meant);
    work()
}

/// Runs `work`, whose first statement is the library's own. Within [`super::identity::as_owner`] the relations that it names
/// belong to that owner, or to PostgreSQL or the extension; it raises where somebody has put another one under the name since
/// the relation was locked, by renaming a schema.
pub fn naming_own<R>(work: impl FnOnce() -> R) -> R {
    /// As of [`meaning`].
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            NAMED_OF.set(None);
        }
    }
    let _reset = Reset;
    NAMED_OF.set(is_restricted().then(current_role));
    work()
}

/// Bears no panic guard, as [`plan`].
unsafe extern "C-unwind" fn analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        if NAMED_OF.get().is_some() {
            check_named(query);
        }
        if let Some(next) = NEXT_ANALYSIS {
            next(state, query, jumble);
        }
    }
}

/// # Safety
/// A query that has been analyzed and not rewritten.
#[pg_guard]
unsafe extern "C-unwind" fn check_named(query: *mut pg_sys::Query) {
    if let Some(owner) = NAMED_OF.replace(None) {
        // SAFETY: as the caller promises.
        unsafe { check_owner_of_named(query, owner) };
    }
}

/// # Safety
/// As of [`check_named`].
unsafe fn check_owner_of_named(query: *mut pg_sys::Query, owner: pg_sys::Oid) {
    // SAFETY: the lists are of the nodes that PostgreSQL's headers say.
    unsafe {
        each_of((*query).rtable, |entry: *mut pg_sys::RangeTblEntry| match (*entry).rtekind {
            pg_sys::RTEKind::RTE_RELATION => {
                let relation = (*entry).relid;
                let is_own = relation.to_u32() < pg_sys::FirstNormalObjectId
                    || owner_of(relation) == Some(owner)
                    || Object::relation(relation)
                        .extension()
                        .is_some_and(|of| extension(c"busymate_stats") == Some(of));
                if !is_own {
                    raise_moved(relation);
                }
            }
            pg_sys::RTEKind::RTE_SUBQUERY if !(*entry).subquery.is_null() => {
                check_owner_of_named((*entry).subquery, owner);
            }
            _ => {}
        });
        each_of((*query).cteList, |cte: *mut pg_sys::CommonTableExpr| {
            check_owner_of_named((*cte).ctequery.cast(), owner);
        });
    }
}

fn raise_moved(relation: pg_sys::Oid) {
    let (_, name) = name_of(relation);
    pgrx::ereport!(
        ERROR,
        pgrx::PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("relation \"{name}\" is not the one that was locked"),
        "Somebody has put another relation, or another schema, in its place."
    );
}

/// Bears no panic guard, which would make the planner's errors anew: each frame here is plain, and PostgreSQL's errors pass
/// over it.
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const core::ffi::c_char,
    options: core::ffi::c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT
            || MEANT.get() != Meant::Nothing
            || may_write(query)
        {
            check_query(query);
        }
        let next = match NEXT_PLANNER {
            Some(next) => next,
            None => raw::standard_planner,
        };
        next(query, text, options, parameters)
    }
}

/// Whether a SELECT writes, or locks rows as if it did.
///
/// # Safety
/// A query.
unsafe fn may_write(query: *mut pg_sys::Query) -> bool {
    // SAFETY: as the caller promises.
    unsafe { (*query).hasModifyingCTE || (*query).hasForUpdate }
}

/// # Safety
/// A query that the rewriter has been through.
#[pg_guard]
unsafe extern "C-unwind" fn check_query(query: *mut pg_sys::Query) {
    // What the look itself asks is nobody's.
    let meant = MEANT.replace(Meant::Nothing);
    // SAFETY: as the caller promises.
    unsafe { check_targets_of(query, meant) };
    MEANT.set(meant);
}

/// # Safety
/// As of [`check_query`].
unsafe fn check_targets_of(query: *mut pg_sys::Query, meant: Meant) {
    // SAFETY: the lists are of the nodes that PostgreSQL's headers say; those of a query's range table and of its common
    // table expressions.
    unsafe {
        #[cfg(feature = "pg15")]
        check_targets((*query).rtable, meant, |entry: &pg_sys::RangeTblEntry| {
            (entry.relid != pg_sys::InvalidOid).then_some((entry.relid, entry.requiredPerms))
        });
        #[cfg(not(feature = "pg15"))]
        check_targets((*query).rteperminfos, meant, |entry: &pg_sys::RTEPermissionInfo| {
            Some((entry.relid, entry.requiredPerms))
        });
        each_of((*query).rtable, |entry: *mut pg_sys::RangeTblEntry| {
            if (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY && !(*entry).subquery.is_null() {
                check_targets_of((*entry).subquery, meant);
            }
        });
        each_of((*query).cteList, |cte: *mut pg_sys::CommonTableExpr| {
            check_targets_of((*cte).ctequery.cast(), meant);
        });
    }
}

/// # Safety
/// The list is null or of pointers to `Node`.
unsafe fn each_of<Node>(list: *mut pg_sys::List, mut each: impl FnMut(*mut Node)) {
    if list.is_null() {
        return;
    }
    // SAFETY: the list is as the caller promises.
    unsafe {
        for place in 0..(*list).length as usize {
            each((*(*list).elements.add(place)).ptr_value.cast::<Node>());
        }
    }
}

#[cfg(feature = "pg15")]
#[pg_guard]
unsafe extern "C-unwind" fn check_permissions(tables: *mut pg_sys::List, raises: bool) -> bool {
    // SAFETY: PostgreSQL's own arguments, passed on; the list is of RangeTblEntry.
    unsafe {
        if let Some(next) = NEXT
            && !next(tables, raises)
        {
            return false;
        }
        NAMED_OF.set(None);
        check_targets(tables, MEANT.replace(Meant::Nothing), |entry: &pg_sys::RangeTblEntry| {
            (entry.rtekind == pg_sys::RTEKind::RTE_RELATION).then_some((entry.relid, entry.requiredPerms))
        });
    }
    true
}

#[cfg(not(feature = "pg15"))]
#[pg_guard]
unsafe extern "C-unwind" fn check_permissions(
    tables: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
    raises: bool,
) -> bool {
    // SAFETY: PostgreSQL's own arguments, passed on; the second list is of RTEPermissionInfo.
    unsafe {
        if let Some(next) = NEXT
            && !next(tables, permissions, raises)
        {
            return false;
        }
        NAMED_OF.set(None);
        check_targets(permissions, MEANT.replace(Meant::Nothing), |entry: &pg_sys::RTEPermissionInfo| {
            Some((entry.relid, entry.requiredPerms))
        });
    }
    true
}

const WRITES: pg_sys::AclMode =
    (pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) as pg_sys::AclMode;

/// # Safety
/// The list is null or of pointers to `Entry`.
unsafe fn check_targets<Entry>(
    list: *mut pg_sys::List,
    meant: Meant,
    target: impl Fn(&Entry) -> Option<(pg_sys::Oid, pg_sys::AclMode)>,
) {
    let Some(check) = CHECK.get() else { return };
    // SAFETY: reads backend-local state, and in a transaction the syscache; the list is as the caller promises.
    unsafe {
        let is_ordinary = || !(pg_sys::superuser() || pg_sys::InLocalUserIdChange());
        each_of(list, |entry: *mut Entry| {
            let Some((relation, permissions)) = target(&*entry) else { return };
            let is_written = permissions & WRITES != 0;
            if !is_written && (meant != Meant::WhatItReads || permissions == 0) {
                return;
            }
            let is_meant_as_own = meant != Meant::Nothing;
            let is_ordinary = !is_meant_as_own && is_ordinary();
            let seen = (relation.to_u32(), changes_of_any());
            if is_ordinary && OTHERS.get() == seen {
                return;
            }
            if !check(Target { relation, is_meant_as_own, is_ordinary }) && is_ordinary {
                OTHERS.set(seen);
            }
        });
    }
}

/// Whether code that runs with the current role's rights has all those of `owner`.
pub fn has_rights_of(owner: pg_sys::Oid) -> bool {
    // SAFETY: syscache look-ups in a transaction.
    unsafe { pg_sys::superuser() || pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) }
}

/// Whether a role is a superuser.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up in a transaction.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether an extension's script runs, or pg_upgrade: nobody else has come near the tables yet.
pub fn is_installing() -> bool {
    // SAFETY: reads backend-local variables.
    unsafe { pg_sys::creating_extension || pg_sys::IsBinaryUpgrade }
}

/// The extension of this name, where it is installed.
pub fn extension(name: &std::ffi::CStr) -> Option<pg_sys::Oid> {
    // SAFETY: reads pg_extension in a transaction, told not to raise; the string ends with NUL.
    let found = unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// The schema and the name of a relation that is locked.
pub fn name_of(relation: pg_sys::Oid) -> (pg_sys::Oid, String) {
    // SAFETY: syscache look-ups in a transaction; the name is copied, and ends with NUL where there is one.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        let text = if name.is_null() {
            String::new()
        } else {
            std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
        };
        (pg_sys::get_rel_namespace(relation), text)
    }
}

/// Runs `work` under a snapshot that sees what is committed by now, at every isolation level: the catalogs as they are.
pub fn with_latest_snapshot<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: called in a transaction, outside of parallel mode, for its caller writes. A raise leaves the snapshot to the
    // abort of the (sub)transaction.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}
