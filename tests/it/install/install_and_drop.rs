//! Promise: installing and dropping harm nobody. CREATE EXTENSION takes nothing over and hands nothing out; DROP EXTENSION
//! takes away what is the extension's, and nothing else.

use harness::catalog::{list, privileges};
use harness::fleet::fleet;
use harness::{SUPABASE_DEFAULT_PRIVILEGES, installed, refusal, shared, value};
use postgres::Client;
use serde_json::Value;

const CREATE: &str = "create extension busymate_stats";

fn bare(prefix: &str) -> (String, Client) {
    let database = shared().create_database(prefix);
    let client = shared().connect(&database);
    (database, client)
}

fn is_installed(client: &mut Client) -> bool {
    value(client, "select exists (select from pg_extension where extname = 'busymate_stats')")
}

/// Everything in the schemas that the extension uses.
fn objects(client: &mut Client) -> Vec<String> {
    list(
        client,
        "select pg_describe_object(classid, objid, 0)
           from (select 'pg_class'::regclass, oid, relnamespace from pg_class
                 union all select 'pg_proc'::regclass, oid, pronamespace from pg_proc
                 union all select 'pg_type'::regclass, oid, typnamespace from pg_type) o (classid, objid, namespace)
          where namespace::regnamespace::text in ('busymate_stats', 'busymate_stats_internal', 'public')",
    )
}

#[test]
fn creating_says_what_to_call_next() {
    let database = shared().create_database("notice");
    let (mut client, heard) = shared().connect_hearing(&database);
    client.batch_execute(CREATE).unwrap();
    let notices = heard.lock().unwrap();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].message, "busymate_stats is installed, and nobody but its owner may use it yet");
    for call in ["create_fleet_tables()", "attach(", "grant_api('authenticated')", "assign_role("] {
        assert!(
            notices[0].hint.contains(&format!("SELECT busymate_stats.{call}")) || call == "attach(",
            "{call}"
        );
        assert!(notices[0].hint.contains(call), "{call}");
    }
}

/// A session that wants no notices gets none, and keeps its setting, however it was set.
#[test]
fn creating_is_quiet_where_quiet_is_wanted() {
    let database = shared().create_database("quiet");
    let (mut client, heard) = shared().connect_hearing(&database);
    for (level, local) in
        [("error", ""), ("warning", ""), ("warning", "local "), ("notice", ""), ("debug1", "")]
    {
        client.batch_execute("begin").unwrap();
        client.batch_execute(&format!("set {local}client_min_messages = {level}")).unwrap();
        heard.lock().unwrap().clear();
        client.batch_execute(CREATE).unwrap();
        let notices =
            heard.lock().unwrap().iter().filter(|notice| notice.message.contains("is installed")).count();
        assert_eq!(notices, usize::from(["notice", "debug1"].contains(&level)), "{level}: {heard:?}");
        assert_eq!(value::<String>(&mut client, "show client_min_messages"), level);
        client.batch_execute("rollback").unwrap();
    }
    // What the database's setting says counts too.
    client.batch_execute(&format!("alter database {database} set client_min_messages = warning")).unwrap();
    let (mut client, heard) = shared().connect_hearing(&database);
    client.batch_execute(CREATE).unwrap();
    assert!(heard.lock().unwrap().is_empty(), "{heard:?}");
}

/// The statements of a hint: from the first ALTER to the last semicolon.
fn statements(hint: &str) -> &str {
    &hint[hint.find("ALTER").expect(hint)..=hint.rfind(';').expect(hint)]
}

const HAND_WRITTEN: &str = "
    create function public.get_stats() returns jsonb language sql as $$ select '{\"mine\": true}'::jsonb $$;
    create function public.has_capability(section text, action text) returns boolean language sql
        as 'select section = ''stats''';
    create table public.service_stats (id int primary key, snapshot jsonb);
    create view public.service_status as select 1 as id, '{}'::jsonb as snapshot;
    insert into public.service_stats values (1, '{\"kept\": true}');
    alter table public.service_stats enable row level security;
    create policy mine on public.service_stats using (public.has_capability('stats', 'view'));
    grant select on public.service_stats to authenticated;
";

