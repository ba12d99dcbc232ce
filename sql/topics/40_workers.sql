-- How the feeds are kept, and how one sees that.

create table busymate_stats_internal.feed_health (
    feed text primary key,
    last_refresh timestamptz,
    duration interval,
    last_error text,
    error_since timestamptz,
    note text,
    note_since timestamptz
) with (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0,
        autovacuum_analyze_threshold = 500, autovacuum_analyze_scale_factor = 0);
comment on table busymate_stats_internal.feed_health is 'How the last refresh of each feed ended. Read it through health.';
comment on column busymate_stats_internal.feed_health.feed is 'The feed.';
comment on column busymate_stats_internal.feed_health.last_refresh is 'When it was last refreshed; of a sealer or the status feed while nothing else changes, up to 5 minutes before that.';
comment on column busymate_stats_internal.feed_health.duration is 'How long that refresh took.';
comment on column busymate_stats_internal.feed_health.last_error is 'What the refreshes since then failed with: SQLSTATE and message.';
comment on column busymate_stats_internal.feed_health.error_since is 'Since when they fail.';
comment on column busymate_stats_internal.feed_health.note is 'Why the last tick of the sealer could do no more, where that is no error; what verifying last found to differ, as JSON; which figures of the host are not known; what reading entries dated in the future costs; which partitions cannot be made.';
comment on column busymate_stats_internal.feed_health.note_since is 'Since when there is something to note.';

create function busymate_stats_internal.restore_publications() returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
begin
    perform busymate_stats_internal.add_to_publication(remembered.name)
       from busymate_stats_internal.publications remembered
       join pg_publication present on present.pubname = remembered.name;
end
$$;
comment on function busymate_stats_internal.restore_publications() is
    'Puts the feeds back into the publications that publish() remembered and that are still there.';

create function busymate_stats_internal.announce() returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'announce_wrapper';
comment on function busymate_stats_internal.announce() is
    'Has the launcher look at this database once the running transaction has committed.';

