//! When each job of each database has its next turn. Pure: moments in, decisions out.

use super::job::{ASIDE, JOBS, Job};
use super::outcome::Outcome;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a database without the extension is looked at. CREATE EXTENSION announces itself; this is for what came
/// another way.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The first wait when no worker slot is free; it doubles up to [`LOOK_AGAIN`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// A database, by OID.
pub type DatabaseId = u32;

/// How often each job runs; `None` for never.
pub type Intervals = [Option<Duration>; JOBS.len()];

#[derive(Clone, Copy, Debug)]
struct Turn {
    due: Instant,
    last_start: Instant,
    running: bool,
    again: bool,
}

#[derive(Debug)]
struct Database {
    turns: [Turn; JOBS.len()],
    /// Until a worker has said so, a database is taken to be without the extension: one job at a time looks at it.
    installed: bool,
    version_differs: bool,
}

impl Database {
    fn is_running(&self) -> bool {
        self.turns.iter().any(|turn| turn.running)
    }
}

/// The turns of all databases.
#[derive(Debug)]
pub struct Schedule {
    databases: BTreeMap<DatabaseId, Database>,
    intervals: Intervals,
    most_waiting: usize,
    backoff: Duration,
    not_before: Option<Instant>,
}

impl Schedule {
    /// A schedule of no database.
    pub fn new(intervals: Intervals) -> Self {
        Self {
            databases: BTreeMap::new(),
            intervals,
            most_waiting: usize::MAX,
            backoff: FIRST_BACKOFF,
            not_before: None,
        }
    }

    /// So many workers at most may be at a job that waits for others, so that the rest always find a place.
    pub fn most_waiting_is(&mut self, most: usize) {
        self.most_waiting = most;
    }

    /// These are the databases that there are: new ones are due at once, and those that are gone are forgotten.
    pub fn databases_are(&mut self, present: &[DatabaseId], now: Instant) {
        self.databases.retain(|id, database| database.is_running() || present.contains(id));
        let turns =
            self.first_turns(now).map(|due| Turn { due, last_start: now, running: false, again: false });
        for id in present {
            self.databases.entry(*id).or_insert(Database { turns, installed: false, version_differs: false });
        }
    }

    /// When each job of a database that was found `now` has its first turn.
    fn first_turns(&self, now: Instant) -> [Instant; JOBS.len()] {
        JOBS.map(|job| now + job.first_after(self.intervals[job.index()].unwrap_or_default()))
    }

    /// A database, or with `None` every one, may have changed: it is due at once, or after its running tick.
    pub fn announced(&mut self, id: Option<DatabaseId>, now: Instant) {
        for (_, database) in self.databases.iter_mut().filter(|(known, _)| id.is_none_or(|id| id == **known))
        {
            for (turn, _) in database.turns.iter_mut().zip(JOBS).filter(|(_, job)| !job.has_time()) {
                turn.due = now;
                turn.again = turn.running;
            }
        }
    }

    /// The intervals may have changed: nobody waits longer than the new ones.
    pub fn intervals_are(&mut self, intervals: Intervals) {
        if self.intervals == intervals {
            return;
        }
        self.intervals = intervals;
        for database in self.databases.values_mut().filter(|database| database.installed) {
            for (turn, interval) in database.turns.iter_mut().zip(intervals) {
                if let Some(interval) = interval {
                    turn.due = turn.due.min(turn.last_start + interval);
                }
            }
        }
    }

    /// Whose turn may come at all, and when: every job that is on, or for a database without the extension the first of
    /// them, which looks.
    fn turns(&self) -> impl Iterator<Item = (Instant, DatabaseId, Job)> {
        let full = self.waiting() >= self.most_waiting;
        let taken = self
            .databases
            .values()
            .any(|database| JOBS.iter().any(|job| job.has_time() && database.turns[job.index()].running));
        let on = move |job: &Job| self.intervals[job.index()].is_some();
        self.databases.iter().flat_map(move |(id, database)| {
            let looking = !database.installed;
            let jobs = JOBS.into_iter().filter(on).take(if looking { 1 } else { JOBS.len() });
            jobs.filter(
                move |job| {
                    if looking { !database.is_running() } else { !database.turns[job.index()].running }
                },
            )
            .filter(move |job| !(full && job.waits() || taken && job.has_time()))
            .map(move |job| (database.turns[job.index()].due, *id, job))
        })
    }

    fn waiting(&self) -> usize {
        let at_it = |database: &Database, job: &Job| job.waits() && database.turns[job.index()].running;
        self.databases.values().map(|database| JOBS.iter().filter(|job| at_it(database, job)).count()).sum()
    }

    /// The job whose turn it is: of those that are due, the one that has waited longest.
    pub fn next(&self, now: Instant) -> Option<(DatabaseId, Job)> {
        if self.not_before.is_some_and(|moment| now < moment) {
            return None;
        }
        let due = self.turns().filter(|(due, ..)| *due <= now).min_by_key(|(due, ..)| *due)?;
        Some((due.1, due.2))
    }

    fn turn(&mut self, id: DatabaseId, job: Job) -> Option<&mut Turn> {
        self.databases.get_mut(&id).map(|database| &mut database.turns[job.index()])
    }

    /// A worker was started.
    pub fn started(&mut self, id: DatabaseId, job: Job, now: Instant) {
        self.backoff = FIRST_BACKOFF;
        self.not_before = None;
        if let Some(turn) = self.turn(id, job) {
            turn.running = true;
            turn.last_start = now;
        }
    }

    /// The database is claimed by DDL: the job is passed over for a moment.
    pub fn claimed(&mut self, id: DatabaseId, job: Job, now: Instant) {
        if let Some(turn) = self.turn(id, job) {
            turn.due = now + ASIDE;
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
        job: Job,
        outcome: Outcome,
        was_terminated: bool,
        now: Instant,
    ) -> bool {
        let interval = self.intervals[job.index()].unwrap_or(LOOK_AGAIN);
        let first = self.first_turns(now);
        let Some(database) = self.databases.get_mut(&id) else {
            return false;
        };
        let was_installed = database.installed;
        database.installed = match outcome {
            Outcome::Absent => false,
            Outcome::Done | Outcome::SteppedAside | Outcome::VersionDiffers => true,
            Outcome::Died => was_installed,
        };
        if database.installed && !was_installed {
            // The other jobs have waited for somebody to look.
            for (turn, due) in database.turns.iter_mut().zip(first) {
                turn.due = due;
            }
        }
        let turn = &mut database.turns[job.index()];
        turn.running = false;
        let next = match outcome {
            Outcome::Absent => now + LOOK_AGAIN,
            Outcome::SteppedAside => now + job.again_after(interval),
            Outcome::Died if was_terminated => now + job.again_after(interval),
            // Not before a second has passed, however long the tick took.
            Outcome::Done | Outcome::VersionDiffers | Outcome::Died => {
                (turn.last_start + interval).max(now + ASIDE.min(interval))
            }
        };
        turn.due = if std::mem::take(&mut turn.again) { now } else { next };
        let differs = outcome == Outcome::VersionDiffers;
        let news = differs && !database.version_differs;
        if matches!(outcome, Outcome::Done | Outcome::Absent | Outcome::VersionDiffers) {
            database.version_differs = differs;
        }
        news
    }

    /// When somebody is due next; `None` when nobody ever is.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.turns().map(|(due, ..)| due).min()?;
        Some(self.not_before.map_or(due, |moment| due.max(moment)))
    }
}

#[cfg(test)]
mod tests;
