//! Promise: where `busymate_stats.claims_trusted_from` names logins, claims count in their sessions only; in any other
//! they are nobody's.

use harness::access::{claims, may, sign_in};
use harness::fleet::fleet;
use harness::{Cluster, eventually, refusal, shared, value};
use postgres::Client;

/// A session of `login`, which has signed in as the viewer.
fn signed_in(login: &str, database: &str) -> Client {
    let mut client = shared().connect_as(login, database);
    client.execute("select set_config('request.jwt.claims', $1, false)", &[&claims("v")]).unwrap();
    client
}

/// A database that trusts `list`, and in which `v` is a viewer. Roles are the cluster's: `mallory` may be anybody that
/// claims are for.
fn scene(prefix: &str, list: &str) -> (String, Client) {
    let (database, mut client) = fleet(prefix);
    client.batch_execute("select busymate_stats.assign_role('v', 'viewer')").unwrap();
    client
        .batch_execute(&format!(
            "do $$ begin create role {prefix}_mallory login; exception when duplicate_object then null; end $$;
             grant authenticated to {prefix}_mallory"
        ))
        .unwrap();
    client
        .batch_execute(&format!("alter database {database} set busymate_stats.claims_trusted_from = {list}"))
        .unwrap();
    (database, client)
}

#[test]
fn every_login_is_trusted_by_default() {
    let (database, mut client) = scene("trust_all", "default");
    for login in ["authenticator", "trust_all_mallory"] {
        assert!(may(&mut signed_in(login, &database), "stats", "view"), "{login}");
    }
    let default: String = value(
        &mut client,
        "select boot_val from pg_settings where name = 'busymate_stats.claims_trusted_from'",
    );
    assert_eq!(default, "");
}

#[test]
fn a_gateway_is_trusted_and_nobody_else() {
    let (database, _) = scene("trust_one", "supabase_admin, Authenticator");
    let mut gateway = signed_in("authenticator", &database);
    for role in ["none", "anon", "authenticated"] {
        sign_in(&mut gateway, role, &claims("v"));
        assert!(may(&mut gateway, "stats", "view"), "{role}");
        sign_in(&mut gateway, role, &claims("nobody"));
        assert!(!may(&mut gateway, "stats", "view"), "{role}");
    }
    // Whatever role it takes: the login counts.
    let mut mallory = signed_in("trust_one_mallory", &database);
    for role in ["none", "authenticated"] {
        sign_in(&mut mallory, role, &claims("v"));
        assert!(!may(&mut mallory, "stats", "view"), "{role}");
    }
    // A superuser holds everything as himself, and nothing as somebody else whom he only claims to be.
    let mut superuser = signed_in("postgres", &database);
    assert!(may(&mut superuser, "stats", "edit"));
    sign_in(&mut superuser, "authenticated", &claims("v"));
    assert!(!may(&mut superuser, "stats", "view"));
    // A role that bypasses RLS needs no claims.
    sign_in(&mut superuser, "service_role", &claims("v"));
    assert!(may(&mut superuser, "stats", "edit"));
}

/// Every surface takes the same for nobody.
#[test]
fn an_untrusted_login_sees_nothing_anywhere() {
    let (database, mut owner) = scene("trust_surfaces", "authenticator");
    owner
        .batch_execute(
            "select busymate_stats.grant_api(); select busymate_stats.refresh_stats();
             insert into public.service_status (snapshot) values ('{}');
             grant select on busymate_stats.my_capabilities to authenticated",
        )
        .unwrap();
    let everything = "select array[public.has_capability('stats', 'view'), public.get_stats() is not null,
        exists (select from public.service_stats), exists (select from public.service_status),
        exists (select from busymate_stats.my_capabilities),
        public.mcp('{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"get_stats\"}}')::text
            like '%structuredContent%']";
    for (login, expected) in [("authenticator", true), ("trust_surfaces_mallory", false)] {
        let mut client = signed_in(login, &database);
        client.batch_execute("set role authenticated").unwrap();
        let seen: Vec<bool> = value(&mut client, everything);
        assert_eq!(seen, [expected; 6], "{login}");
    }
}

/// Only a superuser hands his session to another role; it is then that role's.
#[test]
fn a_session_that_was_handed_over() {
    let (database, _) = scene("trust_handed", "authenticator");
    let mut superuser = signed_in("postgres", &database);
    superuser.batch_execute("set session authorization authenticator; set role authenticated").unwrap();
    assert!(may(&mut superuser, "stats", "view"));
    superuser
        .batch_execute("set session authorization trust_handed_mallory; set role authenticated")
        .unwrap();
    assert!(!may(&mut superuser, "stats", "view"));
    superuser.batch_execute("reset session authorization; set role authenticated").unwrap();
    assert!(!may(&mut superuser, "stats", "view"));
    let mut mallory = signed_in("trust_handed_mallory", &database);
    assert_eq!(refusal(&mut mallory, "set session authorization authenticator").code, "42501");
}

