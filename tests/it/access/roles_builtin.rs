//! Promise: the built-in roles stay as they are, whoever tries, and the functions that manage roles can be repeated and
//! name what does not exist.

use harness::access::{attempt, grant_editing, make_role};
use harness::{installed, refusal, value};
use postgres::Client;

/// Everything that would change or drop `admin` or `viewer`, or make another of their kind.
const CHANGES: [&str; 20] = [
    "update busymate_stats.roles set description = 'x' where name = 'admin'",
    "update busymate_stats.roles set name = 'x' where name = 'viewer'",
    "update busymate_stats.roles set builtin = false where name = 'viewer'",
    "update busymate_stats.roles set description = description",
    "delete from busymate_stats.roles where name = 'admin'",
    "delete from busymate_stats.roles",
    "insert into busymate_stats.roles (name) values ('admin') on conflict (name) do update set builtin = false",
    "insert into busymate_stats.roles values ('mine too', null, true)",
    "update busymate_stats.roles set builtin = true where name = 'mine'",
    "insert into busymate_stats.role_capabilities values ('viewer', 'stats', 'edit')",
    "update busymate_stats.role_capabilities set action = 'edit' where role = 'viewer'",
    "update busymate_stats.role_capabilities set role = 'mine' where role = 'admin'",
    "update busymate_stats.role_capabilities set role = 'viewer' where role = 'mine'",
    "delete from busymate_stats.role_capabilities where role = 'admin'",
    "delete from busymate_stats.role_capabilities",
    "truncate busymate_stats.role_capabilities",
    "truncate busymate_stats.roles cascade",
    "truncate busymate_stats.roles, busymate_stats.role_capabilities, busymate_stats.user_roles",
    "select busymate_stats.grant_capability('viewer', 'stats:edit')",
    "select busymate_stats.revoke_capability('admin', '*:*')",
];

fn scene(prefix: &str) -> Client {
    let (_, mut client) = installed(prefix);
    make_role(&mut client, "mine", &["stats:view"]);
    client
}

