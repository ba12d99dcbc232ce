//! The busiest keys, kept exact without keeping every key at hand. Pure.
//!
//! A list holds the most frequent keys with their counts, and a ceiling: no key outside of it occurs more often. Changes
//! move the counts in the list and raise the ceiling; as long as the ceiling stays below what is asked for, the list
//! alone answers. When it does not, every key must be counted again.

use super::counts::Counts;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::HashMap;

/// How many keys a fresh list holds: the longest top list that can be asked for, four times.
const FRESH: usize = 400;

/// A list that cannot answer for this many keys is worn out.
const NEEDED: usize = 128;

/// The busiest keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopList {
    listed: HashMap<String, i64>,
    ceiling: i64,
}

/// More frequent first, then by the bytes of the key, as `COLLATE "C"` does.
fn sort(keys: &mut [(&str, i64)]) {
    keys.sort_unstable_by_key(|(key, count)| (Reverse(*count), *key));
}

impl TopList {
    /// The list of all these keys.
    pub fn of(counts: &Counts) -> Self {
        let mut keys: Vec<_> = counts
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(key, count)| (key.as_str(), *count))
            .collect();
        sort(&mut keys);
        let ceiling = keys.get(FRESH).map_or(0, |(_, count)| *count);
        keys.truncate(FRESH);
        Self { listed: keys.into_iter().map(|(key, count)| (key.to_owned(), count)).collect(), ceiling }
    }

    /// Takes changed counts into account.
    pub fn apply(&mut self, changes: &Counts) {
        let mut most_gained = 0;
        for (key, change) in changes {
            match self.listed.get_mut(key) {
                Some(count) => *count += change,
                // Every key is listed: a new one begins at 0.
                None if self.ceiling == 0 && *change > 0 => {
                    self.listed.insert(key.clone(), *change);
                }
                None => most_gained = most_gained.max(*change),
            }
        }
        if self.ceiling > 0 {
            self.ceiling += most_gained;
        }
        self.listed.retain(|_, count| *count > 0);
    }

    /// Whether the list should be made afresh: its ceiling has come too near.
    pub fn is_worn(&self) -> bool {
        let mut counts: Vec<_> = self.listed.values().copied().collect();
        counts.sort_unstable_by_key(|count| Reverse(*count));
        let last_needed = counts.get(NEEDED - 1).copied().unwrap_or(0);
        (self.ceiling > 0 && self.ceiling >= last_needed) || self.listed.len() > 4 * FRESH
    }

    /// The `n` busiest keys once `corrections` are taken into account. `None` when the list cannot tell: then every key
    /// must be counted.
    pub fn top(&self, n: usize, corrections: &Counts) -> Option<Vec<(String, i64)>> {
        let mut keys: Vec<(&str, i64)> = Vec::with_capacity(self.listed.len());
        for (key, count) in &self.listed {
            keys.push((key, count + corrections.get(key).copied().unwrap_or(0)));
        }
        let mut highest_outside = self.ceiling;
        for (key, correction) in corrections.iter().filter(|(key, _)| !self.listed.contains_key(*key)) {
            if self.ceiling == 0 {
                keys.push((key, *correction));
            } else {
                highest_outside = highest_outside.max(self.ceiling + correction);
            }
        }
        keys.retain(|(_, count)| *count > 0);
        sort(&mut keys);
        keys.truncate(n);
        let last = if keys.len() == n { keys.last().map_or(0, |(_, count)| *count) } else { 0 };
        // A key outside that came equal might stand before the last one by its name.
        if highest_outside > 0 && highest_outside >= last {
            return None;
        }
        Some(keys.into_iter().map(|(key, count)| (key.to_owned(), count)).collect())
    }
}

/// The `n` busiest of all these keys.
pub fn top_of(counts: &Counts, n: usize) -> Vec<(String, i64)> {
    let mut keys: Vec<_> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(key, count)| (key.as_str(), *count)).collect();
    sort(&mut keys);
    keys.truncate(n);
    keys.into_iter().map(|(key, count)| (key.to_owned(), count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::sealed::counts::add;
    use proptest::prelude::*;

    fn counts(range: std::ops::Range<i64>, count: impl Fn(i64) -> i64) -> Counts {
        range.map(|key| (format!("k{key:04}"), count(key))).collect()
    }

    #[test]
    fn a_key_that_rises_from_outside_is_not_missed() {
        let all = counts(0..1000, |key| 2000 - key);
        let list = TopList::of(&all);
        assert_eq!(list.top(2, &Counts::new()), Some(vec![("k0000".into(), 2000), ("k0001".into(), 1999)]));
        // From 1100 to 1999: as busy as the second, and nobody can tell without counting.
        let risen = Counts::from([("k0900".into(), 899)]);
        assert_eq!(list.top(2, &risen), None);
        let fallen = Counts::from([("k0000".into(), -5)]);
        assert_eq!(list.top(1, &fallen), Some(vec![("k0001".into(), 1999)]));
    }

    #[test]
    fn many_that_fall_wear_the_list_out() {
        let mut list = TopList::of(&counts(0..1000, |key| 2000 - key));
        assert!(!list.is_worn());
        list.apply(&counts(0..390, |_| -1500));
        assert!(list.is_worn());
        assert_eq!(list.top(100, &Counts::new()), None);
    }

    proptest! {
        #[test]
        fn a_list_answers_rightly_or_not_at_all(
            start in proptest::collection::vec(0..60_i64, 0..600),
            changes in proptest::collection::vec(proptest::collection::vec((0..700_usize, -20..20_i64), 0..60), 1..6),
            n in 1..30_usize,
        ) {
            let mut all: Counts = start.iter().enumerate().map(|(key, count)| (format!("k{key:04}"), *count)).collect();
            let mut list = TopList::of(&all);
            for step in &changes {
                let mut change = Counts::new();
                for (key, by) in step {
                    let key = format!("k{key:04}");
                    let now = all.get(&key).copied().unwrap_or(0) + change.get(&key).copied().unwrap_or(0);
                    // A count never falls below zero.
                    add(&mut change, &key, (*by).max(-now));
                }
                // First as corrections of a reader, then as changes of the sealer.
                let mut corrected = all.clone();
                for (key, by) in &change {
                    add(&mut corrected, key, *by);
                }
                if let Some(top) = list.top(n, &change) {
                    prop_assert_eq!(top, top_of(&corrected, n));
                }
                list.apply(&change);
                all = corrected;
                if let Some(top) = list.top(n, &Counts::new()) {
                    prop_assert_eq!(top, top_of(&all, n));
                }
                if list.is_worn() {
                    list = TopList::of(&all);
                }
            }
        }
    }
}
