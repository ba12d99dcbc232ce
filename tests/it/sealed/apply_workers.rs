//! Promise: entries may be the target of a subscription, pglogical's or PostgreSQL's own, and stay sealed and exact: what
//! an apply worker inserts, updates, deletes and copies is captured like anybody's. And a fleet may be the provider.

use harness::decoding::allow_output_plugin;
use harness::worker::{is_sealed_and_right, seal};
use harness::{Cluster, eventually, refusal_of, value};
use postgres::Client;

const SETTINGS: &str = "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'\n\
    max_replication_slots = 20\nmax_wal_senders = 20\nmax_logical_replication_workers = 20\n\
    max_worker_processes = 40\nlogical_decoding_work_mem = 64kB\nwal_receiver_status_interval = 1s";

/// The tables of both sides; those of the fleet are the user's own here.
const TABLES: &str = "
    create table public.devices (device_uuid uuid primary key, name text, connection_type text, last_seen_at timestamptz);
    create table public.entries (
        id bigint primary key, created_at timestamptz not null, device_uuid uuid, host text, status int, source text
    );
    create index on public.entries (created_at);
    insert into public.devices
        select ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'd' || n, 'vpn', now() - n * interval '1 min'
          from generate_series(1, 5) n;";

/// Rows of the last ten hours.
const ENTRIES: &str = "
    insert into public.entries
        select n, now() - n * interval '1 min',
               ('00000000-0000-0000-0000-' || lpad((n % 5 + 1)::text, 12, '0'))::uuid, 'h' || n % 7, 200, 'vpn'
          from generate_series(1, 600) n";

const ATTACH: &str = "create extension busymate_stats;
    select busymate_stats.attach('public.entries', 'public.devices')";

/// Two databases of one cluster.
struct Pair {
    provider_name: String,
    fleet_name: String,
    provider: Client,
    subscriber: Client,
}

impl Pair {
    fn create(cluster: &Cluster) -> Self {
        let (provider_name, fleet_name) =
            (cluster.create_database("provider"), cluster.create_database("subscriber"));
        let mut provider = cluster.connect(&provider_name);
        let mut subscriber = cluster.connect(&fleet_name);
        for client in [&mut provider, &mut subscriber] {
            client.batch_execute(TABLES).unwrap();
        }
        Self { provider_name, fleet_name, provider, subscriber }
    }

    /// Awaits that the subscriber has the provider's rows.
    #[track_caller]
    fn wait_for_apply(&mut self) {
        for table in ["entries", "devices"] {
            let rows = format!(
                "select md5(coalesce(string_agg(t::text, ' ' order by t::text), '')) from public.{table} t"
            );
            let wanted: String = value(&mut self.provider, &rows);
            eventually("the changes are applied", || {
                (value::<String>(&mut self.subscriber, &rows) == wanted).then_some(())
            });
        }
    }
}

/// The total that the sealed figures give, which must be that of all rows.
#[track_caller]
fn total(client: &mut Client) -> i64 {
    let stats = is_sealed_and_right(client);
    assert_eq!(seal(client, "reason"), None);
    let total = stats["total_entries"].as_i64().unwrap();
    assert_eq!(total, value::<i64>(client, "select count(*) from public.entries"));
    total
}

/// What a provider may do to sealed rows; and how many rows there are then, of 600 at first.
const CHANGES: [(&str, &str, i64); 9] = [
    ("a late row", "insert into public.entries values (1001, now() - interval '3 h', null, 'late', 404, 'sdk')", 601),
    ("updates of sealed rows", "update public.entries set status = 500, host = 'moved' where id between 200 and 220", 601),
    ("an update of the entry time", "update public.entries set created_at = created_at - interval '2 d' where id = 300", 601),
    ("an update of the key", "update public.entries set id = -id where id = 301", 601),
    ("deletes of sealed rows", "delete from public.entries where id between 400 and 449", 551),
    (
        "many late rows",
        "insert into public.entries select 2000 + n, now() - n * interval '1 min', null, 'many', 200, 'app'
           from generate_series(1, 500) n",
        1051,
    ),
    (
        "late rows beside rows of now",
        "insert into public.entries select 3000 + n, now() - (n % 2) * interval '1 h', null, 'mixed', 200, 'app'
           from generate_series(1, 20) n",
        1071,
    ),
    (
        "a large transaction",
        "begin;
         insert into public.entries select 10000 + n, now() - n * interval '1 s', null, repeat('x', 50), 200, 'app'
           from generate_series(1, 5000) n;
         savepoint s;
         delete from public.entries where id between 10000 and 13000;
         rollback to s;
         delete from public.entries where id between 10001 and 11000;
         commit",
        5071,
    ),
    ("devices", "update public.devices set name = 'renamed', last_seen_at = now() - interval '1 d'", 5071),
];

