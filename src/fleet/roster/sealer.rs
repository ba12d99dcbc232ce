//! Counting the devices anew. Each step is a short transaction, and makes no statement of a user wait: what it needs and
//! cannot have at once, it does without until the next tick.
//!
//! `docs/architecture.md` argues why what comes out is exact.

use super::changes::{Changes, MOST};
use super::moments::portions;
use super::pace;
use super::print::{columns, fingerprint, obstacle};
use super::state::{self, Capture, State};
use crate::fleet::attachment::{self, Attachment};
use crate::fleet::clock::{Timestamp, before};
use crate::fleet::sealed::counts::Counts;
use crate::fleet::sealed::look::writers_of;
use crate::fleet::sealed::progress::still_writing;
use crate::fleet::sealed::sealer::Step;
use crate::fleet::sealed::state::NEVER;
use crate::pg::identity::as_owner;
use crate::pg::own_rows::delete_rows;
use crate::pg::query::{Param, execute, select};
use crate::pg::relation::{LockedRelation, lock, lock_alone_now, lock_for_reading_now, lock_for_writing_now};
use crate::pg::scan::{Seen, find_relation, scan};
use crate::schemas::INTERNAL;
use crate::settings;
use crate::torture::{Mutant, broken};
use pgrx::spi::quote_identifier;
use std::time::Instant;

/// What a sealer writes into, beside `roster_state`.
const OWN_TABLES: [&str; 4] = ["roster_capture", "roster_look", "roster_changes", "roster_moments"];

/// More connection types than this are no mix to be kept.
const TYPES: usize = 10_000;

/// More moments than this are not told apart: what lies behind the last of them is another count's.
const MOMENTS: i64 = 250_000;

/// Takes what a step needs, before its snapshot is taken: the fleet, the devices locked against DDL, what they are like,
/// and the right to be the only sealer.
pub struct Ground {
    fleet: Attachment,
    devices: LockedRelation,
    /// From before the snapshot: had it changed in between, a state would bear the earlier one, which nobody accepts.
    fingerprint: String,
    obstacle: Option<String>,
}

impl Ground {
    /// Nothing of it waits. `Err` says why it cannot be had.
    pub fn take() -> Result<Self, Step> {
        let waits = |reason: &str| Step::Waits(reason.into());
        let ours = |table| find_relation(INTERNAL, table);
        if !ours("attachment").is_some_and(lock_for_reading_now) {
            return Err(waits("tables of the extension are locked"));
        }
        let fleet = attachment::read(Seen::Latest).ok_or(Step::Done)?;
        if !ours("roster_state").is_some_and(lock_alone_now) {
            return Err(waits("another sealer is at work"));
        }
        if !OWN_TABLES.into_iter().all(|table| ours(table).is_some_and(lock_for_writing_now)) {
            return Err(waits("tables of the extension are locked"));
        }
        if !lock_for_reading_now(fleet.devices) {
            return Err(Step::Waits(attachment::why_not_locked(fleet.devices, "devices")));
        }
        let devices = lock(fleet.devices).ok_or_else(|| Step::Waits(attachment::dropped("devices")))?;
        // It may have been let go, or attached otherwise, before the lock was had.
        if attachment::read(Seen::Latest).as_ref() != Some(&fleet) {
            return Err(waits("the fleet has changed"));
        }
        let (fingerprint, obstacle) = (fingerprint(&devices, &fleet), obstacle(&devices, &fleet));
        Ok(Self { fleet, devices, fingerprint, obstacle })
    }

    /// What is to be done now; `None` while nothing is, since the last count failed.
    pub fn step(&self) -> Option<Step> {
        let Some(capture) = Capture::newest(Seen::Statement) else {
            return Some(Step::Waits("there is no threshold for devices".into()));
        };
        if let Some(reason) = &self.obstacle {
            self.let_go(capture);
            return Some(Step::Waits(reason.clone()));
        }
        let due = pace::is_due(now(), capture.due);
        if capture.resting && !due {
            return None;
        }
        Some(match look_of(capture.gen_) {
            None if due => self.move_threshold(),
            None => self.look(),
            Some(look) if look.fingerprint != self.fingerprint => self.move_threshold(),
            Some(_) => match self.count() {
                // One that is due since ever has been asked for.
                Step::Done if due && (capture.due == NEVER || !self.may_rest()) => self.move_threshold(),
                step => step,
            },
        })
    }

    /// Whether another count would give the same, so that nothing need be written: nothing has changed since the last one,
    /// which found every device offline, or which tells by a column who is online.
    fn may_rest(&self) -> bool {
        let Some(state) = State::newest(Seen::Statement) else {
            return false;
        };
        let offline_since = before(now(), settings::online_window_us());
        let all_silent = || state.since <= offline_since && state.silent_at(state.until) == Some(state.total);
        Changes::since(state.gen_, NEVER).is_some_and(|changes| changes.number == 0)
            && (self.fleet.online.is_some() || all_silent())
    }

