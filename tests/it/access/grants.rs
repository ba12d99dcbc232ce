//! Promise: a grant of everything is no way up. Scripts that GRANT ALL ON ALL TABLES, FUNCTIONS and SEQUENCES give an
//! ordinary login every privilege on the extension's objects, and with them neither figures nor rights of others.

use harness::access::{attempt, grant_editing, make_user};
use harness::catalog::list;
use harness::status::{component, snapshot, watch_url};
use harness::worker::EVERY_SECOND;
use harness::{
    Cluster, Refusal, SUPABASE_DEFAULT_PRIVILEGES, SUPABASE_ROLES, eventually, refusal, shared, value,
};
use postgres::Client;
use std::sync::OnceLock;

/// What such scripts do, for every schema that the extension has objects in.
fn grant_all(client: &mut Client, role: &str) {
    for schema in ["public", "busymate_stats", "busymate_stats_internal"] {
        client
            .batch_execute(&format!(
                "grant usage on schema {schema} to {role};
                 grant all on all tables in schema {schema} to {role};
                 grant all on all functions in schema {schema} to {role};
                 grant all on all sequences in schema {schema} to {role};"
            ))
            .unwrap();
    }
}

/// A database of `cluster` like a Supabase project's, with a fleet; an ordinary login of the database's name that has
/// been granted everything; and that login's session.
fn scene_in(cluster: &Cluster, prefix: &str) -> (String, Client, Client) {
    let database = cluster.create_database(prefix);
    let mut client = cluster.connect(&database);
    client
        .batch_execute(&format!(
            "{SUPABASE_DEFAULT_PRIVILEGES} create extension busymate_stats;
             create role {database} login; create schema {database} authorization {database};
             select busymate_stats.create_fleet_tables(); select busymate_stats.grant_api();"
        ))
        .unwrap();
    grant_all(&mut client, &database);
    let app = cluster.connect_as(&database, &database);
    (database, client, app)
}

fn scene(prefix: &str) -> (String, Client, Client) {
    scene_in(shared(), prefix)
}

/// The extension's tables without a policy: its own means.
const INTERNAL: &str = "
    select c.oid::regclass::text from pg_class c join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
     where d.deptype = 'e' and d.refobjid = (select oid from pg_extension where extname = 'busymate_stats')
       and c.relkind = 'r' and not exists (select from pg_policy p where p.polrelid = c.oid)";

/// Attack: read, change, add to or empty what the figures are made of, and what decides whose tables are read.
#[test]
fn what_the_extension_keeps_for_itself_is_closed() {
    let (_, mut client, mut app) = scene("closed");
    client
        .batch_execute(
            "insert into public.entries (host) values ('a.example');
             select busymate_stats.refresh_stats();
             insert into busymate_stats_internal.publications values ('p');
             insert into busymate_stats.revoked_tokens (jti) values ('t');
             select busymate_stats.assign_role('boss', 'admin')",
        )
        .unwrap();
    let tables = list(&mut client, INTERNAL);
    assert!(tables.len() >= 16, "{tables:?}");
    for table in &tables {
        assert_eq!(value::<i64>(&mut app, &format!("select count(*) from {table}")), 0, "{table}");
        let column: String = value(
            &mut client,
            &format!(
                "select quote_ident(attname) from pg_attribute where attrelid = '{table}'::regclass and attnum = 1"
            ),
        );
        let update = format!("update {table} set {column} = {column}");
        assert_eq!(app.execute(&update, &[]).unwrap(), 0, "{table}");
        assert_eq!(app.execute(&format!("delete from {table}"), &[]).unwrap(), 0, "{table}");
        let copy = format!("create table planted as table {table}");
        client
            .batch_execute(&format!(
                "drop table if exists planted; {copy}; grant select on planted to public"
            ))
            .unwrap();
        if value::<i64>(&mut client, "select count(*) from planted") > 0 {
            let refused = refusal(&mut app, &format!("insert into {table} select * from planted"));
            assert_eq!(refused.code, "42501", "{table}: {refused:?}");
        }
    }
    for table in tables.iter().map(String::as_str).chain([
        "public.service_stats",
        "public.service_status",
        "busymate_stats.components",
        "busymate_stats.revoked_tokens",
        "busymate_stats.role_capabilities",
        "busymate_stats.roles",
        "busymate_stats.user_roles",
    ]) {
        let refused = refusal(&mut app, &format!("truncate {table} cascade"));
        assert_eq!(refused.code, "42501", "{table}: {refused:?}");
        assert!(refused.message.contains("truncate") && !refused.hint.is_empty(), "{table}: {refused:?}");
    }
    client.batch_execute("truncate busymate_stats.revoked_tokens, busymate_stats.user_roles").unwrap();
}

