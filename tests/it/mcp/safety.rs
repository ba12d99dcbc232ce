//! Promise: `public.mcp` never raises (a cancel, a timeout apart), never writes, takes no transaction id, works read-only
//! and on a standby, and says nothing that is not the caller's to know.

use harness::postgrest::{PostgRest, Request};
use harness::{Cluster, SUPABASE_ROLES, as_caller, installed, refusal, shared, value};
use postgres::Client;
use serde_json::{Value, json};

const CALL: &str = r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_stats", "arguments": {}}}"#;
const CALL_STATUS: &str = r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_status", "arguments": {}}}"#;
const VIEWER: &str = r#"{"sub":"v"}"#;

fn prepare(client: &mut Client) {
    client
        .batch_execute(
            "select busymate_stats.create_fleet_tables();
             select busymate_stats.grant_api(); select busymate_stats.assign_role('v', 'viewer');
             insert into public.service_status (snapshot) values ('{\"overall\": \"ok\"}')",
        )
        .unwrap();
}

/// Sends a message as SQL, and gives the answer: null is an empty one.
#[track_caller]
fn ask(client: &mut Client, message: &str) -> String {
    let row = client.query_one("select public.mcp($1::text::jsonb)::text", &[&message]).unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

#[track_caller]
fn ask_json(client: &mut Client, message: &str) -> Value {
    serde_json::from_str(&ask(client, message)).unwrap()
}

#[test]
fn it_reads_only_and_takes_no_transaction_id() {
    let (_, mut client) = installed("mcp_readonly");
    prepare(&mut client);
    for isolation in ["read committed", "repeatable read", "serializable"] {
        client.batch_execute(&format!("begin isolation level {isolation} read only")).unwrap();
        client
            .batch_execute(&format!(
                "set local role authenticated; set local request.jwt.claims = '{VIEWER}'"
            ))
            .unwrap();
        for message in [CALL, CALL_STATUS] {
            assert_eq!(ask_json(&mut client, message)["result"]["isError"], false, "{isolation}");
        }
        assert_eq!(ask(&mut client, r#"{"jsonrpc": "2.0", "method": "x"}"#), "");
        assert!(value::<bool>(&mut client, "select pg_current_xact_id_if_assigned() is null"));
        client.batch_execute("rollback").unwrap();
    }
    // A failed tool, too, in a transaction that could write.
    client
        .batch_execute(
            "alter table public.service_status force row level security;
             create role mcp_weak; alter table public.service_status owner to mcp_weak",
        )
        .unwrap();
    client.batch_execute("begin").unwrap();
    assert_eq!(ask_json(&mut client, CALL_STATUS)["error"]["code"], -32603);
    assert!(value::<bool>(&mut client, "select pg_current_xact_id_if_assigned() is null"));
    client.batch_execute("rollback").unwrap();
}

#[test]
fn it_works_on_a_standby() {
    let primary = Cluster::start(harness::NO_WORKER);
    let mut client = primary.connect("postgres");
    client.batch_execute(SUPABASE_ROLES).unwrap();
    client.batch_execute("create extension busymate_stats").unwrap();
    prepare(&mut client);
    let standby = primary.standby();
    let mut client = standby.connect("postgres");
    assert!(value::<bool>(&mut client, "select pg_is_in_recovery()"));
    for message in [CALL, CALL_STATUS] {
        assert_eq!(ask_json(&mut client, message)["result"]["isError"], false);
    }
}

#[test]
fn an_error_inside_is_told_by_its_code_only() {
    let (_, mut client) = installed("mcp_errors");
    prepare(&mut client);
    client
        .batch_execute(
            "select busymate_stats.detach();
             create function public.broken() returns text language plpgsql volatile as
                 $$ begin raise exception 'the secret is 4711'; end $$;
             create view public.bad as select created_at, broken() as host, 200 as status, 's'::text as source,
                 device_uuid from public.entries;
             insert into public.entries default values;
             select busymate_stats.attach('public.bad', 'public.devices')",
        )
        .unwrap();
    as_caller(&mut client, "authenticated", Some(VIEWER), |client| {
        let answer = ask(client, CALL);
        assert!(!answer.contains("4711"), "{answer}");
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["error"]["code"], -32603);
        // The transaction goes on, with the caller's role and settings as they were.
        assert_eq!(value::<String>(client, "select current_user::text"), "authenticated");
        assert_eq!(ask_json(client, CALL_STATUS)["result"]["isError"], false);
        assert_eq!(value::<String>(client, "select current_setting('response.status')"), "200");
    });
}

#[test]
fn a_timeout_goes_on_up() {
    let (database, mut client) = installed("mcp_timeout");
    prepare(&mut client);
    client
        .batch_execute(
            "select busymate_stats.detach();
             create view public.slow as select created_at, pg_sleep(60)::text as host, 200 as status,
                 's'::text as source, device_uuid from public.entries;
             insert into public.entries default values;
             select busymate_stats.attach('public.slow', 'public.devices');
             set statement_timeout = '200ms'",
        )
        .unwrap();
    assert_eq!(refusal(&mut client, &format!("select public.mcp('{CALL}')")).code, "57014");
    assert_eq!(
        ask_json(&mut client, r#"{"jsonrpc": "2.0", "id": 1, "method": "ping"}"#)["result"],
        json!({})
    );

    // As PostgREST sets it, from the role.
    client
        .batch_execute(
            "create role hasty nologin; alter role hasty set statement_timeout = '200ms'; \
        grant hasty to authenticator; select busymate_stats.grant_api('hasty')",
        )
        .unwrap();
    let postgrest = PostgRest::start(shared(), &database, 1);
    let claims = json!({ "role": "hasty", "sub": "v" });
    let response = postgrest.handle(&Request::new("POST", "/rpc/mcp", Some(claims)).body(CALL));
    assert_eq!((response.status, &response.json()["code"]), (500, &json!("57014")));
}

/// JSON that PostgreSQL takes, and that some reader stumbles over.
#[test]
fn odd_json_is_answered() {
    let (_, mut client) = installed("mcp_odd");
    prepare(&mut client);
    let deep = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    let nested = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{deep}}}}}"#);
    assert_eq!(ask_json(&mut client, &nested)["error"]["code"], -32602);
    assert_eq!(ask_json(&mut client, &deep)["error"]["code"], -32600);
    let huge = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1e5000}}"#;
    assert_eq!(ask_json(&mut client, huge)["error"]["code"], -32602);
    let id = r#"{"jsonrpc":"2.0","id":1e100000,"method":"ping"}"#;
    assert!(ask(&mut client, id).len() < 200);
    let id = r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"ping"}"#;
    assert!(ask(&mut client, id).contains(r#""id":123456789012345678901234567890,"#));
    let twice = r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#;
    assert_eq!(ask_json(&mut client, twice)["id"], 2);
    let null: String = value(&mut client, "select public.mcp(null)::text");
    assert_eq!(serde_json::from_str::<Value>(&null).unwrap()["error"]["code"], -32600);
    for headers in ["", "{", "[]", "null", r#"{"origin": 7}"#, r#"{"mcp-protocol-version": null}"#] {
        client.execute("select set_config('request.headers', $1, false)", &[&headers]).unwrap();
        assert_eq!(ask_json(&mut client, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)["result"], json!({}));
    }
}

#[test]
fn the_token_is_nowhere() {
    let (database, mut client) = installed("mcp_token");
    prepare(&mut client);
    let postgrest = PostgRest::start(shared(), &database, 1);
    let secret = "eyJhbGciOiJIUzI1NiJ9.very.secret";
    let bodies = [
        CALL,
        CALL_STATUS,
        "[1]",
        "{}",
        r#"{"id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[]}"#,
    ];
    for body in bodies {
        for version in ["2025-06-18", "2026-07-28", "9"] {
            let request =
                Request::new("POST", "/rpc/mcp", Some(json!({ "role": "authenticated", "sub": "v" })))
                    .body(body)
                    .header("authorization", &format!("Bearer {secret}"))
                    .header("mcp-protocol-version", version);
            let response = postgrest.handle(&request);
            assert!(!format!("{response:?}").contains("secret"), "{response:?}");
        }
    }
    assert!(!shared().log().contains("very.secret"));
}

#[test]
fn the_list_of_origins_is_checked() {
    let (_, mut client) = installed("mcp_setting");
    client.batch_execute("load 'busymate_stats'").unwrap();
    for list in ["'*'", "'app.example'", "'https://app.example/x'", "'https://a.example', 'null'"] {
        let refused = refusal(&mut client, &format!("set busymate_stats.mcp_allowed_origins = {list}"));
        assert_eq!(refused.code, "22023", "{list}");
        assert!(refused.hint.contains("scheme://host"), "{refused:?}");
    }
    client
        .batch_execute("set busymate_stats.mcp_allowed_origins = 'https://a.example', 'http://b.example:81'")
        .unwrap();
    client.batch_execute("set busymate_stats.mcp_allowed_origins = ''").unwrap();
    client.batch_execute("set role authenticated").unwrap();
    let refused = refusal(&mut client, "set busymate_stats.mcp_allowed_origins = 'https://a.example'");
    assert_eq!(refused.code, "42501");
}
