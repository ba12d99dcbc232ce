//! Promise: no way up. Who has `roles:edit` hands on what he holds himself, by whatever statement, and nothing else.

use harness::Refusal;
use harness::access::{attempt, claims, grant_editing, make_role, make_user, sign_in};
use harness::fleet::fleet;
use harness::{installed, refusal, shared, value};
use postgres::Client;

/// `editor` and `wild` edit roles and hold little else; `halves` holds everything there is, but not `*:*`.
///
/// Role `mine` is empty, `held` has what the editor holds, `big` what he does not, `both` some of each.
fn scene(prefix: &str) -> (String, Client) {
    let (database, mut client) = fleet(prefix);
    grant_editing(&mut client, "authenticated");
    make_user(&mut client, "editor", &["roles:view", "roles:edit", "stats:view"]);
    make_user(&mut client, "wild", &["roles:*", "*:view"]);
    make_user(&mut client, "halves", &["*:view", "*:edit"]);
    make_user(&mut client, "root", &["*:*"]);
    make_user(&mut client, "blind", &["roles:edit", "stats:view"]);
    make_user(&mut client, "reader", &["roles:view", "stats:view"]);
    make_role(&mut client, "mine", &[]);
    make_role(&mut client, "held", &["stats:view"]);
    make_role(&mut client, "big", &["tokens:edit"]);
    make_role(&mut client, "both", &["stats:view", "tokens:edit"]);
    client
        .batch_execute(
            "select busymate_stats.assign_role('boss', 'admin'); select busymate_stats.assign_role('looker', 'viewer');
             select busymate_stats.assign_role('victim', 'big'); select busymate_stats.assign_role('victim', 'held')",
        )
        .unwrap();
    (database, client)
}

#[track_caller]
fn assert_done(client: &mut Client, sub: &str, statements: &[&str]) {
    for statement in statements {
        match attempt(client, "authenticated", sub, statement) {
            Ok(rows) => assert!(rows > 0, "{sub}: {statement}: no row"),
            Err(refused) => panic!("{sub}: {statement}: {refused:?}"),
        }
    }
}

/// Refused by a guard: the message says what the caller lacks, or what cannot be changed.
#[track_caller]
fn assert_guarded(client: &mut Client, sub: &str, statements: &[&str]) {
    for statement in statements {
        let refused = attempt(client, "authenticated", sub, statement).expect_err(statement);
        assert_eq!(refused.code, "42501", "{sub}: {statement}: {refused:?}");
        assert!(!refused.message.contains("row-level security"), "{sub}: {statement}: {refused:?}");
        assert!(!refused.hint.is_empty(), "{sub}: {statement}: {refused:?}");
    }
}

#[test]
fn what_an_editor_holds_he_hands_on() {
    let (_, mut client) = scene("hands_on");
    assert_done(
        &mut client,
        "editor",
        &[
            "select from busymate_stats.roles where name = 'mine'",
            "insert into busymate_stats.roles (name, description) values ('new', 'mine'), ('newer', null)",
            "update busymate_stats.roles set description = 'big indeed' where name = 'big'",
            "update busymate_stats.roles set name = 'renamed' where name = 'mine'",
            "insert into busymate_stats.role_capabilities values ('mine', 'stats', 'view'), ('mine', 'roles', 'edit')",
            "insert into busymate_stats.role_capabilities values ('big', 'stats', 'view')",
            "insert into busymate_stats.role_capabilities values ('held', 'stats', 'view')
                on conflict (role, section, action) do update set section = 'roles'",
            "update busymate_stats.role_capabilities set section = 'roles' where role = 'held'",
            "update busymate_stats.role_capabilities set role = 'mine' where role = 'held'",
            "delete from busymate_stats.roles where name = 'held'",
            "delete from busymate_stats.role_capabilities where role = 'held'",
            "delete from busymate_stats.role_capabilities where role = 'both' and section = 'stats'",
            "insert into busymate_stats.user_roles values ('somebody', 'held'), ('editor', 'mine'), ('x', 'editor')",
            "update busymate_stats.user_roles set sub = 'other' where role = 'held'",
            "update busymate_stats.user_roles set role = 'mine' where role = 'held'",
            "delete from busymate_stats.user_roles where role = 'held'",
            "select busymate_stats.grant_capability('mine', 'stats:view')",
            "select busymate_stats.revoke_capability('held', 'stats:view')",
            "select busymate_stats.unassign_role('victim', 'held')",
            "select busymate_stats.assign_role('somebody', 'held')",
        ],
    );
}

