//! Promise: a grant of everything is no way up. Scripts that GRANT ALL ON ALL TABLES, FUNCTIONS and SEQUENCES give an
//! ordinary login every privilege on the extension's objects, and with them neither figures nor rights of others.

mod harness;

use harness::catalog::list;
use harness::status::{component, snapshot, watch_url};
use harness::worker::EVERY_SECOND;
use harness::{Cluster, SUPABASE_DEFAULT_PRIVILEGES, SUPABASE_ROLES, eventually, refusal, shared, value};
use postgres::Client;
use std::sync::OnceLock;

/// What such scripts do, for every schema that the extension has objects in.
fn grant_all(client: &mut Client, role: &str) {
    for schema in ["public", "busymate_stats"] {
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
             insert into busymate_stats.publications values ('p');
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
    client.batch_execute("begin; update busymate_stats.attachment set entries = 'secret.payroll'").unwrap();
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
        "insert into busymate_stats.feed_health as kept (feed, last_refresh) values ('report', 'infinity')
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
