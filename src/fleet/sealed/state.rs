//! The sealed state as it stands in tables.

use super::counts::{CLASSES, Changes, Counts, KeyCounts, add};
use super::packed::{pack, unpack};
use super::toplist::{Ranking, TopList};
use super::window::Interval;
use crate::fleet::clock::{DAY, HOUR, Timestamp};
use crate::fleet::tree::Leaves;
use crate::pg::query::{Param, execute, select};
use crate::pg::relation::{is_citext, type_name};
use crate::pg::scan::{RowIdentity, Seen, Tuple, find_relation, newest, scan};
use crate::schemas::INTERNAL;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;

/// Before every moment that a timestamptz can hold.
pub const NEVER: Timestamp = i64::MIN;

/// What a state counts by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    /// Of the last 24 hours, by source.
    pub sources: Counts,
    /// Of the last 24 hours, by status class.
    pub classes: [i64; CLASSES],
    /// Of the last 24 hours, the busiest hosts.
    pub hosts: TopList,
    /// Of the last 24 hours, the busiest devices.
    pub devices: TopList,
    /// The tables that hold the entries: partitions, or the one table itself.
    pub leaves: Leaves,
}

/// One version of what is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its number.
    pub version: i64,
    /// Every entry before this is counted.
    pub boundary: Timestamp,
    /// Where the boundary is going; windows are those of the goal.
    pub goal: Timestamp,
    /// The generation of the threshold whose writers were waited for.
    pub gen_: i64,
    /// How often everything was counted anew.
    pub epoch: i64,
    /// What the relation was like.
    pub fingerprint: String,
    /// Rows before the boundary.
    pub total: i64,
    /// Of them, those in the goal's last 24 hours.
    pub last_day: i64,
    /// Of them, those in the goal's last hour.
    pub last_hour: i64,
    /// By key.
    pub maps: Maps,
}

impl State {
    /// Nothing is counted yet.
    pub fn nothing(version: i64, epoch: i64, gen_: i64, goal: Timestamp, fingerprint: String) -> Self {
        Self {
            version,
            boundary: NEVER,
            goal,
            gen_,
            epoch,
            fingerprint,
            total: 0,
            last_day: 0,
            last_hour: 0,
            maps: Maps::default(),
        }
    }

    /// Whether figures can be read from it.
    pub fn is_complete(&self) -> bool {
        self.boundary == self.goal && self.boundary != NEVER
    }

    /// The rows that are counted into the last 24 hours.
    pub fn day(&self) -> Interval {
        Interval::sealed(self.goal, self.boundary, DAY)
    }

    /// The rows that are counted into the last hour.
    pub fn hour(&self) -> Interval {
        Interval::sealed(self.goal, self.boundary, HOUR)
    }

    /// Takes changes in, hosts and devices apart: see [`Maps::apply_keys`].
    pub fn apply(&mut self, changes: &Changes) {
        self.total += changes.total;
        self.last_day += changes.day;
        self.last_hour += changes.hour;
        for (source, count) in &changes.sources {
            add(&mut self.maps.sources, source, *count);
        }
        self.maps.sources.retain(|_, count| *count != 0);
        for (sum, change) in self.maps.classes.iter_mut().zip(changes.classes) {
            *sum += change;
        }
        self.maps.hosts.apply(&changes.hosts);
        self.maps.devices.apply(&changes.devices);
    }

    /// Forgets the windows: nothing is counted into them any more.
    pub fn clear_windows(&mut self) {
        self.last_day = 0;
        self.last_hour = 0;
        self.maps = Maps { leaves: std::mem::take(&mut self.maps.leaves), ..Maps::default() };
    }

    /// The newest version that is seen.
    pub fn newest(seen: Seen) -> Option<Self> {
        let table = find_relation(INTERNAL, "seal_state")?;
        let index = find_relation(INTERNAL, "seal_state_pkey")?;
        newest(table, index, seen, Self::of).flatten()
    }

    /// From a row of `seal_state`. One that cannot be read is as good as none.
    fn of(row: &Tuple) -> Option<Self> {
        Some(Self {
            version: row.int(1),
            boundary: row.timestamp(2),
            goal: row.timestamp(3),
            gen_: row.int(4),
            epoch: row.int(5),
            fingerprint: String::from_utf8_lossy(&row.text(6)).into_owned(),
            total: row.int(7),
            last_day: row.int(8),
            last_hour: row.int(9),
            maps: postcard::from_bytes(&row.bytes(11)).ok()?,
        })
    }

    /// Version and epoch of the newest version that is seen, even if the rest of it cannot be read: another version of
    /// the library may have written it. `None` when there is none.
    pub fn number_and_epoch(seen: Seen) -> Option<(i64, i64)> {
        let table = find_relation(INTERNAL, "seal_state")?;
        let index = find_relation(INTERNAL, "seal_state_pkey")?;
        newest(table, index, seen, |row| (row.int(1), row.int(5)))
    }