#[test]
fn what_an_editor_lacks_he_cannot_put_into_a_role() {
    let (_, mut client) = scene("put_in");
    assert_guarded(
        &mut client,
        "editor",
        &[
            "insert into busymate_stats.role_capabilities values ('mine', 'tokens', 'edit')",
            "insert into busymate_stats.role_capabilities values ('mine', '*', 'view')",
            "insert into busymate_stats.role_capabilities values ('mine', 'stats', '*')",
            "insert into busymate_stats.role_capabilities values ('mine', '*', '*')",
            "insert into busymate_stats.role_capabilities values ('mine', 'Stats', 'view')",
            "insert into busymate_stats.role_capabilities values ('editor', '*', '*')",
            "insert into busymate_stats.role_capabilities values ('mine', 'stats', 'view'), ('mine', 'stats', 'edit')",
            "insert into busymate_stats.role_capabilities select 'mine', section, action
               from busymate_stats.role_capabilities where role = 'big'",
            "insert into busymate_stats.role_capabilities values ('big', 'tokens', 'edit') on conflict do nothing",
            "insert into busymate_stats.role_capabilities values ('held', 'stats', 'view')
                on conflict (role, section, action) do update set section = '*', action = '*'",
            "update busymate_stats.role_capabilities set section = '*' where role = 'held'",
            "update busymate_stats.role_capabilities set role = 'mine' where role = 'big'",
            "update busymate_stats.role_capabilities set action = 'edit' where role = 'editor' and section = 'stats'",
            "with put as (insert into busymate_stats.role_capabilities values ('mine', '*', '*') returning 1)
             select from put",
            "with role as (insert into busymate_stats.roles (name) values ('new') returning name)
             insert into busymate_stats.role_capabilities select name, '*', '*' from role",
            "merge into busymate_stats.role_capabilities held using (values ('mine')) v(role) on held.role = v.role
              when not matched then insert values ('mine', '*', 'view')",
            "merge into busymate_stats.role_capabilities held using (values ('held')) v(role) on held.role = v.role
              when matched then update set action = '*'",
            "select busymate_stats.grant_capability('mine', 'tokens:edit')",
            "select busymate_stats.grant_capability('editor', '*:*')",
        ],
    );
}

#[test]
fn what_an_editor_lacks_he_cannot_assign() {
    let (_, mut client) = scene("assign");
    assert_guarded(
        &mut client,
        "editor",
        &[
            "insert into busymate_stats.user_roles values ('editor', 'big')",
            "insert into busymate_stats.user_roles values ('editor', 'both')",
            "insert into busymate_stats.user_roles values ('editor', 'admin')",
            "insert into busymate_stats.user_roles values ('editor', 'viewer')",
            "insert into busymate_stats.user_roles values ('somebody else', 'big')",
            "insert into busymate_stats.user_roles values ('editor', 'held'), ('editor', 'big')",
            "insert into busymate_stats.user_roles values ('victim', 'held')
                on conflict (sub, role) do update set sub = 'editor', role = 'big'",
            "insert into busymate_stats.user_roles values ('victim', 'big') on conflict (sub, role) do update set sub = 'editor'",
            "update busymate_stats.user_roles set role = 'admin' where sub = 'editor'",
            "update busymate_stats.user_roles set sub = 'editor' where role = 'big'",
            "update busymate_stats.user_roles set sub = 'editor' where sub = 'boss'",
            // What the statement itself takes out of the role is still in it when the statement assigns it.
            "with emptied as (delete from busymate_stats.role_capabilities where role = 'big' returning 1)
             insert into busymate_stats.user_roles select 'editor', 'big' from emptied",
            "with assigned as (insert into busymate_stats.user_roles values ('editor', 'big') returning 1)
             select from assigned",
            "merge into busymate_stats.user_roles had using (values ('editor')) v(sub) on had.sub = v.sub
              when matched then update set role = 'big'",
            "select busymate_stats.assign_role('editor', 'admin')",
            "select busymate_stats.assign_role('editor', 'both')",
        ],
    );
}