/// Attack: name another owner's table in `attachment`, to have its columns published. Policies are in the way; where
/// they are not, reading compares the owner.
#[test]
fn only_what_its_owner_has_attached_is_read() {
    let (database, mut client, _) = scene("attached");
    client
        .batch_execute(&format!(
            "create role {database}_victim; create schema secret authorization {database}_victim;
             create table secret.payroll (like public.entries including all);
             insert into secret.payroll (host) values ('salaries');
             alter table secret.payroll owner to {database}_victim;
             select busymate_stats.stats_at(now())"
        ))
        .unwrap();
    client
        .batch_execute("begin; update busymate_stats_internal.attachment set entries = 'secret.payroll'")
        .unwrap();
    for read in ["select public.get_stats()", "select busymate_stats.stats_recomputed(now())"] {
        client.batch_execute("savepoint s").unwrap();
        let refused = refusal(&mut client, read);
        assert_eq!(refused.code, "55000", "{read}: {refused:?}");
        assert!(refused.hint.contains("detach()"), "{refused:?}");
        client.batch_execute("rollback to s").unwrap();
    }
    // An owner that comes later has attached nothing either, until it does.
    client
        .batch_execute(&format!("rollback; alter table public.devices owner to {database}_victim"))
        .unwrap();
    let refused = refusal(&mut client, "select busymate_stats.refresh_stats()");
    assert_eq!(
        refused.message,
        "the attached relation of devices has had another owner since it was attached"
    );
    client
        .batch_execute(
            "select busymate_stats.detach(); select busymate_stats.attach('public.entries', 'public.devices');
             select busymate_stats.refresh_stats()",
        )
        .unwrap();
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start(&format!("{EVERY_SECOND}\nbusymate_stats.status_interval = 1s"));
        cluster.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
        cluster
    })
}

/// Attack: a moment in `feed_health` with which no arithmetic can be done, to end the status worker at every tick.
#[test]
fn a_poisoned_row_ends_no_worker() {
    let (_, mut client, mut app) = scene_in(cluster(), "poisoned");
    let poison =
        "insert into busymate_stats_internal.feed_health as kept (feed, last_refresh) values ('report', 'infinity')
                  on conflict (feed) do update set last_refresh = excluded.last_refresh";
    assert_eq!(refusal(&mut app, poison).code, "42501");
    for moment in ["infinity", "-infinity", "294276-12-31"] {
        client.batch_execute(&poison.replace("'infinity'", &format!("'{moment}'"))).unwrap();
        let key = format!("after {moment}");
        watch_url(&mut client, &key, "http://127.0.0.1:1/");
        eventually(&key, || {
            let written: bool = value(
                &mut client,
                &format!(
                    "select exists (select from public.service_status, jsonb_array_elements(snapshot->'components') c where c->>'key' = '{key}')"
                ),
            );
            written.then_some(())
        });
        component(&snapshot(&mut client), &key);
    }
}

/// A trigger function of the login's own that makes it a superuser, where it runs with the rights for that, and hides it.
fn ladder(app: &mut Client, login: &str) {
    app.batch_execute(&format!(
        "create function {login}.climb() returns trigger language plpgsql as $f$
             begin
                 begin execute 'alter role {login} superuser'; exception when others then null; end;
                 return coalesce(new, old);
             end $f$"
    ))
    .unwrap();
}

#[track_caller]
fn assert_nobody_climbed(client: &mut Client, login: &str) {
    let query = format!("select rolsuper from pg_roles where rolname = '{login}'");
    assert!(!value::<bool>(client, &query), "{login} is a superuser");
}

fn last_error(client: &mut Client, feed: &str) -> String {
    value(
        client,
        &format!(
            "select coalesce((select last_error from busymate_stats.health where feed = '{feed}'), 'none')"
        ),
    )
}

fn refusal_or_done(client: &mut Client, statement: &str) -> Option<Refusal> {
    client.batch_execute(statement).err().map(|error| harness::refusal_of(&error))
}

/// Awaits that a feed's error, or its end, is in `health`.
#[track_caller]
fn told(client: &mut Client, login: &str, feed: &str, text: &str) {
    eventually(&format!("{feed}: {text}"), || {
        assert_nobody_climbed(client, login);
        last_error(client, feed).contains(text).then_some(())
    });
    assert_nobody_climbed(client, login);
}

/// Attack 1: a trigger of an ordinary role's on a table that the worker writes into.
#[test]
fn the_worker_runs_no_trigger_of_others() {
    let (login, mut client, mut app) = scene_in(cluster(), "trigger");
    ladder(&mut app, &login);
    for (feed, table) in [("status", "public.service_status"), ("stats", "public.service_stats")] {
        told(&mut client, &login, feed, "none");
        app.batch_execute(&format!(
            "create trigger climb before insert or update on {table} for each row execute function {login}.climb()"
        ))
        .unwrap();
        told(&mut client, &login, feed, "55000");
        let error = last_error(&mut client, feed);
        assert!(error.contains(&format!("trigger climb on table {table}")), "{error}");
        let shown =
            "select (detail -> 'foreign_objects')::text from busymate_stats.health where feed = 'stats'";
        assert!(value::<String>(&mut client, shown).contains("trigger climb on table"));
        client.batch_execute(&format!("drop trigger climb on {table}")).unwrap();
        told(&mut client, &login, feed, "none");
    }
}

