//! Keeps what runs with more rights than its author's off the extension's tables: a superuser, the worker, or a function
//! with its owner's rights writes into them only while nothing of anybody else stands on them.
//!
//! Which objects are foreign, view `busymate_stats_internal.foreign_objects` says, for `health` too.

use crate::error::UserError;
use crate::pg::identity::{as_owner, current_role, owner_of};
use crate::pg::partition::changes_of_any;
use crate::pg::query::{Param, select_planned};
use crate::pg::scan::find_schema;
use crate::pg::write_guard::{self, Target};
use crate::schemas::{INTERNAL, OPERATORS};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;

/// The tables that are in neither of the extension's own schemas.
const FEEDS: [&str; 2] = ["service_stats", "service_status"];

/// Has every write looked at.
pub fn register() {
    write_guard::register(check);
}

/// Raises 55000 where the write must not take place.
fn check(target: Target) {
    let relation = target.relation;
    let (schema, name) = write_guard::name_of(relation);
    // Most tables that a superuser writes into are somebody's, and so are known by their names.
    let may_be_own =
        [OPERATORS, INTERNAL].iter().any(|own| find_schema(own) == Some(schema)) || FEEDS.contains(&&*name);
    if !(may_be_own || target.is_meant_as_own) || write_guard::is_installing() {
        return;
    }
    let own = write_guard::extension(c"busymate_stats");
    if own.is_none() || write_guard::extension_of(relation) != own {
        if target.is_meant_as_own {
            refuse(&format!("table \"{name}\" is not the extension's, which has one of that name"))
                .hint("Somebody has put another table, or another schema, in its place: move it away.")
                .raise();
        }
        return;
    }
    if !owner_of(relation).is_some_and(write_guard::has_rights_of) {
        return;
    }
    // Whatever is put on a table sends a message about it, which came with its lock at the latest.
    let identity = (changes_of_any(), current_role());
    let is_known = CLEAN.with_borrow(|(of, clean)| *of == Some(identity) && clean.contains(&relation));
    if is_known {
        return;
    }
    if let Some(object) = first_foreign(relation) {
        refuse(&object)
            .detail("Its code would run with the writer's rights, or it hinders the extension's own work.")
            .hint(
                "Drop it, or give the table back to a superuser. A trigger function of a superuser's that nobody \
                 else may execute can stay: REVOKE EXECUTE ON FUNCTION … FROM PUBLIC.",
            )
            .raise();
    }
    if identity.0 == changes_of_any() {
        CLEAN.with_borrow_mut(|(of, clean)| {
            if *of != Some(identity) {
                (*of, *clean) = (Some(identity), Vec::new());
            }
            clean.push(relation);
        });
    }
}

/// When tables were looked at and as which role, and those with nothing of others on them.
type Clean = (Option<(u64, pg_sys::Oid)>, Vec<pg_sys::Oid>);

thread_local! {
    static CLEAN: RefCell<Clean> = const { RefCell::new((None, Vec::new())) };
}

fn refuse(object: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("busymate_stats does not write beside what others have put there: {object}"),
    )
}

/// The view's own query. The view itself is not read here: that would lock it in the middle of a transaction, and DROP
/// EXTENSION, which may have locked it by then, would be waited for by whom it waits for.
fn query() -> &'static str {
    const SCRIPT: &str = include_str!("../sql/topics/33_foreign_objects.sql");
    let view = SCRIPT.split_once("(security_invoker = true) as\n").map(|(_, view)| view);
    match view.and_then(|view| view.split_once(";\ncomment on view")) {
        Some((query, _)) => query,
        None => unreachable!("the script makes the view"),
    }
}

/// One of the objects on a table of the extension's that are not its own, as PostgreSQL describes it.
fn first_foreign(relation: pg_sys::Oid) -> Option<String> {
    let sql = format!("select object from ({}) foreign_object where relation = $1 limit 1", query());
    // The catalogs as they are, for a transaction's own snapshot may be older than a trigger; and names looked up in
    // pg_catalog alone. Everybody may read them.
    write_guard::with_latest_snapshot(|| {
        as_owner(current_role(), || select_planned(&sql, &[Param::Oid(relation)], |row| row.text(1)))
    })
    .pop()
    .flatten()
}
