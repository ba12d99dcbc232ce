//! Fleets whose figures can be counted by hand.

use super::installed;
use postgres::Client;
use serde_json::Value;

/// A new database with the extension and its own fleet tables, empty and attached.
pub fn fleet(prefix: &str) -> (String, Client) {
    let (database, mut client) = installed(prefix);
    client.batch_execute("select busymate_stats.create_fleet_tables()").unwrap();
    (database, client)
}

/// The snapshot as of a moment, by both ways of computing it, which must agree.
#[track_caller]
pub fn stats_at(client: &mut Client, as_of: &str) -> Value {
    let row = client
        .query_one(
            &format!("select busymate_stats.stats_at('{as_of}'), busymate_stats.stats_recomputed('{as_of}')"),
            &[],
        )
        .unwrap();
    let (at, recomputed): (Value, Value) = (row.get(0), row.get(1));
    assert_eq!(at, recomputed);
    at
}
