//! A reader's few rows. They come straight from a table's index, where there is one and nothing but the rows themselves is
//! involved: no plan to start, no function to call, no text made of what is only compared. Elsewhere they come by SQL.

use super::rows::Rows;
use super::tally::{Kind, Tallies, class_of};
use super::window::Interval;
use crate::fleet::attachment::Attachment;
use crate::fleet::clock::Timestamp;
use crate::pg::bare::BareRow;
use crate::pg::catalog::has_children;
use crate::pg::identity::as_owner;
use crate::pg::range::RangeIndex;
use crate::pg::relation::{LockedRelation, column_number, column_type, may_select};
use crate::pg::slot::without_padding;
use pgrx::pg_sys;

/// A column of a table, by number and type.
type Column = (i16, pg_sys::Oid);

struct Indexed {
    index: RangeIndex,
    status: Column,
    /// Source, host, device.
    keys: [Column; 3],
}

/// How a reader comes by its rows.
pub struct FewRows {
    rows: Rows,
    indexed: Option<Indexed>,
}

impl FewRows {
    /// The rows of `entries`, whose columns have the types that the seal asks for.
    pub fn of(entries: &LockedRelation, fleet: &Attachment) -> Self {
        Self { rows: Rows::of(entries, fleet), indexed: Indexed::find(entries, fleet) }
    }

    /// Whether they come from an index.
    pub fn are_indexed(&self) -> bool {
        self.indexed.is_some()
    }

    /// Runs `work` with the rights that reading takes.
    pub fn read<R>(&self, work: impl FnOnce() -> R) -> R {
        if self.indexed.is_some() { work() } else { as_owner(self.rows.owner, work) }
    }

    /// Tallies with no rows yet.
    pub fn tallies(&self) -> Tallies {
        let kinds = |indexed: &Indexed| indexed.keys.map(|(_, kind)| kind_of(kind));
        Tallies::new(self.indexed.as_ref().map_or([Kind::Text; 3], kinds))
    }

    /// Counts the rows of an interval, `weight` times. Gives how many they were.
    pub fn tally(&self, interval: Interval, weight: i64, tallies: &mut Tallies) -> i64 {
        let mut rows = 0;
        let Tallies { sources, classes, hosts, devices, .. } = tallies;
        match &self.indexed {
            Some(Indexed { index, status, keys: [source, host, device] }) => {
                index.each_bare(interval.from, Some(interval.to), |row| {
                    rows += 1;
                    for (column, tally) in
                        [(*source, &mut *sources), (*host, &mut *hosts), (*device, &mut *devices)]
                    {
                        with_bytes(row, column, |value| tally.add(value, weight));
                    }
                    classes[class_of(row.int(status.0, status.1))] += weight;
                    true
                });
            }
            None => self.rows.each(interval, |row| {
                rows += 1;
                sources.add(row.source.map(str::as_bytes), weight);
                hosts.add(row.host.map(str::as_bytes), weight);
                devices.add(row.device.map(str::as_bytes), weight);
                classes[row.class] += weight;
            }),
        }
        tallies.rows += weight * rows;
        rows
    }

    /// How many rows are in an interval.
    pub fn count(&self, interval: Interval) -> i64 {
        match &self.indexed {
            Some(indexed) => indexed.count(interval.from, Some(interval.to)),
            None => self.rows.count(interval),
        }
    }

    /// The same, but no more than `most`.
    pub fn count_few(&self, interval: Interval, most: i64) -> i64 {
        match &self.indexed {
            Some(indexed) => indexed.count_few(interval, most),
            None => self.rows.count_few(interval, most),
        }
    }

    /// How many rows there are from `from` on, to the end of time.
    pub fn count_from(&self, from: Timestamp) -> i64 {
        match &self.indexed {
            Some(indexed) => indexed.count(from, None),
            None => self.rows.count_from(from),
        }
    }
}

impl Indexed {
    /// `None` where SQL has to do it: no such index, or a relation whose owner may not read all of it, which is for SQL
    /// to say.
    fn find(entries: &LockedRelation, fleet: &Attachment) -> Option<Self> {
        let readable = !entries.force_row_security && may_select(entries.oid, entries.owner);
        // A parent's index has none of the rows of what inherits.
        if entries.kind != b'r' || has_children(entries.oid) || !readable {
            return None;
        }
        let column = |name: &str| {
            let number = column_number(entries.oid, name);
            (number > 0).then(|| (number, column_type(entries.oid, number)))
        };
        Some(Self {
            index: RangeIndex::find(entries.oid, column(&fleet.entry_time)?.0)?,
            status: column(&fleet.status)?,
            keys: [column(&fleet.source)?, column(&fleet.host)?, column(&fleet.entry_device)?],
        })
    }

    fn count_few(&self, interval: Interval, most: i64) -> i64 {
        let mut rows = 0;
        self.index.each_bare(interval.from, Some(interval.to), |_| {
            rows += 1;
            rows < most
        });
        rows
    }

    fn count(&self, from: Timestamp, to: Option<Timestamp>) -> i64 {
        let mut rows = 0;
        self.index.each_bare(from, to, |_| {
            rows += 1;
            true
        });
        rows
    }
}

fn kind_of(of: pg_sys::Oid) -> Kind {
    match of {
        pg_sys::UUIDOID => Kind::Uuid,
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Kind::Int,
        _ => Kind::Text,
    }
}

/// Hands over a value's bytes, in the way that its [`Kind`] says; `None` when null.
fn with_bytes(row: BareRow, (number, kind): Column, mut take: impl FnMut(Option<&[u8]>)) {
    match kind_of(kind) {
        Kind::Text => {
            let padded = kind == pg_sys::BPCHAROID;
            let found =
                row.with_text(number, |text| take(Some(if padded { without_padding(text) } else { text })));
            if found.is_none() {
                take(None);
            }
        }
        Kind::Uuid => take(row.uuid(number).as_ref().map(<[u8; 16]>::as_slice)),
        Kind::Int => take(row.int(number, kind).map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice)),
    }
}
