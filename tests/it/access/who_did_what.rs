//! Promise: roles, grants and assignments say who made or changed them last, and when; nobody but a superuser or a
//! replica's source writes that himself.

use harness::access::{claims, grant_editing, make_role, sign_in};
use harness::catalog::list;
use harness::fleet::fleet;
use harness::{dump, installed, shared, value};
use postgres::Client;

/// Who changed the custom rows of all three tables.
fn changed_by(client: &mut Client) -> Vec<String> {
    list(
        client,
        "select 'role ' || name || ' by ' || changed_by from busymate_stats.roles where not builtin
         union all
         select 'grant ' || section || ':' || action || ' by ' || changed_by from busymate_stats.role_capabilities
          where role not in ('admin', 'viewer')
         union all
         select 'user ' || sub || ' by ' || changed_by from busymate_stats.user_roles where sub <> 'boss'",
    )
}

/// `boss` is an admin, and the API's roles may edit.
fn scene(prefix: &str) -> Client {
    let (_, mut client) = fleet(prefix);
    client.batch_execute("select busymate_stats.assign_role('boss', 'admin')").unwrap();
    for role in ["authenticated", "service_role"] {
        grant_editing(&mut client, role);
    }
    client
}

const CHANGES: &str = "
    insert into busymate_stats.roles (name) values ('r');
    select busymate_stats.grant_capability('r', 's:a'), busymate_stats.assign_role('u', 'r')";

const UNDO: &str = "delete from busymate_stats.roles where name = 'r'";

#[test]
fn the_user_or_the_database_role() {
    let mut client = scene("audit_who");
    for (role, claims, who) in [
        ("authenticated", claims("boss"), "boss"),
        ("service_role", claims("someone"), "someone"),
        ("service_role", String::new(), "service_role"),
        ("service_role", r#"{"role":"service_role"}"#.into(), "service_role"),
        ("service_role", r#"{"sub":"a\u0000b"}"#.into(), "service_role"),
        ("none", String::new(), "postgres"),
        ("none", "garbage".into(), "postgres"),
        ("none", claims("zoë"), "zoë"),
    ] {
        sign_in(&mut client, role, &claims);
        client.batch_execute(CHANGES).unwrap();
        let expected =
            [format!("grant s:a by {who}"), format!("role r by {who}"), format!("user u by {who}")];
        assert_eq!(changed_by(&mut client), expected, "{role}, {claims}");
        client.batch_execute(UNDO).unwrap();
    }
    // Claims of a login that is not trusted with any are nobody's.
    sign_in(&mut client, "none", "");
    client.batch_execute("set busymate_stats.claims_trusted_from = somebody").unwrap();
    sign_in(&mut client, "service_role", &claims("someone"));
    client.batch_execute(CHANGES).unwrap();
    assert_eq!(changed_by(&mut client)[1], "role r by service_role");
}

#[test]
fn nobody_has_made_the_built_in_roles() {
    let (_, mut client) = installed("audit_builtin");
    let by = "select distinct changed_by from (select changed_by from busymate_stats.roles
              union all select changed_by from busymate_stats.role_capabilities) t";
    assert_eq!(list(&mut client, by), ["busymate_stats"]);
}

/// A change is stamped anew, with the time of its transaction; an attempt that changes nothing is not.
#[test]
fn the_last_change_counts() {
    let mut client = scene("audit_last");
    client.batch_execute(CHANGES).unwrap();
    sign_in(&mut client, "authenticated", &claims("boss"));
    client.batch_execute("begin").unwrap();
    client
        .batch_execute(
            "update busymate_stats.roles set description = 'new' where name = 'r';
             select busymate_stats.assign_role('u', 'r')",
        )
        .unwrap();
    let at_begin: bool =
        value(&mut client, "select changed_at = now() from busymate_stats.roles where name = 'r'");
    assert!(at_begin);
    client.batch_execute("commit").unwrap();
    assert_eq!(changed_by(&mut client), ["grant s:a by postgres", "role r by boss", "user u by postgres"]);
}

/// Who edits over the API cannot put a change on somebody else.
#[test]
fn nobody_else_can_be_blamed() {
    let mut client = scene("audit_forged");
    make_role(&mut client, "r", &["s:a"]);
    for (role, claims, who) in
        [("authenticated", claims("boss"), "boss"), ("service_role", String::new(), "service_role")]
    {
        sign_in(&mut client, role, &claims);
        for forged in [
            "insert into busymate_stats.roles (name, changed_at, changed_by) values ('f', 'epoch', 'victim')",
            "update busymate_stats.roles set changed_by = 'victim', changed_at = 'epoch' where name = 'f'",
            "insert into busymate_stats.role_capabilities values ('f', 's', 'a', 'epoch', 'victim')",
            "insert into busymate_stats.user_roles values ('f', 'f', 'epoch', 'victim')",
            "update busymate_stats.user_roles set changed_by = 'victim', changed_at = 'epoch' where sub = 'f'",
        ] {
            client.batch_execute(forged).unwrap();
        }
        let stamps = "select changed_by || ' ' || (changed_at > now() - interval '1 hour') from (
            select changed_at, changed_by from busymate_stats.roles where name = 'f'
            union all select changed_at, changed_by from busymate_stats.role_capabilities where role = 'f'
            union all select changed_at, changed_by from busymate_stats.user_roles where sub = 'f') t";
        assert_eq!(list(&mut client, stamps), vec![format!("{who} true"); 3], "{role}");
        client.batch_execute("delete from busymate_stats.roles where name = 'f'").unwrap();
    }
}

