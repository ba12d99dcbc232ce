//! Promise: NOT NULL … NOT VALID, as PostgreSQL 18 has it, is not taken for NOT NULL: rows of before it have no entry time,
//! and are in the total all the same.

use harness::fleet::stats_at;
use harness::worker::{is_sealed_and_right, seal, wait_for_seal};
use harness::{Cluster, Refusal, eventually, refusal, value};
use postgres::Client;
use std::sync::OnceLock;

const ADD: &str = "alter table public.entries add constraint timed not null created_at not valid";
const STRAYS: &str = "insert into public.entries (created_at, host, status, source)
    select null, 'stray', 200, 'vpn' from generate_series(1, 1200)";

/// A database with a fleet of 300 entries that nothing is attached to, on a server that knows such constraints.
fn fleet(entries: &str) -> Option<Client> {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Cluster::start("busymate_stats.seal_interval = '1s'"));
    let mut client = cluster.connect(&cluster.create_database("not_valid"));
    if value::<i32>(&mut client, "select current_setting('server_version_num')::int") < 180_000 {
        return None;
    }
    client
        .batch_execute(&format!(
            "create extension busymate_stats;
             create table public.devices (device_uuid uuid primary key, name text, connection_type text, last_seen_at timestamptz);
             create table public.entries (created_at timestamptz, device_uuid uuid, host text, status int, source text) {entries};
             create index on public.entries (created_at);
             insert into public.entries (created_at, host, status, source)
                select now() - n * interval '7 min', 'h' || n % 5, 200, 'vpn' from generate_series(1, 300) n"
        ))
        .unwrap();
    Some(client)
}

const PLAIN: &str = "";
const PARTITIONED: &str =
    "partition by range (created_at); create table public.part partition of public.entries default";
const ATTACH: &str = "select busymate_stats.attach('public.entries', 'public.devices')";

#[test]
fn it_is_not_attached() {
    for entries in [PLAIN, PARTITIONED] {
        let Some(mut client) = fleet(entries) else { return };
        client.batch_execute(&format!("{STRAYS}; {ADD}")).unwrap();
        let refused = refusal(&mut client, ATTACH);
        assert_eq!(
            refused,
            Refusal {
                code: "55000".into(),
                message: "column \"created_at\" of relation public.entries may be null".into(),
                detail: String::new(),
                hint: "Run ALTER TABLE public.entries ALTER COLUMN created_at SET NOT NULL.".into(),
            }
        );
        let remedy = refused.hint.strip_prefix("Run ").unwrap().trim_end_matches('.');
        assert_eq!(refusal(&mut client, remedy).code, "23502");
        client.batch_execute("delete from public.entries where created_at is null").unwrap();
        client.batch_execute(remedy).unwrap();
        client.batch_execute(ATTACH).unwrap();
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 300);
    }
}

#[test]
fn it_ends_a_seal_until_it_is_validated() {
    for entries in [PLAIN, PARTITIONED] {
        let Some(mut client) = fleet(entries) else { return };
        client.batch_execute("alter table public.entries alter created_at set not null").unwrap();
        client.batch_execute(ATTACH).unwrap();
        is_sealed_and_right(&mut client);

        let steps = format!(
            "begin; alter table public.entries alter created_at drop not null; {STRAYS}; {ADD}; commit"
        );
        client.batch_execute(&steps).unwrap();
        assert_eq!(stats_at(&mut client, "now")["total_entries"], 1500);
        let reason = "column \"created_at\" of public.entries may be null";
        eventually("the sealer says why", || {
            (seal(&mut client, "reason").as_deref() == Some(reason)).then_some(())
        });
        assert_eq!(seal(&mut client, "sealed").as_deref(), Some("false"));
        assert_eq!(stats_at(&mut client, "now")["total_entries"], 1500);

        // Dropped and added again, still with rows that have none.
        client.batch_execute("alter table public.entries drop constraint timed").unwrap();
        client.batch_execute(ADD).unwrap();
        client
            .batch_execute(
                "insert into public.entries (created_at, host) values (now() - interval '3 h', 'late')",
            )
            .unwrap();
        assert_eq!(stats_at(&mut client, "now")["total_entries"], 1501);

        client
            .batch_execute(
                "delete from public.entries where created_at is null;
                 alter table public.entries validate constraint timed",
            )
            .unwrap();
        wait_for_seal(&mut client);
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 301);
    }
}
