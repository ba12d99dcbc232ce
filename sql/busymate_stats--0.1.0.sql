-- Assembled from sql/topics by `make script`; edit there.
\echo Use "CREATE EXTENSION busymate_stats" to load this file. \quit

-- What must not be there yet, and who may have made the schema.

-- CREATE EXTENSION puts the extension's schema into the search path, and PostgreSQL prefers an operator or a function
-- there whose arguments match better than its own.
set local search_path = pg_catalog, pg_temp;

do $preflight$
declare
    taken text;
    moves text;
    schema_owner name;
    strangers text;
begin
    if pg_catalog.getdatabaseencoding() not in ('UTF8', 'SQL_ASCII') then
        raise exception using
            errcode = 'feature_not_supported',
            message = pg_catalog.format('busymate_stats cannot be installed in a database with encoding %s',
                                        pg_catalog.getdatabaseencoding()),
            hint = 'Snapshots are JSON. Create the database with ENCODING ''UTF8''.';
    end if;

    -- A schema that was there before CREATE EXTENSION: its owner may drop what is in it, and a role that may create in
    -- it, or has, may leave what is called in place of something of ours.
    select r.rolname into schema_owner
      from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner
     where n.nspname = 'busymate_stats' and not r.rolsuper;
    if found then
        raise exception using
            errcode = 'insufficient_privilege',
            message = pg_catalog.format('schema "busymate_stats" belongs to role "%s", which is not a superuser', schema_owner),
            hint = 'Run DROP SCHEMA busymate_stats CASCADE; CREATE EXTENSION makes it anew.';
    end if;
    select pg_catalog.string_agg(distinct case held.grantee when 0 then 'PUBLIC' else pg_catalog.format('"%s"', r.rolname) end, ', ')
      into strangers
      from pg_catalog.pg_namespace n
     cross join lateral pg_catalog.aclexplode(n.nspacl) held
      left join pg_catalog.pg_roles r on r.oid = held.grantee
     where n.nspname = 'busymate_stats' and held.privilege_type = 'CREATE' and not coalesce(r.rolsuper, false)
       -- Not what ALTER DEFAULT PRIVILEGES has given a moment ago, to a schema that CREATE EXTENSION has made itself.
       and pg_catalog.age(n.xmin) > 0;
    if strangers is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = pg_catalog.format('others may create objects in schema "busymate_stats": %s', strangers),
            hint = 'Run DROP SCHEMA busymate_stats CASCADE; CREATE EXTENSION makes it anew.';
    end if;
    select pg_catalog.string_agg(object.what, ', ' order by object.what) into strangers
      from (select pg_catalog.pg_describe_object(d.classid, d.objid, 0) as what
              from pg_catalog.pg_depend d
              join pg_catalog.pg_namespace n on n.oid = d.refobjid and n.nspname = 'busymate_stats'
             where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.deptype = 'n'
               -- The extension itself is there by now.
               and not exists (select from pg_catalog.pg_extension e
                                where d.classid = 'pg_catalog.pg_extension'::pg_catalog.regclass and e.oid = d.objid
                                  and e.extname = 'busymate_stats')
             order by 1 limit 5) object;
    if strangers is not null then
        raise exception using
            errcode = 'duplicate_object',
            message = 'schema "busymate_stats" is not empty',
            detail = pg_catalog.format('It holds %s.', strangers),
            hint = 'Run DROP SCHEMA busymate_stats CASCADE; CREATE EXTENSION makes it anew.';
    end if;

    if exists (select from pg_catalog.pg_namespace n where n.nspname = 'busymate_stats_internal') then
        raise exception using
            errcode = 'duplicate_schema',
            message = 'schema "busymate_stats_internal" is there already',
            hint = 'Run DROP SCHEMA busymate_stats_internal CASCADE; CREATE EXTENSION makes it anew.';
    end if;

    select pg_catalog.string_agg(found.what, ', ' order by found.what),
           pg_catalog.string_agg(found.move, ' ' order by found.what)
      into taken, moves
      from (
        select 'function ' || p.oid::pg_catalog.regprocedure::text as what,
               pg_catalog.format('ALTER %s public.%I(%s) RENAME TO %I;',
                                 case p.prokind when 'p' then 'PROCEDURE' when 'a' then 'AGGREGATE' else 'FUNCTION' end,
                                 p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid),
                                 'old_' || p.proname) as move
          from pg_catalog.pg_proc p
          join (values ('get_stats', ''), ('has_capability', 'text, text'), ('mcp', 'jsonb'), ('mcp', ''),
                       ('report_status', 'jsonb')) ours(name, arguments)
            on ours.name = p.proname and ours.arguments = pg_catalog.oidvectortypes(p.proargtypes)
         where p.pronamespace = 'public'::pg_catalog.regnamespace
        union all
        select 'relation ' || pg_catalog.format('public.%I', c.relname),
               pg_catalog.format('ALTER %s public.%I RENAME TO %I;',
                                 case c.relkind when 'v' then 'VIEW' when 'm' then 'MATERIALIZED VIEW'
                                                when 'f' then 'FOREIGN TABLE' when 'S' then 'SEQUENCE'
                                                when 'i' then 'INDEX' when 'I' then 'INDEX'
                                                when 'c' then 'TYPE' else 'TABLE' end,
                                 c.relname, 'old_' || c.relname)
          from pg_catalog.pg_class c
         where c.relnamespace = 'public'::pg_catalog.regnamespace
           and c.relname in ('service_stats', 'service_status')
      ) found;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_object',
            message = 'busymate_stats cannot be installed beside ' || taken,
            detail = 'Policies, views and grants follow what is renamed.',
            hint = 'Move it out of the way: ' || moves
                   || ' README, "Replacing a hand-written feed", has the steps after that.';
    end if;
end
$preflight$;