/// A superuser's restore and a replica's apply are equal to their source; what they leave out is stamped.
#[test]
fn what_is_given_is_kept() {
    let (_, mut client) = fleet("audit_given");
    let given = "insert into busymate_stats.roles (name, changed_at, changed_by) values ('given', '2020-02-02 02:02Z', 'somebody')";
    let stamps =
        "select name || ' ' || extract(year from changed_at) || ' ' || changed_by from busymate_stats.roles
                   where not builtin and changed_at < '2021-01-01'";
    client.batch_execute(given).unwrap();
    assert_eq!(list(&mut client, stamps), ["given 2020 somebody"]);
    client.batch_execute("update busymate_stats.roles set changed_by = 'else' where name = 'given'").unwrap();
    assert_eq!(list(&mut client, stamps), ["given 2020 else"]);
    client.batch_execute("update busymate_stats.roles set description = 'x' where name = 'given'").unwrap();
    assert_eq!(list(&mut client, stamps), [""; 0]);
    client
        .batch_execute(
            "set session_replication_role = replica; delete from busymate_stats.roles where name = 'given';
             insert into busymate_stats.roles (name) values ('left out')",
        )
        .unwrap();
    client.batch_execute(given).unwrap();
    assert_eq!(list(&mut client, stamps), ["given 2020 somebody"]);
    let by = "select changed_by from busymate_stats.roles where name = 'left out'";
    assert_eq!(list(&mut client, by), ["postgres"]);
    // The time alone, too.
    client
        .batch_execute(
            "reset session_replication_role; delete from busymate_stats.roles where name = 'given'",
        )
        .unwrap();
    client
        .batch_execute(
            "insert into busymate_stats.roles (name, changed_at) values ('given', '2020-02-02 02:02Z')",
        )
        .unwrap();
    assert_eq!(list(&mut client, stamps), ["given 2020 postgres"]);
}

#[test]
fn a_restore_is_equal() {
    let (database, mut client) = fleet("audit_dump");
    sign_in(&mut client, "none", &claims("one"));
    client.batch_execute(CHANGES).unwrap();
    client
        .batch_execute("update busymate_stats.user_roles set changed_at = '2020-02-02 02:02:02.020202Z', changed_by = E'o\\'\\t\\\\n'")
        .unwrap();
    let to = shared().create_database("audit_dump");
    dump::copy_custom(shared(), &database, &to);
    let mut other = shared().connect(&to);
    for table in ["roles", "role_capabilities", "user_roles"] {
        let rows = format!(
            "select to_jsonb(t)::text from busymate_stats.{table} t where changed_by <> 'postgres' order by 1"
        );
        let there = list(&mut client, &rows);
        assert!(!there.is_empty());
        assert_eq!(there, list(&mut other, &rows), "{table}");
    }
}
