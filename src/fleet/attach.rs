//! Taking a fleet on, and letting it go.

use super::attachment::{self, Attachment};
use super::sealed::state::{reads_the_same_everywhere, type_obstacle};
use super::{roster, triggers};
use crate::error::UserError;
use crate::pg::argument::{Name, RegClass};
use crate::pg::identity::{as_owner, current_role, owns_relation};
use crate::pg::query::{Param, execute, execute_confined, execute_utility, select, select_latest};
use crate::pg::relation::{LockedRelation, base_type, column_number, column_type, is_not_null, lock};
use crate::pg::scan::{Seen, find_relation};
use crate::pg::shared::announce_at_commit;
use crate::schemas::INTERNAL;
use crate::version;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

/// What `attach` is asked to take on.
pub type AttachRequest = Attachment;

impl AttachRequest {
    /// Both relations, with the columns that `create_fleet_tables()` gives them.
    pub fn with_default_columns(entries: pg_sys::Oid, devices: pg_sys::Oid) -> Self {
        Self {
            entries,
            devices,
            entry_time: "created_at".into(),
            host: "host".into(),
            status: "status".into(),
            source: "source".into(),
            entry_device: "device_uuid".into(),
            device_key: "device_uuid".into(),
            device_name: "name".into(),
            connection_type: "connection_type".into(),
            last_seen: "last_seen_at".into(),
            online: None,
            implied: false,
            owners: [pg_sys::InvalidOid; 2],
        }
    }
}

/// Makes these relations the fleet. The caller must own both.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // It is the SQL signature.
fn attach(
    entries: Option<RegClass>,
    devices: Option<RegClass>,
    entry_time: Option<Name>,
    host: Option<Name>,
    status: Option<Name>,
    source: Option<Name>,
    entry_device: Option<Name>,
    device_key: Option<Name>,
    device_name: Option<Name>,
    connection_type: Option<Name>,
    last_seen: Option<Name>,
    online: Option<Name>,
) {
    version::require_match();
    attach_as(&AttachRequest {
        entries: named(entries, "entries").0,
        devices: named(devices, "devices").0,
        entry_time: given(entry_time, "entry_time").0,
        host: given(host, "host").0,
        status: given(status, "status").0,
        source: given(source, "source").0,
        entry_device: given(entry_device, "entry_device").0,
        device_key: given(device_key, "device_key").0,
        device_name: given(device_name, "device_name").0,
        connection_type: given(connection_type, "connection_type").0,
        last_seen: given(last_seen, "last_seen").0,
        online: online.map(|name| name.0),
        implied: false,
        owners: [pg_sys::InvalidOid; 2],
    });
}

fn named(relation: Option<RegClass>, argument: &str) -> RegClass {
    relation.unwrap_or_else(|| {
        raise_null(argument, "Name both relations: SELECT busymate_stats.attach('entries', 'devices').")
    })
}

fn given(column: Option<Name>, argument: &str) -> Name {
    column.unwrap_or_else(|| raise_null(argument, "Leave it out to use its default."))
}

fn raise_null(argument: &str, hint: &str) -> ! {
    UserError::new(
        PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        format!("argument \"{argument}\" must not be null"),
    )
    .hint(hint)
    .raise()
}

