//! A row that is written for ever leaves no bloat: its updates are HOT and counted, and autovacuum comes.

use harness::worker::{EVERY_SECOND, fleet_in, next_refresh};
use harness::{Cluster, eventually, value};

#[test]
fn the_workers_updates_are_counted_and_hot() {
    let cluster = Cluster::start(EVERY_SECOND);
    let (_, mut client) = fleet_in(&cluster, "counted");
    for table in ["public.service_stats", "busymate_stats_internal.feed_health"] {
        eventually("the worker's updates are counted, and most are HOT", || {
            client.batch_execute("select pg_stat_clear_snapshot()").unwrap();
            let query = format!(
                "select n_tup_upd >= 5 and n_tup_hot_upd * 2 > n_tup_upd from pg_stat_user_tables
                  where relid = '{table}'::regclass"
            );
            value::<bool>(&mut client, &query).then_some(())
        });
    }
}

#[test]
fn autovacuum_comes_and_the_table_stays_small() {
    let cluster = Cluster::start("autovacuum_naptime = 1s");
    let (_, mut client) = fleet_in(&cluster, "vacuumed");
    next_refresh(&mut client);
    for _ in 0..3000 {
        client.execute("select busymate_stats.refresh_stats()", &[]).unwrap();
    }
    for table in ["public.service_stats", "busymate_stats_internal.feed_health"] {
        let pages: i64 = value(
            &mut client,
            &format!("select pg_relation_size('{table}') / current_setting('block_size')::int"),
        );
        assert!(pages <= 8, "{table} has {pages} pages after 3000 updates of one row");
    }
    eventually("autovacuum comes", || {
        // HOT pruning leaves it too little to do, so a few dead rows are made of another kind.
        client
            .batch_execute(
                "delete from public.service_stats;
                 select busymate_stats.refresh_stats(); select pg_stat_clear_snapshot()",
            )
            .unwrap();
        let query = "select autovacuum_count > 0 from pg_stat_user_tables where relid = 'public.service_stats'::regclass";
        value::<bool>(&mut client, query).then_some(())
    });
}
