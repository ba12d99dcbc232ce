//! Who was writing when a threshold had just become known.

use super::sealer::Step;
use crate::fleet::capture;
use crate::fleet::tree::members;
use crate::pg::query::{Param, execute, select, select_one};
use crate::pg::scan::Seen;
use crate::pg::thresholds;
use crate::torture::{Mutant, broken};
use pgrx::pg_sys;
use std::collections::{BTreeSet, HashSet};

/// Remembers who is writing, once for each threshold and after it was committed.
pub fn look(entries: pg_sys::Oid) -> Step {
    let Some((gen_, threshold)) = capture::threshold(Seen::Statement) else {
        return Step::Waits("there is no capture threshold".into());
    };
    if look_of(gen_).is_some() {
        return Step::Done;
    }
    // Before the look: whoever reads the threshold before this one has written rows by then, and is found.
    if !(broken(Mutant::ThresholdUnpublished) && thresholds::published().is_some()) {
        thresholds::publish(gen_, threshold);
    }
    let writers = writers_of(entries);
    execute(
        "insert into busymate_stats.seal_look (gen, writers) values ($1, $2::xid8[])",
        &[Param::Int(gen_), Param::Text(&format!("{{{}}}", writers.join(",")))],
    );
    execute("delete from busymate_stats.seal_look where gen < $1", &[Param::Int(gen_)]);
    Step::Moved
}

/// The transactions that hold a lock on a relation for writing.
pub fn writers_of(relation: pg_sys::Oid) -> Vec<String> {
    let next: i64 =
        select_one("select pg_snapshot_xmax(pg_current_snapshot())::text::int8", &[], |row| row.int(1));
    // Who holds such a lock without a transaction id has written nothing yet, and will see the new threshold. A
    // prepared transaction keeps its id, and a restart keeps both. SHARE UPDATE EXCLUSIVE on a partitioned table may be
    // an ATTACH whose partition nobody else sees yet.
    let held = select(
        "with locks as materialized (select * from pg_locks where granted)
         select distinct held.relation, writer.transactionid::text::int8
           from locks held
           join locks writer
             on writer.locktype = 'transactionid' and writer.mode = 'ExclusiveLock'
            and writer.virtualtransaction = held.virtualtransaction
          where held.locktype = 'relation'
            and held.database = (select oid from pg_database where datname = current_database())
            and (held.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
                 or held.mode = 'ShareUpdateExclusiveLock'
                    and exists (select from pg_partitioned_table where partrelid = held.relation))",
        &[],
        |row| (row.oid(1), row.int(2)),
    );
    // After the locks, not before: a partition that has come in between may have brought its writers.
    let members: HashSet<pg_sys::Oid> = match broken(Mutant::LeafWritersUnseen) {
        true => HashSet::from([relation]),
        false => members(relation).into_iter().collect(),
    };
    let writers: BTreeSet<i64> =
        held.into_iter().filter(|(held, _)| members.contains(held)).map(|(_, id)| id).collect();
    writers.into_iter().map(|id| full_transaction_id(id, next).to_string()).collect()
}

/// The transaction id with its epoch: the one nearest to `next`, which is not far from any that is in progress.
fn full_transaction_id(id: i64, next: i64) -> i64 {
    next + i64::from((id as u32).wrapping_sub(next as u32) as i32)
}

/// The writers that were found for a threshold, as an array's text.
pub fn look_of(gen_: i64) -> Option<String> {
    select("select writers::text from busymate_stats.seal_look where gen = $1", &[Param::Int(gen_)], |row| {
        row.text(1)
    })
    .pop()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::full_transaction_id;

    #[test]
    fn transaction_ids_find_their_epoch() {
        assert_eq!(full_transaction_id(7, 9), 7);
        assert_eq!(full_transaction_id(12, 9), 12);
        let epoch = 1_i64 << 32;
        assert_eq!(full_transaction_id(4_294_967_290, epoch + 3), epoch - 6);
        assert_eq!(full_transaction_id(5, epoch - 2), epoch + 5);
    }
}
