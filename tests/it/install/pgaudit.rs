//! Promise: beside pgaudit, the setting that docs/operating.md shows keeps the worker's own statements out of the log, and
//! nobody else's.

use harness::Cluster;
use harness::worker::{fleet_in, refreshes};

/// Lines of the log that pgaudit has written and that contain `text`.
fn audited(cluster: &Cluster, text: &str) -> usize {
    cluster.log().lines().filter(|line| line.contains("AUDIT: ") && line.contains(text)).count()
}

#[test]
fn the_workers_statements_can_be_left_out_of_the_audit() {
    let cluster = Cluster::start(
        "shared_preload_libraries = 'busymate_stats, pgaudit'\npgaudit.log = 'read, write, ddl, role, misc'\n\
         busymate_stats.refresh_interval = '1s'\nbusymate_stats.seal_interval = '1s'\nbusymate_stats.status_interval = 0",
    );
    let (database, mut client) = fleet_in(&cluster, "audited");
    refreshes(&mut client, 2);
    assert!(audited(&cluster, "insert into public.service_stats") > 0, "pgaudit is at work");
    let operating = std::fs::read_to_string(format!("{}/docs/operating.md", harness::CHECKOUT)).unwrap();
    let block = operating.split("```sql pgaudit\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(block.contains("in database app set"), "{block}");
    let setting = block.replace("in database app set", &format!("in database {database} set"));
    client.batch_execute(&format!("create role auditee superuser login; {setting}")).unwrap();
    // What ran when the setting was made may still end.
    refreshes(&mut client, 2);
    let before = audited(&cluster, "insert into public.service_stats");
    refreshes(&mut client, 3);
    assert_eq!(audited(&cluster, "insert into public.service_stats"), before);
    let mut other = cluster.connect_as("auditee", &database);
    other.batch_execute("select 'audited as ever'").unwrap();
    assert_eq!(audited(&cluster, "audited as ever"), 1);
}
