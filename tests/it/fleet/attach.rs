//! Promise: what is wrong with a relation is told, with a code, the column and relation, and a statement that mends it.

use harness::{Refusal, installed, refusal, value};
use postgres::Client;

const ATTACH: &str = "select busymate_stats.attach('public.entries', 'public.devices')";

const TABLES: &str = "
    create table public.entries (created_at timestamptz not null, host text, status int, source text, device_uuid uuid);
    create index entries_time on public.entries (created_at);
    create table public.devices (device_uuid uuid, name text, connection_type text, last_seen_at timestamptz);
";

fn tables(prefix: &str) -> (String, Client) {
    let (database, mut client) = installed(prefix);
    client.batch_execute(TABLES).unwrap();
    (database, client)
}

/// The statement that a hint names: what stands between `Run` and what else one might do.
#[track_caller]
fn statement(refused: &Refusal) -> String {
    let hint = refused.hint.strip_prefix("Run ").unwrap_or_else(|| panic!("no statement: {refused:?}"));
    let end = hint.find(", or name another column").unwrap_or(hint.len());
    hint[..end].trim_end_matches('.').trim_end_matches(" first").to_owned()
}

/// Attaching fails so; the hint's statement, run as it stands, mends it.
#[track_caller]
fn refused_and_mended(client: &mut Client, code: &str, message: &str) {
    let refused = refusal(client, ATTACH);
    assert_eq!((refused.code.as_str(), refused.message.as_str()), (code, message));
    client.batch_execute(&statement(&refused)).unwrap();
    client.batch_execute(ATTACH).unwrap();
    client.batch_execute("select public.get_stats()").unwrap();
}

#[test]
fn missing_columns() {
    let columns = [
        ("entries", "host", "host"),
        ("entries", "status", "status"),
        ("entries", "source", "source"),
        ("entries", "device_uuid", "entry_device"),
        ("devices", "device_uuid", "device_key"),
        ("devices", "name", "device_name"),
        ("devices", "connection_type", "connection_type"),
        ("devices", "last_seen_at", "last_seen"),
    ];
    for (relation, column, argument) in columns {
        let (_, mut client) = tables("missing");
        client.batch_execute(&format!("alter table public.{relation} drop {column}")).unwrap();
        let refused = refusal(&mut client, ATTACH);
        assert!(
            refused.hint.ends_with(&format!("or name another column: attach(…, {argument} => '…').")),
            "{refused:?}"
        );
        refused_and_mended(
            &mut client,
            "42703",
            &format!("column \"{column}\" of relation public.{relation} does not exist"),
        );
    }
}

#[test]
fn named_columns_that_are_not_there() {
    let (_, mut client) = tables("named");
    for (argument, relation) in [("entry_time", "entries"), ("online", "devices"), ("last_seen", "devices")] {
        for column in ["xmin", "tableoid", "Created_At", ""] {
            let refused = refusal(
                &mut client,
                &format!(
                    "select busymate_stats.attach('public.entries', 'public.devices', {argument} => '{column}')"
                ),
            );
            assert_eq!(refused.code, "42703");
            assert_eq!(
                refused.message,
                format!("column \"{column}\" of relation public.{relation} does not exist")
            );
        }
    }
}

/// From a table with nothing in it, every refusal says what to do next, and following that alone leads to the end.
#[test]
fn following_the_hints_leads_to_an_attached_fleet() {
    let (_, mut client) = installed("follow");
    client
        .batch_execute(
            r#"create schema "My fleet"; create table "My fleet"."Log; entries" (); create table "My fleet".devices ();"#,
        )
        .unwrap();
    let attach = r#"select busymate_stats.attach('"My fleet"."Log; entries"', '"My fleet".devices', entry_time => 'At "noon"')"#;
    let mut codes = Vec::new();
    while let Err(error) = client.batch_execute(attach) {
        let refused = harness::refusal_of(&error);
        assert!(refused.message.contains("\"My fleet\"."), "{refused:?}");
        client.batch_execute(&statement(&refused)).unwrap_or_else(|error| panic!("{refused:?}: {error:?}"));
        codes.push(refused.code);
        assert!(codes.len() < 20, "{codes:?}");
    }
    // Five columns, not null, an index; four columns.
    assert_eq!(codes, [vec!["42703"; 5], vec!["55000"; 2], vec!["42703"; 4]].concat());
    client.batch_execute("select public.get_stats()").unwrap();
}

#[test]
fn wrong_types() {
    let cases = [
        ("entries", "created_at", "timestamp", "timestamp without time zone", "entry_time", "timestamptz"),
        ("entries", "created_at", "date", "date", "entry_time", "timestamptz"),
        ("entries", "status", "text", "text", "status", "integer"),
        ("entries", "status", "numeric(5,1)", "numeric(5,1)", "status", "integer"),
        ("devices", "last_seen_at", "text", "text", "last_seen", "timestamptz"),
        ("devices", "last_seen_at", "public.day", "public.day", "last_seen", "timestamptz"),
    ];
    for (relation, column, given, shown, argument, wanted) in cases {
        let (_, mut client) = tables("wrong");
        client
            .batch_execute(&format!(
                "create domain public.day as date;
                 alter table public.{relation} drop {column}, add {column} {given};
                 create index on public.{relation} ({column});
                 alter table public.{relation} alter {column} set not null"
            ))
            .unwrap();
        refused_and_mended(
            &mut client,
            "42804",
            &format!(
                "column \"{column}\" of relation public.{relation} has type {shown}, and {argument} must be of type {wanted}"
            ),
        );
    }
}

