//! Promise: the official MCP clients work with `public.mcp` behind PostgREST, in every era that they speak: they connect,
//! list, call both tools, hold results against the output schemas, and get a refusal and an error as what they are.
//! `scripts/mcp-clients` installs them; where they are not there, these tests say so and check nothing, except in CI.

use harness::api::{STATUS, postgrest, served, user};
use harness::gateway::{Gateway, token};
use harness::listeners::{answering, hanging};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the clients are.
fn clients() -> Option<PathBuf> {
    let found = std::env::var("BUSYMATE_TEST_MCP_CLIENTS").ok().filter(|path| !path.is_empty());
    if found.is_none() {
        assert!(std::env::var("CI").is_err(), "no MCP clients: run scripts/mcp-clients");
        eprintln!("NOT TESTED: no MCP clients. scripts/mcp-clients installs them.");
    }
    found.map(PathBuf::from)
}

/// The command that runs one of our client scripts.
fn script(clients: &Path, name: &str) -> Command {
    let source = Path::new(harness::CHECKOUT).join("tests/mcp_clients");
    if let Some(line) = name.strip_prefix("python_") {
        let mut command = Command::new(clients.join(format!("python-{line}/bin/python")));
        command.arg("-B").arg(source.join(format!("{name}.py")));
        return command;
    }
    if name == "rust" {
        return Command::new(clients.join("rust-client"));
    }
    // Node finds packages by the place of the script.
    for file in ["report", name] {
        let file = format!("{file}.mjs");
        let partial = clients.join(format!("{file}.{:?}", std::thread::current().id()));
        std::fs::copy(source.join(&file), &partial).unwrap();
        std::fs::rename(partial, clients.join(&file)).unwrap();
    }
    let mut command = Command::new(clients.join("node_modules/.bin/node"));
    command.arg(clients.join(format!("{name}.mjs")));
    command
}

/// Script, its mode, and the revision that it must end up with.
const CLIENTS: [(&str, &str, &str); 11] = [
    ("typescript_1", "", "2025-11-25"),
    ("typescript_2", "legacy", "2025-11-25"),
    ("typescript_2", "auto", "2026-07-28"),
    ("typescript_2", "2026-07-28", "2026-07-28"),
    ("python_1", "", "2025-11-25"),
    ("python_2", "legacy", "2025-11-25"),
    ("python_2", "auto", "2026-07-28"),
    ("python_2", "2026-07-28", "2026-07-28"),
    ("rust", "legacy", "2025-11-25"),
    ("rust", "auto", "2026-07-28"),
    ("rust", "discover", "2026-07-28"),
];

fn report(clients: &Path, (name, mode, _): (&str, &str, &str), url: &str, sub: &str) -> Value {
    let mut command = script(clients, name);
    command.arg(url).arg(mode).env("TOKEN", token(&user(sub).unwrap()));
    let printed = harness::run(&mut command);
    serde_json::from_str(printed.trim()).unwrap_or_else(|error| panic!("{name} {mode}: {error}: {printed}"))
}

#[test]
fn every_client_in_every_era() {
    let Some(clients) = clients() else { return };
    let (_client, postgrest) = served("mcp_sdk");
    let url = Gateway::start(postgrest).url("/rpc/mcp");
    for client in CLIENTS {
        let seen = report(&clients, client, &url, "v");
        assert_eq!(seen["protocol"], client.2, "{client:?}: {seen}");
        assert_eq!(seen["tools"], json!(["get_stats", "get_status"]), "{client:?}: {seen}");
        // Who pins a version has not asked the server who it is.
        if client.1 != client.2 {
            assert_eq!(seen["server"], "busymate_stats", "{client:?}: {seen}");
            assert!(
                seen["instructions"].as_str().is_some_and(|text| text.contains("get_stats")),
                "{client:?}"
            );
        }
        for tool in ["get_stats", "get_status"] {
            let answer = &seen[tool];
            assert_eq!(answer["isError"], false, "{client:?}: {seen}");
            let text: Value = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
            assert_eq!(answer["structuredContent"], text, "{client:?} {tool}");
        }
        assert_eq!(seen["get_stats"]["structuredContent"]["total_entries"], 1);
        assert_eq!(seen["get_status"]["structuredContent"], serde_json::from_str::<Value>(STATUS).unwrap());
        assert_eq!(seen["extra_argument"]["isError"], true, "{client:?}: {seen}");
        assert_eq!(seen["unknown_tool"]["code"], -32602, "{client:?}: {seen}");

        let refused = report(&clients, client, &url, "nobody");
        for (tool, capability) in [("get_stats", "stats:view"), ("get_status", "status:view")] {
            let answer = &refused[tool];
            assert_eq!(answer["isError"], true, "{client:?}: {refused}");
            assert!(answer["text"].as_str().unwrap().contains(capability), "{client:?}: {refused}");
        }
    }
}