-- The view runs with its owner's rights and says itself who sees its rows. What it shows of the launcher it reads from a
-- setting: a function would need EXECUTE for every reader.
create view busymate_stats.health with (security_barrier = true) as
    with launcher as (
        select pg_catalog.current_setting('busymate_stats.launcher_state')::pg_catalog.jsonb as state,
               pg_catalog.current_setting('busymate_stats.refresh_interval')::pg_catalog.interval as refresh_interval,
               pg_catalog.current_setting('busymate_stats.seal_interval')::pg_catalog.interval as seal_interval,
               pg_catalog.current_setting('busymate_stats.verify_interval')::pg_catalog.interval as verify_interval,
               pg_catalog.current_setting('busymate_stats.status_interval')::pg_catalog.interval as status_interval,
               pg_catalog.current_setting('busymate_stats.status_source') as status_source
         -- has_capability loads the library, which defines the settings.
         where public.has_capability('stats', 'view')
            or public.has_capability('status', 'view')
            or pg_catalog.pg_has_role('pg_monitor', 'usage')
    ),
    facts as (
        select exists (select from busymate_stats_internal.attachment) as attached,
               (select e.extversion from pg_catalog.pg_extension e where e.extname = 'busymate_stats') as extension,
               (select pg_catalog.jsonb_agg(remembered.name order by remembered.name)
                  from busymate_stats_internal.publications remembered
                 where exists (
                     select from (values ('public.service_stats'::pg_catalog.regclass),
                                         ('public.service_status'::pg_catalog.regclass)) feed (relid)
                      -- Not pg_get_publication_tables(): a view keeps the columns that a function has, and later
                      -- versions have one more, so that pg_upgrade could not make the view again.
                      where not exists (
                          select from pg_catalog.pg_class c
                            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                            join pg_catalog.pg_publication_tables member
                              on member.schemaname = n.nspname and member.tablename = c.relname
                           where c.oid = feed.relid and member.pubname = remembered.name
                             and member.rowfilter is null
                             and not exists (
                                 select from pg_catalog.pg_attribute a
                                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                                    and a.attname operator(pg_catalog.<>) all (member.attnames))))) as unpublished,
               (select pg_catalog.jsonb_agg(pg_catalog.format('%s. %s', need.problem, need.remedy))
                  from busymate_stats_internal.realtime_needs need
                 where exists (select from busymate_stats_internal.publications)) as needs,
               -- Views that read a feed, or a view of it, with their owner's rights, or keep a copy.
               (with recursive reader as (
                    select r.ev_class as oid
                      from pg_catalog.pg_depend d
                      join pg_catalog.pg_rewrite r
                        on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and r.oid = d.objid
                     where d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                       and d.refobjid in ('public.service_stats'::pg_catalog.regclass,
                                          'public.service_status'::pg_catalog.regclass)
                    union
                    select r.ev_class
                      from reader
                      join pg_catalog.pg_depend d
                        on d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjid = reader.oid
                      join pg_catalog.pg_rewrite r
                        on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and r.oid = d.objid)
                select coalesce(pg_catalog.jsonb_agg(c.oid::pg_catalog.regclass::text order by c.oid::pg_catalog.regclass::text), '[]')
                  from reader
                  join pg_catalog.pg_class c on c.oid = reader.oid
                 where c.relkind in ('v', 'm')
                   and not exists (select from pg_catalog.pg_options_to_table(c.reloptions) o
                                    where case o.option_name when 'security_invoker' then o.option_value::boolean end)
                   and not exists (select from pg_catalog.pg_depend d
                                    where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
                                      and d.deptype = 'e')) as disclosing
    ),
    -- The extension finds its tables by their schemas' names, this view by their OIDs.
    renamed as (
        select pg_catalog.string_agg(pg_catalog.format('schema %I is looked for as %I: run ALTER SCHEMA %1$I RENAME TO %2$I',
                                                       n.nspname, own.schema), '; ') as problem
          from (values ('busymate_stats_internal.seal_state'::pg_catalog.regclass, 'busymate_stats_internal'),
                       ('busymate_stats.roles'::pg_catalog.regclass, 'busymate_stats'),
                       ('public.service_stats'::pg_catalog.regclass, 'public')) own (relation, schema)
          join pg_catalog.pg_class c on c.oid = own.relation
          join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname <> own.schema
    )
    select 'stats'::text as feed,
           kept.last_refresh,
           pg_catalog.clock_timestamp() - kept.last_refresh as age,
           kept.duration,
           nullif(pg_catalog.concat_ws('; ', renamed.problem, kept.last_error), '') as last_error,
           case when not facts.attached or launcher.refresh_interval = interval '0' then false
                else coalesce(kept.last_refresh < pg_catalog.clock_timestamp() - 3 * launcher.refresh_interval, true)
           end as stale,
           (launcher.state ->> 'preloaded')::boolean as preloaded,
           launcher.state ->> 'launcher_pid' is not null as worker_running,
           pg_catalog.jsonb_build_object(
               'attached', facts.attached,
               'error_since', kept.error_since,
               'refresh_interval', launcher.refresh_interval,
               'launcher_pid', launcher.state -> 'launcher_pid',
               'no_free_worker_slot_since', launcher.state -> 'no_free_worker_slot_since',
               'waiting_for_worker_since', launcher.state -> 'waiting_for_worker_since',
               'late_because', launcher.state -> 'late_because',
               'library_version', launcher.state -> 'library_version',
               'extension_version', facts.extension,
               'versions_differ', launcher.state ->> 'library_version' is distinct from facts.extension,
               'foreign_objects', (select coalesce(pg_catalog.jsonb_agg(distinct foreign_object.object), '[]')
                                     from busymate_stats_internal.foreign_objects foreign_object
                                    where not foreign_object.is_confined),
               'repair_needed', (select coalesce(pg_catalog.jsonb_agg(pg_catalog.format('trigger %I on table %s', altered.name,
                                                                                        altered.relation)
                                                                      order by altered.relation::text, altered.name), '[]')
                                   from busymate_stats_internal.altered_triggers altered),
               -- Functions beside the API's: where the arguments of a call fit both, PostgreSQL and PostgREST take neither.
               'overloads', (select coalesce(pg_catalog.jsonb_agg(other.oid::pg_catalog.regprocedure::text
                                                                  order by other.oid::pg_catalog.regprocedure::text), '[]')
                               from pg_catalog.pg_proc other
                              where other.pronamespace = 'public'::pg_catalog.regnamespace
                                and other.proname in ('get_stats', 'has_capability', 'mcp', 'report_status')
                                and not exists (
                                    select from pg_catalog.pg_depend d
                                     where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = other.oid
                                       and d.deptype = 'e')),
               'disclosing_views', facts.disclosing,
               'publications_incomplete', coalesce(facts.unpublished, '[]'),
                'realtime_needs', coalesce(facts.needs, '[]')
           ) as detail
      from launcher
     cross join facts
     cross join renamed
      left join busymate_stats_internal.feed_health kept on kept.feed = 'stats'
    union all
    select 'seal', ticked.at, pg_catalog.clock_timestamp() - ticked.at, null,
           nullif(pg_catalog.concat_ws('; ', renamed.problem, kept.last_error), ''),
           case when not facts.attached or launcher.seal_interval = interval '0' then false
                -- What a standby is sent of the ticks is kept every 5 minutes.
                else coalesce(ticked.at < pg_catalog.clock_timestamp()
                                          - 3 * case when pg_catalog.pg_is_in_recovery()
                                                     then greatest(launcher.seal_interval, interval '5 min')
                                                     else launcher.seal_interval
                                                end, true)
           end,
           (launcher.state ->> 'preloaded')::boolean,
           launcher.state ->> 'launcher_pid' is not null,
           pg_catalog.jsonb_build_object(
               'sealed', sealed.boundary is not null and sealed.far is null and marked.reason is null and kept.note is null
                         and not coalesce(newest.is_counting, false) and renamed.problem is null,
               'boundary', sealed.boundary,
               'rows_sealed', sealed.total,
               'reason', coalesce(renamed.problem, marked.reason, kept.note,
                                  case when newest.is_counting
                                       then pg_catalog.format('entries are being counted, %s so far', newest.total) end,
                                  sealed.far,
                                  case when facts.attached and newest.is_counting is null and kept.last_error is null
                                       then 'nothing is counted yet' end),
               'since', coalesce(marked.made_at, kept.note_since,
                                 case when sealed.far is not null then sealed.far_since end),
               'error_since', kept.error_since,
               'late_because', launcher.state -> 'late_because',
               -- Only its own rows are counted, those of its siblings are not.
               'entries_are_partition_of', (
                   select i.inhparent::pg_catalog.regclass::text
                     from busymate_stats_internal.attachment a
                     join pg_catalog.pg_class c on c.oid = a.entries and c.relispartition
                     join pg_catalog.pg_inherits i on i.inhrelid = c.oid),
               'entries_ahead', ahead.note,
               'partitions', partitions.note,
               'seal_interval', launcher.seal_interval,
               'verify_interval', launcher.verify_interval,
               'verified_at', verified.last_refresh,
               'verify_error', verified.last_error,
               'mismatch', verified.note::pg_catalog.jsonb,
               'mismatch_at', verified.note_since,
               'devices', pg_catalog.jsonb_build_object(
                   'counted', roster.counted_at is not null,
                   'counted_at', roster.counted_at,
                   'duration', roster.took * interval '1 microsecond',
                   'reason', coalesce(devices.last_error, devices.note),
                   'since', coalesce(devices.error_since, devices.note_since)))
      from launcher
     cross join facts
     cross join renamed
      left join busymate_stats_internal.feed_health kept on kept.feed = 'seal'
     -- A tick that changes nothing is kept in memory alone.
     cross join lateral (
         select greatest(kept.last_refresh, (launcher.state ->> 'sealer_ticked_at')::pg_catalog.timestamptz)) ticked (at)
      left join busymate_stats_internal.feed_health ahead on ahead.feed = 'stats'
      left join busymate_stats_internal.feed_health partitions on partitions.feed = 'partitions'
      left join (select s.boundary < s.goal as is_counting, s.total
                   from busymate_stats_internal.seal_state s order by s.version desc limit 1) newest on true
      left join busymate_stats_internal.feed_health verified on verified.feed = 'verify'
      left join (select s.boundary, s.total,
                        case when s.boundary > now.moment + interval '1 day' then 'sealed beyond the clock: it was set back'
                             when s.boundary < now.moment - interval '1 day' then 'sealed more than a day ago'
                        end as far,
                        case when s.boundary > now.moment then s.made_at else s.boundary + interval '1 day' end as far_since
                   from busymate_stats_internal.seal_state s, (select pg_catalog.clock_timestamp()) now (moment)
                  where s.boundary = s.goal order by s.version desc limit 1) sealed on true
      left join (select m.reason, m.made_at from busymate_stats_internal.seal_markers m
                  order by m.made_at limit 1) marked on true
      left join busymate_stats_internal.feed_health devices on devices.feed = 'devices'
      left join (select r.counted_at, r.took from busymate_stats_internal.roster_state r
                  order by r.version desc limit 1) roster on true
    union all
    -- Its age is that of the row, whoever wrote it.
    select 'status',
           written.updated_at,
           pg_catalog.clock_timestamp() - written.updated_at,
           kept.duration,
           nullif(pg_catalog.concat_ws('; ', renamed.problem, kept.last_error), ''),
           case when launcher.status_source = 'off' or launcher.status_interval = interval '0' then false
                else coalesce(written.updated_at < pg_catalog.clock_timestamp() - 3 * launcher.status_interval, true)
           end,
           (launcher.state ->> 'preloaded')::boolean,
           launcher.state ->> 'launcher_pid' is not null,
           pg_catalog.jsonb_build_object(
               'written', written.updated_at is not null,
               'error_since', kept.error_since,
               'late_because', launcher.state -> 'late_because',
               'status_interval', launcher.status_interval,
               'status_source', launcher.status_source,
               'unknown', kept.note,
               'last_report', report.last_refresh
           )
      from launcher
     cross join renamed
      left join public.service_status written on written.id = 1
      left join busymate_stats_internal.feed_health kept on kept.feed = 'status'
      left join busymate_stats_internal.feed_health report on report.feed = 'report';
comment on view busymate_stats.health is
    'How the feeds are kept: for holders of stats:view or status:view, and members of pg_monitor.';
comment on column busymate_stats.health.feed is 'The feed.';
comment on column busymate_stats.health.last_refresh is 'When it was last refreshed.';
comment on column busymate_stats.health.age is 'How long ago that was.';
comment on column busymate_stats.health.duration is 'How long it took.';
comment on column busymate_stats.health.last_error is 'What the refreshes since then failed with; null when they work.';
comment on column busymate_stats.health.stale is 'Whether three intervals have passed without a refresh.';
comment on column busymate_stats.health.preloaded is 'Whether the library is in shared_preload_libraries, so that there is a launcher.';
comment on column busymate_stats.health.worker_running is 'Whether the launcher runs.';
comment on column busymate_stats.health.detail is 'More: versions, intervals, publications, worker slots.';
