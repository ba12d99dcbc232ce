//! Every database with the extension is found and refreshed, at once and then every interval, and no other is touched.

use harness::worker::{EVERY_SECOND, fleet_in, logged, next_refresh, refreshes, updated_at};
use harness::{Cluster, eventually, value};
use postgres::Client;
use std::sync::OnceLock;

/// One cluster at the shortest interval; no autovacuum, so that whoever works in a database is one of ours.
fn every_second() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&format!("{EVERY_SECOND}\nautovacuum = off")))
}

#[test]
fn a_new_fleet_is_refreshed_every_interval() {
    let (_, mut client) = fleet_in(every_second(), "found");
    let first = next_refresh(&mut client);
    client.batch_execute("insert into public.entries (host, status) values ('example.com', 200)").unwrap();
    refreshes(&mut client, 5);
    // The first may have begun late: a worker was started for it, on a machine that has other work.
    assert!(updated_at(&mut client).unwrap() >= first + 4_000_000, "more often than once a second");
    let total: i64 =
        value(&mut client, "select (snapshot -> 'total_entries')::int8 from public.service_stats");
    assert_eq!(total, 1);
}

#[test]
fn a_copy_of_a_database_is_found() {
    let (source, mut client) = fleet_in(every_second(), "original");
    next_refresh(&mut client);
    drop(client);
    let mut other = every_second().connect("postgres");
    harness::worker::nobody_connected(&mut other, &source);
    other.batch_execute(&format!("create database {source}_copy template {source}")).unwrap();
    let mut copy = every_second().connect(&format!("{source}_copy"));
    refreshes(&mut copy, 2);
}

#[test]
fn databases_that_are_not_for_use_are_left_alone() {
    let cluster = every_second();
    let (_, mut witness) = fleet_in(cluster, "witness");
    let changes = ["datistemplate = true", "datallowconn = false", "datconnlimit = -2"];
    let databases = changes.map(|change| {
        let (database, mut client) = fleet_in(cluster, "left_alone");
        next_refresh(&mut client);
        drop(client);
        let flag = format!("update pg_database set {change} where datname = '{database}'");
        witness.batch_execute(&flag).unwrap();
        database
    });
    // The launcher reads the list every few seconds; from then on nobody works there, or tries to.
    let mut before = traces(cluster, &mut witness);
    eventually("nobody works in any of them", || {
        refreshes(&mut witness, 3);
        let now = traces(cluster, &mut witness);
        (now == std::mem::replace(&mut before, now.clone())).then_some(())
    });
    witness
        .batch_execute(
            "update pg_database set datistemplate = false, datallowconn = true, datconnlimit = -1
              where datname like 'left_alone%'",
        )
        .unwrap();
    for database in databases {
        next_refresh(&mut cluster.connect(&database));
    }
}

/// The transactions in the databases that are to be left alone, and the connections that were refused.
fn traces(cluster: &Cluster, observer: &mut Client) -> (String, usize) {
    let transactions = value(
        observer,
        "select string_agg(concat_ws(' ', datname, xact_commit, xact_rollback), ', ' order by datname)
           from pg_stat_database where datname like 'left_alone%' or datname = 'template1'",
    );
    let refused = logged(cluster, "not currently accepting connections")
        + logged(cluster, "cannot connect to invalid database");
    (transactions, refused)
}

#[test]
fn detach_ends_it() {
    let (_, mut witness) = fleet_in(every_second(), "witness");
    let (_, mut client) = fleet_in(every_second(), "detached");
    next_refresh(&mut client);
    client.batch_execute("select busymate_stats.detach()").unwrap();
    refreshes(&mut witness, 3);
    assert_eq!(updated_at(&mut client), None);
    client.batch_execute("select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
    refreshes(&mut client, 2);
}

#[test]
fn a_dropped_extension_that_comes_back_is_found_again() {
    let cluster = every_second();
    let (database, mut client) = fleet_in(cluster, "dropped");
    let (_, mut witness) = fleet_in(cluster, "witness");
    next_refresh(&mut client);

    client.batch_execute("begin; drop extension busymate_stats").unwrap();
    // Workers come while the locks of DROP EXTENSION are held.
    refreshes(&mut witness, 3);
    client.batch_execute("rollback").unwrap();
    refreshes(&mut client, 2);

    client.batch_execute("drop extension busymate_stats").unwrap();
    refreshes(&mut witness, 3);
    client.batch_execute("begin; create extension busymate_stats").unwrap();
    refreshes(&mut witness, 2);
    client.batch_execute("rollback").unwrap();
    client
        .batch_execute(
            "create extension busymate_stats;
             select busymate_stats.attach('public.entries', 'public.devices')",
        )
        .unwrap();
    refreshes(&mut client, 2);

    // A worker that met the drop half-way would have complained.
    let complaints: Vec<_> = cluster
        .log()
        .lines()
        .filter(|line| line.contains("busymate_stats could not") || line.contains("does not exist"))
        .map(str::to_owned)
        .collect();
    assert!(complaints.is_empty(), "{database}: {complaints:?}");
}

/// With an hour's interval, whatever is refreshed was found or announced.
#[test]
fn what_is_new_is_refreshed_at_once_and_the_interval_is_live() {
    let cluster = Cluster::start("busymate_stats.refresh_interval = 1h");
    let (database, mut client) = fleet_in(&cluster, "hourly");
    // There is no row but one that was refreshed since, perhaps before anybody could look.
    eventually("what is new is refreshed", || updated_at(&mut client));
    client.batch_execute("select busymate_stats.detach()").unwrap();
    client.batch_execute("select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
    eventually("what is attached is refreshed", || updated_at(&mut client));
    // A database that is copied has the row already, an older one.
    let before = updated_at(&mut client);
    drop(client);
    let mut other = cluster.connect("postgres");
    harness::worker::nobody_connected(&mut other, &database);
    other.batch_execute(&format!("create database copied template {database}")).unwrap();
    let mut copied = cluster.connect("copied");
    eventually("the copy is refreshed", || (updated_at(&mut copied) != before).then_some(()));

    let set = |interval: &str| {
        cluster.configure(&format!("busymate_stats.refresh_interval = {interval}"));
        cluster.reload();
    };
    let overdue = |client: &mut Client| {
        eventually("three intervals have passed without a refresh", || {
            let query =
                "select clock_timestamp() - updated_at > interval '3 seconds' from public.service_stats";
            value::<bool>(client, query).then_some(())
        });
    };
    set("1s");
    refreshes(&mut copied, 3);
    set("0");
    overdue(&mut copied);
    // Off is off for the new as well, and nothing is forgotten.
    let (_, mut late) = fleet_in(&cluster, "late");
    assert_eq!(updated_at(&mut late), None);
    set("1s");
    refreshes(&mut copied, 2);
    refreshes(&mut late, 2);
}
