//! Promise: what is wrong with a relation is told: its kind, its owner, policies that hide its rows.

use harness::{installed, refusal, value};
use postgres::Client;

const ATTACH: &str = "select busymate_stats.attach('public.entries', 'public.devices')";

const TABLES: &str = "
    create table public.entries (created_at timestamptz not null, host text, status int, source text, device_uuid uuid);
    create index entries_time on public.entries (created_at);
    create table public.devices (device_uuid uuid, name text, connection_type text, last_seen_at timestamptz);
";

/// A role of the shared cluster that lasts as long as it.
fn role(client: &mut Client, name: &str, options: &str) {
    client.batch_execute(&format!("create role {name} {options}")).unwrap();
}

fn tables(prefix: &str) -> Client {
    let (_, mut client) = installed(prefix);
    client.batch_execute(TABLES).unwrap();
    client
}

#[test]
fn relations_of_other_kinds() {
    let mut client = tables("kinds");
    client
        .batch_execute(
            "create sequence public.counter; create type public.pair as (created_at timestamptz, host text);
             create temp table fleeting (like public.entries including all)",
        )
        .unwrap();
    let schema: String = value(&mut client, "select pg_my_temp_schema()::regnamespace::text");
    let cases = [
        ("public.counter", "public.counter", "is no table, view or foreign table"),
        ("public.entries_time", "public.entries_time", "is no table, view or foreign table"),
        ("public.pair", "public.pair", "is no table, view or foreign table"),
        ("fleeting", &format!("{schema}.fleeting"), "is temporary"),
    ];
    for (given, shown, what) in cases {
        for arguments in [format!("'{given}', 'public.devices'"), format!("'public.entries', '{given}'")] {
            let refused = refusal(&mut client, &format!("select busymate_stats.attach({arguments})"));
            assert_eq!(
                (refused.code.as_str(), refused.message),
                ("42809", format!("relation {shown} {what}"))
            );
            assert_eq!(
                refused.hint,
                "Attach a permanent table, partitioned table, view, materialized view or foreign table."
            );
        }
    }
}

/// Views and foreign tables can have neither NOT NULL nor an index; a column is named as theirs.
#[test]
fn views_and_foreign_tables_need_no_index() {
    let mut client = tables("exempt");
    client
        .batch_execute(
            "alter table public.entries alter created_at drop not null;
             drop index public.entries_time;
             create view public.log as select * from public.entries;
             create view public.short as select created_at, host from public.entries;
             create view public.wrong as select created_at::text, host, status, source, device_uuid from public.entries;
             create materialized view public.kept as select * from public.entries;",
        )
        .unwrap();
    for relation in ["log", "kept"] {
        client
            .batch_execute(&format!(
                "select busymate_stats.attach('public.{relation}', 'public.devices'); select busymate_stats.detach()"
            ))
            .unwrap();
    }
    let refused = refusal(&mut client, "select busymate_stats.attach('public.short', 'public.devices')");
    assert_eq!(refused.code, "42703");
    assert_eq!(refused.message, "column \"status\" of relation public.short does not exist");
    assert_eq!(refused.hint, "Name another column: attach(…, status => '…').");
    let refused = refusal(&mut client, "select busymate_stats.attach('public.wrong', 'public.devices')");
    assert_eq!(refused.code, "42804");
    assert!(refused.hint.contains("the type timestamptz"), "{refused:?}");
}

