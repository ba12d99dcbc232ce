-- The infrastructure: what is watched, what was found, and who may say so.

create table busymate_stats.components (
    key text collate "C" primary key,
    label text not null,
    url text,
    expect_min int not null default 200,
    expect_max int not null default 399,
    timeout interval not null default '2s',
    unit text,
    critical boolean not null default false,
    enabled boolean not null default true,
    position int not null default 0
);
comment on table busymate_stats.components is
    'What the status feed watches: an HTTP URL, a systemd unit, or both. Read with status:view, written with status:edit.';
comment on column busymate_stats.components.key is 'What the component is known by in the snapshot: 1 to 256 bytes.';
comment on column busymate_stats.components.label is 'What people call it: 1 to 256 bytes.';
comment on column busymate_stats.components.url is
    'What to probe with GET: http or https, without user name or password. The server makes the connection.';
comment on column busymate_stats.components.expect_min is 'The lowest HTTP status that counts as up.';
comment on column busymate_stats.components.expect_max is 'The highest HTTP status that counts as up.';
comment on column busymate_stats.components.timeout is 'How long the probe may take: 1 ms to 3 s.';
comment on column busymate_stats.components.unit is
    'The systemd unit, such as nginx.service; without a type it is a service.';
comment on column busymate_stats.components.critical is 'Whether the whole is down when this component is unhealthy.';
comment on column busymate_stats.components.enabled is 'Whether it is watched, and shown: 200 at most.';
comment on column busymate_stats.components.position is 'Where it stands in the snapshot: by position, then key.';
select pg_catalog.pg_extension_config_dump('busymate_stats.components', '');

create function busymate_stats_internal.guard_components() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_components_wrapper';
comment on function busymate_stats_internal.guard_components() is 'Trigger: refuses what could not be watched, and names the column.';
create trigger guard before insert or update on busymate_stats.components
    for each row execute function busymate_stats_internal.guard_components();

create function busymate_stats_internal.guard_component_count() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_component_count_wrapper';
comment on function busymate_stats_internal.guard_component_count() is 'Trigger: keeps the number of components that are watched.';
create trigger guard_component_count after insert or update on busymate_stats.components
    for each statement execute function busymate_stats_internal.guard_component_count();

alter table busymate_stats.components enable row level security;
create policy components_view on busymate_stats.components for select
    using ((select public.has_capability('status', 'view')));
create policy components_insert on busymate_stats.components for insert
    with check ((select public.has_capability('status', 'edit')));
create policy components_update on busymate_stats.components for update
    using ((select public.has_capability('status', 'edit')));
create policy components_delete on busymate_stats.components for delete
    using ((select public.has_capability('status', 'edit')));
comment on policy components_view on busymate_stats.components is 'Who holds status:view sees what is watched.';
comment on policy components_insert on busymate_stats.components is 'Who holds status:edit adds components.';
comment on policy components_update on busymate_stats.components is 'Who holds status:edit changes components.';
comment on policy components_delete on busymate_stats.components is 'Who holds status:edit drops components.';

-- One row for all components: a check then costs one new row version, however many there are.
create table busymate_stats_internal.component_checks (
    id int primary key default 1 check (id = 1),
    checked_at timestamptz not null,
    reasons jsonb not null
) with (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0,
        autovacuum_analyze_threshold = 500, autovacuum_analyze_scale_factor = 0);
comment on table busymate_stats_internal.component_checks is 'What this server''s last check found. Read it through component_health.';
comment on column busymate_stats_internal.component_checks.id is 'Always 1.';
comment on column busymate_stats_internal.component_checks.checked_at is 'When the check ended.';
comment on column busymate_stats_internal.component_checks.reasons is 'By key: what is wrong, or null.';

-- Like health, the view runs with its owner's rights and says itself who sees its rows.
create view busymate_stats.component_health with (security_barrier = true) as
    select component.key, checks.reasons ->> component.key as reason, checks.checked_at
      from busymate_stats.components component
      left join busymate_stats_internal.component_checks checks on checks.reasons ? component.key
     where (select public.has_capability('status', 'view') or pg_catalog.pg_has_role('pg_monitor', 'usage'));
comment on view busymate_stats.component_health is
    'Why a component is not as it should be, by this server''s last check: for holders of status:view, and members of pg_monitor.';
comment on column busymate_stats.component_health.key is 'The component.';
comment on column busymate_stats.component_health.reason is 'What is wrong; null when nothing is, or before the first check.';
comment on column busymate_stats.component_health.checked_at is 'When it was last checked; null before the first time.';

create function busymate_stats.refresh_status() returns timestamptz
    language c security definer
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'refresh_status_wrapper';
comment on function busymate_stats.refresh_status() is
    'Checks the components and puts what it finds into service_status; returns its updated_at. Not gated by claims. It takes as long as the slowest probe, at most a little over 3 s.';

create function public.report_status(jsonb) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'report_status_wrapper';
comment on function public.report_status(jsonb) is
    'Puts a status snapshot from a reporter elsewhere into service_status: host and components, in its shape. overall is found anew. Needs status:edit.';
