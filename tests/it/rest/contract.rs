//! Promise: what PostgREST sends is answered as its clients expect. Its statements, word for word, through a pooled session of
//! `authenticator`, for each kind of caller.

use harness::api::{postgrest, served, user};
use harness::postgrest::{PostgRest, Request, Response};
use harness::{refusal, shared, value};
use postgres::Client;
use serde_json::{Value, json};

const STATS: &str = "/service_stats?id=eq.1&select=snapshot";
const STATUS: &str = "/service_status?id=eq.1&select=snapshot";

fn get(postgrest: &PostgRest, path: &str, claims: Option<Value>) -> Response {
    postgrest.handle(&Request::new("GET", path, claims))
}

fn rpc(postgrest: &PostgRest, method: &str, claims: Option<Value>) -> Response {
    let request = Request::new(method, "/rpc/get_stats", claims);
    postgrest.handle(&if method == "POST" { request.body("{}") } else { request })
}

#[track_caller]
fn assert_row(response: &Response) -> Value {
    let rows = response.json();
    assert_eq!((response.status, rows.as_array().map(Vec::len)), (200, Some(1)), "{response:?}");
    rows[0]["snapshot"].clone()
}

#[test]
fn get_stats_for_who_may() {
    let (_client, postgrest) = served("rest_rpc");
    for claims in [user("v"), user("s"), Some(json!({ "role": "service_role" })), Some(json!({ "sub": "v" }))]
    {
        for method in ["POST", "GET"] {
            let response = rpc(&postgrest, method, claims.clone());
            assert_eq!(response.status, 200, "{response:?}");
            assert_eq!(response.header("Content-Type"), Some("application/json; charset=utf-8"));
            assert_eq!(response.json()["total_entries"], 1);
        }
        let head = rpc(&postgrest, "HEAD", claims);
        assert_eq!((head.status, head.body.as_str()), (200, ""));
    }
}

#[test]
fn get_stats_is_null_for_who_may_not() {
    let (_client, postgrest) = served("rest_null");
    for claims in [
        user("nobody"),
        None,
        Some(json!({ "role": "authenticated" })),
        Some(json!({ "role": "anon", "sub": 7 })),
    ] {
        for method in ["POST", "GET"] {
            let response = rpc(&postgrest, method, claims.clone());
            assert_eq!((response.status, response.body.as_str()), (200, "null"), "{claims:?}");
        }
    }
}