/// Attack 1 on every table, and every way in which something of the extension's writes with an owner's rights.
#[test]
fn nothing_of_the_extensions_runs_a_trigger_of_others() {
    let (login, mut client, mut app) = scene_in(cluster(), "triggers");
    ladder(&mut app, &login);
    client
        .batch_execute(
            "select busymate_stats.assign_role('boss', 'admin'), busymate_stats.refresh_stats();
             insert into busymate_stats.roles (name) values ('extra');
             select busymate_stats.grant_capability('extra', 'stats:view')",
        )
        .unwrap();
    let tables = list(
        &mut client,
        "select c.oid::regclass from pg_class c join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
          where d.deptype = 'e' and d.refobjid = (select oid from pg_extension where extname = 'busymate_stats')
            and c.relkind = 'r'",
    );
    for table in &tables {
        app.batch_execute(&format!(
            "create trigger climb before insert or update or delete on {table} for each row execute function {login}.climb()"
        ))
        .unwrap();
    }
    let known: i64 =
        value(&mut client, "select count(distinct relation) from busymate_stats_internal.foreign_objects");
    assert_eq!(known, tables.len() as i64);
    // The library is loaded before the first statement, as where it is preloaded.
    for way in [
        "select busymate_stats.refresh_stats()",
        "select busymate_stats.refresh_status()",
        "select busymate_stats.detach()",
        "select busymate_stats.assign_role('x', 'viewer')",
        "select busymate_stats.unassign_role('boss', 'admin')",
        "select busymate_stats.revoke_capability('extra', 'stats:view')",
        "insert into busymate_stats.components (key, label) values ('k', 'K')",
        "insert into busymate_stats.revoked_tokens (jti) values ('t')",
        "delete from busymate_stats.revoked_tokens",
        "insert into busymate_stats_internal.publications values ('p')",
        "update public.service_stats set updated_at = updated_at",
    ] {
        let refused = refusal(&mut client, way);
        assert_eq!(refused.code, "55000", "{way}: {refused:?}");
        assert!(refused.message.contains("trigger climb on table"), "{way}: {refused:?}");
        assert!(refused.hint.contains("Drop it"), "{refused:?}");
        assert_nobody_climbed(&mut client, &login);
    }
    // A tick of every job passes: another database of the cluster is refreshed.
    let (_, mut witness) = harness::worker::fleet_in(cluster(), "witness");
    harness::worker::refreshes(&mut witness, 5);
    assert_nobody_climbed(&mut client, &login);
    for table in &tables {
        client.batch_execute(&format!("drop trigger climb on {table}")).unwrap();
    }
    told(&mut client, &login, "stats", "none");
    told(&mut client, &login, "seal", "none");
}

/// Attack 1 by way of DDL: an event trigger writes down what partitions come, with its owner's rights.
#[test]
fn the_event_trigger_runs_no_trigger_of_others() {
    let (login, mut client, mut app) = scene("ddl");
    ladder(&mut app, &login);
    app.batch_execute(&format!(
        "create table {login}.log (like public.entries) partition by range (created_at);
         create table {login}.devices (like public.devices including all);
         alter table {login}.log alter created_at set not null;
         create index on {login}.log (created_at);"
    ))
    .unwrap();
    client
        .batch_execute(&format!(
            "select busymate_stats.detach(); select busymate_stats.attach('{login}.log', '{login}.devices')"
        ))
        .unwrap();
    let add = |app: &mut Client, day: u32| {
        app.batch_execute(&format!(
            "create table {login}.day{day} partition of {login}.log
                 for values from ('2020-01-0{day}') to ('2020-01-0{}')",
            day + 1
        ))
        .unwrap();
    };
    let noted = "select count(*) from busymate_stats_internal.seal_partitions";
    add(&mut app, 1);
    assert_eq!(value::<i64>(&mut client, noted), 1);
    app.batch_execute(&format!(
        "create trigger climb before insert on busymate_stats_internal.seal_partitions for each row execute function {login}.climb()"
    ))
    .unwrap();
    add(&mut app, 2);
    assert_nobody_climbed(&mut client, &login);
    assert_eq!(value::<i64>(&mut client, noted), 1);
}

