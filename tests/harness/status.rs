//! The status feed as the tests look at it.

use super::{Cluster, value};
use postgres::Client;
use serde_json::Value;

/// A cluster whose status feed moves when it is told to, and the Supabase roles in it.
pub fn quiet_cluster(environment: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::start_with("busymate_stats.status_interval = 0", environment);
    cluster.connect("postgres").batch_execute(super::SUPABASE_ROLES).unwrap();
    cluster
}

/// A new database of `cluster` with the extension in it.
pub fn install(cluster: &Cluster, prefix: &str) -> Client {
    let mut client = cluster.connect(&cluster.create_database(prefix));
    client.batch_execute("create extension busymate_stats").unwrap();
    client
}

/// Has this URL watched.
pub fn watch_url(client: &mut Client, key: &str, url: &str) {
    let insert = "insert into busymate_stats.components (key, label, url, timeout) values ($1, $1, $2, interval '500 ms')";
    client.execute(insert, &[&key, &url]).unwrap();
}

/// Has this unit watched.
pub fn watch_unit(client: &mut Client, key: &str, unit: &str) {
    let insert = "insert into busymate_stats.components (key, label, unit) values ($1, $1, $2)";
    client.execute(insert, &[&key, &unit]).unwrap();
}

/// Refreshes the feed, and gives the snapshot.
pub fn refreshed(client: &mut Client) -> Value {
    client.batch_execute("select busymate_stats.refresh_status()").unwrap();
    snapshot(client)
}

/// The snapshot as it stands.
pub fn snapshot(client: &mut Client) -> Value {
    value(client, "select snapshot from public.service_status where id = 1")
}

/// One component of a snapshot.
#[track_caller]
pub fn component<'a>(snapshot: &'a Value, key: &str) -> &'a Value {
    let components = snapshot["components"].as_array().unwrap();
    components
        .iter()
        .find(|component| component["key"] == key)
        .unwrap_or_else(|| panic!("no {key}: {snapshot}"))
}

/// Why a component is not as it should be.
pub fn reason(client: &mut Client, key: &str) -> Option<String> {
    let query = "select reason from busymate_stats.component_health where key = $1";
    client.query_one(query, &[&key]).unwrap().get(0)
}
