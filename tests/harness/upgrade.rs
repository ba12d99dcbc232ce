//! Upgrading a cluster to another major version, by pg_upgrade.

use super::catalog::definitions;
use super::{CHECKOUT, Cluster, Server, value};
use postgres::Client;
use std::fs;
use std::path::{Path, PathBuf};

/// Clusters of an upgrade agree in this, whatever their servers' initdb prefers.
pub const INITDB: [&str; 1] = ["--data-checksums"];

/// Upgrades a stopped cluster into a new one of `server`, which is not started.
#[track_caller]
pub fn upgrade(old: &Cluster, server: &Server, settings: &str) -> Cluster {
    let new = Cluster::initialize(server, settings, &INITDB);
    for check in [true, false] {
        let mut command = server.command("pg_upgrade");
        command.arg("-b").arg(old.server().bin()).arg("-B").arg(server.bin());
        command.arg("-d").arg(old.data()).arg("-D").arg(new.data());
        command.arg("--socketdir").arg(new.socket_directory()).args(["-U", "postgres", "--no-sync"]);
        // It writes where it is called.
        command.current_dir(new.socket_directory());
        if check {
            command.arg("--check");
        }
        let output = command.output().unwrap();
        if !output.status.success() {
            let logs = logs_below(&new.data().join("pg_upgrade_output.d"));
            panic!("{command:?} failed\n{}{logs}", String::from_utf8_lossy(&output.stdout));
        }
    }
    new
}

fn logs_below(directory: &Path) -> String {
    let mut found = String::new();
    let mut directories: Vec<PathBuf> = vec![directory.into()];
    while let Some(entries) = directories.pop().and_then(|directory| fs::read_dir(directory).ok()) {
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log" || extension == "txt") {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                let lines: Vec<_> = text.lines().collect();
                found +=
                    &format!("{}:\n{}\n", path.display(), lines[lines.len().saturating_sub(15)..].join("\n"));
            }
        }
    }
    found
}

/// Whether a server notes a version in the options of every column, as some minor releases do.
pub fn has_column_versions(client: &mut Client) -> bool {
    client.batch_execute("create temporary table noted (a int)").unwrap();
    value(
        client,
        "select coalesce(attoptions::text, '') like '%pg_attver=%' from pg_attribute
          where attrelid = 'noted'::regclass and attname = 'a'",
    )
}

/// The statements that docs/operating.md shows under a heading.
pub fn shown_under(heading: &str) -> String {
    let operating = fs::read_to_string(format!("{CHECKOUT}/docs/operating.md")).unwrap();
    let after = operating.split(&format!("\n### {heading}\n")).nth(1).unwrap_or_else(|| panic!("{heading}"));
    after.split("```sql\n").nth(1).unwrap().split("```").next().unwrap().into()
}

/// The extension in a database, however it came to be what it is, is what CREATE EXTENSION makes there.
#[track_caller]
pub fn is_as_new(cluster: &Cluster, client: &mut Client) {
    let database = cluster.create_database("fresh");
    let mut fresh = cluster.connect(&database);
    fresh.batch_execute("create extension busymate_stats").unwrap();
    let (expected, found) = (definitions(&mut fresh), definitions(client));
    let difference = |of: &[String], from: &[String]| -> Vec<String> {
        of.iter().filter(|line| !from.contains(line)).cloned().collect()
    };
    assert_eq!(difference(&found, &expected), difference(&expected, &found));
    drop(fresh);
    cluster.connect("postgres").batch_execute(&format!("drop database {database} with (force)")).unwrap();
}
