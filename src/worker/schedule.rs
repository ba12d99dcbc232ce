//! When each database has its next turn. Pure: moments in, decisions out.

use super::outcome::Outcome;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a database without the extension is looked at. CREATE EXTENSION announces itself; this is for what came
/// another way.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// When to try again after stepping aside.
const ASIDE: Duration = Duration::from_secs(1);

/// The first wait when no worker slot is free; it doubles up to [`LOOK_AGAIN`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// A database, by OID.
pub type DatabaseId = u32;

#[derive(Debug)]
struct Database {
    due: Instant,
    running: bool,
    announced_meanwhile: bool,
    installed: bool,
    last_start: Instant,
    version_differs: bool,
}

/// The turns of all databases.
#[derive(Debug)]
pub struct Schedule {
    databases: BTreeMap<DatabaseId, Database>,
    backoff: Duration,
    not_before: Option<Instant>,
}

impl Schedule {
    /// A schedule of no database.
    pub fn new() -> Self {
        Self { databases: BTreeMap::new(), backoff: FIRST_BACKOFF, not_before: None }
    }

    /// These are the databases that there are: new ones are due at once, and those that are gone are forgotten.
    pub fn databases_are(&mut self, present: &[DatabaseId], now: Instant) {
        self.databases.retain(|id, database| database.running || present.contains(id));
        for id in present {
            self.databases.entry(*id).or_insert(Database {
                due: now,
                running: false,
                announced_meanwhile: false,
                installed: false,
                last_start: now,
                version_differs: false,
            });
        }
    }

    /// A database, or with `None` every one, may have changed: it is due at once, or after its running tick.
    pub fn announced(&mut self, id: Option<DatabaseId>, now: Instant) {
        for (_, database) in self.databases.iter_mut().filter(|(known, _)| id.is_none_or(|id| id == **known))
        {
            database.due = now;
            database.announced_meanwhile = database.running;
        }
    }

    /// The interval has changed: nobody waits longer than the new one.
    pub fn interval_is(&mut self, interval: Duration) {
        for database in self.databases.values_mut().filter(|database| database.installed) {
            database.due = database.due.min(database.last_start + interval);
        }
    }

    /// The database whose turn it is: of those that are due, the one that has waited longest.
    pub fn next(&self, now: Instant) -> Option<DatabaseId> {
        if self.not_before.is_some_and(|moment| now < moment) {
            return None;
        }
        let due = self.databases.iter().filter(|(_, database)| !database.running && database.due <= now);
        due.min_by_key(|(_, database)| database.due).map(|(id, _)| *id)
    }

    /// A worker was started.
    pub fn started(&mut self, id: DatabaseId, now: Instant) {
        self.backoff = FIRST_BACKOFF;
        self.not_before = None;
        if let Some(database) = self.databases.get_mut(&id) {
            database.running = true;
            database.last_start = now;
        }
    }

    /// The database is claimed by DDL: it is passed over for a moment.
    pub fn claimed(&mut self, id: DatabaseId, now: Instant) {
        if let Some(database) = self.databases.get_mut(&id) {
            database.due = now + ASIDE;
        }
    }

    /// No worker slot was free: nobody gets a turn for a while.
    pub fn no_slot(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(LOOK_AGAIN);
    }

    /// A worker has ended. Gives whether it is news that versions differ.
    pub fn ended(
        &mut self,
        id: DatabaseId,
        outcome: Outcome,
        was_terminated: bool,
        interval: Duration,
        now: Instant,
    ) -> bool {
        let Some(database) = self.databases.get_mut(&id) else {
            return false;
        };
        database.running = false;
        database.installed = match outcome {
            Outcome::Absent => false,
            Outcome::Done | Outcome::SteppedAside | Outcome::VersionDiffers => true,
            Outcome::Died => database.installed,
        };
        let next = match outcome {
            Outcome::Absent => now + LOOK_AGAIN,
            Outcome::SteppedAside => now + ASIDE,
            Outcome::Died if was_terminated => now + ASIDE,
            // Not before a second has passed, however long the tick took.
            Outcome::Done | Outcome::VersionDiffers | Outcome::Died => {
                (database.last_start + interval).max(now + ASIDE.min(interval))
            }
        };
        if std::mem::take(&mut database.announced_meanwhile) {
            database.due = now;
        } else {
            database.due = next;
        }
        let differs = outcome == Outcome::VersionDiffers;
        let news = differs && !database.version_differs;
        if matches!(outcome, Outcome::Done | Outcome::Absent | Outcome::VersionDiffers) {
            database.version_differs = differs;
        }
        news
    }

