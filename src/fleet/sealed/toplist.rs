//! The busiest keys, kept exact without keeping every key at hand. Pure.
//!
//! A list holds the most frequent keys with their counts, and a limit: every key outside of it ranks after that. Changes
//! move the counts in the list and raise the limit; as long as the limit stays behind what is asked for, the list alone
//! answers. When it does not, the keys outside must be looked at.

use super::counts::Counts;
use crate::torture::{Mutant, broken};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::HashMap;

/// How many keys a fresh list holds: the longest top list that can be asked for, four times.
const FRESH: usize = if cfg!(feature = "torture") { 10 } else { 400 };

/// A list that cannot answer for this many keys is worn out.
const NEEDED: usize = if cfg!(feature = "torture") { 5 } else { 128 };

/// A place in the order of keys: more frequent first, then by the bytes of the key, as `COLLATE "C"` does.
type Rank<'a> = (Reverse<i64>, &'a str);

/// The busiest keys. While late changes are folded in by parts, a count may be below zero: the row that went was folded in
/// before the one that came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopList {
    listed: HashMap<String, i64>,
    /// Every key that is not listed ranks after this count and key; `None` when every key is listed.
    limit: Option<(i64, String)>,
}

fn sort(keys: &mut [(&str, i64)]) {
    keys.sort_unstable_by_key(|(key, count)| (Reverse(*count), *key));
}

impl TopList {
    /// The list of all these keys.
    pub fn of(counts: &Counts) -> Self {
        let mut keys: Vec<_> = counts
            .iter()
            .filter(|(_, count)| **count != 0)
            .map(|(key, count)| (key.as_str(), *count))
            .collect();
        if keys.len() <= FRESH {
            return Self { listed: owned(keys).into_iter().collect(), limit: None };
        }
        keys.select_nth_unstable_by_key(FRESH - 1, |(key, count)| (Reverse(*count), *key));
        // A key that is missing stands at 0.
        let limit = match keys[FRESH - 1] {
            (_, count) if count < 0 => (0, String::new()),
            (key, count) => (count, key.to_owned()),
        };
        keys.truncate(FRESH);
        Self { listed: owned(keys).into_iter().collect(), limit: Some(limit) }
    }

    /// Takes changed counts into account.
    pub fn apply(&mut self, changes: &Counts) {
        let mut most_gained = 0;
        for (key, change) in changes {
            match self.listed.get_mut(key) {
                Some(count) => *count += change,
                // Every key is listed: a new one begins at 0.
                None if self.limit.is_none() => {
                    self.listed.insert(key.clone(), *change);
                }
                None => most_gained = most_gained.max(*change),
            }
        }
        if let Some((count, key)) = self.limit.as_mut().filter(|_| most_gained > 0) {
            *count += most_gained;
            key.clear();
        }
        self.listed.retain(|_, count| *count != 0);
    }

    /// Whether the list should be made afresh: its limit has come too near.
    pub fn is_worn(&self) -> bool {
        match &self.limit {
            None => self.listed.len() > 4 * FRESH,
            Some(_) => self.top(NEEDED, &Counts::new(), None).is_none(),
        }
    }

    /// The `n` busiest keys once `corrections` are taken into account. With `all`, the counts of every key that this
    /// list was made of, those outside are looked up. `None` when that does not suffice.
    pub fn top(&self, n: usize, corrections: &Counts, all: Option<&Counts>) -> Option<Vec<(String, i64)>> {
        let corrected = |key: &str, count: i64| count + corrections.get(key).copied().unwrap_or(0);
        let keys = self.listed.iter().map(|(key, count)| (key.as_str(), corrected(key, *count))).collect();
        self.cut(keys, n, corrections, all)
    }

    /// The `n` busiest of `keys`, listed ones, and of those outside that have corrections.
    fn cut<'a>(
        &'a self,
        mut keys: Vec<(&'a str, i64)>,
        n: usize,
        corrections: &'a Counts,
        all: Option<&Counts>,
    ) -> Option<Vec<(String, i64)>> {
        // How far an outsider's correction may have brought it, where nobody looks it up.
        let mut most_gained = 0;
        for (key, correction) in corrections.iter().filter(|(key, _)| !self.listed.contains_key(*key)) {
            match (&self.limit, all) {
                (None, _) => keys.push((key, *correction)),
                (Some(_), Some(all)) => keys.push((key, all.get(key).copied().unwrap_or(0) + correction)),
                (Some(_), None) => most_gained = most_gained.max(*correction),
            }
        }
        keys.retain(|(_, count)| *count > 0);
        sort(&mut keys);
        keys.truncate(n);
        if let Some((count, key)) = &self.limit {
            let limit: Rank =
                if most_gained > 0 { (Reverse(count + most_gained), "") } else { (Reverse(*count), key) };
            let last: Rank = keys.get(n.checked_sub(1)?).map(|(key, count)| (Reverse(*count), *key))?;
            if last > limit {
                return None;
            }
        }
        Some(owned(keys))
    }
}

/// A list with its keys in order: for one that is asked again and again.
#[derive(Clone, Debug)]
pub struct Ranking {
    list: TopList,
    order: Vec<(String, i64)>,
}

