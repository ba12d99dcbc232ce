//! Promise: what can be seen of its safety without running anything is checked: pgspot reads the install script, and
//! queries of our own read what is installed. Each finds what it looks for when it is planted.
//!
//! `scripts/schema-tools` installs pgspot; where it is not there, its test says so and checks nothing, except in CI.

use harness::catalog::{MEMBERS, list, with_planted};
use harness::{SUPABASE_DEFAULT_PRIVILEGES, shared};
use postgres::Client;
use std::path::Path;
use std::process::Command;

/// What pgspot says of a script, and whether it is content.
fn pgspot(pgspot: &Path, script: &Path) -> (bool, String) {
    let output = Command::new(pgspot).arg(script).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn pgspot_finds_nothing_in_the_install_script() {
    let Some(tools) = std::env::var("BUSYMATE_TEST_SCHEMA_TOOLS").ok().filter(|path| !path.is_empty()) else {
        assert!(std::env::var("CI").is_err(), "no pgspot: run scripts/schema-tools");
        eprintln!("NOT TESTED: no pgspot. scripts/schema-tools installs it.");
        return;
    };
    let tool = Path::new(&tools).join("bin/pgspot");
    let script = Path::new(harness::CHECKOUT).join("sql/busymate_stats--0.1.0.sql");
    let (is_content, said) = pgspot(&tool, &script);
    assert!(is_content && said.contains("Errors: 0 Warnings: 0 Unknown: 0"), "{said}");

    let text = std::fs::read_to_string(&script).unwrap();
    for (code, planted) in [
        ("PS001", "create function busymate_stats.f() returns int language sql as 'select 1 + 1';"),
        (
            "PS003",
            "create function busymate_stats.f() returns int language sql security definer as 'select 1';",
        ),
        ("PS002", "create or replace function busymate_stats.f() returns int language c as 'x', 'y';"),
        ("PS012", "create table if not exists busymate_stats.t ();"),
    ] {
        let path = std::env::temp_dir().join(format!("busymate-pgspot-{}-{code}.sql", std::process::id()));
        std::fs::write(&path, format!("{text}\n{planted}\n")).unwrap();
        let (is_content, said) = pgspot(&tool, &path);
        std::fs::remove_file(path).unwrap();
        assert!(!is_content && said.contains(code), "{code}: {said}");
    }
}

/// A rule about what is installed.
struct Rule {
    name: &'static str,
    /// Lists what breaks it, of the extension's members: `member (classid, objid)`.
    offenders: &'static str,
    /// Plants an offender.
    plant: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        name: "a function is written in C, or pins its search_path",
        offenders: "select p.oid::regprocedure from pg_proc p join member m on m.objid = p.oid and m.classid = 'pg_proc'::regclass
                     where p.prolang <> (select oid from pg_language where lanname = 'c')
                       and not 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))",
        plant: "alter function busymate_stats.repair() reset search_path",
    },
    Rule {
        name: "a function with its owner's rights pins its search_path, and is nobody else's to call",
        offenders: "select p.oid::regprocedure from pg_proc p join member m on m.objid = p.oid and m.classid = 'pg_proc'::regclass
                     where p.prosecdef
                       and (not 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))
                            or has_function_privilege('public', p.oid, 'execute'))",
        plant: "alter function public.get_stats() security definer",
    },
    Rule {
        name: "those are three",
        offenders: "select p.oid::regprocedure from pg_proc p join member m on m.objid = p.oid and m.classid = 'pg_proc'::regclass
                     where p.prosecdef and p.oid::regprocedure::text not in
                           ('busymate_stats.refresh_stats()', 'busymate_stats.refresh_status()',
                            'busymate_stats_internal.note_empty_partitions()')",
        plant: "alter function busymate_stats.repair() security definer",
    },
    Rule {
        name: "a table has row-level security, and TRUNCATE is the owner's",
        offenders: "select c.oid::regclass from pg_class c join member m on m.objid = c.oid and m.classid = 'pg_class'::regclass
                     where c.relkind = 'r'
                       and (not c.relrowsecurity
                            or not exists (select from pg_trigger t join pg_proc f on f.oid = t.tgfoid
                                            where t.tgrelid = c.oid and t.tgtype & 34 = 34
                                              and f.proname in ('guard_truncate', 'guard_truncate_owner')))",
        plant: "alter table busymate_stats_internal.seal_state disable row level security",
    },
    Rule {
        name: "a table of the internal schema has no policy",
        offenders: "select p.polrelid::regclass from pg_policy p join pg_class c on c.oid = p.polrelid
                     where c.relnamespace = 'busymate_stats_internal'::regnamespace",
        plant: "create policy planted on busymate_stats_internal.capture using (true)",
    },
    Rule {
        name: "a policy asks has_capability, or leads to a policy that does",
        offenders: "select p.polrelid::regclass from pg_policy p join member m on m.objid = p.polrelid and m.classid = 'pg_class'::regclass
                     where coalesce(pg_get_expr(p.polqual, p.polrelid), '') || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '')
                           !~ 'public\\.has_capability\\('",
        plant: "alter policy roles_view on busymate_stats.roles using (true)",
    },
    Rule {
        // What Realtime needs is what everybody may see of the server's settings.
        name: "a view runs with its reader's rights, or is a security barrier that says who reads it",
        offenders: "select c.oid::regclass from pg_class c join member m on m.objid = c.oid and m.classid = 'pg_class'::regclass
                     where c.relkind = 'v' and c.oid <> 'busymate_stats_internal.realtime_needs'::regclass and not 'security_invoker=true' = any (coalesce(c.reloptions, '{}'))
                       and not ('security_barrier=true' = any (coalesce(c.reloptions, '{}'))
                                and pg_get_viewdef(c.oid) like '%public.has_capability(%')",
        plant: "alter view busymate_stats_internal.foreign_objects reset (security_invoker)",
    },
    Rule {
        name: "nobody is granted anything, but EXECUTE of has_capability",
        offenders: "select object.name || ' ' || held.privilege_type from (
                        select p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
                          from pg_proc p join member m on m.objid = p.oid and m.classid = 'pg_proc'::regclass
                        union all
                        select c.oid::regclass::text, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))
                          from pg_class c join member m on m.objid = c.oid and m.classid = 'pg_class'::regclass
                        union all
                        select n.nspname, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
                          from pg_namespace n where n.nspname like 'busymate_stats%') object (name, owner, acl),
                        lateral aclexplode(object.acl) held
                     where held.grantee <> object.owner and object.name <> 'public.has_capability(text,text)'",
        plant: "grant usage on schema busymate_stats_internal to public",
    },
    Rule {
        name: "everything belongs to a superuser, and so do the schemas",
        offenders: "select pg_describe_object(classid, objid, 0) from (
                        select m.classid, m.objid, coalesce(p.proowner, c.relowner) as owner
                          from member m
                          left join pg_proc p on m.classid = 'pg_proc'::regclass and p.oid = m.objid
                          left join pg_class c on m.classid = 'pg_class'::regclass and c.oid = m.objid
                        union all
                        select 'pg_namespace'::regclass, n.oid, n.nspowner from pg_namespace n
                         where n.nspname like 'busymate_stats%') object
                      join pg_roles o on o.oid = object.owner
                     where not o.rolsuper",
        plant: "alter schema busymate_stats_internal owner to authenticator",
    },
    Rule {
        name: "a trigger, a default, a constraint or an index comes to no code of others",
        offenders: "select object from busymate_stats_internal.foreign_objects",
        plant: "create function public.planted() returns timestamptz language sql as 'select now()';
                alter table public.service_stats alter updated_at set default public.planted()",
    },
];

fn broken(client: &mut Client, rule: &Rule) -> Vec<String> {
    list(client, &format!("with member as not materialized ({MEMBERS}) {}", rule.offenders))
}

fn as_on_supabase(prefix: &str) -> Client {
    let database = shared().create_database(prefix);
    let mut client = shared().connect(&database);
    client.batch_execute(SUPABASE_DEFAULT_PRIVILEGES).unwrap();
    client
        .batch_execute("create extension busymate_stats; select busymate_stats.create_fleet_tables()")
        .unwrap();
    client
}

#[test]
fn what_is_installed_keeps_the_rules() {
    let mut client = as_on_supabase("rules");
    for rule in RULES {
        assert_eq!(broken(&mut client, rule), [""; 0], "{}", rule.name);
    }
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let mut client = as_on_supabase("broken");
    for rule in RULES {
        // `list` begins a transaction of its own, which would end this one.
        let found = with_planted(&mut client, rule.plant, |client| {
            let sql = format!("with member as not materialized ({MEMBERS}) {}", rule.offenders);
            client.query(&sql, &[]).unwrap().len()
        });
        assert!(found > 0, "{}", rule.name);
    }
}
