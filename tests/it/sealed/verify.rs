//! `verify()` tells a figure that is not what the plain query gives, and no other: both are computed under one snapshot.

use harness::worker::wait_for_seal;
use harness::{Cluster, value};
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};

fn sealed(cluster: &Cluster) -> (String, Client) {
    let database = cluster.create_database("verified");
    let mut client = cluster.connect(&database);
    client
        .batch_execute(
            "create extension busymate_stats; select busymate_stats.create_fleet_tables();
             insert into public.entries (created_at, host, status, source)
             select now() - n * interval '1 min', 'h' || n % 5, 200, 'vpn' from generate_series(1, 300) n",
        )
        .unwrap();
    wait_for_seal(&mut client);
    (database, client)
}

fn verify(client: &mut Client) -> Vec<String> {
    let sql = "select format('%s: %s, %s', figure, incremental, recomputed) from busymate_stats.verify() order by 1";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_tampered_figure_is_told() {
    let cluster = Cluster::start("busymate_stats.seal_interval = '1s'");
    let (_, mut client) = sealed(&cluster);
    assert_eq!(verify(&mut client), [""; 0]);
    // No tick makes it good meanwhile.
    client
        .batch_execute("begin; lock table busymate_stats_internal.seal_state in share update exclusive mode")
        .unwrap();
    client.batch_execute("update busymate_stats_internal.seal_state set total = total + 1").unwrap();
    assert_eq!(verify(&mut client), ["total_entries: 301, 300"]);
    client
        .batch_execute(
            "update busymate_stats_internal.seal_state set last_hour = last_hour - 2, total = total - 1",
        )
        .unwrap();
    let told = verify(&mut client);
    assert!(told.iter().any(|figure| figure.starts_with("entries_1h: ")), "{told:?}");
    assert!(!told.iter().any(|figure| figure.starts_with("total_entries: ")), "{told:?}");
    client.batch_execute("rollback").unwrap();
    assert_eq!(verify(&mut client), [""; 0]);
}

#[test]
fn what_is_written_meanwhile_is_no_difference() {
    let cluster = Cluster::start("busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '100ms'");
    let (database, mut client) = sealed(&cluster);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = cluster.connect(&database);
            while !over.load(Ordering::Relaxed) {
                writer
                    .batch_execute(
                        "insert into public.entries (host) values ('now');
                         insert into public.entries (created_at, host) values (now() - interval '30 min', 'late');
                         delete from public.entries where id in (select id from public.entries limit 1)",
                    )
                    .unwrap();
            }
        });
        let before: i64 = value(&mut client, "select count(*) from public.entries");
        for _ in 0..200 {
            let told = verify(&mut client);
            if !told.is_empty() {
                over.store(true, Ordering::Relaxed);
            }
            assert_eq!(told, [""; 0]);
        }
        let after: i64 = value(&mut client, "select count(*) from public.entries");
        over.store(true, Ordering::Relaxed);
        assert!(after > before);
    });
}