#[test]
fn beside_a_hand_written_feed_it_says_what_is_in_the_way_and_how_to_move_it() {
    let (_, mut client) = bare("replace");
    client.batch_execute(HAND_WRITTEN).unwrap();
    let before = objects(&mut client);
    let refused = refusal(&mut client, CREATE);
    assert_eq!(refused.code, "42710");
    assert_eq!(
        refused.message,
        "busymate_stats cannot be installed beside function public.get_stats(), function public.has_capability(text,text), \
         relation public.service_stats, relation public.service_status"
    );
    assert_eq!(objects(&mut client), before);

    client.batch_execute(statements(&refused.hint)).unwrap();
    client.batch_execute(CREATE).unwrap();
    assert_eq!(value::<Value>(&mut client, "select public.old_get_stats()")["mine"], true);
    assert_eq!(value::<Value>(&mut client, "select snapshot from public.old_service_stats")["kept"], true);
    assert_eq!(value::<i32>(&mut client, "select id from public.old_service_status"), 1);
    assert_eq!(
        list(&mut client, "select qual from pg_policies where policyname = 'mine'"),
        ["public.old_has_capability('stats'::text, 'view'::text)"]
    );
    client.batch_execute("drop extension busymate_stats").unwrap();
    assert_eq!(value::<Value>(&mut client, "select snapshot from public.old_service_stats")["kept"], true);
}

/// Somebody else's MCP endpoint, in the two forms that PostgREST asks for.
#[test]
fn beside_another_mcp_function_it_names_both_forms() {
    let (_, mut client) = bare("preflight_mcp");
    client
        .batch_execute(
            "create function public.mcp(message jsonb) returns jsonb language sql as 'select $1';
             create function public.mcp() returns jsonb language sql as 'select null::jsonb';
             create function public.mcp(text) returns text language sql as 'select $1'",
        )
        .unwrap();
    let before = objects(&mut client);
    let refused = refusal(&mut client, CREATE);
    assert_eq!(
        refused.message,
        "busymate_stats cannot be installed beside function public.mcp(), function public.mcp(jsonb)"
    );
    assert_eq!(objects(&mut client), before);
    client.batch_execute(statements(&refused.hint)).unwrap();
    client.batch_execute(CREATE).unwrap();
    assert_eq!(value::<Value>(&mut client, "select public.old_mcp('7')"), 7);
    // What PostgREST would not mistake for ours stays where it is.
    assert_eq!(value::<String>(&mut client, "select public.mcp('x'::text)"), "x");
}

/// Each kind of object that may bear a name of ours, with the statement that moves it.
#[test]
fn whatever_bears_a_name_of_ours_can_be_moved() {
    let kinds = [
        "create procedure public.has_capability(text, text) language sql as ''",
        "create aggregate public.has_capability(text, text)
             (sfunc = pg_catalog.regexp_replace, stype = text, initcond = '')",
        "create function public.mcp(message jsonb) returns jsonb language sql as 'select $1'",
        "create function public.mcp() returns void language sql as ''",
        "create procedure public.report_status(jsonb) language sql as ''",
        "create table public.service_stats (a int) partition by list (a)",
        "create materialized view public.service_stats as select 1",
        "create sequence public.service_stats",
        "create type public.service_stats as (a int)",
        "create foreign data wrapper w; create server s foreign data wrapper w;
         create foreign table public.service_stats (a int) server s",
        "create table public.t (a int); create index service_stats on public.t (a)",
        "create table public.t (a int) partition by list (a); create index service_status on public.t (a)",
    ];
    for kind in kinds {
        let (_, mut client) = bare("kind");
        client.batch_execute(kind).unwrap();
        let refused = refusal(&mut client, CREATE);
        assert_eq!(refused.code, "42710", "{kind}");
        client.batch_execute(statements(&refused.hint)).unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        client.batch_execute(CREATE).unwrap_or_else(|error| panic!("{kind}: {error:?}"));
    }
}

