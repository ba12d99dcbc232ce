//! Promise: DROP EXTENSION costs no writer its transaction. It waits for the writers of entries and devices before it locks
//! what they need at their commit, so it never deadlocks with them.

use harness::worker::is_sealed_and_right;
use harness::{Cluster, eventually, refusal_of, value};
use postgres::Client;
use std::sync::OnceLock;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start(
            "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'\ndeadlock_timeout = 100ms",
        )
    })
}

const PLAIN: &str = ");";
const PARTITIONED: &str = ") partition by range (created_at);
    create table public.entries_old partition of public.entries
        for values from (minvalue) to (now() - interval '3 hours');
    create table public.entries_new partition of public.entries
        for values from (now() - interval '3 hours') to (maxvalue);";

fn sealed(shape: &str) -> (String, Client) {
    let database = cluster().create_database("dropped");
    let mut client = cluster().connect(&database);
    client
        .batch_execute(&format!(
            "create table public.devices (device_uuid uuid primary key, name text, connection_type text,
                                          last_seen_at timestamptz);
             create table public.entries (
                 created_at timestamptz not null, device_uuid uuid, host text, status int, source text
             {shape}
             create index on public.entries (created_at);
             insert into public.entries (created_at, host) select now() - n * interval '1 min', 'h' from generate_series(1, 400) n;
             insert into public.devices select gen_random_uuid(), 'd' || n from generate_series(1, 9) n;
             create extension busymate_stats;
             select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
    is_sealed_and_right(&mut client);
    (database, client)
}

const ON_TIME: &str = "insert into public.entries (created_at, host) values (now(), 'new')";
const LATE: &str = "insert into public.entries (created_at, host) values (now() - interval '1 h', 'late')";
const LATER: &str = "insert into public.entries (created_at, host) values (now() - interval '5 h', 'later')";
const LATE_UPDATE: &str =
    "update public.entries set host = 'moved' where created_at < now() - interval '6 h' and host = 'h'";
const DEVICES: &str = "update public.devices set name = name || '!'";
const NEW_DEVICE: &str = "insert into public.devices values (gen_random_uuid(), 'new')";

/// What writers have written before DROP EXTENSION, and write while it waits.
const WRITERS: [&[(&str, &str)]; 8] = [
    &[(LATE, "")],
    &[(ON_TIME, LATE)],
    &[(LATE, LATER)],
    &[(LATE, ""), (ON_TIME, LATER), (LATER, LATE)],
    &[(LATE_UPDATE, LATE)],
    &[(NEW_DEVICE, DEVICES)],
    &[(DEVICES, NEW_DEVICE)],
    &[(NEW_DEVICE, NEW_DEVICE), (ON_TIME, LATE)],
];

#[track_caller]
fn writers_go_on(shape: &str) {
    let mut failures = Vec::new();
    for writers in WRITERS {
        let (database, mut client) = sealed(shape);
        let mut pids = Vec::new();
        let open: Vec<_> = writers
            .iter()
            .map(|(before, during)| {
                let mut writer = cluster().connect(&database);
                writer.batch_execute(&format!("begin; {before}")).unwrap();
                pids.push(value::<i32>(&mut writer, "select pg_backend_pid()").to_string());
                (writer, during)
            })
            .collect();
        let mut dropper = cluster().connect(&database);
        let pid: i32 = value(&mut dropper, "select pg_backend_pid()");
        let dropping = std::thread::spawn(move || dropper.batch_execute("drop extension busymate_stats"));
        let waits = format!("select pg_blocking_pids({pid}) && array[{}]", pids.join(","));
        eventually("DROP EXTENSION waits for a writer", || value::<bool>(&mut client, &waits).then_some(()));
        // Each by itself: they may wait for each other.
        let open: Vec<_> = open
            .into_iter()
            .map(|(mut writer, during)| {
                std::thread::spawn(move || {
                    writer.batch_execute(during).and_then(|()| writer.batch_execute("commit"))
                })
            })
            .collect();
        for (number, writer) in open.into_iter().enumerate() {
            if let Err(error) = writer.join().unwrap() {
                let error = refusal_of(&error);
                failures.push(format!("{writers:?}: writer {number}: {}: {}", error.code, error.message));
            }
        }
        if let Err(error) = dropping.join().unwrap() {
            let error = refusal_of(&error);
            failures.push(format!("{writers:?}: DROP EXTENSION: {}: {}", error.code, error.message));
            continue;
        }
        // All of it stays, and the tables are usable.
        let inserted = writers.iter().flat_map(|(before, during)| [*before, *during]);
        let inserted =
            inserted.filter(|statement| statement.starts_with("insert into public.entries")).count();
        let there: i64 = value(&mut client, "select count(*) - 400 from public.entries");
        if there != inserted as i64 {
            failures.push(format!("{writers:?}: {there} rows of {inserted}"));
        }
        client.batch_execute(&format!("{LATE}; {LATE_UPDATE}; {DEVICES}; {NEW_DEVICE}")).unwrap();
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn writers_of_a_plain_table_go_on() {
    writers_go_on(PLAIN);
}

#[test]
fn writers_of_a_partitioned_table_go_on() {
    writers_go_on(PARTITIONED);
}
