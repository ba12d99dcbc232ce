//! When each job of each database has its next turn. Pure: moments in, decisions out.

use super::job::{ASIDE, JOBS, Job};
use super::outcome::Outcome;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a database without the extension is looked at. CREATE EXTENSION announces itself; this is for what came
/// another way.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long a worker runs before it is ended for another database that waits for its slot.
const SLICE: Duration = Duration::from_secs(10);

/// What that time is multiplied by for each time that the job was ended.
const PATIENCE: u32 = 4;

/// Being ended more often than this makes no difference.
const MOST_OFTEN: u8 = 6;

/// The longest rest of a job whose time was over, unless its interval is longer.
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);

/// A database that has waited for a worker for longer than this is late: a sealer then ends by itself after its step.
const LATE: Duration = Duration::from_secs(2);

/// For one that has waited for longer than this, a worker is ended that has had its time.
const TOO_LATE: Duration = Duration::from_secs(5);

/// The first wait when no worker slot is free; it doubles up to [`LOOK_AGAIN`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// A database, by OID.
pub type DatabaseId = u32;

/// How often each job runs; `None` for never.
pub type Intervals = [Option<Duration>; JOBS.len()];

/// Why the launcher has ended a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A statement waits for what it holds, or for its database.
    InTheWay,
    /// Its time was over, and it went on.
    OutOfTime,
    /// Other databases waited for its slot.
    OthersTurn,
}

/// What a worker has to know of how its job has fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brief {
    /// How often in a row the job was ended before it had done.
    pub ended: u8,
    /// What is to be said of it, and nothing else done.
    pub tell: Option<Cause>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    due: Instant,
    last_start: Instant,
    running: bool,
    again: bool,
    brief: Brief,
    /// Where something is to be told: when the job itself goes on.
    resume: Option<Instant>,
    /// It has been ended, but does not end.
    stuck: bool,
}

impl Turn {
    fn first(due: Instant, now: Instant) -> Self {
        Self {
            due,
            last_start: now,
            running: false,
            again: false,
            brief: Brief::default(),
            resume: None,
            stuck: false,
        }
    }

    /// Whether it may take long, as far as is known: such jobs leave a slot to the others.
    fn is_slow(&self, job: Job) -> bool {
        self.brief.tell.is_none() && (self.brief.ended > 0 || job.has_time())
    }

    /// It was ended before it had done: gives when it goes on. It rests for as long as it has run, and for twice as long
    /// each time more, so that a job which comes to no end takes ever less of a server.
    fn was_ended(&mut self, job: Job, ran: Duration, interval: Duration, now: Instant) -> Instant {
        self.brief.ended = (self.brief.ended + 1).min(MOST_OFTEN);
        let rest = ran * (1 << (self.brief.ended - 1));
        now + if job.has_time() {
            rest.max(job.again_after(interval))
        } else {
            rest.min(LONGEST_REST).max(interval)
        }
    }

    /// Whether it has had its time, where others wait for its slot.
    fn overstays(&self, job: Job, now: Instant) -> bool {
        let times = self.brief.ended.max(self.is_slow(job).into()).min(MOST_OFTEN);
        now.saturating_duration_since(self.last_start) > SLICE * PATIENCE.pow(times.into())
    }
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

    /// How many slots it has.
    fn held(&self) -> usize {
        self.turns.iter().filter(|turn| turn.running).count()
    }

    fn is_stuck(&self) -> bool {
        self.turns.iter().any(|turn| turn.stuck)
    }
}

