//! Which relations, and which of their columns, make up the fleet.

use crate::error::UserError;
use crate::pg::relation::{LockedRelation, lock};
use crate::pg::scan::{Seen, find_schema, relation_in, scan};
use crate::schemas::INTERNAL;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// The row of `busymate_stats_internal.attachment`. Column names are as the user gave them, not quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The relation of entries.
    pub entries: pg_sys::Oid,
    /// The relation of devices.
    pub devices: pg_sys::Oid,
    /// Of entries: when an entry happened.
    pub entry_time: String,
    /// Of entries: the host.
    pub host: String,
    /// Of entries: the HTTP status.
    pub status: String,
    /// Of entries: the source.
    pub source: String,
    /// Of entries: the device.
    pub entry_device: String,
    /// Of devices: the key that `entry_device` refers to.
    pub device_key: String,
    /// Of devices: the name.
    pub device_name: String,
    /// Of devices: the connection type.
    pub connection_type: String,
    /// Of devices: when it was last seen. Not read when `online` is given.
    pub last_seen: String,
    /// Of devices: whether it is online.
    pub online: Option<String>,
    /// Whether `create_fleet_tables()` made this attachment rather than the user.
    pub implied: bool,
    /// Who owned entries and devices when they were attached; what is asked of `attach` has none.
    pub owners: [pg_sys::Oid; 2],
}

impl Attachment {
    /// The columns of entries that are counted: entry time, host, status, source, device.
    pub fn counted_columns(&self) -> [&String; 5] {
        [&self.entry_time, &self.host, &self.status, &self.source, &self.entry_device]
    }
}

/// The attachment that the running statement sees, or the latest.
pub fn read(seen: Seen) -> Option<Attachment> {
    read_in(find_schema(INTERNAL)?, seen).flatten()
}

/// The same for the extension whose tables are in this schema, whatever it is called by now; `None` when there is no table.
pub fn read_in(schema: pg_sys::Oid, seen: Seen) -> Option<Option<Attachment>> {
    let table = relation_in(schema, "attachment")?;
    let mut found = None;
    scan(table, None, None, seen, |row| {
        let name = |column| row.name(column).unwrap_or_default();
        found = Some(Attachment {
            entries: row.oid(2),
            devices: row.oid(3),
            entry_time: name(4),
            host: name(5),
            status: name(6),
            source: name(7),
            entry_device: name(8),
            device_key: name(9),
            device_name: name(10),
            connection_type: name(11),
            last_seen: name(12),
            online: row.name(13),
            implied: row.bool(14),
            owners: [row.oid(15), row.oid(16)],
        });
    });
    Some(found)
}

/// Raises 42P01: there is no fleet to count.
///
/// PostgREST makes 404 of it, and 500 of 55000, which gateways report as a broken server.
pub fn raise_nothing_attached() -> ! {
    UserError::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, "no fleet is attached")
        .hint("Run SELECT busymate_stats.attach('entries', 'devices'), or SELECT busymate_stats.create_fleet_tables() to start from nothing.")
        .raise()
}

/// Locks the attached entries; raises 42P01 when they have been dropped, and 55000 when they
/// have another owner by now.
pub fn lock_entries(fleet: &Attachment) -> LockedRelation {
    lock_attached(fleet.entries, fleet.owners[0], "entries")
}

/// The same of the attached devices.
pub fn lock_devices(fleet: &Attachment) -> LockedRelation {
    lock_attached(fleet.devices, fleet.owners[1], "devices")
}

/// The relation is read with its owner's rights, so it must be the owner who has attached it.
fn lock_attached(relation: pg_sys::Oid, owner: pg_sys::Oid, part: &str) -> LockedRelation {
    let Some(locked) = lock(relation) else {
        UserError::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("the attached relation of {part} no longer exists"),
        )
        .hint("Run SELECT busymate_stats.detach(), then attach the relation that took its place.")
        .raise()
    };
    if locked.owner != owner {
        UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the attached relation of {part} has had another owner since it was attached"),
        )
        .detail("It is read with its owner's rights, and this owner has not attached it.")
        .hint("Run SELECT busymate_stats.detach(), then attach it again as its owner.")
        .raise()
    }
    locked
}
