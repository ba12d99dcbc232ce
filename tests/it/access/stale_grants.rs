//! Promise: a grant counts from its commit on and a revoke from its own, in every session, at every isolation level,
//! though answers are remembered; what is not committed counts for nobody else.

use harness::access::{claims, make_role, make_user, may, sign_in};
use harness::fleet::fleet;
use harness::{shared, value};
use postgres::{Client, Statement};

const ISOLATION: [&str; 3] = ["read committed", "repeatable read", "serializable"];

/// A reader's session, signed in as `sub`, and a prepared question: executing it takes no lock, so nothing but the
/// function itself can notice what others commit.
fn reader(database: &str, sub: &str) -> (Client, Statement) {
    let mut client = shared().connect_as("authenticator", database);
    sign_in(&mut client, "authenticated", &claims(sub));
    let ask = client.prepare("select public.has_capability('stats', 'view')").unwrap();
    (client, ask)
}

#[track_caller]
fn assert_answers(client: &mut Client, ask: &Statement, expected: bool, when: &str) {
    // Twice: the second may come from memory.
    for _ in 0..2 {
        assert_eq!(client.query_one(ask, &[]).unwrap().get::<_, bool>(0), expected, "{when}");
    }
}

/// Each takes `stats:view` from user `u`, who has it through role `r`.
const REVOKES: [&str; 9] = [
    "select busymate_stats.unassign_role('u', 'r')",
    "select busymate_stats.revoke_capability('r', 'stats:view')",
    "delete from busymate_stats.roles where name = 'r'",
    "delete from busymate_stats.user_roles",
    "delete from busymate_stats.role_capabilities where role = 'r'",
    "update busymate_stats.user_roles set sub = 'somebody else' where sub = 'u'",
    "update busymate_stats.role_capabilities set action = 'edit' where role = 'r'",
    "truncate busymate_stats.user_roles",
    "set session_replication_role = replica; delete from busymate_stats.user_roles; reset session_replication_role",
];

const GRANT: &str = "
    insert into busymate_stats.roles (name) values ('r') on conflict do nothing;
    delete from busymate_stats.role_capabilities where role = 'r'; delete from busymate_stats.user_roles;
    select busymate_stats.grant_capability('r', 'stats:view'), busymate_stats.assign_role('u', 'r');
";

#[test]
fn a_revoke_counts_from_its_commit() {
    let (database, mut granter) = fleet("revokes");
    granter.batch_execute("select busymate_stats.refresh_stats(), busymate_stats.grant_api()").unwrap();
    let (mut client, ask) = reader(&database, "u");
    for isolation in ISOLATION {
        for revoke in REVOKES {
            let case = format!("{isolation}: {revoke}");
            client.batch_execute(&format!("begin isolation level {isolation}")).unwrap();
            assert_answers(&mut client, &ask, false, &case);
            granter.batch_execute(GRANT).unwrap();
            assert_answers(&mut client, &ask, true, &case);
            assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_stats"), 1, "{case}");
            granter.batch_execute(&format!("begin; {revoke}")).unwrap();
            // TRUNCATE locks the table against its readers until the commit.
            if !revoke.starts_with("truncate") {
                assert_answers(&mut client, &ask, true, &case);
            }
            granter.batch_execute("commit").unwrap();
            assert_answers(&mut client, &ask, false, &case);
            assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_stats"), 0, "{case}");
            client.batch_execute("commit").unwrap();
        }
    }
}

/// The policy of a table that is scanned once per statement asks anew in each.
#[test]
fn a_revoke_that_is_rolled_back_changes_nothing() {
    let (database, mut granter) = fleet("undone");
    granter.batch_execute(GRANT).unwrap();
    let (mut client, ask) = reader(&database, "u");
    for revoke in REVOKES {
        client.batch_execute("begin").unwrap();
        assert_answers(&mut client, &ask, true, revoke);
        granter.batch_execute(&format!("begin; {revoke}; rollback; reset session_replication_role")).unwrap();
        assert_answers(&mut client, &ask, true, revoke);
        client.batch_execute("commit").unwrap();
    }
}

/// Asks, in the granter's own session and transaction, as user `u`.
#[track_caller]
fn may_as_u(granter: &mut Client) -> bool {
    sign_in(granter, "authenticated", &claims("u"));
    let may = may(granter, "stats", "view");
    granter.batch_execute("set role none").unwrap();
    may
}

#[test]
fn an_uncommitted_grant_counts_for_its_transaction_only() {
    for isolation in ISOLATION {
        let (database, mut granter) = fleet("own");
        let (mut client, ask) = reader(&database, "u");
        assert!(!may_as_u(&mut granter));
        granter.batch_execute(&format!("begin isolation level {isolation}")).unwrap();
        granter.batch_execute(GRANT).unwrap();
        assert!(may_as_u(&mut granter));
        assert_answers(&mut client, &ask, false, "before the commit");
        granter.batch_execute("rollback").unwrap();
        assert!(!may_as_u(&mut granter));
        assert_answers(&mut client, &ask, false, "after the rollback");

        granter.batch_execute(&format!("begin isolation level {isolation}")).unwrap();
        granter.batch_execute("savepoint a").unwrap();
        granter.batch_execute(GRANT).unwrap();
        assert!(may_as_u(&mut granter));
        granter.batch_execute("savepoint b; select busymate_stats.unassign_role('u', 'r')").unwrap();
        assert!(!may_as_u(&mut granter));
        granter.batch_execute("rollback to b").unwrap();
        assert!(may_as_u(&mut granter));
        granter.batch_execute("rollback to a").unwrap();
        assert!(!may_as_u(&mut granter));
        granter.batch_execute("commit").unwrap();
        assert!(!may_as_u(&mut granter));
        assert_answers(&mut client, &ask, false, "after the commit of nothing");
    }
}