    /// Appends this version, and removes those before it.
    pub fn store(&self) {
        let maps = match postcard::to_allocvec(&self.maps) {
            Ok(bytes) => bytes,
            // Maps of strings and numbers have no value that postcard refuses.
            Err(_) => unreachable!("plain maps can always be written"),
        };
        execute(
            "insert into busymate_stats_internal.seal_state
                (version, boundary, goal, gen, epoch, fingerprint, total, last_day, last_hour, made_at, maps)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, pg_catalog.clock_timestamp(), $10)",
            &[
                Param::Int(self.version),
                Param::Timestamp(self.boundary),
                Param::Timestamp(self.goal),
                Param::Int(self.gen_),
                Param::Int(self.epoch),
                Param::Text(&self.fingerprint),
                Param::Int(self.total),
                Param::Int(self.last_day),
                Param::Int(self.last_hour),
                Param::Bytes(&maps),
            ],
        );
        execute(
            "delete from busymate_stats_internal.seal_state where version < $1",
            &[Param::Int(self.version)],
        );
    }
}

/// A version as readers use it.
pub struct Prepared {
    /// The version.
    pub state: State,
    /// Its busiest hosts, in order.
    pub hosts: Ranking,
    /// Its busiest devices, in order.
    pub devices: Ranking,
}

/// What tells one version from all others. Its number would not do: it comes again after a detach or when the transaction
/// that took it did not commit, and a row that somebody tampered with keeps it.
type Identity = (pg_sys::Oid, RowIdentity);

thread_local! {
    /// The version that was read last.
    static KEPT: RefCell<Option<(Identity, Rc<Prepared>)>> = const { RefCell::new(None) };
}

impl Prepared {
    /// The newest version that is seen, read once.
    pub fn newest(seen: Seen) -> Option<Rc<Self>> {
        let table = find_relation(INTERNAL, "seal_state")?;
        let index = find_relation(INTERNAL, "seal_state_pkey")?;
        newest(table, index, seen, |row| {
            let identity = (table, row.identity());
            let kept = KEPT.with_borrow(|kept| kept.clone().filter(|(of, _)| *of == identity));
            if let Some((_, prepared)) = kept {
                return Some(prepared);
            }
            let mut state = State::of(row)?;
            let hosts = Ranking::of(std::mem::take(&mut state.maps.hosts));
            let devices = Ranking::of(std::mem::take(&mut state.maps.devices));
            let prepared = Rc::new(Self { state, hosts, devices });
            KEPT.set(Some((identity, Rc::clone(&prepared))));
            Some(prepared)
        })
        .flatten()
    }
}

/// The counts of every key at `version`: the base before it, and the differences since. `None` when they cannot be read:
/// another version of the library may have written them.
pub fn load_keys(version: i64) -> Option<KeyCounts> {
    let parts = select(
        "select keys from busymate_stats_internal.seal_keys
          where version <= $1
            and version >= (select max(version) from busymate_stats_internal.seal_keys where base and version <= $1)
          order by version",
        &[Param::Int(version)],
        |row| row.bytes(1),
    );
    let mut keys = KeyCounts::default();
    for part in &parts {
        keys.apply(&unpack(part)?);
    }
    Some(keys)
}

/// Appends a difference, or with `base` every key, and removes what came before a base.
pub fn store_keys(version: i64, base: bool, keys: &KeyCounts) {
    execute(
        "insert into busymate_stats_internal.seal_keys (version, base, keys) values ($1, $2 = 1, $3)",
        &[Param::Int(version), Param::Int(i64::from(base)), Param::Bytes(&pack(keys))],
    );
    if base {
        execute("delete from busymate_stats_internal.seal_keys where version < $1", &[Param::Int(version)]);
    }
}

/// Why what is sealed cannot be used: the reason of a marker that is seen.
pub fn marker(seen: Seen) -> Option<String> {
    let table = find_relation(INTERNAL, "seal_markers")?;
    let mut reason = None;
    scan(table, None, None, seen, |row| reason = Some(String::from_utf8_lossy(&row.text(1)).into_owned()));
    reason
}

/// Whether a value of a type reads as the same text in every session and for good. What others read as may change: an enum's
/// labels, or what a cast of somebody's makes of it.
pub fn reads_the_same_everywhere(kind: pg_sys::Oid) -> bool {
    [
        pg_sys::TEXTOID,
        pg_sys::VARCHAROID,
        pg_sys::BPCHAROID,
        pg_sys::UUIDOID,
        pg_sys::INT2OID,
        pg_sys::INT4OID,
        pg_sys::INT8OID,
    ]
    .contains(&kind)
        || is_citext(kind)
}

/// Why a column of another type cannot be counted ahead, and what to do.
pub fn type_obstacle(column: &str, relation: &str, kind: pg_sys::Oid) -> String {
    format!(
        "column \"{column}\" of {relation} has type {}, which cannot be counted ahead; text, varchar, char, citext, uuid and \
         integers can",
        type_name(kind)
    )
}