fn builtin_roles(client: &mut Client) -> Vec<String> {
    let query = "select concat_ws(' ', r.name, r.builtin, c.section, c.action)
                   from busymate_stats.roles r left join busymate_stats.role_capabilities c on c.role = r.name
                  where r.name in ('admin', 'viewer') or r.builtin order by 1";
    client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn nobody_changes_a_built_in_role() {
    let mut client = scene("built_in");
    grant_editing(&mut client, "authenticated");
    grant_editing(&mut client, "service_role");
    client.batch_execute("select busymate_stats.assign_role('boss', 'admin')").unwrap();
    for change in CHANGES {
        for role in ["postgres", "service_role", "authenticated"] {
            let refused = attempt(&mut client, role, "boss", change).expect_err(change);
            assert_eq!(refused.code, "42501", "{role}: {change}: {refused:?}");
            // TRUNCATE is not granted to the others.
            if role == "postgres" || !change.starts_with("truncate") {
                assert!(!refused.hint.is_empty(), "{role}: {change}: {refused:?}");
            }
        }
    }
    assert_eq!(builtin_roles(&mut client), ["admin t * *", "viewer t * view"]);
    let refused = refusal(&mut client, "delete from busymate_stats.roles where name = 'viewer'");
    assert_eq!(refused.message, "built-in role \"viewer\" cannot be changed or dropped");
}

/// What stands beside them goes as usual.
#[test]
fn custom_roles_come_and_go() {
    let mut client = scene("custom");
    client
        .batch_execute(
            "select busymate_stats.assign_role('u', 'mine');
             delete from busymate_stats.roles where not builtin; truncate busymate_stats.user_roles",
        )
        .unwrap();
    let left = "select (select count(*) from busymate_stats.roles) + (select count(*) from busymate_stats.role_capabilities)";
    assert_eq!(value::<i64>(&mut client, left), 4);
}

#[test]
fn functions_that_manage_roles_can_be_repeated() {
    let mut client = scene("repeated");
    let held = "select count(*) from busymate_stats.role_capabilities where role = 'mine' and (section, action) = ('*', 'edit')";
    let had = "select count(*) from busymate_stats.user_roles where sub = 'u'";
    for (call, count, rows) in [
        ("grant_capability('mine', '*:edit')", held, 1),
        ("revoke_capability('mine', '*:edit')", held, 0),
        ("assign_role('u', 'mine')", had, 1),
        ("assign_role('u', 'admin')", had, 2),
        ("unassign_role('u', 'admin')", had, 1),
        ("unassign_role('u', 'mine')", had, 0),
        ("unassign_role('never heard of', 'viewer')", had, 0),
    ] {
        for _ in 0..2 {
            client.batch_execute(&format!("select busymate_stats.{call}")).unwrap();
            assert_eq!(value::<i64>(&mut client, count), rows, "{call}");
        }
    }
    let others = "select count(*) from busymate_stats.role_capabilities where role = 'mine'";
    assert_eq!(value::<i64>(&mut client, others), 1);
}

#[test]
fn a_role_that_does_not_exist_is_named() {
    let mut client = scene("unknown");
    for call in [
        "grant_capability('ghost', 'stats:view')",
        "revoke_capability('ghost', 'stats:view')",
        "assign_role('u', 'ghost')",
        "unassign_role('u', 'ghost')",
    ] {
        let refused = refusal(&mut client, &format!("select busymate_stats.{call}"));
        assert_eq!(refused.code, "42704", "{call}");
        assert!(refused.message.contains("\"ghost\""), "{call}: {refused:?}");
        assert!(
            refused.hint.contains("INSERT INTO busymate_stats.roles (name) VALUES ('ghost')"),
            "{refused:?}"
        );
        let call = call.replace("'ghost'", "null");
        assert_eq!(refusal(&mut client, &format!("select busymate_stats.{call}")).code, "42704", "{call}");
    }
}

#[test]
fn a_malformed_capability_is_refused() {
    let mut client = scene("malformed");
    for function in ["grant_capability", "revoke_capability"] {
        for capability in ["", ":", "stats", "stats:", ":view", "stats:view:x", "stats::view", "*"] {
            let refused =
                refusal(&mut client, &format!("select busymate_stats.{function}('mine', '{capability}')"));
            assert_eq!(refused.code, "22023", "{capability}");
            assert!(refused.message.contains(&format!("'{capability}'")), "{refused:?}");
        }
        let refused = refusal(&mut client, &format!("select busymate_stats.{function}('mine', null)"));
        assert_eq!(refused.code, "22023");
    }
    for (sub, code) in [("null", "22004"), ("''", "23514")] {
        assert_eq!(
            refusal(&mut client, &format!("select busymate_stats.assign_role({sub}, 'mine')")).code,
            code
        );
    }
}

/// EXECUTE on a function that manages roles is all that its caller needs beside the tables' grants.
#[test]
fn each_function_can_be_granted_by_itself() {
    let mut client = scene("by_itself");
    client
        .batch_execute(
            "grant usage on schema busymate_stats to authenticated;
             grant select, insert, update, delete on busymate_stats.roles, busymate_stats.role_capabilities,
                 busymate_stats.user_roles to authenticated;
             select busymate_stats.assign_role('boss', 'admin'); select busymate_stats.assign_role('deputy', 'admin')",
        )
        .unwrap();
    for (function, arguments) in [
        ("grant_capability", "'mine', 'a:b'"),
        ("revoke_capability", "'mine', 'stats:view'"),
        ("assign_role", "'u', 'mine'"),
        ("unassign_role", "'boss', 'admin'"),
    ] {
        let call = format!("select busymate_stats.{function}({arguments})");
        assert_eq!(attempt(&mut client, "authenticated", "boss", &call).unwrap_err().code, "42501", "{call}");
        client
            .batch_execute(&format!(
                "grant execute on function busymate_stats.{function}(text, text) to authenticated"
            ))
            .unwrap();
        assert_eq!(attempt(&mut client, "authenticated", "boss", &call), Ok(1), "{call}");
        client
            .batch_execute(&format!(
                "revoke execute on function busymate_stats.{function}(text, text) from authenticated"
            ))
            .unwrap();
    }
}
