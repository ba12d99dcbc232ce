//! Promise: an attached table looks as before to tools that compare schemas and to those that know nothing of the
//! extension: Alembic proposes nothing, `\d` shows triggers and no more, a copy takes nothing over, and a server without
//! the library can read it.
//!
//! `scripts/schema-tools` installs Alembic; where it is not there, its test says so and checks nothing, except in CI.

use harness::fleet::stats_at;
use harness::worker::is_sealed_and_right;
use harness::{Cluster, refusal, run, shared, value};
use postgres::Client;
use std::path::Path;
use std::process::Command;

/// As `tests/schema_tools/env.py` has them.
fn tables(partitioned: bool) -> String {
    let (partition_by, partitions) = if partitioned {
        (
            "partition by range (created_at)",
            "create table public.entries_old partition of public.entries
                 for values from (minvalue) to (now() - interval '3 hours');
             create table public.entries_new partition of public.entries
                 for values from (now() - interval '3 hours') to (maxvalue);",
        )
    } else {
        ("", "")
    };
    format!(
        "create table public.devices (
             device_uuid uuid primary key, name text not null, connection_type text, last_seen_at timestamptz
         );
         create table public.entries (
             id bigserial, created_at timestamptz not null default now(),
             device_uuid uuid references public.devices, host text, status int, source text,
             primary key (id, created_at)
         ) {partition_by};
         create index entries_created_at_idx on public.entries (created_at);
         create index entries_host_idx on public.entries (host);
         {partitions}
         insert into public.entries (created_at, host, status, source)
         select now() - n * interval '1 min', 'h' || n % 7, 200, 'vpn' from generate_series(1, 400) n;"
    )
}

const ATTACH: &str = "select busymate_stats.attach('public.entries', 'public.devices')";

/// A database with the user's tables and the extension, which does not know of them yet.
fn installed_beside(partitioned: bool) -> (String, Client) {
    let database = shared().create_database("tools");
    let mut client = shared().connect(&database);
    client.batch_execute(&tables(partitioned)).unwrap();
    client.batch_execute("create extension busymate_stats").unwrap();
    (database, client)
}

