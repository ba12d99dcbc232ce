//! Promise: a token names roles where `busymate_stats.role_claim` says, and nowhere else; what users write themselves is
//! no such place.

use harness::access::{grant_editing, make_role, may, sign_in};
use harness::fleet::fleet;
use harness::{Cluster, as_caller, refusal, shared, value};
use postgres::Client;

#[track_caller]
fn assert_may(client: &mut Client, claims: &str, section: &str, expected: bool) {
    as_caller(client, "authenticated", Some(claims), |client| {
        assert_eq!(may(client, section, "view"), expected, "{section} with {claims:.100}");
    });
}

/// Roles `a` and `b` see the sections of their names, and user `u` has `b`.
fn scene(prefix: &str, path: &str) -> (String, Client) {
    let (database, mut client) = fleet(prefix);
    make_role(&mut client, "a", &["a:view"]);
    make_role(&mut client, "b", &["b:view"]);
    client.batch_execute("select busymate_stats.assign_role('u', 'b')").unwrap();
    client.execute("select set_config('busymate_stats.role_claim', $1, false)", &[&path]).unwrap();
    (database, client)
}

#[test]
fn it_is_off_by_default() {
    let (_, mut client) = scene("role_claim_off", "");
    let default: String =
        value(&mut client, "select boot_val from pg_settings where name = 'busymate_stats.role_claim'");
    assert_eq!(default, "");
    for claims in [r#"{"user_role":"a"}"#, r#"{"role":"a","roles":["a"]}"#, r#"{"":"a"}"#] {
        assert_may(&mut client, claims, "a", false);
    }
}