#[track_caller]
fn changes_are_captured(pair: &mut Pair) {
    for (what, statements, rows) in CHANGES {
        pair.provider.batch_execute(statements).unwrap();
        pair.wait_for_apply();
        // With no time to seal it: from what is written of the late changes.
        harness::fleet::stats_at(&mut pair.subscriber, "now");
        assert_eq!(total(&mut pair.subscriber), rows, "{what}");
    }
}

/// A cluster with pglogical loaded, or None where it is not installed, which a test says, except in CI. It is a cluster of
/// its own: while pglogical's processes run, DROP DATABASE never returns.
fn pglogical(settings: &str) -> Option<Cluster> {
    let library = format!(
        "{}/pglogical.so",
        harness::run(harness::server_command("pg_config").arg("--pkglibdir")).trim()
    );
    if !std::path::Path::new(&library).exists() {
        assert!(std::env::var("CI").is_err(), "no pglogical: scripts/setup postgresql-pglogical");
        eprintln!("NOT TESTED: no pglogical. scripts/setup postgresql-pglogical installs it.");
        return None;
    }
    Some(Cluster::start(&format!(
        "{SETTINGS}\nshared_preload_libraries = 'busymate_stats, pglogical'\n{settings}"
    )))
}

/// A subscription of pglogical from the one database to the other.
fn pglogical_subscribe(cluster: &Cluster, pair: &mut Pair) {
    let dsn = |database: &str| {
        format!("host={} dbname={database} user=postgres", cluster.socket_directory().display())
    };
    allow_output_plugin(&mut pair.provider, "pglogical_output");
    pair.provider
        .batch_execute(&format!(
            "create extension if not exists pglogical;
             select pglogical.create_node('provider', '{}');
             select pglogical.replication_set_add_table('default', 'public.entries'),
                    pglogical.replication_set_add_table('default', 'public.devices')",
            dsn(&pair.provider_name)
        ))
        .unwrap();
    pair.subscriber
        .batch_execute(&format!(
            "truncate public.devices; create extension if not exists pglogical;
             select pglogical.create_node('subscriber', '{}');
             select pglogical.create_subscription('s', '{}', array['default'])",
            dsn(&pair.fleet_name),
            dsn(&pair.provider_name)
        ))
        .unwrap();
    eventually("the subscription replicates", || {
        let status = pair.subscriber.query("select status from pglogical.show_subscription_status('s')", &[]);
        let status = status.unwrap_or_else(|error| panic!("{:?}", refusal_of(&error)));
        (status.first()?.get::<_, String>(0) == "replicating").then_some(())
    });
    pair.wait_for_apply();
}

#[track_caller]
fn a_fleet_that_pglogical_writes(settings: &str) {
    let Some(cluster) = pglogical(settings) else { return };
    let mut pair = Pair::create(&cluster);
    pair.subscriber.batch_execute(ATTACH).unwrap();
    pair.provider.batch_execute(ENTRIES).unwrap();
    // Sealed while empty: all that is copied at first is late.
    is_sealed_and_right(&mut pair.subscriber);
    pglogical_subscribe(&cluster, &mut pair);
    assert_eq!(total(&mut pair.subscriber), 600);
    changes_are_captured(&mut pair);
}

#[test]
fn a_fleet_that_pglogical_writes_row_by_row() {
    a_fleet_that_pglogical_writes(
        "pglogical.conflict_resolution = 'apply_remote'\ntrack_commit_timestamp = on",
    );
}

/// pglogical inserts many rows at once where it need not resolve conflicts.
#[test]
fn a_fleet_that_pglogical_writes_in_batches() {
    a_fleet_that_pglogical_writes("pglogical.conflict_resolution = 'error'\npglogical.batch_inserts = on");
}