    /// Moves the threshold: its own transaction, since nobody may look for writers before it is committed.
    pub fn move_threshold(&self) -> Step {
        let Some(capture) = Capture::newest(Seen::Statement) else {
            return Step::Waits("there is no threshold for devices".into());
        };
        let took = State::newest(Seen::Statement).map_or(pace::LONGEST_COUNT, |state| state.took);
        let now = now();
        let tick = i64::from(settings::seal_interval_ms()) * 1000;
        let threshold = pace::threshold(now, settings::online_window_us(), took, tick);
        Capture {
            gen_: capture.gen_ + 1,
            threshold: threshold.max(capture.threshold),
            due: now + pace::rest(took),
            resting: false,
        }
        .store();
        Step::Moved
    }

    /// Remembers who is writing, once for each threshold and after it was committed.
    pub fn look(&self) -> Step {
        let Some(Capture { gen_, threshold, .. }) = Capture::newest(Seen::Statement) else {
            return Step::Waits("there is no threshold for devices".into());
        };
        // While nobody counts, writers write nothing down: there is nothing to wait for.
        if threshold == NEVER || look_of(gen_).is_some() {
            return Step::Done;
        }
        let Some(writers) = writers_of(self.devices.oid) else {
            return Step::Waits("transactions are being prepared".into());
        };
        let writers = format!("{{{}}}", writers.join(","));
        execute(
            "insert into busymate_stats_internal.roster_look (gen, writers, fingerprint) values ($1, $2::xid8[], $3)",
            &[Param::Int(gen_), Param::Text(&writers), Param::Text(&self.fingerprint)],
        );
        execute("delete from busymate_stats_internal.roster_look where gen < $1", &[Param::Int(gen_)]);
        Step::Moved
    }

    /// Counts every device under the transaction's one snapshot, once those that the look found have ended.
    pub fn count(&self) -> Step {
        if let Some(reason) = &self.obstacle {
            return Step::Waits(reason.clone());
        }
        let Some(capture) = Capture::newest(Seen::Statement) else {
            return Step::Waits("there is no threshold for devices".into());
        };
        let Some(look) = look_of(capture.gen_) else {
            return Step::Done;
        };
        // Writers may have called by another name what they wrote down since: an enum's label.
        if look.fingerprint != self.fingerprint {
            return Step::Waits("the relation of devices has changed since the look".into());
        }
        if State::newest(Seen::Statement).is_some_and(|state| state.gen_ == capture.gen_) {
            return Step::Done;
        }
        let writers = match broken(Mutant::RosterLookInSnapshot) {
            true => format!("{{{}}}", writers_of(self.devices.oid).unwrap_or_default().join(",")),
            false => look.writers(),
        };
        if let Some(writer) = still_writing(&writers).filter(|_| !broken(Mutant::RosterNoDrain)) {
            return Step::Waits(writer);
        }
        let started = Instant::now();
        let Some(counted) = self.counted(capture.threshold) else {
            self.let_go(capture);
            return Step::Waits(format!("devices have more than {TYPES} connection types"));
        };
        let version = State::newest_version() + 1;
        State {
            version,
            gen_: capture.gen_,
            fingerprint: match broken(Mutant::RosterPrintInSnapshot) {
                true => fingerprint(&self.devices, &self.fleet),
                false => self.fingerprint.clone(),
            },
            since: counted.since,
            until: counted.until,
            total: counted.types.values().sum(),
            types: counted.types,
            took: started.elapsed().as_micros() as i64,
        }
        .store(&portions(counted.since, counted.long_gone, &counted.moments));
        // The changes that this snapshot sees are in the rows that it has counted. Those of earlier generations nobody
        // reads beside this state: they go when nobody waits for it.
        remove_changes(|gen_| gen_ >= capture.gen_);
        Step::Moved
    }

    /// `None` when there are too many connection types.
    fn counted(&self, threshold: Timestamp) -> Option<Counted> {
        let [kind, seen] = columns(&self.fleet).map(quote_identifier);
        let name = &self.devices.name;
        let by_time = self.fleet.online.is_none();
        let since =
            if by_time { pace::long_gone(now(), settings::online_window_us(), threshold) } else { NEVER };
        let long_gone =
            if by_time { format!("{seen} <= $1 or {seen} is null") } else { format!("{seen} is not true") };
        as_owner(self.devices.owner, || {
            let mut counted = Counted { since, until: i64::MAX, ..Counted::default() };
            select(
                &format!(
                    "select (coalesce({kind}::text, 'unknown')) collate \"C\", count(*),
                            count(*) filter (where {long_gone})
                       from {name} group by 1 limit {}",
                    TYPES + 1
                ),
                &[Param::Timestamp(since)],
                |row| {
                    counted.types.insert(row.text(1).unwrap_or_default(), row.int(2));
                    counted.long_gone += row.int(3);
                },
            );
            if by_time {
                counted.until = threshold;
                counted.moments = select(
                    &format!(
                        "select {seen}, count(*) from {name} where {seen} > $1 and {seen} <= $2
                          group by 1 order by 1 limit {MOMENTS}"
                    ),
                    &[Param::Timestamp(since), Param::Timestamp(threshold)],
                    |row| (row.timestamp(1), row.int(2)),
                );
                if counted.moments.len() as i64 == MOMENTS {
                    counted.until = counted.moments.last().map_or(threshold, |(moment, _)| *moment);
                }
            }
            (counted.types.len() <= TYPES).then_some(counted)
        })
    }