#[test]
fn one_role_or_several() {
    let (_, mut client) = scene("role_claim_one", "user_role");
    for (claims, a, b) in [
        (r#"{"user_role":"a"}"#, true, false),
        (r#"{"user_role":["a","b"]}"#, true, true),
        (r#"{"user_role":["nothing","a"]}"#, true, false),
        // With those of the table.
        (r#"{"sub":"u","user_role":"a"}"#, true, true),
        (r#"{"sub":"u"}"#, false, true),
        (r#"{"sub":"u","user_role":7}"#, false, true),
        (r#"{"user_role":"A"}"#, false, false),
        (r#"{"user_role":"a\u0000"}"#, false, false),
        (r#"{"user_role":"*"}"#, false, false),
        (r#"{"user_role":["a",1]}"#, false, false),
        (r#"{"user_role":{"a":"a"}}"#, false, false),
        (r#"{"app_metadata":{"user_role":"a"}}"#, false, false),
        (r#"{"user_role":"a","user_role":"a"}"#, false, false),
        (r#"{"user_role":"a","sub":""}"#, false, false),
        (r#"["a"]"#, false, false),
    ] {
        assert_may(&mut client, claims, "a", a);
        assert_may(&mut client, claims, "b", b);
    }
}

#[test]
fn a_path() {
    let (_, mut client) = scene("role_claim_path", "app_metadata.roles");
    assert_may(&mut client, r#"{"app_metadata":{"roles":["a"]}}"#, "a", true);
    assert_may(&mut client, r#"{"app_metadata":{"roles":"a"},"roles":["b"]}"#, "b", false);
    assert_may(&mut client, r#"{"app_metadata.roles":"a"}"#, "a", false);
    client.batch_execute(r#"set busymate_stats.role_claim = '"https://a.example/roles"'"#).unwrap();
    assert_may(&mut client, r#"{"https://a.example/roles":["a"]}"#, "a", true);
    assert_may(&mut client, r#"{"app_metadata":{"roles":["a"]}}"#, "a", false);
}

/// A built-in role by its name, and the views and guards that tell of it.
#[test]
fn what_the_role_gives_is_seen_everywhere() {
    let (_, mut client) = scene("role_claim_admin", "user_role");
    client.batch_execute("grant select on busymate_stats.my_capabilities to authenticated").unwrap();
    grant_editing(&mut client, "authenticated");
    sign_in(&mut client, "authenticated", r#"{"user_role":"admin"}"#);
    assert!(may(&mut client, "anything", "at all"));
    let held: String = value(
        &mut client,
        "select section || ':' || action || ' ' || via_role from busymate_stats.my_capabilities",
    );
    assert_eq!(held, "*:* admin");
    client.batch_execute("select busymate_stats.assign_role('somebody', 'admin')").unwrap();
    sign_in(&mut client, "authenticated", r#"{"user_role":"viewer"}"#);
    let refused = refusal(&mut client, "select busymate_stats.assign_role('another', 'admin')");
    assert_eq!(refused.code, "42501");
}

/// What the role grants changes, and the setting does, while its holder is remembered.
#[test]
fn a_change_counts_at_once() {
    let (database, mut client) = scene("role_claim_change", "user_role");
    let mut reader = shared().connect(&database);
    reader.batch_execute("set busymate_stats.role_claim = 'user_role'").unwrap();
    sign_in(&mut reader, "authenticated", r#"{"user_role":"a"}"#);
    let ask = reader.prepare("select public.has_capability('a', 'view')").unwrap();
    let mut asked = || reader.query_one(&ask, &[]).unwrap().get::<_, bool>(0);
    assert!(asked() && asked());
    client.batch_execute("select busymate_stats.revoke_capability('a', 'a:view')").unwrap();
    assert!(!asked());
    client.batch_execute("select busymate_stats.grant_capability('a', 'a:view')").unwrap();
    assert!(asked() && asked());
    client.batch_execute("delete from busymate_stats.roles where name = 'a'").unwrap();
    assert!(!asked());

    make_role(&mut client, "a", &["a:view"]);
    reader.batch_execute("begin; set local role none; set local busymate_stats.role_claim = ''").unwrap();
    sign_in(&mut reader, "authenticated", r#"{"user_role":"a"}"#);
    assert!(!may(&mut reader, "a", "view"));
    reader.batch_execute("rollback").unwrap();
    sign_in(&mut reader, "authenticated", r#"{"user_role":"a"}"#);
    assert!(may(&mut reader, "a", "view"));
}

#[test]
fn what_users_write_is_refused() {
    let (_, mut client) = scene("role_claim_refused", "");
    for path in ["user_metadata", "user_metadata.role", r#""user_metadata".role"#, "a.user_metadata.b"] {
        let refused = refusal(&mut client, &format!("set busymate_stats.role_claim = '{path}'"));
        assert_eq!(refused.code, "22023", "{path}");
        assert!(refused.hint.contains("app_metadata"), "{path}: {}", refused.hint);
    }
    for path in [".", "a..b", "a.", "\"a", "a b\"c\""] {
        let refused = refusal(&mut client, &format!("set busymate_stats.role_claim = '{path}'"));
        assert_eq!((refused.code.as_str(), refused.hint.contains("dots")), ("22023", true), "{path}");
    }
    assert_eq!(value::<String>(&mut client, "show busymate_stats.role_claim"), "");
}

/// Whoever is no superuser sets it neither before nor after the library is loaded.
#[test]
fn a_user_cannot_set_it() {
    let preloaded = shared();
    let late = Cluster::start("shared_preload_libraries = ''");
    for cluster in [preloaded, &late] {
        let database = cluster.create_database("role_claim_user");
        let mut superuser = cluster.connect(&database);
        superuser.batch_execute("create extension busymate_stats").unwrap();
        superuser.batch_execute("create role role_claim_user login").unwrap();
        let mut client = cluster.connect_as("role_claim_user", &database);
        let set = client.batch_execute("set busymate_stats.role_claim = 'user_role'");
        let forged = r#"{"user_role":"admin"}"#;
        client.execute("select set_config('request.jwt.claims', $1, false)", &[&forged]).unwrap();
        assert!(!may(&mut client, "stats", "view"), "{set:?}");
        assert_eq!(refusal(&mut client, "set busymate_stats.role_claim = 'user_role'").code, "42501");
    }
}
