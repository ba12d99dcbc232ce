//! Promise: the SQL surface is frozen. What others call, read or dump has the name, the type and the default that it
//! was released with, and nothing comes or goes unnoticed.

use harness::catalog::{MEMBERS, list, member_functions, member_relations};
use harness::{installed, run};
use std::path::Path;
use std::process::Command;

/// Every member object. What users may rely on stands in `FUNCTIONS`, `COLUMNS` and `KEYS` in full.
const MEMBER_NAMES: &[&str] = &[
    "event trigger busymate_stats_lock",
    "event trigger busymate_stats_partitions",
    "event trigger busymate_stats_reload",
    "function busymate_stats.assign_role(text,text)",
    "function busymate_stats.assign_role(uuid,text)",
    "function busymate_stats.attach(regclass,regclass,name,name,name,name,name,name,name,name,name,name)",
    "function busymate_stats.create_fleet_tables(text)",
    "function busymate_stats.detach()",
    "function busymate_stats.grant_api(name)",
    "function busymate_stats.grant_capability(text,text)",
    "function busymate_stats.grant_dump(name)",
    "function busymate_stats.publish(name,boolean)",
    "function busymate_stats.refresh_stats()",
    "function busymate_stats.refresh_status()",
    "function busymate_stats.repair()",
    "function busymate_stats.revoke_capability(text,text)",
    "function busymate_stats.stats_at(timestamp with time zone)",
    "function busymate_stats.stats_recomputed(timestamp with time zone)",
    "function busymate_stats.unassign_role(text,text)",
    "function busymate_stats.unassign_role(uuid,text)",
    "function busymate_stats.verify()",
    "function busymate_stats.version()",
    "function busymate_stats_internal.add_to_publication(name)",
    "function busymate_stats_internal.announce()",
    "function busymate_stats_internal.capture_change()",
    "function busymate_stats_internal.frozen_change()",
    "function busymate_stats_internal.grants_changed()",
    "function busymate_stats_internal.guard_component_count()",
    "function busymate_stats_internal.guard_components()",
    "function busymate_stats_internal.guard_last_admin()",
    "function busymate_stats_internal.guard_role_capabilities()",
    "function busymate_stats_internal.guard_roles()",
    "function busymate_stats_internal.guard_truncate()",
    "function busymate_stats_internal.guard_truncate_owner()",
    "function busymate_stats_internal.guard_user_roles()",
    "function busymate_stats_internal.leave_out_replicated()",
    "function busymate_stats_internal.lock_fleet_first()",
    "function busymate_stats_internal.note_empty_partitions()",
    "function busymate_stats_internal.note_owners()",
    "function busymate_stats_internal.reload_before_drop()",
    "function busymate_stats_internal.require_matching_version()",
    "function busymate_stats_internal.require_publishable(regclass)",
    "function busymate_stats_internal.restore_publications()",
    "function busymate_stats_internal.roster_change()",
    "function busymate_stats_internal.session_sees_notices()",
    "function busymate_stats_internal.stamp_change()",
    "function busymate_stats_internal.take_over_replicated()",
    "function public.get_stats()",
    "function public.has_capability(text,text)",
    "function public.mcp()",
    "function public.mcp(jsonb)",
    "function public.report_status(jsonb)",
    "schema busymate_stats_internal",
    "table busymate_stats.components",
    "table busymate_stats.revoked_tokens",
    "table busymate_stats.role_capabilities",
    "table busymate_stats.roles",
    "table busymate_stats.user_roles",
    "table busymate_stats_internal.attachment",
    "table busymate_stats_internal.capture",
    "table busymate_stats_internal.component_checks",
    "table busymate_stats_internal.daily_partitions",
    "table busymate_stats_internal.feed_health",
    "table busymate_stats_internal.late_changes",
    "table busymate_stats_internal.publications",
    "table busymate_stats_internal.roster_capture",
    "table busymate_stats_internal.roster_changes",
    "table busymate_stats_internal.roster_look",
    "table busymate_stats_internal.roster_moments",
    "table busymate_stats_internal.roster_state",
    "table busymate_stats_internal.seal_keys",
    "table busymate_stats_internal.seal_look",
    "table busymate_stats_internal.seal_markers",
    "table busymate_stats_internal.seal_partitions",
    "table busymate_stats_internal.seal_state",
    "table public.service_stats",
    "table public.service_status",
    "type busymate_stats.\"*/*\"",
    "view busymate_stats.component_health",
    "view busymate_stats.health",
    "view busymate_stats.my_capabilities",
    "view busymate_stats_internal.altered_triggers",
    "view busymate_stats_internal.foreign_objects",
    "view busymate_stats_internal.realtime_needs",
];

