//! Promise: what keeps the figures from being served, or from being served fast, is named in `health` and in errors, with
//! what to do about it; and figures are exact meanwhile and afterwards.

use harness::fleet::stats_at;
use harness::worker::{fleet_in, health, is_sealed_and_right, seal, wait_for_seal};
use harness::{Cluster, eventually, fleet, refusal, value};
use postgres::Client;
use std::sync::OnceLock;

/// One whose worker seals and refreshes every second.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start(
            "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'\n\
             busymate_stats.refresh_interval = '1s'",
        )
    })
}

#[track_caller]
fn awaited_reason(client: &mut Client, begins: &str) -> String {
    eventually(begins, || seal(client, "reason").filter(|reason| reason.starts_with(begins)))
}

fn of_devices(client: &mut Client, field: &str) -> Option<String> {
    value(
        client,
        &format!("select detail -> 'devices' ->> '{field}' from busymate_stats.health where feed = 'seal'"),
    )
}

const ENTRIES: &str = "insert into public.entries (created_at, host, status, source)
    select now() - n * interval '1 min', 'h' || n % 5, 200, 'vpn' from generate_series(1, 500) n";

#[test]
fn relations_that_were_dropped_are_named() {
    let (_, mut client) = fleet_in(cluster(), "dropped");
    client.batch_execute(ENTRIES).unwrap();
    wait_for_seal(&mut client);
    client.batch_execute("drop table public.entries, public.devices").unwrap();
    let told = "the attached relation of entries was dropped: run SELECT busymate_stats.detach()";
    awaited_reason(&mut client, told);
    assert_eq!(seal(&mut client, "sealed").as_deref(), Some("false"));
    let told = "the attached relation of devices was dropped: run SELECT busymate_stats.detach()";
    eventually(told, || of_devices(&mut client, "reason").filter(|reason| reason.starts_with(told)));
    // The cure.
    client
        .batch_execute("select busymate_stats.detach(); select busymate_stats.create_fleet_tables()")
        .unwrap();
    client.batch_execute(ENTRIES).unwrap();
    let snapshot = is_sealed_and_right(&mut client);
    assert_eq!(snapshot["total_entries"], 500);
}

#[test]
fn a_column_that_was_renamed_is_named_with_its_relation_and_the_cure() {
    let (_, mut client) = fleet::fleet("renamed");
    client.batch_execute(ENTRIES).unwrap();
    for (relation, column, argument) in [
        ("entries", "host", "host"),
        ("entries", "created_at", "entry_time"),
        ("entries", "device_uuid", "entry_device"),
        ("devices", "device_uuid", "device_key"),
        ("devices", "name", "device_name"),
        ("devices", "last_seen_at", "last_seen"),
    ] {
        client.batch_execute(&format!("alter table public.{relation} rename {column} to other")).unwrap();
        for call in ["public.get_stats()", "busymate_stats.stats_recomputed(now())"] {
            let refused = refusal(&mut client, &format!("select {call}"));
            assert_eq!(refused.code, "42703", "{refused:?}");
            let message =
                format!("column \"{column}\" of the attached relation public.{relation} does not exist");
            assert_eq!(refused.message, message);
            assert!(refused.hint.contains(&format!("attach(…, {argument} => '…')")), "{refused:?}");
        }
        client.batch_execute(&format!("alter table public.{relation} rename other to {column}")).unwrap();
    }
    client
        .batch_execute(
            "alter table public.entries rename host to hostname; select busymate_stats.detach();
             select busymate_stats.attach('public.entries', 'public.devices', host => 'hostname')",
        )
        .unwrap();
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 500);
}

#[test]
fn the_seal_says_how_to_attach_a_renamed_column() {
    let (_, mut client) = fleet_in(cluster(), "renamed");
    client.batch_execute(ENTRIES).unwrap();
    wait_for_seal(&mut client);
    client
        .batch_execute(
            "alter table public.entries rename host to hostname;
             alter table public.devices rename connection_type to kind",
        )
        .unwrap();
    let told = awaited_reason(&mut client, "column \"host\" is missing in public.entries. Run SELECT ");
    assert!(told.contains("attach(…, host => '…')"), "{told}");
    eventually("devices say so too", || {
        of_devices(&mut client, "reason").filter(|told| told.contains("attach(…, connection_type => '…')"))
    });
}

