//! Which rows stand between two windows. Pure.
//!
//! Moments are whole microseconds, so every interval can be written closed below and open above: an answer's window
//! (as_of − w, as_of] is [as_of − w + 1, as_of + 1).

use crate::fleet::clock::Timestamp;

/// An interval of entry time, closed below and open above. Empty where `from` is not before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The first moment in it.
    pub from: Timestamp,
    /// The first moment after it.
    pub to: Timestamp,
}

impl Interval {
    /// The window of length `width` that an answer as of `as_of` shows.
    pub fn answer(as_of: Timestamp, width: i64) -> Self {
        Self { from: as_of - width + 1, to: as_of + 1 }
    }

    /// The window of length `width` that is kept sealed for `goal`, as far as it is counted: up to `boundary`.
    pub fn sealed(goal: Timestamp, boundary: Timestamp, width: i64) -> Self {
        // Before the first seal both are the beginning of time.
        Self { from: goal.saturating_sub(width), to: boundary }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }

    /// Whether `moment` is in it.
    pub fn contains(&self, moment: Timestamp) -> bool {
        self.from <= moment && moment < self.to
    }
}

/// Rows to add to a count, or to take off it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Which rows.
    pub rows: Interval,
    /// +1 to add them, −1 to take them off.
    pub weight: i64,
}

impl Correction {
    /// Whether it takes off rows because the window `wanted` begins behind them.
    pub fn is_left_by(&self, wanted: Interval) -> bool {
        self.weight < 0 && self.rows.to == wanted.from
    }
}

/// What turns a count of the rows in `counted` into one of those in `wanted`: at most two intervals, none empty.
pub fn corrections(counted: Interval, wanted: Interval) -> Vec<Correction> {
    let add = |from, to| Correction { rows: Interval { from, to }, weight: 1 };
    let take_off = |from, to| Correction { rows: Interval { from, to }, weight: -1 };
    let all = if counted.is_empty()
        || wanted.is_empty()
        || counted.to <= wanted.from
        || wanted.to <= counted.from
    {
        vec![take_off(counted.from, counted.to), add(wanted.from, wanted.to)]
    } else {
        vec![
            if wanted.from < counted.from {
                add(wanted.from, counted.from)
            } else {
                take_off(counted.from, wanted.from)
            },
            if wanted.to > counted.to { add(counted.to, wanted.to) } else { take_off(wanted.to, counted.to) },
        ]
    };
    all.into_iter().filter(|correction| !correction.rows.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3600 * SECOND;

    #[test]
    fn seven_seconds_after_the_seal() {
        // Sealed is [09:00:00, 10:00:00), wanted (09:00:07, 10:00:07].
        let (ten, seven) = (10 * HOUR, 7 * SECOND);
        let found = corrections(Interval::sealed(ten, ten, HOUR), Interval::answer(ten + seven, HOUR));
        let taken_off =
            Correction { rows: Interval { from: 9 * HOUR, to: 9 * HOUR + seven + 1 }, weight: -1 };
        let added = Correction { rows: Interval { from: ten, to: ten + seven + 1 }, weight: 1 };
        assert_eq!(found, [taken_off, added]);
        assert!(taken_off.rows.contains(9 * HOUR + seven));
        assert!(added.rows.contains(ten));
    }

    #[test]
    fn nothing_is_sealed_before_time_begins() {
        assert!(Interval::sealed(i64::MIN, i64::MIN, HOUR).is_empty());
        assert!(Interval::sealed(10 * HOUR, i64::MIN, HOUR).is_empty());
    }

    fn interval() -> impl Strategy<Value = Interval> {
        (-50_i64..50, -50_i64..50).prop_map(|(from, to)| Interval { from, to })
    }

    proptest! {
        #[test]
        fn every_moment_ends_up_counted_as_wanted(counted in interval(), wanted in interval()) {
            let found = corrections(counted, wanted);
            prop_assert!(found.len() <= 2);
            for moment in -60..60 {
                let weight: i64 =
                    found.iter().filter(|one| one.rows.contains(moment)).map(|one| one.weight).sum();
                prop_assert_eq!(i64::from(counted.contains(moment)) + weight, i64::from(wanted.contains(moment)));
            }
        }
    }
}
