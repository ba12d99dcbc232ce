//! Moving the seal forward. Each step is a short transaction, and makes no statement of a user wait: what it needs and
//! cannot have at once, it does without until the next tick.
//!
//! `docs/architecture.md` argues why what comes out is exact.

use super::counts::{Changes, KeyCounts};
use super::few::FewRows;
use super::look::{look, look_of, writers_of};
use super::progress::{still_to_count, still_writing};
use super::rows::Rows;
use super::state::{self, NEVER, State, load_keys, store_keys};
use super::toplist::TopList;
use super::window::{Interval, corrections};
use crate::fleet::attachment::{self, Attachment};
use crate::fleet::capture;
use crate::fleet::clock::{DAY, HOUR, Timestamp};
use crate::fleet::hypertable;
use crate::fleet::late::pack::{Malformed, hour_of};
use crate::fleet::late::sum::{Sum, rest_of};
use crate::fleet::late::table::{OwnTables, Pack, delete_all_packs, delete_packs, each_pack};
use crate::fleet::tree::{Leaves, Shape, shape_now};
use crate::fleet::triggers::{delete_markers, keep_one_marker};
use crate::pg::identity::as_owner;
use crate::pg::own_rows::Place;
use crate::pg::query::{Param, execute, select_one};
use crate::pg::relation::{LockedRelation, lock, lock_alone_now, lock_for_reading_now, lock_for_writing_now};
use crate::pg::scan::{Seen, find_relation, find_schema};
use crate::pg::thresholds::Threshold;
use crate::schemas::INTERNAL;
use crate::settings;
use crate::torture::{self, Mutant, broken};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A chunk that took less than this is followed by a longer one.
const QUICK: Duration = Duration::from_millis(100);

/// A chunk that took more than this is followed by a shorter one.
const SLOW: Duration = Duration::from_millis(300);

/// More bytes of packed late changes than this are folded in by themselves.
const FLOOD: usize = if cfg!(feature = "torture") { 3_000 } else { 16 << 20 };

/// Differences after which every key is written anew.
const DIFFERENCES: i64 = if cfg!(feature = "torture") { 5 } else { 60 };

/// More rows than this that have left the windows since the seal are not left to readers, who read them again at each call.
const MOST_LEFT: i64 = 200;

/// Longer than this the boundary does not stand still. Answers are corrected up to a day beyond it.
const LONGEST_REST: i64 = HOUR;

/// How a step went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done; more may be to do.
    Moved,
    /// Nothing is to be done now.
    Done,
    /// Nothing can be done now, and why.
    Waits(String),
}

/// How long a chunk of a backlog is, in entry time; it adapts to what a chunk costs.
pub struct Stride(i64);

impl Stride {
    /// A first guess, after so many ticks that had no time for a step.
    pub fn after(ended: u8) -> Self {
        Self::of(HOUR >> ended.min(12))
    }

    /// So many microseconds.
    pub fn of(length: i64) -> Self {
        Self(length)
    }

    fn learn(&mut self, took: Duration) {
        if took < QUICK {
            self.0 = self.0.saturating_mul(4).min(365 * DAY);
        } else if took > SLOW {
            self.0 = (self.0 / 2).max(1_000_000);
        }
    }
}

/// What a sealer writes into, beside `seal_state`.
const OWN_TABLES: [&str; 6] =
    ["capture", "seal_look", "late_changes", "seal_markers", "seal_partitions", "seal_keys"];

/// Takes what a step needs, before its snapshot is taken: the fleet, the entries locked against DDL, and the right to
/// be the only sealer.
pub struct Ground {
    fleet: Attachment,
    entries: LockedRelation,
    /// Or why they cannot be sealed.
    shape: Result<Shape, String>,
}

impl Ground {
    /// Nothing of it waits. `Err` says why it cannot be had.
    pub fn take() -> Result<Self, Step> {
        let ours = |table| find_relation(INTERNAL, table);
        if !ours("attachment").is_some_and(lock_for_reading_now) {
            return Err(Step::Waits("tables of the extension are locked".into()));
        }
        let Some(fleet) = attachment::read(Seen::Latest) else {
            return Err(Step::Done);
        };
        if !ours("seal_state").is_some_and(lock_alone_now) {
            return Err(Step::Waits("another sealer is at work".into()));
        }
        // All that is written into: a sealer that waited for one while it holds another could be in somebody's way.
        if !OWN_TABLES.into_iter().all(|table| ours(table).is_some_and(lock_for_writing_now)) {
            return Err(Step::Waits("tables of the extension are locked".into()));
        }
        if !lock_for_reading_now(fleet.entries) {
            return Err(Step::Waits(attachment::why_not_locked(fleet.entries, "entries")));
        }
        let entries = lock(fleet.entries).ok_or_else(|| Step::Waits(attachment::dropped("entries")))?;
        // It may have been let go, or attached otherwise, before the lock was had.
        if attachment::read(Seen::Latest).as_ref() != Some(&fleet) {
            return Err(Step::Waits("the fleet has changed".into()));
        }
        let shape = shape_now(&entries, &fleet);
        Ok(Self { fleet, entries, shape })
    }

