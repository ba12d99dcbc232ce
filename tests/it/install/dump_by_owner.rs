//! Promise: a role that is no superuser dumps the database after one statement, and what it dumps is what a superuser dumps.

use harness::catalog::list;
use harness::{Cluster, dump, installed, refusal, run, server_command, shared, value};
use postgres::Client;
use std::process::Command;

/// Tables of a superuser's, with row-level security and a sequence, and a partition; and some of all that is configuration.
const FURNITURE: &str = "
    select busymate_stats.create_fleet_tables();
    insert into public.devices (name, connection_type) select 'd' || n, 'vpn' from generate_series(1, 5) n;
    insert into public.entries (host, status) select 'h' || n, 200 from generate_series(1, 50) n;
    select busymate_stats.grant_api('authenticated');
    insert into busymate_stats.roles (name) values ('analyst');
    select busymate_stats.grant_capability('analyst', 'stats:view'), busymate_stats.assign_role('alice', 'analyst');
    insert into busymate_stats.revoked_tokens (jti) values ('stolen');
    insert into busymate_stats.components (key, label, unit) values ('web', 'Web', 'nginx.service');
    select busymate_stats.publish('live', create_missing => true);";

/// A database of `role`'s own with the extension, which a superuser has set up.
fn owned_by(role: &str) -> (String, Client) {
    let (database, mut client) = installed("owned");
    client
        .batch_execute(&format!(
            "create role {role} login; alter database {database} owner to {role};
             create table public.notes (note text); alter table public.notes owner to {role};
             insert into public.notes values ('mine')"
        ))
        .unwrap();
    client.batch_execute(FURNITURE).unwrap();
    (database, client)
}

fn pg_dump(cluster: &Cluster, role: &str, database: &str, options: &[&str]) -> Command {
    let mut command = server_command("pg_dump");
    command.arg("-h").arg(cluster.socket_directory()).args(["-U", role]).args(options).arg(database);
    command
}

/// Without what differs by the session that dumps.
fn comparable(dump: &str) -> String {
    let differs = ["\\restrict ", "\\unrestrict ", "SET row_security = "];
    let same = |line: &&str| !differs.iter().any(|start| line.starts_with(start));
    dump.lines().filter(same).collect::<Vec<_>>().join("\n") + "\n"
}

#[track_caller]
fn dumps_as_a_superuser_does(role: &str, database: &str, options: &[&str]) -> String {
    let cluster = shared();
    let dumped = run(&mut pg_dump(cluster, role, database, options));
    assert_eq!(comparable(&dumped), comparable(&run(&mut pg_dump(cluster, "postgres", database, &[]))));
    dumped
}

fn contents(client: &mut Client) -> Vec<String> {
    let mut rows = Vec::new();
    for table in [
        "busymate_stats.components",
        "busymate_stats.revoked_tokens",
        "busymate_stats.role_capabilities",
        "busymate_stats.roles",
        "busymate_stats.user_roles",
        "busymate_stats_internal.attachment",
        "busymate_stats_internal.publications",
        "public.devices",
        "public.entries",
        "public.notes",
    ] {
        let query = format!("select '{table} ' || to_jsonb(t)::text from {table} t order by 1");
        let found = list(client, &query);
        assert!(!found.is_empty(), "{table}");
        rows.extend(found);
    }
    rows
}

#[test]
fn the_owner_of_a_database_dumps_it_after_one_statement() {
    let (database, mut client) = owned_by("dump_owner");
    let refused = pg_dump(shared(), "dump_owner", &database, &[]).output().unwrap();
    assert!(!refused.status.success());
    client.batch_execute("select busymate_stats.grant_dump('dump_owner')").unwrap();
    let dumped = dumps_as_a_superuser_does("dump_owner", &database, &["--enable-row-security"]);

    // And it comes back equal, where the statement works as well.
    let to = shared().create_database("owned");
    dump::restore_plain(shared(), &dumped, &to);
    let mut restored = shared().connect(&to);
    let kept = |client: &mut Client| {
        let mut rows = contents(client);
        // Which databases of one cluster share.
        rows.retain(|row| !row.starts_with("busymate_stats_internal.attachment"));
        rows
    };
    assert_eq!(kept(&mut restored), kept(&mut client));
    assert_eq!(
        value::<i64>(&mut restored, "select (busymate_stats.stats_at(now()) -> 'total_entries')::int8"),
        50
    );
    restored.batch_execute("select busymate_stats.grant_dump('dump_owner')").unwrap();
    dumps_as_a_superuser_does("dump_owner", &to, &["--enable-row-security"]);
}

