//! On a standby nothing of ours runs, and everything reads; after its promotion the refresh goes on by itself.

use harness::worker::{EVERY_SECOND, fleet_in, launcher, next_refresh, refreshes, updated_at, workers};
use harness::{Cluster, eventually, value};

#[test]
fn a_standby_reads_and_a_promoted_one_refreshes() {
    let primary = Cluster::start(EVERY_SECOND);
    let (database, mut client) = fleet_in(&primary, "standby");
    client.batch_execute("insert into public.entries (host, status) values ('example.com', 200)").unwrap();
    refreshes(&mut client, 2);
    let standby = primary.standby();
    let mut reader = standby.connect(&database);
    // What the primary refreshes arrives, while nothing of ours runs here.
    refreshes(&mut reader, 2);
    assert_eq!(launcher(&mut reader), None);
    assert_eq!(workers(&mut reader), 0);
    let total: i64 = value(&mut reader, "select (public.get_stats() -> 'total_entries')::int8");
    assert_eq!(total, 1);
    let running = harness::worker::health(&mut reader, "worker_running");
    assert_eq!(running.as_deref(), Some("false"));
    assert!(updated_at(&mut reader).is_some());

    primary.stop("immediate");
    standby.promote();
    eventually("a launcher runs", || launcher(&mut reader));
    next_refresh(&mut reader);
    refreshes(&mut reader, 2);
}