    /// Remembers who is writing, once for each threshold and after it was committed.
    pub fn look(&self) -> Step {
        look(self.entries.oid)
    }

    /// Whether another seal would be as good as the present one, so that nothing need be written: no row has come since,
    /// hardly any has left a window, and no late change waits. An idle database would otherwise write a new state every
    /// few seconds, and end long queries on its standbys.
    ///
    /// Where the boundary stands decides nothing about what is right: a reader corrects for the time since, and writers
    /// note what they change before it.
    fn may_rest(&self) -> bool {
        let threshold = capture::threshold(Seen::Statement);
        let (Ok(shape), Some(threshold), Some(state)) =
            (&self.shape, threshold, State::newest(Seen::Statement))
        else {
            return false;
        };
        let next = torture::clock() - settings::seal_lag_us();
        let stands = state.is_complete()
            && state.goal == threshold.moment
            && (0..LONGEST_REST).contains(&next.saturating_sub(state.boundary))
            && state::marker(Seen::Statement).is_none()
            && shape.agrees_with(&state).is_ok();
        if !stands {
            return false;
        }
        let mut late = false;
        each_pack(state.gen_, |_, _| {
            late = true;
            false
        });
        let come = Interval { from: state.boundary, to: next };
        let left = [(state.day(), DAY), (state.hour(), HOUR)].map(|(counted, width)| Interval {
            from: counted.from,
            to: Interval::sealed(next, next, width).from,
        });
        let rows = FewRows::of(&self.entries, &self.fleet);
        !late
            && rows.read(|| {
                rows.count_few(come, 1) == 0
                    && left.into_iter().map(|left| rows.count_few(left, MOST_LEFT)).sum::<i64>() < MOST_LEFT
            })
    }

    /// One chunk, under the transaction's one snapshot.
    pub fn seal(&self, stride: &mut Stride) -> Step {
        let shape = match &self.shape {
            Ok(shape) => shape,
            Err(reason) => {
                // While it lasts, each statement may leave one.
                keep_one_marker();
                // What came into a compressed chunk unseen is not seen either when it is none any more.
                if let Some(obstacle) = hypertable::obstacle(&self.entries)
                    && state::marker(Seen::Statement).is_none()
                {
                    capture::mark(&obstacle);
                }
                return Step::Waits(reason.clone());
            }
        };
        let Some(threshold) = capture::threshold(Seen::Statement) else {
            return Step::Waits("there is no capture threshold".into());
        };
        let (gen_, threshold) = (threshold.generation, threshold.moment);
        let void = state::marker(Seen::Statement);
        let present = match State::newest(Seen::Statement) {
            None => Err("nothing is sealed yet".into()),
            Some(present) => void.map_or_else(|| shape.agrees_with(&present), Err).map(|()| present),
        };
        // The boundary stays where it is, so open writers need not be waited for.
        if let Ok(present) = &present
            && let Some(step) = self.fold_flood(shape, present)
        {
            return step;
        }
        if present.as_ref().is_ok_and(|present| present.boundary >= threshold) {
            return Step::Done;
        }
        let looked = match broken(Mutant::LookInSnapshot) {
            true => writers_of(self.entries.oid).map(|writers| format!("{{{}}}", writers.join(","))),
            false => look_of(gen_),
        };
        let Some(writers) = looked else {
            return Step::Done; // nobody has looked yet: the next step does
        };
        if let Some(writer) = still_writing(&writers).filter(|_| !broken(Mutant::NoDrain)) {
            return Step::Waits(writer);
        }
        let (version, epoch) = State::number_and_epoch(Seen::Statement).unwrap_or((0, 0));
        let version = version + 1;
        let present = match present {
            Ok(present) => present,
            Err(reason) => {
                let mut fresh =
                    State::nothing(version, epoch + 1, gen_, threshold, shape.fingerprint().into());
                fresh.maps.leaves = shape.leaves(&Leaves::new());
                log!(
                    "busymate_stats counts the entries, {}: {reason}",
                    still_to_count(&self.entries, &fresh)
                );
                start_anew(&fresh);
                return Step::Moved;
            }
        };
        let (goal, since) = (present.goal, present.gen_);
        self.seal_chunk(shape, State { version, gen_, goal: threshold, ..present }, goal, since, stride)
    }

