//! What is counted: which relations make up the fleet, and what their figures are.

mod attach;
mod attachment;
mod capture;
mod clock;
mod create;
mod daily;
mod ddl;
mod figures;
mod hypertable;
pub mod late;
mod oracle;
mod plain;
pub mod roster;
pub mod sealed;
mod shards;
mod tree;
mod triggers;
mod verify;

pub use clock::{Timestamp, iso, timestamp};
pub use daily::keep_ahead;
pub use verify::{compare, is_sealed, void_seal};

use crate::access::caller_grants;
use crate::error::UserError;
use crate::pg::catalog::has_children;
use crate::pg::identity::as_owner;
use crate::pg::query::plan;
use crate::pg::relation::LockedRelation;
use crate::pg::scan::Seen;
use crate::pg::setting;
use crate::pg::transaction::under_later_snapshot;
use crate::torture;
use attachment::{lock_devices, lock_entries};
use figures::Figures;
use pgrx::prelude::*;
use roster::reader::Missing;
use serde_json::Value;

/// Installs what captures changes of entries and devices.
pub fn register() {
    capture::register();
    roster::register();
    ddl::register();
}

/// Whether there is a fleet to count.
pub fn is_attached() -> bool {
    attachment::read(Seen::Statement).is_some()
}

fn may_read() -> bool {
    caller_grants().hold("stats", "view")
}

/// A snapshot, and what is known of it beside.
pub struct SnapshotNow {
    /// The snapshot.
    pub value: Value,
    /// Its moment.
    pub as_of: Timestamp,
    /// What is to be said of what it costs, if anything.
    pub note: Option<String>,
}

/// The snapshot at this moment, under the active snapshot. Raises 42P01 when no fleet is attached.
pub fn snapshot_now() -> SnapshotNow {
    let as_of = clock::now_in_whole_milliseconds();
    let (figures, _) = figures_and_way(as_of, Way::Sealed);
    SnapshotNow { value: figures.snapshot(), as_of, note: figures.ahead.told() }
}

/// [`snapshot_now`] for a feed, under a snapshot that is taken when what will be read is locked. A table that was emptied or
/// rewritten while its lock was waited for looks empty under an older one. (What a view's functions read is not seen here.)
pub fn snapshot_for_feed() -> SnapshotNow {
    for _ in 1..TRIES {
        let fleet = attachment::read(Seen::Latest).unwrap_or_else(|| attachment::raise_nothing_attached());
        lock_for_feed(&fleet);
        // Somebody may have attached other relations meanwhile.
        let now = under_later_snapshot(|| {
            let unchanged = attachment::read(Seen::Statement).is_some_and(|now| now == fleet);
            unchanged.then(snapshot_now)
        });
        if let Some(now) = now {
            return now;
        }
    }
    snapshot_now()
}

/// How often a fleet that is attached anew all the time is locked.
const TRIES: usize = 3;

fn lock_for_feed(fleet: &attachment::Attachment) {
    let entries = lock_entries(fleet);
    let is_sealable = tree::shape(&entries, fleet).is_ok();
    if !is_sealable {
        lock_behind(&entries);
    }
    // What stands behind a view may take minutes to read, and DROP EXTENSION, which takes a trigger off devices, would wait for
    // as long.
    if is_sealable || (matches!(entries.kind, b'r' | b'p') && shards::of(&entries).is_none()) {
        let devices = lock_devices(fleet);
        if devices.kind != b'r' || has_children(devices.oid) {
            lock_behind(&devices);
        }
    }
}

fn lock_behind(relation: &LockedRelation) {
    let all = format!("select * from {}", relation.name);
    as_owner(relation.owner, || plan(&all));
}

/// How figures are come by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From what is sealed, where that can be used; by the plain query otherwise.
    Sealed,
    /// By the plain query.
    Plain,
}

fn snapshot_at(as_of: Timestamp, way: Way) -> Value {
    snapshot_and_way(as_of, way).0
}

fn snapshot_and_way(as_of: Timestamp, asked: Way) -> (Value, Way) {
    let (figures, way) = figures_and_way(as_of, asked);
    (figures.snapshot(), way)
}

