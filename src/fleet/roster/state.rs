//! The roster as it stands in tables.

use super::moments::Portion;
use crate::fleet::clock::Timestamp;
use crate::fleet::sealed::counts::Counts;
use crate::pg::query::{Param, execute, select_planned};
use crate::pg::scan::{Seen, find_relation, find_schema, newest, relation_in};
use crate::schemas::INTERNAL;
use pgrx::pg_sys;

/// The devices, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its number.
    pub version: i64,
    /// The generation of the threshold whose writers were waited for.
    pub gen_: i64,
    /// What the relation was like.
    pub fingerprint: String,
    /// Last signs of life are told apart from this moment on,
    pub since: Timestamp,
    /// up to this one.
    pub until: Timestamp,
    /// Devices.
    pub total: i64,
    /// Devices by connection type.
    pub types: Counts,
    /// How long counting took, in microseconds.
    pub took: i64,
}

impl State {
    /// The newest version that is seen.
    pub fn newest(seen: Seen) -> Option<Self> {
        let table = find_relation(INTERNAL, "roster_state")?;
        let index = find_relation(INTERNAL, "roster_state_pkey")?;
        newest(table, index, seen, |row| {
            Some(Self {
                version: row.int(1),
                gen_: row.int(2),
                fingerprint: String::from_utf8_lossy(&row.text(3)).into_owned(),
                since: row.timestamp(4),
                until: row.timestamp(5),
                total: row.int(6),
                // A state that cannot be read is as good as none.
                types: postcard::from_bytes(&row.bytes(7)).ok()?,
                took: row.int(8),
            })
        })
        .flatten()
    }

    /// The number of the newest version, even if the rest of it cannot be read.
    pub fn newest_version() -> i64 {
        let version = || {
            let table = find_relation(INTERNAL, "roster_state")?;
            let index = find_relation(INTERNAL, "roster_state_pkey")?;
            newest(table, index, Seen::Statement, |row| row.int(1))
        };
        version().unwrap_or(0)
    }

    /// Appends this version, and removes those before it.
    pub fn store(&self, portions: &[Portion]) {
        execute(
            "insert into busymate_stats_internal.roster_state
                (version, gen, fingerprint, since, until, total, types, took, counted_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp())",
            &[
                Param::Int(self.version),
                Param::Int(self.gen_),
                Param::Text(&self.fingerprint),
                Param::Timestamp(self.since),
                Param::Timestamp(self.until),
                Param::Int(self.total),
                Param::Bytes(&encoded(&self.types)),
                Param::Int(self.took),
            ],
        );
        for portion in portions {
            execute(
                "insert into busymate_stats_internal.roster_moments (version, first, silent, moments) values ($1, $2, $3, $4)",
                &[
                    Param::Int(self.version),
                    Param::Timestamp(portion.from),
                    Param::Int(portion.before),
                    Param::Bytes(&encoded(&portion.moments)),
                ],
            );
        }
        remove_before(self.version);
    }

    /// How many devices were last seen at `moment` or before, as counted; `None` when the count does not tell.
    pub fn silent_at(&self, moment: Timestamp) -> Option<i64> {
        select_planned(
            "select first, silent, moments from busymate_stats_internal.roster_moments
              where version = $1 and first <= $2 order by first desc limit 1",
            &[Param::Int(self.version), Param::Timestamp(moment)],
            |row| {
                let moments = postcard::from_bytes(&row.bytes(3)).ok()?;
                Some(Portion { from: row.timestamp(1), before: row.int(2), moments }.until(moment))
            },
        )
        .pop()
        .flatten()
    }
}

/// Removes every version of the state before this one.
pub fn remove_before(version: i64) {
    for table in ["roster_state", "roster_moments"] {
        execute(
            &format!("delete from busymate_stats_internal.{table} where version < $1"),
            &[Param::Int(version)],
        );
    }
}

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    match postcard::to_allocvec(value) {
        Ok(bytes) => bytes,
        // Strings and numbers have no value that postcard refuses.
        Err(_) => unreachable!("plain maps can always be written"),
    }
}

/// What the newest row of `roster_capture` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// One more at each move.
    pub gen_: i64,
    /// Last signs of life until this moment are told apart.
    pub threshold: Timestamp,
    /// When it is to move again.
    pub due: Timestamp,
    /// Whether nothing is to be done before that.
    pub resting: bool,
}

impl Capture {
    /// The newest that is seen.
    pub fn newest(seen: Seen) -> Option<Self> {
        Self::newest_in(find_schema(INTERNAL)?, seen)
    }

    /// The same for the extension whose tables are in this schema, whatever it is called by now.
    pub fn newest_in(schema: pg_sys::Oid, seen: Seen) -> Option<Self> {
        let table = relation_in(schema, "roster_capture")?;
        let index = relation_in(schema, "roster_capture_pkey")?;
        newest(table, index, seen, |row| Self {
            gen_: row.int(1),
            threshold: row.timestamp(2),
            due: row.timestamp(3),
            resting: row.bool(4),
        })
    }

    /// Appends this row, and removes those before it.
    pub fn store(self) {
        execute(
            "insert into busymate_stats_internal.roster_capture (gen, threshold, due, resting) values ($1, $2, $3, $4 = 1)",
            &[
                Param::Int(self.gen_),
                Param::Timestamp(self.threshold),
                Param::Timestamp(self.due),
                Param::Int(i64::from(self.resting)),
            ],
        );
        execute(
            "delete from busymate_stats_internal.roster_capture where gen < $1",
            &[Param::Int(self.gen_)],
        );
        if let Some(table) = find_relation(INTERNAL, "roster_capture") {
            crate::pg::invalidation::invalidate(table);
        }
    }
}

/// A device as far as it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its connection type; a null one is `unknown`.
    pub kind: String,
    /// When it was last seen.
    pub seen: Timestamp,
}
