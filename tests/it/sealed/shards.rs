//! Promise: entries that lie on other servers are counted there: what comes over the wire is aggregates, not rows, and
//! the figures are those of the plain query.

use harness::{Cluster, value};
use postgres::Client;

const COLUMNS: &str = "created_at timestamptz not null default now(), device_uuid uuid, host text, status int, source text, shard int not null";

/// A server with one half of the entries.
fn shard(number: i32) -> Cluster {
    let cluster = Cluster::start("");
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(&format!(
            "create table public.entries ({COLUMNS});
             create index on public.entries (created_at);
             insert into public.entries
             select now() - n * interval '3 min', md5((n % 5)::text)::uuid, case n % 11 when 0 then null else 'h' || n % 9 end,
                    (array[200, 204, 404, 500, null, 99])[1 + n % 6], (array['vpn', 'pac', null])[1 + n % 3], {number}
               from generate_series(1, 1000 * {number}) n"
        ))
        .unwrap();
    cluster
}

fn parent(shards: &[Cluster], cluster: &Cluster) -> (String, Client) {
    let database = cluster.create_database("shards");
    let mut client = cluster.connect(&database);
    client
        .batch_execute(&format!(
            "create extension postgres_fdw; create extension busymate_stats;
             create table public.devices (device_uuid uuid primary key, name text not null, connection_type text, last_seen_at timestamptz);
             insert into public.devices select md5(n::text)::uuid, 'Device ' || n, 'vpn', now() from generate_series(0, 4) n;
             create table public.entries ({COLUMNS}) partition by list (shard);
             create index on public.entries (created_at);
             create table public.entries_0 partition of public.entries for values in (0);
             insert into public.entries (host, shard) values ('here', 0)"
        ))
        .unwrap();
    for (number, shard) in (1..).zip(shards) {
        let directory = shard.socket_directory().display();
        client
            .batch_execute(&format!(
                "create server shard{number} foreign data wrapper postgres_fdw
                     options (host '{directory}', port '5432', dbname 'postgres');
                 create user mapping for current_user server shard{number} options (user 'postgres');
                 create foreign table public.entries_{number} partition of public.entries for values in ({number}) server shard{number}
                     options (table_name 'entries')"
            ))
            .unwrap();
    }
    (database, client)
}

#[test]
fn shards_compute_their_own_aggregates() {
    let shards = [shard(1), shard(2)];
    let cluster = Cluster::start("");
    let (database, _) = parent(&shards, &cluster);
    let (mut client, heard) = cluster.connect_hearing(&database);
    client.batch_execute("select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
    let notices: Vec<String> = heard.lock().unwrap().drain(..).map(|notice| notice.message).collect();
    assert_eq!(
        notices,
        ["relation public.entries has foreign partitions, so its changes cannot be captured"]
    );

    client
        .batch_execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
             set auto_explain.log_verbose = on; set auto_explain.log_level = notice; set client_min_messages = notice",
        )
        .unwrap();
    let total: i64 = value(&mut client, "select (public.get_stats() ->> 'total_entries')::int8");
    let plans: Vec<String> = heard.lock().unwrap().drain(..).map(|notice| notice.message).collect();
    client.batch_execute("set auto_explain.log_min_duration = -1").unwrap();
    assert_eq!(total, 3001);
    let remote: Vec<&str> = plans
        .iter()
        .flat_map(|plan| plan.lines())
        .filter_map(|line| line.split_once("Remote SQL: "))
        .map(|(_, sql)| sql)
        .collect();
    println!("{remote:#?}");
    assert_eq!(remote.len(), 2 * 4);
    assert!(remote.iter().all(|sql| sql.contains("count(*)")), "rows are fetched: {remote:#?}");

    let differing: i64 = value(&mut client, "select count(*) from busymate_stats.verify()");
    assert_eq!(differing, 0);
}

#[test]
fn one_foreign_table_is_counted_where_it_is() {
    let shards = [shard(1)];
    let cluster = Cluster::start("");
    let (_, mut client) = parent(&shards, &cluster);
    client.batch_execute("select busymate_stats.attach('public.entries_1', 'public.devices')").unwrap();
    let differing: i64 = value(&mut client, "select count(*) from busymate_stats.verify()");
    assert_eq!(differing, 0);
    // A foreign partition that goes leaves a tree whose triggers attach() has not made.
    client
        .batch_execute(
            "select busymate_stats.detach(); select busymate_stats.attach('public.entries', 'public.devices');
             drop foreign table public.entries_1",
        )
        .unwrap();
    let differing: i64 = value(&mut client, "select count(*) from busymate_stats.verify()");
    assert_eq!(differing, 0);
}
