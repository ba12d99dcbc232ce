//! Users, what they hold, and sessions that act for them as PostgREST's do.

use super::{Refusal, refusal_of, value};
use postgres::Client;

/// The claims of a token that names `sub`.
pub fn claims(sub: &str) -> String {
    serde_json::json!({ "role": "authenticated", "sub": sub, "exp": 1_795_462_656 }).to_string()
}

/// Makes `role`, a custom one with these capabilities.
pub fn make_role(client: &mut Client, role: &str, capabilities: &[&str]) {
    client.execute("insert into busymate_stats.roles (name) values ($1)", &[&role]).unwrap();
    for capability in capabilities {
        client.execute("select busymate_stats.grant_capability($1, $2)", &[&role, capability]).unwrap();
    }
}

/// Makes user `sub`, who has a custom role of the same name with these capabilities.
pub fn make_user(client: &mut Client, sub: &str, capabilities: &[&str]) {
    make_role(client, sub, capabilities);
    client.execute("select busymate_stats.assign_role($1, $1)", &[&sub]).unwrap();
}

/// Lets a database role do to the role tables what policies and triggers leave it.
pub fn grant_editing(client: &mut Client, role: &str) {
    client
        .batch_execute(&format!(
            "grant usage on schema busymate_stats to {role};
             grant select, insert, update, delete
                on busymate_stats.roles, busymate_stats.role_capabilities, busymate_stats.user_roles to {role};
             grant execute on all functions in schema busymate_stats to {role}"
        ))
        .unwrap();
}

/// For the rest of the session (of the transaction, should it roll back) it acts for the holder of `claims`.
pub fn sign_in(client: &mut Client, role: &str, claims: &str) {
    client.execute("select set_config('request.jwt.claims', $1, false)", &[&claims]).unwrap();
    client.execute("select set_config('role', $1, false)", &[&role]).unwrap();
}

/// Whether the session's caller holds `section:action`.
#[track_caller]
pub fn may(client: &mut Client, section: &str, action: &str) -> bool {
    value(client, &format!("select public.has_capability('{section}', '{action}')"))
}

/// What a statement comes to in the hands of user `sub` under `role`: the rows it touched, or the error. Undone again.
#[track_caller]
pub fn attempt(client: &mut Client, role: &str, sub: &str, statement: &str) -> Result<u64, Refusal> {
    client.batch_execute("begin").unwrap();
    client.execute("select set_config('request.jwt.claims', $1, true)", &[&claims(sub)]).unwrap();
    client.execute("select set_config('role', $1, true)", &[&role]).unwrap();
    let outcome = client.execute(statement, &[]).map_err(|error| refusal_of(&error));
    client.batch_execute("rollback").unwrap();
    outcome
}
