//! Rows of the extension's own tables that arrive by logical replication: `FOR ALL TABLES` publishes every table there is.
//!
//! What one server counts, keeps or publishes is no business of another, which has its own fleet, seal and feeds: such rows
//! are left out, at the first copy too. Roles, assignments, revoked tokens and components are taken over.

use crate::pg::identity::{applies_changes, as_owner, owner_of};
use crate::pg::query::{Param, execute};
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgrx::{AllocatedByPostgres, PgTriggerError};

type Row<'a> = PgHeapTuple<'a, AllocatedByPostgres>;

/// What a BEFORE ROW trigger hands on: the new row, or on DELETE the old one.
fn hand_on<'a>(trigger: &'a PgTrigger<'a>) -> Result<Option<Row<'a>>, PgTriggerError> {
    Ok(trigger.new().or_else(|| trigger.old()))
}

/// BEFORE INSERT, UPDATE or DELETE by row, ENABLE REPLICA: leaves out what arrives. A restore that sets
/// `session_replication_role` is none: its rows are the database's own.
#[pg_trigger(sql = false)]
fn leave_out_replicated<'a>(trigger: &'a PgTrigger<'a>) -> Result<Option<Row<'a>>, PgTriggerError> {
    if applies_changes() { Ok(None) } else { hand_on(trigger) }
}

/// The same of what is taken over: it takes the place of a row with its key, which would else end the subscription's work.
/// The built-in roles and what they grant each server has from the extension; they stay as they are.
#[pg_trigger(sql = false)]
fn take_over_replicated<'a>(trigger: &'a PgTrigger<'a>) -> Result<Option<Row<'a>>, PgTriggerError> {
    if !applies_changes() {
        return hand_on(trigger);
    }
    let table = trigger.table_name()?;
    let (old, new) = (trigger.old(), trigger.new());
    if [&old, &new].into_iter().flatten().any(|row| is_builtin(&table, row)) {
        return Ok(None);
    }
    if let Some(new) = &new {
        let key = |row: &Row| key_of(&table).map(|column| text(row, column));
        let (wanted, had) = (key(new), old.as_ref().map(key));
        if had.is_none_or(|had| had != wanted) {
            make_way(&table, trigger.relid()?, &wanted);
        }
    }
    hand_on(trigger)
}

/// The columns of a table's key, all of them text; the first twice or thrice where it has fewer than three.
fn key_of(table: &str) -> [&'static str; 3] {
    match table {
        "roles" => ["name"; 3],
        "role_capabilities" => ["role", "section", "action"],
        "user_roles" => ["sub", "role", "role"],
        "revoked_tokens" => ["jti"; 3],
        _ => ["key"; 3],
    }
}

fn text(row: &Row, column: &str) -> String {
    // A null is left to the column's own constraint.
    row.get_by_name::<String>(column).ok().flatten().unwrap_or_default()
}

fn is_builtin(table: &str, row: &Row) -> bool {
    match table {
        "roles" => {
            let marked = row.get_by_name::<bool>("builtin").ok().flatten().unwrap_or(false);
            marked || crate::access::is_builtin(&text(row, "name"))
        }
        "role_capabilities" => crate::access::is_builtin(&text(row, "role")),
        _ => false,
    }
}

fn make_way(table: &str, relation: pgrx::pg_sys::Oid, key: &[String; 3]) {
    let Some(owner) = owner_of(relation) else { return };
    let [first, second, third] = key_of(table);
    let sql =
        format!("delete from busymate_stats.{table} where {first} = $1 and {second} = $2 and {third} = $3");
    as_owner(owner, || execute(&sql, &key.each_ref().map(|value| Param::Text(value))));
}
