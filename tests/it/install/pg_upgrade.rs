//! Promise: a server with the extension goes through pg_upgrade from each earlier version, and a dump of it into a later one.
//! What comes out is what CREATE EXTENSION makes there, with the fleet, the roles and the figures of before.

use harness::catalog::{configuration, list};
use harness::decoding::Slot;
use harness::fleet::stats_at;
use harness::upgrade::{INITDB, has_column_versions, is_as_new, shown_under, upgrade};
use harness::worker::{is_sealed_and_right, wait_for_seal};
use harness::{Cluster, NO_WORKER, SUPABASE_ROLES, Server, dump, left_out, run, value};
use postgres::Client;
use serde_json::{Value, json};

/// What must run somewhere before a release, by the versions from and to.
const WANTED: [(u32, u32); 5] = [(15, 17), (16, 17), (15, 18), (16, 18), (17, 18)];

/// The server of a version to come from, where the upgrade is wanted of the server under test and both are here.
fn earlier_server(from: u32) -> Option<Server> {
    let to = Server::under_test().major;
    if !WANTED.contains(&(from, to)) {
        return None;
    }
    let found = Server::other(from);
    if found.is_none() {
        left_out(&format!(
            "an upgrade from {from} to {to} (no server {from} in BUSYMATE_TEST_OTHER_SERVERS)"
        ));
    }
    found
}

const SETTINGS: &str = "busymate_stats.seal_interval = '1s'";

/// A fleet as the extension makes it.
const PLAIN: &str = "
    select busymate_stats.create_fleet_tables();
    insert into public.devices (name, connection_type, last_seen_at)
        select 'device ' || i, 'vpn', now() - i * interval '1 min' from generate_series(1, 9) i;
    insert into public.entries (created_at, host, status, source, device_uuid)
        select now() - n * interval '7 min', 'h' || n % 5, 200 + n % 300, 'vpn', device_uuid
          from generate_series(1, 300) n left join public.devices on name = 'device ' || n % 11;
    create publication \"Real time\" for table public.devices";

/// One in partitions of a day, under names that need quotes.
const PARTITIONED: &str = r#"
    create schema "Flotte";
    create table "Flotte"."Einträge ""neu""" (
        "wann?" timestamptz not null, "Rechner" varchar(80), "Stand" smallint, quelle text, "Gerät" bigint)
        partition by range ("wann?");
    create index on "Flotte"."Einträge ""neu""" ("wann?");
    do $$
    begin
        for day in -3..1 loop
            execute format('create table "Flotte"."Tag %s" partition of "Flotte"."Einträge ""neu""" for values from (%L) to (%L)',
                           day, current_date + day, current_date + day + 1);
        end loop;
    end $$;
    create table "Flotte"."Geräte" ("Gerät" bigint primary key, "Name" text, art text, an boolean);
    insert into "Flotte"."Geräte" select i, 'device ' || i, 'vpn', i < 4 from generate_series(1, 9) i;
    insert into "Flotte"."Einträge ""neu"""
        select now() - n * interval '7 min', 'host ' || n % 7, 200 + n % 300, 'pac', n % 9 from generate_series(1, 300) n;
    select busymate_stats.attach('"Flotte"."Einträge ""neu"""', '"Flotte"."Geräte"', entry_time => 'wann?',
        host => 'Rechner', status => 'Stand', source => 'quelle', entry_device => 'Gerät', device_key => 'Gerät',
        device_name => 'Name', connection_type => 'art', online => 'an');
    create publication "Real time" for table "Flotte"."Geräte""#;

