//! Promise: the official MCP conformance suite passes, through the gateway, in every scenario that a server with two fixed
//! tools can meet. Those that it cannot meet are listed here with the reason, so that a new one does not go unnoticed.
//! `scripts/mcp-clients` installs the suite; where it is not there, this test says so and checks nothing, except in CI.

use harness::api::served;
use harness::gateway::Gateway;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What must pass, by revision. The suite sends no token, so it runs as anon, who may list but not read.
const SCENARIOS: [(&str, &[&str]); 3] = [
    (
        "2026-07-28",
        &["tools-list", "http-header-validation", "dns-rebinding-protection", "server-stateless", "caching"],
    ),
    ("2025-11-25", &["server-initialize", "ping", "tools-list", "dns-rebinding-protection"]),
    ("2025-06-18", &["server-initialize", "ping", "tools-list"]),
];

/// Checks inside those scenarios that cannot pass: they ask for a tool of the suite's own reference server, or for prompts
/// and resources, and count as failed where those are not there. By scenario, check, and how the suite's reason begins.
const NOT_TESTABLE: [(&str, &str, &str); 7] = [
    (
        "server-stateless",
        "sep-2575-server-rejects-undeclared-capability",
        "Not testable: server does not list the diagnostic tool 'test_missing_capability'",
    ),
    (
        "server-stateless",
        "sep-2575-missing-capability-http-400",
        "Not testable: server does not list the diagnostic tool 'test_missing_capability'",
    ),
    (
        "server-stateless",
        "sep-2575-http-server-no-independent-requests-on-stream",
        "Not testable: server does not list the diagnostic tool 'test_streaming_elicitation'",
    ),
    (
        "server-stateless",
        "sep-2575-server-no-log-without-loglevel",
        "Not testable: server does not list the diagnostic tool 'test_logging_tool'",
    ),
    ("caching", "sep-2549-prompts-list-caching-hints", "prompts/list returned JSON-RPC error -32601"),
    ("caching", "sep-2549-resources-list-caching-hints", "resources/list returned JSON-RPC error -32601"),
    (
        "caching",
        "sep-2549-resources-templates-list-caching-hints",
        "resources/templates/list returned JSON-RPC error -32601",
    ),
];

/// Scenarios by how their names begin, and why they do not apply.
const NOT_OURS: [(&str, &str); 19] = [
    ("tools-call-", "calls tools of the suite's own reference server"),
    ("json-schema-2020-12", "calls a tool of the reference server"),
    (
        "http-custom-header-server-validation",
        "calls a tool of the reference server with an argument in a header",
    ),
    ("input-required-result-", "our tools never ask back"),
    ("elicitation-", "our tools never ask back"),
    ("prompts-", "there are no prompts"),
    ("resources-", "there are no resources"),
    ("sep-2164-resource-not-found", "there are no resources"),
    ("completion-complete", "there is nothing to complete"),
    ("logging-set-level", "there is no log to read"),
    ("server-sse-", "PostgREST keeps no stream open"),
    ("server-session-lifecycle", "there are no sessions"),
    ("sep-2640-skills-", "an extension that is not offered"),
    ("tasks-", "an extension that is not offered"),
    // In no revision but the ones named above.
    ("server-initialize", "of the initialize era"),
    ("ping", "of the initialize era"),
    ("http-header-validation", "of the modern era"),
    ("server-stateless", "of the modern era"),
    ("caching", "of the modern era"),
];

fn suite() -> Option<(PathBuf, PathBuf)> {
    let Some(clients) = std::env::var("BUSYMATE_TEST_MCP_CLIENTS").ok().filter(|path| !path.is_empty())
    else {
        assert!(std::env::var("CI").is_err(), "no MCP clients: run scripts/mcp-clients");
        eprintln!("NOT TESTED: no MCP clients. scripts/mcp-clients installs them.");
        return None;
    };
    let bin = PathBuf::from(clients).join("node_modules/.bin");
    Some((bin.join("node"), bin.join("conformance")))
}

#[test]
fn every_scenario_that_applies() {
    let Some((node, conformance)) = suite() else { return };
    let (_client, postgrest) = served("mcp_conformance");
    let url = Gateway::start(postgrest).url("/rpc/mcp");
    for (version, scenarios) in SCENARIOS {
        for scenario in scenarios {
            let what = format!("{scenario} at {version}");
            let here = std::env::temp_dir().join(format!("busymate-conformance-{}", std::process::id()));
            std::fs::create_dir_all(&here).unwrap();
            let output = Command::new(&node)
                .arg(&conformance)
                .args(["server", "--url", &url, "--scenario", scenario, "--spec-version", version])
                .arg("--output-dir")
                .arg(&here)
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            let (passed, total) = figures(&printed, &what);
            let expected: Vec<_> = NOT_TESTABLE.iter().filter(|(of, ..)| of == scenario).collect();
            let failed = not_passed(&here);
            assert!(passed > 0 && passed + failed.len() == total, "{what}: {printed}");
            assert_eq!(failed.len(), expected.len(), "{what}: {failed:?}");
            for ((check, why), (_, expected_check, reason)) in failed.iter().zip(expected) {
                assert!(check == expected_check && why.starts_with(reason), "{what}: {check}: {why}");
            }
            println!("{what}: {passed}/{total}");
            std::fs::remove_dir_all(here).unwrap();
        }
    }
}

/// The line "Passed: 4/4, …". A scenario that does not apply ends well, having run nothing: only this line tells.
#[track_caller]
fn figures(printed: &str, what: &str) -> (usize, usize) {
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("Passed: "));
    let line = line.unwrap_or_else(|| panic!("{what} ran nothing: {printed}"));
    let number =
        |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
    let (passed, total) = line.split_once('/').unwrap_or_else(|| panic!("{what}: {line}"));
    (number(passed), number(total))
}

/// The checks that did not pass, as the suite wrote them down: the check, and why not.
fn not_passed(directory: &Path) -> Vec<(String, String)> {
    let run = std::fs::read_dir(directory).unwrap().next().expect("the suite's results").unwrap();
    let checks = std::fs::read_to_string(run.path().join("checks.json")).unwrap();
    let checks: Vec<Value> = serde_json::from_str(&checks).unwrap();
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let passed = ["SUCCESS", "INFO", "SKIPPED"];
    checks
        .iter()
        .filter(|check| !passed.contains(&text(check, "status").as_str()))
        .map(|check| (text(check, "id"), text(check, "errorMessage")))
        .collect()
}

#[test]
fn every_scenario_is_known() {
    let Some((node, conformance)) = suite() else { return };
    let listed = harness::run(Command::new(node).arg(conformance).args(["list", "--server"]));
    let names: BTreeSet<_> = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 50, "{listed}");
    let run: Vec<_> = SCENARIOS.iter().flat_map(|(_, scenarios)| scenarios.iter().copied()).collect();
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| !run.contains(name) && !NOT_OURS.iter().any(|(start, _)| name.starts_with(start)))
        .collect();
    assert!(unknown.is_empty(), "neither run nor ruled out: {unknown:?}");
}