create schema busymate_stats_internal;
comment on schema busymate_stats_internal is
    'What busymate_stats itself uses: state, look-ups, triggers'' functions. Nobody is granted anything here.';

-- Who may read: roles, what they grant, who has them.

create table busymate_stats.roles (
    name text collate "C" primary key check (name <> ''),
    description text,
    builtin boolean not null default false,
    changed_at timestamptz not null default pg_catalog.now(),
    changed_by text not null
);
comment on table busymate_stats.roles is 'The roles that users can be assigned. Read with roles:view, written with roles:edit.';
comment on column busymate_stats.roles.name is 'The role''s name.';
comment on column busymate_stats.roles.description is 'What the role is for.';
comment on column busymate_stats.roles.builtin is 'Whether the extension brings the role; such a one cannot be changed or dropped.';
comment on column busymate_stats.roles.changed_at is 'When the row was made or last changed.';
comment on column busymate_stats.roles.changed_by is 'Who did: the "sub" claim of his token, or the database role.';

create table busymate_stats.role_capabilities (
    role text collate "C" not null references busymate_stats.roles (name) on delete cascade,
    section text collate "C" not null check (section <> ''),
    action text collate "C" not null check (action <> ''),
    changed_at timestamptz not null default pg_catalog.now(),
    changed_by text not null,
    primary key (role, section, action)
);
comment on table busymate_stats.role_capabilities is 'What each role grants. Read with roles:view, written with roles:edit; nobody puts in, or takes out, what they do not hold.';
comment on column busymate_stats.role_capabilities.role is 'The role that grants.';
comment on column busymate_stats.role_capabilities.section is 'The section, such as stats or status; * is every one.';
comment on column busymate_stats.role_capabilities.action is 'The action, such as view or edit; * is every one.';
comment on column busymate_stats.role_capabilities.changed_at is 'When the row was made or last changed.';
comment on column busymate_stats.role_capabilities.changed_by is 'Who did: the "sub" claim of his token, or the database role.';

create table busymate_stats.user_roles (
    sub text collate "C" not null check (sub <> ''),
    role text collate "C" not null references busymate_stats.roles (name) on delete cascade,
    changed_at timestamptz not null default pg_catalog.now(),
    changed_by text not null,
    primary key (sub, role)
);
create index user_roles_role_idx on busymate_stats.user_roles (role);
comment on table busymate_stats.user_roles is 'Which user has which roles. Read with roles:view, written with roles:edit; nobody assigns, or unassigns, what they do not hold.';
comment on column busymate_stats.user_roles.sub is 'The user: the "sub" claim of the access token.';
comment on column busymate_stats.user_roles.role is 'The role assigned.';
comment on column busymate_stats.user_roles.changed_at is 'When the row was made or last changed.';
comment on column busymate_stats.user_roles.changed_by is 'Who did: the "sub" claim of his token, or the database role.';

-- Nobody has made these, so that a restore, which does not bring them, finds them equal.
insert into busymate_stats.roles (name, description, builtin, changed_at, changed_by) values
    ('admin', 'Holds every capability.', true, 'epoch', 'busymate_stats'),
    ('viewer', 'May view every section.', true, 'epoch', 'busymate_stats');
insert into busymate_stats.role_capabilities (role, section, action, changed_at, changed_by) values
    ('admin', '*', '*', 'epoch', 'busymate_stats'),
    ('viewer', '*', 'view', 'epoch', 'busymate_stats');

select pg_catalog.pg_extension_config_dump('busymate_stats.roles', 'where not builtin');
select pg_catalog.pg_extension_config_dump('busymate_stats.role_capabilities',
    'where role not in (select name from busymate_stats.roles where builtin)');
select pg_catalog.pg_extension_config_dump('busymate_stats.user_roles', '');

-- What it remembers, it answers without has_capability_wrapper, which stands behind it.
create function public.has_capability(section text, action text) returns boolean
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'remembered_answer';
comment on function public.has_capability(text, text) is
    'Whether the caller holds the capability section:action. False, never an error, for an unknown caller.';

alter table busymate_stats.roles enable row level security;
alter table busymate_stats.role_capabilities enable row level security;
alter table busymate_stats.user_roles enable row level security;

create policy roles_view on busymate_stats.roles for select
    using ((select public.has_capability('roles', 'view')));
create policy roles_insert on busymate_stats.roles for insert
    with check ((select public.has_capability('roles', 'edit')));
create policy roles_update on busymate_stats.roles for update
    using ((select public.has_capability('roles', 'edit')));
create policy roles_delete on busymate_stats.roles for delete
    using ((select public.has_capability('roles', 'edit')));

create policy role_capabilities_view on busymate_stats.role_capabilities for select
    using ((select public.has_capability('roles', 'view')));
create policy role_capabilities_insert on busymate_stats.role_capabilities for insert
    with check ((select public.has_capability('roles', 'edit')));
create policy role_capabilities_update on busymate_stats.role_capabilities for update
    using ((select public.has_capability('roles', 'edit')));
create policy role_capabilities_delete on busymate_stats.role_capabilities for delete
    using ((select public.has_capability('roles', 'edit')));

create policy user_roles_view on busymate_stats.user_roles for select
    using ((select public.has_capability('roles', 'view')));
create policy user_roles_insert on busymate_stats.user_roles for insert
    with check ((select public.has_capability('roles', 'edit')));
create policy user_roles_update on busymate_stats.user_roles for update
    using ((select public.has_capability('roles', 'edit')));
create policy user_roles_delete on busymate_stats.user_roles for delete
    using ((select public.has_capability('roles', 'edit')));

