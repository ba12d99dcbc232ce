//! Promise: a dump comes back equal. Extension, configuration, fleet and grants survive pg_dump and a restore; what is
//! computed stays behind.

use harness::access::{claims, may, sign_in};
use harness::catalog::{MEMBERS, configuration, list};
use harness::{
    Cluster, SUPABASE_DEFAULT_PRIVILEGES, SUPABASE_ROLES, Server, dump, refusal, run, shared, value,
};
use postgres::Client;
use serde_json::Value;

/// A fleet whose names all need quotes, of a kind with no default column name, and its policy.
const FLEET: &str = r#"
    create schema "Flotte";
    create table "Flotte"."Einträge ""neu""" (
        "wann?" timestamptz not null, "Rechner" varchar(80), "Stand" smallint, quelle text, "Gerät" bigint);
    create index on "Flotte"."Einträge ""neu""" ("wann?");
    create table "Flotte"."Geräte" ("Gerät" bigint primary key, "Name" text, art text, an boolean);
    insert into "Flotte"."Geräte" select i, 'device ' || i, 'vpn', i < 4 from generate_series(1, 9) i;
    insert into "Flotte"."Einträge ""neu"""
        select '2026-01-02 00:00Z'::timestamptz - i * interval '1 minute', 'host ' || i % 7, 200 + i, 'pac', i % 9
          from generate_series(1, 300) i;
    alter table "Flotte"."Geräte" enable row level security;
    alter table "Flotte"."Einträge ""neu""" enable row level security;
    create policy "sehen, alle" on "Flotte"."Geräte" for select
        using ((select public.has_capability('stats', 'view')));
    create policy sehen on "Flotte"."Einträge ""neu""" for select to authenticated
        using (public.has_capability('stats', 'view'));
    grant select on "Flotte"."Geräte" to authenticated;
"#;

/// What an operator sets up, odd names included.
const CONFIGURATION: &str = r#"
    select busymate_stats.attach('"Flotte"."Einträge ""neu"""', '"Flotte"."Geräte"', entry_time => 'wann?',
        host => 'Rechner', status => 'Stand', source => 'quelle', entry_device => 'Gerät', device_key => 'Gerät',
        device_name => 'Name', connection_type => 'art', online => 'an');
    insert into busymate_stats.roles (name, description) values
        ('ops'' "team"', E'a\tb\\c'), ('Übersicht', null), ('empty', '');
    select busymate_stats.grant_capability('ops'' "team"', '*:view'),
           busymate_stats.grant_capability('Übersicht', 'stats:view');
    select busymate_stats.assign_role('first', 'admin'), busymate_stats.assign_role('first', 'viewer'),
           busymate_stats.assign_role('zweite ü', 'ops'' "team"'), busymate_stats.assign_role('{"x"}', 'Übersicht');
    insert into busymate_stats.revoked_tokens values ('t1', '2020-02-02', '2030-03-03'), (E'\\"ü', now(), null);
    create publication "Real time" for table "Flotte"."Geräte";
    select busymate_stats.publish('Real time');
    select busymate_stats.grant_api(), busymate_stats.grant_api('service_role');
    grant execute on function busymate_stats.refresh_stats() to authenticator;
    grant select, update (description) on busymate_stats.roles to authenticated with grant option;
    revoke execute on function public.has_capability(text, text) from public;
    grant execute on function public.has_capability(text, text) to authenticated;
    select busymate_stats.refresh_stats();
    insert into public.service_status (snapshot) values ('{}');
"#;

fn furnished(cluster: &Cluster, prefix: &str) -> (String, Client) {
    let database = cluster.create_database(prefix);
    let mut client = cluster.connect(&database);
    client.batch_execute(FLEET.split("create policy").next().unwrap()).unwrap();
    client.batch_execute("create extension busymate_stats").unwrap();
    client.batch_execute(&FLEET[FLEET.find("create policy").unwrap()..]).unwrap();
    client.batch_execute(CONFIGURATION).unwrap();
    (database, client)
}

const FIGURES: &str = "select busymate_stats.stats_at('2026-01-02 00:00Z')";

#[track_caller]
fn assert_equal(cluster: &Cluster, (from, one): (&str, &mut Client), to: &str) {
    let mut other = cluster.connect(to);
    assert_eq!(configuration(one), configuration(&mut other));
    assert_eq!(dump::plain(cluster, from), dump::plain(cluster, to));
    let figures: Value = value(one, FIGURES);
    assert_eq!(figures["total_entries"], 300);
    assert_eq!(figures["online_devices"], 3);
    assert_eq!(figures, value::<Value>(&mut other, FIGURES));
    for feed in ["service_stats", "service_status"] {
        assert_eq!(value::<i64>(one, &format!("select count(*) from public.{feed}")), 1);
        assert_eq!(value::<i64>(&mut other, &format!("select count(*) from public.{feed}")), 0, "{feed}");
    }
}