#[test]
fn functions_with_other_arguments_and_relations_elsewhere_are_not_in_the_way() {
    let (_, mut client) = bare("overloads");
    client
        .batch_execute(
            "create schema mine;
             create table mine.service_stats (a int);
             create function mine.get_stats() returns int language sql as 'select 1';
             create function public.get_stats(a int) returns int language sql as 'select 1';
             create function public.has_capability(a text) returns int language sql as 'select 1';
             create function public.has_capability(a uuid, b text) returns int language sql as 'select 1';",
        )
        .unwrap();
    client.batch_execute(CREATE).unwrap();
    client.batch_execute("drop extension busymate_stats").unwrap();
    assert_eq!(value::<i32>(&mut client, "select public.get_stats(1) + mine.get_stats()"), 2);
}

/// Attack: a role with CREATE on the database makes the schema first, with an operator in it that fits better than
/// PostgreSQL's own. What the hint says ends it; what others say, such as giving it to a superuser, does not.
#[test]
fn a_schema_that_somebody_has_squatted_in_is_refused() {
    let (database, mut client) = bare("schema");
    client
        .batch_execute(&format!(
            "create role install_squatter login; grant create on database {database} to install_squatter"
        ))
        .unwrap();
    let mut squatter = shared().connect_as("install_squatter", &database);
    squatter
        .batch_execute(
            "create schema busymate_stats;
             create function busymate_stats.trap(name, text) returns boolean language plpgsql as
                 $f$begin execute 'alter role install_squatter superuser'; return $1 operator(pg_catalog.=) $2; end$f$;
             create operator busymate_stats.= (leftarg = name, rightarg = text, function = busymate_stats.trap);
             grant all on schema busymate_stats to public",
        )
        .unwrap();
    let refused = refusal(&mut client, CREATE);
    assert_eq!(refused.code, "42501");
    assert!(refused.message.contains("install_squatter"), "{refused:?}");
    let hint = refused.hint;
    client.batch_execute("alter schema busymate_stats owner to current_user").unwrap();
    let refused = refusal(&mut client, CREATE);
    assert_eq!((refused.code.as_str(), refused.message.contains("PUBLIC")), ("42501", true), "{refused:?}");
    client.batch_execute("revoke create on schema busymate_stats from public").unwrap();
    let refused = refusal(&mut client, CREATE);
    assert_eq!(refused.code, "42710");
    assert!(refused.detail.contains("operator busymate_stats.="), "{refused:?}");
    assert!(!is_installed(&mut client));
    assert!(hint.contains("DROP SCHEMA busymate_stats CASCADE"), "{hint}");
    client.batch_execute("drop schema busymate_stats cascade").unwrap();
    client.batch_execute(CREATE).unwrap();
    assert!(!value::<bool>(&mut client, "select rolsuper from pg_roles where rolname = 'install_squatter'"));
}

/// The second schema is made by the script alone: the owner of another one of that name could drop what would be in it.
#[test]
fn an_internal_schema_that_is_there_is_refused() {
    let (_, mut client) = bare("internal");
    client.batch_execute("create schema busymate_stats_internal").unwrap();
    let refused = refusal(&mut client, CREATE);
    assert_eq!(refused.code, "42P06");
    assert!(refused.hint.contains("DROP SCHEMA busymate_stats_internal CASCADE"), "{refused:?}");
    assert!(!is_installed(&mut client));
    client.batch_execute("drop schema busymate_stats_internal").unwrap();
    client.batch_execute(CREATE).unwrap();
}

/// The schema that DROP EXTENSION leaves behind, with its grants, is no obstacle; nor is what ALTER DEFAULT PRIVILEGES
/// gives to the one that CREATE EXTENSION makes.
#[test]
fn a_schema_of_the_superusers_own_is_taken() {
    let (_, mut client) = bare("own_schema");
    client
        .batch_execute(
            "create role install_reader; create schema busymate_stats; create extension busymate_stats;
             grant usage on schema busymate_stats to install_reader; drop extension busymate_stats;
             create extension busymate_stats; drop extension busymate_stats; drop schema busymate_stats;
             alter default privileges grant all on schemas to install_reader; create extension busymate_stats",
        )
        .unwrap();
    assert!(!value::<bool>(
        &mut client,
        "select has_schema_privilege('install_reader', 'busymate_stats', 'create')"
    ));
    client.batch_execute("drop extension busymate_stats; drop schema busymate_stats; drop owned by install_reader; drop role install_reader").unwrap();
}