    /// What to do when the count took too long or failed: nothing, for as long as a count of that length allows. Unless
    /// what has changed since the last good one has grown beyond use: then that one goes, and writers are left alone.
    pub fn rest(&self) {
        let Some(capture) = Capture::newest(Seen::Statement) else {
            return;
        };
        let due = now() + pace::rest(pace::LONGEST_COUNT);
        let gen_ = State::newest(Seen::Statement).map(|state| state.gen_);
        let number = |gen_| Changes::since(gen_, NEVER).map_or(0, |changes| changes.number);
        let worn = gen_.is_none_or(|gen_| number(gen_) > MOST);
        if worn {
            state::remove_before(i64::MAX);
        }
        let threshold = if worn { NEVER } else { capture.threshold };
        Capture { gen_: capture.gen_ + 1, threshold, due, resting: true }.store();
    }

    /// Forgets what was counted, so that writers have nothing to write down, for as long as nothing can be counted.
    ///
    /// Lowering the threshold is right because the state goes in the same transaction: whoever reads the new threshold
    /// commits after that, so a snapshot that sees his rows sees no state.
    fn let_go(&self, capture: Capture) {
        if capture.threshold != NEVER || State::newest_version() > 0 {
            state::remove_before(i64::MAX);
            // A generation of its own: a look that was taken for the last one says nothing any more.
            Capture { gen_: capture.gen_ + 1, threshold: NEVER, due: NEVER, resting: false }.store();
        }
    }
}

/// Removes changes that are of no use to any state that is there or comes. False when our table is locked.
pub fn tidy_up() -> bool {
    let ours = |table| find_relation(INTERNAL, table);
    // All before anything is read: DROP EXTENSION may hold one and want another.
    if !ours("roster_changes").is_some_and(lock_for_writing_now)
        || !["roster_state", "roster_capture"]
            .into_iter()
            .all(|table| ours(table).is_some_and(lock_for_reading_now))
    {
        return false;
    }
    let of = State::newest(Seen::Statement).map(|state| state.gen_);
    if let Some(gen_) = of.or_else(|| Capture::newest(Seen::Statement).map(|capture| capture.gen_)) {
        remove_changes(|of| of < gen_);
    }
    true
}

#[derive(Default)]
struct Counted {
    types: Counts,
    since: Timestamp,
    until: Timestamp,
    long_gone: i64,
    moments: Vec<(Timestamp, i64)>,
}

/// Forgets everything, for a fleet that is let go; see [`Ground::let_go`].
pub fn forget() {
    state::remove_before(i64::MAX);
    execute("delete from busymate_stats_internal.roster_look", &[]);
    remove_changes(|_| true);
    if let Some(Capture { gen_, .. }) = Capture::newest(Seen::Latest) {
        Capture { gen_: gen_ + 1, threshold: NEVER, due: NEVER, resting: false }.store();
    }
}

/// Removes the changes of these generations that the active snapshot sees.
fn remove_changes(which: impl Fn(i64) -> bool) {
    let Some(table) = find_relation(INTERNAL, "roster_changes") else {
        return;
    };
    let mut places = Vec::new();
    scan(table, None, None, Seen::Statement, |row| {
        if which(row.int(1)) {
            places.push(row.place());
        }
    });
    delete_rows(table, places);
}

/// Has every device counted anew, and answered by the plain query until then. False while a sealer is at work, which may be
/// doing anything but counting.
pub fn void() -> bool {
    let alone = find_relation(INTERNAL, "roster_state").is_some_and(lock_alone_now);
    if alone {
        state::remove_before(i64::MAX);
    }
    alone
}

fn now() -> Timestamp {
    pgrx::datetime::clock_timestamp().into_inner()
}

/// Who was writing when a threshold had just become known, and what the relation was like.
struct Look {
    gen_: i64,
    fingerprint: String,
}

impl Look {
    /// The writers, as an array's text.
    fn writers(&self) -> String {
        let sql = "select writers::text from busymate_stats_internal.roster_look where gen = $1";
        select(sql, &[Param::Int(self.gen_)], |row| row.text(1)).pop().flatten().unwrap_or_default()
    }
}

/// Without SQL, for every tick asks.
fn look_of(gen_: i64) -> Option<Look> {
    let table = find_relation(INTERNAL, "roster_look")?;
    let mut found = None;
    scan(table, None, None, Seen::Statement, |row| {
        if row.int(1) == gen_ {
            let fingerprint = String::from_utf8_lossy(&row.text(3)).into_owned();
            found = Some(Look { gen_, fingerprint });
        }
    });
    found
}
