//! Promise: entries that the real pg_partman looks after stay sealed and exact: its maintenance makes the coming days,
//! drops the old ones, and moves what has gathered in the default partition.

use harness::fleet::stats_at;
use harness::worker::is_sealed_and_right;
use harness::{Cluster, value};
use postgres::Client;

const FLEET: &str = "create schema partman; create extension pg_partman schema partman;
    create table public.devices (device_uuid uuid primary key, name text, connection_type text, last_seen_at timestamptz);
    create table public.entries (
        created_at timestamptz not null default now(), device_uuid uuid, host text, status int, source text
    ) partition by range (created_at);
    create index on public.entries (created_at);
    do $$
    begin
        -- Version 5 has one kind of partitioning left, and names it after PostgreSQL's.
        perform partman.create_parent('public.entries', 'created_at', p_interval := '1 day', p_premake := 2,
            p_type := case when extversion like '4.%' then 'native' else 'range' end,
            p_start_partition := (now() - interval '9 days')::text)
           from pg_extension where extname = 'pg_partman';
    end $$;
    update partman.part_config set retention = '5 days', retention_keep_table = false;
    create extension busymate_stats;
    select busymate_stats.attach('public.entries', 'public.devices');
    insert into public.entries (created_at, host, status, source)
        select now() - n * interval '1 hour', 'host' || n % 7, 200, 'vpn' from generate_series(0, 200) n";

/// Of before the first partition, so the default one takes them.
const STRAYS: &str = "insert into public.entries (created_at, host, status, source)
    select now() - interval '15 days' - n * interval '1 hour', 'stray', 404, 'sdk' from generate_series(1, 30) n";

fn epoch(client: &mut Client) -> i64 {
    value(client, "select max(epoch) from busymate_stats_internal.seal_state")
}

fn partitions(client: &mut Client) -> i64 {
    value(client, "select count(*) from pg_inherits where inhparent = 'public.entries'::regclass")
}

#[test]
fn its_maintenance_counts_nothing_anew() {
    let cluster = Cluster::start("busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '1s'");
    let database = cluster.create_database("partman");
    let mut client = cluster.connect(&database);
    client.batch_execute(FLEET).unwrap();
    is_sealed_and_right(&mut client);
    let (begun, before) = (epoch(&mut client), partitions(&mut client));

    // An old snapshot sees the dropped days go as everybody does, for PostgreSQL's catalogs are of the moment.
    let mut old = cluster.connect(&database);
    old.batch_execute("begin isolation level repeatable read; select 1").unwrap();
    client.batch_execute("update partman.part_config set premake = 4").unwrap();
    client.batch_execute("select partman.run_maintenance('public.entries')").unwrap();
    let gone = before + 2 - partitions(&mut client);
    assert!(gone >= 3, "{gone} partitions went");
    stats_at(&mut old, "now");
    old.batch_execute("commit").unwrap();
    is_sealed_and_right(&mut client);
    assert_eq!(epoch(&mut client), begun, "everything was counted anew");
}

#[test]
fn strays_are_moved_and_stay_counted() {
    let cluster = Cluster::start("busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '1s'");
    let database = cluster.create_database("partman");
    let mut client = cluster.connect(&database);
    client.batch_execute(FLEET).unwrap();
    is_sealed_and_right(&mut client);
    client.batch_execute(STRAYS).unwrap();
    is_sealed_and_right(&mut client);
    let total = |client: &mut Client| stats_at(client, "now")["total_entries"].as_i64().unwrap();
    let before = total(&mut client);
    client.batch_execute("call partman.partition_data_proc('public.entries')").unwrap();
    assert_eq!(value::<i64>(&mut client, "select count(*) from only public.entries_default"), 0);
    assert_eq!(total(&mut client), before);
    is_sealed_and_right(&mut client);
    assert_eq!(total(&mut client), before);
}
