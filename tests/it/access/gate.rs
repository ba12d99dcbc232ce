//! Promise: every surface asks for its capability, whoever the caller is and however he came.

use harness::access::{claims, make_user, sign_in};
use harness::fleet::fleet;
use harness::{as_caller, refusal, shared, value};
use postgres::Client;

/// What a caller can look at, as a boolean, and the capability that it asks for. All grants are given, so that nothing
/// but capabilities decides.
const SURFACES: [(&str, &str); 19] = [
    ("select public.get_stats() is not null", "stats"),
    ("select busymate_stats.stats_at(now()) is not null", "stats"),
    ("select busymate_stats.stats_recomputed(now()) is not null", "stats"),
    ("select exists (select from public.service_stats)", "stats"),
    ("select exists (select from public.service_stats where id = 1)", "stats"),
    ("select exists (select from public.service_status)", "status"),
    ("select exists (select from public.service_status where id = 1)", "status"),
    ("select exists (select from busymate_stats.roles)", "roles"),
    ("select exists (select from busymate_stats.role_capabilities)", "roles"),
    ("select exists (select from busymate_stats.user_roles)", "roles"),
    ("select public.has_capability('stats', 'view')", "stats"),
    ("select public.has_capability('status', 'view')", "status"),
    ("select public.has_capability('roles', 'view')", "roles"),
    // Inside a function that runs with a superuser's rights, the outer role still counts.
    ("select definer.stats() is not null", "stats"),
    ("select definer.stats_nested() is not null", "stats"),
    ("select definer.may('status', 'view')", "status"),
    ("select definer.capabilities('roles')", "roles"),
    // And inside one whose owner's rights are few, that owner's policies do.
    ("select plain.stats_rows() = 1", "stats"),
    ("select plain.status_rows() = 1", "status"),
];

const SCENE: &str = "
    create role plain nologin;
    create role inherits_service login inherit;
    grant service_role to inherits_service;
    select busymate_stats.refresh_stats();
    insert into public.service_status (snapshot) values ('{}');

    create schema definer;
    create function definer.stats() returns jsonb security definer
        language sql as 'select public.get_stats()';
    create function definer.stats_nested() returns jsonb security definer
        language plpgsql as 'begin return definer.stats(); end';
    create function definer.may(section text, action text) returns boolean security definer
        language sql as 'select public.has_capability(section, action)';
    create function definer.capabilities(wanted text) returns boolean security definer
        language sql as $$select exists (select from busymate_stats.my_capabilities
            where section in ('*', wanted) and action in ('*', 'view'))$$;

    create schema plain;
    grant usage on schema plain, busymate_stats to plain;
    grant select on public.service_stats, public.service_status to plain;
    create function plain.stats_rows() returns bigint security definer
        language sql as 'select count(*) from public.service_stats';
    create function plain.status_rows() returns bigint security definer
        language sql as 'select count(*) from public.service_status';
    alter function plain.stats_rows() owner to plain;
    alter function plain.status_rows() owner to plain;
";

const GRANTS: &str = "
    grant usage on schema busymate_stats, definer, plain to public;
    grant select on all tables in schema busymate_stats, public to public;
    grant execute on all functions in schema busymate_stats, public to public;
";

const ALL: &str = "stats status roles";

/// Role, the user that the claims name, and the sections that he may view.
const CALLERS: [(&str, Option<&str>, &str); 20] = [
    ("postgres", None, ALL),
    ("postgres", Some("nobody"), ALL),
    ("service_role", None, ALL),
    ("service_role", Some("nobody"), ALL),
    ("authenticated", Some("boss"), ALL),
    ("authenticated", Some("looker"), ALL),
    ("anon", Some("looker"), ALL),
    ("authenticated", Some("everything"), ALL),
    ("authenticated", Some("stats_only"), "stats"),
    ("authenticated", Some("stats_any"), "stats"),
    ("authenticated", Some("status_only"), "status"),
    ("authenticated", Some("roles_only"), "roles"),
    ("authenticated", Some("two_roles"), "stats status"),
    ("authenticated", Some("edits_all"), ""),
    ("authenticated", Some("elsewhere"), ""),
    ("authenticated", Some("empty_role"), ""),
    ("authenticated", Some("nobody"), ""),
    ("authenticated", None, ""),
    ("anon", None, ""),
    // A member of a BYPASSRLS role does not have the attribute.
    ("inherits_service", Some("nobody"), ""),
];

