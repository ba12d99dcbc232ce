//! Keeps what runs with more rights than its author's off the extension's tables: a superuser, the worker, or a function
//! with its owner's rights writes into them only while nothing of anybody else stands on them.
//!
//! Which objects are foreign, view `busymate_stats_internal.foreign_objects` says, for `health` too.

use crate::error::UserError;
use crate::pg::attached::{Object, code_of, foreign_key, may_have_rules, parts_of};
use crate::pg::identity::{as_owner, current_role, is_restricted, owner_of};
use crate::pg::query::{Param, select_planned};
use crate::pg::relation::{TriggerState, triggers};
use crate::pg::scan::find_schema;
use crate::pg::write_guard::{self, Target};
use crate::schemas::{INTERNAL, OPERATORS};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;

/// The tables that are in neither of the extension's own schemas.
const FEEDS: [&str; 2] = ["service_stats", "service_status"];

/// The extension's own triggers that a write fires: table, name, and function in the internal schema. The view has the
/// same list.
const OWN_TRIGGERS: [(&str, &str, &str); 14] = [
    ("roles", "guard", "guard_roles"),
    ("roles", "stamp", "stamp_change"),
    ("role_capabilities", "guard", "guard_role_capabilities"),
    ("role_capabilities", "guard_last_admin", "guard_last_admin"),
    ("role_capabilities", "changed", "grants_changed"),
    ("role_capabilities", "stamp", "stamp_change"),
    ("user_roles", "guard", "guard_user_roles"),
    ("user_roles", "guard_last_admin", "guard_last_admin"),
    ("user_roles", "changed", "grants_changed"),
    ("user_roles", "stamp", "stamp_change"),
    ("revoked_tokens", "changed", "grants_changed"),
    ("components", "guard", "guard_components"),
    ("components", "guard_component_count", "guard_component_count"),
    ("attachment", "note_owners", "note_owners"),
];

/// The trigger on each of the extension's tables that rows from another server fire, by the table's schema: it takes them
/// over where operators write, and elsewhere leaves them out.
const REPLICATED: &str = "replicated";

/// Has every write looked at.
pub fn register() {
    write_guard::register(check);
}

/// Raises 55000 where the write must not take place. False where the table is somebody else's.
///
/// An ordinary user brings claims: whatever stands on the tables that policies let them write into runs with these, too.
fn check(target: Target) -> bool {
    let relation = target.relation;
    let (schema, name) = write_guard::name_of(relation);
    // Most tables that a superuser writes into are somebody's, and so are known by their names.
    let is_in_own_schema = find_schema(OPERATORS) == Some(schema)
        || !target.is_ordinary && find_schema(INTERNAL) == Some(schema);
    let may_be_own = is_in_own_schema || !target.is_ordinary && FEEDS.contains(&&*name);
    if !(may_be_own || target.is_meant_as_own) || write_guard::is_installing() {
        return false;
    }
    let own = write_guard::extension(c"busymate_stats");
    let Some(own) = own.filter(|&own| Object::relation(relation).extension() == Some(own)) else {
        if target.is_meant_as_own {
            refuse(&format!("table \"{name}\" is not the extension's, which has one of that name"))
                .hint("Somebody has put another table, or another schema, in its place: move it away.")
                .raise();
        }
        return false;
    };
    let Some(owner) =
        owner_of(relation).filter(|&owner| target.is_ordinary || write_guard::has_rights_of(owner))
    else {
        return true;
    };
    // Whatever is put on a table sends a message about it, which came with its lock at the latest.
    let identity = (write_guard::changes(), current_role(), is_restricted());
    let is_known = CLEAN.with_borrow(|(of, clean)| *of == Some(identity) && clean.contains(&relation));
    if is_known {
        return true;
    }
    // The view is asked only where something is there that may be others': a process that has just started, as each
    // tick's has, pays more for planning its query than for all else that it does.
    let is_clean = write_guard::is_superuser(owner) && bears_only_own(relation, schema, &name, own);
    if let Some(object) = (!is_clean).then(|| first_foreign(relation)).flatten() {
        refuse(&object)
            .detail("Its code would run with the writer's rights, or it hinders the extension's own work.")
            .hint(
                "Drop it, or give the table back to a superuser. On a feed, a trigger that fires AFTER the write can stay \
                 if it has no WHEN condition and its function is SECURITY DEFINER: it then runs with that function's \
                 owner's rights. So can one with a function of a superuser's that nobody else may execute.",
            )
            .raise();
    }
    if identity.0 == write_guard::changes() {
        CLEAN.with_borrow_mut(|(of, clean)| {
            if *of != Some(identity) {
                (*of, *clean) = (Some(identity), Vec::new());
            }
            clean.push(relation);
        });
    }
    true
}

/// When tables were looked at, as which role, and whether in a security-restricted operation; and those with nothing of
/// others on them that would matter there.
type Clean = (Option<((u64, u64), pg_sys::Oid, bool)>, Vec<pg_sys::Oid>);

thread_local! {
    static CLEAN: RefCell<Clean> = const { RefCell::new((None, Vec::new())) };
}

/// Whether all that stands on a superuser's table is the extension's, and comes to its own code and PostgreSQL's alone. False
/// where only the view can tell, as of an administrator's trigger.
fn bears_only_own(relation: pg_sys::Oid, schema: pg_sys::Oid, name: &str, own: pg_sys::Oid) -> bool {
    let for_replicated =
        if find_schema(OPERATORS) == Some(schema) { "take_over_replicated" } else { "leave_out_replicated" };
    let is_own = |object: Object| object.extension() == Some(own);
    let is_own_trigger = |trigger: &TriggerState| {
        let function = trigger.function.strip_prefix(INTERNAL).and_then(|rest| rest.strip_prefix('.'));
        let is_known = function.is_some_and(|function| match &*trigger.name {
            REPLICATED => function == for_replicated,
            of => OWN_TRIGGERS.contains(&(name, of, function)),
        });
        is_known
            && trigger.unconditional
            && trigger.arguments.is_empty()
            && is_own(Object::function(trigger.function_oid))
    };
    let is_own_part = |part: Object| {
        foreign_key(part).is_none_or(|tables| tables.into_iter().all(|table| is_own(Object::relation(table))))
            && code_of(part).into_iter().all(is_own)
    };
    !may_have_rules(relation)
        && triggers(relation).iter().all(|trigger| !trigger.fires_on_writes || is_own_trigger(trigger))
        && parts_of(relation).into_iter().all(is_own_part)
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
    // What code queues for the end of the transaction runs as who ends it; a security-restricted operation forbids that.
    let confined_too = if is_restricted() { "and not is_confined" } else { "" };
    let sql =
        format!("select object from ({}) foreign_object where relation = $1 {confined_too} limit 1", query());
    // The catalogs as they are, for a transaction's own snapshot may be older than a trigger; and names looked up in
    // pg_catalog alone. Everybody may read them.
    write_guard::with_latest_snapshot(|| {
        as_owner(current_role(), || select_planned(&sql, &[Param::Oid(relation)], |row| row.text(1)))
    })
    .pop()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The view names a trigger's table, name and function as a row of text.
    #[test]
    fn the_view_knows_the_same_triggers() {
        let view = query();
        for (table, trigger, function) in OWN_TRIGGERS {
            let row = format!("('{table}', '{trigger}', '{function}')");
            assert!(view.contains(&row), "{row}");
        }
        let list = view.split_once("f.proname::text) in (").and_then(|(_, list)| list.split_once(")))"));
        assert_eq!(list.map(|(list, _)| list.matches("('").count()), Some(OWN_TRIGGERS.len()));
    }
}
