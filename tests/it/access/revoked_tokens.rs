//! Promise: a token that stands in `revoked_tokens` holds nothing, from the commit on, in every session and on every
//! surface; its row goes when it has expired.

use harness::access::{attempt, make_user, may, sign_in};
use harness::api::served;
use harness::fleet::fleet;
use harness::{Cluster, as_caller, eventually, installed, shared, value};
use postgres::{Client, Statement};

/// The claims of user `sub`'s token `jti`.
fn token(sub: &str, jti: &str) -> String {
    serde_json::json!({ "role": "authenticated", "sub": sub, "jti": jti, "exp": 1_795_462_656 }).to_string()
}

#[track_caller]
fn assert_may(client: &mut Client, claims: &str, expected: bool) {
    as_caller(client, "authenticated", Some(claims), |client| {
        assert_eq!(may(client, "stats", "view"), expected, "{claims:.100}");
    });
}

#[test]
fn only_the_token_itself_is_revoked() {
    let (_, mut client) = fleet("revoked_only");
    client
        .batch_execute(
            "select busymate_stats.assign_role('v', 'viewer');
             insert into busymate_stats.revoked_tokens (jti) values ('t1'), ('%'), ('')",
        )
        .unwrap();
    for (claims, expected) in [
        (token("v", "t1"), false),
        (token("v", "t2"), true),
        (token("v", "T1"), true),
        (token("v", "t1 "), true),
        (token("v", ""), false),
        (r#"{"sub":"v","jt\u0069":"t\u0031"}"#.into(), false),
        (r#"{"sub":"v"}"#.into(), true),
        (r#"{"sub":"v","jti":null}"#.into(), true),
        (r#"{"sub":"v","x":{"jti":"t1"}}"#.into(), true),
        // One that could not be revoked is not let in.
        (r#"{"sub":"v","jti":1}"#.into(), false),
        (r#"{"sub":"v","jti":["t2"]}"#.into(), false),
        (r#"{"sub":"v","jti":"t2","jti":"t2"}"#.into(), false),
        (r#"{"sub":"v","jti":"t1\u0000"}"#.into(), true),
        (token("v", &"t".repeat(1 << 20)), true),
    ] {
        assert_may(&mut client, &claims, expected);
    }
    client.batch_execute("set busymate_stats.role_claim = 'user_role'").unwrap();
    assert_may(&mut client, r#"{"user_role":"viewer","jti":"t2"}"#, true);
    assert_may(&mut client, r#"{"user_role":"viewer","jti":"t1"}"#, false);
}

#[test]
fn on_every_surface() {
    let (mut client, _) = served("revoked_surfaces");
    client
        .batch_execute(
            "select busymate_stats.assign_role('v', 'admin'); select busymate_stats.refresh_stats();
             grant select on busymate_stats.my_capabilities to authenticated",
        )
        .unwrap();
    let everything = "select array[public.has_capability('stats', 'view'), public.get_stats() is not null,
        exists (select from public.service_stats), exists (select from public.service_status),
        exists (select from busymate_stats.my_capabilities),
        public.mcp('{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"get_stats\"}}')::text
            like '%structuredContent%']";
    let report = "select public.report_status('{\"components\": []}')";
    for expected in [true, false] {
        sign_in(&mut client, "authenticated", &token("v", "t"));
        let seen: Vec<bool> = value(&mut client, everything);
        assert_eq!(seen, [expected; 6]);
        client.batch_execute("begin").unwrap();
        let reported = client.batch_execute(report).map_err(|error| harness::refusal_of(&error).code);
        if expected {
            // It may fail for what it says, not for who says it.
            assert_ne!(reported, Err("42501".into()));
        } else {
            assert_eq!(reported, Err("42501".into()));
        }
        client.batch_execute("rollback").unwrap();
        sign_in(&mut client, "none", "");
        client
            .batch_execute(
                "insert into busymate_stats.revoked_tokens (jti) values ('t') on conflict do nothing",
            )
            .unwrap();
    }
}

fn reader(database: &str) -> (Client, Statement) {
    let mut client = shared().connect_as("authenticator", database);
    sign_in(&mut client, "authenticated", &token("v", "t"));
    let ask = client.prepare("select public.has_capability('stats', 'view')").unwrap();
    (client, ask)
}

/// Each revokes token `t`, which nothing does before.
const REVOCATIONS: [&str; 4] = [
    "insert into busymate_stats.revoked_tokens (jti) values ('t')",
    "insert into busymate_stats.revoked_tokens (jti) values ('t'), ('another') on conflict do nothing",
    "insert into busymate_stats.revoked_tokens (jti) values ('x'); update busymate_stats.revoked_tokens set jti = 't'",
    "set session_replication_role = replica; insert into busymate_stats.revoked_tokens (jti) values ('t'); reset session_replication_role",
];

/// Each takes that back.
const UNDONE: [&str; 3] = [
    "delete from busymate_stats.revoked_tokens",
    "truncate busymate_stats.revoked_tokens",
    "update busymate_stats.revoked_tokens set jti = 'else' where jti = 't'",
];

#[test]
fn a_revocation_counts_from_its_commit() {
    let (database, mut writer) = fleet("revoked_stale");
    writer.batch_execute("select busymate_stats.assign_role('v', 'viewer')").unwrap();
    let (mut client, ask) = reader(&database);
    let mut asked = || client.query_one(&ask, &[]).unwrap().get::<_, bool>(0);
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let mut open = shared().connect_as("authenticator", &database);
        sign_in(&mut open, "authenticated", &token("v", "t"));
        open.batch_execute(&format!("begin isolation level {isolation}")).unwrap();
        for (revoke, undo) in REVOCATIONS.iter().zip(UNDONE.iter().cycle()) {
            assert!(asked() && may(&mut open, "stats", "view"), "{isolation}: {revoke}");
            writer.batch_execute(&format!("begin; {revoke}")).unwrap();
            assert!(asked() && may(&mut open, "stats", "view"), "{isolation}: {revoke}, uncommitted");
            writer.batch_execute("rollback; reset session_replication_role").unwrap();
            assert!(asked(), "{isolation}: {revoke}, rolled back");
            writer.batch_execute(revoke).unwrap();
            assert!(!asked() && !may(&mut open, "stats", "view"), "{isolation}: {revoke}");
            writer.batch_execute(undo).unwrap();
            assert!(asked() && may(&mut open, "stats", "view"), "{isolation}: {undo}");
            writer.batch_execute("delete from busymate_stats.revoked_tokens").unwrap();
        }
    }
}

/// The table is read by its index: memory and time do not grow with it, and no transaction id is taken.
#[test]
fn among_many() {
    let (_, mut client) = fleet("revoked_many");
    client
        .batch_execute(
            "select busymate_stats.assign_role('v', 'viewer');
             insert into busymate_stats.revoked_tokens (jti) select 'token ' || n from generate_series(1, 200000) n",
        )
        .unwrap();
    let table: u32 = value(&mut client, "select 'busymate_stats.revoked_tokens'::regclass::oid");
    client.batch_execute("begin").unwrap();
    sign_in(&mut client, "authenticated", "");
    let rows_read = format!(
        "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_all_tables where relid = {table}"
    );
    for (jti, expected) in
        [("token 77777", false), ("token 200000", false), ("token 0", true), ("another", true)]
    {
        client.execute("select set_config('request.jwt.claims', $1, true)", &[&token("v", jti)]).unwrap();
        let before: Option<i64> = value(&mut client, &rows_read);
        assert_eq!(may(&mut client, "stats", "view"), expected, "{jti}");
        let after: Option<i64> = value(&mut client, &rows_read);
        assert!(after.unwrap_or(0) - before.unwrap_or(0) <= 1, "{jti}: {before:?} {after:?}");
    }
    assert_eq!(value::<Option<String>>(&mut client, "select pg_current_xact_id_if_assigned()::text"), None);
}

#[test]
fn who_may_read_and_write_the_table() {
    let (_, mut client) = fleet("revoked_rights");
    client
        .batch_execute(
            "grant usage on schema busymate_stats to authenticated;
             grant select, insert, update, delete on busymate_stats.revoked_tokens to authenticated;
             insert into busymate_stats.revoked_tokens (jti) values ('old')",
        )
        .unwrap();
    make_user(&mut client, "sees", &["tokens:view"]);
    make_user(&mut client, "edits", &["tokens:view", "tokens:edit"]);
    make_user(&mut client, "other", &["roles:view", "roles:edit", "stats:edit"]);
    let rows = "select from busymate_stats.revoked_tokens";
    let insert =
        "insert into busymate_stats.revoked_tokens (jti, expires_at) values ('new', now() + interval '1 h')";
    let update = "update busymate_stats.revoked_tokens set revoked_at = now()";
    let delete = "delete from busymate_stats.revoked_tokens";
    for (sub, sees, edits) in [("edits", 1, 1), ("sees", 1, 0), ("other", 0, 0), ("nobody", 0, 0)] {
        assert_eq!(attempt(&mut client, "authenticated", sub, rows).unwrap(), sees, "{sub}");
        for statement in [update, delete] {
            assert_eq!(
                attempt(&mut client, "authenticated", sub, statement).unwrap(),
                edits,
                "{sub}: {statement}"
            );
        }
        let inserted = attempt(&mut client, "authenticated", sub, insert).map_err(|refused| refused.code);
        assert_eq!(inserted, if edits == 1 { Ok(1) } else { Err("42501".into()) }, "{sub}");
    }
    assert_eq!(attempt(&mut client, "anon", "edits", rows).unwrap_err().code, "42501");
}

const EXPIRED: &str = "insert into busymate_stats.revoked_tokens (jti, expires_at) values
    ('gone', now() - interval '1 second'), ('long gone', '-infinity'), ('stays', now() + interval '1 day'),
    ('for good', null), ('for ever', 'infinity')";

const LEFT: &str = "select string_agg(jti, ', ' order by jti) from busymate_stats.revoked_tokens";

#[test]
fn a_refresh_clears_what_has_expired() {
    let (_, mut client) = fleet("revoked_cleared");
    client.batch_execute(EXPIRED).unwrap();
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(value::<String>(&mut client, LEFT), "for ever, for good, stays");
}

/// The worker clears them too, also where no fleet is attached.
#[test]
fn the_worker_clears_what_has_expired() {
    let cluster = Cluster::start("busymate_stats.refresh_interval = '1s'");
    for attached in [false, true] {
        let database = cluster.create_database("revoked_worker");
        let mut client = cluster.connect(&database);
        client.batch_execute("create extension busymate_stats").unwrap();
        if attached {
            client.batch_execute("select busymate_stats.create_fleet_tables()").unwrap();
        }
        client.batch_execute(EXPIRED).unwrap();
        eventually("expired rows are cleared", || {
            (value::<String>(&mut client, LEFT) == "for ever, for good, stays").then_some(())
        });
    }
}

/// Neither extension nor library stands in the way of the other's absence.
#[test]
fn a_table_that_was_dropped_and_made_again() {
    let (database, mut owner) = installed("revoked_again");
    for _ in 0..2 {
        owner
            .batch_execute(
                "select busymate_stats.assign_role('v', 'viewer');
                 insert into busymate_stats.revoked_tokens (jti) values ('t')",
            )
            .unwrap();
        let (mut client, ask) = reader(&database);
        assert!(!client.query_one(&ask, &[]).unwrap().get::<_, bool>(0));
        owner.batch_execute("drop extension busymate_stats; create extension busymate_stats").unwrap();
        owner.batch_execute("select busymate_stats.assign_role('v', 'viewer')").unwrap();
        assert!(may(&mut client, "stats", "view"));
    }
}