fn make_users(client: &mut Client) {
    for (sub, capabilities) in [
        ("everything", &["*:*"][..]),
        ("stats_only", &["stats:view"]),
        ("stats_any", &["stats:*"]),
        ("status_only", &["status:view"]),
        ("roles_only", &["roles:view"]),
        ("two_roles", &["status:view"]),
        ("edits_all", &["*:edit"]),
        ("elsewhere", &["tokens:view", "stat:view", "statss:view", "STATUS:view", "roles:View"]),
        ("empty_role", &[]),
    ] {
        make_user(client, sub, capabilities);
    }
    client
        .batch_execute(
            "select busymate_stats.assign_role('boss', 'admin'); select busymate_stats.assign_role('looker', 'viewer');
             select busymate_stats.assign_role('two_roles', 'stats_only')",
        )
        .unwrap();
}

#[track_caller]
fn assert_surfaces(client: &mut Client, caller: &str, sections: &str) {
    for (look, section) in SURFACES {
        let expected = sections.split(' ').any(|held| held == section);
        assert_eq!(value::<Option<bool>>(client, look), Some(expected), "{caller}: {look}");
    }
}

#[test]
fn every_caller_on_every_surface() {
    let (database, mut superuser) = fleet("surfaces");
    superuser.batch_execute(SCENE).unwrap();
    superuser.batch_execute(GRANTS).unwrap();
    make_users(&mut superuser);
    let mut authenticator = shared().connect_as("authenticator", &database);
    for (role, sub, sections) in CALLERS {
        let caller = format!("{role}, {sub:?}");
        let claims = sub.map(claims);
        as_caller(&mut superuser, role, claims.as_deref(), |client| {
            assert_surfaces(client, &caller, sections);
        });
        // PostgREST's way: the session belongs to a role that holds nothing.
        if ["anon", "authenticated", "service_role"].contains(&role) {
            as_caller(&mut authenticator, role, claims.as_deref(), |client| {
                assert_surfaces(client, &caller, sections);
            });
        }
    }
    // Without SET ROLE, the role that logged in is the caller.
    let mut client = shared().connect_as("inherits_service", &database);
    assert_surfaces(&mut client, "inherits_service, logged in", "");
    sign_in(&mut client, "none", &claims("looker"));
    assert_surfaces(&mut client, "inherits_service, logged in with claims", ALL);
}

/// The capability comes first: whoever lacks it does not even learn whether a fleet is attached.
#[test]
fn with_nothing_attached() {
    let (_, mut client) = harness::installed("unattached");
    client.batch_execute(GRANTS.replace("definer, plain", "public").as_str()).unwrap();
    client.batch_execute("select busymate_stats.assign_role('looker', 'viewer')").unwrap();
    for call in ["public.get_stats()", "busymate_stats.stats_at(now())", "busymate_stats.stats_at(null)"] {
        let call = format!("select {call} is null");
        for nobody in [None, Some(claims("nobody"))] {
            as_caller(&mut client, "authenticated", nobody.as_deref(), |client| {
                assert!(value::<bool>(client, &call), "{call}");
            });
        }
        as_caller(&mut client, "authenticated", Some(&claims("looker")), |client| {
            let code = if call.contains("null)") { "22004" } else { "42P01" };
            assert_eq!(refusal(client, &call).code, code, "{call}");
        });
    }
}

