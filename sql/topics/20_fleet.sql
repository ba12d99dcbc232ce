-- What is counted.

create function busymate_stats.version() returns text
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'version_wrapper';
comment on function busymate_stats.version() is
    'The version of the loaded library; the extension''s stands in pg_extension.extversion.';

create table busymate_stats_internal.attachment (
    id int primary key default 1 check (id = 1),
    entries regclass not null,
    devices regclass not null,
    entry_time name not null,
    host name not null,
    status name not null,
    source name not null,
    entry_device name not null,
    device_key name not null,
    device_name name not null,
    connection_type name not null,
    last_seen name not null,
    online name,
    implied boolean not null,
    entries_owner oid not null,
    devices_owner oid not null
);
comment on table busymate_stats_internal.attachment is 'The relations and columns that make up the fleet: one row, written by attach().';
comment on column busymate_stats_internal.attachment.id is 'Always 1.';
comment on column busymate_stats_internal.attachment.entries is 'The relation of entries.';
comment on column busymate_stats_internal.attachment.devices is 'The relation of devices.';
comment on column busymate_stats_internal.attachment.entry_time is 'Of entries: when the entry happened.';
comment on column busymate_stats_internal.attachment.host is 'Of entries: the host.';
comment on column busymate_stats_internal.attachment.status is 'Of entries: the HTTP status.';
comment on column busymate_stats_internal.attachment.source is 'Of entries: the source.';
comment on column busymate_stats_internal.attachment.entry_device is 'Of entries: the device.';
comment on column busymate_stats_internal.attachment.device_key is 'Of devices: what entry_device refers to.';
comment on column busymate_stats_internal.attachment.device_name is 'Of devices: the name.';
comment on column busymate_stats_internal.attachment.connection_type is 'Of devices: the connection type.';
comment on column busymate_stats_internal.attachment.last_seen is 'Of devices: the last sign of life; not read where online is given.';
comment on column busymate_stats_internal.attachment.online is 'Of devices: whether it is online.';
comment on column busymate_stats_internal.attachment.implied is 'Made by create_fleet_tables(): attach() may replace it.';
comment on column busymate_stats_internal.attachment.entries_owner is 'Who owned entries when they were attached.';
comment on column busymate_stats_internal.attachment.devices_owner is 'Who owned devices when they were attached.';
select pg_catalog.pg_extension_config_dump('busymate_stats_internal.attachment', '');

-- The relations are read with their owner's rights. A restore gives them their owners first.
create function busymate_stats_internal.note_owners() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
begin
    new.entries_owner := (select c.relowner from pg_class c where c.oid = new.entries);
    new.devices_owner := (select c.relowner from pg_class c where c.oid = new.devices);
    return new;
end
$$;
comment on function busymate_stats_internal.note_owners() is 'Trigger: writes down who owns the relations that are attached.';
create trigger note_owners before insert on busymate_stats_internal.attachment
    for each row execute function busymate_stats_internal.note_owners();

-- A table of its own, for it outlives the attachment: detach() and attach() leave it as it is.
create table busymate_stats_internal.daily_partitions (
    entries regclass primary key
);
comment on table busymate_stats_internal.daily_partitions is 'The tables whose partitions a refresh makes ahead, one for each day, while they are attached.';
comment on column busymate_stats_internal.daily_partitions.entries is 'Made by create_fleet_tables(partition_by => ''day'').';
select pg_catalog.pg_extension_config_dump('busymate_stats_internal.daily_partitions',
    'where exists (select from pg_catalog.pg_class c where c.oid = entries)');

create function busymate_stats.create_fleet_tables(partition_by text default null) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'create_fleet_tables_wrapper';
comment on function busymate_stats.create_fleet_tables(text) is
    'Makes public.devices and public.entries, row-level security on and no policies, and attaches them. With ''day'', entries have a partition for each day, which the worker makes a week ahead.';

create function busymate_stats.attach(
    entries regclass,
    devices regclass,
    entry_time name default 'created_at',
    host name default 'host',
    status name default 'status',
    source name default 'source',
    entry_device name default 'device_uuid',
    device_key name default 'device_uuid',
    device_name name default 'name',
    connection_type name default 'connection_type',
    last_seen name default 'last_seen_at',
    online name default null
) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'attach_wrapper';
comment on function busymate_stats.attach(regclass, regclass, name, name, name, name, name, name, name, name, name, name) is
    'Makes these relations the fleet. The caller must own both: they are read with their owner''s rights.';

create function busymate_stats.detach() returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'detach_wrapper';
comment on function busymate_stats.detach() is
    'Lets the fleet go: its statistics end, its tables and rows stay as they are.';

create function busymate_stats.stats_at(as_of timestamptz) returns jsonb
    language c stable parallel restricted
    as 'MODULE_PATHNAME', 'stats_at_wrapper';
comment on function busymate_stats.stats_at(timestamptz) is
    'The fleet''s statistics as of a moment; null without stats:view.';

create function busymate_stats.stats_recomputed(as_of timestamptz) returns jsonb
    language c stable parallel restricted
    as 'MODULE_PATHNAME', 'stats_recomputed_wrapper';
comment on function busymate_stats.stats_recomputed(timestamptz) is
    'The same by plain SQL over every row: slow, and what stats_at() is held against.';