/// Neither a function that lends its owner's rights nor a setting of one's own makes a session trusted.
#[test]
fn ways_around_it() {
    let (database, mut owner) = scene("trust_around", "authenticator");
    owner
        .batch_execute(
            "grant create on schema public to authenticator; set session authorization authenticator;
             create function public.lent() returns boolean language sql security definer
                 as 'select public.has_capability(''stats'', ''view'')'",
        )
        .unwrap();
    let mut mallory = signed_in("trust_around_mallory", &database);
    assert!(!value::<bool>(&mut mallory, "select public.lent()"));
    for statement in [
        "set busymate_stats.claims_trusted_from = trust_around_mallory",
        "reset busymate_stats.claims_trusted_from",
        "alter role trust_around_mallory set busymate_stats.claims_trusted_from = ''",
        "set role authenticator",
    ] {
        assert_eq!(refusal(&mut mallory, statement).code, "42501", "{statement}");
    }
    mallory.batch_execute("discard all").unwrap();
    sign_in(&mut mallory, "none", &claims("v"));
    assert!(!may(&mut mallory, "stats", "view"));
    assert!(value::<bool>(&mut signed_in("authenticator", &database), "select public.lent()"));
}

/// What the list says is looked at anew: a name that changes hands, and the list itself, while answers are remembered.
#[test]
fn changes_count_at_once() {
    let (database, mut superuser) = scene("trust_changes", "'\"trust Changes\"'");
    let mut client = signed_in("trust_changes_mallory", &database);
    let ask = client.prepare("select public.has_capability('stats', 'view')").unwrap();
    let mut asked = || client.query_one(&ask, &[]).unwrap().get::<_, bool>(0);
    assert!(!asked() && !asked());
    // (A session's own role cannot be renamed under it by itself; a superuser can.)
    superuser.batch_execute("alter role trust_changes_mallory rename to \"trust Changes\"").unwrap();
    assert!(asked() && asked());
    superuser.batch_execute("alter role \"trust Changes\" rename to trust_changes_mallory").unwrap();
    assert!(!asked());

    let own = Cluster::start(harness::NO_WORKER);
    own.connect("postgres")
        .batch_execute(
            "create role gateway login; create extension busymate_stats;
             select busymate_stats.assign_role('v', 'viewer')",
        )
        .unwrap();
    let mut client = own.connect_as("gateway", "postgres");
    sign_in(&mut client, "none", &claims("v"));
    assert!(may(&mut client, "stats", "view"));
    for (list, expected) in [("somebody", false), ("gateway", true), ("", true)] {
        own.configure(&format!("busymate_stats.claims_trusted_from = '{list}'"));
        own.reload();
        eventually("the setting is loaded", || {
            (value::<String>(&mut client, "show busymate_stats.claims_trusted_from") == list).then_some(())
        });
        assert_eq!(may(&mut client, "stats", "view"), expected, "{list:?}");
    }
}

#[test]
fn what_is_no_list_is_refused() {
    let (_, mut client) = scene("trust_refused", "default");
    for list in [",", "a,,b", "a b", "\"a"] {
        let refused = refusal(&mut client, &format!("set busymate_stats.claims_trusted_from = '{list}'"));
        assert_eq!((refused.code.as_str(), refused.hint.contains("commas")), ("22023", true), "{list}");
    }
}

/// A worker of the leader's carries the leader's claims, trusted or not.
#[test]
fn in_a_parallel_worker() {
    let (database, mut owner) = scene("trust_parallel", "authenticator");
    owner
        .batch_execute(
            "create table many as select 1 from generate_series(1, 1000); grant select on many to public",
        )
        .unwrap();
    let force = harness::forces_parallel_plans();
    let ask = "select public.has_capability('stats', 'view')";
    for (login, handed, expected) in [
        ("authenticator", None, true),
        ("trust_parallel_mallory", None, false),
        ("postgres", None, false),
        ("postgres", Some("authenticator"), true),
        ("postgres", Some("trust_parallel_mallory"), false),
    ] {
        let mut client = signed_in(login, &database);
        if let Some(other) = handed {
            client.batch_execute(&format!("set session authorization {other}")).unwrap();
        }
        client.batch_execute(&format!("set role authenticated; set {force} = on")).unwrap();
        let plan: serde_json::Value = value(&mut client, &format!("explain (format json) {ask}"));
        assert_eq!(plan[0]["Plan"]["Node Type"], "Gather");
        assert_eq!(value::<bool>(&mut client, ask), expected, "{login}, {handed:?}");
    }
}