comment on policy roles_view on busymate_stats.roles is 'Who holds roles:view sees every role.';
comment on policy roles_insert on busymate_stats.roles is 'Who holds roles:edit makes roles.';
comment on policy roles_update on busymate_stats.roles is 'Who holds roles:edit changes roles.';
comment on policy roles_delete on busymate_stats.roles is 'Who holds roles:edit drops roles that hold no more than they do.';
comment on policy role_capabilities_view on busymate_stats.role_capabilities is 'Who holds roles:view sees what roles grant.';
comment on policy role_capabilities_insert on busymate_stats.role_capabilities is 'Who holds roles:edit grants to roles what he holds.';
comment on policy role_capabilities_update on busymate_stats.role_capabilities is 'Who holds roles:edit changes grants to what he holds.';
comment on policy role_capabilities_delete on busymate_stats.role_capabilities is 'Who holds roles:edit revokes from roles what they hold.';
comment on policy user_roles_view on busymate_stats.user_roles is 'Who holds roles:view sees who has which role.';
comment on policy user_roles_insert on busymate_stats.user_roles is 'Who holds roles:edit assigns what he holds.';
comment on policy user_roles_update on busymate_stats.user_roles is 'Who holds roles:edit changes assignments to what he holds.';
comment on policy user_roles_delete on busymate_stats.user_roles is 'Who holds roles:edit unassigns what they hold.';

-- The guards come after the built-in roles are in. A replica takes what its source has checked; the invalidation must
-- fire there too, by row, for replication fires no statement triggers.
create function busymate_stats_internal.guard_roles() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_roles_wrapper';
create function busymate_stats_internal.guard_role_capabilities() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_role_capabilities_wrapper';
create function busymate_stats_internal.guard_user_roles() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_user_roles_wrapper';
create function busymate_stats_internal.guard_last_admin() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_last_admin_wrapper';
create function busymate_stats_internal.guard_truncate() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_truncate_wrapper';
create function busymate_stats_internal.grants_changed() returns trigger
    language c as 'MODULE_PATHNAME', 'grants_changed_wrapper';
create function busymate_stats_internal.stamp_change() returns trigger
    language c as 'MODULE_PATHNAME', 'stamp_change_wrapper';
comment on function busymate_stats_internal.guard_roles() is 'Trigger: keeps the built-in roles as they are.';
comment on function busymate_stats_internal.guard_role_capabilities() is 'Trigger: nobody puts into a role, or takes out of it, what they do not hold.';
comment on function busymate_stats_internal.guard_user_roles() is 'Trigger: nobody assigns or unassigns what they do not hold.';
comment on function busymate_stats_internal.guard_last_admin() is 'Trigger: keeps the last assignment of *:* from everybody but the owner.';
comment on function busymate_stats_internal.guard_truncate() is 'Trigger: keeps the built-in roles from TRUNCATE.';
comment on function busymate_stats_internal.grants_changed() is 'Trigger: ends what sessions have cached.';
comment on function busymate_stats_internal.stamp_change() is 'Trigger: writes down who made a change, and when.';

create trigger guard before insert or update or delete on busymate_stats.roles
    for each row execute function busymate_stats_internal.guard_roles();
create trigger guard_truncate before truncate on busymate_stats.roles
    for each statement execute function busymate_stats_internal.guard_truncate();
create trigger guard before insert or update or delete on busymate_stats.role_capabilities
    for each row execute function busymate_stats_internal.guard_role_capabilities();
create trigger guard_truncate before truncate on busymate_stats.role_capabilities
    for each statement execute function busymate_stats_internal.guard_truncate();
create trigger changed after insert or update or delete on busymate_stats.role_capabilities
    for each row execute function busymate_stats_internal.grants_changed();
create trigger guard before insert or update or delete on busymate_stats.user_roles
    for each row execute function busymate_stats_internal.guard_user_roles();
create trigger guard_last_admin after update or delete on busymate_stats.role_capabilities
    for each row execute function busymate_stats_internal.guard_last_admin();
create trigger guard_last_admin after update or delete on busymate_stats.user_roles
    for each row execute function busymate_stats_internal.guard_last_admin();
create trigger changed after insert or update or delete on busymate_stats.user_roles
    for each row execute function busymate_stats_internal.grants_changed();
create trigger changed_by_truncate after truncate on busymate_stats.user_roles
    for each statement execute function busymate_stats_internal.grants_changed();
create trigger stamp before insert or update on busymate_stats.roles
    for each row execute function busymate_stats_internal.stamp_change();
create trigger stamp before insert or update on busymate_stats.role_capabilities
    for each row execute function busymate_stats_internal.stamp_change();
create trigger stamp before insert or update on busymate_stats.user_roles
    for each row execute function busymate_stats_internal.stamp_change();
alter table busymate_stats.roles enable always trigger stamp;
alter table busymate_stats.role_capabilities enable always trigger stamp;
alter table busymate_stats.user_roles enable always trigger stamp;
alter table busymate_stats.role_capabilities enable always trigger changed;
alter table busymate_stats.user_roles enable always trigger changed;
alter table busymate_stats.user_roles enable always trigger changed_by_truncate;

create view busymate_stats.my_capabilities with (security_invoker = true) as
    -- has_capability comes first for its side effect: it loads the library, which defines the setting.
    select held.section, held.action, held.via_role
      from pg_catalog.jsonb_to_recordset(
               case when public.has_capability('', '') is not null
                    then pg_catalog.current_setting('busymate_stats.my_capabilities')::pg_catalog.jsonb
               end) as held(section text, action text, via_role text);
comment on view busymate_stats.my_capabilities is
    'What the caller holds, and through which role; no role for a superuser or a BYPASSRLS role, which need none.';
comment on column busymate_stats.my_capabilities.section is 'The section; * is every one.';
comment on column busymate_stats.my_capabilities.action is 'The action; * is every one.';
comment on column busymate_stats.my_capabilities.via_role is 'The role that grants it.';

