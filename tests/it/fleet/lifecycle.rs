//! Promise: one fleet a database. What attach, detach and create_fleet_tables do, leave alone, and do to each other.

use harness::fleet::fleet;
use harness::{eventually, installed, refusal, refusal_of, shared, value};
use postgres::Client;
use serde_json::Value;

const TABLES: &str = "
    create schema own;
    create table own.entries (created_at timestamptz primary key, host text, status int, source text, device_uuid uuid);
    create table own.devices (device_uuid uuid, name text, connection_type text, last_seen_at timestamptz);
";
const ATTACH: &str = "select busymate_stats.attach('own.entries', 'own.devices')";

fn attached(client: &mut Client) -> Vec<(String, bool)> {
    let rows =
        client.query("select entries::text, implied from busymate_stats_internal.attachment", &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn the_fleet_tables_are_as_described() {
    let (_, mut client) = fleet("described");
    let rows = client
        .query(
            "select c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                    || case when a.attnotnull then ' not null' else '' end
                    || case a.attidentity when 'a' then ' generated always as identity' else '' end
                    || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
               from pg_class c join pg_attribute a on a.attrelid = c.oid
               left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
              where c.oid in ('public.devices'::regclass, 'public.entries'::regclass) and a.attnum > 0
              order by c.relname, a.attnum",
            &[],
        )
        .unwrap();
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let expected = [
        "devices.device_uuid uuid not null default gen_random_uuid()",
        "devices.name text not null",
        "devices.connection_type text",
        "devices.last_seen_at timestamp with time zone",
        "entries.id bigint not null generated always as identity",
        "entries.created_at timestamp with time zone not null default now()",
        "entries.device_uuid uuid",
        "entries.host text",
        "entries.method text",
        "entries.status integer",
        "entries.source text",
    ];
    assert_eq!(found, expected);
    let rows = client
        .query(
            "select conrelid::regclass || ' ' || pg_get_constraintdef(oid) from pg_constraint
              where conrelid in ('public.devices'::regclass, 'public.entries'::regclass) and contype <> 'n' order by 1",
            &[],
        )
        .unwrap();
    let constraints: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(constraints, ["devices PRIMARY KEY (device_uuid)", "entries PRIMARY KEY (id)"]);
    let secured: i64 = value(
        &mut client,
        "select count(*) from pg_class where oid in ('public.devices'::regclass, 'public.entries'::regclass)
            and relrowsecurity and not relforcerowsecurity and relpersistence = 'p' and relkind = 'r'",
    );
    assert_eq!(secured, 2);
    let policies: i64 =
        value(&mut client, "select count(*) from pg_policies where tablename in ('devices', 'entries')");
    assert_eq!(policies, 0);
    // They are the user's: no member of the extension.
    let members: i64 = value(
        &mut client,
        "select count(*) from pg_depend where deptype = 'e'
            and objid in ('public.devices'::regclass, 'public.entries'::regclass)",
    );
    assert_eq!(members, 0);
}

#[test]
fn fleet_tables_are_made_once() {
    let (_, mut client) = fleet("once");
    assert_eq!(attached(&mut client), [("entries".into(), true)]);
    client.batch_execute("insert into public.entries (host) values ('kept')").unwrap();
    let refused = refusal(&mut client, "select busymate_stats.create_fleet_tables()");
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("42P07", "relation \"public.devices\" already exists")
    );
    // The hint is for tables that are not attached yet; one explicit attach() may follow the implied one.
    let attach = refused.hint.split("run ").nth(1).unwrap().trim_end_matches('.').to_owned();
    client.batch_execute(&attach).unwrap();
    assert_eq!(attached(&mut client), [("entries".into(), false)]);
    assert_eq!(refusal(&mut client, &attach).code, "55000");
    assert_eq!(value::<i64>(&mut client, "select (public.get_stats()->'total_entries')::bigint"), 1);
    // Either name that is taken is told, and nothing is made.
    client.batch_execute("drop table public.devices; select busymate_stats.detach()").unwrap();
    let refused = refusal(&mut client, "select busymate_stats.create_fleet_tables()");
    assert_eq!(refused.message, "relation \"public.entries\" already exists");
    assert!(value::<bool>(&mut client, "select to_regclass('public.devices') is null"));
}

#[test]
fn an_explicit_attach_replaces_the_implied_one_once() {
    let (_, mut client) = fleet("implied");
    client.batch_execute(TABLES).unwrap();
    client.batch_execute(ATTACH).unwrap();
    assert_eq!(attached(&mut client), [("own.entries".into(), false)]);
    assert_eq!(refusal(&mut client, ATTACH).code, "55000");
    assert_eq!(
        refusal(&mut client, "select busymate_stats.attach('public.entries', 'public.devices')").code,
        "55000"
    );
    // The tables that were made stay.
    client.batch_execute("select from public.entries, public.devices").unwrap();
}

#[test]
fn fleet_tables_beside_an_attached_fleet() {
    let (database, mut client) = installed("beside");
    client.batch_execute(TABLES).unwrap();
    client.batch_execute(ATTACH).unwrap();
    let (mut listener, heard) = shared().connect_hearing(&database);
    listener.batch_execute("select busymate_stats.create_fleet_tables()").unwrap();
    assert_eq!(heard.lock().unwrap()[0].message, "a fleet is attached already: the new tables are not");
    assert_eq!(attached(&mut client), [("own.entries".into(), false)]);
    client.batch_execute("select from public.entries, public.devices").unwrap();
}

#[test]
fn fleet_tables_belong_to_the_caller() {
    let (_, mut client) = installed("caller");
    client
        .batch_execute(
            "create role fleet_maker;
             grant usage on schema busymate_stats to fleet_maker;
             grant execute on function busymate_stats.create_fleet_tables(text), busymate_stats.detach() to fleet_maker;
             set role fleet_maker",
        )
        .unwrap();
    let refused = refusal(&mut client, "select busymate_stats.create_fleet_tables()");
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("42501", "permission denied for schema public")
    );
    client
        .batch_execute(
            "reset role; grant create on schema public to fleet_maker; set role fleet_maker;
             select busymate_stats.create_fleet_tables(); reset role",
        )
        .unwrap();
    let owners: i64 = value(
        &mut client,
        "select count(*) from pg_tables where tablename in ('entries', 'devices') and tableowner = 'fleet_maker'",
    );
    assert_eq!(owners, 2);
    client
        .batch_execute("select public.get_stats(); set role fleet_maker; select busymate_stats.detach()")
        .unwrap();
}