/// Attack 2: the owner of the database, and so of schema public, puts a table of their own in the feed's place; or the
/// feed itself is theirs.
#[test]
fn the_worker_writes_into_no_table_of_others() {
    let (login, mut client, mut app) = scene_in(cluster(), "schema");
    ladder(&mut app, &login);
    told(&mut client, &login, "status", "none");
    client.batch_execute(&format!("alter table public.service_status owner to {login}")).unwrap();
    told(&mut client, &login, "status", &format!("role {login} owns"));
    client
        .batch_execute(&format!(
            "alter table public.service_status owner to postgres; alter database {login} owner to {login}"
        ))
        .unwrap();
    told(&mut client, &login, "status", "none");
    app.batch_execute("begin; alter schema public rename to moved; create schema public").unwrap();
    for feed in ["service_status", "service_stats"] {
        app.batch_execute(&format!(
            "create table public.{feed} (id int primary key, snapshot jsonb, updated_at timestamptz);
             create trigger climb before insert or update on public.{feed} for each row execute function {login}.climb()"
        ))
        .unwrap();
    }
    app.batch_execute("commit").unwrap();
    for feed in ["status", "stats"] {
        told(&mut client, &login, feed, "is not the extension's");
    }
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_status"), 0);
    app.batch_execute("drop schema public cascade; alter schema moved rename to public").unwrap();
    for feed in ["status", "stats"] {
        told(&mut client, &login, feed, "none");
    }
}

/// Attack 2 by way of the planner, which computes what is immutable before PostgreSQL looks at any right: a default in a
/// table, and a condition in a view, that stand in the feeds' place; a default that is left from when the feed was theirs.
#[test]
fn the_planner_computes_nothing_of_others() {
    let (login, mut client, mut app) = scene_in(cluster(), "planner");
    // What is immutable may not write, but may call what does; and a sequence keeps what an error undoes.
    app.batch_execute(&format!(
        "create sequence {login}.ran;
         create function {login}.count_superusers() returns int language plpgsql volatile as $f$
             begin
                 if (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user) then
                     perform nextval('{login}.ran');
                 end if;
                 return 1;
             end $f$;
         create function {login}.fold() returns int language plpgsql immutable as
             'begin return {login}.count_superusers(); end'"
    ))
    .unwrap();
    let ran = format!("select is_called from {login}.ran");
    let told = |client: &mut Client, feed: &str, text: &str| {
        eventually(&format!("{feed}: {text}"), || {
            assert!(!value::<bool>(client, &ran), "a superuser ran it");
            last_error(client, feed).contains(text).then_some(())
        });
    };
    for feed in ["status", "stats"] {
        told(&mut client, feed, "none");
    }
    client.batch_execute(&format!("alter database {login} owner to {login}")).unwrap();
    app.batch_execute(&format!(
        "begin; alter schema public rename to moved; create schema public;
         create table public.service_stats (id int primary key, snapshot jsonb, updated_at timestamptz,
             trap int default {login}.fold());
         create table public.own (id int primary key, snapshot jsonb, updated_at timestamptz);
         create view public.service_status as select * from public.own where {login}.fold() = 1; commit"
    ))
    .unwrap();
    for feed in ["status", "stats"] {
        told(&mut client, feed, "is not the extension's");
    }
    app.batch_execute("drop schema public cascade; alter schema moved rename to public").unwrap();
    for feed in ["status", "stats"] {
        told(&mut client, feed, "none");
    }

    client.batch_execute(&format!("alter table public.service_stats owner to {login}")).unwrap();
    app.batch_execute(&format!(
        "alter table public.service_stats add trap int; alter table public.service_stats alter trap set default {login}.fold()"
    ))
    .unwrap();
    told(&mut client, "stats", "owns");
    client.batch_execute("alter table public.service_stats owner to postgres").unwrap();
    told(&mut client, "stats", "default value for column trap");
    assert_eq!(refusal(&mut client, "select busymate_stats.refresh_stats()").code, "55000");
    assert!(!value::<bool>(&mut client, &ran));
    client.batch_execute("alter table public.service_stats drop trap").unwrap();
    told(&mut client, "stats", "none");
}

/// Relations are locked by OID and named in queries. The owner of the database, who owns schema public, puts a view of
/// theirs in the place of a superuser's while the first query reads it: the next one does not run it as the superuser.
#[test]
fn what_is_renamed_while_it_is_read_is_not_read() {
    let (login, mut client, mut app) = scene("renamed");
    app.batch_execute(&format!(
        "create sequence {login}.ran;
         create function {login}.trap() returns boolean language plpgsql as $f$
             begin
                 if (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user) then
                     perform nextval('{login}.ran');
                 end if;
                 return true;
             end $f$"
    ))
    .unwrap();
    client
        .batch_execute(&format!(
            "create schema kept;
             create table kept.entries (like public.entries including all);
             insert into kept.entries (host) values ('a.example');
             create function kept.pause() returns boolean language plpgsql as
                 'begin perform pg_advisory_xact_lock_shared(4711); return true; end';
             select busymate_stats.detach();
             drop table public.entries;
             create view public.entries as select * from kept.entries where kept.pause();
             select busymate_stats.attach('public.entries', 'public.devices');
             alter database {login} owner to {login};
             select pg_advisory_lock(4711)"
        ))
        .unwrap();
    let mut refresher = shared().connect(&login);
    let refresh =
        std::thread::spawn(move || refresher.batch_execute("select busymate_stats.refresh_stats()"));
    eventually("the refresh waits in the view", || {
        let waits = "select exists (select from pg_locks where locktype = 'advisory' and not granted and objid = 4711
                                       and database = (select oid from pg_database where datname = current_database()))";
        value::<bool>(&mut client, waits).then_some(())
    });
    app.batch_execute(&format!(
        "begin; alter schema public rename to moved; create schema public;
         create view public.entries as
             select now() as created_at, null::uuid as device_uuid, ''::text as host, 200 as status, ''::text as source
               from generate_series(1, 1) where {login}.trap(); commit"
    ))
    .unwrap();
    client.batch_execute("select pg_advisory_unlock(4711)").unwrap();
    let refused = refresh.join().unwrap().err().map(|error| harness::refusal_of(&error));
    assert!(!value::<bool>(&mut client, &format!("select is_called from {login}.ran")), "a superuser ran it");
    let refused = refused.expect("the refresh is refused");
    assert_eq!(refused.code, "55000", "{refused:?}");
    assert!(refused.message.contains("is not the one that was locked"), "{refused:?}");
    app.batch_execute("drop schema public cascade; alter schema moved rename to public").unwrap();
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
}

