//! Promise: a hypertable of the real TimescaleDB is sealed and exact as a partitioned table is, however its chunks come and go,
//! and nothing of ours stands in TimescaleDB's way.

use harness::fleet::stats_at;
use harness::worker::{is_sealed_and_right, seal};
use harness::{Cluster, eventually, value};
use postgres::Client;

const SETTINGS: &str = "shared_preload_libraries = 'timescaledb, busymate_stats'\ntimescaledb.telemetry_level = off\n\
    busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'\nbusymate_stats.refresh_interval = 0\n\
    busymate_stats.verify_interval = 0\nmax_worker_processes = 20";

const TABLES: &str = "create extension timescaledb; create extension busymate_stats;
    create table public.devices (device_uuid uuid primary key, name text, connection_type text, last_seen_at timestamptz);
    create table public.entries (
        created_at timestamptz not null default now(), device_uuid uuid, host text, status int, source text
    );
    select create_hypertable('public.entries', 'created_at', chunk_time_interval => interval '6 hours');";

const ATTACH: &str = "select busymate_stats.attach('public.entries', 'public.devices');";

/// Of the last three days, so of twelve or thirteen chunks.
const ENTRIES: &str = "insert into public.entries (created_at, host, status, source)
    select now() - n * interval '72 h' / 600, 'h' || n % 7, 200, 'vpn' from generate_series(1, 600) n;";

/// A cluster with TimescaleDB, or None where it is not installed: Debian has it for 17 and 18.
fn timescaledb() -> Option<Cluster> {
    if !harness::has_extension("timescaledb") {
        let needed = std::env::var("CI").is_ok() && std::env::var("BUSYMATE_TEST_SERVER_ALONE").is_err();
        assert!(!needed || harness::major() < 17, "no TimescaleDB: scripts/setup postgresql-timescaledb");
        harness::left_out("hypertables: no TimescaleDB is installed");
        return None;
    }
    Some(Cluster::start(SETTINGS))
}

fn fleet(cluster: &Cluster, statements: &str) -> Client {
    let mut client = cluster.connect(&cluster.create_database("hypertable"));
    client.batch_execute(statements).unwrap();
    client
}

fn total(client: &mut Client) -> i64 {
    stats_at(client, "now")["total_entries"].as_i64().unwrap()
}

fn epoch(client: &mut Client) -> i64 {
    value(client, "select max(epoch) from busymate_stats_internal.seal_state")
}

fn chunks(client: &mut Client) -> i64 {
    value(client, "select count(*) from pg_inherits where inhparent = 'public.entries'::regclass")
}

/// What our trigger is on each chunk: enabled always, and gone with the extension.
fn assert_adopted(client: &mut Client) {
    let strays = "select count(*) from pg_inherits
        left join pg_trigger on tgrelid = inhrelid and tgname = 'busymate_stats_capture'
        left join pg_depend on objid = pg_trigger.oid and deptype = 'x'
       where inhparent = 'public.entries'::regclass and (tgenabled is distinct from 'A' or objid is null)";
    assert_eq!(value::<i64>(client, strays), 0);
}

#[test]
fn an_empty_hypertable_gets_its_first_chunk() {
    let Some(cluster) = timescaledb() else { return };
    let mut client = fleet(&cluster, &format!("{TABLES}{ATTACH}"));
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 0);
    client.batch_execute("insert into public.entries (host, status) values ('first', 200)").unwrap();
    assert_eq!(total(&mut client), 1);
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 1);
    for empties in [
        "truncate public.entries",
        "select drop_chunks('public.entries', newer_than => now() - interval '10 years')",
    ] {
        client.batch_execute(empties).unwrap();
        assert_eq!(total(&mut client), 0, "{empties}");
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 0, "{empties}");
        client.batch_execute("insert into public.entries (host, status) values ('again', 200)").unwrap();
        assert_eq!(total(&mut client), 1, "{empties}");
    }
}