    /// Folds late changes in by themselves while there are very many, so that no snapshot is held for all of them. `None`
    /// when there are few, or none of them can go yet.
    fn fold_flood(&self, shape: &Shape, present: &State) -> Option<Step> {
        let version = State::number_and_epoch(Seen::Statement).map_or(0, |(version, _)| version) + 1;
        let mut bytes = 0;
        each_pack(present.gen_, |_, pack| {
            bytes += pack.bytes.len();
            bytes <= FLOOD
        });
        if bytes <= FLOOD || !present.is_complete() {
            return None;
        }
        let folded =
            Folded::read(shape, present, present.goal, present.gen_, present.boundary, FLOOD).ok()?;
        if folded.gone.is_empty() {
            return None;
        }
        if !shape.still_holds(&self.entries, &self.fleet) {
            return Some(Step::Waits("partitions are changing".into()));
        }
        let mut state = State { version, ..present.clone() };
        let (changes, leaves) = (folded.changes.clone(), folded.leaves.clone());
        folded.remove();
        self.store(shape, &mut state, changes, &leaves, false);
        Some(Step::Moved)
    }

    /// `state` is the present one, but for its goal; `goal` and `since`, a generation, are the present one's.
    fn seal_chunk(
        &self,
        shape: &Shape,
        mut state: State,
        goal: Timestamp,
        since: i64,
        stride: &mut Stride,
    ) -> Step {
        let started = Instant::now();
        let was_complete = state.boundary == goal && goal != NEVER;
        let Ok(chunk) = Chunk::count(self, shape, &state, goal, since, stride) else {
            capture::mark("late changes cannot be read");
            return Step::Moved;
        };
        // PostgreSQL lets partitions be attached under this step's locks: what has been read is neither with nor without.
        if !shape.still_holds(&self.entries, &self.fleet) {
            return Step::Waits("partitions are changing".into());
        }
        chunk.folded.remove();
        state.boundary = chunk.end;
        self.store(shape, &mut state, chunk.changes, &chunk.leaves, chunk.reset);
        if !was_complete && state.is_complete() {
            log!("busymate_stats has counted the entries: figures come from the seal");
        }
        stride.learn(started.elapsed());
        Step::Moved
    }

    /// Takes changes into a state, and stores it. `reset` says that its windows begin behind all that was in them.
    fn store(
        &self,
        shape: &Shape,
        state: &mut State,
        changes: Changes,
        leaves: &HashMap<u32, i64>,
        reset: bool,
    ) {
        state.apply(&changes);
        state.maps.leaves = shape.leaves(&state.maps.leaves);
        for (leaf, count) in leaves {
            if let Some(leaf) = state.maps.leaves.get_mut(leaf) {
                leaf.count += count;
            }
        }
        state.total = state.maps.leaves.values().map(|leaf| leaf.count).sum();
        if reset {
            state.clear_windows();
        }
        keep_keys(state, changes, reset);
        state.store();
    }
}

/// The late changes that a step takes in.
struct Folded {
    /// What those before the present boundary come to.
    changes: Changes,
    /// In total, by leaf.
    leaves: HashMap<u32, i64>,
    /// Where packs are stored that have nothing behind the next boundary.
    gone: Vec<Place>,
    /// What is left of packs that have: it is stored anew.
    rest: Vec<Rest>,
}

struct Rest {
    generation: i64,
    first: Timestamp,
    last: Timestamp,
    changes: i64,
    bytes: Vec<u8>,
}

impl Folded {
    /// Changes before `state`'s boundary count, those between it and `end` are in the rows that this step counts, and the
    /// others stay. `goal` is that of the windows which the state has counted; packs of `since` and later are read, and no
    /// more than `most` bytes of them, or a little more.
    fn read(
        shape: &Shape,
        state: &State,
        goal: Timestamp,
        since: i64,
        end: Timestamp,
        most: usize,
    ) -> Result<Self, Malformed> {
        let window = |width| Interval::sealed(goal, state.boundary, width);
        let mut sum = Sum::new(state.boundary, window(DAY), window(HOUR), |table| shape.counts(table));
        let (mut gone, mut rest, mut bytes, mut found) = (Vec::new(), Vec::new(), 0, Ok(()));
        each_pack(since, |place, pack| {
            bytes += pack.bytes.len();
            found = take(&mut sum, &mut rest, pack, end);
            // One that lies behind the end as a whole stays as it is.
            if pack.first < end {
                gone.push(place);
            }
            found.is_ok() && bytes <= most
        });
        found?;
        Ok(Self { changes: sum.changes, leaves: sum.tables, gone, rest })
    }