/// A user's claims are rights, too: what an ordinary role has put on the role tables does not run with those of an editor
/// who writes there over the API, and neither does what a foreign key cascades to.
#[test]
fn nothing_of_others_runs_with_an_editors_claims() {
    let (login, mut client, mut app) = scene("claims");
    grant_editing(&mut client, "authenticated");
    client
        .batch_execute(
            "select busymate_stats.assign_role('boss', 'admin'), busymate_stats.assign_role('u', 'viewer');
             grant all on busymate_stats.components, busymate_stats.revoked_tokens to authenticated",
        )
        .unwrap();
    app.batch_execute(&format!(
        "create function {login}.take() returns trigger language plpgsql as $f$
             begin
                 if pg_trigger_depth() = 1 then
                     insert into busymate_stats.user_roles values ('{login}', 'admin');
                 end if;
                 return coalesce(new, old);
             end $f$"
    ))
    .unwrap();
    for (table, write) in [
        ("user_roles", "insert into busymate_stats.user_roles values ('v', 'viewer')"),
        ("user_roles", "delete from busymate_stats.user_roles where sub = 'u'"),
        ("roles", "insert into busymate_stats.roles (name) values ('r')"),
        ("components", "insert into busymate_stats.components (key, label, unit) values ('k', 'K', 'u')"),
        ("revoked_tokens", "insert into busymate_stats.revoked_tokens (jti) values ('t')"),
    ] {
        assert_eq!(attempt(&mut client, "authenticated", "boss", write), Ok(1), "{write}");
        app.batch_execute(&format!(
            "create trigger aaa before insert or delete on busymate_stats.{table} for each row execute function {login}.take()"
        ))
        .unwrap();
        let refused = attempt(&mut client, "authenticated", "boss", write).unwrap_err();
        assert_eq!(refused.code, "55000", "{write}: {refused:?}");
        assert!(refused.message.contains("trigger aaa"), "{refused:?}");
        client.batch_execute(&format!("drop trigger aaa on busymate_stats.{table}")).unwrap();
        assert_eq!(attempt(&mut client, "authenticated", "boss", write), Ok(1), "{write}");
    }
    client
        .batch_execute(
            "create table public.child (sub text collate \"C\", role text collate \"C\",
                 foreign key (sub, role) references busymate_stats.user_roles on delete cascade)",
        )
        .unwrap();
    client.batch_execute(&format!("alter table public.child owner to {login}")).unwrap();
    let unassign = "delete from busymate_stats.user_roles where sub = 'u'";
    assert_eq!(attempt(&mut client, "authenticated", "boss", unassign).unwrap_err().code, "55000");
}

/// Who may call attach() takes no other's place with it: not that of a fleet which create_fleet_tables() has attached.
#[test]
fn attach_replaces_no_fleet_of_others() {
    let (login, mut client, mut app) = scene("replace");
    client.batch_execute("insert into public.entries (host) values ('theirs')").unwrap();
    app.batch_execute(&format!(
        "create table {login}.entries (like public.entries including all);
         create table {login}.devices (like public.devices including all)"
    ))
    .unwrap();
    for call in [
        format!("select busymate_stats.attach('{login}.entries', '{login}.devices')"),
        "select busymate_stats.attach('public.entries', 'public.devices')".into(),
        "select busymate_stats.detach()".into(),
        "select busymate_stats.repair()".into(),
        "select busymate_stats.publish('p', true)".into(),
        "select busymate_stats.assign_role('evil', 'admin')".into(),
    ] {
        if let Some(refused) = refusal_or_done(&mut app, &call) {
            assert!(["42501", "42704", "55000"].contains(&&*refused.code), "{call}: {refused:?}");
        }
    }
    let figure = "select (busymate_stats.stats_at(now()) ->> 'total_entries')::int8";
    assert_eq!(value::<i64>(&mut client, figure), 1);
    assert_eq!(value::<i64>(&mut client, "select count(*) from busymate_stats.user_roles"), 0);
}

