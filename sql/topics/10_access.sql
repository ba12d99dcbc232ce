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
