-- The sealed window: what has been counted, and what has changed behind it. Rows are appended and later removed, never
-- updated. None of this is dumped: a restored database counts anew.

create table busymate_stats_internal.capture (
    gen bigint primary key,
    threshold timestamptz not null,
    window_start timestamptz not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
comment on table busymate_stats_internal.capture is
    'The capture threshold: writers note what they change in rows before it. The newest row counts.';
comment on column busymate_stats_internal.capture.gen is 'Generation: one more at each move.';
comment on column busymate_stats_internal.capture.threshold is 'Changes to rows with an earlier entry time are noted.';
comment on column busymate_stats_internal.capture.window_start is
    'Of rows before it, which are in no window, only how many came and went in each hour.';
insert into busymate_stats_internal.capture values (0, '-infinity', '-infinity');

create table busymate_stats_internal.seal_look (
    gen bigint primary key,
    writers xid8[] not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
comment on table busymate_stats_internal.seal_look is
    'Who was writing when a threshold had just become known: they may have missed it, so the seal waits for them.';
comment on column busymate_stats_internal.seal_look.gen is 'The threshold''s generation.';
comment on column busymate_stats_internal.seal_look.writers is 'Their transactions.';

-- Three tables are written to by the library itself, as heaps and without SQL; their rows are no business of logical
-- decoding, which gets nothing of an inserted row and no identity of a deleted one. A pack is stored inline up to a page,
-- and a longer one out of line, uncompressed.
create table busymate_stats_internal.late_changes (
    gen bigint not null,
    first_time timestamptz not null,
    last_time timestamptz not null,
    changes bigint not null,
    packed bytea not null
) using heap
    with (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.1, vacuum_truncate = false, toast_tuple_target = 8160,
          toast.autovacuum_vacuum_threshold = 500, toast.autovacuum_vacuum_scale_factor = 0.1, toast.vacuum_truncate = false);
alter table busymate_stats_internal.late_changes alter column packed set storage external;
alter table busymate_stats_internal.late_changes replica identity nothing;
create index late_changes_gen on busymate_stats_internal.late_changes (gen);
comment on table busymate_stats_internal.late_changes is
    'Changes to rows before the capture threshold, until the sealer has folded them in: many of a transaction in one row.';
comment on column busymate_stats_internal.late_changes.gen is 'The highest generation of a threshold that a change was noted for.';
comment on column busymate_stats_internal.late_changes.first_time is 'No change is to a row with an earlier entry time.';
comment on column busymate_stats_internal.late_changes.last_time is 'No change is to a row with a later entry time.';
comment on column busymate_stats_internal.late_changes.changes is 'How many changes there are.';
comment on column busymate_stats_internal.late_changes.packed is 'The changes, in the library''s own format.';

create table busymate_stats_internal.seal_markers (
    reason text not null,
    made_at timestamptz not null
) using heap with (vacuum_truncate = false);
alter table busymate_stats_internal.seal_markers replica identity nothing;
comment on table busymate_stats_internal.seal_markers is
    'Something changed the entries that no trigger could see: what is sealed is void until the sealer has counted anew.';
comment on column busymate_stats_internal.seal_markers.reason is 'What it was.';
comment on column busymate_stats_internal.seal_markers.made_at is 'When it happened.';

create table busymate_stats_internal.seal_state (
    version bigint primary key,
    boundary timestamptz not null,
    goal timestamptz not null,
    gen bigint not null,
    epoch bigint not null,
    fingerprint text not null,
    total bigint not null,
    last_day bigint not null,
    last_hour bigint not null,
    made_at timestamptz not null,
    maps bytea not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
alter table busymate_stats_internal.seal_state alter column maps set storage external;
comment on table busymate_stats_internal.seal_state is
    'What is counted: every entry before the boundary. The newest row counts, once its boundary has reached its goal.';
comment on column busymate_stats_internal.seal_state.version is 'Counts up.';
comment on column busymate_stats_internal.seal_state.boundary is 'Every entry before this moment is counted.';
comment on column busymate_stats_internal.seal_state.goal is 'Where the boundary is going; the windows are those of this moment.';
comment on column busymate_stats_internal.seal_state.gen is 'The generation of the threshold whose writers were waited for.';
comment on column busymate_stats_internal.seal_state.epoch is 'How often everything was counted anew.';
comment on column busymate_stats_internal.seal_state.fingerprint is 'What the relation was like: its file, columns and types.';
comment on column busymate_stats_internal.seal_state.total is 'Entries before the boundary.';
comment on column busymate_stats_internal.seal_state.last_day is 'Of them, those in the goal''s last 24 hours.';
comment on column busymate_stats_internal.seal_state.last_hour is 'Of them, those in the goal''s last hour.';
comment on column busymate_stats_internal.seal_state.made_at is 'When the row was written.';
comment on column busymate_stats_internal.seal_state.maps is 'Counts of the last 24 hours by source and status class, and the busiest hosts and devices.';

create table busymate_stats_internal.seal_keys (
    version bigint primary key,
    base boolean not null,
    keys bytea not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
-- Most of it does not compress, and trying takes longer than all the rest of a tick.
alter table busymate_stats_internal.seal_keys alter column keys set storage external;
comment on table busymate_stats_internal.seal_keys is
    'The counts of every host and device: a base now and then, differences in between.';
comment on column busymate_stats_internal.seal_keys.version is 'The version of the state that it belongs to.';
comment on column busymate_stats_internal.seal_keys.base is 'Whether it holds every key, or what has changed since the row before.';
comment on column busymate_stats_internal.seal_keys.keys is 'Keys and counts.';

create table busymate_stats_internal.seal_partitions (
    leaf oid not null,
    file oid not null,
    trigger oid not null,
    version text not null
) with (vacuum_truncate = false);
alter table busymate_stats_internal.seal_partitions replica identity full;
comment on table busymate_stats_internal.seal_partitions is
    'Partitions that have joined entries without a row in them: all that is in them since was captured.';
comment on column busymate_stats_internal.seal_partitions.leaf is 'The partition.';
comment on column busymate_stats_internal.seal_partitions.file is 'The file that was empty.';
comment on column busymate_stats_internal.seal_partitions.trigger is 'The capture trigger that it got: another one each time that it joins.';
comment on column busymate_stats_internal.seal_partitions.version is 'The versions of the catalog rows of that trigger and of the partition''s place: others once it was disabled, or the partition was elsewhere.';

create function busymate_stats_internal.capture_change() returns trigger
    language c as 'MODULE_PATHNAME', 'capture_change_wrapper';
comment on function busymate_stats_internal.capture_change() is
    'Trigger: notes what is changed of a row of entries before the capture threshold.';

create function busymate_stats_internal.frozen_change() returns trigger
    language c as 'MODULE_PATHNAME', 'frozen_change_wrapper';
comment on function busymate_stats_internal.frozen_change() is
    'Trigger: has everything counted anew when a row changes of a partition whose access method is not heap.';

-- It sits on every DDL of the database, so it returns at once unless the statement has made a partition of entries, and
-- raises nothing. Where it does not run, a partition that has come costs a recount.
create function busymate_stats_internal.note_empty_partitions() returns event_trigger
    language c as 'MODULE_PATHNAME', 'note_empty_partitions_wrapper';
comment on function busymate_stats_internal.note_empty_partitions() is
    'Event trigger: remembers partitions of entries that come without a row in them, so that they need not be counted.';

-- A transaction that has changed late rows holds a lock on entries, and asks for one on late_changes at its commit. DROP and
-- ALTER EXTENSION lock late_changes first, so the two would deadlock. The trigger fires for every extension and is not
-- passed a name: it looks for this one's in the statement's text. It is not in C: where the library is gone, DROP EXTENSION
-- still works.
create function busymate_stats_internal.lock_fleet_first() returns event_trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
declare
    relation regclass;
begin
    if current_query() ilike '%busymate\_stats%' then
        for relation in
            select c.oid
              from busymate_stats_internal.attachment a
              join unnest(array[a.entries, a.devices]) with ordinality fleet (oid, place) on true
              join pg_class c on c.oid = fleet.oid and c.relkind in ('r', 'p')
             order by fleet.place
        loop
            -- Its partitions too.
            execute format('lock table %s in access exclusive mode', relation);
        end loop;
    end if;
exception when insufficient_privilege then
    return;
end
$$;
comment on function busymate_stats_internal.lock_fleet_first() is
    'Event trigger: locks entries and devices before DROP or ALTER EXTENSION, or DROP SCHEMA, locks the extension''s own tables.';

create event trigger busymate_stats_partitions on ddl_command_end
    when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE SCHEMA') execute function busymate_stats_internal.note_empty_partitions();
create event trigger busymate_stats_lock on ddl_command_start
    when tag in ('DROP EXTENSION', 'ALTER EXTENSION', 'DROP SCHEMA') execute function busymate_stats_internal.lock_fleet_first();
alter event trigger busymate_stats_partitions enable always;
alter event trigger busymate_stats_lock enable always;
comment on event trigger busymate_stats_partitions is 'Remembers partitions of entries that come empty.';
comment on event trigger busymate_stats_lock is 'Has DROP and ALTER EXTENSION lock entries and devices first.';

create function busymate_stats.verify() returns table (figure text, incremental jsonb, recomputed jsonb)
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
    as $$
declare
    as_of timestamptz := clock_timestamp();
    sealed jsonb := busymate_stats.stats_at(as_of);
    plain jsonb := busymate_stats.stats_recomputed(as_of);
begin
    return query
        select keys.figure, sealed -> keys.figure, plain -> keys.figure
          from jsonb_object_keys(coalesce(sealed, plain)) keys (figure)
         where sealed -> keys.figure is distinct from plain -> keys.figure;
end
$$;
comment on function busymate_stats.verify() is
    'Computes the statistics both ways under one snapshot: a row for each figure that differs, so none.';