/// A refusal does not tell what a role holds, nor whether there is one, to somebody who may not see it.
#[test]
fn a_refusal_tells_nothing_of_roles() {
    let (_, mut client, mut app) = scene("tells");
    make_user(&mut client, "secret", &["tokens:edit"]);
    let table = |name: &str| format!("new row violates row-level security policy for table \"{name}\"");
    for role in ["secret", "admin", "no such role"] {
        let refused =
            refusal(&mut app, &format!("insert into busymate_stats.user_roles values ('x', '{role}')"));
        assert_eq!((refused.code.as_str(), refused.message), ("42501", table("user_roles")), "{role}");
        let refused = refusal(
            &mut app,
            &format!("insert into busymate_stats.role_capabilities values ('{role}', 'tokens', 'edit')"),
        );
        assert_eq!((refused.code.as_str(), refused.message), ("42501", table("role_capabilities")), "{role}");
    }
}

/// An owner's code may raise a message of any length, at every tick.
#[test]
fn a_message_without_end_is_cut() {
    let (login, mut client, mut app) = scene_in(cluster(), "message");
    app.batch_execute(&format!(
        "create table {login}.flags (); create table {login}.rows (like public.entries including all);
         create function {login}.complain() returns boolean language plpgsql as $f$
             begin
                 if exists (select from {login}.flags) then raise '%', repeat('ü', 1000000); end if;
                 return true;
             end $f$;
         create view {login}.entries as select * from {login}.rows where {login}.complain()"
    ))
    .unwrap();
    client
        .batch_execute(&format!(
            "select busymate_stats.detach(); select busymate_stats.attach('{login}.entries', 'public.devices');
             insert into {login}.flags default values; insert into {login}.rows default values"
        ))
        .unwrap();
    told(&mut client, &login, "stats", "P0001: ü");
    let error = last_error(&mut client, "stats");
    assert!(error.chars().count() < 2000, "{}", error.len());
}

/// Attack 3: a foreign key to a table that the worker deletes from; what it cascades to fires at the worker's commit.
#[test]
fn the_worker_deletes_nothing_that_others_refer_to() {
    let (login, mut client, mut app) = scene_in(cluster(), "reference");
    ladder(&mut app, &login);
    client
        .batch_execute(
            "insert into busymate_stats.revoked_tokens (jti, expires_at) values ('t', now() + interval '2 seconds')",
        )
        .unwrap();
    app.batch_execute(&format!(
        "create table {login}.child (jti text collate \"C\" primary key
             references busymate_stats.revoked_tokens on delete cascade);
         create constraint trigger climb after delete on {login}.child deferrable initially deferred
             for each row execute function {login}.climb()"
    ))
    .unwrap();
    // Nor does it tell what is there: the row that it refers to is not looked up for others.
    let refused = refusal_or_done(&mut app, &format!("insert into {login}.child values ('t')"));
    told(&mut client, &login, "stats", "constraint child_jti_fkey");
    assert_eq!(refused.map(|refused| refused.code).as_deref(), Some("55000"));
    client.batch_execute(&format!("drop table {login}.child")).unwrap();
    told(&mut client, &login, "stats", "none");
    eventually("the token is cleared", || {
        (value::<i64>(&mut client, "select count(*) from busymate_stats.revoked_tokens") == 0).then_some(())
    });
}

/// What a superuser has put there, and nobody else can have, works on: a row of an audit, a NOTIFY.
#[test]
fn an_administrators_own_trigger_works() {
    let (login, mut client, _) = scene_in(cluster(), "audit");
    client
        .batch_execute(
            "create table public.audit (at timestamptz);
             create function public.audit_status() returns trigger language plpgsql as
                 'begin insert into public.audit values (new.updated_at); return null; end';
             create trigger audit after insert or update on public.service_status
                 for each row execute function public.audit_status()",
        )
        .unwrap();
    told(&mut client, &login, "status", "trigger audit on table public.service_status");
    client
        .batch_execute(
            "revoke execute on function public.audit_status() from public, anon, authenticated, service_role",
        )
        .unwrap();
    told(&mut client, &login, "status", "none");
    eventually("the trigger runs", || {
        (value::<i64>(&mut client, "select count(*) from public.audit") > 1).then_some(())
    });
}

