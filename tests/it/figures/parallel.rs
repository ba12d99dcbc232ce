//! Promise: `has_capability` answers in a parallel worker as it does in the leader.

use harness::access::{claims, make_user, sign_in};
use harness::fleet::fleet;
use harness::{Cluster, SUPABASE_ROLES, eventually, installed, value};
use postgres::Client;
use serde_json::Value;

/// Everything is cheap enough for workers, and the leader leaves the rows to them.
const PARALLEL: &str = "
    set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
    set max_parallel_workers_per_gather = 2; set parallel_leader_participation = off;
";

const ROWS: u64 = 2_000;

fn scene(prefix: &str) -> Client {
    let (_, mut client) = fleet(prefix);
    client
        .batch_execute(&format!(
            "create table many as select 'stats'::text as section from generate_series(1, {ROWS});
             create table guarded as table many; alter table guarded enable row level security;
             create policy view on guarded using (public.has_capability(section, 'view'));
             grant select on many, guarded to public; analyze many; analyze guarded; {PARALLEL}"
        ))
        .unwrap();
    make_user(&mut client, "u", &["stats:view"]);
    client
}

/// The node of a plan that `wanted` accepts.
fn node<'a>(plan: &'a Value, wanted: &impl Fn(&Value) -> bool) -> Option<&'a Value> {
    if wanted(plan) {
        return Some(plan);
    }
    plan["Plans"].as_array()?.iter().find_map(|child| node(child, wanted))
}

/// How many rows of `table` the workers let through; waits until the server has workers to spare.
#[track_caller]
fn rows_in_workers(client: &mut Client, table: &str) -> u64 {
    let query = format!(
        "explain (analyze, timing off, format json)
         select count(*) from {table} where public.has_capability(section, 'view')"
    );
    eventually("workers are launched", || {
        let plan: Value = value(client, &query);
        let plan = &plan[0]["Plan"];
        let gather = node(plan, &|node| node["Workers Launched"].is_u64()).expect("a parallel plan");
        let scan = node(gather, &|node| node["Node Type"] == "Seq Scan").unwrap();
        let rows = scan["Actual Rows"].as_f64().unwrap() * scan["Actual Loops"].as_f64().unwrap();
        (gather["Workers Launched"] != 0).then_some(rows.round() as u64)
    })
}

/// The same question on a table that anybody may read, and on one whose policy asks it too.
#[track_caller]
fn assert_all_rows(client: &mut Client, expected: bool, caller: &str) {
    for table in ["many", "guarded"] {
        let rows = rows_in_workers(client, table);
        assert_eq!(rows, if expected { ROWS } else { 0 }, "{caller}: {table}");
    }
}

#[test]
fn a_worker_sees_the_leaders_role_and_claims() {
    let mut client = scene("workers");
    for (role, sub, expected) in [
        ("postgres", "nobody", true),
        ("service_role", "nobody", true),
        ("authenticated", "u", true),
        ("authenticated", "nobody", false),
        ("authenticated", "", false),
    ] {
        sign_in(&mut client, role, &claims(sub));
        assert_all_rows(&mut client, expected, &format!("{role}, {sub:?}"));
        client.batch_execute("begin isolation level serializable read only; set local role anon").unwrap();
        assert_all_rows(&mut client, sub == "u", "set local role");
        client.batch_execute("commit; begin; set local \"request.jwt.claims\" = ''").unwrap();
        assert_all_rows(&mut client, role != "authenticated", "set local claims");
        client.batch_execute("commit").unwrap();
    }
}

/// What the leader's transaction has granted and not committed counts in its workers.
#[test]
fn a_worker_sees_the_leaders_own_grants() {
    let mut client = scene("own_grants");
    for isolation in ["read committed", "repeatable read"] {
        client.batch_execute(&format!("begin isolation level {isolation}")).unwrap();
        sign_in(&mut client, "authenticated", &claims("later"));
        assert_all_rows(&mut client, false, "before");
        client
            .batch_execute("set role none; savepoint s; select busymate_stats.assign_role('later', 'viewer')")
            .unwrap();
        sign_in(&mut client, "authenticated", &claims("later"));
        assert_all_rows(&mut client, true, "granted");
        client.batch_execute("rollback to s").unwrap();
        sign_in(&mut client, "authenticated", &claims("later"));
        assert_all_rows(&mut client, false, "rolled back to the savepoint");
        client.batch_execute("rollback").unwrap();
    }
}

/// What the token itself says counts there too: roles that it names, where the leader's setting says, and its revocation.
#[test]
fn a_worker_sees_the_leaders_token() {
    let mut client = scene("tokens");
    client.batch_execute("insert into busymate_stats.revoked_tokens (jti) values ('t')").unwrap();
    for (setting, claims, expected) in [
        ("user_role", r#"{"user_role":"u"}"#, true),
        ("app.role", r#"{"user_role":"u"}"#, false),
        ("", r#"{"user_role":"u"}"#, false),
        ("", r#"{"sub":"u","jti":"another"}"#, true),
        ("", r#"{"sub":"u","jti":"t"}"#, false),
    ] {
        client.batch_execute(&format!("begin; set local busymate_stats.role_claim = '{setting}'")).unwrap();
        client.execute("select set_config('request.jwt.claims', $1, true)", &[&claims]).unwrap();
        client.batch_execute("set local role authenticated").unwrap();
        assert_all_rows(&mut client, expected, &format!("{setting}: {claims}"));
        client.batch_execute("rollback").unwrap();
    }
}

/// A statement that runs in a worker as a whole, where the library is loaded by the worker itself too.
#[test]
fn a_whole_statement_in_a_worker() {
    let late = Cluster::start("shared_preload_libraries = ''");
    late.connect("postgres").batch_execute(SUPABASE_ROLES).unwrap();
    let mut unloaded = late.connect("postgres");
    unloaded.batch_execute("create extension busymate_stats").unwrap();
    for mut client in [unloaded, installed("whole").1] {
        make_user(&mut client, "u", &["stats:view"]);
        let force = harness::forces_parallel_plans();
        client.batch_execute(&format!("set {force} = on")).unwrap();
        for (sub, section, expected) in
            [("u", "stats", true), ("u", "status", false), ("nobody", "stats", false)]
        {
            sign_in(&mut client, "authenticated", &claims(sub));
            let ask = format!("select public.has_capability('{section}', 'view')");
            let plan: Value = value(&mut client, &format!("explain (format json) {ask}"));
            assert_eq!(plan[0]["Plan"]["Node Type"], "Gather");
            assert_eq!(value::<bool>(&mut client, &ask), expected, "{sub}: {section}");
        }
    }
}