    /// Removes what was read, but for the rest.
    fn remove(self) {
        delete_packs(self.gone);
        let Some(schema) = find_schema(INTERNAL) else { return };
        let packs = self.rest.iter().map(|rest| Pack {
            start: 0,
            generation: rest.generation,
            first: rest.first,
            last: rest.last,
            changes: rest.changes,
            bytes: &rest.bytes,
        });
        if OwnTables::of(schema).insert(packs).is_err() {
            capture::mark("late changes cannot be written");
        }
    }
}

fn take(
    sum: &mut Sum<impl Fn(u32) -> bool>,
    rest: &mut Vec<Rest>,
    pack: &Pack,
    end: Timestamp,
) -> Result<(), Malformed> {
    sum.add(pack.bytes)?;
    let stays = pack.last >= end && pack.first < end;
    if stays && !broken(Mutant::PackRemovedWhole) {
        let (bytes, changes) = rest_of(pack.bytes, end)?;
        if changes > 0 {
            let (generation, first, last) = (pack.generation, end, pack.last);
            rest.push(Rest { generation, first, last, changes, bytes });
        }
    }
    Ok(())
}

/// What a chunk changes.
struct Chunk {
    end: Timestamp,
    changes: Changes,
    /// In total, by leaf.
    leaves: HashMap<u32, i64>,
    /// Late changes, which are part of both.
    folded: Folded,
    /// Whether the windows begin behind all that was in them.
    reset: bool,
}

impl Chunk {
    /// `state` is the present one, but for its goal; `goal` and `since`, a generation, are the present one's.
    fn count(
        ground: &Ground,
        shape: &Shape,
        state: &State,
        goal: Timestamp,
        since: i64,
        stride: &Stride,
    ) -> Result<Self, Malformed> {
        let rows = Rows::of(&ground.entries, &ground.fleet);
        let boundary = state.boundary;
        let (day, hour) = (Interval::sealed(goal, boundary, DAY), Interval::sealed(goal, boundary, HOUR));
        let end = as_owner(ground.entries.owner, || next_boundary(&rows, boundary, state.goal, stride.0));
        let new_day = Interval::sealed(state.goal, end, DAY);
        let new_hour = Interval::sealed(state.goal, end, HOUR);
        let reset = new_day.is_empty() && !day.is_empty();
        let mut folded = Folded::read(shape, state, goal, since, end, usize::MAX)?;
        let changes = std::mem::take(&mut folded.changes);
        let leaves = std::mem::take(&mut folded.leaves);
        let mut chunk = Self { end, changes, leaves, folded, reset };
        let entered = Interval { from: boundary, to: end };
        // As a reader does: in a usual tick to start a plan costs more than its rows, and in a long one to group them
        // four ways costs more than to tally them.
        let few = FewRows::of(&ground.entries, &ground.fleet);
        let native = few.are_indexed();
        let mut total = None;
        as_owner(ground.entries.owner, || {
            if !reset {
                for one in corrections(day, new_day) {
                    let count = if native {
                        let mut tallies = few.tallies();
                        let count = few.tally(one.rows, one.weight, &mut tallies);
                        tallies.add_to(&mut chunk.changes);
                        count
                    } else {
                        rows.count_into_day(one.rows, one.weight, &mut chunk.changes)
                    };
                    if one.rows == entered {
                        total = Some(count);
                    }
                }
                for one in corrections(hour, new_hour) {
                    let count = if native { few.count(one.rows) } else { rows.count(one.rows) };
                    chunk.changes.hour += one.weight * count;
                }
            }
            if shape.is_tree() {
                let counts = match shape.tables_of_several_methods() {
                    Some(tables) => rows.count_each(&tables, entered),
                    None => rows.count_by_leaf(entered),
                };
                for (leaf, count) in counts {
                    *chunk.leaves.entry(leaf.to_u32()).or_default() += count;
                }
            } else {
                let count = total.unwrap_or_else(|| rows.count(entered));
                *chunk.leaves.entry(ground.entries.oid.to_u32()).or_default() += count;
            }
        });
        Ok(chunk)
    }
}

