-- The feeds: a function that computes, and the two rows that PostgREST and Realtime serve.

create function public.get_stats() returns jsonb
    language c stable parallel restricted
    as 'MODULE_PATHNAME', 'get_stats_wrapper';
comment on function public.get_stats() is
    'The fleet''s statistics, computed at each call: device counts, entry totals, request rate, mixes, and the busiest domains and devices. Needs stats:view.';

-- One row, updated for as long as the server runs: half of its page stays free for the next versions, no index is on
-- what changes, and autovacuum comes early.
create table public.service_stats (
    id int primary key default 1 check (id = 1),
    snapshot jsonb not null,
    updated_at timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0,
        autovacuum_analyze_threshold = 500, autovacuum_analyze_scale_factor = 0);
comment on table public.service_stats is 'The last computed statistics of the fleet: one row, id = 1. Needs stats:view.';
comment on column public.service_stats.id is 'Always 1.';
comment on column public.service_stats.snapshot is 'The statistics, in the shape that get_stats() returns.';
comment on column public.service_stats.updated_at is 'When they were computed.';

create table public.service_status (
    id int primary key default 1 check (id = 1),
    snapshot jsonb not null,
    updated_at timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0,
        autovacuum_analyze_threshold = 500, autovacuum_analyze_scale_factor = 0);
comment on table public.service_status is 'The last known health of the infrastructure: one row, id = 1. Needs status:view.';
comment on column public.service_status.id is 'Always 1.';
comment on column public.service_status.snapshot is 'Overall health, the host''s load and memory, and a probe per component.';
comment on column public.service_status.updated_at is 'When it was written.';

alter table public.service_stats enable row level security;
alter table public.service_status enable row level security;
create policy service_stats_view on public.service_stats for select
    using ((select public.has_capability('stats', 'view')));
create policy service_status_view on public.service_status for select
    using ((select public.has_capability('status', 'view')));
comment on policy service_stats_view on public.service_stats is 'Who holds stats:view sees the row.';
comment on policy service_status_view on public.service_status is 'Who holds status:view sees the row.';

create function busymate_stats.refresh_stats() returns timestamptz
    language c security definer
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'refresh_stats_wrapper';
comment on function busymate_stats.refresh_stats() is
    'Computes the statistics and puts them into service_stats; returns its updated_at. Not gated by claims.';

