//! A fleet's tables for who has none yet.

use super::attach::{AttachRequest, attach_as, reload_postgrest};
use super::attachment;
use crate::error::UserError;
use crate::pg::query::execute;
use crate::pg::scan::{Seen, find_relation};
use crate::version;
use pgrx::prelude::*;

const TABLES: &str = include_str!("../../sql/fleet_tables.sql");

/// Makes `public.devices` and `public.entries`, owned by the caller, and attaches them unless a fleet is attached
/// already.
#[pg_extern(sql = false)]
fn create_fleet_tables() {
    version::require_match();
    for table in ["devices", "entries"] {
        if find_relation("public", table).is_some() {
            UserError::new(
                PgSqlErrorCode::ERRCODE_DUPLICATE_TABLE,
                format!("relation \"public.{table}\" already exists"),
            )
            .hint("If it is your fleet's, run SELECT busymate_stats.attach('public.entries', 'public.devices').")
            .raise();
        }
    }
    execute(TABLES, &[]);
    if attachment::read(Seen::Latest).is_some() {
        notice!("a fleet is attached already: the new tables are not");
        reload_postgrest();
        return;
    }
    let (Some(entries), Some(devices)) =
        (find_relation("public", "entries"), find_relation("public", "devices"))
    else {
        unreachable!("both tables were made a moment ago");
    };
    attach_as(&AttachRequest { implied: true, ..AttachRequest::with_default_columns(entries, devices) });
}