    /// When somebody is due next; `None` when nobody ever is.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self
            .databases
            .values()
            .filter(|database| !database.running)
            .map(|database| database.due)
            .min()?;
        Some(self.not_before.map_or(due, |moment| due.max(moment)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Runs what is due at `now` to its end, and gives whose turn it was.
    fn tick(schedule: &mut Schedule, outcome: Outcome, now: Instant) -> Option<DatabaseId> {
        let id = schedule.next(now)?;
        schedule.started(id, now);
        schedule.ended(id, outcome, false, MINUTE, now);
        Some(id)
    }

    #[test]
    fn a_new_database_is_due_at_once_and_then_every_interval() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        schedule.databases_are(&[5], start);
        assert_eq!(tick(&mut schedule, Outcome::Done, start), Some(5));
        assert_eq!(tick(&mut schedule, Outcome::Done, start + seconds(59)), None);
        assert_eq!(schedule.next_due(), Some(start + MINUTE));
        assert_eq!(tick(&mut schedule, Outcome::Done, start + MINUTE), Some(5));
    }

    #[test]
    fn who_waited_longest_comes_first() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        schedule.databases_are(&[9], start);
        schedule.databases_are(&[9, 1], start + seconds(1));
        let now = start + seconds(2);
        assert_eq!(tick(&mut schedule, Outcome::Done, now), Some(9));
        assert_eq!(tick(&mut schedule, Outcome::Done, now), Some(1));
        assert_eq!(tick(&mut schedule, Outcome::Done, now), None);
    }

    #[test]
    fn a_running_database_has_no_second_worker() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        schedule.databases_are(&[5], start);
        schedule.started(5, start);
        schedule.announced(Some(5), start);
        assert_eq!(schedule.next(start + MINUTE), None);
        // It is not forgotten while it runs, and what was announced meanwhile is looked at right after.
        schedule.databases_are(&[], start);
        schedule.ended(5, Outcome::Absent, false, MINUTE, start + seconds(1));
        assert_eq!(schedule.next(start + seconds(1)), Some(5));
        schedule.databases_are(&[], start + seconds(2));
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn no_slot_backs_off_up_to_a_minute_and_forgives() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        schedule.databases_are(&[5], start);
        let mut now = start;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(schedule.next(now), Some(5));
            schedule.no_slot(now);
            assert_eq!(schedule.next_due(), Some(now + seconds(wait)));
            now += seconds(wait);
        }
        assert_eq!(tick(&mut schedule, Outcome::Done, now), Some(5));
        schedule.no_slot(now);
        assert_eq!(schedule.next_due(), Some(now + MINUTE));
        assert_eq!(schedule.next(now + MINUTE), Some(5));
    }

    #[test]
    fn without_the_extension_a_look_a_minute_until_announced() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        schedule.databases_are(&[5, 6], start);
        assert!(tick(&mut schedule, Outcome::Absent, start).is_some());
        assert!(tick(&mut schedule, Outcome::Absent, start).is_some());
        assert_eq!(schedule.next(start + seconds(59)), None);
        schedule.interval_is(seconds(1));
        assert_eq!(schedule.next(start + seconds(59)), None);
        schedule.announced(Some(6), start + seconds(2));
        assert_eq!(schedule.next(start + seconds(2)), Some(6));
        schedule.announced(None, start + seconds(3));
        assert_eq!(tick(&mut schedule, Outcome::Done, start + seconds(3)), Some(6));
        assert_eq!(tick(&mut schedule, Outcome::Done, start + seconds(3)), Some(5));
    }

    #[test]
    fn a_shorter_interval_counts_at_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        schedule.databases_are(&[5], start);
        tick(&mut schedule, Outcome::Done, start);
        schedule.interval_is(seconds(2));
        assert_eq!(schedule.next_due(), Some(start + seconds(2)));
    }

    #[test]
    fn stepping_aside_costs_a_second_and_dying_a_tick() {
        let start = Instant::now();
        for (outcome, was_terminated, wait) in [
            (Outcome::SteppedAside, false, seconds(1)),
            (Outcome::Died, true, seconds(1)),
            (Outcome::Died, false, MINUTE),
        ] {
            let mut schedule = Schedule::new();
            schedule.databases_are(&[5], start);
            schedule.started(5, start);
            schedule.ended(5, outcome, was_terminated, MINUTE, start);
            assert_eq!(schedule.next_due(), Some(start + wait), "{outcome:?}");
        }
    }

    #[test]
    fn versions_that_differ_are_news_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        schedule.databases_are(&[5], start);
        let mut news = |outcome| {
            schedule.started(5, start);
            schedule.ended(5, outcome, false, MINUTE, start)
        };
        assert!(news(Outcome::VersionDiffers));
        assert!(!news(Outcome::VersionDiffers));
        assert!(!news(Outcome::Done));
        assert!(news(Outcome::VersionDiffers));
    }
}