/// What an operator sets up.
const CONFIGURATION: &str = r#"
    insert into busymate_stats.roles (name, description) values ('ops'' "team"', E'a\tb\\c'), ('Übersicht', null);
    select busymate_stats.grant_capability('ops'' "team"', '*:view'),
           busymate_stats.grant_capability('Übersicht', 'stats:view');
    select busymate_stats.assign_role('first', 'admin'), busymate_stats.assign_role('zweite ü', 'ops'' "team"');
    insert into busymate_stats.revoked_tokens values ('t1', '2020-02-02', '2030-03-03');
    insert into busymate_stats.components (key, label, unit) values ('web', 'The "web"', 'nginx.service');
    select busymate_stats.publish('Real time'), busymate_stats.grant_api(), busymate_stats.grant_api('service_role');
    grant select, update (description) on busymate_stats.roles to authenticated with grant option;
    revoke execute on function public.has_capability(text, text) from public;
    grant execute on function public.has_capability(text, text) to authenticated"#;

const MEMBERS: &str =
    "select schemaname || '.' || tablename from pg_publication_tables where pubname = 'Real time'";

/// What a database was like before.
struct Furnished {
    database: String,
    moment: String,
    figures: Value,
    configuration: Vec<String>,
    members: Vec<String>,
}

/// A cluster with a plain fleet, a partitioned one, and one whose partitions the extension makes, all sealed.
fn furnished(server: &Server) -> (Cluster, Vec<Furnished>) {
    let cluster = Cluster::initialize(server, SETTINGS, &INITDB);
    cluster.boot();
    cluster.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
    let by_day = PLAIN.replace("create_fleet_tables()", "create_fleet_tables('day')");
    let databases = [PLAIN, PARTITIONED, &by_day].map(|fleet| {
        let database = cluster.create_database("upgraded");
        let mut client = cluster.connect(&database);
        client.batch_execute("create extension busymate_stats").unwrap();
        client.batch_execute(fleet).unwrap();
        client.batch_execute(CONFIGURATION).unwrap();
        is_sealed_and_right(&mut client);
        let moment: String = value(&mut client, "select clock_timestamp()::text");
        Furnished {
            figures: stats_at(&mut client, &moment),
            configuration: configuration(&mut client),
            members: list(&mut client, MEMBERS),
            database,
            moment,
        }
    });
    (cluster, databases.into())
}

/// Where the server to come does not know what this one notes of each column, takes it away: docs/operating.md says so.
fn prepare_columns(cluster: &Cluster, databases: &[Furnished], to: &Server) {
    let scratch = Cluster::initialize(to, NO_WORKER, &[]);
    scratch.boot();
    if !has_column_versions(&mut scratch.connect("postgres")) {
        for database in databases {
            let mut client = cluster.connect(&database.database);
            client.batch_execute(&shown_under("Columns that 18 does not take")).unwrap();
        }
    }
}

#[track_caller]
fn is_whole(cluster: &Cluster, before: &Furnished, database: &str) -> Client {
    let mut client = cluster.connect(database);
    assert_eq!(stats_at(&mut client, &before.moment), before.figures);
    assert_eq!(configuration(&mut client), before.configuration);
    is_as_new(cluster, &mut client);
    let detail: Value = value(&mut client, "select detail from busymate_stats.health where feed = 'stats'");
    assert_eq!(
        (&detail["repair_needed"], &detail["versions_differ"], &detail["foreign_objects"]),
        (&json!([]), &json!(false), &json!([])),
        "{detail}"
    );
    client
}

/// Counted ahead again, changes of before the upgrade's boundary too.
#[track_caller]
fn goes_on(client: &mut Client) {
    wait_for_seal(client);
    let (entries, time): (String, String) = {
        let row = client
            .query_one(
                "select entries::regclass::text, quote_ident(entry_time) from busymate_stats_internal.attachment",
                &[],
            )
            .unwrap();
        (row.get(0), row.get(1))
    };
    let is_by_day = "select exists (select from busymate_stats_internal.daily_partitions)";
    if value(client, is_by_day) {
        let week = "select count(*) from pg_inherits where inhparent = 'public.entries'::regclass";
        client
            .batch_execute(
                "do $$ begin
                     execute 'drop table public.entries_' || to_char(now() at time zone 'UTC' + interval '4 d', 'YYYYMMDD');
                 end $$;
                 select busymate_stats.refresh_stats()",
            )
            .unwrap();
        assert!(value::<i64>(client, week) >= 10);
    }
    let before = is_sealed_and_right(client)["total_entries"].as_i64().unwrap();
    client
        .batch_execute(&format!(
            "insert into {entries} ({time}) values (now() - interval '2 h'), (now());
             delete from {entries} where {time} < now() - interval '33 h'"
        ))
        .unwrap();
    let rows: i64 = value(client, &format!("select count(*) from {entries}"));
    assert!(rows < before, "{rows}");
    assert_eq!(stats_at(client, "now")["total_entries"], rows);
    assert_eq!(is_sealed_and_right(client)["total_entries"], rows);
}