/// PostgREST before 9 sets a setting for each claim. Whoever is named there alone is nobody.
#[test]
fn claims_in_the_settings_of_old_are_not_read() {
    let (mut client, _) = served("rest_legacy");
    client
        .batch_execute("begin; set local role authenticated; set local request.jwt.claim.sub = 'v'")
        .unwrap();
    assert_eq!(value::<Option<Value>>(&mut client, "select public.get_stats()"), None);
    client.batch_execute(r#"set local request.jwt.claims = '{"sub": "v"}'"#).unwrap();
    assert!(value::<Option<Value>>(&mut client, "select public.get_stats()").is_some());
    client.batch_execute("rollback").unwrap();
}

#[test]
fn tables_show_the_row_or_nothing() {
    let (mut client, postgrest) = served("rest_tables");
    // Before the first refresh there is no row, for anybody. The worker refreshes what is attached.
    client.batch_execute("select busymate_stats.detach()").unwrap();
    for claims in [user("v"), user("nobody"), None] {
        let response = get(&postgrest, STATS, claims);
        assert_eq!((response.status, response.body.as_str()), (200, "[]"));
    }
    client
        .batch_execute(
            "select busymate_stats.attach('entries', 'devices'); select busymate_stats.refresh_stats()",
        )
        .unwrap();
    for (claims, stats, status) in [
        (user("v"), true, true),
        (user("s"), true, false),
        (user("nobody"), false, false),
        (None, false, false),
        (Some(json!({ "role": "service_role" })), true, true),
        (Some(json!({ "sub": "v" })), true, true),
    ] {
        for (path, seen, key) in [(STATS, stats, "total_entries"), (STATUS, status, "overall")] {
            let response = get(&postgrest, path, claims.clone());
            if seen {
                assert!(assert_row(&response).get(key).is_some(), "{claims:?} {path}: {response:?}");
            } else {
                assert_eq!((response.status, response.body.as_str()), (200, "[]"), "{claims:?} {path}");
            }
        }
    }
}

/// Without grant_api('anon') a request with no token meets the grants: 401, and how to do better.
#[test]
fn what_the_grants_refuse() {
    let (mut client, postgrest) = served("rest_grants");
    client
        .batch_execute(
            "revoke select on public.service_stats, public.service_status from anon, authenticated;
             revoke execute on function public.get_stats() from anon, authenticated",
        )
        .unwrap();
    for path in [STATS, STATUS, "/rpc/get_stats"] {
        let response = get(&postgrest, path, None);
        assert_eq!((response.status, response.header("WWW-Authenticate")), (401, Some("Bearer")), "{path}");
        assert_eq!(response.json()["code"], "42501");
        let response = get(&postgrest, path, user("v"));
        assert_eq!((response.status, response.header("WWW-Authenticate")), (403, None), "{path}");
    }
    assert_eq!(get(&postgrest, STATS, Some(json!({ "role": "service_role" }))).status, 200);
}

#[test]
fn no_fleet_is_an_error_that_says_what_to_do() {
    let (mut client, postgrest) = served("rest_detached");
    client.batch_execute("select busymate_stats.detach()").unwrap();
    let response = rpc(&postgrest, "POST", user("v"));
    assert_eq!((response.status, &response.json()["code"]), (404, &json!("42P01")));
    assert!(response.json()["hint"].as_str().unwrap().contains("busymate_stats.attach"));
    // The capability comes first.
    assert_eq!(rpc(&postgrest, "POST", user("nobody")).body, "null");
}

fn report(postgrest: &PostgRest, claims: Option<Value>, body: &Value) -> Response {
    postgrest.handle(&Request::new("POST", "/rpc/report_status", claims).body(body.to_string()))
}

#[test]
fn a_report_from_who_may_and_what_is_refused() {
    let (mut client, postgrest) = served("rest_report");
    client
        .batch_execute(
            "insert into busymate_stats.roles (name) values ('reporter');
             select busymate_stats.grant_capability('reporter', 'status:edit');
             select busymate_stats.assign_role('r', 'reporter')",
        )
        .unwrap();
    let reported = |cpu: f64| {
        json!({
            "host": { "cpu": cpu, "load": [1.5, 1, 0.5], "mem": { "usedMb": 1, "totalMb": 2 }, "uptime": 5 },
            "components": [{ "key": "afar", "label": "Afar", "unitState": "active" }],
        })
    };
    let written = |cpu: f64| {
        let row = assert_row(&get(&postgrest, STATUS, user("v")));
        assert_eq!((&row["host"]["cpu"], &row["overall"]), (&json!(cpu), &json!("ok")));
    };
    for (claims, cpu) in [(user("r"), 0.25), (Some(json!({ "role": "service_role" })), 0.5)] {
        let response = report(&postgrest, claims, &reported(cpu));
        assert_eq!((response.status, response.body.as_str()), (204, ""), "{response:?}");
        written(cpu);
    }
    // Whoever may not is told so, and nothing is written. Without a token, it takes one.
    for (claims, status) in [
        (user("v"), 403),
        (user("nobody"), 403),
        (Some(json!({ "role": "authenticated" })), 403),
        (Some(json!({ "sub": "v" })), 403),
        (None, 401),
    ] {
        let response = report(&postgrest, claims.clone(), &reported(0.75));
        assert_eq!((response.status, &response.json()["code"]), (status, &json!("42501")), "{claims:?}");
        assert_eq!(response.header("WWW-Authenticate").is_some(), status == 401);
        assert!(response.json()["details"].as_str().unwrap().contains("status:edit"), "{response:?}");
        assert!(response.json()["hint"].as_str().unwrap().contains("assign_role"), "{response:?}");
        written(0.5);
    }
    let mut misshapen = reported(0.75);
    misshapen["components"][0]["probe"] = json!({ "up": true, "httpStatus": 200, "latencyMs": "fast" });
    let response = report(&postgrest, user("r"), &misshapen);
    assert_eq!((response.status, &response.json()["code"]), (400, &json!("22023")));
    let message = response.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("components[0].probe.latencyMs"), "{message}");
    // It has one argument, the body: without one there is no such function.
    for request in [
        Request::new("GET", "/rpc/report_status", user("r")),
        Request::new("POST", "/rpc/report_status", user("r")).body("{}"),
    ] {
        let response = postgrest.handle(&request);
        assert_eq!((response.status, &response.json()["code"]), (404, &json!("PGRST202")));
    }
    written(0.5);
}

