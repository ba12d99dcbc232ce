//! Moments, as PostgreSQL counts them: microseconds since 2000-01-01 00:00 UTC.

use pgrx::prelude::*;
use time::format_description::FormatItem;
use time::macros::{datetime, format_description};
use time::{Duration, OffsetDateTime};

/// Microseconds since 2000-01-01 00:00 UTC.
pub type Timestamp = i64;

/// One hour, in microseconds.
pub const HOUR: i64 = 3_600_000_000;

/// One day, in microseconds.
pub const DAY: i64 = 24 * HOUR;

/// The first moment that a timestamptz can hold: 4714-11-24 00:00 UTC BC.
const FIRST: Timestamp = -211_813_488_000_000_000;

const EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);

const FORMAT: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// `clock_timestamp()` rounded up to a whole millisecond, which is what `generated_at` can show.
pub fn now_in_whole_milliseconds() -> Timestamp {
    round_up_to_millisecond(pgrx::datetime::clock_timestamp().into_inner())
}

fn round_up_to_millisecond(moment: Timestamp) -> Timestamp {
    moment + (-moment).rem_euclid(1000)
}

/// Whether `moment` is neither `infinity` nor `-infinity`.
pub fn is_finite(moment: Timestamp) -> bool {
    moment != i64::MAX && moment != i64::MIN
}

/// `moment` − `length`; before the first moment there is, `-infinity`, so that a window's open end leaves none out.
pub fn before(moment: Timestamp, length: i64) -> Timestamp {
    let earlier = moment.saturating_sub(length);
    if earlier < FIRST { i64::MIN } else { earlier }
}

/// `moment` as an SQL value.
pub fn timestamp(moment: Timestamp) -> TimestampWithTimeZone {
    // Every moment here came from PostgreSQL, or lies between one and the first there is.
    match TimestampWithTimeZone::try_from(moment) {
        Ok(value) => value,
        Err(_) => unreachable!("a moment out of a timestamptz's range"),
    }
}

/// `YYYY-MM-DDTHH:MM:SS.mmmZ`, in UTC; what is finer than a millisecond is cut off.
pub fn iso(moment: Timestamp) -> String {
    EPOCH
        .checked_add(Duration::microseconds(moment))
        .and_then(|moment| moment.format(FORMAT).ok())
        // timestamptz ends before the last year that the library can write.
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_as_the_seed_writes_it() {
        assert_eq!(iso(0), "2000-01-01T00:00:00.000Z");
        assert_eq!(iso(833_623_200_123_999), "2026-06-01T10:00:00.123Z");
        assert_eq!(iso(-1), "1999-12-31T23:59:59.999Z");
        // The ends of timestamptz.
        assert_eq!(iso(9_223_371_331_199_999_999), "+294276-12-31T23:59:59.999Z");
        assert_eq!(iso(FIRST), "-4713-11-24T00:00:00.000Z");
    }

    #[test]
    fn windows_stay_in_range() {
        assert_eq!(before(0, DAY), -DAY);
        assert_eq!(before(FIRST + DAY, DAY), FIRST);
        assert_eq!(before(FIRST + 5, DAY), i64::MIN);
    }

    proptest! {
        #[test]
        fn rounding_up(moment in -1_000_000_000_000_i64..1_000_000_000_000) {
            let rounded = round_up_to_millisecond(moment);
            prop_assert_eq!(rounded % 1000, 0);
            prop_assert!((0..1000).contains(&(rounded - moment)));
        }
    }
}
