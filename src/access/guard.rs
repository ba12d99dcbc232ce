//! No way up: the triggers on the role tables.
//!
//! Policies say who may write at all (`roles:edit`). These say what: nobody puts into a role or takes out of it, assigns
//! or unassigns, what they do not hold themselves; the built-in roles stay as they are; and somebody keeps holding
//! everything. They judge by the latest committed grants, not by what the writer can see.

use super::caller::{
    caller_grants, is_anybody_assigned_everything, is_assigned, is_builtin, role_grants,
    serialize_assignments,
};
use super::grants::{Grant, Grants, lossy};
use crate::error::UserError;
use crate::pg::{identity, invalidation};
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
#[pg_trigger(sql = false)]
fn guard_roles<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    if let Some(old) = trigger.old()
        && is_marked_builtin(&old)
    {
        refuse_builtin(&text(&old, "name"));
    }
    // Dropping a role takes it from everybody who has it.
    if let (Some(old), None) = (trigger.old(), trigger.new()) {
        require_held(&role_grants(&text(&old, "name")), "drop a role with");
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
#[pg_trigger(sql = false)]
fn guard_role_capabilities<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    require_editor(trigger)?;
    for row in [trigger.old(), trigger.new()].into_iter().flatten() {
        let role = text(&row, "role");
        if is_builtin(&role) {
            refuse_builtin(&role);
        }
    }
    for (row, deed) in [(trigger.old(), "take out of a role"), (trigger.new(), "put into a role")] {
        if let Some(row) = row {
            require_held(&Grants::new(vec![grant(&row)]), deed);
        }
    }
    hand_on(trigger)
}

/// The capability that a row of `role_capabilities` grants.
fn grant(row: &PgHeapTuple<'_, AllocatedByPostgres>) -> Grant {
    Grant { section: text(row, "section").into(), action: text(row, "action").into(), via_role: None }
}

/// BEFORE INSERT, UPDATE or DELETE on `user_roles`, by row.
#[pg_trigger(sql = false)]
fn guard_user_roles<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    require_editor(trigger)?;
    for (row, deed) in [(trigger.old(), "unassign"), (trigger.new(), "assign")] {
        if let Some(row) = row {
            require_held(&role_grants(&text(&row, "role")), deed);
        }
    }
    hand_on(trigger)
}

/// AFTER UPDATE or DELETE on `user_roles` and `role_capabilities`, by row: raises 42501 when it was the last assignment
/// of a role with `*:*`. The tables' owner may remove it.
///
/// Two transactions that each remove what the other one leaves come here one after the other, and the second sees what
/// the first has committed.
#[pg_trigger(sql = false)]
fn guard_last_admin<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    if identity::owns_relation(identity::outer_role(), trigger.relid()?) {
        return Ok(None);
    }
    let Some(old) = trigger.old() else { return Ok(None) };
    let role = text(&old, "role");
    // Where one statement takes the capability out of the role and the role from its users, this is reached for the
    // capability first or for the assignment first, and the other one is still there.
    let was_assignment = if trigger.table_name()? == "user_roles" {
        role_grants(&role).hold("*", "*")
    } else {
        Grants::new(vec![grant(&old)]).hold("*", "*") && is_assigned(&role)
    };
    if was_assignment {
        serialize_assignments();
        if !is_anybody_assigned_everything() {
            forbidden("permission denied to remove the last assignment of capability \"*:*\"".into())
                .detail("Nobody but the tables' owner could assign it again.")
                .hint("Assign a role that holds it to somebody else first: SELECT busymate_stats.assign_role('<sub>', 'admin').")
                .raise();
        }
    }
    Ok(None)
}

/// Where the policy will refuse a row, raises what it will before anything that depends on other rows: a refusal must not tell
/// what a role holds to callers who may not see that.
fn require_editor(trigger: &PgTrigger<'_>) -> Result<(), PgTriggerError> {
    let policies_apply = !identity::bypasses_rls(identity::current_role());
    if trigger.old().is_none() && policies_apply && !caller_grants().hold("roles", "edit") {
        let table = trigger.table_name()?;
        forbidden(format!("new row violates row-level security policy for table \"{table}\"")).raise();
    }
    Ok(())
}

/// Raises 42501 unless the caller holds all of `wanted`.
fn require_held(wanted: &Grants, deed: &str) {
    if let Some(lacking) = caller_grants().first_lacking(wanted) {
        let capability = format!("{}:{}", lossy(&lacking.section), lossy(&lacking.action));
        forbidden(format!("permission denied to {deed} capability \"{capability}\""))
            .detail("Only what the caller holds can be handed on or taken away.")
            .hint("Ask somebody who holds it; SELECT * FROM busymate_stats.my_capabilities shows what you hold.")
            .raise();
    }
}

/// BEFORE TRUNCATE on the tables that hold the built-in roles.
#[pg_trigger(sql = false)]
fn guard_truncate<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    forbidden(format!("cannot truncate \"{}\": it holds the built-in roles", trigger.table_name()?))
        .hint("Use DELETE … WHERE NOT builtin on busymate_stats.roles.")
        .raise()
}

/// BEFORE TRUNCATE on every other table of the extension: no policy stops it, so the privilege would be enough.
#[pg_trigger(sql = false)]
fn guard_truncate_owner<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    if !identity::owns_relation(identity::current_role(), trigger.relid()?) {
        forbidden(format!("permission denied to truncate \"{}\"", trigger.table_name()?))
            .detail("TRUNCATE is for the table's owner, whoever has been granted it.")
            .hint("Use DELETE, which policies decide on.")
            .raise();
    }
    Ok(None)
}

/// AFTER every change of a table that decides who may what, replicated ones too: what sessions have cached ends with the commit.
#[pg_trigger(sql = false)]
fn grants_changed<'a>(trigger: &'a PgTrigger<'a>) -> Guarded<'a> {
    invalidation::invalidate(trigger.relid()?);
    Ok(None)
}