create function busymate_stats.grant_capability(role text, capability text) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'grant_capability_wrapper';
comment on function busymate_stats.grant_capability(text, text) is
    'Puts a capability, such as stats:view, into a role. Does nothing when it is there.';

create function busymate_stats.revoke_capability(role text, capability text) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'revoke_capability_wrapper';
comment on function busymate_stats.revoke_capability(text, text) is
    'Takes a capability out of a role, for every session from the commit on. Does nothing when it is not there.';

create function busymate_stats.assign_role(sub text, role text) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'assign_role_wrapper';
comment on function busymate_stats.assign_role(text, text) is
    'Gives a role to the user with this "sub" claim. Does nothing when he has it.';

create function busymate_stats.assign_role(sub uuid, role text) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'assign_role_uuid_wrapper';
comment on function busymate_stats.assign_role(uuid, text) is
    'The same for a "sub" that is a UUID, such as auth.users.id.';

create function busymate_stats.unassign_role(sub text, role text) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'unassign_role_wrapper';
comment on function busymate_stats.unassign_role(text, text) is
    'Takes a role from the user with this "sub" claim. Does nothing when he does not have it.';

create function busymate_stats.unassign_role(sub uuid, role text) returns void
    language c
    set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'unassign_role_uuid_wrapper';
comment on function busymate_stats.unassign_role(uuid, text) is
    'The same for a "sub" that is a UUID, such as auth.users.id.';

-- Tokens that are refused before they expire.

create table busymate_stats.revoked_tokens (
    jti text collate "C" primary key,
    revoked_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz
);
create index revoked_tokens_expires_at_idx on busymate_stats.revoked_tokens (expires_at);
comment on table busymate_stats.revoked_tokens is
    'Access tokens that hold no capability any more. Read with tokens:view, written with tokens:edit.';
comment on column busymate_stats.revoked_tokens.jti is 'The token: its "jti" claim.';
comment on column busymate_stats.revoked_tokens.revoked_at is 'When it was revoked.';
comment on column busymate_stats.revoked_tokens.expires_at is
    'When no gateway accepts it any more, so that the row can go; null keeps the row.';

select pg_catalog.pg_extension_config_dump('busymate_stats.revoked_tokens', '');

alter table busymate_stats.revoked_tokens enable row level security;
create policy revoked_tokens_view on busymate_stats.revoked_tokens for select
    using ((select public.has_capability('tokens', 'view')));
create policy revoked_tokens_insert on busymate_stats.revoked_tokens for insert
    with check ((select public.has_capability('tokens', 'edit')));
create policy revoked_tokens_update on busymate_stats.revoked_tokens for update
    using ((select public.has_capability('tokens', 'edit')));
create policy revoked_tokens_delete on busymate_stats.revoked_tokens for delete
    using ((select public.has_capability('tokens', 'edit')));
comment on policy revoked_tokens_view on busymate_stats.revoked_tokens is 'Who holds tokens:view sees which tokens are revoked.';
comment on policy revoked_tokens_insert on busymate_stats.revoked_tokens is 'Who holds tokens:edit revokes tokens.';
comment on policy revoked_tokens_update on busymate_stats.revoked_tokens is 'Who holds tokens:edit changes what is revoked.';
comment on policy revoked_tokens_delete on busymate_stats.revoked_tokens is 'Who holds tokens:edit takes a revocation back.';

create trigger changed after insert or update or delete on busymate_stats.revoked_tokens
    for each row execute function busymate_stats_internal.grants_changed();
create trigger changed_by_truncate after truncate on busymate_stats.revoked_tokens
    for each statement execute function busymate_stats_internal.grants_changed();
alter table busymate_stats.revoked_tokens enable always trigger changed;
alter table busymate_stats.revoked_tokens enable always trigger changed_by_truncate;

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

-- The roster: how many devices there are, by connection type and by when they were last seen, and what has changed since
-- they were counted. Rows are appended and later removed, never updated. None of this is dumped: a restored database
-- counts anew.

