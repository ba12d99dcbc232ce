//! Dumping and restoring databases of a cluster.

use super::{Cluster, Server, run};
use std::path::PathBuf;

/// A plain dump. What `pg_dump` draws at random for each is left out.
#[track_caller]
pub fn plain(cluster: &Cluster, database: &str) -> String {
    let dump = run(cluster.client_program("pg_dump").arg(database));
    let fixed = |line: &&str| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ");
    dump.lines().filter(fixed).collect::<Vec<_>>().join("\n") + "\n"
}

/// Runs a plain dump in a database, in one transaction, up to its first error.
#[track_caller]
pub fn restore_plain(cluster: &Cluster, dump: &str, database: &str) {
    let file = file(cluster, database, "sql");
    std::fs::write(&file, dump).unwrap();
    run(cluster
        .client_program("psql")
        .args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", database, "-f"])
        .arg(&file));
    std::fs::remove_file(file).unwrap();
}

/// Copies a database into another, which is empty, by a dump in custom format.
#[track_caller]
pub fn copy_custom(cluster: &Cluster, from: &str, to: &str) {
    let file = file(cluster, from, "dump");
    run(cluster.client_program("pg_dump").args(["-Fc", "-d", from, "-f"]).arg(&file));
    run(cluster.client_program("pg_restore").args(["-e", "-d", to]).arg(&file));
    std::fs::remove_file(file).unwrap();
}

fn file(cluster: &Cluster, database: &str, suffix: &str) -> PathBuf {
    cluster.socket_directory().join(format!("{database}.{suffix}"))
}

/// The tables of a publication that are still in it after a dump by this server's pg_dump and a restore: before PostgreSQL 18
/// it leaves out those of an extension.
pub fn members_kept(server: &Server, members: &[String]) -> Vec<String> {
    let is_kept = |table: &String| server.major >= 18 || !table.contains("service_");
    members.iter().filter(|table| is_kept(table)).cloned().collect()
}
