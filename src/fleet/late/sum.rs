//! Adding up late changes. Pure.

use super::pack::{Change, Decoder, Encoder, Key, Malformed, RowChange};
use crate::fleet::clock::Timestamp;
use crate::fleet::sealed::counts::{Changes, add};
use crate::fleet::sealed::window::Interval;
use std::collections::HashMap;

/// What late changes come to, for a state that has counted the rows before `boundary`.
pub struct Sum<R> {
    /// Only changes to earlier rows count.
    pub boundary: Timestamp,
    /// The rows that the state counts into the last 24 hours.
    pub day: Interval,
    /// The rows that the state counts into the last hour.
    pub hour: Interval,
    /// Says whether changes to rows of a table count, given its OID.
    pub counts: R,
    /// How many changes counted.
    pub number: i64,
    /// The sum.
    pub changes: Changes,
    /// Of that, the total by table.
    pub tables: HashMap<u32, i64>,
    /// How often each key of the present pack occurs: source, host, device.
    occurrences: [Vec<i64>; 3],
}

impl<R: Fn(u32) -> bool> Sum<R> {
    /// Nothing yet.
    pub fn new(boundary: Timestamp, day: Interval, hour: Interval, counts: R) -> Self {
        let occurrences = [const { Vec::new() }; 3];
        let (changes, tables) = (Changes::default(), HashMap::new());
        Self { boundary, day, hour, counts, number: 0, changes, tables, occurrences }
    }

    /// Adds the changes of a pack to rows before the boundary.
    pub fn add(&mut self, pack: &[u8]) -> Result<(), Malformed> {
        let mut decoder = Decoder::new(pack);
        // The table of the last change, whether it counts, and what has come together for it.
        let (mut relation, mut is_counted, mut total) = (0, false, 0);
        while let Some(change) = decoder.next()? {
            let (of, time, n) = match change {
                Change::Row(row) => (row.relation, row.time, if row.came { 1 } else { -1 }),
                // An hour lies before a boundary or behind it as a whole.
                Change::Hour(hour) => (hour.relation, hour.hour, hour.n),
            };
            if of != relation {
                self.add_total(relation, total);
                (relation, is_counted, total) = (of, (self.counts)(of), 0);
            }
            if !is_counted || time >= self.boundary {
                continue;
            }
            self.number += 1;
            total += n;
            if let Change::Row(row) = change {
                self.add_row(&row, n);
            }
        }
        self.add_total(relation, total);
        let Changes { sources, hosts, devices, .. } = &mut self.changes;
        for (counts, occurrences) in [sources, hosts, devices].into_iter().zip(&mut self.occurrences) {
            for (key, n) in decoder.keys().iter().zip(occurrences.drain(..)).filter(|(_, n)| *n != 0) {
                match key {
                    Key::Text(text) => match std::str::from_utf8(text) {
                        Ok(text) => add(counts, text, n),
                        Err(_) => add(counts, &key.text(), n),
                    },
                    key => add(counts, &key.text(), n),
                }
            }
        }
        Ok(())
    }

    fn add_total(&mut self, relation: u32, n: i64) {
        if n != 0 {
            self.changes.total += n;
            *self.tables.entry(relation).or_default() += n;
        }
    }

    fn add_row(&mut self, row: &RowChange<Option<usize>>, n: i64) {
        if self.hour.contains(row.time) {
            self.changes.hour += n;
        }
        if !self.day.contains(row.time) {
            return;
        }
        self.changes.day += n;
        self.changes.count_class(i64::from(row.class), n);
        if row.source.is_none() {
            add(&mut self.changes.sources, "unknown", n);
        }
        for (occurrences, key) in self.occurrences.iter_mut().zip([row.source, row.host, row.device]) {
            if let Some(key) = key {
                if occurrences.len() <= key {
                    occurrences.resize(key + 1, 0);
                }
                occurrences[key] += n;
            }
        }
    }
}

