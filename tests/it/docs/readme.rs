//! Every SQL block of README, and every `psql` line, runs as written, in the order in which it stands there; and every
//! error that README lists is one that the code raises.

use harness::{Cluster, fleet, run, server_command, value};
use std::fs;
use std::path::Path;

const HAND_WRITTEN_FEED: &str = "
    create table public.devices (device_uuid uuid primary key, name text, connection_type text, last_seen_at timestamptz);
    create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int, source text);
    create index on public.entries (created_at);
    insert into public.entries values (now(), null, 'example.com', 200, 'vpn');
    create table public.old_roles (role text, section text, action text);
    create table public.old_assignments (sub text, role text);
    insert into public.old_roles values ('admin', '*', '*'), ('support', 'stats', 'view'), ('support', 'entries', 'view');
    insert into public.old_assignments values ('1', 'admin'), ('2', 'support');
    create function public.has_capability(section text, action text) returns boolean language sql stable
        as 'select true from public.old_roles limit 1';
    create function public.get_stats() returns jsonb language sql stable
        as $$ select jsonb_build_object('total_entries', (select count(*) from public.entries), 'entries_1h', 7) $$;
    create table public.service_stats (id int primary key, snapshot jsonb);
    create table public.service_status (id int primary key, snapshot jsonb);
    alter table public.service_stats enable row level security;
    create policy view on public.service_stats using (public.has_capability('stats', 'view'));
    alter table public.entries enable row level security;
    create policy entries_view on public.entries using (public.has_capability('entries', 'view'));
    create view public.dashboard as select snapshot from public.service_stats;
    create publication supabase_realtime for table public.service_stats;
";

/// A fenced block: the words behind its fence, and its text.
struct Block {
    language: String,
    text: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(harness::CHECKOUT).join(path)).unwrap()
}

fn blocks() -> Vec<Block> {
    let readme = read("README.md");
    let mut parts = readme.split("\n```");
    parts.next();
    let mut blocks = Vec::new();
    while let Some(block) = parts.next() {
        let (language, text) = block.split_once('\n').expect("a fenced block has a first line");
        blocks.push(Block { language: language.trim().into(), text: text.into() });
        assert!(parts.next().is_some(), "a fenced block without an end: {text}");
    }
    blocks
}

fn psql(cluster: &Cluster, database: &str, sql: &str) {
    run(cluster.client_program("psql").args([
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        database,
        "-c",
        sql,
    ]));
}

/// Blocks of several statements run one by one, as typed: `-c` would make one transaction of them.
fn psql_script(cluster: &Cluster, database: &str, sql: &str) {
    let lines =
        format!("printf '%s' \"$SQL\" | {}/psql -X -q -v ON_ERROR_STOP=1 -f -", harness::bin().display());
    run(environment(server_command("/bin/sh"), cluster)
        .env("PGDATABASE", database)
        .env("SQL", sql)
        .args(["-c", &lines]));
}