/// Seeing a feed is all that a capability gives, even to who was granted more on the table than he should have been.
#[test]
fn nobody_writes_the_feeds_through_a_policy() {
    let (_, mut client) = fleet("feed_writes");
    client
        .batch_execute(
            "select busymate_stats.refresh_stats(); insert into public.service_status (snapshot) values ('{}');
             grant all on public.service_stats, public.service_status to authenticated;
             select busymate_stats.assign_role('boss', 'admin')",
        )
        .unwrap();
    for table in ["public.service_stats", "public.service_status"] {
        for (statement, outcome) in [
            ("update {} set snapshot = '{}'", Ok(0)),
            ("delete from {}", Ok(0)),
            (
                "insert into {} (id, snapshot) values (1, '{}') on conflict (id) do update set snapshot = '{}'",
                Err(()),
            ),
        ] {
            let statement = statement.replacen("{}", table, 1);
            let came_to = harness::access::attempt(&mut client, "authenticated", "boss", &statement);
            assert_eq!(came_to.as_ref().map_err(|_| ()), outcome.as_ref().map_err(|&()| ()), "{statement}");
            if let Err(refused) = came_to {
                assert_eq!(refused.code, "42501", "{statement}");
            }
        }
    }
}

/// What view `my_capabilities` shows the caller.
#[track_caller]
fn my_capabilities(client: &mut Client) -> Vec<String> {
    let rows = client
        .query("select section || ':' || action || coalesce(' by ' || via_role, '') from busymate_stats.my_capabilities order by 1", &[])
        .unwrap_or_else(|error| panic!("{error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// SELECT on the view is all that its reader needs, beside USAGE on the schema.
#[test]
fn my_capabilities_for_who_was_granted_nothing_but_the_view() {
    let (_, mut client) = fleet("mine");
    make_users(&mut client);
    client
        .batch_execute(
            "grant usage on schema busymate_stats to anon, authenticated, service_role;
             grant select on busymate_stats.my_capabilities to anon, authenticated, service_role;
             select busymate_stats.assign_role('two_roles', 'viewer')",
        )
        .unwrap();
    for (role, sub, expected) in [
        ("postgres", None, &["*:*"][..]),
        ("service_role", Some("nobody"), &["*:*"]),
        ("authenticated", Some("boss"), &["*:* by admin"]),
        ("anon", Some("looker"), &["*:view by viewer"]),
        (
            "authenticated",
            Some("two_roles"),
            &["*:view by viewer", "stats:view by stats_only", "status:view by two_roles"],
        ),
        ("authenticated", Some("empty_role"), &[]),
        ("authenticated", Some("nobody"), &[]),
        ("authenticated", None, &[]),
    ] {
        as_caller(&mut client, role, sub.map(claims).as_deref(), |client| {
            assert_eq!(my_capabilities(client), expected, "{role}, {sub:?}");
        });
    }
    // Nor may the caller say himself what he holds.
    as_caller(&mut client, "authenticated", Some(&claims("nobody")), |client| {
        let forged = r#"[{"section":"*","action":"*"}]"#;
        let refused = refusal(client, &format!("set local busymate_stats.my_capabilities = '{forged}'"));
        assert_eq!(refused.code, "55P02");
    });
}

/// The role tables and the view are read through their policies without a transaction id.
#[test]
fn reading_the_role_tables_assigns_no_transaction_id() {
    let (_, mut client) = fleet("role_reads");
    client
        .batch_execute(&format!(
            "select busymate_stats.assign_role('looker', 'viewer');
             {} grant update on busymate_stats.roles to authenticated",
            GRANTS.replace("definer, plain", "public")
        ))
        .unwrap();
    for role in ["postgres", "authenticated"] {
        client.batch_execute("begin").unwrap();
        client.execute("select set_config('request.jwt.claims', $1, true)", &[&claims("looker")]).unwrap();
        client.batch_execute(&format!("set local role {role}")).unwrap();
        for relation in ["roles", "role_capabilities", "user_roles", "my_capabilities"] {
            let read = format!("select exists (select from busymate_stats.{relation})");
            assert!(value::<bool>(&mut client, &read), "{role}: {relation}");
            let id: Option<String> = value(&mut client, "select pg_current_xact_id_if_assigned()::text");
            assert_eq!(id, None, "{role}: {relation}");
        }
        client.batch_execute("rollback").unwrap();
    }
}