#[test]
fn what_is_not_exposed_is_not_found() {
    let (_client, postgrest) = served("rest_hidden");
    for path in ["/rpc/get_status", "/rpc/refresh_stats", "/rpc/grant_api", "/rpc/stats_at"] {
        assert_eq!(get(&postgrest, path, user("v")).status, 404, "{path}");
    }
    assert_eq!(get(&postgrest, "/user_roles?id=eq.1&select=snapshot", user("v")).status, 404);
}

/// One session, thousands of callers in turn: nobody sees what the one before saw.
#[test]
fn a_pooled_session_leaks_nothing() {
    let (mut client, postgrest) = served("rest_pool");
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    let callers = [
        (user("v"), true, true),
        (user("nobody"), false, false),
        (user("s"), true, false),
        (None, false, false),
        (Some(json!({ "role": "service_role" })), true, true),
        (Some(json!({ "role": "authenticated" })), false, false),
        (Some(json!({ "sub": "v", "exp": 1_795_462_656 })), true, true),
    ];
    // Steps of 1, 2, 3 … through the callers, so that each follows each of the others.
    let mut at = 0;
    for turn in 0..3000 {
        at = (at + 1 + turn % (callers.len() - 1)) % callers.len();
        let (claims, stats, status) = callers[at].clone();
        match turn % 4 {
            0 => assert_eq!(rpc(&postgrest, "POST", claims).body != "null", stats, "turn {turn}"),
            1 => assert_eq!(get(&postgrest, STATS, claims).body != "[]", stats, "turn {turn}"),
            2 => assert_eq!(get(&postgrest, STATUS, claims).body != "[]", status, "turn {turn}"),
            _ => {
                let call = json!({ "jsonrpc": "2.0", "id": turn, "method": "tools/call", "params": { "name": "get_status" } });
                let answer =
                    postgrest.handle(&Request::new("POST", "/rpc/mcp", claims).body(call.to_string())).json();
                assert_eq!(answer["id"], turn);
                assert_eq!(answer["result"]["isError"], !status, "turn {turn}");
            }
        }
    }
}

/// What README gives a service of the user's own that writes the row, over PostgREST, whose upsert this is.
#[test]
fn a_service_of_ones_own_writes_the_status() {
    let (mut client, postgrest) = served("rest_own_service");
    client.batch_execute("truncate public.service_status").unwrap();
    let readme = include_str!("../../../README.md");
    let section = readme.split("\n### service_status written by your own service\n").nth(1).unwrap();
    let upsert = |client: &mut Client, overall: &str| {
        let rows = json!([{ "id": 1, "updated_at": "now", "snapshot": { "overall": overall } }]).to_string();
        client.batch_execute("begin; set local role service_role").unwrap();
        let outcome = client.execute(
            r#"WITH pgrst_source AS (INSERT INTO "public"."service_status"("id", "snapshot", "updated_at")
               SELECT "pgrst_body"."id", "pgrst_body"."snapshot", "pgrst_body"."updated_at"
                 FROM (SELECT $1::text::json AS json_data) pgrst_payload,
                      LATERAL (SELECT "id", "snapshot", "updated_at" FROM json_to_recordset(pgrst_payload.json_data)
                                 AS _("id" integer, "snapshot" jsonb, "updated_at" timestamp with time zone)) pgrst_body
               ON CONFLICT("id") DO UPDATE SET "id" = EXCLUDED."id", "snapshot" = EXCLUDED."snapshot",
                                               "updated_at" = EXCLUDED."updated_at" RETURNING 1)
               SELECT '' AS total_result_set, pg_catalog.count(_postgrest_t) FROM (SELECT * FROM pgrst_source) _postgrest_t"#,
            &[&rows],
        );
        client.batch_execute(if outcome.is_ok() { "commit" } else { "rollback" }).unwrap();
        outcome.map_err(|error| harness::refusal_of(&error).code)
    };
    assert_eq!(upsert(&mut client, "ok").unwrap_err(), "42501", "without the grants");
    let grants = section.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    client.batch_execute(grants).unwrap();
    for overall in ["ok", "degraded"] {
        upsert(&mut client, overall).unwrap();
        assert_eq!(assert_row(&get(&postgrest, STATUS, user("v")))["overall"], overall);
    }
    let fresh = "select updated_at > now() - interval '1 minute' from public.service_status";
    assert!(value::<bool>(&mut client, fresh));
}