fn environment(mut command: std::process::Command, cluster: &Cluster) -> std::process::Command {
    let path = format!("{}:{}", harness::bin().display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("PGHOST", cluster.socket_directory()).env("PGUSER", "postgres");
    command
}

#[test]
fn its_commands_work() {
    let cluster = Cluster::start("");
    cluster.connect("postgres").batch_execute("create database feed").unwrap();
    let mut kept = 0_i64;
    let (mut main, mut feed, mut shell) = (0, 0, 0);
    for Block { language, text } in blocks() {
        match language.as_str() {
            "sql" => {
                if text.contains("drop extension") {
                    kept = value(&mut cluster.connect("app"), "select count(*) from public.entries");
                }
                psql_script(&cluster, "app", &text);
                main += 1;
            }
            "sql feed" => {
                if feed == 0 {
                    psql(&cluster, "feed", HAND_WRITTEN_FEED);
                }
                psql_script(&cluster, "feed", &text);
                feed += 1;
            }
            "sh" if text.starts_with("psql") || text.starts_with("createdb") => {
                run(environment(server_command("/bin/sh"), &cluster).args(["-e", "-c", &text]));
                shell += 1;
            }
            _ => {}
        }
    }
    assert!(main >= 12 && feed >= 5 && shell >= 2, "too few blocks ran: {main} {feed} {shell}");
    let mut client = cluster.connect("app");
    assert_eq!(kept, 1);
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.entries"), kept);
    assert_eq!(
        value::<i64>(&mut client, "select count(*) from pg_extension where extname = 'busymate_stats'"),
        0
    );
}

#[test]
fn the_old_feed_is_replaced_without_a_trace() {
    let cluster = harness::shared();
    let database = cluster.create_database("old_feed");
    psql(cluster, &database, HAND_WRITTEN_FEED);
    for block in blocks().iter().filter(|block| block.language == "sql feed") {
        psql_script(cluster, &database, &block.text);
    }
    let mut client = cluster.connect(&database);
    let claims = |sub| Some(format!(r#"{{"sub":"{sub}"}}"#));
    for (sub, sees) in [("1", true), ("2", true), ("3", false)] {
        let seen = harness::as_caller(&mut client, "authenticated", claims(sub).as_deref(), |client| {
            value::<i64>(client, "select count(*) from public.service_stats")
        });
        assert_eq!(seen, i64::from(sees), "{sub}");
    }
    let left = "select count(*) from pg_depend d
                  left join pg_proc p on p.oid = d.refobjid left join pg_class c on c.oid = d.refobjid
                 where p.proname in ('old_get_stats', 'old_has_capability') or c.relname like 'old_service%'";
    assert_eq!(value::<i64>(&mut client, left), 0);
    let published = "select string_agg(tablename, ',' order by tablename) from pg_publication_tables";
    assert_eq!(value::<String>(&mut client, published), "service_stats,service_status");
}

/// What a schema tool's reset takes along can be put aside and back, to the last column.
#[test]
fn roles_and_revoked_tokens_outlive_a_dropped_schema() {
    let cluster = harness::shared();
    let (database, mut client) = fleet::fleet("reset");
    client
        .batch_execute(
            "insert into busymate_stats.roles (name, description) values ('support', 'S');
             select busymate_stats.grant_capability('support', 'stats:view');
             select busymate_stats.assign_role('1', 'support'), busymate_stats.assign_role('2', 'admin');
             insert into busymate_stats.revoked_tokens (jti, expires_at) values ('gone', now() + interval '1 hour');
             insert into busymate_stats.components (key, label, unit) values ('web', 'Web', 'nginx');
             update busymate_stats.user_roles set changed_by = 'somebody'",
        )
        .unwrap();
    let tables = ["roles", "role_capabilities", "user_roles", "revoked_tokens", "components"];
    let kept = |client: &mut postgres::Client| -> Vec<serde_json::Value> {
        tables
            .iter()
            .map(|table| {
                let rows = format!(
                    "select jsonb_agg(r order by r) from (select to_jsonb(t) from busymate_stats.{table} t
                      where coalesce(to_jsonb(t) ->> 'role', to_jsonb(t) ->> 'name', '') not in ('viewer')
                        and not coalesce((to_jsonb(t) ->> 'builtin')::boolean, false)
                        and ('{table}' <> 'role_capabilities' or to_jsonb(t) ->> 'role' <> 'admin')) rows (r)"
                );
                value(client, &rows)
            })
            .collect()
    };
    let before = kept(&mut client);
    let blocks: Vec<_> = blocks().into_iter().filter(|block| block.language == "sql reset").collect();
    assert_eq!(blocks.len(), 2);
    psql_script(cluster, &database, &blocks[0].text);
    client
        .batch_execute(
            "drop schema public cascade; create schema public;
             create table public.devices (device_uuid uuid primary key, name text, connection_type text, last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int, source text);
             create index on public.entries (created_at)",
        )
        .unwrap();
    assert_eq!(
        value::<i64>(&mut client, "select count(*) from pg_extension where extname = 'busymate_stats'"),
        0
    );
    psql_script(cluster, &database, &blocks[1].text);
    assert_eq!(kept(&mut client), before);
    let claims = |jti: &str| Some(format!(r#"{{"sub":"1","jti":"{jti}"}}"#));
    for (jti, sees) in [("other", true), ("gone", false)] {
        let seen = harness::as_caller(&mut client, "authenticated", claims(jti).as_deref(), |client| {
            value::<bool>(client, "select public.get_stats() is not null")
        });
        assert_eq!(seen, sees, "{jti}");
    }
}

fn sources() -> String {
    fn collect(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    for directory in ["src", "sql/topics"] {
        collect(&Path::new(harness::CHECKOUT).join(directory), &mut text);
    }
    text.replace("\\\"", "\"")
}

#[test]
fn its_errors_are_those_of_the_code() {
    let (readme, sources) = (read("README.md"), sources());
    let table = readme.split("| SQLSTATE | message |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut checked = 0;
    for row in rows {
        let message = row.split('|').nth(2).unwrap().trim();
        for part in message.split('…').map(str::trim).filter(|part| part.len() > 3) {
            assert!(sources.contains(part), "no error says {part:?}: {row}");
        }
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn its_snapshot_is_the_demos() {
    let (_, mut client) = harness::installed("readme_demo");
    let sql = read("demo/fleet.sql").replace("create extension busymate_stats;", "");
    client.batch_execute(&sql).unwrap();
    client
        .batch_execute(
            "insert into public.entries (created_at, device_uuid, host, method, status, source) select * from demo.sample",
        )
        .unwrap();
    let as_of: String =
        value(&mut client, "select (max(created_at) + interval '1 minute')::text from public.entries");
    let stats = fleet::stats_at(&mut client, &as_of);
    let block = blocks().into_iter().find(|block| block.language == "json").unwrap();
    let shown: serde_json::Value = serde_json::from_str(&block.text).unwrap();
    for (key, figure) in shown.as_object().unwrap() {
        match key.as_str() {
            "generated_at" => assert!(stats[key].is_string()),
            "top_domains" => assert_eq!(stats[key][0], figure[0]),
            "top_devices" => {
                assert_eq!(stats[key][0]["name"], figure[0]["name"]);
                assert_eq!(stats[key][0]["count"], figure[0]["count"]);
            }
            _ => assert_eq!(&stats[key], figure, "{key}"),
        }
    }
    assert_eq!(stats.as_object().unwrap().len(), shown.as_object().unwrap().len());
    client.batch_execute("select demo.tick(3)").unwrap();
    assert!(value::<i64>(&mut client, "select count(*) from public.entries") >= 184_206);
}