#[test]
fn chunks_come_and_go_and_nothing_is_counted_anew() {
    let Some(cluster) = timescaledb() else { return };
    let mut client = fleet(&cluster, &format!("{TABLES}{ENTRIES}{ATTACH}"));
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 600);
    assert_eq!(seal(&mut client, "reason"), None);
    assert_adopted(&mut client);
    let (begun, before) = (epoch(&mut client), chunks(&mut client));
    for (what, statements, wanted) in [
        ("rows of now", "insert into public.entries (host) select 'now' from generate_series(1, 10)", 610),
        (
            "a chunk ahead",
            "insert into public.entries (created_at, host) values (now() + interval '3 d', 'ahead')",
            611,
        ),
        (
            "a late row",
            "insert into public.entries (created_at, host) values (now() - interval '9 h', 'late')",
            612,
        ),
        (
            "updates",
            "update public.entries set host = 'moved' where created_at < now() - interval '50 h'",
            612,
        ),
        (
            "a replica's row",
            "set session_replication_role = replica;
             insert into public.entries (created_at, host) values (now() - interval '8 h', 'replicated'),
                                                                  (now() + interval '73 h', 'replicated');
             reset session_replication_role",
            614,
        ),
    ] {
        client.batch_execute(statements).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(total(&mut client), wanted, "{what}");
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], wanted, "{what}");
    }
    assert!(chunks(&mut client) > before);
    assert_adopted(&mut client);
    // Retention, while an old snapshot still looks on.
    client
        .batch_execute("select drop_chunks('public.entries', older_than => now() - interval '36 h')")
        .unwrap();
    let left: i64 = value(&mut client, "select count(*) from public.entries");
    assert!(left < 400);
    assert_eq!(total(&mut client), left);
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], left);
    assert_eq!(epoch(&mut client), begun, "everything was counted anew");
}

#[test]
fn a_late_row_may_make_a_chunk_and_a_chunk_may_be_changed() {
    let Some(cluster) = timescaledb() else { return };
    let mut client = fleet(&cluster, &format!("{TABLES}{ENTRIES}{ATTACH}"));
    is_sealed_and_right(&mut client);
    let chunk: String = value(
        &mut client,
        "select show_chunks::text from show_chunks('public.entries', older_than => now() - interval '30 h') limit 1",
    );
    for statements in [
        "insert into public.entries (created_at, host) select now() - n * interval '1 d', 'backfill' from generate_series(30, 33) n",
        "begin; insert into public.entries (created_at, host) values (now() - interval '90 d', 'undone'); rollback",
        "begin; savepoint s; insert into public.entries (created_at, host) values (now() - interval '91 d', 'undone');
         rollback to s; insert into public.entries (created_at, host) values (now() - interval '92 d', 'kept'); commit",
        &format!("insert into {chunk} (created_at, host) select min(created_at), 'straight' from {chunk}"),
        &format!("delete from {chunk} where host = 'straight'"),
        &format!("truncate {chunk}"),
        &format!("vacuum full {chunk}"),
        &format!("drop table {chunk}"),
        "alter table public.entries add column more text default 'x'",
        "alter table public.entries alter column status type bigint",
    ] {
        client.batch_execute(statements).unwrap_or_else(|error| panic!("{statements}: {error:?}"));
        let all: i64 = value(&mut client, "select count(*) from public.entries");
        assert_eq!(total(&mut client), all, "{statements}");
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], all, "{statements}");
    }
    assert_eq!(seal(&mut client, "reason"), None);
}

/// A trigger that rests, or is made anew, while rows come into a chunk that was noted as empty.
#[test]
fn a_chunk_whose_trigger_rested_is_counted_anew() {
    let Some(cluster) = timescaledb() else { return };
    let mut client = fleet(&cluster, &format!("{TABLES}{ENTRIES}{ATTACH}"));
    is_sealed_and_right(&mut client);
    for (place, change) in [
        "alter table {chunk} disable trigger busymate_stats_capture; {late};
         alter table {chunk} enable always trigger busymate_stats_capture",
        "drop trigger busymate_stats_capture on {chunk}; {late};
         create trigger busymate_stats_capture after insert or update or delete on {chunk}
             for each row execute function busymate_stats_internal.capture_change('created_at')",
    ]
    .into_iter()
    .enumerate()
    {
        client
            .batch_execute(&format!(
                "insert into public.entries (created_at, host) values (now() + interval '{} d', 'ahead')",
                9 + place
            ))
            .unwrap();
        let chunk: String = value(
            &mut client,
            "select c::text from show_chunks('public.entries', newer_than => now() + interval '8 d') c order by 1 desc limit 1",
        );
        let late = format!("insert into {chunk} (created_at, host) select created_at, 'unseen' from {chunk}");
        let change = change.replace("{chunk}", &chunk).replace("{late}", &late);
        if let Err(error) = client.batch_execute(&format!("begin; {change}; commit")) {
            // 2.19 lets nobody alter a chunk so.
            assert_eq!(harness::refusal_of(&error).code, "0A000", "{change}: {error:?}");
            client.batch_execute("rollback").unwrap();
        }
        let all: i64 = value(&mut client, "select count(*) from public.entries");
        assert_eq!(total(&mut client), all);
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], all);
    }
}

