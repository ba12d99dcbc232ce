//! A fleet's tables for who has none yet.

use super::attach::{AttachRequest, attach_as, own_table, reload_postgrest};
use super::{attachment, clock, daily};
use crate::error::UserError;
use crate::pg::identity::as_owner;
use crate::pg::query::execute_utility;
use crate::pg::relation::lock;
use crate::pg::scan::{Seen, find_relation};
use crate::version;
use pgrx::prelude::*;

const TABLES: &str = include_str!("../../sql/fleet_tables.sql");

/// How the definition of entries ends, and how it ends where they are partitioned: a key of a partitioned table holds the column
/// that it is partitioned by.
const END: &str = "    primary key (id)\n);";
const END_BY_DAY: &str = "    primary key (id, created_at)\n) partition by range (created_at);";

/// Where a row goes whose day has no partition. A query that names it is not under the policies of its parent.
const DEFAULT_PARTITION: &str = "
    create table public.entries_default partition of public.entries default;
    alter table public.entries_default enable row level security;
";

/// Makes `public.devices` and `public.entries`, owned by the caller, and attaches them unless a fleet is attached
/// already. Entries are one table, or with `'day'` partitioned.
#[pg_extern(sql = false)]
fn create_fleet_tables(partition_by: Option<&str>) {
    version::require_match();
    let by_day = daily::is_asked_for(partition_by);
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
    if by_day {
        execute_utility(&(TABLES.replace(END, END_BY_DAY) + DEFAULT_PARTITION));
    } else {
        execute_utility(TABLES);
    }
    let (Some(entries), Some(devices)) =
        (find_relation("public", "entries"), find_relation("public", "devices"))
    else {
        unreachable!("both tables were made a moment ago");
    };
    if let Some(table) = lock(entries).filter(|_| by_day) {
        daily::begin(&table, clock::now_in_whole_milliseconds());
        as_owner(own_table().owner, || daily::remember(entries));
    }
    if attachment::read(Seen::Latest).is_some() {
        notice!("a fleet is attached already: the new tables are not");
        reload_postgrest();
        return;
    }
    attach_as(&AttachRequest { implied: true, ..AttachRequest::with_default_columns(entries, devices) });
}
