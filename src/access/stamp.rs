//! Who did what: the triggers that keep `changed_at` and `changed_by`.

use super::caller::actor;
use crate::pg::identity;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgrx::{AllocatedByRust, PgTriggerError, WhoAllocated};

/// BEFORE INSERT or UPDATE, by row, replicated ones too.
///
/// A superuser and a replica may give both columns themselves, so that a restore is equal to what was dumped; what they
/// leave out is stamped.
#[pg_trigger(sql = false)]
fn stamp_change<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByRust>>, PgTriggerError> {
    let Some(new) = trigger.new() else { return Ok(None) };
    let given = stamp(&new);
    let keeps = identity::writes_as_given() && trigger.old().is_none_or(|old| given != stamp(&old));
    let mut row = new.into_owned();
    let mut set = Ok(());
    if !keeps {
        set = row.set_by_name("changed_at", now());
    }
    if !keeps || given.1.is_none() {
        set = set.and_then(|()| row.set_by_name("changed_by", actor()));
    }
    // The install script puts the trigger on tables that have both columns.
    set.unwrap_or_else(|error| error!("cannot stamp a change: {error}"));
    Ok(Some(row))
}

fn stamp(row: &PgHeapTuple<'_, impl WhoAllocated>) -> (Option<TimestampWithTimeZone>, Option<String>) {
    (row.get_by_name("changed_at").ok().flatten(), row.get_by_name("changed_by").ok().flatten())
}