/// The figures, and the way that they were computed in the end.
fn figures_and_way(as_of: Timestamp, asked: Way) -> (Figures, Way) {
    let fleet = attachment::read(Seen::Statement).unwrap_or_else(|| attachment::raise_nothing_attached());
    // Each is locked before its owner is looked at, who cannot change under a lock; and devices not before entries were
    // read, which may take long where they are no table: DROP EXTENSION takes a trigger off devices.
    let entries = lock_entries(&fleet);
    let mut figures = Figures { as_of, ..Figures::default() };
    let sealed = match asked {
        Way::Sealed => {
            let answer = sealed::reader::read_entries(&fleet, &entries, &mut figures);
            torture::note_way(&answer);
            answer.ok()
        }
        Way::Plain => None,
    };
    let way = if sealed.is_some() { Way::Sealed } else { Way::Plain };
    let busiest = sealed.unwrap_or_else(|| {
        // What figures a try at the sealed ones has left is none of theirs.
        figures = Figures { as_of, ..Figures::default() };
        if asked == Way::Plain {
            return as_owner(entries.owner, || oracle::read_entries(&fleet, &entries.name, &mut figures));
        }
        match shards::of(&entries) {
            Some(tables) => shards::read_entries(&fleet, &tables, &mut figures),
            None => as_owner(entries.owner, || plain::read_entries(&fleet, &entries, &mut figures)),
        }
    });
    let devices = lock_devices(&fleet);
    let counted = match asked {
        Way::Sealed => {
            let answer = roster::reader::read_devices(&fleet, &devices, &mut figures);
            torture::note_roster_way(&answer);
            answer
        }
        Way::Plain => Err(Missing::All(String::new())),
    };
    as_owner(devices.owner, || {
        match counted {
            Ok(()) => {}
            Err(Missing::All(_)) => oracle::count_devices(&fleet, &devices, &mut figures),
            Err(Missing::Online(_)) => oracle::count_online(&fleet, &devices, &mut figures),
        }
        figures.top_devices = oracle::name_devices(&fleet, &devices, busiest);
    });
    (figures, way)
}

fn required(as_of: Option<TimestampWithTimeZone>) -> Timestamp {
    let Some(as_of) = as_of else {
        UserError::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "argument \"as_of\" must not be null")
            .hint("For the figures of this moment, call get_stats().")
            .raise()
    };
    let as_of = as_of.into_inner();
    if !clock::is_finite(as_of) {
        UserError::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "argument \"as_of\" must be finite")
            .raise();
    }
    as_of
}

/// The fleet's statistics, computed at each call; NULL without `stats:view`.
#[pg_extern(stable, parallel_restricted, sql = false)]
fn get_stats() -> Option<pgrx::JsonB> {
    within_lock_timeout(|| may_read().then(|| pgrx::JsonB(snapshot_now().value)))
}

/// Runs a read that an API serves. It gives up a lock after two seconds: requests that wait behind an ALTER TABLE on
/// entries would otherwise take up PostgREST's whole pool, and every other endpoint with it. A `lock_timeout` of the
/// session's own counts instead.
pub fn within_lock_timeout<R>(read: impl FnOnce() -> R) -> R {
    setting::with_lock_timeout(c"2s", read)
}

/// The fleet's statistics as of a moment; NULL without `stats:view`.
#[pg_extern(stable, parallel_restricted, sql = false)]
fn stats_at(as_of: Option<TimestampWithTimeZone>) -> Option<pgrx::JsonB> {
    may_read().then(|| pgrx::JsonB(snapshot_at(required(as_of), Way::Sealed)))
}

/// The same by plain SQL over every row: what any faster way of computing the figures is held against.
#[pg_extern(stable, parallel_restricted, sql = false)]
fn stats_recomputed(as_of: Option<TimestampWithTimeZone>) -> Option<pgrx::JsonB> {
    may_read().then(|| pgrx::JsonB(snapshot_at(required(as_of), Way::Plain)))
}
