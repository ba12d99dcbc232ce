//! Promise: installing opens nothing but `has_capability`, whatever the default privileges say, and `grant_api` opens
//! exactly what it is said to.

use harness::access::{attempt, claims};
use harness::{SUPABASE_DEFAULT_PRIVILEGES, as_caller, refusal, shared, value};
use postgres::Client;

/// A database whose default privileges hand out everything, as Supabase's do, and then the extension.
fn installed_on_supabase(prefix: &str) -> Client {
    let database = shared().create_database(prefix);
    let mut client = shared().connect(&database);
    client.batch_execute(SUPABASE_DEFAULT_PRIVILEGES).unwrap();
    client.batch_execute("alter default privileges grant all on tables to public").unwrap();
    client.batch_execute("create extension busymate_stats").unwrap();
    client
}

/// What a role may do to members of the extension, and to its schemas, one line each.
fn open_to(client: &mut Client, role: &str) -> Vec<String> {
    let query = "
        with member as (
            select classid, objid from pg_depend
             where refclassid = 'pg_extension'::regclass and deptype = 'e'
               and refobjid = (select oid from pg_extension where extname = 'busymate_stats')
        )
        select 'EXECUTE ' || p.oid::regprocedure
          from pg_proc p join member m on m.objid = p.oid and m.classid = 'pg_proc'::regclass
         where has_function_privilege($1, p.oid, 'EXECUTE')
        union all
        select privilege || ' ' || c.oid::regclass
          from pg_class c join member m on m.objid = c.oid and m.classid = 'pg_class'::regclass,
               unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) privilege
         where c.relkind in ('r', 'v') and (has_table_privilege($1, c.oid, privilege)
            or privilege in ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
               and has_any_column_privilege($1, c.oid, privilege))
        union all
        select privilege || ' schema ' || schema
          from unnest(array['USAGE', 'CREATE']) privilege, unnest(array['busymate_stats', 'busymate_stats_internal']) schema
         where has_schema_privilege($1, schema, privilege)
        order by 1";
    client.query(query, &[&role]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn nothing_but_has_capability_is_open() {
    let mut client = installed_on_supabase("closed");
    for role in ["public", "anon", "authenticated", "service_role", "authenticator"] {
        assert_eq!(open_to(&mut client, role), ["EXECUTE has_capability(text,text)"], "{role}");
    }
    // The query does see what is open: to the owner, that is all of it.
    let all = open_to(&mut client, "postgres");
    for open in [
        "EXECUTE get_stats()",
        "EXECUTE busymate_stats.stats_at(timestamp with time zone)",
        "TRUNCATE service_stats",
        "USAGE schema busymate_stats",
        "USAGE schema busymate_stats_internal",
    ] {
        assert!(all.iter().any(|line| line == open), "{open}: {all:#?}");
    }
}

/// What the install script leaves granted becomes the extension's initial privileges: a role named there could never be
/// dropped without breaking dumps.
#[test]
fn no_role_is_named_in_the_initial_privileges() {
    let mut client = installed_on_supabase("initial");
    let named: Vec<String> = client
        .query(
            "select pg_describe_object(i.classoid, i.objoid, i.objsubid) || ' ' || a.grantee::regrole
               from pg_init_privs i
               join pg_depend d on d.classid = i.classoid and d.objid = i.objoid and d.deptype = 'e'
               join pg_extension e on e.oid = d.refobjid and e.extname = 'busymate_stats',
                    lateral aclexplode(i.initprivs) a
              where a.grantee not in (0, 'postgres'::regrole)",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(named, Vec::<String>::new());
}

#[test]
fn grant_api_opens_what_it_says() {
    let mut client = installed_on_supabase("granted");
    client.batch_execute("create role \"Odd role\"").unwrap();
    let opened = [
        "EXECUTE get_stats()",
        "EXECUTE has_capability(text,text)",
        "EXECUTE mcp()",
        "EXECUTE mcp(jsonb)",
        "EXECUTE report_status(jsonb)",
        "SELECT service_stats",
        "SELECT service_status",
        "USAGE schema busymate_stats",
    ];
    for (call, role) in [
        ("grant_api()", "authenticated"),
        ("grant_api('service_role')", "service_role"),
        ("grant_api('Odd role')", "Odd role"),
    ] {
        assert_eq!(open_to(&mut client, role).len(), 1, "{role}");
        for _ in 0..2 {
            client.batch_execute(&format!("select busymate_stats.{call}")).unwrap();
            assert_eq!(open_to(&mut client, role), opened, "{call}");
        }
    }
    assert_eq!(open_to(&mut client, "anon").len(), 1);
    let mut grants_on_grants = client
        .query("select 1 from pg_class, aclexplode(relacl) a where a.grantee = 'authenticated'::regrole and a.is_grantable", &[])
        .unwrap();
    assert!(grants_on_grants.pop().is_none());
    let refused = refusal(&mut client, "select busymate_stats.grant_api('no_such_role')");
    assert_eq!((refused.code.as_str(), refused.message.contains("no_such_role")), ("42704", true));
}

/// What is not open is refused to a caller with every capability: capabilities do not stand in for grants.
#[test]
fn capabilities_do_not_replace_grants() {
    let mut client = installed_on_supabase("ungranted");
    client
        .batch_execute(
            "select busymate_stats.create_fleet_tables(); select busymate_stats.assign_role('boss', 'admin')",
        )
        .unwrap();
    let mut assert_refused = |statements: &[&str]| {
        for statement in statements {
            let refused = attempt(&mut client, "authenticated", "boss", statement).unwrap_err();
            assert_eq!(refused.code, "42501", "{statement}");
            assert!(refused.message.starts_with("permission denied for"), "{statement}: {}", refused.message);
        }
        client.batch_execute("select busymate_stats.grant_api()").unwrap();
    };
    assert_refused(&[
        "select public.get_stats()",
        "select from public.service_stats",
        "select from public.service_status",
        "select from busymate_stats.my_capabilities",
    ]);
    assert_refused(&[
        "select busymate_stats.refresh_stats()",
        "select busymate_stats.stats_at(now())",
        "select busymate_stats.stats_recomputed(now())",
        "select busymate_stats.grant_api()",
        "select busymate_stats.detach()",
        "select busymate_stats.assign_role('boss', 'viewer')",
        "select busymate_stats.version()",
        "select from busymate_stats.my_capabilities",
        "select from busymate_stats.roles",
        "select from busymate_stats_internal.attachment",
        "select from busymate_stats_internal.publications",
        "truncate public.service_stats",
        "update public.service_stats set id = 1",
    ]);
    as_caller(&mut client, "authenticated", Some(&claims("boss")), |client| {
        assert!(value::<bool>(client, "select public.get_stats() is not null"));
        assert!(value::<bool>(client, "select public.has_capability('anything', 'at all')"));
    });
}