#[test]
fn only_the_owner_attaches() {
    let mut client = tables("owner");
    role(&mut client, "owner_of_both", "");
    role(&mut client, "owner_of_one", "");
    role(&mut client, "member_of_both", "in role owner_of_both, owner_of_one");
    role(&mut client, "reader", "");
    client
        .batch_execute(
            "alter table public.entries owner to owner_of_both; alter table public.devices owner to owner_of_both;
             grant all on public.entries, public.devices to reader;
             grant usage on schema busymate_stats to public;
             grant execute on all functions in schema busymate_stats to public",
        )
        .unwrap();
    let attempt = |client: &mut Client, role: &str| {
        client.batch_execute(&format!("begin; set local role {role}")).unwrap();
        let refused = client.batch_execute(ATTACH).err().map(|error| harness::refusal_of(&error));
        client.batch_execute("rollback").unwrap();
        refused.map(|refused| {
            assert_eq!(refused.code, "42501");
            assert!(refused.hint.contains("only its owner"), "{refused:?}");
            refused.message
        })
    };
    assert_eq!(attempt(&mut client, "reader").as_deref(), Some("must be owner of relation public.entries"));
    assert_eq!(attempt(&mut client, "owner_of_both"), None);
    assert_eq!(attempt(&mut client, "member_of_both"), None);
    assert_eq!(attempt(&mut client, "postgres"), None);
    client.batch_execute("alter table public.devices owner to owner_of_one").unwrap();
    assert_eq!(
        attempt(&mut client, "owner_of_both").as_deref(),
        Some("must be owner of relation public.devices")
    );
    assert_eq!(
        attempt(&mut client, "owner_of_one").as_deref(),
        Some("must be owner of relation public.entries")
    );
    assert_eq!(attempt(&mut client, "member_of_both"), None);
    // Letting go is the owner's too.
    client.batch_execute(&format!("set role member_of_both; {ATTACH}; set role owner_of_one")).unwrap();
    let refused = refusal(&mut client, "select busymate_stats.detach()");
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("42501", "must be owner of relation public.entries")
    );
    client.batch_execute("set role member_of_both; select busymate_stats.detach(); reset role").unwrap();
    assert_eq!(value::<i64>(&mut client, "select count(*) from busymate_stats_internal.attachment"), 0);
}

/// An owner that may not read what his view reads is told so when he attaches, not at the first refresh.
#[test]
fn an_owner_without_rights_below_his_view() {
    let mut client = tables("below");
    role(&mut client, "view_owner", "");
    client
        .batch_execute(
            "create view public.log as select * from public.entries;
             alter view public.log owner to view_owner;",
        )
        .unwrap();
    let attach = "select busymate_stats.attach('public.log', 'public.devices')";
    let refused = refusal(&mut client, attach);
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("42501", "permission denied for table entries")
    );
    client.batch_execute("grant select on public.entries to view_owner").unwrap();
    client.batch_execute(attach).unwrap();
    // Policies of a table that another role owns would hide rows from the view: told, never short.
    client
        .batch_execute(
            "insert into public.entries (created_at) values (now()), (now());
             alter table public.entries enable row level security;
             create policy half on public.entries using (false)",
        )
        .unwrap();
    let refused = refusal(&mut client, "select public.get_stats()");
    assert_eq!(refused.code, "42501");
    assert!(refused.message.contains("row-level security"), "{refused:?}");
}

#[test]
fn policies_that_hide_rows_from_the_owner() {
    for table in ["entries", "devices"] {
        let mut client = tables("force");
        let owner = format!("forced_{table}");
        role(&mut client, &owner, "");
        client
            .batch_execute(&format!(
                "alter table public.{table} owner to {owner};
                 alter table public.{table} enable row level security, force row level security"
            ))
            .unwrap();
        let refused = refusal(&mut client, ATTACH);
        assert_eq!(refused.code, "55000");
        assert_eq!(refused.message, format!("policies of public.{table} hide rows from its own owner"));
        let mend = refused.hint.strip_prefix("Run ").unwrap().trim_end_matches('.');
        client.batch_execute(mend).unwrap();
        client.batch_execute(ATTACH).unwrap();
    }
}

/// FORCE ROW LEVEL SECURITY that comes after attach() makes reading fail: figures are never silently short.
#[test]
fn policies_that_come_to_hide_rows() {
    for table in ["entries", "devices"] {
        let mut client = tables("force_later");
        let owner = format!("forced_later_{table}");
        role(&mut client, &owner, "");
        client
            .batch_execute(&format!(
                "insert into public.entries (created_at) values (now());
                 insert into public.devices (name) values ('d');
                 alter table public.{table} owner to {owner};
                 alter table public.{table} enable row level security;
                 {ATTACH};
                 select public.get_stats();
                 alter table public.{table} force row level security"
            ))
            .unwrap();
        for call in [
            "select public.get_stats()",
            "select busymate_stats.stats_at(now())",
            "select busymate_stats.stats_recomputed(now())",
            "select busymate_stats.refresh_stats()",
            "set row_security = on; select public.get_stats()",
        ] {
            let refused = refusal(&mut client, call);
            assert_eq!(refused.code, "42501", "{call}");
            assert!(refused.message.contains(&format!("table \"{table}\"")), "{refused:?}");
            assert!(refused.hint.contains("ALTER TABLE NO FORCE ROW LEVEL SECURITY"), "{refused:?}");
        }
        client.batch_execute(&format!("alter table public.{table} no force row level security")).unwrap();
        let counted: bool = value(
            &mut client,
            "select (s->'total_entries')::int = 1 and (s->'total_devices')::int = 1 from public.get_stats() s",
        );
        assert!(counted);
    }
}