#[test]
fn a_role_that_bypasses_row_security_dumps_with_no_option() {
    let (database, mut client) = owned_by("dump_other_owner");
    client
        .batch_execute(
            "create role dump_bypass login bypassrls; grant select on public.notes to dump_bypass;
             select busymate_stats.grant_dump('dump_bypass')",
        )
        .unwrap();
    dumps_as_a_superuser_does("dump_bypass", &database, &[]);
    // It needs no policy.
    let policies = "select count(*) from pg_policy where polname = 'busymate_stats_dump'";
    assert_eq!(value::<i64>(&mut client, policies), 0);
}

#[test]
fn several_roles_may_dump_and_none_may_write() {
    let (database, mut client) = owned_by("dump_first");
    client
        .batch_execute("create role dump_second login; grant select on public.notes to dump_second")
        .unwrap();
    for role in ["dump_first", "dump_second", "dump_first"] {
        client.execute("select busymate_stats.grant_dump($1)", &[&role]).unwrap();
    }
    // A partitioned fleet, some of it of another owner's, with security on a partition alone.
    client
        .batch_execute(
            "create schema parts; grant usage on schema parts to dump_first, dump_second;
             create table parts.entries (id bigint generated always as identity, created_at timestamptz not null,
                 host text, status int, source text, device_uuid uuid) partition by range (created_at);
             create index on parts.entries (created_at);
             create table parts.old partition of parts.entries for values from (minvalue) to ('2026-01-01');
             create table parts.new partition of parts.entries for values from ('2026-01-01') to (maxvalue);
             alter table parts.old enable row level security;
             insert into parts.entries (created_at) values ('2025-01-01'), ('2026-02-01');
             select busymate_stats.attach('parts.entries', 'public.devices')",
        )
        .unwrap();
    for role in ["dump_first", "dump_second"] {
        client.execute("select busymate_stats.grant_dump($1)", &[&role]).unwrap();
        dumps_as_a_superuser_does(role, &database, &["--enable-row-security"]);
        let mut session = shared().connect_as(role, &database);
        for statement in [
            "insert into busymate_stats.roles (name) values ('mine')",
            "delete from busymate_stats.user_roles",
            "update busymate_stats_internal.attachment set implied = false",
            "select from busymate_stats_internal.seal_state",
            "select from busymate_stats.health",
            "select busymate_stats.assign_role('me', 'admin')",
            "select busymate_stats.grant_dump('anon')",
            "delete from public.entries",
        ] {
            assert_eq!(refusal(&mut session, statement).code, "42501", "{role}: {statement}");
        }
    }
    // Nobody else sees more than before.
    client.batch_execute("grant usage on schema busymate_stats to anon; grant select on all tables in schema busymate_stats to anon").unwrap();
    let seen: i64 = harness::as_caller(&mut client, "anon", None, |client| {
        value(client, "select count(*) from busymate_stats.user_roles")
    });
    assert_eq!(seen, 0);
    client.batch_execute("drop owned by dump_second; drop role dump_second").unwrap();
    dumps_as_a_superuser_does("dump_first", &database, &["--enable-row-security"]);
}

#[test]
fn it_says_what_is_wrong_and_what_to_do() {
    let (_, mut client) = installed("owned");
    let refused = refusal(&mut client, "select busymate_stats.grant_dump('nobody here')");
    assert_eq!((&*refused.code, &*refused.message), ("42704", "role \"nobody here\" does not exist"));
    assert_eq!(refused.hint, "Make it first: CREATE ROLE \"nobody here\" LOGIN.");
    let (mut hearing, heard) =
        shared().connect_hearing(&value::<String>(&mut client, "select current_database()::text"));
    hearing.batch_execute("create role \"dump it\"; select busymate_stats.grant_dump('dump it')").unwrap();
    let heard = heard.lock().unwrap();
    assert!(heard.iter().any(|notice| notice.message.contains("--enable-row-security")), "{heard:?}");
}