/// Attack: the holder of `roles:edit` alone takes everything from everybody, admins first.
#[test]
fn what_an_editor_lacks_he_cannot_take_away() {
    let (_, mut client) = scene("take_away");
    assert_guarded(
        &mut client,
        "editor",
        &[
            "delete from busymate_stats.user_roles",
            "delete from busymate_stats.user_roles where role = 'admin'",
            "delete from busymate_stats.user_roles where sub = 'victim'",
            "delete from busymate_stats.role_capabilities where role not in ('admin', 'viewer')",
            "delete from busymate_stats.role_capabilities where role = 'both'",
            "delete from busymate_stats.role_capabilities where role = 'root'",
            "delete from busymate_stats.roles where name = 'big'",
            "delete from busymate_stats.roles where not builtin",
            "update busymate_stats.user_roles set role = 'mine' where role = 'big'",
            "update busymate_stats.user_roles set role = 'held' where sub = 'boss'",
            "update busymate_stats.user_roles set sub = 'nobody' where sub = 'looker'",
            "update busymate_stats.role_capabilities set section = 'roles' where role = 'big'",
            "merge into busymate_stats.user_roles had using (values ('boss')) v(sub) on had.sub = v.sub
              when matched then delete",
            "merge into busymate_stats.role_capabilities held using (values ('root')) v(role) on held.role = v.role
              when matched then delete",
            "select busymate_stats.revoke_capability('big', 'tokens:edit')",
            "select busymate_stats.unassign_role('victim', 'big')",
            "select busymate_stats.unassign_role('boss', 'admin')",
        ],
    );
    assert_guarded(&mut client, "halves", &["select busymate_stats.unassign_role('boss', 'admin')"]);
    assert_done(
        &mut client,
        "root",
        &[
            "select busymate_stats.unassign_role('boss', 'admin')",
            "delete from busymate_stats.roles where name = 'big'",
            "delete from busymate_stats.user_roles where sub <> 'root'",
        ],
    );
}

/// Somebody keeps holding everything: neither the last holder nor a service key takes it away, by whatever statement.
#[test]
fn the_last_assignment_of_everything_stays() {
    let (_, mut client) = scene("last_admin");
    grant_editing(&mut client, "service_role");
    let ways = [
        "delete from busymate_stats.user_roles",
        "update busymate_stats.user_roles set role = 'viewer' where role in ('admin', 'root')",
        "with role as (delete from busymate_stats.role_capabilities where role = 'root')
         delete from busymate_stats.user_roles where role in ('admin', 'root')",
    ];
    let last_ways = [
        "delete from busymate_stats.roles where name = 'root'",
        "delete from busymate_stats.role_capabilities where role = 'root'",
        "update busymate_stats.role_capabilities set action = 'view' where role = 'root'",
        "select busymate_stats.unassign_role('root', 'root')",
        "select busymate_stats.revoke_capability('root', '*:*')",
    ];
    let assert_kept = |client: &mut Client, ways: &[&str]| {
        for way in ways {
            for (role, sub) in [("authenticated", "root"), ("service_role", "nobody")] {
                let refused = attempt(client, role, sub, way).expect_err(way);
                let said = (refused.code.as_str(), refused.message.as_str());
                let expected =
                    ("42501", "permission denied to remove the last assignment of capability \"*:*\"");
                assert_eq!(said, expected, "{role}: {way}");
                assert!(refused.hint.contains("assign_role"), "{refused:?}");
            }
            assert!(attempt(client, "postgres", "root", way).is_ok(), "the owner may: {way}");
        }
    };
    assert_kept(&mut client, &ways);
    // While the other one stays, each may go; and what is not assigned is nobody's last.
    assert_done(&mut client, "root", &last_ways);
    make_role(&mut client, "spare", &["*:*"]);
    client.batch_execute("delete from busymate_stats.user_roles where role = 'admin'").unwrap();
    assert_kept(&mut client, &ways);
    assert_kept(&mut client, &last_ways);
    assert_done(&mut client, "root", &["select busymate_stats.revoke_capability('spare', '*:*')"]);
}