create table busymate_stats_internal.roster_capture (
    gen bigint primary key,
    threshold timestamptz not null,
    due timestamptz not null,
    resting boolean not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
comment on table busymate_stats_internal.roster_capture is
    'The devices'' threshold: a sign of life that moves from one later moment to another changes nothing. The newest row counts.';
comment on column busymate_stats_internal.roster_capture.gen is 'Generation: one more at each move.';
comment on column busymate_stats_internal.roster_capture.threshold is 'Last signs of life until this moment are told apart; -infinity while nobody counts.';
comment on column busymate_stats_internal.roster_capture.due is 'When it is to move again.';
comment on column busymate_stats_internal.roster_capture.resting is 'Nothing is to be counted before that: the last count failed.';
insert into busymate_stats_internal.roster_capture values (0, '-infinity', '-infinity', false);

create table busymate_stats_internal.roster_look (
    gen bigint primary key,
    writers xid8[] not null,
    fingerprint text not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
comment on table busymate_stats_internal.roster_look is
    'Who was writing devices when a threshold had just become known: they may have missed it, so the count waits for them.';
comment on column busymate_stats_internal.roster_look.gen is 'The threshold''s generation.';
comment on column busymate_stats_internal.roster_look.writers is 'Their transactions.';
comment on column busymate_stats_internal.roster_look.fingerprint is 'What the relation was like then.';

create table busymate_stats_internal.roster_changes (
    gen bigint not null,
    old_type text,
    old_seen timestamptz,
    new_type text,
    new_seen timestamptz
) using heap with (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.1, vacuum_truncate = false);
create index roster_changes_gen on busymate_stats_internal.roster_changes (gen);
alter table busymate_stats_internal.roster_changes replica identity nothing;
comment on table busymate_stats_internal.roster_changes is
    'Devices that came, went, changed their connection type, or crossed the threshold.';
comment on column busymate_stats_internal.roster_changes.gen is 'The threshold''s generation that the writer read.';
comment on column busymate_stats_internal.roster_changes.old_type is 'The connection type as it was, unknown for none; null for a device that came.';
comment on column busymate_stats_internal.roster_changes.old_seen is 'When the device was last seen, as it was; -infinity for never and for offline, infinity for online.';
comment on column busymate_stats_internal.roster_changes.new_type is 'The connection type as it is; null for a device that went.';
comment on column busymate_stats_internal.roster_changes.new_seen is 'When the device was last seen, as it is.';

create table busymate_stats_internal.roster_state (
    version bigint primary key,
    gen bigint not null,
    fingerprint text not null,
    since timestamptz not null,
    until timestamptz not null,
    total bigint not null,
    types bytea not null,
    took bigint not null,
    counted_at timestamptz not null
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
alter table busymate_stats_internal.roster_state alter column types set storage external;
comment on table busymate_stats_internal.roster_state is 'Every device, counted. The newest row counts.';
comment on column busymate_stats_internal.roster_state.version is 'Counts up.';
comment on column busymate_stats_internal.roster_state.gen is 'The generation of the threshold whose writers were waited for.';
comment on column busymate_stats_internal.roster_state.fingerprint is 'What the relation was like: its file, its trigger and its columns.';
comment on column busymate_stats_internal.roster_state.since is 'Last signs of life are told apart from this moment on,';
comment on column busymate_stats_internal.roster_state.until is 'up to this one.';
comment on column busymate_stats_internal.roster_state.total is 'Devices.';
comment on column busymate_stats_internal.roster_state.types is 'Devices by connection type.';
comment on column busymate_stats_internal.roster_state.took is 'How long counting took, in microseconds.';
comment on column busymate_stats_internal.roster_state.counted_at is 'When the row was written.';

create table busymate_stats_internal.roster_moments (
    version bigint not null,
    first timestamptz not null,
    silent bigint not null,
    moments bytea not null,
    primary key (version, first)
) with (autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0, vacuum_truncate = false);
alter table busymate_stats_internal.roster_moments alter column moments set storage external;
comment on table busymate_stats_internal.roster_moments is 'How many devices were last seen when, in portions.';
comment on column busymate_stats_internal.roster_moments.version is 'The version of the state that it belongs to.';
comment on column busymate_stats_internal.roster_moments.first is 'The portion''s first moment.';
comment on column busymate_stats_internal.roster_moments.silent is 'Devices that were last seen before.';
comment on column busymate_stats_internal.roster_moments.moments is 'Moments, and how many devices were last seen then.';

create function busymate_stats_internal.roster_change() returns trigger
    language c as 'MODULE_PATHNAME', 'roster_change_wrapper';
comment on function busymate_stats_internal.roster_change() is
    'Trigger: writes down what changes the number of devices, their connection types, or who is silent.';

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

-- What others have put on the extension's tables. A statement that writes into such a table runs it: a trigger with the
-- writer's rights, a foreign key with a right to refuse. The library asks before it writes; see docs/security.md.

create view busymate_stats_internal.foreign_objects with (security_invoker = true) as
    with member as not materialized (
        select d.classid, d.objid
          from pg_depend d
          join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
         where d.deptype = 'e' and e.extname = 'busymate_stats'
    ),
    own as not materialized (
        select c.oid as relation, c.relname, c.relnamespace, c.relowner
          from pg_class c
         where c.relkind = 'r'
           and exists (select from member m where m.classid = 'pg_class'::regclass and m.objid = c.oid)
    )
    -- Who owns a table puts on it what they like.
    select own.relation::regclass as relation,
           format('%s, which role %I owns and no superuser', pg_describe_object('pg_class'::regclass, own.relation, 0),
                  o.rolname) as object,
           false as is_confined
      from own join pg_roles o on o.oid = own.relowner
     where not o.rolsuper
    union all
    -- A foreign key from a table of another's, whatever it does to the rows there; from a superuser's, one that acts.
    select distinct own.relation::regclass, pg_describe_object('pg_constraint'::regclass, k.oid, 0), false
      from own
      join pg_constraint k on k.contype = 'f' and own.relation in (k.conrelid, k.confrelid)
     where exists (
         select from pg_class c join pg_roles o on o.oid = c.relowner
          where c.oid in (k.conrelid, k.confrelid)
            and not exists (select from member m where m.classid = 'pg_class'::regclass and m.objid = c.oid)
            and (not o.rolsuper or k.confdeltype not in ('a', 'r') or k.confupdtype not in ('a', 'r')))
    union all
    -- A trigger that is not the extension's. One of a superuser's can stay whose function nobody else may execute: then
    -- nobody else has made it. One that fires after a feed was written and whose function is SECURITY DEFINER runs with its
    -- author's rights, and in a security-restricted operation leaves nothing behind that would run with the writer's.
    select own.relation::regclass, pg_describe_object('pg_trigger'::regclass, t.oid, 0),
           own.relname in ('service_stats', 'service_status') and f.prosecdef and t.tgtype & 66 = 0 and t.tgqual is null
               and not t.tgdeferrable
      from own
      join pg_trigger t on t.tgrelid = own.relation
      join pg_proc f on f.oid = t.tgfoid
      join pg_roles author on author.oid = f.proowner
      -- Not those of foreign keys; those that are switched off, or for TRUNCATE alone, run in no statement that writes.
     where not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & 28 <> 0
       and not (t.tgqual is null and t.tgnargs = 0 and f.pronamespace = 'busymate_stats_internal'::regnamespace
                and exists (select from member m where m.classid = 'pg_proc'::regclass and m.objid = f.oid)
                and (t.tgname = 'replicated'
                     and f.proname = case when own.relnamespace = 'busymate_stats'::regnamespace then 'take_over_replicated'
                                          else 'leave_out_replicated' end
                     or (own.relname::text, t.tgname::text, f.proname::text) in (
                    ('roles', 'guard', 'guard_roles'), ('roles', 'stamp', 'stamp_change'),
                    ('role_capabilities', 'guard', 'guard_role_capabilities'),
                    ('role_capabilities', 'guard_last_admin', 'guard_last_admin'),
                    ('role_capabilities', 'changed', 'grants_changed'), ('role_capabilities', 'stamp', 'stamp_change'),
                    ('user_roles', 'guard', 'guard_user_roles'), ('user_roles', 'guard_last_admin', 'guard_last_admin'),
                    ('user_roles', 'changed', 'grants_changed'), ('user_roles', 'stamp', 'stamp_change'),
                    ('revoked_tokens', 'changed', 'grants_changed'), ('components', 'guard', 'guard_components'),
                    ('components', 'guard_component_count', 'guard_component_count'),
                    ('attachment', 'note_owners', 'note_owners'))))
       and not (author.rolsuper
                and not exists (select from aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) held
                                  left join pg_roles r on r.oid = held.grantee
                                 where held.privilege_type = 'EXECUTE' and not coalesce(r.rolsuper, false)))
    union all
    select own.relation::regclass, pg_describe_object('pg_rewrite'::regclass, r.oid, 0), false
      from own join pg_rewrite r on r.ev_class = own.relation
    union all
    -- A default, a constraint, an index or a column's type that comes to a function, an operator or a type which is
    -- neither PostgreSQL's, of which pg_depend has no row, nor the extension's.
    select distinct own.relation::regclass, pg_describe_object(part.classid, part.objid, d.objsubid), false
      from own
     cross join lateral (
               select 'pg_attrdef'::regclass, a.oid from pg_attrdef a where a.adrelid = own.relation
               union all
               select 'pg_constraint'::regclass, k.oid from pg_constraint k where k.conrelid = own.relation
               union all
               select 'pg_class'::regclass, i.indexrelid from pg_index i where i.indrelid = own.relation
               union all
               select 'pg_class'::regclass, own.relation) part (classid, objid)
      join pg_depend d on d.classid = part.classid and d.objid = part.objid
                      and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass,
                                           'pg_opclass'::regclass)
     where not exists (select from member m where m.classid = d.refclassid and m.objid = d.refobjid);
comment on view busymate_stats_internal.foreign_objects is
    'What others have put on the extension''s tables: while it is there, neither the worker nor anybody with the owner''s rights writes into the table, unless it is confined.';
comment on column busymate_stats_internal.foreign_objects.relation is 'The table.';
comment on column busymate_stats_internal.foreign_objects.object is 'What stands on it.';
comment on column busymate_stats_internal.foreign_objects.is_confined is
    'It runs with its author''s rights where the extension writes, and hinders nothing.';

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

-- Dumps by a role that is no superuser: pg_dump locks and reads every table that it dumps, those of the extension's
-- configuration too.

create function busymate_stats.grant_dump(role name) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
declare
    exempt boolean;
    dumped record;
    sequence regclass;
begin
    select r.rolsuper or r.rolbypassrls into exempt from pg_roles r where r.rolname = role;
    if not found then
        raise exception using
            errcode = 'undefined_object',
            message = format('role "%s" does not exist', role),
            hint = format('Make it first: CREATE ROLE %I LOGIN.', role);
    end if;
    execute format('grant usage on schema busymate_stats, busymate_stats_internal to %I', role);
    for dumped in
        with recursive fleet as (
            select fleet.oid
              from busymate_stats_internal.attachment a, unnest(array[a.entries, a.devices]) fleet (oid)
            union
            select i.inhrelid from fleet join pg_inherits i on i.inhparent = fleet.oid
        ),
        part as (
            select unnest(e.extconfig) as oid from pg_extension e where e.extname = 'busymate_stats'
            union
            select fleet.oid from fleet
        )
        select c.oid, c.oid::regclass as name, c.relrowsecurity,
               (select p.polroles from pg_policy p where p.polrelid = c.oid and p.polname = 'busymate_stats_dump') as roles
          from part join pg_class c on c.oid = part.oid
         -- Owners need neither a grant nor a policy.
         where c.relkind in ('r', 'p') and not pg_has_role(role, c.relowner, 'usage')
         order by c.oid
    loop
        execute format('grant select on %s to %I', dumped.name, role);
        for sequence in
            select s.oid
              from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
             where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
               and d.refobjid = dumped.oid and d.deptype in ('a', 'i')
        loop
            execute format('grant select on sequence %s to %I', sequence, role);
        end loop;
        if not dumped.relrowsecurity or exempt then
            continue;
        elsif dumped.roles is null then
            execute format('create policy busymate_stats_dump on %s for select to %I using (true)', dumped.name, role);
            execute format('comment on policy busymate_stats_dump on %s is %L', dumped.name,
                           'Roles that busymate_stats.grant_dump() lets dump every row.');
        elsif (select r.oid from pg_roles r where r.rolname = role) <> all (dumped.roles) then
            execute format('alter policy busymate_stats_dump on %s to %s, %I', dumped.name,
                           (select string_agg(quote_ident(r.rolname), ', ') from pg_roles r where r.oid = any (dumped.roles)),
                           role);
        end if;
    end loop;
    if not exempt then
        raise notice using
            message = format('row-level security applies to role "%s", so its dumps take pg_dump''s option --enable-row-security', role),
            detail = 'Rows of other tables that policies hide from the role are then left out without an error.',
            hint = format('ALTER ROLE %I BYPASSRLS does without the option, and lets the role see every row of what it may read.', role);
    end if;
end
$$;
comment on function busymate_stats.grant_dump(name) is
    'Lets a role that is no superuser dump the extension''s configuration and the fleet, and read no more than that. To be run again after attach(), a new partition, or a restore.';

-- Triggers that do not fire as the extension made them to. A data-only restore with --disable-triggers ends with ENABLE
-- TRIGGER ALL: what fired always fires no more for what replication applies, so that sessions keep what was revoked.

create view busymate_stats_internal.altered_triggers with (security_invoker = true) as
    select t.tgrelid::regclass as relation, t.tgname as name, wanted.state, t.tgenabled as found
      from pg_trigger t
      join pg_proc f on f.oid = t.tgfoid
      join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e'
      join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
     cross join lateral (
         select case when f.proname in ('grants_changed', 'stamp_change', 'capture_change', 'frozen_change', 'roster_change') then 'A'::"char"
                    when f.proname in ('leave_out_replicated', 'take_over_replicated') then 'R'::"char"
                     else 'O'::"char" end as state) wanted
     where e.extname = 'busymate_stats' and not t.tgisinternal and t.tgenabled <> wanted.state;
comment on view busymate_stats_internal.altered_triggers is
    'The extension''s triggers that have been disabled, or fire at other times than it made them to: repair() puts them right.';
comment on column busymate_stats_internal.altered_triggers.relation is 'The table.';
comment on column busymate_stats_internal.altered_triggers.name is 'The trigger.';
comment on column busymate_stats_internal.altered_triggers.state is 'What it should be, as in pg_trigger.tgenabled: A fires always, O not for what replication applies, R for that alone.';
comment on column busymate_stats_internal.altered_triggers.found is 'What it is.';

create function busymate_stats.repair() returns setof text
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
declare
    altered record;
    attached busymate_stats_internal.attachment;
begin
    perform busymate_stats_internal.require_matching_version();
    for altered in
        select a.relation, a.name, a.state from busymate_stats_internal.altered_triggers a order by a.relation::text, a.name
    loop
        -- A partition's follows from that of its parent.
        execute format('alter table %s enable %s trigger %I', altered.relation,
                       case altered.state when 'A' then 'always' when 'R' then 'replica' else '' end, altered.name);
        return query select format('trigger %s on table %s fires %s', quote_ident(altered.name), altered.relation,
                                   case altered.state when 'A' then 'always' when 'R' then 'for replicated writes'
                                                             else 'for ordinary writes' end);
    end loop;
    -- The trigger that writes down the owners did not fire either, and those of another server may be others here.
    select * into attached from busymate_stats_internal.attachment;
    if found then
        update busymate_stats_internal.attachment a
           set entries_owner = entries.relowner, devices_owner = devices.relowner
          from pg_class entries, pg_class devices
         where entries.oid = a.entries and devices.oid = a.devices
           and (a.entries_owner, a.devices_owner) is distinct from (entries.relowner, devices.relowner)
           and pg_has_role(entries.relowner, 'usage') and pg_has_role(devices.relowner, 'usage');
        if found then
            return query select format('tables %s and %s are read as their owners of today', attached.entries, attached.devices);
        end if;
    end if;
end
$$;
comment on function busymate_stats.repair() is
    'Enables the extension''s triggers as it made them, after a data-only restore for example, and says what it has changed.';

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

-- The MCP server. PostgREST hands the body of a POST to the function with one unnamed argument; GET, and a POST of
-- nothing, find the one without. It sends a domain of this name as it is, whatever the client accepts; both overloads
-- must return it. Except for application/vnd.pgrst.object+json: it then makes JSON of the value itself, so that text would
-- arrive as a string, and json arrives as what it holds. null is an empty body.

create domain busymate_stats."*/*" as json;
comment on domain busymate_stats."*/*" is 'A response body of JSON, for PostgREST to send as it is.';

create function public.mcp(jsonb) returns busymate_stats."*/*"
    language c volatile
    as 'MODULE_PATHNAME', 'mcp_post_wrapper';
comment on function public.mcp(jsonb) is
    'An MCP server with the tools get_stats and get_status: send one JSON-RPC message as the body. Revisions 2026-07-28 and 2025-11-25, 2025-06-18, 2025-03-26.';

create function public.mcp() returns busymate_stats."*/*"
    language c volatile
    as 'MODULE_PATHNAME', 'mcp_get_wrapper';
comment on function public.mcp() is
    'Tells an MCP client that opens a stream with GET that there is none: 405, Allow: POST.';

-- PostgREST keeps a copy of the schema. It reads it anew when told so, once the transaction has committed. Not where Citus is
-- installed: it commits DDL in two phases, and PostgreSQL prepares no transaction that has notified.

create function busymate_stats_internal.reload_before_drop() returns event_trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
begin
    -- An event trigger of an extension is not there any more at the end of that extension's own DROP: so it fires
    -- before, for whatever extension is dropped, and whoever drops it must not be held up.
    perform pg_notify('pgrst', 'reload schema') where not exists (select from pg_extension where extname = 'citus');
exception when others then
    null;
end
$$;
comment on function busymate_stats_internal.reload_before_drop() is
    'Event trigger: tells PostgREST to read the schema anew once a DROP EXTENSION has committed.';

create event trigger busymate_stats_reload on ddl_command_start
    when tag in ('DROP EXTENSION')
    execute function busymate_stats_internal.reload_before_drop();
-- PostgREST reads the schema whatever session_replication_role was in force.
alter event trigger busymate_stats_reload enable always;
comment on event trigger busymate_stats_reload is
    'Tells PostgREST to read the schema anew once a DROP EXTENSION has committed.';

-- Nobody but the owner reads, changes or empties the extension's own means, whatever they have been granted: scripts that
-- GRANT ALL ON ALL TABLES IN SCHEMA are common. The tables that users may edit have policies of their own.

create function busymate_stats_internal.guard_truncate_owner() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_truncate_owner_wrapper';
comment on function busymate_stats_internal.guard_truncate_owner() is
    'Trigger: TRUNCATE, which no policy stops, is for the table''s owner.';

do $internals$
declare
    member pg_catalog.regclass;
begin
    for member in
        select c.oid
          from pg_catalog.pg_class c
          join pg_catalog.pg_depend d
            on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e'
          join pg_catalog.pg_extension e
            on d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and e.oid = d.refobjid
         where e.extname = 'busymate_stats' and c.relkind = 'r'
         order by c.oid
    loop
        execute pg_catalog.format('alter table %s enable row level security', member);
        if not exists (select from pg_catalog.pg_trigger t where t.tgrelid = member and t.tgname = 'guard_truncate') then
            execute pg_catalog.format('create trigger guard_truncate before truncate on %s
                                           for each statement execute function busymate_stats_internal.guard_truncate_owner()',
                                      member);
        end if;
    end loop;
end
$internals$;

-- A publication FOR ALL TABLES publishes the extension's tables too, and a subscriber that has the extension counts for
-- itself: rows of what one server computes or is set up with are left out where they arrive. What decides who may read,
-- and what is watched, is taken over; see docs/operating.md.

create function busymate_stats_internal.leave_out_replicated() returns trigger
    language c as 'MODULE_PATHNAME', 'leave_out_replicated_wrapper';
comment on function busymate_stats_internal.leave_out_replicated() is
    'Trigger: leaves out rows that arrive by logical replication.';
create function busymate_stats_internal.take_over_replicated() returns trigger
    language c as 'MODULE_PATHNAME', 'take_over_replicated_wrapper';
comment on function busymate_stats_internal.take_over_replicated() is
    'Trigger: a row that arrives by logical replication replaces the one with its key, and leaves the built-in roles alone.';

do $replicated$
declare
    member pg_catalog.regclass;
    deed text;
begin
    for member, deed in
        select c.oid, case when c.relnamespace = 'busymate_stats'::pg_catalog.regnamespace then 'take_over' else 'leave_out' end
          from pg_catalog.pg_class c
          join pg_catalog.pg_depend d
            on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e'
          join pg_catalog.pg_extension e
            on d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and e.oid = d.refobjid
         where e.extname = 'busymate_stats' and c.relkind = 'r'
         order by c.oid
    loop
        execute pg_catalog.format('create trigger replicated before insert or update or delete on %s
                                       for each row execute function busymate_stats_internal.%I()',
                                  member, deed || '_replicated');
        execute pg_catalog.format('alter table %s enable replica trigger replicated', member);
    end loop;
end
$replicated$;

-- Nobody but the owner, whatever ALTER DEFAULT PRIVILEGES has handed out a moment ago (Supabase's gives anon and
-- authenticated everything on new tables, TRUNCATE too). What grant_api() gives later is an ordinary grant: one made
-- here would become the extension's initial privilege, and a DROP ROLE would then break every dump.

do $privileges$
declare
    statement text;
begin
    for statement in
        with member as (
            select d.classid, d.objid
              from pg_catalog.pg_depend d
              join pg_catalog.pg_extension e on e.oid = d.refobjid
             where d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and d.deptype = 'e'
               and e.extname = 'busymate_stats'
        ),
        object as (
            select 'routine ' || p.oid::pg_catalog.regprocedure::text as name, p.proowner as owner,
                   coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl
              from pg_catalog.pg_proc p join member m on m.objid = p.oid
             where m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
            union all
            select 'table ' || c.oid::pg_catalog.regclass::text, c.relowner,
                   coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))
              from pg_catalog.pg_class c join member m on m.objid = c.oid
             where m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            union all
            -- Everybody may use a type, unless told otherwise.
            select 'type ' || t.oid::pg_catalog.regtype::text, t.typowner,
                   coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))
              from pg_catalog.pg_type t join member m on m.objid = t.oid
             where m.classid = 'pg_catalog.pg_type'::pg_catalog.regclass and t.typtype = 'd'
            union all
            -- Made for us a moment ago, with the same defaults. One is a member.
            select 'schema ' || n.nspname, n.nspowner,
                   coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))
              from pg_catalog.pg_namespace n
             where n.nspname in ('busymate_stats', 'busymate_stats_internal')
        )
        select pg_catalog.format('revoke all on %s from %s cascade', object.name,
                                 case held.grantee when 0 then 'public' else held.grantee::pg_catalog.regrole::text end)
          from object, lateral pg_catalog.aclexplode(object.acl) held
         where held.grantee <> object.owner
         group by object.name, held.grantee
    loop
        execute statement;
    end loop;
