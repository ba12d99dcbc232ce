//! Who was writing when a threshold had just become known.

use super::sealer::Step;
use crate::fleet::capture;
use crate::fleet::tree::members;
use crate::pg::query::{Param, execute, select, select_one};
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::thresholds;
use crate::schemas::INTERNAL;
use crate::torture::{Mutant, broken};
use pgrx::pg_sys;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Remembers who is writing, once for each threshold and after it was committed.
pub fn look(entries: pg_sys::Oid) -> Step {
    let Some(threshold) = capture::threshold(Seen::Statement) else {
        return Step::Waits("there is no capture threshold".into());
    };
    let gen_ = threshold.generation;
    // Before the list: a writer that reads the threshold before this one has written its row by then, and is found.
    let published = thresholds::published();
    if published != Some(threshold) && !(broken(Mutant::ThresholdUnpublished) && published.is_some()) {
        thresholds::publish(threshold);
    }
    if has_look(gen_) {
        return Step::Done;
    }
    let Some(writers) = writers_of(entries) else {
        return Step::Waits("transactions are being prepared".into());
    };
    execute(
        "insert into busymate_stats_internal.seal_look (gen, writers) values ($1, $2::xid8[])",
        &[Param::Int(gen_), Param::Text(&format!("{{{}}}", writers.join(",")))],
    );
    execute("delete from busymate_stats_internal.seal_look where gen < $1", &[Param::Int(gen_)]);
    Step::Moved
}

/// How often a list of locks that was read in the middle of a PREPARE TRANSACTION is read again.
const TRIES: usize = 100;

/// The transactions that hold a lock on a relation for writing; `None` when that cannot be told now.
pub fn writers_of(relation: pg_sys::Oid) -> Option<Vec<String>> {
    (0..TRIES).find_map(|_| {
        let next: i64 =
            select_one("select pg_snapshot_xmax(pg_current_snapshot())::text::int8", &[], |row| row.int(1));
        let locks = locks();
        // After the locks, not before: a partition that has come in between may have brought its writers.
        let members: HashSet<u32> = match broken(Mutant::LeafWritersUnseen) {
            true => HashSet::from([relation.to_u32()]),
            false => members(relation).into_iter().map(|member| member.to_u32()).collect(),
        };
        let ids = ids_of_writers(&locks, &members).ok()?;
        Some(ids.into_iter().map(|id| full_transaction_id(id, next).to_string()).collect())
    })
}

/// A line of `pg_locks`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lock {
    /// The relation that is locked for writing; 0 for a lock that a transaction holds on its own id.
    relation: u32,
    /// That id.
    transaction: i64,
    /// The virtual transaction that holds it, and the process; 0 for a prepared one.
    holder: (String, i64),
}

/// SHARE UPDATE EXCLUSIVE on a table with partitions or chunks may be an ATTACH whose partition nobody else sees yet.
fn locks() -> Vec<Lock> {
    select(
        "select case locktype when 'relation' then relation else 0 end::oid, transactionid::text::int8,
                virtualtransaction, pid::int8
           from pg_locks
          where granted
            and (locktype = 'transactionid' and mode = 'ExclusiveLock'
                 or locktype = 'relation'
                    and database = (select oid from pg_database where datname = current_database())
                    and (mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
                         or mode = 'ShareUpdateExclusiveLock'
                            and (exists (select from pg_partitioned_table where partrelid = relation)
                                 or exists (select from pg_inherits where inhparent = relation))))",
        &[],
        |row| Lock {
            relation: row.oid(1).to_u32(),
            transaction: row.int(2),
            holder: (row.text(3).unwrap_or_default(), row.int(4)),
        },
    )
}

/// The list was read while PREPARE TRANSACTION handed locks from the backend over to the prepared transaction, which it
/// does a part at a time: a lock and its holder's id may be on different sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Torn;

/// The ids of those who hold one of `members`. A holder without an id has written nothing yet, and will read the new
/// threshold; but only a backend in a transaction can be without one.
fn ids_of_writers(locks: &[Lock], members: &HashSet<u32>) -> Result<BTreeSet<i64>, Torn> {
    // A transaction holds one for itself and one for each subtransaction that has written.
    let mut ids: HashMap<&(String, i64), Vec<i64>> = HashMap::new();
    for lock in locks.iter().filter(|lock| lock.relation == 0) {
        ids.entry(&lock.holder).or_default().push(lock.transaction);
    }
    let mut writers = BTreeSet::new();
    for lock in locks.iter().filter(|lock| members.contains(&lock.relation)) {
        let (virtual_transaction, process) = &lock.holder;
        match ids.get(&lock.holder) {
            Some(ids) => writers.extend(ids),
            None if *process == 0 || virtual_transaction.ends_with("/0") => return Err(Torn),
            None => {}
        }
    }
    Ok(writers)
}

/// The transaction id with its epoch: the one nearest to `next`, which is not far from any that is in progress.
fn full_transaction_id(id: i64, next: i64) -> i64 {
    next + i64::from((id as u32).wrapping_sub(next as u32) as i32)
}

/// Whether writers were looked for at a threshold.
fn has_look(gen_: i64) -> bool {
    let mut found = false;
    if let Some(table) = find_relation(INTERNAL, "seal_look") {
        scan(table, None, None, Seen::Statement, |row| found = found || row.int(1) == gen_);
    }
    found
}

/// The writers that were found for a threshold, as an array's text.
pub fn look_of(gen_: i64) -> Option<String> {
    select(
        "select writers::text from busymate_stats_internal.seal_look where gen = $1",
        &[Param::Int(gen_)],
        |row| row.text(1),
    )
    .pop()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(relation: u32, transaction: i64, virtual_transaction: &str, process: i64) -> Lock {
        Lock { relation, transaction, holder: (virtual_transaction.into(), process) }
    }

    #[test]
    fn writers_are_those_with_an_id() {
        let locks = [
            lock(7, 0, "3/42", 100),
            lock(0, 900, "3/42", 100),
            // A subtransaction.
            lock(0, 905, "3/42", 100),
            // It has written nothing yet.
            lock(7, 0, "4/9", 101),
            // Prepared: by a session that goes on, and before a restart.
            lock(7, 0, "5/1", 0),
            lock(0, 901, "5/1", 0),
            lock(7, 0, "-1/902", 0),
            lock(0, 902, "-1/902", 0),
            lock(8, 0, "6/1", 103),
            lock(0, 903, "6/1", 103),
        ];
        assert_eq!(ids_of_writers(&locks, &HashSet::from([7])), Ok(BTreeSet::from([900, 901, 902, 905])));
    }

    #[test]
    fn a_list_read_in_the_middle_of_a_prepare_is_not_believed() {
        // The relation's lock has been handed over and the id's has not, or the other way round.
        let given = [lock(7, 0, "3/42", 0), lock(0, 900, "3/0", 100)];
        let taken = [lock(7, 0, "3/0", 100), lock(0, 900, "3/42", 0)];
        for locks in [given, taken] {
            assert_eq!(ids_of_writers(&locks, &HashSet::from([7])), Err(Torn));
        }
    }

    #[test]
    fn transaction_ids_find_their_epoch() {
        assert_eq!(full_transaction_id(7, 9), 7);
        assert_eq!(full_transaction_id(12, 9), 12);
        let epoch = 1_i64 << 32;
        assert_eq!(full_transaction_id(4_294_967_290, epoch + 3), epoch - 6);
        assert_eq!(full_transaction_id(5, epoch - 2), epoch + 5);
    }
}