/// An ALTER TABLE on entries that takes long must not hold PostgREST's sessions, one for each request: they give up
/// long before a statement_timeout would have them.
#[test]
fn who_waits_for_a_lock_gives_up() {
    let (mut client, _) = served("rest_lock");
    client
        .batch_execute(
            "create role rest_patient nologin;
             alter role rest_patient set statement_timeout = '60s'; grant rest_patient to authenticator;
             select busymate_stats.grant_api('rest_patient')",
        )
        .unwrap();
    let postgrest = postgrest(&mut client, 1);
    let caller = || Some(json!({ "role": "rest_patient", "sub": "v" }));
    assert_eq!(rpc(&postgrest, "POST", caller()).status, 200);
    client.batch_execute("begin; alter table public.entries add column note text").unwrap();
    let response = rpc(&postgrest, "POST", caller());
    assert_eq!((response.status, &response.json()["code"]), (500, &json!("55P03")), "{response:?}");
    let call =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "get_stats" } });
    let response = postgrest.handle(&Request::new("POST", "/rpc/mcp", caller()).body(call.to_string()));
    assert_eq!((response.status, &response.json()["error"]["code"]), (200, &json!(-32603)), "{response:?}");
    client.batch_execute("commit").unwrap();
    assert_eq!(rpc(&postgrest, "POST", caller()).status, 200);
}

/// A limit of the session's own counts instead, and what the function sets ends with it.
#[test]
fn a_lock_timeout_of_the_callers_own_counts() {
    let (mut client, _) = served("rest_lock_own");
    let mut other = shared().connect(&value::<String>(&mut client, "select current_database()::text"));
    client.batch_execute("begin; lock table public.entries").unwrap();
    other.batch_execute("set lock_timeout = '1min'; set statement_timeout = '4s'").unwrap();
    assert_eq!(refusal(&mut other, "select public.get_stats()").code, "57014");
    other.batch_execute("set lock_timeout = '10ms'").unwrap();
    assert_eq!(refusal(&mut other, "select public.get_stats()").code, "55P03");
    other.batch_execute("set lock_timeout = 0").unwrap();
    client.batch_execute("rollback").unwrap();
    other.batch_execute("begin; select public.get_stats()").unwrap();
    assert_eq!(value::<String>(&mut other, "show lock_timeout"), "0");
}

/// What ALTER ROLE … SET gives goes into the transaction before the role does.
#[test]
fn a_statement_timeout_of_the_role_holds() {
    let (mut client, _) = served("rest_timeout");
    client
        .batch_execute(
            "create role rest_hasty nologin; alter role rest_hasty set statement_timeout = '300ms';
             grant rest_hasty to authenticator; select busymate_stats.grant_api('rest_hasty');
             select busymate_stats.detach();
             create view public.slow as select created_at, pg_sleep(60)::text as host, 200 as status,
                 's'::text as source, device_uuid from public.entries;
             select busymate_stats.attach('public.slow', 'public.devices')",
        )
        .unwrap();
    let postgrest = postgrest(&mut client, 1);
    let response = rpc(&postgrest, "POST", Some(json!({ "role": "rest_hasty", "sub": "v" })));
    assert_eq!((response.status, &response.json()["code"]), (500, &json!("57014")));
    // The session is none the worse for it.
    let response = get(&postgrest, STATUS, user("v"));
    assert_eq!(response.status, 200);
}

fn comment(client: &mut Client, object: &str) -> Option<String> {
    client.query_one(&format!("select obj_description({object})"), &[]).unwrap().get(0)
}

/// PostgREST shows comments in its OpenAPI description.
#[test]
fn what_is_exposed_is_described() {
    let (mut client, _) = served("rest_comments");
    for function in
        ["get_stats()", "has_capability(text, text)", "mcp(jsonb)", "mcp()", "report_status(jsonb)"]
    {
        let object = format!("'public.{function}'::regprocedure, 'pg_proc'");
        assert!(comment(&mut client, &object).is_some_and(|text| text.len() > 40), "{function}");
    }
    for table in ["service_stats", "service_status"] {
        let object = format!("'public.{table}'::regclass, 'pg_class'");
        assert!(comment(&mut client, &object).is_some(), "{table}");
        let bare: i64 = harness::value(
            &mut client,
            &format!(
                "select count(*) from pg_attribute where attrelid = 'public.{table}'::regclass and attnum > 0
                    and col_description(attrelid, attnum) is null"
            ),
        );
        assert_eq!(bare, 0, "{table}");
    }
}
