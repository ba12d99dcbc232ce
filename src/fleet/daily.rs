//! Partitions by day: `create_fleet_tables(partition_by => 'day')` makes the first, and each refresh those that come next.
//!
//! A row of a day that has no partition goes into the default partition, so none is refused. PostgreSQL makes no partition
//! whose rows the default one holds already; such a day is left out and told.

use super::attachment::{self, Attachment};
use super::clock::{DAY, Timestamp};
use crate::error::UserError;
use crate::pg::identity::as_owner;
use crate::pg::partition::takes;
use crate::pg::query::{Param, execute, execute_utility, select_latest};
use crate::pg::relation::{LockedRelation, column_number, lock, lock_alone_now, lock_exclusively_now};
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::transaction::attempt_unless_ended;
use crate::schemas::INTERNAL;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// How many days ahead of today have their partitions.
const AHEAD: i64 = 7;

/// How many days before today the first partitions begin: entries come late.
const BEHIND: i64 = 1;

/// Whether `create_fleet_tables` is to partition, from what it was told.
pub fn is_asked_for(partition_by: Option<&str>) -> bool {
    match partition_by {
        None => false,
        Some("day") => true,
        Some(other) => UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("cannot partition by \"{other}\""),
        )
        .hint("Leave partition_by out for one table, or say 'day'. To partition in another way, make the table and run SELECT busymate_stats.attach('entries', 'devices').")
        .raise(),
    }
}

/// Makes the first partitions of a table that was made a moment ago.
pub fn begin(entries: &LockedRelation, now: Timestamp) {
    for day in days_around(now, BEHIND) {
        create(entries, day);
    }
}

/// From now on, whichever refresh finds the table attached makes its next partitions.
pub fn remember(entries: pg_sys::Oid) {
    execute(
        "delete from busymate_stats_internal.daily_partitions known
          where not exists (select from pg_catalog.pg_class c where c.oid = known.entries)",
        &[],
    );
    execute("insert into busymate_stats_internal.daily_partitions values ($1)", &[Param::Oid(entries)]);
}

/// Makes the partitions of today and the days to come that are missing, as the owner of entries, waiting for nobody: the next
/// refresh tries again. What an operator has to know of it is given back.
pub fn keep_ahead(now: Timestamp) -> Option<String> {
    let fleet = attachment::read(Seen::Latest).filter(|fleet| is_remembered(fleet.entries))?;
    let entries = lock(fleet.entries).filter(|entries| entries.kind == b'p')?;
    let missing = missing(&entries, &fleet, now);
    if missing.is_empty() {
        return None;
    }
    let made = attempt_unless_ended(|| as_owner(entries.owner, || fill(&entries, &fleet, missing)));
    match made {
        Ok(left_out) => left_out,
        Err(failure) => Some(format!("no partition can be made of {}: {}", entries.name, failure.message)),
    }
}

fn is_remembered(entries: pg_sys::Oid) -> bool {
    let mut found = false;
    if let Some(table) = find_relation(INTERNAL, "daily_partitions") {
        scan(table, None, None, Seen::Latest, |row| found = found || row.oid(1) == entries);
    }
    found
}

/// The midnights, in UTC, of the days from `behind` days before `now`.
fn days_around(now: Timestamp, behind: i64) -> impl Iterator<Item = Timestamp> {
    let today = now.div_euclid(DAY);
    (today - behind..=today + AHEAD).map(|day| day * DAY)
}

fn missing(entries: &LockedRelation, fleet: &Attachment, now: Timestamp) -> Vec<Timestamp> {
    let column = column_number(entries.oid, &fleet.entry_time);
    days_around(now, 0).filter(|day| !takes(entries.oid, column, *day)).collect()
}

fn fill(entries: &LockedRelation, fleet: &Attachment, missing: Vec<Timestamp>) -> Option<String> {
    let default = default_partition(entries.oid);
    // Both are locked by ATTACH PARTITION, the default one against readers too.
    if !lock_alone_now(entries.oid)
        || default.as_ref().is_some_and(|default| !lock_exclusively_now(default.oid))
    {
        return None;
    }
    // Another session may have made some before it let the lock go.
    let column = column_number(entries.oid, &fleet.entry_time);
    let mut left_out = None;
    for day in missing.into_iter().filter(|day| !takes(entries.oid, column, *day)) {
        match default.as_ref().filter(|default| holds_rows_of(default, &fleet.entry_time, day)) {
            Some(default) => left_out = left_out.or(Some((default.name.clone(), day))),
            None => create(entries, day),
        }
    }
    left_out.map(|(default, day)| {
        format!("{} has no partition for {}: {default} holds entries of that day", entries.name, date(day))
    })
}

fn default_partition(entries: pg_sys::Oid) -> Option<LockedRelation> {
    let found = select_latest(
        "select partdefid from pg_catalog.pg_partitioned_table where partrelid = $1 and partdefid <> 0",
        &[Param::Oid(entries)],
        |row| row.oid(1),
    );
    found.into_iter().find_map(lock)
}

fn holds_rows_of(default: &LockedRelation, time: &str, day: Timestamp) -> bool {
    let (name, time) = (&default.name, pgrx::spi::quote_identifier(time));
    let bounds = [Param::Timestamp(day), Param::Timestamp(day + DAY)];
    !select_latest(
        &format!("select 1 from {name} where {time} >= $1 and {time} < $2 limit 1"),
        &bounds,
        |_| (),
    )
    .is_empty()
}

/// Makes the partition of the day that begins at `day`, and attaches it, which keeps nobody out of the others. Policies of
/// the parent say who reads through it; whoever names the partition reads nothing.
fn create(entries: &LockedRelation, day: Timestamp) {
    let named = select_latest(
        "select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(pg_catalog.left(c.relname, 54) || '_' || $2)
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = $1",
        &[Param::Oid(entries.oid), Param::Text(&date(day).replace('-', ""))],
        |row| row.text(1),
    );
    let Some(partition) = named.into_iter().flatten().next() else { return };
    let parent = &entries.name;
    for statement in [
        format!(
            "create table {partition} (like {parent} including all
                 excluding identity excluding indexes excluding statistics)"
        ),
        format!("alter table {partition} enable row level security"),
        format!(
            "alter table {parent} attach partition {partition} for values from ('{} 00:00:00+00') to ('{} 00:00:00+00')",
            date(day),
            date(day + DAY)
        ),
    ] {
        execute_utility(&statement);
    }
}

/// The day that begins at `day`: `YYYY-MM-DD`.
fn date(day: Timestamp) -> String {
    super::iso(day).chars().take_while(|character| *character != 'T').collect()
}