/// Two transactions that each remove what the other leaves do not both succeed.
#[test]
fn two_who_remove_each_others_last_assignment() {
    let (database, mut client) = scene("last_two");
    for isolation in ["read committed", "repeatable read"] {
        let session = |sub: &str| {
            let mut session = shared().connect_as("authenticator", &database);
            sign_in(&mut session, "authenticated", &claims(sub));
            session.batch_execute(&format!("begin isolation level {isolation}")).unwrap();
            session.batch_execute("select from busymate_stats.roles").unwrap();
            session
        };
        let (mut first, mut second) = (session("boss"), session("root"));
        first.batch_execute("select busymate_stats.unassign_role('root', 'root')").unwrap();
        let waiting = std::thread::spawn(move || {
            refusal(&mut second, "select busymate_stats.unassign_role('boss', 'admin')")
        });
        let blocked = "select count(*) from pg_locks where not granted and locktype = 'object'";
        while value::<i64>(&mut client, blocked) == 0 {
            assert!(!waiting.is_finished(), "{isolation}: nobody waits");
        }
        first.batch_execute("commit").unwrap();
        let refused = waiting.join().unwrap();
        assert!(refused.message.contains("the last assignment"), "{refused:?}");
        client.batch_execute("select busymate_stats.assign_role('root', 'root')").unwrap();
    }
}