fn member_names() -> String {
    format!(
        "select i.type || ' ' || case m.classid when 'pg_proc'::regclass then m.objid::regprocedure::text
                                                else i.identity end
           from ({MEMBERS}) m, pg_identify_object(m.classid, m.objid, 0) i"
    )
}

#[test]
fn every_member_is_listed_and_every_listed_one_is_a_member() {
    let (_, mut client) = installed("members");
    assert_eq!(list(&mut client, &member_names()), MEMBER_NAMES);

    let planted = "create table busymate_stats.planted (x int);
                   alter extension busymate_stats add table busymate_stats.planted;
                   alter extension busymate_stats drop function busymate_stats.version();";
    client.batch_execute(planted).unwrap();
    let names = list(&mut client, &member_names());
    assert!(names.contains(&"table busymate_stats.planted".into()));
    assert!(!names.contains(&"function busymate_stats.version()".into()));
}

/// The functions that surface users call: arguments with names and defaults, result, volatility, parallel safety,
/// and, where they differ from the usual, strictness, the rights it runs with, and its search_path.
const FUNCTIONS: &[&str] = &[
    "busymate_stats.assign_role(sub text, role text) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.assign_role(sub uuid, role text) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.attach(entries regclass, devices regclass, entry_time name DEFAULT 'created_at'::name, \
     host name DEFAULT 'host'::name, status name DEFAULT 'status'::name, source name DEFAULT 'source'::name, \
     entry_device name DEFAULT 'device_uuid'::name, device_key name DEFAULT 'device_uuid'::name, \
     device_name name DEFAULT 'name'::name, connection_type name DEFAULT 'connection_type'::name, \
     last_seen name DEFAULT 'last_seen_at'::name, online name DEFAULT NULL::name) \
     returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.create_fleet_tables(partition_by text DEFAULT NULL::text) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.detach() returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.grant_api(role name DEFAULT 'authenticated'::name) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.grant_capability(role text, capability text) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.grant_dump(role name) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.publish(publication name DEFAULT 'supabase_realtime'::name, create_missing boolean DEFAULT false) \
     returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.refresh_stats() returns timestamp with time zone volatile, parallel unsafe, security definer, search_path=pg_catalog, pg_temp",
    "busymate_stats.refresh_status() returns timestamp with time zone volatile, parallel unsafe, security definer, search_path=pg_catalog, pg_temp",
    "busymate_stats.repair() returns SETOF text volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.revoke_capability(role text, capability text) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.stats_at(as_of timestamp with time zone) returns jsonb stable, parallel restricted",
    "busymate_stats.stats_recomputed(as_of timestamp with time zone) returns jsonb stable, parallel restricted",
    "busymate_stats.unassign_role(sub text, role text) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.unassign_role(sub uuid, role text) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.verify() returns TABLE(figure text, incremental jsonb, recomputed jsonb) stable, parallel unsafe, search_path=pg_catalog, pg_temp",
    "busymate_stats.version() returns text immutable, parallel safe",
    "public.get_stats() returns jsonb stable, parallel restricted",
    "public.has_capability(section text, action text) returns boolean stable, parallel safe",
    "public.mcp() returns busymate_stats.\"*/*\" volatile, parallel unsafe",
    "public.mcp(jsonb) returns busymate_stats.\"*/*\" volatile, parallel unsafe",
    "public.report_status(jsonb) returns void volatile, parallel unsafe, search_path=pg_catalog, pg_temp",
];

#[test]
fn functions_are_as_released() {
    let (_, mut client) = installed("functions");
    let functions = list(
        &mut client,
        &format!(
            "select format('%s.%s(%s) returns %s %s, parallel %s', p.pronamespace::regnamespace, p.proname,
                           pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
                           case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
                           case p.proparallel when 's' then 'safe' when 'r' then 'restricted' else 'unsafe' end)
                    || case when p.proisstrict then ', strict' else '' end
                    || case when p.prosecdef then ', security definer' else '' end
                    || coalesce(', ' || array_to_string(p.proconfig, ', '), '')
               from pg_proc p
              where p.oid in ({}) and p.pronamespace <> 'busymate_stats_internal'::regnamespace",
            member_functions()
        ),
    );
    assert_eq!(functions, FUNCTIONS);
}

