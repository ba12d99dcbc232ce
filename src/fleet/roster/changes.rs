//! What has changed of devices since they were counted, added up as it is read.

use crate::fleet::clock::Timestamp;
use crate::fleet::sealed::counts::Counts;
use crate::fleet::sealed::tally::{Kind, Tally};
use crate::pg::range::RangeIndex;
use crate::pg::scan::find_relation;
use crate::schemas::INTERNAL;
use pgrx::pg_sys::TIMESTAMPTZOID;

/// More changes than this are not worth adding up.
pub const MOST: i64 = 50_000;

/// What changes come to.
#[derive(Clone, Debug)]
pub struct Changes {
    /// How many there are; of more than [`MOST`] not all are read.
    pub number: i64,
    /// How many devices more.
    pub total: i64,
    /// How many more that were last seen at the moment asked for, or before.
    pub silent: i64,
    types: Tally,
    moment: Timestamp,
}

impl Changes {
    /// None.
    pub fn none(moment: Timestamp) -> Self {
        Self { number: 0, total: 0, silent: 0, types: Tally::new(Kind::Text), moment }
    }

    /// The changes of `gen_` and later that the running statement sees; `None` where their table is gone.
    pub fn since(gen_: i64, moment: Timestamp) -> Option<Self> {
        let table = find_relation(INTERNAL, "roster_changes")?;
        let index = find_relation(INTERNAL, "roster_changes_gen")?;
        let mut changes = Self::none(moment);
        // Columns: gen, old_type, old_seen, new_type, new_seen.
        RangeIndex::of_numbers(table, index).each_bare(gen_, None, |row| {
            changes.number += 1;
            for (kind, n) in [(2, -1), (4, 1)] {
                let seen = row.int(kind + 1, TIMESTAMPTZOID).unwrap_or(Timestamp::MIN);
                row.with_text(kind, |kind| changes.take(kind, seen, n));
            }
            changes.number <= MOST
        });
        Some(changes)
    }

    fn take(&mut self, kind: &[u8], seen: Timestamp, n: i64) {
        self.total += n;
        self.types.add(Some(kind), n);
        if seen <= self.moment {
            self.silent += n;
        }
    }

    /// Adds the devices by connection type.
    pub fn add_types_to(&self, types: &mut Counts) {
        self.types.add_to(types, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_add_up() {
        let silent_at = |moment| {
            let mut changes = Changes::none(moment);
            // One comes, changes its type, and goes; another comes back.
            for (kind, seen, n) in
                [("vpn", 7, 1), ("vpn", 7, -1), ("pac", 9, 1), ("pac", 9, -1), ("cdp", 1, -1), ("cdp", 8, 1)]
            {
                changes.take(kind.as_bytes(), seen, n);
            }
            let mut types = Counts::new();
            changes.add_types_to(&mut types);
            assert_eq!((changes.total, types.len()), (0, 0));
            changes.silent
        };
        assert_eq!(silent_at(5), -1);
        assert_eq!(silent_at(8), 0);
    }
}