#[test]
fn a_schema_that_was_renamed_is_named() {
    let (_, mut client) = fleet_in(cluster(), "schemas");
    for schema in ["busymate_stats_internal", "public"] {
        client.batch_execute(&format!("alter schema {schema} rename to \"Away\"")).unwrap();
        let told = format!(
            "schema \"Away\" is looked for as {schema}: run ALTER SCHEMA \"Away\" RENAME TO {schema}"
        );
        for feed in ["stats", "seal", "status"] {
            let query = format!("select last_error from busymate_stats.health where feed = '{feed}'");
            let error: Option<String> = value(&mut client, &query);
            // What the worker has failed with meanwhile comes behind it.
            assert!(error.as_ref().is_some_and(|error| error.starts_with(&told)), "{feed}: {error:?}");
        }
        assert_eq!(seal(&mut client, "sealed").as_deref(), Some("false"));
        assert_eq!(seal(&mut client, "reason"), Some(told));
        if schema != "public" {
            let refused = refusal(&mut client, "select public.get_stats()");
            assert_eq!(refused.code, "3F000", "{refused:?}");
            assert_eq!(refused.hint, format!("Run ALTER SCHEMA \"Away\" RENAME TO {schema}."));
        }
        client.batch_execute(&format!("alter schema \"Away\" rename to {schema}")).unwrap();
        eventually("it is forgotten", || health(&mut client, "last_error").is_none().then_some(()));
    }
    client.batch_execute("alter schema busymate_stats rename to away").unwrap();
    let told: String = value(&mut client, "select last_error from away.health where feed = 'stats'");
    assert!(told.starts_with("schema away is looked for as busymate_stats: run ALTER SCHEMA away"), "{told}");
}

/// What is written while a schema has another name is counted when it has its own again.
#[test]
fn what_is_written_while_a_schema_is_renamed_is_counted() {
    for schema in ["busymate_stats_internal", "public"] {
        let (database, mut client) = fleet_in(cluster(), "meanwhile");
        client.batch_execute(ENTRIES).unwrap();
        wait_for_seal(&mut client);
        eventually("devices are counted", || (of_devices(&mut client, "counted")? == "true").then_some(()));
        let mut writer = cluster().connect(&database);
        client.batch_execute(&format!("alter schema {schema} rename to away")).unwrap();
        let home = if schema == "public" { "away" } else { "public" };
        for session in [&mut writer, &mut client] {
            session
                .batch_execute(&format!(
                    "insert into {home}.devices (device_uuid, name, connection_type, last_seen_at)
                         select gen_random_uuid(), 'new', 'pac', now() from generate_series(1, 3);
                     insert into {home}.entries (created_at, host, status) values (now() - interval '2 min', 'late', 500);
                     delete from {home}.entries where host = 'h3'"
                ))
                .unwrap();
        }
        client.batch_execute(&format!("alter schema away rename to {schema}")).unwrap();
        let snapshot = stats_at(&mut client, "now");
        assert_eq!(snapshot["total_devices"], 6, "{schema}");
        assert_eq!(snapshot["total_entries"], 402, "{schema}");
        is_sealed_and_right(&mut client);
    }
}