impl Ranking {
    /// The keys of `list` in order.
    pub fn of(list: TopList) -> Self {
        let order = top_of(&list.listed, list.listed.len());
        Self { list, order }
    }

    /// The same with changed counts.
    pub fn changed(&self, changes: &Counts) -> Self {
        let mut list = self.list.clone();
        list.apply(changes);
        Self::of(list)
    }

    /// [`TopList::top`], looking only at the first `n` keys that have no correction, and at those that have one.
    pub fn top(&self, n: usize, corrections: &Counts, all: Option<&Counts>) -> Option<Vec<(String, i64)>> {
        if broken(Mutant::LimitIgnored) {
            let unlimited = TopList { listed: self.list.listed.clone(), limit: None };
            return unlimited.top(n, corrections, None);
        }
        let unmoved = self.order.iter().filter(|(key, _)| !corrections.contains_key(key)).take(n);
        let mut keys: Vec<_> = unmoved.map(|(key, count)| (key.as_str(), *count)).collect();
        for (key, correction) in corrections {
            if let Some(count) = self.list.listed.get(key) {
                keys.push((key, count + correction));
            }
        }
        self.list.cut(keys, n, corrections, all)
    }
}

fn owned(keys: Vec<(&str, i64)>) -> Vec<(String, i64)> {
    keys.into_iter().map(|(key, count)| (key.to_owned(), count)).collect()
}

/// The `n` busiest of all these keys.
pub fn top_of(counts: &Counts, n: usize) -> Vec<(String, i64)> {
    let mut keys: Vec<_> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(key, count)| (key.as_str(), *count)).collect();
    sort(&mut keys);
    keys.truncate(n);
    owned(keys)
}

#[cfg(all(test, not(feature = "torture")))]
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
        assert_eq!(
            list.top(2, &Counts::new(), None),
            Some(vec![("k0000".into(), 2000), ("k0001".into(), 1999)])
        );
        // From 1100 to 1999: as busy as the second, and nobody can tell without counting.
        let risen = Counts::from([("k0900".into(), 899)]);
        assert_eq!(list.top(2, &risen, None), None);
        let looked_up = vec![("k0000".into(), 2000), ("k0001".into(), 1999)];
        assert_eq!(list.top(2, &risen, Some(&all)), Some(looked_up));
        let fallen = Counts::from([("k0000".into(), -5)]);
        assert_eq!(list.top(1, &fallen, None), Some(vec![("k0001".into(), 1999)]));
    }

    #[test]
    fn keys_that_are_all_alike_are_told_apart_by_name() {
        let all = counts(0..1000, |_| 1440);
        let list = TopList::of(&all);
        assert!(!list.is_worn());
        assert_eq!(list.top(1, &Counts::new(), None), Some(vec![("k0000".into(), 1440)]));
        let risen = Counts::from([("k0900".into(), 1)]);
        assert_eq!(list.top(1, &risen, None), None);
        assert_eq!(list.top(1, &risen, Some(&all)), Some(vec![("k0900".into(), 1441)]));
    }

    #[test]
    fn many_that_fall_wear_the_list_out() {
        let mut list = TopList::of(&counts(0..1000, |key| 2000 - key));
        assert!(!list.is_worn());
        list.apply(&counts(0..390, |_| -1500));
        assert!(list.is_worn());
        assert_eq!(list.top(100, &Counts::new(), None), None);
    }

    proptest! {
        #[test]
        fn changes_may_come_in_any_order(
            start in proptest::collection::vec(0..4_i64, 0..900),
            changes in proptest::collection::vec((0..1000_usize, 1..4_i64), 0..900),
            afresh in 0..1800_usize,
        ) {
            let mut all: Counts =
                start.iter().enumerate().map(|(key, count)| (format!("k{key:04}"), *count)).collect();
            let mut list = TopList::of(&all);
            let name = |key: &usize| format!("k{key:04}");
            // Each goes before it comes.
            let went = changes.iter().map(|(key, n)| (name(key), -n));
            let came = changes.iter().map(|(key, n)| (name(key), *n));
            for (step, (key, n)) in went.chain(came).enumerate() {
                list.apply(&Counts::from([(key.clone(), n)]));
                add(&mut all, &key, n);
                if step == afresh {
                    list = TopList::of(&all);
                }
            }
            if let Some(top) = list.top(20, &Counts::new(), None) {
                prop_assert_eq!(top, top_of(&all, 20));
            }
        }

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
                let top = list.top(n, &change, None);
                prop_assert_eq!(&Ranking::of(list.clone()).top(n, &change, None), &top);
                if let Some(top) = top {
                    prop_assert_eq!(top, top_of(&corrected, n));
                }
                if let Some(top) = Ranking::of(TopList::of(&all)).top(n, &change, Some(&all)) {
                    prop_assert_eq!(top, top_of(&corrected, n));
                }
                list.apply(&change);
                all = corrected;
                if let Some(top) = list.top(n, &Counts::new(), None) {
                    prop_assert_eq!(top, top_of(&all, n));
                }
                if list.is_worn() {
                    list = TopList::of(&all);
                }
            }
        }
    }
}
