//! How many devices went silent when, in portions of which an answer reads one. Pure.

use crate::fleet::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Moments in a portion.
const PORTION: usize = 1000;

/// Devices by their last sign of life, from one moment on up to the next portion's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Its first moment.
    pub from: Timestamp,
    /// Devices that were last seen before.
    pub before: i64,
    /// Moments and how many devices were last seen then, ascending.
    pub moments: Moments,
}

/// Distance from the moment before, or from the portion's first one, and a number of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moments(Vec<(i64, i64)>);

impl Portion {
    /// Devices that were last seen at `moment` or before, which lies in this portion.
    pub fn until(&self, moment: Timestamp) -> i64 {
        let mut at = self.from;
        let mut devices = self.before;
        for (distance, count) in &self.moments.0 {
            at += distance;
            if at > moment {
                break;
            }
            devices += count;
        }
        devices
    }
}

/// Cuts what was counted into portions: `long_gone` devices were last seen at `since` or before, the others at
/// `moments`, all later, ascending.
pub fn portions(since: Timestamp, long_gone: i64, moments: &[(Timestamp, i64)]) -> Vec<Portion> {
    let mut before = long_gone;
    let mut portions = Vec::new();
    for part in moments.chunks(PORTION) {
        let from = if portions.is_empty() { since } else { part[0].0 };
        let mut at = from;
        let mut distances = Vec::with_capacity(part.len());
        for (moment, count) in part {
            distances.push((moment - at, *count));
            at = *moment;
        }
        portions.push(Portion { from, before, moments: Moments(distances) });
        before += part.iter().map(|(_, count)| count).sum::<i64>();
    }
    if portions.is_empty() {
        portions.push(Portion { from: since, before, moments: Moments::default() });
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nobody_went_silent_lately() {
        let portions = portions(100, 7, &[]);
        assert_eq!(portions.len(), 1);
        assert_eq!((portions[0].until(100), portions[0].until(500)), (7, 7));
    }

    proptest! {
        #[test]
        fn every_moment_is_told_apart(
            gaps in proptest::collection::vec((1..5_i64, 1..4_i64), 0..3000),
            long_gone in 0..10_i64,
        ) {
            let since = -20;
            let mut at = since;
            let moments: Vec<_> = gaps.iter().map(|(gap, count)| { at += gap; (at, *count) }).collect();
            let portions = portions(since, long_gone, &moments);
            let mut expected = long_gone;
            let mut next = moments.iter().peekable();
            for moment in since..=at + 2 {
                if next.peek().is_some_and(|(one, _)| *one == moment) {
                    expected += next.next().map_or(0, |(_, count)| *count);
                }
                let portion = portions.iter().rev().find(|portion| portion.from <= moment);
                prop_assert_eq!(portion.map(|portion| portion.until(moment)), Some(expected));
            }
        }
    }
}