/// The second TRUNCATE of a transaction empties the table in place instead of giving it a new file.
#[test]
fn a_truncate_in_place() {
    let (_, mut granter) = fleet("in_place");
    granter.batch_execute("begin").unwrap();
    for _ in 0..2 {
        granter.batch_execute("truncate busymate_stats.user_roles").unwrap();
        assert!(!may_as_u(&mut granter));
        granter.batch_execute(GRANT).unwrap();
        assert!(may_as_u(&mut granter));
    }
    granter.batch_execute("truncate busymate_stats.user_roles").unwrap();
    assert!(!may_as_u(&mut granter));
}

/// A subtransaction that a function's EXCEPTION clause rolls back, with the question asked inside it.
#[test]
fn a_grant_that_a_function_undoes() {
    let (_, mut granter) = fleet("caught");
    make_role(&mut granter, "r", &["stats:view"]);
    granter
        .batch_execute(
            "create function ask_as(sub text) returns boolean language plpgsql as $$
             declare answer boolean;
             begin
                 perform set_config('request.jwt.claims', json_build_object('sub', sub)::text, true);
                 set local role authenticated;
                 answer := public.has_capability('stats', 'view');
                 set local role none;
                 return answer;
             end $$",
        )
        .unwrap();
    granter
        .batch_execute(
            "do $$
             begin
                 assert not ask_as('u'), 'before';
                 begin
                     perform busymate_stats.assign_role('u', 'r');
                     assert ask_as('u'), 'inside';
                     raise division_by_zero;
                 exception when division_by_zero then
                     null;
                 end;
                 assert not ask_as('u'), 'after';
                 perform busymate_stats.assign_role('u', 'r');
                 assert ask_as('u'), 'again';
             end $$",
        )
        .unwrap();
}

#[test]
fn a_prepared_transaction_counts_from_its_commit() {
    let (database, mut granter) = fleet("prepared");
    let (mut client, ask) = reader(&database, "u");
    client.batch_execute("begin isolation level repeatable read").unwrap();
    for (end, counts) in [("rollback prepared 'grants'", false), ("commit prepared 'grants'", true)] {
        granter.batch_execute(&format!("begin; {GRANT} prepare transaction 'grants'")).unwrap();
        assert_answers(&mut client, &ask, false, end);
        assert!(!may_as_u(&mut granter));
        granter.batch_execute(end).unwrap();
        assert_answers(&mut client, &ask, counts, end);
        assert_eq!(may_as_u(&mut granter), counts);
    }
}

#[test]
fn an_extension_dropped_and_created_again() {
    let (database, mut owner) = fleet("again");
    let again = "drop extension busymate_stats; create extension busymate_stats";
    let mut client = shared().connect_as("authenticator", &database);
    sign_in(&mut client, "authenticated", &claims("u"));
    for _ in 0..2 {
        make_user(&mut owner, "u", &["stats:view"]);
        assert!(may(&mut client, "stats", "view"));
        assert!(may_as_u(&mut owner));
        // Dropped, created, rolled back: all as before.
        owner.batch_execute(&format!("begin; {again}")).unwrap();
        assert!(!may_as_u(&mut owner));
        owner.batch_execute("rollback").unwrap();
        assert!(may_as_u(&mut owner));
        assert!(may(&mut client, "stats", "view"));
        owner.batch_execute(again).unwrap();
        assert!(!may(&mut client, "stats", "view"));
        assert!(!may_as_u(&mut owner));
        // In one transaction, from one extension's answer to the next's.
        owner.batch_execute(&format!("begin; {again}; create role again_{database}")).unwrap();
        make_user(&mut owner, "u", &["stats:view"]);
        assert!(may_as_u(&mut owner));
        owner.batch_execute("rollback").unwrap();
        assert!(!may_as_u(&mut owner));
    }
}

/// The setting behind `my_capabilities` can be read where the extension is not: what it says then must not last.
#[test]
fn an_answer_from_before_the_extension() {
    let database = shared().create_database("before");
    let mut owner = shared().connect(&database);
    let mut client = shared().connect_as("authenticator", &database);
    sign_in(&mut client, "authenticated", &claims("u"));
    let ask = "select current_setting('busymate_stats.my_capabilities')";
    for _ in 0..2 {
        assert_eq!(value::<String>(&mut client, ask), "[]");
        owner.batch_execute("create extension busymate_stats").unwrap();
        make_user(&mut owner, "u", &["stats:view"]);
        assert!(may(&mut client, "stats", "view"));
        owner.batch_execute("begin; drop extension busymate_stats").unwrap();
        sign_in(&mut owner, "authenticated", &claims("u"));
        assert_eq!(value::<String>(&mut owner, ask), "[]");
        owner.batch_execute("rollback").unwrap();
        assert!(may_as_u(&mut owner));
        owner.batch_execute("drop extension busymate_stats").unwrap();
    }
}