#[test]
fn a_plain_dump_comes_back_equal() {
    let cluster = shared();
    let (from, mut client) = furnished(cluster, "plain");
    let to = cluster.create_database("plain");
    dump::restore_plain(cluster, &dump::plain(cluster, &from), &to);
    assert_equal(cluster, (&from, &mut client), &to);
}

#[test]
fn a_custom_dump_comes_back_equal() {
    let cluster = shared();
    let (from, mut client) = furnished(cluster, "custom");
    let to = cluster.create_database("custom");
    dump::copy_custom(cluster, &from, &to);
    assert_equal(cluster, (&from, &mut client), &to);
}

/// Supabase's default privileges stand in the new database before the dump comes, and hand out nothing of ours.
#[test]
fn a_dump_comes_back_equal_where_default_privileges_are_generous() {
    let cluster = shared();
    let (from, mut client) = furnished(cluster, "generous");
    let to = cluster.create_database("generous");
    cluster.connect(&to).batch_execute(SUPABASE_DEFAULT_PRIVILEGES).unwrap();
    dump::restore_plain(cluster, &dump::plain(cluster, &from), &to);
    assert_eq!(configuration(&mut client), configuration(&mut cluster.connect(&to)));
}

/// An extension nobody has set up yet dumps no row, so the built-in roles cannot come twice.
#[test]
fn an_untouched_extension_dumps_no_rows() {
    let cluster = shared();
    let (from, _) = harness::installed("untouched");
    let dumped = dump::plain(cluster, &from);
    let copied: Vec<_> =
        dumped.split("\nCOPY ").skip(1).filter(|copy| copy.lines().nth(1) != Some("\\.")).collect();
    assert!(copied.is_empty(), "{copied:?}");
    assert!(!dumped.contains("GRANT "), "{dumped}");
    let to = cluster.create_database("untouched");
    dump::restore_plain(cluster, &dumped, &to);
    let roles = "select name || builtin from busymate_stats.roles";
    assert_eq!(list(&mut cluster.connect(&to), roles), ["admintrue", "viewertrue"]);
}

/// The whole cluster, roles and all, into a new one.
#[test]
fn a_whole_cluster_comes_back_equal() {
    let (from, to) = (Cluster::start(harness::NO_WORKER), Cluster::start(harness::NO_WORKER));
    from.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
    let (database, mut client) = furnished(&from, "whole");
    client.batch_execute(SUPABASE_DEFAULT_PRIVILEGES).unwrap();
    let all = run(from.client_program("pg_dumpall").arg("--no-sync"));
    // It is there, as in every new cluster.
    let all = all.replace("\nCREATE ROLE postgres;\n", "\n");
    let file = to.socket_directory().join("all.sql");
    std::fs::write(&file, all).unwrap();
    run(to
        .client_program("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f"])
        .arg(&file));
    let mut other = to.connect(&database);
    assert_eq!(configuration(&mut client), configuration(&mut other));
    assert_eq!(dump::plain(&from, &database), dump::plain(&to, &database));
}

/// The publication and the row that remembers it survive; the membership of extension tables does from PostgreSQL 18 on, and
/// before that publish() mends it.
#[test]
fn a_dump_keeps_the_publications_that_were_published_to() {
    let cluster = shared();
    let (from, mut client) = furnished(cluster, "publications");
    let members = "select tablename from pg_publication_tables where pubname = 'Real time'";
    assert_eq!(list(&mut client, members), ["Geräte", "service_stats", "service_status"]);
    let to = cluster.create_database("publications");
    dump::restore_plain(cluster, &dump::plain(cluster, &from), &to);
    let mut other = cluster.connect(&to);
    assert_eq!(
        list(&mut other, members),
        dump::members_kept(&Server::under_test(), &list(&mut client, members))
    );
    assert_eq!(list(&mut other, "select name from busymate_stats_internal.publications"), ["Real time"]);
    other
        .batch_execute("select busymate_stats.publish(name) from busymate_stats_internal.publications")
        .unwrap();
    assert_eq!(list(&mut other, members), ["Geräte", "service_stats", "service_status"]);
}

/// What is restored is guarded as before.
#[test]
fn the_guards_stand_after_a_restore() {
    let cluster = shared();
    let (from, _) = furnished(cluster, "guards");
    let to = cluster.create_database("guards");
    dump::copy_custom(cluster, &from, &to);
    let mut client = cluster.connect(&to);
    for statement in [
        "delete from busymate_stats.roles where name = 'admin'",
        "update busymate_stats.roles set builtin = true where name = 'empty'",
        "insert into busymate_stats.role_capabilities values ('viewer', 'x', 'edit')",
    ] {
        assert_eq!(harness::refusal(&mut client, statement).code, "42501", "{statement}");
    }
    client.batch_execute("delete from busymate_stats.roles where not builtin").unwrap();
}