/// Every row of the catalogs that says something about the fleet's tables.
fn catalog(client: &mut Client) -> Value {
    value(
        client,
        "select jsonb_build_array(
             (select jsonb_agg(to_jsonb(t) - 'relfrozenxid' - 'relminmxid' - 'reltuples' - 'relpages' - 'relallvisible'
                     - 'relhastriggers' /* stays until VACUUM */ order by t.oid)
                from pg_class t where relnamespace in ('public'::regnamespace, 'own'::regnamespace) and relname !~ 'service_'),
             (select jsonb_agg(to_jsonb(t) order by t.oid) from pg_trigger t),
             (select jsonb_agg(to_jsonb(t) order by t.oid) from pg_policy t),
             (select jsonb_agg(to_jsonb(t) order by t.oid) from pg_constraint t),
             (select jsonb_agg(to_jsonb(e)) from own.entries e), (select jsonb_agg(to_jsonb(d)) from own.devices d))",
    )
}

#[test]
fn detaching_leaves_nothing_and_takes_nothing() {
    let (database, mut client) = installed("detach");
    client.batch_execute(TABLES).unwrap();
    client
        .batch_execute("insert into own.entries (created_at) values (now()); insert into own.devices (name) values ('d')")
        .unwrap();
    let before = catalog(&mut client);
    client.batch_execute(&format!("{ATTACH}; select busymate_stats.refresh_stats()")).unwrap();
    client
        .batch_execute("insert into public.service_status (snapshot) values ('{\"overall\": \"ok\"}')")
        .unwrap();
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_stats"), 1);
    client.batch_execute("select busymate_stats.detach()").unwrap();
    assert_eq!(attached(&mut client), []);
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_stats"), 0);
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_status"), 1);
    assert_eq!(catalog(&mut client), before);
    // Nothing is attached now: said, and no error.
    let (mut listener, heard) = shared().connect_hearing(&database);
    listener.batch_execute("select busymate_stats.detach()").unwrap();
    assert_eq!(heard.lock().unwrap()[0].message, "no fleet is attached, nothing to do");
    client.batch_execute(ATTACH).unwrap();
}

/// Waits until the session with process id `pid` waits for a lock.
fn await_blocked(client: &mut Client, pid: i32) {
    eventually("the other session waits for a lock", || {
        let waiting: bool = value(
            client,
            &format!(
                "select exists (select from pg_stat_activity where pid = {pid} and wait_event_type = 'Lock')"
            ),
        );
        waiting.then_some(())
    });
}

/// One session attaches and stays open, another tries; how the first ends decides. Gives the second's error, if any.
fn race(isolation: &str, ending: &str) -> Option<String> {
    let (database, mut first) = installed("race");
    first.batch_execute(TABLES).unwrap();
    let mut second = shared().connect(&database);
    let pid: i32 = value(&mut second, "select pg_backend_pid()");
    second
        .batch_execute(&format!("begin isolation level {isolation}; select 1 from pg_class limit 1"))
        .unwrap();
    first.batch_execute(&format!("begin; {ATTACH}")).unwrap();
    let outcome = std::thread::spawn(move || {
        let outcome = second.batch_execute(ATTACH).map_err(|error| refusal_of(&error).code);
        second.batch_execute("commit").unwrap();
        outcome
    });
    await_blocked(&mut shared().connect(&database), pid);
    first.batch_execute(ending).unwrap();
    let outcome = outcome.join().unwrap();
    // Whoever won, one fleet is attached, and it is read.
    assert_eq!(attached(&mut first), [("own.entries".into(), false)]);
    first.batch_execute("select public.get_stats()").unwrap();
    outcome.err()
}

#[test]
fn of_two_at_once_one_attaches() {
    for isolation in ["read committed", "repeatable read", "serializable"] {
        assert_eq!(race(isolation, "commit").as_deref(), Some("55000"), "{isolation}");
        assert_eq!(race(isolation, "rollback"), None, "{isolation}");
    }
}

#[test]
fn a_rolled_back_attach_or_detach_never_was() {
    let (_, mut client) = installed("undone");
    client.batch_execute(TABLES).unwrap();
    client.batch_execute(&format!("begin; {ATTACH}; select public.get_stats(); rollback")).unwrap();
    assert_eq!(refusal(&mut client, "select public.get_stats()").code, "42P01");
    client.batch_execute(ATTACH).unwrap();
    client.batch_execute("begin; select busymate_stats.detach()").unwrap();
    client.batch_execute("savepoint detached").unwrap();
    assert_eq!(refusal(&mut client, "select public.get_stats()").code, "42P01");
    client.batch_execute("rollback; select public.get_stats()").unwrap();
    // Detach, attach and read in one transaction.
    client
        .batch_execute(&format!(
            "begin; select busymate_stats.detach(); {ATTACH}; select public.get_stats(); commit"
        ))
        .unwrap();
}
