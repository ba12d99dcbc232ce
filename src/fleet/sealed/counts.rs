//! Counts by key, and what changes them. Pure.

use std::collections::HashMap;

/// Occurrences by key. A key that occurs not at all may be missing or stand at 0.
pub type Counts = HashMap<String, i64>;

/// Adds `count` occurrences of `key`.
pub fn add(counts: &mut Counts, key: &str, count: i64) {
    match counts.get_mut(key) {
        Some(sum) => *sum += count,
        None => {
            counts.insert(key.to_owned(), count);
        }
    }
}

/// How many status classes there are, with 0 for those that do not show.
pub const CLASSES: usize = 6;

/// What changes between two states of the sealed window, or between one and an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows.
    pub total: i64,
    /// Rows in the last 24 hours.
    pub day: i64,
    /// Rows in the last hour.
    pub hour: i64,
    /// Of the last 24 hours, by source.
    pub sources: Counts,
    /// Of the last 24 hours, by status class.
    pub classes: [i64; CLASSES],
    /// Of the last 24 hours, by host.
    pub hosts: Counts,
    /// Of the last 24 hours, by device.
    pub devices: Counts,
}

impl Changes {
    /// Adds other changes.
    pub fn merge(&mut self, other: &Changes) {
        self.total += other.total;
        self.day += other.day;
        self.hour += other.hour;
        for (sum, change) in self.classes.iter_mut().zip(other.classes) {
            *sum += change;
        }
        for (to, from) in [
            (&mut self.sources, &other.sources),
            (&mut self.hosts, &other.hosts),
            (&mut self.devices, &other.devices),
        ] {
            for (key, count) in from {
                add(to, key, *count);
            }
        }
    }

    /// Counts `n` occurrences of a status class.
    pub fn count_class(&mut self, class: i64, n: i64) {
        if let Some(sum) = usize::try_from(class).ok().and_then(|class| self.classes.get_mut(class)) {
            *sum += n;
        }
    }
}

/// Every key of hosts and devices with its count: what the top lists are cut from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// By host.
    pub hosts: Counts,
    /// By device.
    pub devices: Counts,
}

impl KeyCounts {
    /// Adds the counts of a later difference.
    pub fn apply(&mut self, difference: &KeyCounts) {
        for (to, from) in [(&mut self.hosts, &difference.hosts), (&mut self.devices, &difference.devices)] {
            for (key, count) in from {
                add(to, key, *count);
            }
            to.retain(|_, count| *count != 0);
        }
    }
}