/// Nothing in the install script can find an object of others by an unqualified name.
#[test]
fn the_install_script_looks_names_up_in_pg_catalog_alone() {
    let root = std::path::Path::new(harness::CHECKOUT);
    let version = env!("CARGO_PKG_VERSION");
    let script = std::fs::read_to_string(root.join(format!("sql/busymate_stats--{version}.sql"))).unwrap();
    let first =
        script.lines().find(|line| !line.is_empty() && !line.starts_with("--") && !line.starts_with("\\"));
    assert_eq!(first, Some("set local search_path = pg_catalog, pg_temp;"));
    assert_eq!(script.matches("set local search_path").count(), 1);
}

#[test]
fn a_database_that_cannot_hold_json_is_refused() {
    let cluster = shared();
    cluster
        .connect("postgres")
        .batch_execute("create database latin1 template template0 encoding 'LATIN1' locale 'C'")
        .unwrap();
    let mut client = cluster.connect("latin1");
    let refused = refusal(&mut client, CREATE);
    assert_eq!(refused.code, "0A000");
    assert!(refused.message.contains("LATIN1"), "{refused:?}");
    assert!(refused.hint.contains("ENCODING 'UTF8'"), "{refused:?}");
    assert!(!is_installed(&mut client));
}

#[test]
fn it_lives_in_its_own_schema_only() {
    let (_, mut client) = bare("elsewhere");
    client.batch_execute("create schema elsewhere").unwrap();
    let refused = refusal(&mut client, "create extension busymate_stats schema elsewhere");
    assert_eq!(refused.code, "0A000");
    client.batch_execute(CREATE).unwrap();
    assert_eq!(refusal(&mut client, "alter extension busymate_stats set schema elsewhere").code, "0A000");
}

#[test]
fn plpgsql_is_asked_for_where_it_is_missing() {
    let (_, mut client) = bare("plpgsql");
    client.batch_execute("drop extension plpgsql").unwrap();
    let refused = refusal(&mut client, CREATE);
    assert!(refused.message.contains("plpgsql") && refused.hint.contains("CASCADE"), "{refused:?}");
    client.batch_execute("create extension busymate_stats cascade").unwrap();
}

#[test]
fn only_a_superuser_may_install_it() {
    let (database, mut client) = bare("trusted");
    client
        .batch_execute(&format!(
            "create role install_owner login; alter database {database} owner to install_owner"
        ))
        .unwrap();
    let refused = refusal(&mut shared().connect_as("install_owner", &database), CREATE);
    assert_eq!(refused.code, "42501");
}

#[test]
fn a_rolled_back_create_leaves_nothing() {
    let (_, mut client) = bare("create_undone");
    let before = objects(&mut client);
    client.batch_execute("begin; create extension busymate_stats; select busymate_stats.create_fleet_tables(); select public.get_stats(); rollback").unwrap();
    assert_eq!(objects(&mut client), before);
    assert!(!is_installed(&mut client));
    client
        .batch_execute(
            "begin; create extension busymate_stats; select public.has_capability('a', 'b'); commit",
        )
        .unwrap();
    assert!(value::<bool>(&mut client, "select public.has_capability('stats', 'view')"));
}

/// A fleet that is attached, published, granted and refreshed.
fn in_use(prefix: &str) -> Client {
    let (_, mut client) = fleet(prefix);
    client
        .batch_execute(
            "insert into public.entries (host) select 'h' || i from generate_series(1, 100) i;
             insert into public.devices (name) values ('a'), ('b');
             select busymate_stats.refresh_stats();
             select busymate_stats.grant_api(), busymate_stats.grant_api('anon');
             select busymate_stats.publish('live', create_missing => true);
             insert into busymate_stats.roles values ('ops');
             select busymate_stats.assign_role('u', 'ops')",
        )
        .unwrap();
    client
}

const FLEET_DATA: &str = "select format('%s entries, %s devices', (select count(*) from public.entries), (select count(*) from public.devices))";

