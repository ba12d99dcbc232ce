//! Promise: where the library and the extension differ in version, reading goes on, and what writes says what to do.

use harness::fleet::fleet;
use harness::postgrest::PostgRest;
use harness::upgrade::is_as_new;
use harness::worker::{EVERY_SECOND, fleet_in, logged, next_refresh, updated_at};
use harness::{
    CHECKOUT, Cluster, SUPABASE_ROLES, as_caller, eventually, refusal, run, server_command, shared, value,
};
use serde_json::Value;
use std::path::PathBuf;

#[test]
fn the_version_is_the_crates() {
    let (_, mut client) = fleet("version");
    assert_eq!(value::<String>(&mut client, "select busymate_stats.version()"), env!("CARGO_PKG_VERSION"));
    let extension: String =
        value(&mut client, "select extversion from pg_extension where extname = 'busymate_stats'");
    assert_eq!(extension, env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_difference_stops_writers_and_no_reader() {
    let (_, mut client) = fleet("differs");
    client
        .batch_execute(
            "insert into public.entries (host) values ('a.example');
             select busymate_stats.refresh_stats();
             insert into public.service_status (snapshot) values ('{}');
             select busymate_stats.grant_api(); select busymate_stats.assign_role('v', 'viewer');
             create publication p;
             update pg_extension set extversion = '0.0.9' where extname = 'busymate_stats'",
        )
        .unwrap();
    let writers = [
        "select busymate_stats.refresh_stats()",
        "select busymate_stats.attach('public.entries', 'public.devices')",
        "select busymate_stats.detach()",
        "select busymate_stats.create_fleet_tables()",
        "select busymate_stats.publish('p')",
    ];
    for writer in writers {
        let refused = refusal(&mut client, writer);
        assert_eq!(
            (refused.code.as_str(), refused.message.as_str()),
            ("55000", "the busymate_stats library and extension differ in version"),
            "{writer}"
        );
        let library = env!("CARGO_PKG_VERSION");
        assert_eq!(
            refused.detail,
            format!("The library is {library}, the extension in this database is 0.0.9.")
        );
        assert!(refused.hint.contains("ALTER EXTENSION busymate_stats UPDATE"), "{refused:?}");
        assert!(refused.hint.contains("restart the server"), "{refused:?}");
    }
    for (role, claims) in [("postgres", None), ("authenticated", Some(r#"{"sub":"v"}"#))] {
        as_caller(&mut client, role, claims, |client| {
            let stats: Value = value(client, "select public.get_stats()");
            assert_eq!(stats["total_entries"], 1);
            assert!(value::<bool>(client, "select public.has_capability('stats', 'view')"));
            for feed in ["service_stats", "service_status"] {
                assert_eq!(value::<i64>(client, &format!("select count(*) from public.{feed}")), 1);
            }
        });
    }
    // Who may read what can still be changed: a revoke must never wait for an upgrade.
    client.batch_execute("select busymate_stats.unassign_role('v', 'viewer')").unwrap();
    client
        .batch_execute(&format!(
            "update pg_extension set extversion = '{}' where extname = 'busymate_stats';
             select busymate_stats.refresh_stats(); select busymate_stats.detach()",
            env!("CARGO_PKG_VERSION")
        ))
        .unwrap();
}

/// Scripts of a version that never was, in the staged server for as long as this lives.
struct MadeUp(Vec<PathBuf>);

impl MadeUp {
    fn scripts(scripts: &[(&str, &str)]) -> Self {
        let share = run(server_command("pg_config").arg("--sharedir"));
        let folder = PathBuf::from(share.trim()).join("extension");
        let path = |steps: &str| folder.join(format!("busymate_stats--{steps}.sql"));
        let made = scripts.iter().map(|(steps, script)| {
            std::fs::write(path(steps), script).unwrap();
            path(steps)
        });
        Self(made.collect())
    }
}

impl Drop for MadeUp {
    fn drop(&mut self) {
        for script in &self.0 {
            let _ = std::fs::remove_file(script);
        }
    }
}

/// The library was replaced first, as it is in an upgrade: the extension in the database is the older one until ALTER
/// EXTENSION.
#[test]
fn an_upgrade_by_alter_extension() {
    let current = env!("CARGO_PKG_VERSION");
    let (back, forth) = (format!("{current}--0.0.9"), format!("0.0.9--{current}"));
    let _made_up = MadeUp::scripts(&[
        (
            &back,
            "drop function busymate_stats.version();
             drop policy revoked_tokens_delete on busymate_stats.revoked_tokens;
             alter table busymate_stats.components drop column position;",
        ),
        (
            &forth,
            &format!(
                "alter table busymate_stats.components add column position int not null default 0;
                 {}; {}; {};
                 revoke all on function busymate_stats.version() from public;
                 notify pgrst, 'reload schema';",
                as_installed("busymate_stats.version()"),
                as_installed("policy revoked_tokens_delete"),
                as_installed("busymate_stats.components.position")
            ),
        ),
    ]);
    let cluster = Cluster::start(EVERY_SECOND);
    cluster.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
    let (database, mut client) = fleet_in(&cluster, "upgraded");
    next_refresh(&mut client);
    client.batch_execute("alter extension busymate_stats update to '0.0.9'").unwrap();
    let postgrest = PostgRest::start(&cluster, &database, 1);

    eventually("the worker says so", || {
        (logged(&cluster, "has another version than the library") == 1).then_some(())
    });
    assert_eq!(refusal(&mut client, "select busymate_stats.refresh_stats()").code, "55000");
    let differ = "select detail -> 'versions_differ' from busymate_stats.health where feed = 'stats'";
    assert_eq!(value::<Value>(&mut client, differ), true);
    let stands = updated_at(&mut client);
    client.batch_execute("select public.get_stats()").unwrap();

    client.batch_execute("begin; alter extension busymate_stats update; rollback").unwrap();
    assert!(!postgrest.reload_if_told(), "rolled back");
    assert_eq!(updated_at(&mut client), stands, "not refreshed meanwhile");
    client.batch_execute("alter extension busymate_stats update").unwrap();
    assert!(postgrest.reload_if_told(), "updated");
    assert_eq!(value::<String>(&mut client, "select busymate_stats.version()"), current);
    assert_eq!(value::<Value>(&mut client, differ), false);
    next_refresh(&mut client);
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    is_as_new(&cluster, &mut client);
}

/// The statements of this version's install script that name something.
fn as_installed(name: &str) -> String {
    let script = format!("{CHECKOUT}/sql/busymate_stats--{}.sql", env!("CARGO_PKG_VERSION"));
    let script = std::fs::read_to_string(script).unwrap();
    let statements: Vec<_> = script.split(";\n").filter(|statement| statement.contains(name)).collect();
    assert!(!statements.is_empty(), "{name}");
    statements.join(";\n")
}

/// Whoever has installed a release and updates has what this version installs. (None is released yet.)
#[test]
fn every_release_becomes_this_version() {
    let list = std::fs::read_to_string(format!("{CHECKOUT}/sql/released.sha256")).unwrap();
    let scripts = list.lines().filter_map(|line| line.split_once("  busymate_stats--"));
    for (_, script) in scripts.filter(|(sum, script)| !sum.starts_with('#') && !script.contains("--")) {
        let release = script.trim_end_matches(".sql");
        let cluster = shared();
        let database = cluster.create_database("released");
        let mut client = cluster.connect(&database);
        client
            .batch_execute(&format!(
                "create extension busymate_stats version '{release}'; alter extension busymate_stats update"
            ))
            .unwrap();
        is_as_new(cluster, &mut client);
    }
}