/// Checks what `attach` is asked for, and does it.
pub fn attach_as(request: &AttachRequest) {
    let table = own_table();
    as_owner(table.owner, || {
        // One attach or detach at a time; who waits here sees the other's outcome below.
        execute_utility(&format!("lock table {} in share row exclusive mode", table.name));
    });
    let replaced = attachment::read(Seen::Latest);
    if let Some(present) = replaced.as_ref().filter(|present| !present.implied) {
        raise_attached_already(present);
    }
    // What was attached by implication was attached by its owner all the same.
    for relation in replaced.iter().flat_map(|present| [present.entries, present.devices]).filter_map(lock) {
        require_owner(&relation);
    }
    require_own_heaps();
    let entries = Checked::new(request.entries);
    entries.check_entries(request);
    let devices = Checked::new(request.devices);
    devices.check_devices(request);

    as_owner(table.owner, || {
        if let Some(present) = &replaced {
            triggers::drop(lock(present.entries).as_ref());
            roster::triggers::drop(lock(present.devices).as_ref());
        }
        triggers::create(&entries.0, request);
        roster::triggers::create(&devices.0, request);
        entries.notice_types(request);
        forget_attachment();
        execute(
            "insert into busymate_stats_internal.attachment
                (entries, devices, entry_time, host, status, source, entry_device,
                 device_key, device_name, connection_type, last_seen, online, implied)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, nullif($12, ''), $13 = 1)",
            &[
                Param::Oid(request.entries),
                Param::Oid(request.devices),
                Param::Text(&request.entry_time),
                Param::Text(&request.host),
                Param::Text(&request.status),
                Param::Text(&request.source),
                Param::Text(&request.entry_device),
                Param::Text(&request.device_key),
                Param::Text(&request.device_name),
                Param::Text(&request.connection_type),
                Param::Text(&request.last_seen),
                Param::Text(request.online.as_deref().unwrap_or_default()),
                Param::Int(i64::from(request.implied)),
            ],
        );
    });
    reload_postgrest();
    // The first refresh need not wait for its turn.
    announce_at_commit();
}

/// Has PostgREST read the schema anew once the transaction has committed, which `sql/topics/60_reload.sql` says more of. It runs
/// as our owner: the caller may have been refused pg_notify().
pub fn reload_postgrest() {
    let notify = "select pg_catalog.pg_notify('pgrst', 'reload schema')
                   where not exists (select from pg_catalog.pg_extension where extname = 'citus')";
    as_owner(own_table().owner, || execute_utility(notify));
}

/// Lets the fleet go: its statistics end, its tables and rows stay as they are.
#[pg_extern(sql = false)]
fn detach() {
    version::require_match();
    let table = own_table();
    as_owner(table.owner, || {
        execute_utility(&format!("lock table {} in share row exclusive mode", table.name));
    });
    let Some(present) = attachment::read(Seen::Latest) else {
        notice!("no fleet is attached, nothing to do");
        return;
    };
    for relation in [present.entries, present.devices].into_iter().filter_map(lock) {
        require_owner(&relation);
    }
    as_owner(table.owner, || {
        triggers::drop(lock(present.entries).as_ref());
        roster::triggers::drop(lock(present.devices).as_ref());
        forget_attachment();
        execute_confined("service_stats", "delete from public.service_stats", &[]);
    });
}

fn forget_attachment() {
    execute("delete from busymate_stats_internal.attachment", &[]);
    if attachment::read(Seen::Latest).is_some() {
        UserError::new(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "the fleet was attached after this transaction took its snapshot",
        )
        .hint("Run it in a transaction of its own.")
        .raise()
    }
}

/// The table that attachments are kept in. Its owner is the owner of everything internal.
pub fn own_table() -> LockedRelation {
    match find_relation(INTERNAL, "attachment").and_then(lock) {
        Some(table) => table,
        None => unreachable!("the function's extension brings the table"),
    }
}

/// Writers write into these without SQL, as heaps.
fn require_own_heaps() {
    for name in ["late_changes", "seal_markers", "roster_changes"] {
        let table = find_relation(INTERNAL, name).and_then(lock);
        if table.is_none_or(|table| !table.is_heap) {
            prerequisite(format!(
                "table busymate_stats_internal.{name} is not kept by the access method heap"
            ))
            .hint(format!("Run ALTER TABLE busymate_stats_internal.{name} SET ACCESS METHOD heap."))
            .raise();
        }
    }
}

/// Whether Citus keeps the rows elsewhere: of a distributed table in shards, of a reference table on every worker too. A table with
/// a single shard has no distribution key; those that Citus keeps here have no colocation either.
fn is_distributed(relation: &LockedRelation) -> bool {
    // Without Citus, nobody but a superuser who may alter catalogs could make a table by this name.
    find_relation("pg_catalog", "pg_dist_partition").is_some()
        && !select_latest(
            "select 1 from pg_catalog.pg_dist_partition
              where logicalrelid = $1 and (partmethod <> 'n' or colocationid <> 0)",
            &[Param::Oid(relation.oid)],
            |_| (),
        )
        .is_empty()
}

