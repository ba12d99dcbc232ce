//! Moments where things are decided: now, the threshold, the boundary, the ends of the sealed windows, a microsecond
//! beside each, and the ends of time.

use super::chance::Chance;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// What the schedule last knew, in microseconds since 2000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// By the clock as it was set.
    pub now: i64,
    /// By how many milliseconds it was set ahead, or back.
    pub clock_step: i32,
    pub boundary: Option<i64>,
    pub threshold: Option<i64>,
}

fn at(moment: i64) -> String {
    format!("test.at({moment})")
}

/// What the clock shows when the statement runs.
pub fn clock(known: Known) -> String {
    format!("(clock_timestamp() + interval '{} ms')", known.clock_step)
}

/// An entry time, as an SQL expression.
pub fn entry_time(chance: &mut Chance, known: Known) -> String {
    let boundary = known.boundary.unwrap_or(known.now);
    let threshold = known.threshold.unwrap_or(known.now);
    let beside = chance.between(-1, 2);
    match chance.below(22) {
        0..=3 => "default".into(),
        4 | 5 => clock(known),
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
    let mut moments = vec![format!("date_trunc('milliseconds', {})", clock(known))];
    for _ in 1..count {
        let beside = chance.between(-1, 2);
        moments.push(match chance.below(12) {
            0 | 1 => at(boundary + beside),
            2 => at(threshold + beside),
            3 => at(boundary + HOUR + beside),
            4 => at(boundary - HOUR + beside),
            5 => at(boundary - chance.between(0, HOUR)),
            6 => at(boundary + chance.between(0, HOUR)),
            7 => at(boundary + chance.pick(&[-DAY, DAY]) + beside),
            8 => at(known.now + chance.between(-DAY, DAY)),
            _ => at(known.now + chance.between(-20 * SECOND, 20 * SECOND)),
        });
    }
    format!("array[{}]::timestamptz[]", moments.join(", "))
}

/// A step of the clock: mostly by seconds, sometimes by most of an hour, seldom by days.
pub fn clock_step(chance: &mut Chance, from: i32) -> i32 {
    const MINUTE: i64 = 60_000;
    let by = match chance.below(20) {
        0..=10 => chance.between(-10_000, 10_000),
        11..=15 => chance.between(-50 * MINUTE, 50 * MINUTE),
        16 => -chance.between(MINUTE, 180 * MINUTE),
        // Beyond some days there is nothing new to see.
        _ if from > 10 * 24 * 60 * MINUTE as i32 => 0,
        _ => chance.between(MINUTE, 2 * 24 * 60 * MINUTE),
    };
    from + by as i32
}