/// A user's own trigger on a feed works on where it can run with no rights but its author's: it fires after the write, and
/// its function is SECURITY DEFINER.
#[test]
fn a_users_own_trigger_on_a_feed_runs_with_its_authors_rights() {
    let (login, mut client, mut app) = scene_in(cluster(), "own");
    app.batch_execute(&format!(
        "create table {login}.audit (feed text, who text, headers text);
         create function {login}.note() returns trigger language plpgsql security definer
             set search_path = pg_catalog, pg_temp as $$
         begin
             insert into {login}.audit values (tg_table_name, current_user, current_setting('request.headers', true));
             notify feeds;
             return null;
         end $$;
         create trigger note after insert or update on public.service_stats
             for each row execute function {login}.note();
         create trigger note after insert or update on public.service_status
             for each row execute function {login}.note()"
    ))
    .unwrap();
    client.batch_execute("select busymate_stats.assign_role('reporter', 'admin')").unwrap();
    let noted = |client: &mut Client, feed: &str| -> i64 {
        value(
            client,
            &format!("select count(*) from {login}.audit where feed = '{feed}' and who = '{login}'"),
        )
    };
    for (feed, table) in [("stats", "service_stats"), ("status", "service_status")] {
        let before = noted(&mut client, table);
        eventually("a tick fires the trigger", || {
            assert_eq!(last_error(&mut client, feed), "none");
            (noted(&mut client, table) > before).then_some(())
        });
    }
    let shown = "select (detail -> 'foreign_objects')::text from busymate_stats.health where feed = 'stats'";
    assert_eq!(value::<String>(&mut client, shown), "[]");
    // The trigger learns nothing of the request of any caller, and settings are as before.
    client
        .batch_execute(
            r#"begin; select set_config('request.headers', '{"authorization": "Bearer secret"}', true),
                             set_config('request.jwt.claims', '{"sub": "reporter"}', true);
               select public.report_status('{"host": {"cpu": 0, "load": [0, 0, 0], "mem": {"usedMb": 1, "totalMb": 2},
                                             "uptime": 1}, "components": []}');
               select busymate_stats.refresh_stats()"#,
        )
        .unwrap();
    let headers: String = value(&mut client, "select current_setting('request.headers')");
    assert!(headers.contains("secret"));
    client.batch_execute("commit; select busymate_stats.detach()").unwrap();
    let others = format!("select count(*) from {login}.audit where who <> '{login}' or headers <> ''");
    assert_eq!(value::<i64>(&mut client, &others), 0);
    // A write into a feed from elsewhere would run at commit what the function may have queued.
    let refused = refusal(&mut client, "update public.service_status set updated_at = updated_at");
    assert_eq!(refused.code, "55000", "{refused:?}");
    assert!(refused.message.contains("trigger note on table"), "{refused:?}");
}

/// Attack 1 by way of what a user's own trigger may do.
#[test]
fn a_trigger_with_its_authors_rights_is_no_way_up() {
    let (login, mut client, mut app) = scene_in(cluster(), "definer");
    ladder(&mut app, &login);
    app.batch_execute(&format!(
        "create table {login}.later (n int);
         create constraint trigger climb after insert on {login}.later deferrable initially deferred
             for each row execute function {login}.climb();
         create function {login}.queue() returns trigger language plpgsql security definer as $$
         begin insert into {login}.later values (1); return null; end $$;
         create function {login}.change() returns trigger language plpgsql security definer as $$
         begin new.snapshot := '{{}}'; return new; end $$;
         create function {login}.quiet() returns trigger language plpgsql security definer as
             'begin return null; end';
         create function {login}.invoker() returns trigger language plpgsql as 'begin return null; end'"
    ))
    .unwrap();
    // What would run at the worker's commit, with the worker's rights, may not be queued.
    told(&mut client, &login, "stats", "none");
    app.batch_execute(&format!(
        "create trigger queue after update on public.service_stats for each row execute function {login}.queue()"
    ))
    .unwrap();
    told(&mut client, &login, "stats", "security-restricted operation");
    let refused = refusal(&mut client, "select busymate_stats.refresh_stats()");
    assert!(refused.message.contains("security-restricted operation"), "{refused:?}");
    client.batch_execute("drop trigger queue on public.service_stats").unwrap();
    told(&mut client, &login, "stats", "none");
    // What may change what is written, or runs as the writer, or at commit, is refused as ever.
    for (kind, declaration) in [
        (
            "before",
            format!(
                "trigger planted before update on public.service_stats for each row execute function {login}.change()"
            ),
        ),
        (
            "a condition",
            format!(
                "trigger planted after update on public.service_stats for each row when (new.snapshot is not null) execute function {login}.quiet()"
            ),
        ),
        (
            "an invoker",
            format!(
                "trigger planted after update on public.service_stats for each row execute function {login}.invoker()"
            ),
        ),
        (
            "deferred",
            format!(
                "constraint trigger planted after update on public.service_stats deferrable initially deferred for each row execute function {login}.quiet()"
            ),
        ),
    ] {
        app.batch_execute(&format!("create {declaration}")).unwrap();
        let refused = refusal(&mut client, "select busymate_stats.refresh_stats()");
        assert_eq!(refused.code, "55000", "{kind}: {refused:?}");
        assert!(refused.message.contains("trigger planted"), "{kind}: {refused:?}");
        client.batch_execute("drop trigger planted on public.service_stats").unwrap();
    }
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_nobody_climbed(&mut client, &login);
}