/// The attached entries become a partition of another table: they are what is counted, and the others are not.
#[test]
fn entries_that_became_a_partition_are_counted_by_themselves() {
    let database = cluster().create_database("child");
    let mut client = cluster().connect(&database);
    client
        .batch_execute(
            "create extension busymate_stats;
             create table public.devices (device_uuid uuid primary key, name text, connection_type text,
                                          last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null default now(), device_uuid uuid, host text,
                                          status int, source text);
             create index on public.entries (created_at);
             select busymate_stats.attach('public.entries', 'public.devices');
             create table public.all_entries (like public.entries including defaults) partition by list (host);
             create table public.others partition of public.all_entries default",
        )
        .unwrap();
    client.batch_execute(&format!("{ENTRIES}; update public.entries set host = 'ours'")).unwrap();
    wait_for_seal(&mut client);
    assert_eq!(seal(&mut client, "entries_are_partition_of"), None);
    let agree = |client: &mut Client, total: i64| {
        assert_eq!(stats_at(client, "now")["total_entries"], total);
        assert_eq!(is_sealed_and_right(client)["total_entries"], total);
    };
    client
        .batch_execute(
            "alter table public.all_entries attach partition public.entries for values in ('ours', 'mine')",
        )
        .unwrap();
    agree(&mut client, 500);
    assert_eq!(seal(&mut client, "entries_are_partition_of").as_deref(), Some("all_entries"));
    for writes in [
        "insert into public.all_entries (created_at, host, status) select now() - interval '3 min', h, 200
             from unnest(array['ours', 'mine', 'theirs', 'theirs']) h",
        // Rows that move out, in, and within.
        "update public.all_entries set host = 'gone' where host = 'mine'",
        "update public.all_entries set host = 'mine' where host = 'theirs'",
        "update public.all_entries set created_at = created_at - interval '1 h', host = 'ours' where host = 'mine'",
        "merge into public.all_entries e using (values ('ours', 'moved')) v (host, new) on e.host = v.host
             and e.created_at > now() - interval '100 min' and e.created_at < now() - interval '90 min'
         when matched then update set host = v.new",
        "delete from public.all_entries where created_at > now() - interval '30 min'",
        "truncate public.others",
        "alter table public.all_entries add column more int; update public.all_entries set status = 404",
        "truncate public.all_entries; insert into public.all_entries (created_at, host) values (now() - interval '1 h', 'ours')",
        "alter table public.all_entries detach partition public.entries; insert into public.entries (host) values ('free')",
    ] {
        println!("{writes}");
        client.batch_execute(writes).unwrap();
        let counted: i64 = value(&mut client, "select count(*) from public.entries");
        agree(&mut client, counted);
    }
    assert_eq!(seal(&mut client, "entries_are_partition_of"), None);
}