fn raise_attached_already(present: &Attachment) -> ! {
    let name = |oid| lock(oid).map_or_else(|| "a relation that was dropped".into(), |relation| relation.name);
    prerequisite("a fleet is attached already")
        .detail(format!(
            "Entries are read from {}, devices from {}.",
            name(present.entries),
            name(present.devices)
        ))
        .hint("Run SELECT busymate_stats.detach() first.")
        .raise()
}

fn prerequisite(message: impl Into<String>) -> UserError {
    UserError::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

fn require_owner(relation: &LockedRelation) {
    if !owns_relation(current_role(), relation.oid) {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of relation {}", relation.name),
        )
        .hint("The relation is read with its owner's rights, so only its owner may have it read.")
        .raise();
    }
}

/// What a column must be.
enum Wanted {
    TimestampTz,
    Integer,
    Boolean,
    /// Castable to text, as every type is.
    Anything,
}

impl Wanted {
    fn accepts(&self, base: pg_sys::Oid) -> bool {
        match self {
            Wanted::TimestampTz => base == pg_sys::TIMESTAMPTZOID,
            Wanted::Integer => [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID].contains(&base),
            Wanted::Boolean => base == pg_sys::BOOLOID,
            Wanted::Anything => true,
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Wanted::TimestampTz => "timestamptz",
            Wanted::Integer => "integer",
            Wanted::Boolean => "boolean",
            Wanted::Anything => "text",
        }
    }
}

/// A relation that the caller owns, of a kind that can be read.
struct Checked(LockedRelation);

