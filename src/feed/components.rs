//! The table of what is watched: how it is read, and what does not get in.

use crate::error::UserError;
use crate::pg::query::{Param, select};
use crate::pg::scan::{Seen, scan};
use crate::pg::transaction::see_own_changes;
use crate::status::Component;
use pgrx::AllocatedByPostgres;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgrx::{PgTriggerError, datum::Interval};
use std::collections::HashSet;

/// So many components are watched at most, each by a thread of its own while it is asked.
const MOST_WATCHED: i64 = 200;

/// Every component that is on, in the order of the snapshot, up to the limit. A timeout is cut to a minute, so that whatever a table
/// without its guard may hold still is a number.
pub fn enabled() -> Vec<Component> {
    select(
        "select key, label, url, expect_min::pg_catalog.int8, expect_max::pg_catalog.int8,
                (extract(epoch from least(greatest(timeout, interval '0'), interval '1 minute'))
                    * 1000000)::pg_catalog.int8,
                unit, critical
           from busymate_stats.components
          where enabled
          order by position, key
          limit $1",
        &[Param::Int(MOST_WATCHED)],
        |row| Component {
            key: row.text(1).unwrap_or_default(),
            label: row.text(2).unwrap_or_default(),
            url: row.text(3),
            expect_min: row.int(4),
            expect_max: row.int(5),
            timeout_us: row.int(6),
            unit: row.text(7),
            critical: row.bool(8),
        },
    )
}

/// The keys of all that are critical.
pub fn critical_keys() -> HashSet<String> {
    select("select key from busymate_stats.components where critical", &[], |row| {
        row.text(1).unwrap_or_default()
    })
    .into_iter()
    .collect()
}

/// BEFORE INSERT or UPDATE on `components`, by row: raises 23514 for what could not be probed.
#[pg_trigger(sql = false)]
fn guard_components<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    let new = trigger.new();
    if let Some(problem) = new.as_ref().and_then(|new| proposed(new)?.check().err()) {
        UserError::new(
            PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
            format!("invalid {} in busymate_stats.components: {}", problem.column, problem.message),
        )
        .hint(r"\d+ busymate_stats.components says what each column takes.")
        .raise()
    }
    Ok(new)
}

/// AFTER INSERT or UPDATE on `components`, by statement: raises 54000 where more are on than are watched.
#[pg_trigger(sql = false)]
fn guard_component_count<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    see_own_changes();
    let mut enabled = 0;
    scan(trigger.relid()?, None, None, Seen::Latest, |row| enabled += i64::from(row.bool(9)));
    if enabled > MOST_WATCHED {
        UserError::new(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("cannot watch more than {MOST_WATCHED} components"),
        )
        .detail(format!("{enabled} would be enabled."))
        .hint("Disable some: UPDATE busymate_stats.components SET enabled = false WHERE key = '…'.")
        .raise()
    }
    Ok(None)
}

/// The component that a row makes; `None` where a column is null that must not be: its own constraint, which comes
/// after this, says so.
fn proposed(row: &PgHeapTuple<'_, AllocatedByPostgres>) -> Option<Component> {
    let text = |column: &str| row.get_by_name::<String>(column).ok().flatten();
    let number = |column: &str| row.get_by_name::<i32>(column).ok().flatten().map(i64::from);
    Some(Component {
        key: text("key")?,
        label: text("label")?,
        url: text("url"),
        expect_min: number("expect_min")?,
        expect_max: number("expect_max")?,
        timeout_us: microseconds(&row.get_by_name::<Interval>("timeout").ok().flatten()?),
        unit: text("unit"),
        critical: false,
    })
}

/// A day as long as it mostly is; a month is too long whatever it is.
fn microseconds(interval: &Interval) -> i64 {
    const DAY_US: i64 = 86_400_000_000;
    let days = i64::from(interval.months()).saturating_mul(30).saturating_add(i64::from(interval.days()));
    days.saturating_mul(DAY_US).saturating_add(interval.micros())
}
