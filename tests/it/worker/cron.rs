//! Without preload, the real pg_cron refreshes the feed.

use harness::worker::updated_at;
use harness::{Cluster, eventually_within, value};
use std::time::Duration;

#[test]
fn pg_cron_refreshes_where_the_library_is_not_preloaded() {
    // Through background workers, or pg_cron would look for the server on TCP.
    let cluster = Cluster::start("shared_preload_libraries = 'pg_cron'\ncron.use_background_workers = on");
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "create extension pg_cron; create extension busymate_stats;
             select busymate_stats.create_fleet_tables();
             select cron.schedule('* * * * *', 'select busymate_stats.refresh_stats()')",
        )
        .unwrap();
    let preloaded: bool =
        value(&mut client, "select preloaded from busymate_stats.health where feed = 'stats'");
    assert!(!preloaded);
    // Its finest schedule is a minute.
    eventually_within(Duration::from_secs(130), "pg_cron refreshes", || updated_at(&mut client));
}