/// Who bypasses policies loses no rows to them, forced or not.
#[test]
fn forced_policies_of_an_owner_that_bypasses_them() {
    let mut client = tables("bypass");
    client
        .batch_execute(&format!(
            "{ATTACH};
             insert into public.entries (created_at) values (now());
             alter table public.entries enable row level security, force row level security"
        ))
        .unwrap();
    assert_eq!(value::<i64>(&mut client, "select (public.get_stats()->'total_entries')::bigint"), 1);
}

#[test]
fn an_attached_relation_that_is_dropped() {
    for (table, part) in [("entries", "entries"), ("devices", "devices")] {
        let mut client = tables("dropped");
        client.batch_execute(ATTACH).unwrap();
        client.batch_execute(&format!("drop table public.{table}")).unwrap();
        for call in ["select public.get_stats()", "select busymate_stats.refresh_stats()"] {
            let refused = refusal(&mut client, call);
            assert_eq!(refused.code, "42P01");
            assert_eq!(refused.message, format!("the attached relation of {part} no longer exists"));
            assert!(refused.hint.contains("SELECT busymate_stats.detach()"), "{refused:?}");
        }
        // As the hint says: let go, put another in its place.
        client
            .batch_execute(
                &TABLES
                    .replace("create table", "create table if not exists")
                    .replace("create index entries_time", "create index"),
            )
            .unwrap();
        let refused = refusal(&mut client, ATTACH);
        assert!(refused.detail.contains("a relation that was dropped"), "{refused:?}");
        client
            .batch_execute(&format!("select busymate_stats.detach(); {ATTACH}; select public.get_stats()"))
            .unwrap();
    }
    let mut client = tables("both_dropped");
    client
        .batch_execute(&format!(
            "{ATTACH}; drop table public.entries, public.devices; select busymate_stats.detach()"
        ))
        .unwrap();
}

/// A column that is dropped later is told too, with its name.
#[test]
fn an_attached_column_that_is_dropped() {
    let mut client = tables("column_dropped");
    client.batch_execute(&format!("{ATTACH}; alter table public.entries rename host to domain")).unwrap();
    let refused = refusal(&mut client, "select public.get_stats()");
    assert_eq!(refused.code, "42703");
    assert!(refused.message.contains("\"host\""), "{refused:?}");
}

/// Where Citus is: a table by the name and with the columns of the catalog that it makes says what is distributed. It is a stand-in, for
/// Citus is in no package; what Citus 13.2.2 itself does is told in docs/scaling.md.
#[test]
fn what_citus_distributes_is_attached_by_a_view() {
    let (_, mut client) = installed("citus");
    client
        .batch_execute(
            "set allow_system_table_mods = on;
             create table pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod \"char\", colocationid int);
             create table public.devices (device_uuid uuid, name text, connection_type text, last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int, source text);
             create index on public.entries (created_at);
             create table public.local (like public.entries including all);
             insert into pg_catalog.pg_dist_partition values
                 ('public.entries', 'h', 1), ('public.devices', 'n', 2), ('public.local', 'n', 0)",
        )
        .unwrap();
    for (entries, devices, named) in
        [("entries", "devices", "entries"), ("local", "devices", "devices"), ("entries", "local", "entries")]
    {
        let refused = refusal(
            &mut client,
            &format!("select busymate_stats.attach('public.{entries}', 'public.{devices}')"),
        );
        assert_eq!(
            (refused.code.as_str(), refused.message),
            (
                "55000",
                format!(
                    "relation public.{named} is distributed by Citus, so what changes in it is not seen here"
                )
            )
        );
        assert!(refused.hint.contains(&format!("SELECT * FROM public.{named}")), "{}", refused.hint);
        assert!(refused.hint.contains("docs/scaling.md"), "{}", refused.hint);
    }
    client
        .batch_execute(
            "create view public.all_devices as select * from public.devices;
             select busymate_stats.attach('public.local', 'public.all_devices')",
        )
        .unwrap();
}
