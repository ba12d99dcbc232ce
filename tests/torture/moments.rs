//! Moments where things are decided: now, the threshold, the boundary, the ends of the sealed windows, a microsecond
//! beside each, and the ends of time.

use super::chance::Chance;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// What the schedule last knew, in microseconds since 2000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    pub now: i64,
    pub boundary: Option<i64>,
    pub threshold: Option<i64>,
}

fn at(moment: i64) -> String {
    format!("test.at({moment})")
}

/// An entry time, as an SQL expression.
pub fn entry_time(chance: &mut Chance, known: Known) -> String {
    let boundary = known.boundary.unwrap_or(known.now);
    let threshold = known.threshold.unwrap_or(known.now);
    let beside = chance.between(-1, 2);
    match chance.below(22) {
        0..=3 => "default".into(),
        4 | 5 => "clock_timestamp()".into(),
        6 => at(boundary + beside),
        7 => at(threshold + beside),
        8 => at(boundary - DAY + beside),
        9 => at(boundary - HOUR + beside),
        10 => at(threshold - DAY + beside),
        11 => at(threshold - HOUR + beside),
        12 => at(known.now - chance.between(0, 2 * SECOND)),
        13 => at(known.now - chance.between(0, 2 * HOUR)),
        14 => at(known.now - chance.between(0, 26 * HOUR)),
        15 => at(known.now - DAY + chance.between(0, 20 * SECOND)),
        16 => at(known.now - HOUR + chance.between(0, 20 * SECOND)),
        17 => at(known.now + chance.between(0, 3 * SECOND)),
        18 => at(known.now + chance.between(0, 2 * DAY)),
        19 => at(known.now - chance.between(DAY, 9000 * DAY)),
        20 => "'-infinity'".into(),
        _ => "'infinity'".into(),
    }
}

/// Some moments to ask for, as an SQL array.
pub fn asked_for(chance: &mut Chance, known: Known, count: usize) -> String {
    let boundary = known.boundary.unwrap_or(known.now);
    let threshold = known.threshold.unwrap_or(known.now);
    let mut moments = vec!["date_trunc('milliseconds', clock_timestamp())".to_owned()];
    for _ in 1..count {
        let beside = chance.between(-1, 2);
        moments.push(match chance.below(12) {
            0 | 1 => at(boundary + beside),
            2 => at(threshold + beside),
            3 => at(boundary + HOUR + beside),
            4 => at(boundary - HOUR + beside),
            5 => at(boundary - chance.between(0, HOUR)),
            6 => at(boundary + chance.between(0, HOUR)),
            7 => at(boundary - DAY + beside),
            8 => at(known.now + chance.between(-DAY, DAY)),
            _ => at(known.now + chance.between(-20 * SECOND, 20 * SECOND)),
        });
    }
    format!("array[{}]::timestamptz[]", moments.join(", "))
}
