//! Two hundred databases are all refreshed, by no more workers at once than their share of the slots.

use harness::worker::{EVERY_SECOND, fleet_in, next_refresh, nobody_connected, updated_at, workers};
use harness::{Cluster, eventually_within, value};
use postgres::Client;
use std::time::Duration;

const DATABASES: usize = 200;

/// How many parallel workers a query gets that asks for three.
fn parallel_workers(client: &mut Client) -> i64 {
    let plan: serde_json::Value = value(
        client,
        "explain (analyze, costs off, timing off, format json) select count(*) from pg_attribute",
    );
    fn find(node: &serde_json::Value) -> Option<i64> {
        match node {
            serde_json::Value::Object(fields) => fields
                .get("Workers Launched")
                .and_then(serde_json::Value::as_i64)
                .or_else(|| fields.values().find_map(find)),
            serde_json::Value::Array(items) => items.iter().find_map(find),
            _ => None,
        }
    }
    find(&plan).unwrap_or_else(|| panic!("the plan is not parallel: {plan}"))
}

fn make_databases(cluster: &Cluster) -> Client {
    let (template, mut client) = fleet_in(cluster, "many");
    next_refresh(&mut client);
    drop(client);
    let mut other = cluster.connect("postgres");
    nobody_connected(&mut other, &template);
    for number in 1..DATABASES {
        other
            .batch_execute(&format!("create database copy_{number} template {template} strategy file_copy"))
            .unwrap();
    }
    other
}

#[test]
fn two_hundred_databases_share_the_slots() {
    // Of six slots the replication launcher and ours have one each, and our share is one more: three are for others.
    let cluster = Cluster::start(&format!("{EVERY_SECOND}\nmax_worker_processes = 6\nautovacuum = off"));
    let mut other = make_databases(&cluster);
    other
        .batch_execute(
            "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
             set min_parallel_index_scan_size = 0; set max_parallel_workers_per_gather = 3",
        )
        .unwrap();
    let since: i64 = value(&mut other, "select (extract(epoch from clock_timestamp()) * 1000000)::int8");
    let mut waiting: Vec<_> = (1..DATABASES).map(|number| format!("copy_{number}")).collect();
    let mut most_workers = 0;
    let mut fewest_slots = i64::MAX;
    eventually_within(Duration::from_secs(300), "every database is refreshed", || {
        for _ in 0..10 {
            most_workers = most_workers.max(workers(&mut other));
        }
        fewest_slots = fewest_slots.min(parallel_workers(&mut other));
        waiting.retain(|database| {
            updated_at(&mut cluster.connect(database)).is_none_or(|moment| moment <= since)
        });
        waiting.is_empty().then_some(())
    });
    assert_eq!(most_workers, 1, "one worker at once, and it was seen");
    assert_eq!(fewest_slots, 3, "parallel workers for others");
    assert!(!cluster.log().contains("no free background worker slot"));
}