#[test]
fn a_fleet_that_pglogical_writes_through_sql() {
    a_fleet_that_pglogical_writes("pglogical.conflict_resolution = 'error'\npglogical.use_spi = on");
}

#[test]
fn a_fleet_that_pglogical_reads() {
    let Some(cluster) = pglogical("") else { return };
    let mut pair = Pair::create(&cluster);
    pair.provider.batch_execute(ATTACH).unwrap();
    pair.provider.batch_execute(ENTRIES).unwrap();
    assert_eq!(total(&mut pair.provider), 600);
    pglogical_subscribe(&cluster, &mut pair);
    let upserts = [
        "insert into public.entries values (1002, now() - interval '3 h', null, 'late', 404, 'sdk') on conflict do nothing",
        "insert into public.entries values (1002, now() - interval '2 h', null, 'later', 404, 'sdk')
         on conflict (id) do update set host = excluded.host, created_at = excluded.created_at",
        "insert into public.entries select n, now() - n * interval '1 min', null, 'many', 200, 'app'
           from generate_series(500, 700) n on conflict (id) do update set host = excluded.host",
    ];
    for (statements, rows) in upserts.into_iter().zip([601, 601, 701]) {
        pair.provider.batch_execute(statements).unwrap();
        pair.wait_for_apply();
        assert_eq!(total(&mut pair.provider), rows, "{statements}");
    }
    for (what, statements, rows) in CHANGES {
        pair.provider.batch_execute(statements).unwrap();
        pair.wait_for_apply();
        assert_eq!(total(&mut pair.provider), rows + 101, "{what}");
    }
}

/// PostgreSQL's own subscription, between databases of one cluster: so the slot is made beforehand.
#[track_caller]
fn a_fleet_that_a_subscription_writes(options: &str, partitioned: bool) {
    let cluster = Cluster::start(SETTINGS);
    let mut pair = Pair::create(&cluster);
    if partitioned {
        pair.subscriber
            .batch_execute(
                "drop table public.entries;
                 create table public.entries (
                     id bigint, created_at timestamptz, device_uuid uuid, host text, status int, source text,
                     primary key (id, created_at)
                 ) partition by range (created_at);
                 create index on public.entries (created_at);
                 create table public.entries_old partition of public.entries
                     for values from (minvalue) to (now() - interval '3 hours');
                 create table public.entries_new partition of public.entries
                     for values from (now() - interval '3 hours') to (maxvalue)",
            )
            .unwrap();
        // The subscriber finds rows by its own key.
        pair.provider
            .batch_execute(
                "alter table public.entries drop constraint entries_pkey, add primary key (id, created_at)",
            )
            .unwrap();
    }
    pair.subscriber.batch_execute(ATTACH).unwrap();
    pair.provider.batch_execute(ENTRIES).unwrap();
    is_sealed_and_right(&mut pair.subscriber);
    pair.provider.batch_execute("create publication p for table public.entries, public.devices").unwrap();
    pair.provider.batch_execute("select pg_create_logical_replication_slot('s', 'pgoutput')").unwrap();
    pair.subscriber
        .batch_execute(&format!(
            "truncate public.devices;
             create subscription s connection 'host={} dbname={} user=postgres' publication p
                 with (create_slot = false, slot_name = 's', copy_data = true{options})",
            cluster.socket_directory().display(),
            pair.provider_name
        ))
        .unwrap();
    eventually("the tables are copied", || {
        value::<bool>(&mut pair.subscriber, "select bool_and(srsubstate = 'r') from pg_subscription_rel")
            .then_some(())
    });
    pair.wait_for_apply();
    assert_eq!(total(&mut pair.subscriber), 600);
    changes_are_captured(&mut pair);
    pair.subscriber.batch_execute("drop subscription s").unwrap();
}

#[test]
fn a_fleet_that_a_subscription_writes_is_sealed() {
    a_fleet_that_a_subscription_writes("", false);
}

#[test]
fn a_fleet_that_a_streaming_subscription_writes_is_sealed() {
    a_fleet_that_a_subscription_writes(", streaming = on", false);
}

/// With 18.6's own default, streaming = parallel, applying a large transaction there does not end, without us too:
/// docs/operating.md says so.
#[test]
fn a_partitioned_fleet_that_a_subscription_writes_is_sealed() {
    a_fleet_that_a_subscription_writes(", binary = true, streaming = on", true);
}
