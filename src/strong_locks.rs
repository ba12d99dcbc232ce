//! Keeps LOCK TABLE off the extension's tables for all but their owner. `GRANT ALL ON ALL TABLES` includes the right to lock
//! them against every reader, and a view's owner lends it for the tables that the view reads.

use crate::error::UserError;
use crate::pg::attached::Object;
use crate::pg::identity::{current_role, owns_relation};
use crate::pg::{lock_guard, write_guard};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Has every LOCK TABLE looked at.
pub fn register() {
    lock_guard::register(check);
}

/// Raises 42501 where the relation is the extension's and the role that locks it is not its owner.
fn check(relation: pg_sys::Oid) {
    let own = write_guard::extension(c"busymate_stats");
    if own.is_none()
        || Object::relation(relation).extension() != own
        || owns_relation(current_role(), relation)
    {
        return;
    }
    let (_, name) = write_guard::name_of(relation);
    UserError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("permission denied to lock \"{name}\", which the busymate_stats extension reads and writes"),
    )
    .hint("Only its owner may lock it in a mode stronger than ROW EXCLUSIVE.")
    .raise()
}
