//! Promise: where the library and the extension differ in version, reading goes on, and what writes says what to do.

mod harness;

use harness::fleet::fleet;
use harness::{as_caller, refusal, value};
use serde_json::Value;

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
