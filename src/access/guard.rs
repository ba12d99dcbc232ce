//! No way up: the triggers on the role tables.
//!
//! Policies say who may write at all (`roles:edit`). These say what: nobody puts into a role, or assigns, what he does
//! not hold himself, and the built-in roles stay as they are. They judge by the latest committed grants, not by what
//! the writer can see.

use super::caller::{caller_grants, is_builtin, role_grants};
use super::grants::{Grant, Grants, lossy};
use crate::error::UserError;
use crate::pg::invalidation;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgrx::{AllocatedByPostgres, PgTriggerError};

type Guarded<'a> = Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError>;

fn forbidden(message: String) -> UserError {
    UserError::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
}

fn refuse_builtin(role: &str) -> ! {
    forbidden(format!("built-in role \"{role}\" cannot be changed or dropped"))
        .hint("Make a role of your own: INSERT INTO busymate_stats.roles (name) VALUES (…).")
        .raise()
}

fn text(row: &PgHeapTuple<'_, AllocatedByPostgres>, column: &str) -> String {
    // A null is left to the column's own constraint, which comes after BEFORE triggers.
    row.get_by_name::<String>(column).ok().flatten().unwrap_or_default()
}

fn is_marked_builtin(row: &PgHeapTuple<'_, AllocatedByPostgres>) -> bool {
    row.get_by_name::<bool>("builtin").ok().flatten().unwrap_or(false)
}

/// What a BEFORE ROW trigger hands on: the new row, or on DELETE the old one.
fn hand_on<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    Ok(trigger.new().or_else(|| trigger.old()))
}

/// BEFORE INSERT, UPDATE or DELETE on `roles`, by row.
#[pg_trigger]
fn guard_roles<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    if let Some(old) = trigger.old()
        && is_marked_builtin(&old)
    {
        refuse_builtin(&text(&old, "name"));
    }
    if let Some(new) = trigger.new()
        && is_marked_builtin(&new)
    {
        forbidden(format!("role \"{}\" cannot be made a built-in one", text(&new, "name")))
            .hint("Leave \"builtin\" at its default, false.")
            .raise();
    }
    hand_on(trigger)
}

/// BEFORE INSERT, UPDATE or DELETE on `role_capabilities`, by row.
#[pg_trigger]
fn guard_role_capabilities<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    for row in [trigger.old(), trigger.new()].into_iter().flatten() {
        let role = text(&row, "role");
        if is_builtin(&role) {
            refuse_builtin(&role);
        }
    }
    if let Some(new) = trigger.new() {
        let wanted = Grant {
            section: text(&new, "section").into(),
            action: text(&new, "action").into(),
            via_role: None,
        };
        require_held(&Grants::new(vec![wanted]), "put into a role");
    }
    hand_on(trigger)
}

/// BEFORE INSERT or UPDATE on `user_roles`, by row.
#[pg_trigger]
fn guard_user_roles<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    if let Some(new) = trigger.new() {
        require_held(&role_grants(&text(&new, "role")), "assign");
    }
    hand_on(trigger)
}

/// Raises 42501 unless the caller holds all of `wanted`.
fn require_held(wanted: &Grants, deed: &str) {
    if let Some(lacking) = caller_grants().first_lacking(wanted) {
        let capability = format!("{}:{}", lossy(&lacking.section), lossy(&lacking.action));
        forbidden(format!("permission denied to {deed} capability \"{capability}\""))
            .detail("Only what the caller holds can be handed on.")
            .hint("Ask somebody who holds it; SELECT * FROM busymate_stats.my_capabilities shows what you hold.")
            .raise();
    }
}

/// BEFORE TRUNCATE on the tables that hold the built-in roles.
#[pg_trigger]
fn guard_truncate<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    forbidden(format!("cannot truncate \"{}\": it holds the built-in roles", trigger.table_name()?))
        .hint("Use DELETE … WHERE NOT builtin on busymate_stats.roles.")
        .raise()
}

/// AFTER every change of a table that decides who may what, replicated ones too: what sessions have cached ends with the commit.
#[pg_trigger]
fn grants_changed<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    invalidation::invalidate(trigger.relid()?);
    Ok(None)
}
