//! Moving the seal forward. Each step is a short transaction, and makes no statement of a user wait: what it needs and
//! cannot have at once, it does without until the next tick.
//!
//! `docs/architecture.md` argues why what comes out is exact.

use super::counts::{Changes, KeyCounts};
use super::few::FewRows;
use super::late::late_changes;
use super::look::{look, look_of, writers_of};
use super::progress::{still_to_count, still_writing};
use super::rows::Rows;
use super::state::{self, NEVER, State, load_keys, store_keys};
use super::toplist::TopList;
use super::window::{Interval, corrections};
use crate::fleet::attachment::{self, Attachment};
use crate::fleet::capture;
use crate::fleet::clock::{DAY, HOUR, Timestamp};
use crate::fleet::tree::{Leaves, Shape, members, shape_now};
use crate::pg::identity::as_owner;
use crate::pg::query::{Param, execute, select, select_one};
use crate::pg::relation::{LockedRelation, lock, lock_alone_now, lock_for_reading_now, lock_for_writing_now};
use crate::pg::scan::{Seen, find_relation};
use crate::settings;
use crate::torture::{self, Mutant, broken};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A chunk that took less than this is followed by a longer one.
const QUICK: Duration = Duration::from_millis(100);

/// A chunk that took more than this is followed by a shorter one.
const SLOW: Duration = Duration::from_millis(300);

/// Differences after which every key is written anew.
const DIFFERENCES: i64 = if cfg!(feature = "torture") { 5 } else { 60 };

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
    /// A first guess.
    pub fn new() -> Self {
        Self::of(HOUR)
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
        let ours = |table| find_relation("busymate_stats", table);
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
            return Err(Step::Waits("entries are locked".into()));
        }
        let entries = lock(fleet.entries).ok_or(Step::Waits("the relation of entries is gone".into()))?;
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

    /// One chunk, under the transaction's one snapshot.
    pub fn seal(&self, stride: &mut Stride) -> Step {
        let shape = match &self.shape {
            Ok(shape) => shape,
            Err(reason) => return Step::Waits(reason.clone()),
        };
        if let Some(reason) = written_past_triggers(&self.entries) {
            return Step::Waits(reason);
        }
        let Some((gen_, threshold)) = capture::threshold(Seen::Statement) else {
            return Step::Waits("there is no capture threshold".into());
        };
        let void = state::marker(Seen::Statement);
        let present = match State::newest(Seen::Statement) {
            None => Err("nothing is sealed yet".into()),
            Some(present) => void.map_or_else(|| shape.agrees_with(&present), Err).map(|()| present),
        };
        if present.as_ref().is_ok_and(|present| present.boundary >= threshold) {
            return Step::Done;
        }
        let looked = match broken(Mutant::LookInSnapshot) {
            true => Some(format!("{{{}}}", writers_of(self.entries.oid).join(","))),
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
                let mut fresh = State::nothing(version, epoch + 1, gen_, threshold, shape.print.clone());
                fresh.maps.leaves = shape.leaves(&Leaves::new());
                log!(
                    "busymate_stats counts the entries, {}: {reason}",
                    still_to_count(&self.entries, &fresh)
                );
                start_anew(&fresh);
                return Step::Moved;
            }
        };
        let goal = present.goal;
        self.seal_chunk(shape, State { version, gen_, goal: threshold, ..present }, goal, stride)
    }

    fn seal_chunk(&self, shape: &Shape, mut state: State, goal: Timestamp, stride: &mut Stride) -> Step {
        let started = Instant::now();
        let was_complete = state.boundary == goal && goal != NEVER;
        let chunk = Chunk::count(self, shape, &state, goal, stride);
        // PostgreSQL lets partitions be attached under this step's locks: what has been read is neither with nor without.
        if !shape.still_holds(&self.entries, &self.fleet) {
            return Step::Waits("partitions are changing".into());
        }
        let end = Param::Timestamp(chunk.end);
        // Every generation, but by the index: after a flood of late changes the table is large and nearly empty.
        execute(
            "delete from busymate_stats.late_changes where gen >= $2 and entry_time < $1",
            &[end, Param::Int(i64::MIN)],
        );
        state.boundary = chunk.end;
        state.apply(&chunk.changes);
        state.maps.leaves = shape.leaves(&state.maps.leaves);
        for (leaf, count) in &chunk.leaves {
            if let Some(leaf) = state.maps.leaves.get_mut(leaf) {
                leaf.count += count;
            }
        }
        if shape.is_tree() {
            state.total = state.maps.leaves.values().map(|leaf| leaf.count).sum();
        }
        if chunk.reset {
            state.clear_windows();
        }
        keep_keys(&mut state, chunk.changes, chunk.reset);
        state.store();
        if !was_complete && state.is_complete() {
            log!("busymate_stats has counted the entries: figures come from the seal");
        }
        stride.learn(started.elapsed());
        Step::Moved
    }
}