/// The body of the function `upgrade` that `alembic revision --autogenerate` writes.
fn proposal(alembic: &Path, database: &str) -> String {
    let project = std::env::temp_dir().join(format!("busymate-alembic-{}-{database}", std::process::id()));
    let _ = std::fs::remove_dir_all(&project);
    std::fs::create_dir_all(project.join("versions")).unwrap();
    let source = Path::new(harness::CHECKOUT).join("tests/schema_tools");
    for file in ["alembic.ini", "env.py", "script.py.mako"] {
        std::fs::copy(source.join(file), project.join(file)).unwrap();
    }
    let url = format!(
        "url=postgresql+psycopg://postgres@/{database}?host={}",
        shared().socket_directory().display()
    );
    run(Command::new(alembic).current_dir(&project).args([
        "-x",
        &url,
        "revision",
        "--autogenerate",
        "-m",
        "compare",
    ]));
    let written = std::fs::read_dir(project.join("versions")).unwrap().map(|entry| entry.unwrap().path());
    let written: Vec<_> = written.filter(|path| path.extension().is_some_and(|it| it == "py")).collect();
    assert_eq!(written.len(), 1, "{written:?}");
    let script = std::fs::read_to_string(&written[0]).unwrap();
    std::fs::remove_dir_all(&project).unwrap();
    let body = script.split("def upgrade():").nth(1).unwrap().split("def downgrade():").next().unwrap();
    let lines = body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn alembic_proposes_nothing() {
    let Some(tools) = std::env::var("BUSYMATE_TEST_SCHEMA_TOOLS").ok().filter(|path| !path.is_empty()) else {
        assert!(std::env::var("CI").is_err(), "no Alembic: run scripts/schema-tools");
        eprintln!("NOT TESTED: no Alembic. scripts/schema-tools installs it.");
        return;
    };
    let alembic = Path::new(&tools).join("bin/alembic");
    for partitioned in [false, true] {
        let (database, mut client) = installed_beside(partitioned);
        assert_eq!(proposal(&alembic, &database), "pass", "before it is attached");
        client.batch_execute(ATTACH).unwrap();
        assert_eq!(proposal(&alembic, &database), "pass", "partitioned: {partitioned}");
        // It would see something.
        client.batch_execute("create index stray on public.entries (status)").unwrap();
        let seen = proposal(&alembic, &database);
        assert!(seen.contains("op.drop_index(op.f('stray')"), "{seen}");
    }
}

/// What psql's `\d` shows of a table.
fn described(database: &str, table: &str) -> Vec<String> {
    let mut psql = shared().client_program("psql");
    let shown = run(psql.args(["-X", "-d", database, "-c", &format!("\\d public.{table}")]));
    shown.lines().map(str::to_owned).collect()
}

#[test]
fn psql_shows_triggers_and_nothing_else() {
    for partitioned in [false, true] {
        let tables: &[&str] =
            if partitioned { &["entries", "entries_old", "devices"] } else { &["entries", "devices"] };
        let (database, mut client) = installed_beside(partitioned);
        let before: Vec<_> = tables.iter().map(|table| described(&database, table)).collect();
        client.batch_execute(ATTACH).unwrap();
        for (table, before) in tables.iter().zip(before) {
            let after = described(&database, table);
            let added: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
            assert!(before.iter().all(|line| after.contains(line)), "{before:#?}\n{after:#?}");
            assert!(!added.is_empty() && after.len() == before.len() + added.len(), "{table}: {after:#?}");
            for line in &added {
                let expected = *line == "Triggers firing always:"
                    || line.starts_with("    busymate_stats_")
                        && line.contains(" EXECUTE FUNCTION busymate_stats_internal.");
                assert!(expected, "{table} shows {line:?}");
            }
            if *table != "devices" {
                assert_eq!(added.len(), 2, "{table}: {added:#?}");
            }
        }
        client.batch_execute("select busymate_stats.detach()").unwrap();
        for table in tables {
            assert!(!described(&database, table).join("\n").contains("busymate_stats"), "{table}");
        }
    }
}

#[test]
fn a_copy_takes_nothing_over() {
    for partitioned in [false, true] {
        let (_, mut client) = installed_beside(partitioned);
        client.batch_execute(ATTACH).unwrap();
        client
            .batch_execute(
                "create table public.copy (like public.entries including all);
                 create table public.copy_of_devices (like public.devices including all)",
            )
            .unwrap();
        let ours: Vec<String> = harness::catalog::list(
            &mut client,
            "select pg_describe_object(d.classid, d.objid, d.objsubid)
               from pg_depend d join pg_extension e on e.extname = 'busymate_stats'
              where d.refclassid = 'pg_class'::regclass
                and d.refobjid in ('public.copy'::regclass, 'public.copy_of_devices'::regclass)
                and pg_describe_object(d.classid, d.objid, d.objsubid) like '%busymate_stats%'
             union all
             select indexdef from pg_indexes where tablename like 'copy%' and indexdef like '%busymate_stats%'",
        );
        assert_eq!(ours, [""; 0]);
        client
            .batch_execute(
                "insert into public.copy select * from public.entries; update public.copy set host = 'x'; delete from public.copy",
            )
            .unwrap();
        assert_eq!(stats_at(&mut client, "now")["total_entries"], 400);
        client.batch_execute("drop extension busymate_stats").unwrap();
        assert_eq!(value::<i64>(&mut client, "select count(*) from public.entries"), 400);
        client.batch_execute("insert into public.copy select * from public.entries").unwrap();
    }
}

/// The server finds no library: a new machine, where the extension's package was forgotten. All that it would load is
/// named by `pg_proc.probin`, so naming another has the same effect as taking the file away.
#[track_caller]
fn a_server_without_the_library_reads(partitioned: bool) {
    let cluster = Cluster::start("busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'");
    let database = cluster.create_database("absent");
    let mut client = cluster.connect(&database);
    client.batch_execute(&tables(partitioned)).unwrap();
    client.batch_execute("create extension busymate_stats").unwrap();
    client.batch_execute(ATTACH).unwrap();
    is_sealed_and_right(&mut client);
    let name_library = |client: &mut Client, from: &str, to: &str| {
        client
            .batch_execute(&format!(
                "set allow_system_table_mods = on;
                 update pg_proc set probin = '$libdir/{to}' where probin = '$libdir/{from}'"
            ))
            .unwrap();
    };
    name_library(&mut client, "busymate_stats", "absent");
    drop(client);
    cluster.configure("shared_preload_libraries = ''");
    cluster.restart();

    let mut client = cluster.connect(&database);
    for query in [
        "select count(*) from public.entries",
        "select count(*) from public.entries where created_at > now() - interval '500 min'",
        "select count(*) from public.entries e left join public.devices d using (device_uuid)",
        "select count(*) from (select from public.entries for update) e",
    ] {
        assert_eq!(value::<i64>(&mut client, query), 400, "{query}");
    }
    client.batch_execute("vacuum analyze public.entries").unwrap();
    run(cluster.client_program("pg_dump").arg(&database));

    // A change that capture would miss is refused, not lost.
    for statement in [
        "insert into public.entries (host) values ('x')",
        "update public.entries set host = 'x' where id = 1",
        "delete from public.entries where id = 1",
        "set session_replication_role = replica; delete from public.entries where id = 1",
    ] {
        let refused = refusal(&mut client, statement);
        // 18 looks the name up in dynamic_library_path, and says it without $libdir.
        assert!(refused.code == "58P01" && refused.message.contains("absent\""), "{refused:?}");
    }
    // The way out, until the library is there again.
    let off = event_triggers(&mut client, "disable") + ";" + &triggers(&mut client, "disable");
    client.batch_execute(&off).unwrap();
    client
        .batch_execute(
            "insert into public.entries (created_at, host) select now() - n * interval '1 h', 'unseen' from generate_series(1, 9) n;
             update public.entries set status = 500 where id between 101 and 110;
             delete from public.entries where id between 201 and 210",
        )
        .unwrap();
    cluster.configure("shared_preload_libraries = 'busymate_stats'");
    cluster.restart();
    let mut client = cluster.connect(&database);
    let on = triggers(&mut client, "enable always") + ";" + &event_triggers(&mut client, "enable");
    client.batch_execute(&on).unwrap();
    name_library(&mut client, "absent", "busymate_stats");
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 399);
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 399);
}

/// `alter event trigger` with each of ours.
fn event_triggers(client: &mut Client, action: &str) -> String {
    let query = format!(
        "select coalesce(string_agg(format('alter event trigger %I {action}', evtname), ';'), '') from pg_event_trigger
          where evtfoid in (select oid from pg_proc where pronamespace = 'busymate_stats_internal'::regnamespace)"
    );
    value(client, &query)
}

/// `alter table` with each trigger of ours on the fleet's tables; clones in partitions follow.
fn triggers(client: &mut Client, action: &str) -> String {
    let query = format!(
        "select string_agg(format('alter table %s {action} trigger %I', tgrelid::regclass, tgname), ';') from pg_trigger
          where tgrelid in ('public.entries'::regclass, 'public.devices'::regclass)
            and tgfoid in (select oid from pg_proc where pronamespace = 'busymate_stats_internal'::regnamespace)"
    );
    value(client, &query)
}

#[test]
fn a_server_without_the_library_reads_a_plain_table() {
    a_server_without_the_library_reads(false);
}

#[test]
fn a_server_without_the_library_reads_a_partitioned_table() {
    a_server_without_the_library_reads(true);
}