impl Checked {
    fn new(relation: pg_sys::Oid) -> Self {
        let Some(relation) = lock(relation) else {
            UserError::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                format!("relation with OID {} does not exist", relation.to_u32()),
            )
            .raise()
        };
        require_owner(&relation);
        if !matches!(relation.kind, b'r' | b'p' | b'v' | b'm' | b'f') || relation.temporary {
            let what = if relation.temporary { "is temporary" } else { "is no table, view or foreign table" };
            UserError::new(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("relation {} {what}", relation.name),
            )
            .hint("Attach a permanent table, partitioned table, view, materialized view or foreign table.")
            .raise();
        }
        if is_distributed(&relation) {
            prerequisite(format!("relation {} is distributed by Citus, so what changes in it is not seen here", relation.name))
                .hint(format!(
                    "Attach a view of it, CREATE VIEW all_entries AS SELECT * FROM {}, or a foreign table, of which Citus's workers compute more: see docs/scaling.md.",
                    relation.name
                ))
                .raise();
        }
        if relation.force_row_security {
            prerequisite(format!("policies of {} hide rows from its own owner", relation.name))
                .detail("The relation is read as its owner, so the figures would be short.")
                .hint(format!("Run ALTER TABLE {} NO FORCE ROW LEVEL SECURITY.", relation.name))
                .raise();
        }
        Self(relation)
    }

    fn is_table(&self) -> bool {
        matches!(self.0.kind, b'r' | b'p')
    }

    fn check_entries(&self, request: &AttachRequest) {
        let time = self.column(&request.entry_time, "entry_time", &Wanted::TimestampTz);
        self.column(&request.host, "host", &Wanted::Anything);
        self.column(&request.status, "status", &Wanted::Integer);
        self.column(&request.source, "source", &Wanted::Anything);
        self.column(&request.entry_device, "entry_device", &Wanted::Anything);
        if self.is_table() {
            self.check_entry_time(&request.entry_time, time);
        }
        self.probe(&[
            &request.entry_time,
            &request.host,
            &request.status,
            &request.source,
            &request.entry_device,
        ]);
    }

    /// A type that is exact and slow should not come as a surprise.
    fn notice_types(&self, request: &AttachRequest) {
        let [_, host, _, source, device] = request.counted_columns();
        for column in [host, source, device].into_iter().filter(|_| self.is_table()) {
            let kind = column_type(self.0.oid, column_number(self.0.oid, column));
            if !reads_the_same_everywhere(kind) {
                let (name, quoted) = (&self.0.name, quote_identifier(column));
                ereport!(
                    PgLogLevel::NOTICE,
                    PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                    type_obstacle(column, name, kind),
                    format!(
                        "Figures are exact, and each call of get_stats() reads every entry. To have them counted ahead, run \
                         ALTER TABLE {name} ALTER COLUMN {quoted} TYPE text."
                    )
                );
            }
        }
    }

    fn check_devices(&self, request: &AttachRequest) {
        self.column(&request.device_key, "device_key", &Wanted::Anything);
        self.column(&request.device_name, "device_name", &Wanted::Anything);
        self.column(&request.connection_type, "connection_type", &Wanted::Anything);
        let seen = match &request.online {
            Some(online) => {
                self.column(online, "online", &Wanted::Boolean);
                online
            }
            None => {
                self.column(&request.last_seen, "last_seen", &Wanted::TimestampTz);
                &request.last_seen
            }
        };
        self.probe(&[&request.device_key, &request.device_name, &request.connection_type, seen]);
    }

    /// The number of a column that is there and of the right type.
    fn column(&self, column: &str, argument: &str, wanted: &Wanted) -> i16 {
        let relation = &self.0;
        let found = select_latest(
            "select a.attnum::int8, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod)
               from pg_catalog.pg_attribute a
              where a.attrelid = $1 and a.attname = $2 and a.attnum > 0 and not a.attisdropped",
            &[Param::Oid(relation.oid), Param::Text(column)],
            |row| (row.int(1) as i16, row.oid(2), row.text(3)),
        )
        .pop();
        let quoted = quote_identifier(column);
        let Some((found, type_oid, type_name)) = found else {
            let mend = if self.is_table() {
                format!(
                    "Run ALTER TABLE {} ADD COLUMN {quoted} {}, or name",
                    relation.name,
                    wanted.type_name()
                )
            } else {
                "Name".into()
            };
            UserError::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{column}\" of relation {} does not exist", relation.name),
            )
            .hint(format!("{mend} another column: attach(…, {argument} => '…')."))
            .raise()
        };
        if !wanted.accepts(base_type(type_oid)) {
            let target = wanted.type_name();
            let mend = if self.is_table() {
                format!(
                    "Run ALTER TABLE {} ALTER COLUMN {quoted} TYPE {target} USING {quoted}::{target}, or name",
                    relation.name
                )
            } else {
                format!("Give the view's column the type {target}, or name")
            };
            UserError::new(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "column \"{column}\" of relation {} has type {}, and {argument} must be of type {target}",
                    relation.name,
                    type_name.unwrap_or_default()
                ),
            )
            .hint(format!("{mend} another column: attach(…, {argument} => '…')."))
            .raise();
        }
        found
    }

    /// Windows are cut by the entry time: without a value an entry would be in none, without an index each read would
    /// visit every row.
    fn check_entry_time(&self, column: &str, time: i16) {
        let name = &self.0.name;
        let quoted = quote_identifier(column);
        if !is_not_null(self.0.oid, time) {
            prerequisite(format!("column \"{column}\" of relation {name} may be null"))
                .hint(format!("Run ALTER TABLE {name} ALTER COLUMN {quoted} SET NOT NULL."))
                .raise();
        }
        let led_by_time = select_latest(
            "select i.indexrelid
               from pg_catalog.pg_index i
               join pg_catalog.pg_class c on c.oid = i.indexrelid
               join pg_catalog.pg_am m on m.oid = c.relam
              where i.indrelid = $1 and i.indkey[0] = $2 and i.indisvalid and i.indpred is null
                and m.amname = 'btree'",
            &[Param::Oid(self.0.oid), Param::Int(i64::from(time))],
            |row| row.oid(1),
        );
        if led_by_time.is_empty() {
            prerequisite(format!("relation {name} has no index led by column \"{column}\""))
                .hint(format!("Run CREATE INDEX ON {name} ({quoted})."))
                .raise();
        }
    }

    /// Reads no row, but asks the planner and the privilege checks all that reading would: what does not work is told
    /// now rather than at the first refresh.
    fn probe(&self, columns: &[&String]) {
        let columns: Vec<_> = columns.iter().map(|column| quote_identifier(column) + "::text").collect();
        let sql = format!("select {} from {} where false", columns.join(", "), self.0.name);
        as_owner(self.0.owner, || select(&sql, &[], |_| ()));
    }
}