create function busymate_stats.grant_api(role name default 'authenticated') returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
begin
    execute format('grant usage on schema busymate_stats to %I', role);
    execute format('grant execute on function public.get_stats(), public.mcp(jsonb), public.mcp(),
                                              public.report_status(jsonb) to %I', role);
    execute format('grant select on public.service_stats, public.service_status to %I', role);
    -- PostgREST shows a role what that role may use.
    perform pg_notify('pgrst', 'reload schema') where not exists (select from pg_extension where extname = 'citus');
end
$$;
comment on function busymate_stats.grant_api(name) is
    'Lets a database role call the API and read the feeds. What its users then see is decided by their capabilities.';

create table busymate_stats_internal.publications (
    name name primary key
);
comment on table busymate_stats_internal.publications is
    'Publications that publish() has put the feeds into: a dump by PostgreSQL 15 to 17 loses the membership, this row does not.';
comment on column busymate_stats_internal.publications.name is 'The publication''s name.';
select pg_catalog.pg_extension_config_dump('busymate_stats_internal.publications', '');

create function busymate_stats_internal.add_to_publication(publication name) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
declare
    feed regclass;
begin
    foreach feed in array array['public.service_stats', 'public.service_status']::regclass[] loop
        -- A FOR ALL TABLES or FOR TABLES IN SCHEMA publication has them already.
        if not exists (select from pg_publication p, lateral pg_get_publication_tables(p.pubname) member
                        where p.pubname = publication and member.relid = feed) then
            execute format('alter publication %I add table %s', publication, feed);
        end if;
    end loop;
end
$$;
comment on function busymate_stats_internal.add_to_publication(name) is 'Adds the two feeds to a publication, where they are missing.';

-- What Realtime asks of a table before it delivers a change of it.
create function busymate_stats_internal.require_publishable(feed regclass) returns void
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
    as $$
begin
    if not exists (select from pg_index i where i.indrelid = feed and i.indisprimary) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('table %s has no primary key, and Realtime finds a changed row by it', feed),
            hint = format('Run ALTER TABLE %s ADD PRIMARY KEY (id).', feed);
    end if;
    if (select c.relreplident from pg_class c where c.oid = feed) not in ('d', 'f') then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the replica identity of table %s is not its primary key', feed),
            hint = format('Run ALTER TABLE %s REPLICA IDENTITY DEFAULT.', feed);
    end if;
    -- Realtime looks at the column privileges of each subscriber's role. Whoever may read as owner or superuser is none.
    if not exists (
        select from pg_class c, lateral aclexplode(c.relacl) held
         where c.oid = feed and held.privilege_type = 'SELECT' and held.grantee <> c.relowner)
    then
        -- The grant may come later: told, not refused.
        raise warning using
            errcode = 'object_not_in_prerequisite_state',
            message = format('no role has been granted SELECT on table %s, so Realtime delivers nothing yet', feed),
            hint = 'Run SELECT busymate_stats.grant_api(''authenticated''), or name the role that subscribers have.';
    end if;
end
$$;
comment on function busymate_stats_internal.require_publishable(regclass) is
    'Raises an error where Realtime could not deliver the changes of a table.';

-- What Realtime asks of the server. A view, so that health can read it for its own readers.
-- output_plugin_libraries came with the minor releases of August 2026, and only superusers and pg_read_all_settings see it:
-- nothing is said of it to others.
create view busymate_stats_internal.realtime_needs with (security_barrier = true) as
    with setting as (
        select (select s.setting from pg_catalog.pg_settings s where s.name = 'wal_level') as wal_level,
               (select s.setting::int from pg_catalog.pg_settings s where s.name = 'max_replication_slots') as slots,
               (select s.setting::int from pg_catalog.pg_settings s where s.name = 'max_wal_senders') as senders
    ),
    used as (
        select (select pg_catalog.count(*) from pg_catalog.pg_replication_slots) as slots,
               (select pg_catalog.count(*) from pg_catalog.pg_stat_replication) as senders,
               -- Realtime is there already, and has what it needs of both.
               exists (select from pg_catalog.pg_replication_slots slot
                        where slot.plugin = 'wal2json' and slot.database = pg_catalog.current_database()) as by_realtime
    ),
    plugins as (
        select found.place, coalesce(pg_catalog.replace(found.part[1], '""', '"'), found.part[2]) as name
          from pg_catalog.pg_settings s,
               lateral pg_catalog.regexp_matches(s.setting, '"((?:[^"]|"")*)"|([^",[:space:]]+)', 'g')
                   with ordinality as found(part, place)
         where s.name = 'output_plugin_libraries'
    ),
    missing as (
        select pg_catalog.array_agg(needed.name order by needed.name) as names
          from (values ('pgoutput'), ('wal2json')) needed(name)
         where exists (select from pg_catalog.pg_settings s where s.name = 'output_plugin_libraries')
           and not exists (select from plugins p where p.name = needed.name)
    ),
    wanted as (
        -- A list that was given in one pair of quotes is one name to PostgreSQL, and was meant as several.
        select pg_catalog.string_agg(pg_catalog.quote_ident(every.name), ', ' order by every.place, every.name) as list
          from (select meant.name, pg_catalog.min(meant.place) as place
                  from (select pg_catalog.btrim(part.name) as name, p.place
                          from plugins p, lateral pg_catalog.string_to_table(p.name, ',') part(name)
                        union all
                        select needed.name, 1000000
                          from missing, lateral pg_catalog.unnest(missing.names) needed(name)) meant
                 where meant.name <> ''
                 group by meant.name) every
    )
    select pg_catalog.format('wal_level is %L, and Realtime needs ''logical''', setting.wal_level) as problem,
           'Run ALTER SYSTEM SET wal_level = logical, then restart the server.' as remedy
      from setting
     where setting.wal_level <> 'logical'
    union all
    select pg_catalog.format('output_plugin_libraries does not list %s, so the server refuses Realtime''s slots',
                             pg_catalog.array_to_string(missing.names, ', ')),
           pg_catalog.format('Run ALTER SYSTEM SET output_plugin_libraries = %s (no quotes around the list), then SELECT pg_reload_conf().',
                             wanted.list)
      from missing, wanted
     where missing.names is not null
    union all
    select pg_catalog.format('all %s replication slots are in use, and Realtime needs one', setting.slots),
           pg_catalog.format('Run ALTER SYSTEM SET max_replication_slots = %s, then restart the server; or drop a slot that nobody uses.',
                             used.slots + 5)
      from setting, used
     where used.slots >= setting.slots and not used.by_realtime
    union all
    select pg_catalog.format('all %s WAL senders are in use, and Realtime needs one', setting.senders),
           pg_catalog.format('Run ALTER SYSTEM SET max_wal_senders = %s, then restart the server.', used.senders + 5)
      from setting, used
     where used.senders >= setting.senders and not used.by_realtime;
comment on view busymate_stats_internal.realtime_needs is
    'What keeps Realtime from reading this server, and what mends it: publish() warns of it, and health shows it.';
comment on column busymate_stats_internal.realtime_needs.problem is 'What is missing.';
comment on column busymate_stats_internal.realtime_needs.remedy is 'What to run.';

create function busymate_stats.publish(publication name default 'supabase_realtime', create_missing boolean default false)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
declare
    found_publication pg_publication;
    feed regclass;
    need record;
begin
    perform busymate_stats_internal.require_matching_version();
    if current_setting('wal_level') <> 'logical' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('wal_level is %L, and a publication needs ''logical''', current_setting('wal_level')),
            hint = 'Run ALTER SYSTEM SET wal_level = logical, then restart the server.';
    end if;
    foreach feed in array array['public.service_stats', 'public.service_status']::regclass[] loop
        perform busymate_stats_internal.require_publishable(feed);
    end loop;
    -- Another consumer than Realtime may do without: told, not refused.
    for need in select problem, remedy from busymate_stats_internal.realtime_needs loop
        raise warning using
            errcode = 'object_not_in_prerequisite_state', message = need.problem, hint = need.remedy;
    end loop;
    select * into found_publication from pg_publication where pubname = publication;
    if not found then
        if not coalesce(create_missing, false) or publication is null then
            raise exception using
                errcode = 'undefined_object',
                message = format('publication "%s" does not exist', publication),
                hint = format('Have it made: SELECT busymate_stats.publish(%L, create_missing => true).', publication);
        end if;
        execute format('create publication %I', publication);
    elsif not found_publication.pubupdate then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('publication "%s" does not publish updates', publication),
            hint = format('Run ALTER PUBLICATION %I SET (publish = ''insert, update, delete, truncate'').', publication);
    end if;
    perform busymate_stats_internal.add_to_publication(publication);
    -- A feed that was in it already, with part of its columns or rows: Realtime would push half a snapshot, or none.
    select member.relid into feed
      from pg_get_publication_tables(publication) member
     where member.relid in ('public.service_stats'::regclass, 'public.service_status'::regclass)
       and (member.qual is not null
            or exists (select from pg_attribute a
                        where a.attrelid = member.relid and a.attnum > 0 and not a.attisdropped
                          and a.attnum <> all (member.attrs::int2[])))
     limit 1;
    if found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('publication "%s" has table %s with a column list or a row filter', publication, feed),
            hint = format('Run ALTER PUBLICATION %I DROP TABLE %s, then publish again.', publication, feed);
    end if;
    insert into busymate_stats_internal.publications (name) values (publication) on conflict do nothing;
end
$$;
comment on function busymate_stats.publish(name, boolean) is
    'Adds the two feeds to the publication that Realtime reads, and remembers it. Does nothing where they are in it.';

create function busymate_stats_internal.session_sees_notices() returns boolean
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'session_sees_notices_wrapper';
comment on function busymate_stats_internal.session_sees_notices() is
    'Whether client_min_messages lets notices through to the session that runs CREATE EXTENSION.';

create function busymate_stats_internal.require_matching_version() returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'require_matching_version_wrapper';
comment on function busymate_stats_internal.require_matching_version() is
    'Raises an error where the library and the extension differ in version.';