/// TimescaleDB makes chunks with the rights of the hypertable's owner, whoever inserts.
#[test]
fn an_owner_who_is_no_superuser_gets_chunks() {
    let Some(cluster) = timescaledb() else { return };
    let database = cluster.create_database("hypertable");
    let mut client = cluster.connect(&database);
    client
        .batch_execute(&format!(
            "create role app; create role ingest; grant create on schema public to app;
             create extension timescaledb; create extension busymate_stats; set role app;
             {}; {ENTRIES} grant insert on public.entries to ingest; reset role; {ATTACH}",
            TABLES.replace("create extension timescaledb; create extension busymate_stats;", "")
        ))
        .unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 600);
    for (role, at, wanted) in
        [("app", "now() + interval '5 d'", 601), ("ingest", "now() + interval '6 d'", 602)]
    {
        client
            .batch_execute(&format!("set role {role}; insert into public.entries (created_at, host) values ({at}, 'h'); reset role"))
            .unwrap_or_else(|error| panic!("{role}: {error:?}"));
        assert_eq!(total(&mut client), wanted);
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], wanted);
    }
    assert_adopted(&mut client);
    assert_eq!(epoch(&mut client), 1, "everything was counted anew");

    // A table that becomes a hypertable after it was attached.
    client
        .batch_execute(
            "select busymate_stats.detach(); set role app; drop table public.entries;
             create table public.entries (
                 created_at timestamptz not null default now(), device_uuid uuid, host text, status int, source text
             );
             create index on public.entries (created_at);
             insert into public.entries (host) values ('before');
             reset role; select busymate_stats.attach('public.entries', 'public.devices'); set role app;
             select create_hypertable('public.entries', 'created_at', migrate_data => true);
             insert into public.entries (created_at, host) values (now() + interval '30 d', 'after'); reset role",
        )
        .unwrap();
    assert_eq!(total(&mut client), 2);
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 2);
}

/// Another session makes the chunk and leaves its transaction open over ticks of the sealer.
#[test]
fn a_chunk_of_a_transaction_that_stays_open_is_counted_when_it_commits() {
    let Some(cluster) = timescaledb() else { return };
    let database = cluster.create_database("hypertable");
    let (mut client, mut writer) = (cluster.connect(&database), cluster.connect(&database));
    client.batch_execute(&format!("{TABLES}{ENTRIES}{ATTACH}")).unwrap();
    is_sealed_and_right(&mut client);
    for (at, wanted) in [("now() + interval '2 d'", 601), ("now() - interval '40 d'", 602), ("now()", 603)] {
        writer
            .batch_execute(&format!(
                "begin; insert into public.entries (created_at, host) values ({at}, 'open')"
            ))
            .unwrap();
        let ticked = "select last_refresh::text from busymate_stats.health where feed = 'seal'";
        for _ in 0..3 {
            let before: Option<String> = value(&mut client, ticked);
            eventually("the sealer ticks", || {
                (value::<Option<String>>(&mut client, ticked) != before).then_some(())
            });
        }
        assert_eq!(total(&mut client), wanted - 1);
        writer.batch_execute("commit").unwrap();
        assert_eq!(total(&mut client), wanted);
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], wanted);
    }
}

#[test]
fn a_compressed_chunk_is_read_by_the_plain_query() {
    let Some(cluster) = timescaledb() else { return };
    let mut client = fleet(&cluster, &format!("{TABLES}{ENTRIES}{ATTACH}"));
    is_sealed_and_right(&mut client);
    // Compression itself is no part of the Apache edition. This is how its catalog says that a chunk is compressed.
    client
        .batch_execute(
            "set timescaledb.restoring = on;
             update _timescaledb_catalog.chunk set status = status | 1
              where id = (select min(id) from _timescaledb_catalog.chunk);
             reset timescaledb.restoring;
             comment on column public.entries.host is 'so that its chunks are looked at again';
             alter table public.entries set (autovacuum_enabled = on)",
        )
        .unwrap();
    eventually("health says why", || seal(&mut client, "reason")?.contains(" is compressed").then_some(()));
    assert_eq!(seal(&mut client, "sealed").as_deref(), Some("false"));
}

#[test]
fn the_extension_and_the_fleet_can_go() {
    let Some(cluster) = timescaledb() else { return };
    let ours = "select count(*) from pg_trigger where tgname like 'busymate%' and not tgisinternal";
    let mut client = fleet(&cluster, &format!("{TABLES}{ENTRIES}{ATTACH}"));
    client.batch_execute("select busymate_stats.detach()").unwrap();
    assert_eq!(
        value::<i64>(&mut client, "select count(*) from pg_trigger where tgname = 'busymate_stats_capture'"),
        0
    );
    client.batch_execute(ATTACH).unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 600);
    client.batch_execute("drop extension busymate_stats").unwrap();
    assert_eq!(value::<i64>(&mut client, ours), 0);
    client.batch_execute(ENTRIES).unwrap();
    client.batch_execute("drop table public.entries").unwrap();
}