/// Attack 5: locks against every reader. A view's owner lends the right to lock what the view reads; the extension's views
/// read tables that nobody may name.
#[test]
fn nobody_locks_what_the_extension_reads() {
    let (login, mut client, mut app) = scene("locks");
    client.batch_execute("create view public.dashboard as select * from busymate_stats.health").unwrap();
    client.batch_execute(&format!("grant all on public.dashboard to {login}")).unwrap();
    app.batch_execute(&format!("create view {login}.roles as select * from busymate_stats.roles")).unwrap();
    let mut members = list(
        &mut client,
        "select c.oid::regclass from pg_class c join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
          where d.deptype = 'e' and d.refobjid = (select oid from pg_extension where extname = 'busymate_stats')
            and c.relkind in ('r', 'v')",
    );
    assert!(members.len() >= 28, "{members:?}");
    members.extend(["public.dashboard".into(), format!("{login}.roles")]);
    for relation in &members {
        for mode in ["share update exclusive", "share row exclusive", "access exclusive"] {
            let refused =
                refusal(&mut app, &format!("begin; lock table public.entries, {relation} in {mode} mode"));
            assert_eq!(refused.code, "42501", "{relation} in {mode} mode: {refused:?}");
            assert!(refused.hint.contains("ROW EXCLUSIVE"), "{refused:?}");
            app.batch_execute("rollback").unwrap();
        }
        client
            .batch_execute(&format!("begin; lock table {relation} in access exclusive mode; rollback"))
            .unwrap();
    }
    // What DML takes, and dumps, goes on; so does locking tables of one's own, and what is not there is PostgreSQL's error.
    app.batch_execute(&format!(
        "begin; lock table busymate_stats.roles in row exclusive mode; lock table public.service_stats in access share mode;
         create table {login}.own (); lock table {login}.own; rollback"
    ))
    .unwrap();
    assert_eq!(refusal(&mut app, "begin; lock table no_such_table").code, "42P01");
    app.batch_execute("rollback").unwrap();
    let waits = "do $$ begin lock table public.service_stats in share mode nowait; end $$";
    assert_eq!(refusal(&mut app, waits).code, "42501");
}

/// Scripts grant on schemas that they know; what is in the internal one cannot be named then.
#[test]
fn nobody_names_what_is_internal() {
    let (login, mut client, mut app) = scene("names");
    client.batch_execute(&format!("revoke usage on schema busymate_stats_internal from {login}")).unwrap();
    for table in list(&mut client, INTERNAL) {
        for statement in ["table {}", "lock table {} in access share mode", "truncate {}"] {
            let statement = statement.replace("{}", &table);
            let refused = refusal(&mut app, &format!("begin; {statement}"));
            assert_eq!(refused.code, "42501", "{statement}: {refused:?}");
            assert!(refused.message.contains("schema busymate_stats_internal"), "{statement}: {refused:?}");
            app.batch_execute("rollback").unwrap();
        }
    }
}

/// Attack 8: a view of the feed's, made by a superuser, that reads past the policy; and one that reads such a view.
#[test]
fn views_that_disclose_a_feed_are_named() {
    let (_, mut client, _) = scene("views");
    let disclosing =
        "select (detail -> 'disclosing_views')::text from busymate_stats.health where feed = 'stats'";
    assert_eq!(value::<String>(&mut client, disclosing), "[]");
    client
        .batch_execute(
            "create view public.asks with (security_invoker = true) as select * from public.service_stats;
             create view public.owns as select snapshot from public.service_stats;
             create view public.owns_more as select * from public.asks;
             create view public.asks_more with (security_invoker = on) as select * from public.owns;
             create view public.checks with (check_option = local) as select * from public.service_stats where id = 1;
             create materialized view public.keeps as select * from public.service_status",
        )
        .unwrap();
    assert_eq!(value::<String>(&mut client, disclosing), r#"["checks", "keeps", "owns", "owns_more"]"#);
    client
        .batch_execute(
            "drop view public.checks; drop view public.owns cascade; drop materialized view public.keeps",
        )
        .unwrap();
    client.batch_execute("alter view public.owns_more set (security_invoker = true)").unwrap();
    assert_eq!(value::<String>(&mut client, disclosing), "[]");
}

/// Attack 9: a function of the API's name with a default makes every call ambiguous.
#[test]
fn overloads_of_the_api_are_named() {
    let (_, mut client, mut app) = scene("overloads");
    let overloads = "select (detail -> 'overloads')::text from busymate_stats.health where feed = 'stats'";
    assert_eq!(value::<String>(&mut client, overloads), "[]");
    client.batch_execute("grant create on schema public to public").unwrap();
    app.batch_execute(
        "create function public.get_stats(n int default 1) returns int language sql as 'select 1'",
    )
    .unwrap();
    assert_eq!(refusal(&mut client, "select public.get_stats()").code, "42725");
    assert_eq!(value::<String>(&mut client, overloads), r#"["get_stats(integer)"]"#);
}
