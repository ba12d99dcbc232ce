//! Counting rows by the values of a column as they are stored: they become text once for each value, not for each row.
//! Pure.

use super::counts::{CLASSES, Changes, Counts, add};
use foldhash::fast::RandomState;
use std::collections::HashMap;

/// How a column's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As text.
    Text,
    /// As the 16 bytes of a UUID.
    Uuid,
    /// As a whole number, little end first.
    Int,
}

/// How many rows have which value.
#[derive(Clone, Debug)]
pub struct Tally {
    kind: Kind,
    counts: HashMap<Box<[u8]>, i64, RandomState>,
    nulls: i64,
}

impl Tally {
    /// No rows yet.
    pub fn new(kind: Kind) -> Self {
        Self { kind, counts: HashMap::default(), nulls: 0 }
    }

    /// Adds `n` rows with a value, or with none.
    pub fn add(&mut self, value: Option<&[u8]>, n: i64) {
        match value {
            None => self.nulls += n,
            Some(value) => match self.counts.get_mut(value) {
                Some(sum) => *sum += n,
                None => {
                    self.counts.insert(value.into(), n);
                }
            },
        }
    }

    /// Adds what was counted to `counts`, rows without a value under `null`, where that is given.
    pub fn add_to(&self, counts: &mut Counts, null: Option<&str>) {
        for (value, count) in self.counts.iter().filter(|(_, count)| **count != 0) {
            add(counts, &self.text(value), *count);
        }
        if let Some(null) = null.filter(|_| self.nulls != 0) {
            add(counts, null, self.nulls);
        }
    }

    fn text(&self, value: &[u8]) -> String {
        match self.kind {
            Kind::Text => String::from_utf8_lossy(value).into_owned(),
            Kind::Uuid => uuid::Uuid::from_slice(value).unwrap_or_default().to_string(),
            Kind::Int => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(value);
                i64::from_le_bytes(bytes).to_string()
            }
        }
    }
}

/// What is counted of rows that stand between a sealed window and the one asked for.
#[derive(Clone, Debug)]
pub struct Tallies {
    /// By source.
    pub sources: Tally,
    /// By status class.
    pub classes: [i64; CLASSES],
    /// By host.
    pub hosts: Tally,
    /// By device.
    pub devices: Tally,
    /// All.
    pub rows: i64,
}

impl Tallies {
    /// No rows yet, of sources, hosts and devices that are stored so.
    pub fn new([source, host, device]: [Kind; 3]) -> Self {
        Self {
            sources: Tally::new(source),
            classes: [0; CLASSES],
            hosts: Tally::new(host),
            devices: Tally::new(device),
            rows: 0,
        }
    }

    /// Adds what was counted to the changes of the last 24 hours.
    pub fn add_to(&self, changes: &mut Changes) {
        changes.day += self.rows;
        self.sources.add_to(&mut changes.sources, Some("unknown"));
        for (sum, count) in changes.classes.iter_mut().zip(self.classes) {
            *sum += count;
        }
        self.hosts.add_to(&mut changes.hosts, None);
        self.devices.add_to(&mut changes.devices, None);
    }
}

/// The class of a status, 1 to 5; 0 for one outside of 100 to 599, and for none.
pub fn class_of(status: Option<i64>) -> usize {
    status.filter(|status| (100..=599).contains(status)).map_or(0, |status| status as usize / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(tally: &Tally, null: Option<&str>) -> Counts {
        let mut counts = Counts::new();
        tally.add_to(&mut counts, null);
        counts
    }

    #[test]
    fn values_read_as_postgresql_writes_them() {
        let mut numbers = Tally::new(Kind::Int);
        numbers.add(Some(&(-7_i64).to_le_bytes()), 2);
        assert_eq!(counted(&numbers, None), Counts::from([("-7".into(), 2)]));
        let mut uuids = Tally::new(Kind::Uuid);
        uuids.add(Some(&[0xAB; 16]), 1);
        assert_eq!(counted(&uuids, None), Counts::from([("abababab-abab-abab-abab-abababababab".into(), 1)]));
    }

    #[test]
    fn rows_without_a_value_fall_together_with_its_name() {
        let mut sources = Tally::new(Kind::Text);
        sources.add(None, 3);
        sources.add(Some(b"unknown"), 1);
        sources.add(Some(b"vpn"), 2);
        sources.add(Some(b"vpn"), -2);
        assert_eq!(counted(&sources, Some("unknown")), Counts::from([("unknown".into(), 4)]));
        assert_eq!(counted(&sources, None), Counts::from([("unknown".into(), 1)]));
    }
}
