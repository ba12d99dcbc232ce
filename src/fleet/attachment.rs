//! Which relations, and which of their columns, make up the fleet.

use crate::error::UserError;
use crate::pg::query::select_latest;
use crate::pg::relation::{LockedRelation, column_number, is_there, lock};
use crate::pg::scan::{Seen, find_relation, find_schema, relation_in, scan};
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

    /// The arguments of attach() that name them.
    pub const COUNTED_ARGUMENTS: [&str; 5] = ["entry_time", "host", "status", "source", "entry_device"];

    /// The columns of devices that are read, with the arguments of attach() that name them.
    pub fn device_columns(&self) -> [(&String, &'static str); 4] {
        let seen = match &self.online {
            Some(online) => (online, "online"),
            None => (&self.last_seen, "last_seen"),
        };
        [
            (&self.device_key, "device_key"),
            (&self.device_name, "device_name"),
            (&self.connection_type, "connection_type"),
            seen,
        ]
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
    if find_relation(INTERNAL, "attachment").is_none() {
        raise_schema_renamed();
    }
    UserError::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, "no fleet is attached")
        .hint("Run SELECT busymate_stats.attach('entries', 'devices'), or SELECT busymate_stats.create_fleet_tables() to start from nothing.")
        .raise()
}

/// Raises 3F000: the tables of the extension are not where they are looked for.
fn raise_schema_renamed() -> ! {
    let present = select_latest(
        "select pg_catalog.quote_ident(n.nspname)
           from pg_catalog.pg_depend d
           join pg_catalog.pg_extension e on e.oid operator(pg_catalog.=) d.refobjid
           join pg_catalog.pg_class c on c.oid operator(pg_catalog.=) d.objid
           join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
          where d.classid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
            and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
            and e.extname operator(pg_catalog.=) 'busymate_stats' and c.relname operator(pg_catalog.=) 'attachment'",
        &[],
        |row| row.text(1).unwrap_or_default(),
    );
    let error = UserError::new(
        PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
        format!("schema {INTERNAL} of the extension has another name"),
    );
    match present.first() {
        Some(present) => error.hint(format!("Run ALTER SCHEMA {present} RENAME TO {INTERNAL}.")).raise(),
        None => error.raise(),
    }
}

/// Locks the attached entries; raises 42P01 when they have been dropped, 55000 when they have another owner by now, and
/// 42703 when a column has gone.
pub fn lock_entries(fleet: &Attachment) -> LockedRelation {
    let locked = lock_attached(fleet.entries, fleet.owners[0], "entries");
    require_columns(&locked, fleet.counted_columns().into_iter().zip(Attachment::COUNTED_ARGUMENTS));
    locked
}

/// The same of the attached devices.
pub fn lock_devices(fleet: &Attachment) -> LockedRelation {
    let locked = lock_attached(fleet.devices, fleet.owners[1], "devices");
    require_columns(&locked, fleet.device_columns().into_iter());
    locked
}

/// PostgreSQL would name neither the relation nor what to do.
fn require_columns<'a>(relation: &LockedRelation, columns: impl Iterator<Item = (&'a String, &'static str)>) {
    for (column, argument) in columns {
        if column_number(relation.oid, column) == 0 {
            UserError::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{column}\" of the attached relation {} does not exist", relation.name),
            )
            .detail("It was renamed or dropped after the relation was attached.")
            .hint(attach_again(argument))
            .raise()
        }
    }
}

/// What to do when a column has another name by now.
pub fn attach_again(argument: &str) -> String {
    format!(
        "Run SELECT busymate_stats.detach(), then attach it again with the column's new name: attach(…, {argument} => '…')."
    )
}

/// Why a relation cannot be locked without waiting: somebody holds a lock, or it was dropped.
pub fn why_not_locked(relation: pg_sys::Oid, part: &str) -> String {
    if is_there(relation) { format!("{part} are locked") } else { dropped(part) }
}

/// What is said of an attached relation that was dropped.
pub fn dropped(part: &str) -> String {
    format!(
        "the attached relation of {part} was dropped: run SELECT busymate_stats.detach(), then attach the one that took its place"
    )
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
