//! Fleets to measure on.

use crate::measure::{note, timed};
use crate::report::grouped;
use crate::server;
use harness::{Cluster, value};
use postgres::Client;

/// A database with a fleet's tables in it.
pub struct Fleet {
    /// The database.
    pub database: String,
    /// How many entries were loaded.
    pub size: u64,
}

impl Fleet {
    /// The size, for people.
    pub fn shown(&self) -> String {
        grouped(self.size as i64)
    }
}

/// A source, by `n` mod 100: most entries come one way.
pub const SOURCE: &str = "(array['vpn', 'pac', 'cdp', 'proxy', 'sdk'])[
    case when n % 100 < 63 then 1 when n % 100 < 82 then 2 when n % 100 < 93 then 3 when n % 100 < 98 then 4 else 5 end]";

/// A status: mostly 200.
pub const STATUS: &str =
    "(array[200, 200, 200, 200, 200, 200, 204, 301, 304, 404, 403, 500, 503])[1 + n % 13]";

/// One of 5,000 hosts. The exponential of a uniform number is Zipf's distribution: the n-th host has 1/n of the first's.
pub const HOST: &str = "'host' || floor(exp(random() * ln(5001)))::int || '.example.com'";

/// One of 1,000 devices, the first ones busier.
pub const DEVICE: &str = "md5('device' || floor(1 + 1000 * random() ^ 1.5)::int)::uuid";

/// The tables that `create_fleet_tables()` makes.
const TABLES: &str = include_str!("../../sql/fleet_tables.sql");

/// A database with so many entries, not attached yet.
pub fn load(cluster: &Cluster, size: u64) -> Fleet {
    note(&format!("loading {} entries", grouped(size as i64)));
    let database = cluster.create_database("fleet");
    let mut client = cluster.connect(&database);
    client.batch_execute(TABLES).unwrap();
    let took = timed(|| fill(&mut client, size));
    for statement in
        ["vacuum (freeze, analyze) public.entries", "vacuum analyze public.devices", "checkpoint"]
    {
        client.batch_execute(statement).unwrap();
    }
    let bytes: String = value(&mut client, "select pg_size_pretty(pg_total_relation_size('public.entries'))");
    note(&format!("loaded in {:.1} s, {bytes} with indexes", took.as_secs_f64()));
    Fleet { database, size }
}

fn fill(client: &mut Client, size: u64) {
    client.batch_execute("select setseed(0.42)").unwrap();
    client
        .batch_execute(
            "insert into public.devices (device_uuid, name, connection_type, last_seen_at)
             select md5('device' || n)::uuid, 'Device ' || n, (array['vpn', 'pac', 'vpn', 'cdp'])[1 + n % 4],
                    now() - (n % 10) * interval '1 minute'
               from generate_series(1, 1000) n",
        )
        .unwrap();
    // The first nine tenths lie in 29 days, the last one in the day up to now.
    let old = size * 9 / 10;
    client
        .batch_execute(&format!(
            "insert into public.entries (created_at, device_uuid, host, method, status, source)
             select case when n <= {old} then now() - interval '30 days' + interval '29 days' * (n / {old}.0::float8)
                         else now() - interval '1 day' * (({size} - n) / {}.0::float8) end,
                    {DEVICE}, {HOST}, 'GET', {STATUS}, {SOURCE}
               from generate_series(1, {size}) n",
            size - old
        ))
        .unwrap();
}

/// Installs the extension and attaches the fleet.
pub fn attach(client: &mut Client) {
    client
        .batch_execute(
            "create extension if not exists busymate_stats;
             select busymate_stats.attach('public.entries', 'public.devices')",
        )
        .unwrap();
    server::let_reader_in(client);
}

/// Drops a fleet's database.
pub fn drop(cluster: &Cluster, fleet: &Fleet) {
    let statement = format!("drop database {} with (force)", fleet.database);
    cluster.connect("postgres").batch_execute(&statement).unwrap();
}

/// Drops every fleet but the last one.
pub fn drop_all_but_last(cluster: &Cluster, fleets: &[Fleet]) {
    for fleet in &fleets[..fleets.len() - 1] {
        drop(cluster, fleet);
    }
}