/// From the first of these servers by way of the others to the one under test.
fn goes_through(servers: &[Server]) {
    let (mut cluster, databases) = furnished(&servers[0]);
    for next in servers[1..].iter().chain([&Server::under_test()]) {
        prepare_columns(&cluster, &databases, next);
        cluster.stop("fast");
        let upgraded = upgrade(&cluster, next, SETTINGS);
        upgraded.boot();
        for before in &databases {
            let mut client = is_whole(&upgraded, before, &before.database);
            assert_eq!(list(&mut client, MEMBERS), before.members);
            is_sealed_and_right(&mut client);
        }
        cluster = upgraded;
    }
    for before in &databases {
        goes_on(&mut cluster.connect(&before.database));
    }
}

#[test]
fn from_15() {
    if let Some(server) = earlier_server(15) {
        goes_through(&[server]);
    }
}

#[test]
fn from_16() {
    if let Some(server) = earlier_server(16) {
        goes_through(&[server]);
    }
}

#[test]
fn from_17() {
    if let Some(server) = earlier_server(17) {
        goes_through(&[server]);
    }
}

#[test]
fn from_15_by_way_of_17() {
    if let (Some(first), Some(second)) = (earlier_server(15), earlier_server(17)) {
        goes_through(&[first, second]);
    }
}

/// From 17 on pg_upgrade takes logical slots along: whoever reads the feeds by one goes on where they were.
#[test]
fn a_slot_comes_along_from_17() {
    let Some(server) = earlier_server(17) else { return };
    let to = Server::under_test();
    let (cluster, databases) = furnished(&server);
    let mut client = cluster.connect(&databases[0].database);
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    let slot = Slot::create(&mut client, "realtime", "Real time");
    prepare_columns(&cluster, &databases, &to);

    // Nothing may be left to be read: the workers write nothing more, and the reader catches up.
    for statement in shown_under("Slots").split(';').filter(|statement| !statement.trim().is_empty()) {
        client.batch_execute(statement).unwrap();
    }
    drop(client);
    cluster.restart();
    slot.read(&mut cluster.connect(&databases[0].database));
    cluster.stop("fast");

    let upgraded = upgrade(&cluster, &to, NO_WORKER);
    upgraded.boot();
    let mut client = upgraded.connect(&databases[0].database);
    assert_eq!(slot.read(&mut client), (vec![], String::new()));
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    let (updates, others) = slot.read(&mut client);
    assert_eq!((updates.len(), others.as_str()), (1, ""));
    assert_eq!(updates[0].table, "service_stats");
    slot.drop(&mut client);
}

/// By the earlier version's pg_dump and the later one's pg_restore.
#[test]
fn a_dump_of_15_comes_back() {
    let Some(server) = earlier_server(15) else { return };
    let to = Server::under_test();
    let (cluster, databases) = furnished(&server);
    prepare_columns(&cluster, &databases, &to);
    let new = Cluster::start(SETTINGS);
    new.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
    for before in &databases {
        let file = new.socket_directory().join("dump");
        // The server with assertions is built without zlib.
        run(cluster.client_program("pg_dump").args(["-Fc", "-Z0", "-d", &before.database, "-f"]).arg(&file));
        let database = new.create_database("restored");
        run(new.client_program("pg_restore").args(["-e", "-d", &database]).arg(&file));
        let mut client = is_whole(&new, before, &database);
        assert_eq!(list(&mut client, MEMBERS), dump::members_kept(&server, &before.members));
        goes_on(&mut client);
    }
}
