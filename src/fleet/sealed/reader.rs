//! Figures from what is sealed: the counts, the late changes, and the rows between the sealed windows and those asked
//! for. All under the caller's own snapshot, whatever it is.

use super::base::{Base, WORTH_IT};
use super::counts::{Changes, Counts, add};
use super::few::FewRows;
use super::state::{Prepared, State, load_keys, marker};
use super::toplist::{Ranking, TopList, top_of};
use super::window::{Interval, corrections};
use crate::fleet::attachment::Attachment;
use crate::fleet::clock::{DAY, HOUR, Timestamp};
use crate::fleet::figures::{Ahead, Count, Figures, MIX_KEYS};
use crate::fleet::late::pending::each_own_pack;
use crate::fleet::late::sum::Sum;
use crate::fleet::late::table::each_pack;
use crate::fleet::tree::{Shape, shape};
use crate::pg::identity::{as_owner, owner_of, trigger_depth};
use crate::pg::relation::{LockedRelation, is_being_changed_here};
use crate::pg::scan::{Seen, find_relation};
use crate::schemas::INTERNAL;
use crate::settings;
use crate::torture::{Mutant, broken};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

/// An answer further away from the boundary than this is not worth correcting: about as many rows would be read as by the
/// plain query.
const NEAR: u64 = DAY as u64;

/// More packed late changes than this are not added up at each call: some millions, until the sealer has folded them in.
const MOST_LATE_BYTES: usize = if cfg!(feature = "torture") { 40_000 } else { 64 << 20 };

/// Fills in what comes from entries, and gives the busiest devices; or says why the plain query must answer.
pub fn read_entries(
    fleet: &Attachment,
    entries: &LockedRelation,
    figures: &mut Figures,
) -> Result<Vec<Count>, String> {
    let shape = shape(entries, fleet)?;
    let version = usable_state(&shape, entries)?;
    let as_of = figures.as_of;
    if as_of.abs_diff(version.state.boundary) > NEAR {
        return Err("the moment asked for is far from what is sealed".into());
    }
    let own = own_tables_owner()?;
    let late = late_changes(&version.state, &shape)?;
    let rows = FewRows::of(entries, fleet);
    // Without late changes, what is before the boundary is what every reader of this version sees.
    let may_move = rows.are_indexed() && (late.number == 0 || broken(Mutant::MovedBaseTrusted));
    let base = Some(()).filter(|()| may_move).and_then(|()| Base::kept(&version, as_of));
    let base = base.unwrap_or_else(|| Base::of(&version));
    let Since { mut changes, left, ahead } = changes_since(&base, &rows, as_of);
    figures.ahead = ahead;
    changes.merge(&late.changes);
    changes.merge(&left);

    let state = &base.now.state;
    figures.total_entries = shape.total(state) + changes.total;
    figures.entries_24h = state.last_day + changes.day;
    figures.entries_1h = state.last_hour + changes.hour;
    figures.sources = counts(top_of(&sum(&state.maps.sources, &changes.sources), MIX_KEYS as usize));
    figures.status_classes = (1..)
        .zip(state.maps.classes.iter().zip(changes.classes).skip(1))
        .map(|(class, (sealed, change)): (i64, _)| Count { key: class.to_string(), count: sealed + change })
        .filter(|class| class.count != 0)
        .collect();

    let n = settings::top_n() as usize;
    let keys = || keys_at(&version.state, own);
    let hosts = top(&base.now.hosts, n, &changes.hosts, &base.moved.hosts, || Some(keys()?.hosts.clone()))?;
    let devices =
        top(&base.now.devices, n, &changes.devices, &base.moved.devices, || Some(keys()?.devices.clone()))?;
    if may_move && left.day.abs().max(left.hour.abs()) >= WORTH_IT {
        base.keep_without(left, as_of);
    }
    figures.top_domains = counts(hosts);
    if !shape.still_holds(entries, fleet) {
        return Err("partitions have changed meanwhile".into());
    }
    Ok(counts(devices))
}

/// The newest state that this snapshot sees, if what it counts still holds.
fn usable_state(shape: &Shape, entries: &LockedRelation) -> Result<Rc<Prepared>, String> {
    // A trigger, or a function that a statement calls, may see rows of that statement, whose changes are not written
    // down yet.
    let inside = trigger_depth() > 0 || is_being_changed_here(entries.oid) || shape.is_being_changed_here();
    if inside && !broken(Mutant::InsideStatement) {
        return Err("asked for from inside a statement".into());
    }
    // The markers before the epoch: when a rebuild commits in between, the epoch tells.
    let markers: &[Seen] = if broken(Mutant::MarkersUnseen) {
        &[]
    } else if broken(Mutant::RebuildOfStatement) {
        &[Seen::Statement]
    } else {
        &[Seen::Latest, Seen::Statement]
    };
    if let Some(reason) = markers.iter().find_map(|seen| marker(*seen)) {
        return Err(reason);
    }
    let prepared = Prepared::newest(Seen::Statement).ok_or("nothing is sealed yet")?;
    let state = &prepared.state;
    let latest = if broken(Mutant::RebuildOfStatement) { Seen::Statement } else { Seen::Latest };
    if State::number_and_epoch(latest).map(|(_, epoch)| epoch) != Some(state.epoch) {
        return Err("everything was counted anew since this snapshot".into());
    }
    if !state.is_complete() {
        return Err("entries are being counted".into());
    }
    if !broken(Mutant::FingerprintUnseen) {
        shape.agrees_with(state)?;
    }
    Ok(prepared)
}

fn own_tables_owner() -> Result<pg_sys::Oid, String> {
    find_relation(INTERNAL, "late_changes").and_then(owner_of).ok_or("a table of ours is gone".into())
}