/// A fleet whose host, source and device have this type.
fn typed(host: &str, make: &str) -> (Client, Vec<String>) {
    let database = cluster().create_database("typed");
    let (mut client, heard) = cluster().connect_hearing(&database);
    client
        .batch_execute(&format!(
            "create extension busymate_stats; {make};
             create table public.devices (device_uuid text primary key, name text, connection_type {host},
                                          last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null default now(), host {host}, source {host},
                                          device_uuid {host}, status int);
             create index on public.entries (created_at)"
        ))
        .unwrap();
    heard.lock().unwrap().clear();
    client.batch_execute("select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
    let heard = heard.lock().unwrap();
    (client, heard.iter().map(|notice| format!("{} {}", notice.message, notice.detail)).collect())
}

#[test]
fn citext_and_char_are_counted_ahead() {
    for (kind, make, values) in [
        ("citext", "create extension citext", ["Host.example", "host.example", "HOST.example "]),
        ("char(12)", "select 1", ["ab", "ab c", "é  ü"]),
        ("char(3000)", "select 1", ["ab", "", "x"]),
        ("padded", "create domain padded as char(6)", ["ab", " ab", "ab\tc"]),
    ] {
        let (mut client, heard) = typed(kind, make);
        assert_eq!(heard, Vec::<String>::new(), "{kind}");
        let [a, b, c] = values;
        let cast = format!("]::{kind}[])");
        let statements = |client: &mut Client| {
            for time in ["now() - interval '50 s' * n", "now()"] {
                client
                    .batch_execute(
                        &format!(
                            "insert into public.entries (created_at, host, source, device_uuid, status)
                             select {time}, (array['{a}', '{b}', '{c}', null])[1 + n % 4],
                                    (array['{b}', '{c}', null])[1 + n % 3], (array['{c}', '{a}'])[1 + n % 2], 200
                               from generate_series(1, 100) n;
                             insert into public.devices (device_uuid, connection_type, last_seen_at)
                             select gen_random_uuid()::text, (array['{a}', '{b}', '{c}', null])[1 + n % 4], now()
                               from generate_series(1, 9) n"
                        )
                        .replace("])", &cast),
                    )
                    .unwrap();
            }
        };
        statements(&mut client);
        wait_for_seal(&mut client);
        is_sealed_and_right(&mut client);
        // Late, within the window and long before it, and each changed.
        statements(&mut client);
        stats_at(&mut client, "now");
        client
            .batch_execute(&format!(
                "update public.entries set host = '{c}' where source = '{b}'::{kind}; delete from public.entries where host is null;
                 update public.devices set connection_type = '{c}' where connection_type = '{a}'::{kind}"
            ))
            .unwrap();
        stats_at(&mut client, "now");
        let snapshot = is_sealed_and_right(&mut client);
        assert_eq!(seal(&mut client, "sealed").as_deref(), Some("true"), "{kind}: {snapshot}");
    }
}

#[test]
fn types_that_are_not_counted_ahead_are_told_when_they_are_attached() {
    for (kind, make, shown, values) in [
        ("inet", "select 1", "inet", ["10.0.0.1", "10.0.0.0/8", "::1"]),
        (
            "colour",
            "create type colour as enum ('red', 'green', 'blue')",
            "public.colour",
            ["red", "green", "blue"],
        ),
    ] {
        let (mut client, heard) = typed(kind, make);
        assert_eq!(heard.len(), 3, "{heard:?}");
        let told = format!(
            "column \"host\" of public.entries has type {shown}, which cannot be counted ahead; text, varchar, char, \
             citext, uuid and integers can"
        );
        assert!(heard[0].starts_with(&told), "{heard:?}");
        assert!(heard[0].contains("ALTER TABLE public.entries ALTER COLUMN host TYPE text"), "{heard:?}");
        let [a, b, c] = values;
        client
            .batch_execute(&format!(
                "insert into public.entries (created_at, host, source, device_uuid)
                 select now() - n * interval '1 min', (array['{a}', '{b}', '{c}']::{kind}[])[1 + n % 3], '{a}', '{b}'
                   from generate_series(1, 50) n"
            ))
            .unwrap();
        awaited_reason(&mut client, &told);
        assert_eq!(seal(&mut client, "sealed").as_deref(), Some("false"));
        assert_eq!(stats_at(&mut client, "now")["total_entries"], 50);
    }
}

#[test]
fn entries_of_the_future_are_named_when_they_cost_something() {
    let (_, mut client) = fleet_in(cluster(), "ahead");
    client.batch_execute(ENTRIES).unwrap();
    wait_for_seal(&mut client);
    assert_eq!(seal(&mut client, "entries_ahead"), None);
    client
        .batch_execute(
            "insert into public.entries (created_at, host) select now() + interval '1 year', 'ahead' from generate_series(1, 12000)",
        )
        .unwrap();
    let told = eventually("they are named", || seal(&mut client, "entries_ahead"));
    let begins = "12,000 entries are dated in the future, and each read visits them: about ";
    assert!(told.starts_with(begins), "{told}");
    client.batch_execute("delete from public.entries where host = 'ahead'").unwrap();
    eventually("they are forgotten", || seal(&mut client, "entries_ahead").is_none().then_some(()));
}

/// `sealed` is never false without a reason.
#[test]
fn a_count_that_goes_on_is_a_reason() {
    let (_, mut client) = fleet::fleet("counting");
    assert_eq!(seal(&mut client, "sealed").as_deref(), Some("false"));
    assert_eq!(seal(&mut client, "reason").as_deref(), Some("nothing is counted yet"));
    let state = |version: i32, boundary: &str| {
        format!(
            "insert into busymate_stats_internal.seal_state
                 (version, boundary, goal, gen, epoch, fingerprint, total, last_day, last_hour, made_at, maps)
             values ({version}, {boundary}, now(), 1, 1, '', 42, 0, 0, now(), '')"
        )
    };
    client.batch_execute(&state(1, "now()")).unwrap();
    assert_eq!(seal(&mut client, "sealed").as_deref(), Some("true"));
    assert_eq!(seal(&mut client, "reason"), None);
    for (version, boundary) in [(2, "now() - interval '2 h'"), (3, "'-infinity'")] {
        client.batch_execute(&state(version, boundary)).unwrap();
        assert_eq!(seal(&mut client, "sealed").as_deref(), Some("false"));
        let told = "entries are being counted, 42 so far";
        assert_eq!(seal(&mut client, "reason").as_deref(), Some(told), "{boundary}");
    }
}