/// The turns of all databases.
#[derive(Debug)]
pub struct Schedule {
    databases: BTreeMap<DatabaseId, Database>,
    intervals: Intervals,
    slots: usize,
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
            slots: usize::MAX,
            most_waiting: usize::MAX,
            backoff: FIRST_BACKOFF,
            not_before: None,
        }
    }

    /// So many workers may run at once.
    pub fn slots_are(&mut self, slots: usize) {
        self.slots = slots.max(1);
    }

    /// So many workers at most may be at a job that waits for others, so that the rest always find a place.
    pub fn most_waiting_is(&mut self, most: usize) {
        self.most_waiting = most;
    }

    /// These are the databases that there are: new ones are due at once, and those that are gone are forgotten.
    pub fn databases_are(&mut self, present: &[DatabaseId], now: Instant) {
        self.databases.retain(|id, database| database.is_running() || present.contains(id));
        let turns = self.first_turns(now).map(|due| Turn::first(due, now));
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
                if let Some(interval) = interval
                    && turn.brief.ended == 0
                {
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
        self.databases.iter().filter(|(_, database)| !database.is_stuck()).flat_map(move |(id, database)| {
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

    fn running(&self) -> impl Iterator<Item = (DatabaseId, Job, &Turn)> {
        self.databases.iter().flat_map(|(id, database)| {
            let turns = database.turns.iter().zip(JOBS);
            turns.filter(|(turn, _)| turn.running && !turn.stuck).map(|(turn, job)| (*id, job, turn))
        })
    }

    fn is_full(&self) -> bool {
        self.running().count() >= self.slots
    }

    /// Whether as many slow jobs run as may: where there is more than one slot, one is for the others.
    fn is_full_of_slow_ones(&self) -> bool {
        let slow = self.running().filter(|(_, job, turn)| turn.is_slow(*job)).count();
        slow >= self.slots.saturating_sub(1).max(1)
    }

    fn is_slow(&self, id: DatabaseId, job: Job) -> bool {
        self.databases.get(&id).is_some_and(|database| database.turns[job.index()].is_slow(job))
    }

    /// What is due, and could run if there were room for it.
    fn due(&self, now: Instant) -> impl Iterator<Item = (Instant, DatabaseId, Job)> {
        self.turns().filter(move |(due, ..)| *due <= now)
    }

    /// What could run now or once its time has come, were a slot free.
    fn startable(&self) -> impl Iterator<Item = (Instant, DatabaseId, Job)> {
        let no_room = self.is_full_of_slow_ones();
        self.turns().filter(move |(_, id, job)| !(no_room && self.is_slow(*id, *job)))
    }

    fn held(&self, id: DatabaseId) -> usize {
        self.databases.get(&id).map_or(0, Database::held)
    }

    /// The job whose turn it is: of those that are due, one of the database that has the fewest slots, and of these the
    /// one that has waited longest.
    pub fn next(&self, now: Instant) -> Option<(DatabaseId, Job)> {
        if self.not_before.is_some_and(|moment| now < moment) || self.is_full() {
            return None;
        }
        let due = self.startable().filter(|(due, ..)| *due <= now);
        let first = due.min_by_key(|(due, id, _)| (self.held(*id), *due))?;
        Some((first.1, first.2))
    }

    /// The worker that is to be ended so that another database has its turn: one that has had its time, and the one of
    /// these that has run longest.
    pub fn overstayer(&self, now: Instant) -> Option<(DatabaseId, Job)> {
        let (full, no_room) = (self.is_full(), self.is_full_of_slow_ones());
        let alone = self.slots == 1;
        let mut waiting = self.due(now).filter(|(due, ..)| *due + TOO_LATE < now);
        waiting.find_map(|(_, id, job)| {
            let waits_for_slow = self.is_slow(id, job) && no_room;
            let in_the_way = |slow: bool| if waits_for_slow { slow } else { full && (alone || !slow) };
            self.running()
                .filter(|(other, at, turn)| *other != id && in_the_way(turn.is_slow(*at)))
                .filter(|(_, at, turn)| turn.overstays(*at, now))
                .min_by_key(|(.., turn)| turn.last_start)
                .map(|(other, at, _)| (other, at))
        })
    }

    /// Databases that wait for a worker although their turn has come, and since when: those that have waited longest first.
    pub fn late(&self, now: Instant) -> Vec<(DatabaseId, Instant)> {
        let mut since = BTreeMap::new();
        for (due, id, _) in self.due(now).filter(|(due, ..)| *due + LATE < now) {
            since.entry(id).and_modify(|known: &mut Instant| *known = due.min(*known)).or_insert(due);
        }
        let mut late: Vec<_> = since.into_iter().collect();
        late.sort_by_key(|(_, since)| *since);
        late
    }

    /// What a worker that is started now has to know.
    pub fn brief(&self, id: DatabaseId, job: Job) -> Brief {
        self.databases.get(&id).map_or_else(Brief::default, |database| database.turns[job.index()].brief)
    }

    /// A worker was ended and does not end: its slot is given to another, and its database gets no further one.
    pub fn does_not_end(&mut self, id: DatabaseId, job: Job) {
        if let Some(turn) = self.turn(id, job) {
            turn.stuck = true;
        }
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

    /// A worker has ended, by itself or as the launcher made it. Gives whether it is news that versions differ.
    pub fn ended(
        &mut self,
        id: DatabaseId,
        job: Job,
        outcome: Outcome,
        cause: Option<Cause>,
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
            Outcome::Done | Outcome::SteppedAside | Outcome::VersionDiffers | Outcome::OutOfTime => true,
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
        turn.stuck = false;
        let ran = now.saturating_duration_since(turn.last_start);
        // Not before a second has passed, however long the tick took.
        let regular = (turn.last_start + interval).max(now + ASIDE.min(interval));
        let again = std::mem::take(&mut turn.again);
        let tell = turn.brief.tell.take();
        turn.due = match (outcome, cause) {
            (Outcome::Absent, _) => now + LOOK_AGAIN,
            (Outcome::SteppedAside, _) | (Outcome::Died, Some(Cause::InTheWay)) => {
                turn.brief.tell = tell;
                now + job.again_after(interval)
            }
            _ if tell.is_some() => turn.resume.take().unwrap_or(regular),
            (Outcome::OutOfTime, _) => turn.was_ended(job, ran, interval, now),
            (Outcome::Died, Some(cause)) => {
                let resume = turn.was_ended(job, ran, interval, now);
                // That other databases have had their turn once is no news.
                let is_news = cause == Cause::OutOfTime || turn.brief.ended > 1;
                turn.resume = is_news.then_some(resume);
                turn.brief.tell = is_news.then_some(cause);
                if is_news { now } else { resume }
            }
            (Outcome::Done | Outcome::VersionDiffers | Outcome::Died, _) => {
                if ran <= SLICE {
                    turn.brief.ended = 0;
                }
                if again { now } else { regular }
            }
        };
        if outcome == Outcome::Absent {
            (turn.brief, turn.resume) = (Brief::default(), None);
            if again {
                turn.due = now;
            }
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
        let due = self.startable().map(|(due, ..)| due).min()?;
        Some(self.not_before.map_or(due, |moment| due.max(moment)))
    }
}

#[cfg(test)]
mod tests;
