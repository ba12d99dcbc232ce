//! How often the devices are counted, and how far the threshold runs ahead of what counts as offline. Pure.

use crate::fleet::clock::{Timestamp, before};

const SECOND: i64 = 1_000_000;

/// The least that lies between two counts.
const SHORTEST_REST: i64 = 15 * SECOND;

/// Longer than this the devices stay locked against DDL for nobody's statistics.
pub const LONGEST_COUNT: i64 = SECOND / 2;

/// A count takes no more than one part in so many of a processor's time.
const SHARE: i64 = 100;

/// Answers as of a moment so much earlier than the count are answered from it too: those of snapshots that were taken
/// a while ago.
const HINDSIGHT: i64 = 10 * SECOND;

/// How long to rest when a count took so long.
pub fn rest(took: i64) -> i64 {
    (took.min(LONGEST_COUNT) * SHARE).max(SHORTEST_REST)
}

/// The threshold for the time until the next count: a device that was last seen before it may come to count as offline
/// in that time. `window` is how long a device counts as online, `tick` how often the sealer looks.
///
/// A device that beats more often than the window less this lead never crosses the threshold, so the lead is as short
/// as the next count allows, and half of the window at most.
pub fn threshold(now: Timestamp, window: i64, took: i64, tick: i64) -> Timestamp {
    let lead = (rest(took) + 2 * tick + HINDSIGHT).min(window / 2);
    before(now, window).saturating_add(lead)
}

/// The moment up to which last signs of life are told apart by a count at `now` only as long gone.
pub fn long_gone(now: Timestamp, window: i64, threshold: Timestamp) -> Timestamp {
    before(before(now, window).min(threshold), HINDSIGHT)
}

/// Whether it is time for another count. A clock that went far back makes it time too.
pub fn is_due(now: Timestamp, due: Timestamp) -> bool {
    now >= due || due - now > 2 * rest(LONGEST_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lead_outlasts_the_rest_and_leaves_beats_alone() {
        let (now, window, tick) = (1000 * SECOND, 300 * SECOND, 5 * SECOND);
        for took in [0, SECOND / 10, SECOND / 5, LONGEST_COUNT, 60 * SECOND] {
            let threshold = threshold(now, window, took, tick);
            // What counts as offline when the next count is at hand is still told apart.
            assert!(now + rest(took) + 2 * tick - window <= threshold);
            // A device that beats every two minutes stays fresh.
            assert!(threshold <= now - 120 * SECOND);
            assert!(long_gone(now, window, threshold) < now - window);
        }
    }

    #[test]
    fn a_short_window_is_halved() {
        assert_eq!(threshold(1000 * SECOND, 10 * SECOND, 0, 5 * SECOND), 995 * SECOND);
        assert_eq!(threshold(1000 * SECOND, 0, 0, 5 * SECOND), 1000 * SECOND);
    }

    #[test]
    fn due_when_the_time_has_come_or_the_clock_has_gone() {
        assert!(is_due(10, 10));
        assert!(!is_due(10, 11));
        assert!(is_due(0, 1000 * SECOND));
    }
}