/// The columns that others read, write or dump, in their order.
const COLUMNS: &[&str] = &[
    "busymate_stats.component_health 1 key text",
    "busymate_stats.component_health 2 reason text",
    "busymate_stats.component_health 3 checked_at timestamp with time zone",
    "busymate_stats.components 1 key text not null",
    "busymate_stats.components 10 position integer not null default 0",
    "busymate_stats.components 2 label text not null",
    "busymate_stats.components 3 url text",
    "busymate_stats.components 4 expect_min integer not null default 200",
    "busymate_stats.components 5 expect_max integer not null default 399",
    "busymate_stats.components 6 timeout interval not null default '00:00:02'::interval",
    "busymate_stats.components 7 unit text",
    "busymate_stats.components 8 critical boolean not null default false",
    "busymate_stats.components 9 enabled boolean not null default true",
    "busymate_stats.health 1 feed text",
    "busymate_stats.health 2 last_refresh timestamp with time zone",
    "busymate_stats.health 3 age interval",
    "busymate_stats.health 4 duration interval",
    "busymate_stats.health 5 last_error text",
    "busymate_stats.health 6 stale boolean",
    "busymate_stats.health 7 preloaded boolean",
    "busymate_stats.health 8 worker_running boolean",
    "busymate_stats.health 9 detail jsonb",
    "busymate_stats.my_capabilities 1 section text",
    "busymate_stats.my_capabilities 2 action text",
    "busymate_stats.my_capabilities 3 via_role text",
    "busymate_stats.revoked_tokens 1 jti text not null",
    "busymate_stats.revoked_tokens 2 revoked_at timestamp with time zone not null default now()",
    "busymate_stats.revoked_tokens 3 expires_at timestamp with time zone",
    "busymate_stats.role_capabilities 1 role text not null",
    "busymate_stats.role_capabilities 2 section text not null",
    "busymate_stats.role_capabilities 3 action text not null",
    "busymate_stats.role_capabilities 4 changed_at timestamp with time zone not null default now()",
    "busymate_stats.role_capabilities 5 changed_by text not null",
    "busymate_stats.roles 1 name text not null",
    "busymate_stats.roles 2 description text",
    "busymate_stats.roles 3 builtin boolean not null default false",
    "busymate_stats.roles 4 changed_at timestamp with time zone not null default now()",
    "busymate_stats.roles 5 changed_by text not null",
    "busymate_stats.user_roles 1 sub text not null",
    "busymate_stats.user_roles 2 role text not null",
    "busymate_stats.user_roles 3 changed_at timestamp with time zone not null default now()",
    "busymate_stats.user_roles 4 changed_by text not null",
    "public.service_stats 1 id integer not null default 1",
    "public.service_stats 2 snapshot jsonb not null",
    "public.service_stats 3 updated_at timestamp with time zone not null default now()",
    "public.service_status 1 id integer not null default 1",
    "public.service_status 2 snapshot jsonb not null",
    "public.service_status 3 updated_at timestamp with time zone not null default now()",
];

#[test]
fn columns_are_as_released() {
    let (_, mut client) = installed("columns");
    let columns = list(
        &mut client,
        &format!(
            "select format('%s %s %s %s', c.oid::regclass, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod))
                    || case when a.attnotnull then ' not null' else '' end
                    || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
               from pg_class c
               join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
              where c.oid in ({}) and c.relnamespace <> 'busymate_stats_internal'::regnamespace",
            member_relations()
        ),
    );
    assert_eq!(columns, COLUMNS);
}

const KEYS: &[&str] = &[
    "busymate_stats.components PRIMARY KEY (key)",
    "busymate_stats.revoked_tokens PRIMARY KEY (jti)",
    "busymate_stats.role_capabilities CHECK ((action <> ''::text))",
    "busymate_stats.role_capabilities CHECK ((section <> ''::text))",
    "busymate_stats.role_capabilities FOREIGN KEY (role) REFERENCES busymate_stats.roles(name) ON DELETE CASCADE",
    "busymate_stats.role_capabilities PRIMARY KEY (role, section, action)",
    "busymate_stats.roles CHECK ((name <> ''::text))",
    "busymate_stats.roles PRIMARY KEY (name)",
    "busymate_stats.user_roles CHECK ((sub <> ''::text))",
    "busymate_stats.user_roles FOREIGN KEY (role) REFERENCES busymate_stats.roles(name) ON DELETE CASCADE",
    "busymate_stats.user_roles PRIMARY KEY (sub, role)",
    "public.service_stats CHECK ((id = 1))",
    "public.service_stats PRIMARY KEY (id)",
    "public.service_status CHECK ((id = 1))",
    "public.service_status PRIMARY KEY (id)",
];