#[test]
fn an_online_column_is_boolean() {
    let (_, mut client) = tables("online");
    client.batch_execute("alter table public.devices add here text default 'yes'").unwrap();
    client.batch_execute("insert into public.devices (name) values ('d')").unwrap();
    let attach = "select busymate_stats.attach('public.entries', 'public.devices', online => 'here')";
    let refused = refusal(&mut client, attach);
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        (
            "42804",
            "column \"here\" of relation public.devices has type text, and online must be of type boolean"
        )
    );
    client.batch_execute("alter table public.devices alter here drop default").unwrap();
    client.batch_execute(&statement(&refused)).unwrap();
    client.batch_execute(attach).unwrap();
    assert_eq!(value::<i64>(&mut client, "select (public.get_stats()->'online_devices')::bigint"), 1);
}

#[test]
fn an_entry_time_that_may_be_null() {
    let (_, mut client) = tables("nullable");
    client.batch_execute("alter table public.entries alter created_at drop not null").unwrap();
    refused_and_mended(&mut client, "55000", "column \"created_at\" of relation public.entries may be null");
}

#[test]
fn indexes_that_do_not_serve() {
    let useless = [
        "",
        "create index on public.entries (created_at) where status = 200",
        "create index on public.entries using hash (created_at)",
        "create index on public.entries using brin (created_at)",
        "create index on public.entries (host, created_at)",
        "create index on public.entries (host) include (created_at)",
        "create index on public.entries ((created_at + interval '0'))",
        "create index on public.entries ((status), created_at)",
        "create index on public.devices (last_seen_at)",
        // The index on the parent is invalid until every partition has its own.
        "drop table public.entries;
         create table public.entries (created_at timestamptz not null, host text, status int, source text, device_uuid uuid)
             partition by range (created_at);
         create table public.part partition of public.entries default;
         create index on only public.entries (created_at)",
        "drop table public.entries;
         create table public.entries (created_at timestamptz not null, host text, status int, source text, device_uuid uuid)
             partition by range (created_at);
         create table public.part partition of public.entries default;
         create index on public.part (created_at)",
    ];
    for index in useless {
        let (_, mut client) = tables("useless");
        client.batch_execute("drop index public.entries_time").unwrap();
        client
            .batch_execute(
                index.replace("created_at + interval '0'", "created_at at time zone 'UTC'").as_str(),
            )
            .unwrap();
        refused_and_mended(
            &mut client,
            "55000",
            "relation public.entries has no index led by column \"created_at\"",
        );
    }
}

#[test]
fn an_invalid_index_does_not_serve() {
    let (_, mut client) = tables("invalid");
    client
        .batch_execute(
            "drop index public.entries_time;
             insert into public.entries (created_at) select '2026-06-02 10:00:00+00' from generate_series(1, 2)",
        )
        .unwrap();
    let failed =
        refusal(&mut client, "create unique index concurrently left_behind on public.entries (created_at)");
    assert_eq!(failed.code, "23505");
    let left: bool = value(
        &mut client,
        "select not indisvalid from pg_index where indexrelid = 'public.left_behind'::regclass",
    );
    assert!(left, "the failed CREATE INDEX CONCURRENTLY leaves an invalid index");
    refused_and_mended(
        &mut client,
        "55000",
        "relation public.entries has no index led by column \"created_at\"",
    );
}

#[test]
fn indexes_that_serve() {
    for index in [
        "create index on public.entries (created_at desc nulls first)",
        "create index on public.entries (created_at, host) include (status)",
        "alter table public.entries add primary key (created_at)",
        "create unique index on public.entries (created_at, device_uuid)",
    ] {
        let (_, mut client) = tables("serve");
        client.batch_execute("drop index public.entries_time").unwrap();
        client.batch_execute(index).unwrap();
        client.batch_execute(ATTACH).unwrap_or_else(|error| panic!("{index}: {error:?}"));
    }
}

#[test]
fn a_second_attach() {
    let (_, mut client) = tables("second");
    client.batch_execute(ATTACH).unwrap();
    let refused = refusal(&mut client, ATTACH);
    assert_eq!(refused.detail, "Entries are read from public.entries, devices from public.devices.");
    refused_and_mended(&mut client, "55000", "a fleet is attached already");
}

#[test]
fn null_arguments() {
    let (_, mut client) = tables("null");
    for (arguments, name) in [("null, 'public.devices'", "entries"), ("'public.entries', null", "devices")] {
        let refused = refusal(&mut client, &format!("select busymate_stats.attach({arguments})"));
        assert_eq!(refused.code, "22004");
        assert_eq!(refused.message, format!("argument \"{name}\" must not be null"));
        assert!(refused.hint.contains("attach("), "{refused:?}");
    }
    for name in [
        "entry_time",
        "host",
        "status",
        "source",
        "entry_device",
        "device_key",
        "device_name",
        "connection_type",
        "last_seen",
    ] {
        let refused = refusal(
            &mut client,
            &format!("select busymate_stats.attach('public.entries', 'public.devices', {name} => null)"),
        );
        assert_eq!(
            (refused.code.as_str(), refused.message, refused.hint.as_str()),
            ("22004", format!("argument \"{name}\" must not be null"), "Leave it out to use its default.")
        );
    }
    client
        .batch_execute("select busymate_stats.attach('public.entries', 'public.devices', online => null)")
        .unwrap();
}

/// A refused attach leaves nothing behind.
#[test]
fn nothing_is_attached_by_a_refused_attach() {
    let (_, mut client) = tables("nothing");
    client.batch_execute("alter table public.devices drop name").unwrap();
    refusal(&mut client, ATTACH);
    assert_eq!(value::<i64>(&mut client, "select count(*) from busymate_stats_internal.attachment"), 0);
    assert_eq!(refusal(&mut client, "select public.get_stats()").message, "no fleet is attached");
}