/// A restore of the data alone, with --disable-triggers, ends with ENABLE TRIGGER ALL: what fired always does no more.
#[test]
fn a_data_only_restore_is_repaired() {
    let cluster = shared();
    let (from, to) = (cluster.create_database("data"), cluster.create_database("data"));
    let mut source = cluster.connect(&from);
    source
        .batch_execute(
            "create extension busymate_stats; select busymate_stats.create_fleet_tables();
             insert into public.entries (host, created_at) values ('a.example', now());
             select busymate_stats.assign_role('u', 'viewer');
             update busymate_stats_internal.attachment set entries_owner = 4711",
        )
        .unwrap();
    let schema = run(cluster.client_program("pg_dump").args(["--schema-only", &from]));
    dump::restore_plain(cluster, &schema, &to);
    let file = cluster.socket_directory().join(format!("{to}.data"));
    run(cluster.client_program("pg_dump").args(["-Fc", "--data-only", "-d", &from, "-f"]).arg(&file));
    run(cluster
        .client_program("pg_restore")
        .args(["-e", "--data-only", "--disable-triggers", "-d", &to])
        .arg(&file));

    let mut client = cluster.connect(&to);
    let needed = "select jsonb_array_elements_text(detail -> 'repair_needed') from busymate_stats.health where feed = 'stats'";
    let altered = list(&mut client, needed);
    for trigger in
        ["changed on table busymate_stats.user_roles", "busymate_stats_capture on table public.entries"]
    {
        assert!(altered.iter().any(|line| line.contains(trigger)), "{trigger}: {altered:?}");
    }
    let figures = "select busymate_stats.stats_at(now())";
    assert_eq!(refusal(&mut client, figures).code, "55000");
    let repaired = list(&mut client, "select busymate_stats.repair()");
    assert_eq!(repaired.len(), altered.len() + 1, "{repaired:?}");
    assert_eq!(list(&mut client, needed), [""; 0]);
    assert_eq!(list(&mut client, "select busymate_stats.repair()"), [""; 0]);
    client.batch_execute(figures).unwrap();

    // As replication does it, which fires no other triggers than those that fire always.
    let mut user = cluster.connect(&to);
    sign_in(&mut user, "authenticated", &claims("u"));
    assert!(may(&mut user, "stats", "view"));
    client
        .batch_execute("set session_replication_role = replica; delete from busymate_stats.user_roles")
        .unwrap();
    assert!(!may(&mut user, "stats", "view"));

    client.batch_execute("alter table busymate_stats.components disable trigger guard").unwrap();
    assert_eq!(list(&mut client, needed), ["trigger guard on table busymate_stats.components"]);
    assert_eq!(list(&mut client, "select busymate_stats.repair()").len(), 1);
    assert_eq!(list(&mut client, needed), [""; 0]);
}

/// Initial privileges of ours that name a role: one such, and the dump breaks when the role is dropped.
fn initial_privileges_of_roles() -> String {
    format!(
        "select pg_describe_object(m.classid, m.objid, 0) || ' to ' || held.grantee::regrole
           from pg_init_privs i join ({MEMBERS}) m on m.classid = i.classoid and m.objid = i.objoid,
                aclexplode(i.initprivs) held
          where held.grantee not in (0, 'postgres'::regrole)"
    )
}

#[test]
fn a_role_that_had_default_privileges_can_be_dropped() {
    let cluster = shared();
    let database = cluster.create_database("roles");
    let mut client = cluster.connect(&database);
    client.batch_execute("create role dump_anon; create role dump_authenticated").unwrap();
    let privileges = SUPABASE_DEFAULT_PRIVILEGES
        .replace("anon, authenticated, service_role", "dump_anon, dump_authenticated");
    assert!(privileges.contains("dump_anon"));
    client.batch_execute(&privileges).unwrap();
    client.batch_execute("create extension busymate_stats").unwrap();
    assert_eq!(list(&mut client, &initial_privileges_of_roles()), [""; 0]);
    client.batch_execute("select busymate_stats.grant_api('dump_authenticated')").unwrap();
    assert_eq!(list(&mut client, &initial_privileges_of_roles()), [""; 0]);
    client
        .batch_execute("drop owned by dump_anon, dump_authenticated; drop role dump_anon, dump_authenticated")
        .unwrap();
    let to = cluster.create_database("roles");
    dump::restore_plain(cluster, &dump::plain(cluster, &database), &to);
    assert_eq!(dump::plain(cluster, &database), dump::plain(cluster, &to));
}