#[test]
fn wildcards_are_handed_on_by_who_holds_them() {
    let (_, mut client) = scene("wildcards");
    let put = |section: &str, action: &str| {
        format!("insert into busymate_stats.role_capabilities values ('mine', '{section}', '{action}')")
    };
    let assign = |role: &str| format!("insert into busymate_stats.user_roles values ('somebody', '{role}')");
    for (sub, may, may_not) in [
        (
            "wild",
            vec![
                put("*", "view"),
                put("tokens", "view"),
                put("roles", "*"),
                put("roles", "x"),
                assign("viewer"),
            ],
            vec![put("*", "*"), put("tokens", "*"), put("tokens", "edit"), put("*", "edit"), assign("admin")],
        ),
        (
            "halves",
            vec![put("*", "edit"), put("tokens", "edit"), assign("viewer"), assign("big"), assign("halves")],
            vec![put("*", "*"), put("stats", "*"), put("stats", "x"), assign("admin"), assign("root")],
        ),
        ("root", vec![put("*", "*"), put("a", "b"), assign("admin"), assign("big"), assign("root")], vec![]),
        ("boss", vec![put("*", "*"), put("a", "b"), assign("admin"), assign("big"), assign("root")], vec![]),
    ] {
        assert_done(&mut client, sub, &may.iter().map(String::as_str).collect::<Vec<_>>());
        assert_guarded(&mut client, sub, &may_not.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

const WRITES: [&str; 6] = [
    "update busymate_stats.roles set description = 'x' where name = 'mine'",
    "delete from busymate_stats.roles where name = 'mine'",
    "update busymate_stats.role_capabilities set section = 'stats'",
    "delete from busymate_stats.role_capabilities",
    "update busymate_stats.user_roles set sub = 'x' where role = 'held'",
    "delete from busymate_stats.user_roles",
];

const INSERTS: [&str; 4] = [
    "insert into busymate_stats.roles (name) values ('new')",
    "insert into busymate_stats.role_capabilities values ('mine', 'stats', 'view')",
    "insert into busymate_stats.user_roles values ('editor', 'held')",
    "insert into busymate_stats.roles (name) values ('held') on conflict (name) do update set description = 'x'",
];

#[test]
fn without_roles_edit_nothing_is_written() {
    let (_, mut client) = scene("no_edit");
    for sub in ["reader", "looker", "nobody", ""] {
        for statement in WRITES {
            assert_eq!(attempt(&mut client, "authenticated", sub, statement), Ok(0), "{sub}: {statement}");
        }
        for statement in INSERTS {
            let refused = attempt(&mut client, "authenticated", sub, statement).expect_err(statement);
            assert_eq!(refused.code, "42501", "{sub}: {statement}: {refused:?}");
        }
        let refused = attempt(&mut client, "authenticated", sub, INSERTS[0]).unwrap_err();
        assert!(refused.message.contains("row-level security policy"), "{refused:?}");
    }
}

/// Who may edit and not view finds no row to change; what he adds he may still add.
#[test]
fn without_roles_view_nothing_is_seen() {
    let (_, mut client) = scene("no_view");
    for table in ["roles", "role_capabilities", "user_roles"] {
        for (sub, seen) in [("blind", false), ("nobody", false), ("reader", true), ("editor", true)] {
            let rows =
                attempt(&mut client, "authenticated", sub, &format!("select from busymate_stats.{table}"));
            assert_eq!(rows.unwrap() > 0, seen, "{sub}: {table}");
        }
    }
    // A statement without WHERE reads nothing, so PostgreSQL asks only whether its rows may be changed.
    for statement in WRITES.iter().filter(|statement| statement.contains("where")) {
        assert_eq!(attempt(&mut client, "authenticated", "blind", statement), Ok(0), "{statement}");
    }
    assert_done(&mut client, "blind", &INSERTS[..3]);
    assert_guarded(&mut client, "blind", &["insert into busymate_stats.user_roles values ('blind', 'big')"]);
}

/// The guard asks who the caller is, not whose function he is in.
#[test]
fn inside_a_superusers_function_the_caller_is_still_judged() {
    let (_, mut client) = scene("definer");
    client
        .batch_execute(
            "create function public.assign(sub text, role text) returns void security definer language sql
                 as 'insert into busymate_stats.user_roles values (sub, role)';
             create function public.put(role text, section text, action text) returns void security definer language sql
                 as 'insert into busymate_stats.role_capabilities values (role, section, action)';
             grant execute on all functions in schema public to authenticated",
        )
        .unwrap();
    assert_guarded(
        &mut client,
        "editor",
        &["select public.assign('editor', 'admin')", "select public.put('mine', '*', '*')"],
    );
    assert_guarded(&mut client, "nobody", &["select public.assign('nobody', 'held')"]);
    assert_done(&mut client, "editor", &["select public.put('mine', 'stats', 'view')"]);
    assert_eq!(attempt(&mut client, "postgres", "nobody", "select public.assign('x', 'admin')"), Ok(1));
}

/// Judged is what is committed now, not what the editor's old snapshot shows.
#[test]
fn an_old_snapshot_opens_nothing() {
    let (database, mut client) = scene("old_snapshot");
    let mut editor = shared().connect_as("authenticator", &database);
    let start = |editor: &mut Client, isolation: &str| {
        editor.batch_execute(&format!("begin isolation level {isolation}")).unwrap();
        sign_in(editor, "authenticated", &claims("editor"));
        assert_eq!(value::<i64>(editor, "select count(*) from busymate_stats.roles where name = 'mine'"), 1);
    };
    let assert_refused = |editor: &mut Client, statement: &str| {
        let Refusal { code, message, .. } = refusal(editor, statement);
        assert_eq!((code.as_str(), message.contains("permission denied to ")), ("42501", true), "{message}");
        editor.batch_execute("rollback").unwrap();
    };
    for isolation in ["read committed", "repeatable read", "serializable"] {
        start(&mut editor, isolation);
        client.batch_execute("select busymate_stats.grant_capability('mine', 'tokens:edit')").unwrap();
        assert_refused(&mut editor, "insert into busymate_stats.user_roles values ('editor', 'mine')");
        client.batch_execute("select busymate_stats.revoke_capability('mine', 'tokens:edit')").unwrap();

        start(&mut editor, isolation);
        client.batch_execute("select busymate_stats.revoke_capability('editor', 'stats:view')").unwrap();
        assert_refused(
            &mut editor,
            "insert into busymate_stats.role_capabilities values ('mine', 'stats', 'view')",
        );
        client.batch_execute("select busymate_stats.grant_capability('editor', 'stats:view')").unwrap();
    }
}

/// A refusal names the capability, and says where to look.
#[test]
fn a_refusal_says_what_is_lacking() {
    let (_, mut client) = scene("says");
    for (statement, message) in [
        (
            "insert into busymate_stats.user_roles values ('editor', 'both')",
            "permission denied to assign capability \"tokens:edit\"",
        ),
        (
            "insert into busymate_stats.role_capabilities values ('mine', '*', 'view')",
            "permission denied to put into a role capability \"*:view\"",
        ),
    ] {
        let refused = attempt(&mut client, "authenticated", "editor", statement).unwrap_err();
        assert_eq!(refused.message, message);
        assert!(refused.hint.contains("my_capabilities"), "{refused:?}");
    }
}

/// A sign-up: the user's id is a UUID, and the claim holds it as text. What is written in quotes stays text.
#[test]
fn a_sub_that_is_a_uuid() {
    let (_, mut client) = installed("uuid");
    client
        .batch_execute(
            "create schema auth; create table auth.users (id uuid primary key default gen_random_uuid());
             create function public.new_user() returns trigger language plpgsql security definer set search_path = ''
                 as $$ begin perform busymate_stats.assign_role(new.id, 'viewer'); return new; end $$;
             create trigger new_user after insert on auth.users for each row execute function public.new_user();
             insert into auth.users values ('ABCDEF00-1111-4111-8111-111111111111')",
        )
        .unwrap();
    let assigned = "select coalesce(string_agg(sub || ' ' || role, ', ' order by sub), '') from busymate_stats.user_roles";
    let lower = "abcdef00-1111-4111-8111-111111111111";
    assert_eq!(value::<String>(&mut client, assigned), format!("{lower} viewer"));
    client
        .batch_execute(&format!(
            "select busymate_stats.assign_role('{lower}'::uuid, 'viewer');
             select busymate_stats.assign_role('{lower}', 'viewer');
             select busymate_stats.unassign_role('ABCDEF00-1111-4111-8111-111111111111', 'viewer')"
        ))
        .unwrap();
    assert_eq!(value::<String>(&mut client, assigned), format!("{lower} viewer"), "another sub, as text");
    client.batch_execute("select busymate_stats.unassign_role(id, 'viewer') from auth.users").unwrap();
    assert_eq!(value::<String>(&mut client, assigned), "");
    for function in ["assign_role", "unassign_role"] {
        let call = format!("select busymate_stats.{function}(null::uuid, 'viewer')");
        assert_eq!(refusal(&mut client, &call).code, "22004");
        let call = format!("select busymate_stats.{function}(gen_random_uuid(), 'nothing')");
        assert_eq!(refusal(&mut client, &call).code, "42704");
    }
}