#[test]
fn keys_and_checks_are_as_released() {
    let (_, mut client) = installed("keys");
    let keys = list(
        &mut client,
        &format!(
            // From PostgreSQL 18 on NOT NULL is a constraint too; the columns have it.
            "select k.conrelid::regclass || ' ' || pg_get_constraintdef(k.oid) from pg_constraint k
              where k.conrelid in ({}) and k.connamespace <> 'busymate_stats_internal'::regnamespace
                and k.contype <> 'n'",
            member_relations()
        ),
    );
    assert_eq!(keys, KEYS);
}

/// The built-in roles: what a dump leaves out, since the install script brings it.
#[test]
fn built_in_roles_are_as_released() {
    let (_, mut client) = installed("builtin");
    let roles = list(
        &mut client,
        "select format('%s %s:%s', r.name, c.section, c.action)
           from busymate_stats.roles r left join busymate_stats.role_capabilities c on c.role = r.name",
    );
    assert_eq!(roles, ["admin *:*", "viewer *:view"]);
    assert_eq!(list(&mut client, "select name from busymate_stats.roles where not builtin"), [""; 0]);
}

/// A read-only role's view runs with that role's rights. `health` alone runs with its owner's, and says itself who sees
/// its rows.
#[test]
fn views_run_with_the_rights_of_who_asks() {
    let (_, mut client) = installed("views");
    let definers = format!(
        "select c.oid::regclass from pg_class c
          where c.oid in ({}) and c.relkind = 'v'
            and not coalesce(c.reloptions && array['security_invoker=true', 'security_barrier=true'], false)",
        member_relations()
    );
    assert_eq!(list(&mut client, &definers), [""; 0]);
    client.batch_execute("alter view busymate_stats.my_capabilities reset (security_invoker)").unwrap();
    assert_eq!(list(&mut client, &definers), ["busymate_stats.my_capabilities"]);
}

/// Members, columns and policies that have no COMMENT. PostgREST shows comments to whoever uses the API.
fn uncommented() -> String {
    let (members, relations) = (MEMBERS, member_relations());
    format!(
        "select pg_describe_object(classid, objid, objsubid)
           from (select classid, objid, 0 as objsubid from ({members}) m
                 union all
                 select 'pg_class'::regclass, attrelid, attnum from pg_attribute
                  where attrelid in ({relations}) and attnum > 0 and not attisdropped
                 union all
                 select 'pg_policy'::regclass, oid, 0 from pg_policy where polrelid in ({relations})) object
          where coalesce((select description from pg_description d
                           where d.classoid = classid and d.objoid = objid and d.objsubid = object.objsubid), '') = ''"
    )
}

#[test]
fn every_object_carries_a_comment() {
    let (_, mut client) = installed("comments");
    assert_eq!(list(&mut client, &uncommented()), [""; 0]);
    let extension = "select obj_description(oid, 'pg_extension') is null from pg_extension where extname = 'busymate_stats'";
    assert_eq!(list(&mut client, extension), ["false"]);
    client.batch_execute("comment on column public.service_stats.snapshot is null").unwrap();
    client.batch_execute("comment on function public.get_stats() is null").unwrap();
    client.batch_execute("comment on policy roles_view on busymate_stats.roles is null").unwrap();
    assert_eq!(
        list(&mut client, &uncommented()),
        [
            "column snapshot of table public.service_stats",
            "function public.get_stats()",
            "policy roles_view on table busymate_stats.roles",
        ]
    );
}

/// Tables whose rows the library deletes by itself, which asks for no identity and has nothing decoded.
const DELETED_NATIVELY: &str = "late_changes|roster_changes|seal_markers";

