//! The main job once, end to end.

use harness::{installed, value};
use serde_json::Value;

#[test]
fn from_nothing_to_a_snapshot() {
    let (_, mut client) = installed("smoke");
    client.batch_execute("select busymate_stats.create_fleet_tables()").unwrap();
    client.batch_execute("insert into public.entries (host, status) values ('example.com', 200)").unwrap();
    let stats: Value = value(&mut client, "select public.get_stats()");
    assert_eq!(stats["total_entries"], 1);
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    let snapshot: Value = value(&mut client, "select snapshot from public.service_stats where id = 1");
    assert_eq!(snapshot["top_domains"][0]["host"], "example.com");
}

#[test]
fn tables_of_ones_own() {
    let (_, mut client) = installed("smoke");
    client
        .batch_execute(
            "create table public.e (created_at timestamptz not null default now(), device_uuid uuid, host text,
                                    status int, source text);
             create index on public.e (created_at);
             create table public.d (device_uuid uuid primary key, name text, connection_type text,
                                    last_seen_at timestamptz);
             select busymate_stats.attach('public.e', 'public.d');
             insert into public.e (host) values ('example.com')",
        )
        .unwrap();
    let stats: Value = value(&mut client, "select public.get_stats()");
    assert_eq!(stats["entries_24h"], 1);
}
