//! Promise: the scripts in `examples/` work as they stand: a token that they mint is taken, and every call of the API that
//! they make with curl gives the answer that README shows.

use harness::api::{STATUS, served};
use harness::gateway::{Gateway, SECRET};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn example(name: &str) -> Command {
    let mut command = Command::new(Path::new(harness::CHECKOUT).join("examples").join(name));
    // Not through a proxy of the machine.
    command.env("no_proxy", "*");
    command
}

/// What `requests.sh` prints for a user: the five answers, in its order.
fn answers(api: &str, sub: &str) -> Vec<Value> {
    let secret = std::str::from_utf8(SECRET).unwrap();
    let token = harness::run(example("token").arg(sub).env("JWT_SECRET", secret));
    let printed = harness::run(example("requests.sh").env("API", api).env("TOKEN", token.trim()));
    printed
        .lines()
        .filter(|line| !line.starts_with('>') && !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn every_request_for_a_viewer_and_for_a_nobody() {
    let (mut client, postgrest) = served("examples");
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    let api = Gateway::start(postgrest).url("");
    let status: Value = serde_json::from_str(STATUS).unwrap();

    let seen = answers(&api, "v");
    assert_eq!(seen.len(), 5);
    assert_eq!(seen[0]["total_entries"], 1);
    assert_eq!(seen[1][0]["snapshot"]["total_entries"], 1);
    assert_eq!(seen[2], json!([{ "snapshot": status }]));
    for (answer, id) in [(&seen[3], 1), (&seen[4], 2)] {
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(id)));
        assert_eq!(answer["result"]["isError"], false);
        let text: Value =
            serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, answer["result"]["structuredContent"]);
    }
    assert_eq!(seen[4]["result"]["structuredContent"], status);

    let refused = answers(&api, "nobody");
    assert_eq!(refused[..3], [json!(null), json!([]), json!([])]);
    for (answer, capability) in [(&refused[3], "stats:view"), (&refused[4], "status:view")] {
        assert_eq!(answer["result"]["isError"], true);
        assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains(capability), "{answer}");
    }
}
