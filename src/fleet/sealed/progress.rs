//! How sealing goes on, in words for people.

use super::state::State;
use crate::fleet::attachment;
use crate::fleet::figures::grouped;
use crate::pg::query::{Param, select};
use crate::pg::relation::{LockedRelation, about_rows, lock, lock_for_reading_now};
use crate::pg::scan::{Seen, find_relation};
use crate::schemas::INTERNAL;

/// One of the remembered writers that is in progress in this snapshot, for people.
pub fn still_writing(writers: &str) -> Option<String> {
    if writers == "{}" {
        return None;
    }
    // Mostly there are none, and then a look at the activity of others costs more than all the rest of a step.
    let in_progress = select(
        "select writer::text from unnest($1::xid8[]) writer
          where not pg_visible_in_snapshot(writer, pg_current_snapshot()) limit 1",
        &[Param::Text(writers)],
        |row| row.text(1),
    );
    told_of(&in_progress.into_iter().flatten().next()?)
}

fn told_of(writer: &str) -> Option<String> {
    select(
        "select format('held up by transaction %s%s%s', writer, ', open for ' || date_trunc('second', age.open)::text,
                       ', pid ' || age.pid)
           from (values ($1::xid8)) writers (writer)
           left join lateral (
               select clock_timestamp() - xact_start as open, pid::text as pid from pg_stat_activity
                where backend_xid::text::int8 = writer::text::int8 & 4294967295
               union all
               select clock_timestamp() - prepared, 'none: it is prepared as ' || quote_literal(gid)
                 from pg_prepared_xacts where transaction::text::int8 = writer::text::int8 & 4294967295
           ) age on true
          limit 1",
        &[Param::Text(writer)],
        |row| row.text(1),
    )
    .pop()
    .flatten()
}

/// How far counting has come where figures cannot be read yet, for people. Waits for nobody, and says nothing then.
pub fn progress() -> Option<String> {
    let ours = |table| find_relation(INTERNAL, table).is_some_and(lock_for_reading_now);
    if !ours("seal_state") || !ours("attachment") {
        return None;
    }
    let state = State::newest(Seen::Statement).filter(|state| !state.is_complete())?;
    let entries = attachment::read(Seen::Statement)?.entries;
    if !lock_for_reading_now(entries) {
        return None;
    }
    lock(entries).map(|entries| still_to_count(&entries, &state))
}

/// About how many rows are still to be counted. Before the first ANALYZE the planner may expect a third of what there is.
pub fn still_to_count(entries: &LockedRelation, state: &State) -> String {
    let seal = if state.epoch == 1 { "the first seal" } else { "the next seal" };
    let rest = about_all_rows(entries) - state.total;
    if rest <= 0 && state.total > 0 {
        return format!("{} rows counted for {seal}, more than the planner expected", grouped(state.total));
    }
    format!("{} rows to {seal}", grouped(rest.max(0)))
}

/// As the planner guesses; without the partitions that somebody is changing.
fn about_all_rows(entries: &LockedRelation) -> i64 {
    let tables = select(
        "with recursive tree as (
             select $1 as oid
             union all
             select i.inhrelid from tree join pg_inherits i on i.inhparent = tree.oid
         )
         select c.oid from tree join pg_class c on c.oid = tree.oid and c.relkind = 'r'",
        &[Param::Oid(entries.oid)],
        |row| row.oid(1),
    );
    tables.into_iter().filter(|table| lock_for_reading_now(*table)).map(about_rows).sum()
}
