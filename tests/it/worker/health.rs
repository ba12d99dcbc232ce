//! `health` has the columns that dashboards are built on, shows what is the matter, and only to those it is for.

use harness::worker::{EVERY_SECOND, fleet_in, health, refreshes, updated_at};
use harness::{Cluster, as_caller, eventually, installed, run, value};
use postgres::Client;

#[test]
fn its_columns_and_rows() {
    let (_, mut client) = installed("columns");
    let columns: String = value(
        &mut client,
        "select string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum)
           from pg_attribute where attrelid = 'busymate_stats.health'::regclass and attnum > 0",
    );
    assert_eq!(
        columns,
        "feed text, last_refresh timestamp with time zone, age interval, duration interval, last_error text, \
         stale boolean, preloaded boolean, worker_running boolean, detail jsonb"
    );
    let feeds: Vec<String> =
        value(&mut client, "select array_agg(feed order by feed) from busymate_stats.health");
    assert_eq!(feeds, ["seal", "stats", "status"]);
}

#[test]
fn who_sees_it() {
    let (_, mut client) = installed("readers");
    client
        .batch_execute(
            "create role health_monitor in role pg_monitor; create role health_nobody;
             grant usage on schema busymate_stats to authenticated, health_monitor, health_nobody;
             grant select on busymate_stats.health to authenticated, health_monitor, health_nobody;
             insert into busymate_stats.roles (name)
                values ('stats_reader'), ('status_reader'), ('other_reader');
             select busymate_stats.grant_capability('stats_reader', 'stats:view');
             select busymate_stats.grant_capability('status_reader', 'status:view');
             select busymate_stats.grant_capability('other_reader', 'roles:view');
             select busymate_stats.assign_role('s', 'stats_reader');
             select busymate_stats.assign_role('t', 'status_reader');
             select busymate_stats.assign_role('o', 'other_reader');",
        )
        .unwrap();
    for (role, claims, rows) in [
        ("authenticated", Some(r#"{"sub":"s"}"#), 3),
        ("authenticated", Some(r#"{"sub":"t"}"#), 3),
        ("authenticated", Some(r#"{"sub":"o"}"#), 0),
        ("authenticated", Some(r#"{"sub":"unknown"}"#), 0),
        ("authenticated", Some("garbage"), 0),
        ("authenticated", None, 0),
        ("health_monitor", None, 3),
        ("health_nobody", None, 0),
    ] {
        let seen: i64 = as_caller(&mut client, role, claims, |client| {
            value(client, "select count(*) from busymate_stats.health")
        });
        assert_eq!(seen, rows, "{role} {claims:?}");
    }
}

#[test]
fn stale_after_three_intervals() {
    let cluster = Cluster::start("");
    let (_, mut client) = fleet_in(&cluster, "stale");
    let stale = |client: &mut Client, age: &str| {
        let update = format!(
            "update busymate_stats_internal.feed_health set last_refresh = clock_timestamp() - interval '{age}'"
        );
        client.batch_execute(&format!("begin; {update}")).unwrap();
        let stale = health(client, "stale").unwrap();
        client.batch_execute("rollback").unwrap();
        stale
    };
    // The first one may have come already; the next is a minute away.
    eventually("service_stats is written", || updated_at(&mut client));
    assert_eq!(health(&mut client, "stale").unwrap(), "false");
    assert_eq!(stale(&mut client, "170 seconds"), "false");
    assert_eq!(stale(&mut client, "181 seconds"), "true");
    // Nothing to refresh is nothing stale.
    client.batch_execute("select busymate_stats.detach()").unwrap();
    assert_eq!(stale(&mut client, "1 day"), "false");
    assert_eq!(health(&mut client, "detail -> 'attached'").unwrap(), "false");
}

#[test]
fn without_preload_it_says_so_and_a_refresh_by_hand_works() {
    let cluster = Cluster::start("shared_preload_libraries = ''");
    let database = cluster.create_database("by_hand");
    let output = cluster
        .client_program("psql")
        .args(["-X", "-d", &database, "-c", "create extension busymate_stats"])
        .output()
        .unwrap();
    let notices = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && notices.contains("is not in shared_preload_libraries"), "{notices}");
    assert!(notices.contains("HINT:  Add it to shared_preload_libraries and restart"), "{notices}");
    let mut client = cluster.connect(&database);
    client.batch_execute("select busymate_stats.create_fleet_tables()").unwrap();
    assert_eq!(health(&mut client, "preloaded").unwrap(), "false");
    assert_eq!(health(&mut client, "worker_running").unwrap(), "false");
    assert_eq!(health(&mut client, "stale").unwrap(), "true");
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(health(&mut client, "stale").unwrap(), "false");
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_stats"), 1);
}

fn members(client: &mut Client) -> i64 {
    value(client, "select count(*) from pg_publication_tables where tablename like 'service_%'")
}

/// `source` dumped and restored as a new database.
fn restored(cluster: &Cluster, source: &str) -> (String, Client) {
    let dump = run(cluster.client_program("pg_dump").arg(source));
    let target = cluster.create_database("restored");
    let file = cluster.socket_directory().join(&target);
    std::fs::write(&file, dump).unwrap();
    run(cluster
        .client_program("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &target, "-f"])
        .arg(file));
    let mut client = cluster.connect(&target);
    // PostgreSQL 15's pg_dump loses the membership of an extension's tables, 18's keeps it.
    if members(&mut client) > 0 {
        client
            .batch_execute("alter publication live drop table public.service_stats, public.service_status")
            .unwrap();
    }
    (target, client)
}

#[test]
fn a_refresh_restores_what_a_dump_lost_of_a_publication() {
    // A status tick would restore it as well.
    let cluster = Cluster::start(harness::NO_WORKER);
    let (database, mut client) = fleet_in(&cluster, "published");
    client.batch_execute("select busymate_stats.publish('live', create_missing => true)").unwrap();
    assert_eq!(members(&mut client), 2);
    let incomplete = "detail -> 'publications_incomplete'";
    assert_eq!(health(&mut client, incomplete).unwrap(), "[]");

    let (_, mut by_hand) = restored(&cluster, &database);
    assert_eq!(
        (members(&mut by_hand), health(&mut by_hand, incomplete).unwrap().as_str()),
        (0, "[\"live\"]")
    );
    by_hand.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_eq!((members(&mut by_hand), health(&mut by_hand, incomplete).unwrap().as_str()), (2, "[]"));

    let (_, mut by_worker) = restored(&cluster, &database);
    assert_eq!(members(&mut by_worker), 0);
    cluster.configure(EVERY_SECOND);
    cluster.reload();
    eventually("the worker restores it", || (members(&mut by_worker) == 2).then_some(()));

    by_worker.batch_execute("drop publication live").unwrap();
    refreshes(&mut by_worker, 2);
    assert_eq!(health(&mut by_worker, "last_error"), None);
}