/// What stands between a state and the figures as of a moment.
struct Since {
    changes: Changes,
    /// The rows that have left the windows meanwhile.
    left: Changes,
    /// The rows beyond the moment of the figures.
    ahead: Ahead,
}

fn changes_since(base: &Base, rows: &FewRows, as_of: Timestamp) -> Since {
    let (mut changes, mut left) = (Changes::default(), Changes::default());
    let mut ahead = Ahead::default();
    let boundary = base.now.state.boundary;
    let entered = Interval { from: boundary, to: as_of + 1 };
    let (day, hour) = (Interval::answer(as_of, DAY), Interval::answer(as_of, HOUR));
    rows.read(|| {
        // Of what has entered, where it was read by itself: not when the whole window lies beyond the boundary.
        let mut count = None;
        for one in corrections(base.day, day) {
            let mut tallies = rows.tallies();
            let found = rows.tally(one.rows, one.weight, &mut tallies);
            if one.rows == entered {
                count = Some(found);
            }
            tallies.add_to(if one.is_left_by(day) { &mut left } else { &mut changes });
        }
        for one in corrections(base.hour, hour) {
            let found = count.filter(|_| one.rows == entered).unwrap_or_else(|| rows.count(one.rows));
            let to = if one.is_left_by(hour) { &mut left } else { &mut changes };
            to.hour += one.weight * found;
        }
        // Entries of the future count in the total.
        changes.total += match count {
            Some(count) => {
                let started = Instant::now();
                let entries = rows.count_from(entered.to);
                ahead = Ahead { entries, took: started.elapsed() };
                count + entries
            }
            None => rows.count_from(boundary),
        };
    });
    Since { changes, left, ahead }
}

/// The late changes to rows before the boundary that the active snapshot sees, and those of this very transaction.
fn late_changes(state: &State, shape: &Shape) -> Result<Sum<impl Fn(u32) -> bool>, String> {
    let until = if broken(Mutant::LateBeyond) { Timestamp::MAX } else { state.boundary };
    let since = if broken(Mutant::LateForgotten) { state.gen_ + 1 } else { state.gen_ };
    let mut late = Sum::new(until, state.day(), state.hour(), |table| shape.counts(table));
    let (mut is_malformed, mut bytes) = (false, 0);
    each_pack(since, |_, pack| {
        bytes += pack.bytes.len();
        is_malformed = is_malformed || late.add(pack.bytes).is_err();
        !is_malformed && bytes <= MOST_LATE_BYTES
    });
    each_own_pack(|pack| {
        bytes += pack.len();
        is_malformed = is_malformed || (!broken(Mutant::OwnForgotten) && late.add(pack).is_err());
    })?;
    if bytes > MOST_LATE_BYTES {
        return Err("more late changes are pending than are worth adding up".into());
    }
    if is_malformed {
        return Err("late changes cannot be read".into());
    }
    Ok(late)
}

fn sum(sealed: &Counts, changes: &Counts) -> Counts {
    let mut sum = sealed.clone();
    for (key, count) in changes {
        add(&mut sum, key, *count);
    }
    sum
}

/// A top list: from the list where it can tell, else with every key at hand.
/// `moved` is what the list has moved on from the version that the keys are of.
fn top(
    list: &Ranking,
    n: usize,
    changes: &Counts,
    moved: &Counts,
    all: impl FnOnce() -> Option<Rc<AllKeys>>,
) -> Result<Vec<(String, i64)>, String> {
    if let Some(known) = list.top(n, changes, None) {
        return Ok(known);
    }
    let (all, changes) =
        (all().ok_or("the counts of hosts and devices cannot be read")?, sum(moved, changes));
    let known = all.list.top(n, &changes, Some(&all.counts));
    Ok(known.unwrap_or_else(|| top_of(&sum(&all.counts, &changes), n)))
}

/// Every key of hosts or of devices in one version of the state, and the list made of them.
struct AllKeys {
    counts: Counts,
    list: Ranking,
}

struct KeysAt {
    /// The table, the version and its boundary: a version's number alone comes again after a detach.
    of: (pg_sys::Oid, i64, Timestamp),
    hosts: Rc<AllKeys>,
    devices: Rc<AllKeys>,
}

/// More keys than this are not kept in the backend.
const KEPT_KEYS: usize = 500_000;

thread_local! {
    /// A version never changes, so a backend may keep what it has read of it.
    static KEYS: RefCell<Option<Rc<KeysAt>>> = const { RefCell::new(None) };
}

/// Every key at this version; `None` when they cannot be read.
fn keys_at(state: &State, own: pg_sys::Oid) -> Option<Rc<KeysAt>> {
    let table = find_relation(INTERNAL, "seal_keys").unwrap_or(pg_sys::InvalidOid);
    let of = (table, state.version, state.boundary);
    if let Some(kept) = KEYS.with_borrow(|kept| kept.clone().filter(|kept| kept.of == of)) {
        return Some(kept);
    }
    let keys = as_owner(own, || load_keys(state.version))?;
    let count = keys.hosts.len() + keys.devices.len();
    let all = |counts: Counts| Rc::new(AllKeys { list: Ranking::of(TopList::of(&counts)), counts });
    let read = Rc::new(KeysAt { of, hosts: all(keys.hosts), devices: all(keys.devices) });
    KEYS.set((count <= KEPT_KEYS).then(|| Rc::clone(&read)));
    Some(read)
}

fn counts(keys: Vec<(String, i64)>) -> Vec<Count> {
    keys.into_iter().map(|(key, count)| Count { key, count }).collect()
}
