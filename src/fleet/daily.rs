//! Partitions by day: `create_fleet_tables(partition_by => 'day')` makes the first, and each refresh those that come next.
//!
//! A row of a day that has no partition goes into the default partition, so none is refused. PostgreSQL makes no partition
//! whose rows the default one holds already; such a day is left out and told.

use super::attachment::{self, Attachment};
use super::clock::{DAY, Timestamp};
use crate::error::UserError;
use crate::pg::identity::as_owner_briefly;
use crate::pg::partition::takes;
use crate::pg::query::{Param, execute, execute_utility, select_latest};
use crate::pg::relation::{
    LockedRelation, about_rows, column_number, lock, lock_alone_now, lock_exclusively_now,
};
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::transaction::attempt_unless_ended;
use crate::schemas::INTERNAL;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

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

/// Makes the partitions of today and the days to come that are missing, as the owner of entries. It waits for nobody's lock, or hardly:
/// the next refresh tries again. What an operator has to know of it is given back.
pub fn keep_ahead(now: Timestamp) -> Option<String> {
    let fleet = attachment::read(Seen::Latest).filter(|fleet| is_remembered(fleet.entries))?;
    let entries = lock(fleet.entries).filter(|entries| entries.kind == b'p')?;
    let mut told = None;
    for day in missing(&entries, &fleet, now) {
        let made = attempt_unless_ended(|| {
            as_owner_briefly(entries.owner, || create_unless_in_the_way(&entries, &fleet, day))
        });
        let reason = match made {
            Ok(Ok(())) => None,
            Ok(Err(InTheWay::Locks)) => wait_longer(now, day),
            Ok(Err(InTheWay::Entries(reason))) => Some(reason),
            Err(failure) if failure.sqlstate == LOCK_NOT_AVAILABLE => wait_longer(now, day),
            Err(failure) => Some(failure.message),
        };
        let name = &entries.name;
        told = told.or(reason.map(|reason| format!("{name} has no partition for {}: {reason}", date(day))));
    }
    told
}

const LOCK_NOT_AVAILABLE: &str = "55P03";

/// More entries than this in the default partition are not read while nobody else may, as PostgreSQL does for each new
/// partition.
const MOST_IN_DEFAULT: i64 = 200_000;

/// Why a partition is not made.
enum InTheWay {
    /// Somebody uses what has to be locked.
    Locks,
    /// The default partition's entries, in words.
    Entries(String),
}

/// There is time until the day is near.
fn wait_longer(now: Timestamp, day: Timestamp) -> Option<String> {
    (day <= now + DAY).then(|| "it, or its default partition, was in use at each refresh".into())
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

fn create_unless_in_the_way(
    entries: &LockedRelation,
    fleet: &Attachment,
    day: Timestamp,
) -> Result<(), InTheWay> {
    let default = default_partition(entries.oid);
    if let Some(default) = &default {
        let name = &default.name;
        if holds_rows_of(default, &fleet.entry_time, day) {
            return Err(InTheWay::Entries(format!("{name} holds entries of that day")));
        }
        if about_rows(default.oid) > MOST_IN_DEFAULT {
            return Err(InTheWay::Entries(format!("{name} holds too many entries of other days")));
        }
    }
    // ATTACH PARTITION locks the default one against readers too.
    if !lock_alone_now(entries.oid)
        || default.as_ref().is_some_and(|default| !lock_exclusively_now(default.oid))
    {
        return Err(InTheWay::Locks);
    }
    // Another session may have made it before it let the lock go.
    if !takes(entries.oid, column_number(entries.oid, &fleet.entry_time), day) {
        create(entries, day);
    }
    Ok(())
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
    let (name, time) = (&default.name, quote_identifier(time));
    let bounds = [Param::Timestamp(day), Param::Timestamp(day + DAY)];
    !select_latest(
        &format!("select 1 from {name} where {time} >= $1 and {time} < $2 limit 1"),
        &bounds,
        |_| (),
    )
    .is_empty()
}

/// Makes the partition of the day that begins at `day`, and attaches it, which keeps nobody out of the others. The
/// policies of the parent apply to what is read through it; a query that names the partition reads nothing.
fn create(entries: &LockedRelation, day: Timestamp) {
    let named = select_latest(
        "select n.nspname::pg_catalog.text, c.relname::pg_catalog.text
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = $1",
        &[Param::Oid(entries.oid)],
        |row| (row.text(1).unwrap_or_default(), row.text(2).unwrap_or_default()),
    );
    let Some((schema, table)) = named.into_iter().next() else { return };
    let partition = format!(
        "{}.{}",
        quote_identifier(schema),
        quote_identifier(name_of_partition(&table, &date(day).replace('-', "")))
    );
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

/// A name that PostgreSQL does not cut, which it does at 63 bytes.
fn name_of_partition(table: &str, day: &str) -> String {
    let room = 62 - day.len();
    let end = (0..=room.min(table.len())).rev().find(|end| table.is_char_boundary(*end)).unwrap_or(0);
    format!("{}_{day}", &table[..end])
}

/// The day that begins at `day`: `YYYY-MM-DD`.
fn date(day: Timestamp) -> String {
    super::iso(day).chars().take_while(|character| *character != 'T').collect()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn names_have_room_for_the_day() {
        assert_eq!(name_of_partition("entries", "20261128"), "entries_20261128");
        for table in ["e".repeat(63), "é".repeat(31), format!("a{}", "語".repeat(20))] {
            let name = name_of_partition(&table, "20261128");
            assert!(name.len() <= 63 && name.len() > 59 && name.ends_with("_20261128"), "{name}");
        }
        assert_eq!(name_of_partition("", "+2026"), "_+2026");
    }

    #[test]
    fn a_day_is_written_as_its_date() {
        assert_eq!([date(0), date(DAY)], ["2000-01-01", "2000-01-02"]);
        assert_eq!(days_around(DAY + 5, 1).count(), 9);
        assert_eq!(days_around(-1, 1).next(), Some(-2 * DAY));
    }
}