end
$privileges$;

grant execute on function public.has_capability(text, text) to public;

do $notice$
begin
    if not busymate_stats_internal.session_sees_notices() then
        return;
    end if;
    -- CREATE EXTENSION holds back what is below a warning, until its end.
    perform pg_catalog.set_config('client_min_messages', 'notice', true);
    raise notice using
        message = 'busymate_stats is installed, and nobody but its owner may use it yet',
        hint = 'Run SELECT busymate_stats.create_fleet_tables() or busymate_stats.attach(…), SELECT busymate_stats.grant_api(''authenticated''), and SELECT busymate_stats.assign_role(''<sub>'', ''viewer'').';
    if not (pg_catalog.current_setting('busymate_stats.launcher_state')::pg_catalog.jsonb ->> 'preloaded')::boolean then
        raise notice using
            message = 'busymate_stats is not in shared_preload_libraries, so nothing refreshes service_stats by itself',
            hint = 'Add it to shared_preload_libraries and restart the server, or schedule SELECT busymate_stats.refresh_stats() with pg_cron.';
    end if;
end
$notice$;

select busymate_stats_internal.announce();

select pg_catalog.pg_notify('pgrst', 'reload schema')
 where not exists (select from pg_catalog.pg_extension where extname operator(pg_catalog.=) 'citus');
