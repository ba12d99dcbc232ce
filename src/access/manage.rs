//! Managing roles by function. Each does what one statement on the role tables would, with its caller's rights, so
//! that policies and guards decide; but it can be repeated, and an error names what is missing.

use crate::error::UserError;
use crate::pg::query::{Param, execute, select};
use pgrx::prelude::*;

/// Puts a capability into a role.
#[pg_extern(sql = false)]
fn grant_capability(role: Option<&str>, capability: Option<&str>) {
    let role = existing(role);
    let (section, action) = parts(capability);
    execute(
        "insert into busymate_stats.role_capabilities (role, section, action) values ($1, $2, $3) \
         on conflict do nothing",
        &[Param::Text(role), Param::Text(section), Param::Text(action)],
    );
}

/// Takes a capability out of a role.
#[pg_extern(sql = false)]
fn revoke_capability(role: Option<&str>, capability: Option<&str>) {
    let role = existing(role);
    let (section, action) = parts(capability);
    execute(
        "delete from busymate_stats.role_capabilities where role = $1 and section = $2 and action = $3",
        &[Param::Text(role), Param::Text(section), Param::Text(action)],
    );
}

/// Gives a role to a user.
#[pg_extern(sql = false)]
fn assign_role(sub: Option<&str>, role: Option<&str>) {
    let role = existing(role);
    let sub = named(sub);
    execute(
        "insert into busymate_stats.user_roles (sub, role) values ($1, $2) on conflict do nothing",
        &[Param::Text(sub), Param::Text(role)],
    );
}

/// The same for a user whose "sub" is a UUID, as in `auth.users`.
#[pg_extern(name = "assign_role", sql = false)]
fn assign_role_uuid(sub: Option<pgrx::Uuid>, role: Option<&str>) {
    assign_role(sub.map(|sub| sub.to_string()).as_deref(), role);
}

/// Takes a role from a user.
#[pg_extern(sql = false)]
fn unassign_role(sub: Option<&str>, role: Option<&str>) {
    let role = existing(role);
    let sub = named(sub);
    execute(
        "delete from busymate_stats.user_roles where sub = $1 and role = $2",
        &[Param::Text(sub), Param::Text(role)],
    );
}

/// The same for a user whose "sub" is a UUID.
#[pg_extern(name = "unassign_role", sql = false)]
fn unassign_role_uuid(sub: Option<pgrx::Uuid>, role: Option<&str>) {
    unassign_role(sub.map(|sub| sub.to_string()).as_deref(), role);
}

/// `role`, if there is such a one that the caller may see.
fn existing(role: Option<&str>) -> &str {
    let query = "select true from busymate_stats.roles where name = $1";
    match role {
        Some(role) if !select(query, &[Param::Text(role)], |_| ()).is_empty() => role,
        Some(role) => undefined(&format!("\"{role}\""), &literal(role)),
        None => undefined("null", "'…'"),
    }
}

fn undefined(role: &str, literal: &str) -> ! {
    UserError::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("role {role} does not exist in busymate_stats.roles"),
    )
    .hint(format!("Make it: INSERT INTO busymate_stats.roles (name) VALUES ({literal})."))
    .raise()
}

fn named(sub: Option<&str>) -> &str {
    sub.unwrap_or_else(|| {
        UserError::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "argument \"sub\" must not be null")
            .hint("Give the \"sub\" claim of the user's access token.")
            .raise()
    })
}

/// The section and the action of `section:action`.
fn parts(capability: Option<&str>) -> (&str, &str) {
    capability
        .and_then(|capability| capability.split_once(':'))
        .filter(|(section, action)| !section.is_empty() && !action.is_empty() && !action.contains(':'))
        .unwrap_or_else(|| {
            UserError::new(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("invalid capability: {}", capability.map_or_else(|| "null".into(), literal)),
            )
            .hint("A capability is section:action, such as stats:view, *:view or *:*.")
            .raise()
        })
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