/// Where this chunk ends: at the goal, or a stride ahead; never across the beginning of the goal's window, so that
/// what lies before it is only counted, and gaps are skipped. Before that it is a whole hour, for of such rows late changes
/// tell no more than the hour.
fn next_boundary(rows: &Rows, boundary: Timestamp, goal: Timestamp, stride: i64) -> Timestamp {
    let window = goal - DAY;
    let end = if boundary < window { window } else { goal };
    let begin = match boundary {
        NEVER => rows.first_time(Interval { from: NEVER, to: end }).unwrap_or(end),
        boundary => boundary,
    };
    if begin == NEVER {
        // Entries of -infinity: they are a chunk of their own.
        let first = rows.first_time(Interval { from: NEVER + 1, to: end });
        return first.map_or(end, |first| hour_of(first).max(NEVER + 1));
    }
    let ahead = begin.saturating_add(stride);
    if ahead >= window {
        return ahead.min(end);
    }
    let hour = hour_of(ahead);
    if hour > begin { hour } else { hour.saturating_add(HOUR).min(end) }
}

/// Everything that was counted is void: begin before the first entry. The late changes that this snapshot sees are in
/// the rows that it will count, and the markers that it sees have had their say.
fn start_anew(fresh: &State) {
    delete_markers();
    delete_all_packs();
    execute(
        "delete from busymate_stats_internal.seal_partitions joined
          where not exists (select from pg_inherits where inhrelid = joined.leaf)",
        &[],
    );
    fresh.store();
    store_keys(fresh.version, true, &KeyCounts::default());
}

/// Keeps the counts of every key, and the top lists good.
fn keep_keys(state: &mut State, changes: Changes, reset: bool) {
    let difference = KeyCounts { hosts: changes.hosts, devices: changes.devices };
    if reset {
        store_keys(state.version, true, &KeyCounts::default());
        return;
    }
    let worn = state.maps.hosts.is_worn() || state.maps.devices.is_worn();
    let differences: i64 =
        select_one("select count(*) from busymate_stats_internal.seal_keys where not base", &[], |row| {
            row.int(1)
        });
    let base = differences >= DIFFERENCES;
    if !worn && !base {
        store_keys(state.version, false, &difference);
        return;
    }
    let Some(mut keys) = load_keys(state.version) else {
        return capture::mark("the counts of hosts and devices cannot be read");
    };
    keys.apply(&difference);
    state.maps.hosts = TopList::of(&keys.hosts);
    state.maps.devices = TopList::of(&keys.devices);
    store_keys(state.version, base, if base { &keys } else { &difference });
}

/// [`move_threshold_of`], where another seal would be of use.
pub fn move_threshold_where_due(ground: &Ground) -> Step {
    if ground.may_rest() { Step::Done } else { move_threshold_of(ground) }
}

/// Moves the capture threshold, when the seal has reached it: its own transaction, since nobody may look for writers
/// before it is committed.
pub fn move_threshold_of(ground: &Ground) -> Step {
    // Where nothing can be sealed, writers note nothing.
    match &ground.shape {
        Ok(_) => move_threshold(),
        Err(reason) => Step::Waits(reason.clone()),
    }
}

fn move_threshold() -> Step {
    let Some(Threshold { generation: gen_, moment: threshold, .. }) = capture::threshold(Seen::Statement)
    else {
        return Step::Waits("there is no capture threshold".into());
    };
    let reached =
        State::newest(Seen::Statement).is_some_and(|state| state.is_complete() && state.goal == threshold);
    let begun = threshold == NEVER;
    if !reached && !begun {
        return Step::Done;
    }
    // Whoever sees what is written for this threshold sees the present state too, or a later one: rows that its windows
    // have left behind are in no window any more.
    let window_start = if begun { NEVER } else { hour_of(threshold.saturating_sub(DAY)) };
    let now = torture::clock();
    let next = (now - settings::seal_lag_us()).max(threshold);
    if next == threshold {
        return Step::Done;
    }
    execute(
        "insert into busymate_stats_internal.capture (gen, threshold, window_start) values ($1, $2, $3)",
        &[Param::Int(gen_ + 1), Param::Timestamp(next), Param::Timestamp(window_start)],
    );
    execute("delete from busymate_stats_internal.capture where gen < $1", &[Param::Int(gen_)]);
    Step::Moved
}