#[test]
fn dropping_needs_no_cascade_and_loses_no_fleet_data() {
    let mut client = in_use("drop");
    let fleet = "select pg_describe_object('pg_class'::regclass, oid, 0) from pg_class
                  where relnamespace = 'public'::regnamespace and relname ~ '^(entries|devices)'";
    let tables = list(&mut client, fleet);
    client.batch_execute("drop extension busymate_stats").unwrap();
    assert_eq!(value::<String>(&mut client, FLEET_DATA), "100 entries, 2 devices");
    assert_eq!(list(&mut client, fleet), tables);
    let left = objects(&mut client);
    let others: Vec<_> =
        left.iter().filter(|object| !object.contains("entries") && !object.contains("devices")).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(
        list(
            &mut client,
            "select tgname from pg_trigger where tgrelid in ('public.entries'::regclass, 'public.devices'::regclass)"
        ),
        [""; 0]
    );
    assert_eq!(
        value::<i64>(&mut client, "select count(*) from pg_namespace where nspname = 'busymate_stats'"),
        1
    );
    assert_eq!(value::<i64>(&mut client, "select count(*) from pg_publication where pubname = 'live'"), 1);

    client.batch_execute("create extension busymate_stats; select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
    assert_eq!(value::<Value>(&mut client, "select public.get_stats()")["total_entries"], 100);
    assert_eq!(list(&mut client, "select sub from busymate_stats.user_roles"), [""; 0]);
}

#[test]
fn a_rolled_back_drop_changes_nothing() {
    let mut client = in_use("drop_undone");
    let state = |client: &mut Client| (objects(client), privileges(client));
    let before = state(&mut client);
    client.batch_execute("begin; drop extension busymate_stats; rollback").unwrap();
    assert_eq!(state(&mut client), before);
    assert_eq!(value::<Value>(&mut client, "select public.get_stats()")["total_entries"], 100);
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert!(value::<bool>(&mut client, "select public.has_capability('stats', 'view')"));
}

/// A session that has used the extension before it went and came again.
#[test]
fn a_session_outlives_dropping_and_creating() {
    let (database, mut client) = installed("outlive");
    let mut other = shared().connect(&database);
    for _ in 0..2 {
        other.batch_execute("select public.has_capability('stats', 'view')").unwrap();
        let refused = refusal(&mut other, "select public.get_stats()");
        assert_eq!(refused.code, "42P01", "{refused:?}");
        client.batch_execute("drop extension busymate_stats").unwrap();
        assert_eq!(refusal(&mut other, "select public.get_stats()").code, "42883");
        client.batch_execute(CREATE).unwrap();
    }
}

/// A policy of the user's that calls has_capability is his to drop: without CASCADE nothing of his goes.
#[test]
fn a_policy_of_the_users_is_never_dropped_on_the_quiet() {
    let mut client = in_use("policy");
    client
        .batch_execute(
            "create policy mine on public.entries using ((select public.has_capability('stats', 'view')))",
        )
        .unwrap();
    let refused = refusal(&mut client, "drop extension busymate_stats");
    assert_eq!(refused.code, "2BP01");
    assert!(refused.detail.contains("policy mine on table entries"), "{refused:?}");
    assert!(is_installed(&mut client));
    client.batch_execute("drop policy mine on public.entries; drop extension busymate_stats").unwrap();
    assert_eq!(value::<String>(&mut client, FLEET_DATA), "100 entries, 2 devices");
}

#[test]
fn nothing_is_handed_out_whatever_the_default_privileges_are() {
    let (_, mut client) = bare("defaults");
    client.batch_execute(SUPABASE_DEFAULT_PRIVILEGES).unwrap();
    client
        .batch_execute(
            "create role \"install Quoted\"; alter default privileges grant all on tables to \"install Quoted\";
             alter default privileges in schema public grant all on functions to anon, authenticated;
             alter default privileges in schema public grant select on tables to public;
             alter default privileges grant execute on functions to anon with grant option;
             create table public.control (a int)",
        )
        .unwrap();
    assert!(value::<bool>(&mut client, "select has_table_privilege('anon', 'public.control', 'TRUNCATE')"));
    client.batch_execute(CREATE).unwrap();
    assert_eq!(privileges(&mut client), ["public.has_capability(text,text) PUBLIC EXECUTE"]);
}
