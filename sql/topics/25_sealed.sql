-- The sealed window: what has been counted, and what has changed behind it. Rows are appended and later removed, never
-- updated. None of this is dumped: a restored database counts anew.

create table busymate_stats.capture (
    gen bigint primary key,
    threshold timestamptz not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
comment on table busymate_stats.capture is
    'The capture threshold: writers write down what they change in rows before it. The newest row counts.';
comment on column busymate_stats.capture.gen is 'Generation: one more at each move.';
comment on column busymate_stats.capture.threshold is 'Changes to rows with an earlier entry time are written down.';
insert into busymate_stats.capture values (0, '-infinity');

create table busymate_stats.seal_look (
    gen bigint primary key,
    writers xid8[] not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
comment on table busymate_stats.seal_look is
    'Who was writing when a threshold had just become known: they may have missed it, so the seal waits for them.';
comment on column busymate_stats.seal_look.gen is 'The threshold''s generation.';
comment on column busymate_stats.seal_look.writers is 'Their transactions.';

create table busymate_stats.late_changes (
    gen bigint not null,
    entry_time timestamptz not null,
    source text not null,
    class bigint not null,
    host text,
    device text,
    n bigint not null,
    relation oid not null
) with (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.1, vacuum_truncate = false);
create index late_changes_gen on busymate_stats.late_changes (gen);
alter table busymate_stats.late_changes replica identity full;
comment on table busymate_stats.late_changes is
    'Changes to rows before the capture threshold: +n for rows that came, -n for rows that went.';
comment on column busymate_stats.late_changes.gen is 'The threshold''s generation that the writer read.';
comment on column busymate_stats.late_changes.entry_time is 'The row''s entry time.';
comment on column busymate_stats.late_changes.source is 'The row''s source; unknown for none.';
comment on column busymate_stats.late_changes.class is 'The row''s status class; 0 for one that is not shown.';
comment on column busymate_stats.late_changes.host is 'The row''s host.';
comment on column busymate_stats.late_changes.device is 'The row''s device, as text.';
comment on column busymate_stats.late_changes.n is 'How many such rows came, less those that went.';
comment on column busymate_stats.late_changes.relation is 'The table that holds the row: of partitioned entries, a partition.';

create table busymate_stats.seal_markers (
    reason text not null,
    made_at timestamptz not null
) with (vacuum_truncate = false);
alter table busymate_stats.seal_markers replica identity full;
comment on table busymate_stats.seal_markers is
    'Something changed the entries that no trigger could see: what is sealed is void until the sealer has counted anew.';
comment on column busymate_stats.seal_markers.reason is 'What it was.';
comment on column busymate_stats.seal_markers.made_at is 'When it happened.';

create table busymate_stats.seal_state (
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
alter table busymate_stats.seal_state alter column maps set storage external;
comment on table busymate_stats.seal_state is
    'What is counted: every entry before the boundary. The newest row counts, once its boundary has reached its goal.';
comment on column busymate_stats.seal_state.version is 'Counts up.';
comment on column busymate_stats.seal_state.boundary is 'Every entry before this moment is counted.';
comment on column busymate_stats.seal_state.goal is 'Where the boundary is going; the windows are those of this moment.';
comment on column busymate_stats.seal_state.gen is 'The generation of the threshold whose writers were waited for.';
comment on column busymate_stats.seal_state.epoch is 'How often everything was counted anew.';
comment on column busymate_stats.seal_state.fingerprint is 'What the relation was like: its file, columns and types.';
comment on column busymate_stats.seal_state.total is 'Entries before the boundary.';
comment on column busymate_stats.seal_state.last_day is 'Of them, those in the goal''s last 24 hours.';
comment on column busymate_stats.seal_state.last_hour is 'Of them, those in the goal''s last hour.';
comment on column busymate_stats.seal_state.made_at is 'When the row was written.';
comment on column busymate_stats.seal_state.maps is 'Counts of the last 24 hours by source and status class, and the busiest hosts and devices.';

create table busymate_stats.seal_keys (
    version bigint primary key,
    base boolean not null,
    keys bytea not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
-- Most of it does not compress, and trying takes longer than all the rest of a tick.
alter table busymate_stats.seal_keys alter column keys set storage external;
comment on table busymate_stats.seal_keys is
    'The counts of every host and device: a base now and then, differences in between.';
comment on column busymate_stats.seal_keys.version is 'The version of the state that it belongs to.';
comment on column busymate_stats.seal_keys.base is 'Whether it holds every key, or what has changed since the row before.';
comment on column busymate_stats.seal_keys.keys is 'Keys and counts.';

create table busymate_stats.seal_partitions (
    leaf oid not null,
    file oid not null,
    trigger oid not null
) with (vacuum_truncate = false);
alter table busymate_stats.seal_partitions replica identity full;
comment on table busymate_stats.seal_partitions is
    'Partitions that have joined entries without a row in them: all that is in them since was captured.';
comment on column busymate_stats.seal_partitions.leaf is 'The partition.';
comment on column busymate_stats.seal_partitions.file is 'The file that was empty.';
comment on column busymate_stats.seal_partitions.trigger is 'The capture trigger that it got: another one each time that it joins.';

create function busymate_stats.capture_change() returns trigger
    language c as 'MODULE_PATHNAME', 'capture_change_wrapper';
comment on function busymate_stats.capture_change() is
    'Trigger: writes down what a statement changes in rows before the capture threshold.';

create function busymate_stats.insert_index_handler(internal) returns index_am_handler
    language c as 'MODULE_PATHNAME', 'insert_index_handler_wrapper';
comment on function busymate_stats.insert_index_handler(internal) is
    'Handler of the access method busymate_stats_capture.';

create access method busymate_stats_capture type index handler busymate_stats.insert_index_handler;
comment on access method busymate_stats_capture is
    'An index that holds nothing. PostgreSQL tells it of each row that is inserted into entries, and it writes down those before the capture threshold.';

-- Whatever type the entry time is changed to, the index must not stand in the way.
create operator class busymate_stats.any_column default for type anyelement
    using busymate_stats_capture as storage anyelement;
comment on operator class busymate_stats.any_column using busymate_stats_capture is
    'Columns of any type. Nothing can be asked of such an index, so it has no operators.';
comment on operator family busymate_stats.any_column using busymate_stats_capture is
    'Columns of any type.';

create function busymate_stats.capture_row() returns trigger
    language c as 'MODULE_PATHNAME', 'capture_row_wrapper';
comment on function busymate_stats.capture_row() is
    'Trigger: writes down what is changed of a row before the capture threshold, in partitioned entries.';

-- These two sit on every DDL of the database, so they never raise. What they guard against is a trigger of ours that
-- misses rows, or takes one column for another, for a while: a disabled one, a child or parent table, a subscription, a
-- renamed column. What changes the table itself for good is seen by the fingerprint that every state carries.
create function busymate_stats.watch_alter() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
begin
    insert into busymate_stats.seal_markers
    select cause.reason, clock_timestamp()
      from busymate_stats.attachment a,
           lateral (
               select 'trigger disabled on entries' as reason
                 from pg_event_trigger_ddl_commands() command
                where command.classid = 'pg_class'::regclass
                  and exists (select from pg_trigger t
                               where t.tgrelid = command.objid and t.tgenabled <> 'A'
                                 and t.tgfoid in ('busymate_stats.capture_change'::regproc,
                                                  'busymate_stats.capture_row'::regproc))
               union all
               select 'column renamed'
                 from pg_event_trigger_ddl_commands() command
                where command.classid = 'pg_class'::regclass and command.objid = a.entries and command.objsubid <> 0
               union all
               select 'inheritance'
                 from pg_event_trigger_ddl_commands() command
                 join pg_inherits i on command.objid in (i.inhrelid, i.inhparent)
                 join pg_class c on c.oid = a.entries and c.relkind = 'r'
                where command.classid = 'pg_class'::regclass and a.entries in (i.inhrelid, i.inhparent)
               union all
               select 'subscription'
                 from pg_subscription_rel s
                where tg_tag like '%SUBSCRIPTION'
                  and (s.srrelid = a.entries
                       or exists (select from pg_trigger t
                                   where t.tgrelid = s.srrelid and t.tgfoid = 'busymate_stats.capture_row'::regproc))
           ) cause
     limit 1;

    -- Partitions that this command has brought, and that hold no row: they are locked by it, so nobody is waited for.
    if tg_tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE SCHEMA')
        and exists (select from busymate_stats.attachment a join pg_class c on c.oid = a.entries and c.relkind = 'p')
    then
        insert into busymate_stats.seal_partitions
        select leaf.oid, leaf.relfilenode, t.oid
          from pg_locks own
          join pg_trigger t on t.tgrelid = own.relation and t.tgfoid = 'busymate_stats.capture_row'::regproc
          join pg_class leaf on leaf.oid = own.relation and leaf.relkind = 'r'
         where own.pid = pg_backend_pid() and own.locktype = 'relation' and own.mode = 'AccessExclusiveLock'
           and own.database = (select oid from pg_database where datname = current_database())
           and pg_relation_size(leaf.oid) = 0
           and not exists (select from busymate_stats.seal_partitions known
                            where (known.leaf, known.file, known.trigger) = (leaf.oid, leaf.relfilenode, t.oid));
    end if;
exception when others then
    return;
end
$$;
comment on function busymate_stats.watch_alter() is
    'Event trigger: voids the seal when the capture triggers may miss rows of entries from now on.';

create function busymate_stats.watch_drop() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    as $$
begin
    -- One that goes because its partition is detached voids nothing.
    if exists (select from pg_event_trigger_dropped_objects() dropped
                 join busymate_stats.attachment a
                   on a.entries = to_regclass(format('%I.%I', dropped.address_names[1], dropped.address_names[2]))
                where dropped.object_type = 'trigger'
                  and dropped.address_names[3] like 'busymate\_stats\_%') then
        insert into busymate_stats.seal_markers values ('trigger dropped on entries', clock_timestamp());
    end if;
exception when others then
    return;
end
$$;
comment on function busymate_stats.watch_drop() is 'Event trigger: voids the seal when a capture trigger is dropped.';

-- It fires for whatever extension is dropped, which it is not told: the statement's text says whether it is this one.
create function busymate_stats.lock_before_drop() returns event_trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
declare
    entries regclass;
begin
    if current_query() ilike '%busymate\_stats%' then
        -- DROP EXTENSION would lock the capture index before its table. Everybody else locks the table first, so the two
        -- would wait for each other.
        select a.entries into entries
          from busymate_stats.attachment a
          join pg_class c on c.oid = a.entries and c.relkind = 'r';
        if found then
            execute format('lock table %s in access exclusive mode', entries);
        end if;
    end if;
exception when insufficient_privilege then
    return;
end
$$;
comment on function busymate_stats.lock_before_drop() is
    'Event trigger: locks the table of entries before DROP EXTENSION locks its index.';

create event trigger busymate_stats_alter on ddl_command_end
    when tag in ('ALTER TABLE', 'ALTER TRIGGER', 'ALTER FOREIGN TABLE', 'CREATE TABLE', 'CREATE FOREIGN TABLE',
                 'CREATE SCHEMA', 'CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION') execute function busymate_stats.watch_alter();
create event trigger busymate_stats_drop on sql_drop
    when tag in ('DROP TRIGGER', 'ALTER TABLE', 'DROP OWNED') execute function busymate_stats.watch_drop();
create event trigger busymate_stats_lock on ddl_command_start
    when tag in ('DROP EXTENSION') execute function busymate_stats.lock_before_drop();
alter event trigger busymate_stats_alter enable always;
alter event trigger busymate_stats_drop enable always;
alter event trigger busymate_stats_lock enable always;
comment on event trigger busymate_stats_alter is 'Notices what lets the capture triggers miss rows.';
comment on event trigger busymate_stats_lock is 'Has DROP EXTENSION lock the table of entries first.';
comment on event trigger busymate_stats_drop is 'Notices a dropped capture trigger.';

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