/// Our own deletes would fail under a FOR ALL TABLES publication.
#[test]
fn a_table_without_a_primary_key_identifies_rows_by_the_whole() {
    let (_, mut client) = installed("identity");
    let offenders = format!(
        "select c.oid::regclass from pg_class c
          where c.oid in ({}) and c.relkind in ('r', 'p') and c.relreplident <> 'f'
            and (c.relname ~ '^({DELETED_NATIVELY})$') is distinct from (c.relreplident = 'n')
             or c.oid in ({}) and c.relkind in ('r', 'p') and c.relreplident not in ('f', 'n')
            and not (c.relreplident = 'd'
                     and exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary))",
        member_relations(),
        member_relations()
    );
    assert_eq!(list(&mut client, &offenders), [""; 0]);
    client
        .batch_execute(
            "create table busymate_stats.planted (x int);
             alter extension busymate_stats add table busymate_stats.planted",
        )
        .unwrap();
    assert_eq!(list(&mut client, &offenders), ["busymate_stats.planted"]);
    client.batch_execute("alter table busymate_stats.planted replica identity full").unwrap();
    assert_eq!(list(&mut client, &offenders), [""; 0]);
}

const POLICIES: &[&str] = &[
    "busymate_stats.components DELETE to {public} using (( SELECT public.has_capability('status'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.components INSERT to {public} check (( SELECT public.has_capability('status'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.components SELECT to {public} using (( SELECT public.has_capability('status'::text, 'view'::text) AS has_capability))",
    "busymate_stats.components UPDATE to {public} using (( SELECT public.has_capability('status'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.revoked_tokens DELETE to {public} using (( SELECT public.has_capability('tokens'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.revoked_tokens INSERT to {public} check (( SELECT public.has_capability('tokens'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.revoked_tokens SELECT to {public} using (( SELECT public.has_capability('tokens'::text, 'view'::text) AS has_capability))",
    "busymate_stats.revoked_tokens UPDATE to {public} using (( SELECT public.has_capability('tokens'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.role_capabilities DELETE to {public} using (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.role_capabilities INSERT to {public} check (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.role_capabilities SELECT to {public} using (( SELECT public.has_capability('roles'::text, 'view'::text) AS has_capability))",
    "busymate_stats.role_capabilities UPDATE to {public} using (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.roles DELETE to {public} using (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.roles INSERT to {public} check (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.roles SELECT to {public} using (( SELECT public.has_capability('roles'::text, 'view'::text) AS has_capability))",
    "busymate_stats.roles UPDATE to {public} using (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.user_roles DELETE to {public} using (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.user_roles INSERT to {public} check (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "busymate_stats.user_roles SELECT to {public} using (( SELECT public.has_capability('roles'::text, 'view'::text) AS has_capability))",
    "busymate_stats.user_roles UPDATE to {public} using (( SELECT public.has_capability('roles'::text, 'edit'::text) AS has_capability))",
    "public.service_stats SELECT to {public} using (( SELECT public.has_capability('stats'::text, 'view'::text) AS has_capability))",
    "public.service_status SELECT to {public} using (( SELECT public.has_capability('status'::text, 'view'::text) AS has_capability))",
];

/// One policy per table and action, for PUBLIC: a policy that names a role blocks DROP ROLE.
#[test]
fn policies_are_as_released() {
    let (_, mut client) = installed("policies");
    let policies = list(
        &mut client,
        "select format('%I.%I %s to %s', schemaname, tablename, cmd, roles)
                || coalesce(' using (' || qual || ')', '') || coalesce(' check (' || with_check || ')', '')
                || case permissive when 'PERMISSIVE' then '' else ' restrictive' end
           from pg_policies",
    );
    assert_eq!(policies, POLICIES);
    let open = format!(
        "select c.oid::regclass from pg_class c
          where c.oid in ({}) and c.relkind = 'r' and not c.relrowsecurity",
        member_relations()
    );
    assert_eq!(list(&mut client, &open), [""; 0]);
    client.batch_execute("alter table public.service_stats disable row level security").unwrap();
    assert_eq!(list(&mut client, &open), ["public.service_stats"]);
}

/// Who installs needs no generator: the script that is committed is what the topics make.
#[test]
fn the_install_script_is_assembled_from_the_topics() {
    let root = Path::new(harness::CHECKOUT);
    let mut topics: Vec<_> =
        std::fs::read_dir(root.join("sql/topics")).unwrap().map(|entry| entry.unwrap().path()).collect();
    topics.sort();
    let assembled = run(Command::new(root.join("scripts/assemble-sql")).args(topics));
    let version = env!("CARGO_PKG_VERSION");
    let committed = std::fs::read_to_string(root.join(format!("sql/busymate_stats--{version}.sql"))).unwrap();
    assert!(assembled == committed, "sql/topics has changed: run `make script`");
    let control = std::fs::read_to_string(root.join("busymate_stats.control")).unwrap();
    assert!(
        control.contains(&format!("default_version = '{version}'\n")),
        "Cargo.toml and the control file differ"
    );
}