/// A pack's changes to rows from `boundary` on, packed anew, and how many they are.
pub fn rest_of(pack: &[u8], boundary: Timestamp) -> Result<(Vec<u8>, i64), Malformed> {
    let (mut decoder, mut encoder) = (Decoder::new(pack), Box::new(Encoder::new()));
    encoder.begin_pack();
    let (mut rest, mut number) = (Vec::new(), 0);
    while let Some(change) = decoder.next()? {
        match change {
            Change::Row(row) if row.time >= boundary => {
                let key = |place: Option<usize>| place.map_or(Key::Null, |place| decoder.keys()[place]);
                let RowChange { relation, time, came, class, .. } = row;
                let (source, host, device) = (key(row.source), key(row.host), key(row.device));
                encoder.row(&mut rest, &RowChange { relation, time, came, class, source, host, device });
                number += 1;
            }
            Change::Hour(hour) if hour.hour >= boundary => {
                encoder.hour(&mut rest, hour);
                number += 1;
            }
            _ => {}
        }
    }
    Ok((rest, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::clock::{DAY, HOUR};
    use crate::fleet::late::pack::HourChange;
    use crate::fleet::sealed::counts::Counts;
    use proptest::prelude::*;

    fn sum(boundary: Timestamp) -> Sum<impl Fn(u32) -> bool> {
        let of = |width| Interval { from: boundary - width, to: boundary };
        Sum::new(boundary, of(DAY), of(HOUR), |relation| relation != 9)
    }

    fn row(relation: u32, time: Timestamp, came: bool, host: &'static str) -> RowChange<Key<'static>> {
        let host = Key::Text(host.as_bytes());
        RowChange { relation, time, came, class: 2, source: Key::Null, host, device: Key::Int(7) }
    }

    #[test]
    fn a_row_counts_into_the_windows_that_it_lies_in() {
        let now = 100 * DAY;
        let (mut encoder, mut pack) = (Box::new(Encoder::new()), Vec::new());
        encoder.begin_pack();
        for row in [
            row(1, now - 1, true, "a"),
            row(1, now - 2 * HOUR, true, "a"),
            row(2, now - 2 * DAY, true, "old"),
            row(2, now - 2 * HOUR, false, "b"),
            row(1, now, true, "beyond the boundary"),
            row(9, now - 1, true, "of a table that has gone"),
        ] {
            encoder.row(&mut pack, &row);
        }
        encoder.hour(&mut pack, HourChange { relation: 2, hour: now - 3 * DAY, n: -5 });
        let mut sum = sum(now);
        assert_eq!(sum.add(&pack), Ok(()));
        assert_eq!((sum.number, sum.changes.total, sum.changes.day, sum.changes.hour), (5, -3, 1, 1));
        assert_eq!(sum.changes.hosts, Counts::from([("a".into(), 2), ("b".into(), -1)]));
        assert_eq!(sum.changes.devices, Counts::from([("7".into(), 1)]));
        assert_eq!(sum.changes.sources, Counts::from([("unknown".into(), 1)]));
        assert_eq!(sum.changes.classes[2], 1);
        assert_eq!(sum.tables, HashMap::from([(1, 2), (2, -5)]));
    }

    proptest! {
        #[test]
        fn what_is_before_a_boundary_and_the_rest_are_the_whole(
            rows in proptest::collection::vec((0..20_i64, any::<bool>(), 0..3_usize), 0..40), boundary in 0..21_i64,
        ) {
            let (mut encoder, mut pack) = (Box::new(Encoder::new()), Vec::new());
            encoder.begin_pack();
            for (time, came, host) in &rows {
                encoder.row(&mut pack, &row(1, time * HOUR, *came, ["a", "b", "c"][*host]));
            }
            let (rest, number) = rest_of(&pack, boundary * HOUR).unwrap();
            let late = rows.iter().filter(|(time, _, _)| *time >= boundary).count();
            prop_assert_eq!(number, late as i64);
            let end = 30 * HOUR;
            let add = |parts: &[&[u8]], boundary| {
                let day = Interval { from: i64::MIN, to: i64::MAX };
                let mut sum = Sum::new(boundary, day, day, |_| true);
                for part in parts {
                    sum.add(part).unwrap();
                }
                sum.changes
            };
            let mut both = add(&[&pack], boundary * HOUR);
            both.merge(&add(&[&rest], end));
            let mut whole = add(&[&pack], end);
            for changes in [&mut both, &mut whole] {
                changes.hosts.retain(|_, n| *n != 0);
                changes.devices.retain(|_, n| *n != 0);
                changes.sources.retain(|_, n| *n != 0);
            }
            prop_assert_eq!(both, whole);
        }
    }
}