/// What a chunk changes.
struct Chunk {
    end: Timestamp,
    changes: Changes,
    /// In total, by leaf.
    leaves: HashMap<u32, i64>,
    /// Whether the windows begin behind all that was in them.
    reset: bool,
}

impl Chunk {
    /// `state` is the present one, but for its goal; `goal` is the present one's.
    fn count(ground: &Ground, shape: &Shape, state: &State, goal: Timestamp, stride: &Stride) -> Self {
        let rows = Rows::of(&ground.entries, &ground.fleet);
        let boundary = state.boundary;
        let (day, hour) = (Interval::sealed(goal, boundary, DAY), Interval::sealed(goal, boundary, HOUR));
        let end = as_owner(ground.entries.owner, || next_boundary(&rows, boundary, state.goal, stride.0));
        let new_day = Interval::sealed(state.goal, end, DAY);
        let new_hour = Interval::sealed(state.goal, end, HOUR);
        let reset = new_day.is_empty() && !day.is_empty();
        let mut chunk = Self { end, changes: Changes::default(), leaves: HashMap::new(), reset };
        for (entry, n, relation) in late_changes(boundary, i64::MIN) {
            if shape.counts(relation) {
                chunk.changes.count_late(&entry, n, day, hour);
                *chunk.leaves.entry(relation.to_u32()).or_default() += n;
            }
        }
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
                for (leaf, count) in rows.count_by_leaf(entered) {
                    *chunk.leaves.entry(leaf.to_u32()).or_default() += count;
                }
            } else {
                chunk.changes.total += total.unwrap_or_else(|| rows.count(entered));
            }
        });
        chunk
    }
}

/// Why rows may come or go by ways that fire no trigger of the relation, if they may. What begins such a state leaves a
/// marker (see the event triggers), so readers need not look.
fn written_past_triggers(entries: &LockedRelation) -> Option<String> {
    // A row trigger fires for what comes through a parent too.
    let in_inheritance = entries.kind == b'r'
        && !select(
            "select inhseqno::int8 from pg_inherits where $1 in (inhrelid, inhparent)",
            &[Param::Oid(entries.oid)],
            |row| row.int(1),
        )
        .is_empty();
    if in_inheritance {
        return Some("entries belong to an inheritance tree".into());
    }
    let subscribed = select("select srrelid from pg_subscription_rel", &[], |row| row.oid(1));
    if subscribed.is_empty() {
        return None;
    }
    let members = members(entries.oid);
    subscribed
        .iter()
        .any(|relation| members.contains(relation))
        .then(|| "a subscription writes into entries".into())
}

/// Where this chunk ends: at the goal, or a stride ahead; never across the beginning of the goal's window, so that
/// what lies before it is only counted, and gaps are skipped.
fn next_boundary(rows: &Rows, boundary: Timestamp, goal: Timestamp, stride: i64) -> Timestamp {
    let window = goal - DAY;
    let end = if boundary < window { window } else { goal };
    let begin = match boundary {
        NEVER => rows.first_time(Interval { from: NEVER, to: end }).unwrap_or(end),
        boundary => boundary,
    };
    if begin == NEVER {
        // Entries of -infinity: they are a chunk of their own.
        return rows.first_time(Interval { from: NEVER + 1, to: end }).unwrap_or(end);
    }
    begin.saturating_add(stride).min(end)
}

/// Everything that was counted is void: begin before the first entry. The late changes that this snapshot sees are in
/// the rows that it will count, and the markers that it sees have had their say.
fn start_anew(fresh: &State) {
    execute("delete from busymate_stats.seal_markers", &[]);
    execute("delete from busymate_stats.late_changes", &[]);
    execute(
        "delete from busymate_stats.seal_partitions joined
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
        select_one("select count(*) from busymate_stats.seal_keys where not base", &[], |row| row.int(1));
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

/// Moves the capture threshold, when the seal has reached it: its own transaction, since nobody may look for writers
/// before it is committed.
pub fn move_threshold() -> Step {
    let Some((gen_, threshold)) = capture::threshold(Seen::Statement) else {
        return Step::Waits("there is no capture threshold".into());
    };
    let reached =
        State::newest(Seen::Statement).is_some_and(|state| state.is_complete() && state.goal == threshold);
    let begun = threshold == NEVER;
    if !reached && !begun {
        return Step::Done;
    }
    let now = torture::clock();
    let next = (now - settings::seal_lag_us()).max(threshold);
    if next == threshold {
        return Step::Done;
    }
    execute(
        "insert into busymate_stats.capture (gen, threshold) values ($1, $2)",
        &[Param::Int(gen_ + 1), Param::Timestamp(next)],
    );
    execute("delete from busymate_stats.capture where gen < $1", &[Param::Int(gen_)]);
    Step::Moved
}
