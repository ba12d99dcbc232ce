//! The server that is measured: the staged one, with settings that a production server of this size would have.

use crate::machine;
use harness::{Cluster, SUPABASE_ROLES};
use postgres::Client;

/// The user whose token the readers show.
const CLAIMS: &str = r#"{"sub":"bench","role":"authenticated","aud":"authenticated","exp":4102444800}"#;

/// A quarter of the memory, 1 to 4 GiB.
pub fn shared_buffers_mb() -> u64 {
    (machine::memory_mb() / 4).clamp(1024, 4096)
}

/// What differs from PostgreSQL's defaults. The harness turns fsync off for tests: here it is on.
pub fn settings() -> Vec<String> {
    vec![
        "fsync = on".into(),
        format!("shared_buffers = {}MB", shared_buffers_mb()),
        format!("effective_cache_size = {}MB", machine::memory_mb() * 3 / 4),
        "max_wal_size = 8GB".into(),
        "checkpoint_timeout = 30min".into(),
        "maintenance_work_mem = 256MB".into(),
        "work_mem = 32MB".into(),
        "random_page_cost = 1.1".into(),
        "log_min_messages = warning".into(),
        // Each is measured by itself, or disturbs.
        "busymate_stats.status_interval = 0".into(),
        "busymate_stats.verify_interval = 0".into(),
    ]
}

/// A running cluster.
pub fn start() -> Cluster {
    let cluster = Cluster::start(&settings().join("\n"));
    cluster.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
    cluster
}

/// A reader as PostgREST is one: `authenticated`, with a viewer's token.
pub fn reader(cluster: &Cluster, database: &str) -> Client {
    let mut client = cluster.connect(database);
    client.batch_execute(&format!("set request.jwt.claims = '{CLAIMS}'; set role authenticated")).unwrap();
    client
}

/// Lets that reader in.
pub fn let_reader_in(client: &mut Client) {
    client
        .batch_execute(
            "select busymate_stats.grant_api('authenticated'); select busymate_stats.assign_role('bench', 'viewer')",
        )
        .unwrap();
}

/// Changes settings of the running server.
pub fn set(cluster: &Cluster, settings: &[(&str, &str)]) {
    let mut client = cluster.connect("postgres");
    for (name, value) in settings {
        client.batch_execute(&format!("alter system set {name} = {value}")).unwrap();
    }
    client.batch_execute("select pg_reload_conf()").unwrap();
}