/// What the feed writes, whatever state the infrastructure is in, fits the schema that the clients hold it against.
#[test]
fn real_status_snapshots_fit() {
    let Some(clients) = clients() else { return };
    let (mut client, _) = served("mcp_real");
    let url = Gateway::start(postgrest(&mut client, 1)).url("/rpc/mcp");
    let report_status = r#"{"host": {"cpu": 1, "load": [0, 0, 0], "mem": {"usedMb": 0, "totalMb": 1}, "uptime": 0}, "components": []}"#;
    let (good, broken) = (answering("HTTP/1.1 204 No Content\r\n\r\n"), answering("HTTP/1.1 500 No\r\n\r\n"));
    for (what, prepare, overall) in [
        ("nothing watched", String::new(), "ok"),
        (
            "all kinds",
            format!(
                "insert into busymate_stats.components (key, label, url, unit, timeout) values
                    ('up', 'Up', '{good}', null, '2s'), ('broken', 'Broken', '{broken}', null, '2s'),
                    ('gone', 'Gone', 'http://127.0.0.1:1/', null, '2s'),
                    ('silent', 'Silent', '{}', null, '100ms'),
                    ('both', 'Both', '{good}', 'both.service', '2s'),
                    ('unit', 'Unit', null, 'unit.service', '2s')",
                hanging()
            ),
            "degraded",
        ),
        (
            "all down",
            "delete from busymate_stats.components where key not in ('gone', 'silent')".into(),
            "down",
        ),
        ("reported", format!("select public.report_status('{report_status}')"), "ok"),
    ] {
        let refresh = if what == "reported" { "" } else { "select busymate_stats.refresh_status();" };
        client.batch_execute(&format!("{prepare};{refresh}")).unwrap();
        let stored: String =
            harness::value(&mut client, "select snapshot ->> 'overall' from public.service_status");
        assert_eq!(stored, overall, "{what}");
        for official in
            [("typescript_1", "", ""), ("typescript_2", "2026-07-28", ""), ("python_2", "auto", "")]
        {
            let seen = report(&clients, official, &url, "v");
            assert_eq!(seen["get_status"]["isError"], false, "{what}: {official:?}: {seen}");
            // Some write 1.0 as 1: for jsonb they are the same.
            let shown = &seen["get_status"]["structuredContent"];
            let same = "select snapshot = $1 from public.service_status";
            let same: bool = client.query_one(same, &[shown]).unwrap().get(0);
            assert!(same, "{what}: {official:?}: {shown}");
        }
    }
}

/// The clients do hold results against the output schema: one that does not fit is thrown away.
#[test]
fn a_misfit_is_thrown_away_by_the_client() {
    let Some(clients) = clients() else { return };
    let (mut client, _) = served("mcp_misfit");
    let misfit = r#"update public.service_status set snapshot = snapshot || '{"overall": "splendid"}'"#;
    client.batch_execute(misfit).unwrap();
    let url = Gateway::start(postgrest(&mut client, 1)).url("/rpc/mcp");
    // The Rust one holds nothing against a schema.
    for client in CLIENTS.into_iter().filter(|(name, ..)| *name != "rust") {
        let seen = report(&clients, client, &url, "v");
        assert!(seen["get_status"]["error"].is_string(), "{client:?}: {seen}");
        assert_eq!(seen["get_stats"]["isError"], false, "{client:?}: {seen}");
    }
}
