//! Promise: nothing to get past. The attacks of docs/security.md that no other file tries.

use harness::access::{claims, make_user, may, sign_in};
use harness::evil::Scene;
use harness::fleet::fleet;
use harness::{installed, refusal, shared, value};
use postgres::Client;

/// Code of an owner's, reached by reading his relation, holds nothing: not what the reader holds, and not what the session
/// remembers of the reader either.
#[test]
fn what_is_remembered_of_the_reader_does_not_count_in_the_owners_code() {
    let mut scene = Scene::set("remembered");
    scene.run(
        "create table trace.held (held text); grant insert on trace.held to public;
         set role {e};
         create function {e}.ask(value text) returns text language plpgsql as $f$
             begin
                 insert into trace.held
                 select concat_ws(' ', public.has_capability('stats', 'view'), public.has_capability('stats', 'view'),
                                  current_setting('busymate_stats.my_capabilities'));
                 return value;
             end $f$;
         create view {e}.log as
             select created_at, {e}.ask(host) as host, status, source, device_uuid from {e}.entries;
         reset role;
         select busymate_stats.attach('{e}.log', '{d}.devices')",
    );
    for role in ["authenticated", "none"] {
        sign_in(&mut scene.client, role, &claims("v"));
        scene.run("select public.has_capability('stats', 'view'), public.has_capability('stats', 'view')");
        assert!(value::<bool>(&mut scene.client, "select public.get_stats() is not null"));
        assert!(may(&mut scene.client, "stats", "view"), "and it does again afterwards");
        scene.run("reset role");
        assert_eq!(scene.texts("select distinct held from trace.held"), ["f f []"], "{role}");
        scene.run("truncate trace.held");
    }
}

/// Whoever is nobody learns nothing of the rows that he does not see, by a function that says what it is handed.
#[test]
fn a_function_that_tells_what_it_sees() {
    let (database, mut client) = fleet("security_leaks");
    client
        .batch_execute(
            "select busymate_stats.grant_api(), busymate_stats.refresh_stats();
             create schema spy; create table spy.seen (what text); grant usage, create on schema spy to authenticated;
             grant all on spy.seen to authenticated;
             create table public.guarded as select 'secret ' || n as secret from generate_series(1, 100) n;
             alter table public.guarded enable row level security;
             create policy view on public.guarded using (public.has_capability('stats', 'view'));
             grant select on public.guarded to authenticated",
        )
        .unwrap();
    make_user(&mut client, "v", &["stats:view"]);
    let mut client = shared().connect_as("authenticator", &database);
    client
        .batch_execute(
            "set role authenticated;
             create function spy.spy(value text) returns boolean language plpgsql cost 0.0001 as
                 'begin insert into spy.seen values (value); return true; end'",
        )
        .unwrap();
    for (sub, rows) in [("nobody", 0), ("v", 101), ("nobody", 0)] {
        sign_in(&mut client, "authenticated", &claims(sub));
        client
            .batch_execute(
                "select from public.guarded where spy.spy(secret);
                 select from public.service_stats where spy.spy(snapshot::text)",
            )
            .unwrap();
        assert_eq!(value::<i64>(&mut client, "select count(*) from spy.seen"), rows, "{sub}");
        client.batch_execute("delete from spy.seen").unwrap();
    }
}

/// The functions that make triggers of ours what they are can be put on nobody's own table, nor be declared anew.
#[test]
fn the_trigger_functions_are_nobodys() {
    let (_, mut client) = installed("security_triggers");
    client
        .batch_execute(
            "create role security_owner; create schema own authorization security_owner;
             grant usage on schema busymate_stats_internal to security_owner; set role security_owner;
             create table own.rows (created_at timestamptz, host text)",
        )
        .unwrap();
    let functions = client
        .query(
            "select p.oid::regprocedure::text, p.prosrc from pg_proc p
              where p.pronamespace = 'busymate_stats_internal'::regnamespace and p.prorettype = 'trigger'::regtype",
            &[],
        )
        .unwrap();
    assert!(functions.len() >= 7);
    for row in functions {
        let (function, symbol): (String, String) = (row.get(0), row.get(1));
        let refused = refusal(
            &mut client,
            &format!("create trigger t after insert on own.rows for each row execute function {function}"),
        );
        assert_eq!(refused.code, "42501", "{function}");
        let refused = refusal(
            &mut client,
            &format!(
                "create function own.f() returns trigger language c as '$libdir/busymate_stats', '{symbol}'"
            ),
        );
        assert_eq!(refused.code, "42501", "{symbol}");
    }
}

/// A caller's operators, casts and functions that stand before PostgreSQL's own change no answer.
#[test]
fn a_search_path_of_the_callers() {
    let (_, mut client) = fleet("security_path");
    client
        .batch_execute(
            "create schema trap;
             create function trap.equal(text, text) returns boolean language sql as 'select true';
             create operator trap.= (leftarg = text, rightarg = text, function = trap.equal);
             create function trap.has_capability(text, text) returns boolean language sql as 'select true';
             create function trap.current_setting(text) returns text language sql as
                 $$select '[{\"section\":\"*\",\"action\":\"*\"}]'$$;
             create function trap.now() returns timestamptz language sql as $$select 'infinity'::timestamptz$$;
             grant usage on schema trap, busymate_stats to authenticated; grant select on all tables in schema busymate_stats to authenticated;
             insert into busymate_stats.revoked_tokens (jti, expires_at) values ('t', now() + interval '1 day');
             select busymate_stats.grant_api(); select busymate_stats.refresh_stats();
             set search_path = trap, pg_catalog, public",
        )
        .unwrap();
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(value::<i64>(&mut client, "select count(*) from busymate_stats.revoked_tokens"), 1);
    sign_in(&mut client, "authenticated", &claims("nobody"));
    for nothing in [
        "select count(*) from busymate_stats.my_capabilities",
        "select count(*) from public.service_stats",
        "select count(*) from busymate_stats.revoked_tokens",
        "select count(*) from busymate_stats.roles",
        "select count(*) from busymate_stats.health",
        "select public.has_capability('stats', 'view')::int::bigint",
    ] {
        assert_eq!(value::<i64>(&mut client, nothing), 0, "{nothing}");
    }
}

/// Names that would end a literal or an identifier, wherever one of the user's enters a statement.
#[test]
fn names_that_are_statements() {
    let (_, mut client) = installed("security_names");
    let name = |kind: &str| format!("{kind}\"; drop table treasure; --'$$\\");
    let quoted = |kind: &str| format!("\"{}\"", name(kind).replace('"', "\"\""));
    client.batch_execute("create table treasure ()").unwrap();
    let columns = ["time", "host", "status", "source", "device", "key", "name", "kind", "seen"];
    let [time, host, status, source, device, key, label, kind, seen] = columns.map(quoted);
    client
        .batch_execute(&format!(
            "create schema {schema};
             create table {schema}.{entries} ({time} timestamptz not null, {host} text, {status} int, {source} text, {device} text);
             create index on {schema}.{entries} ({time});
             create table {schema}.{devices} ({key} text primary key, {label} text, {kind} text, {seen} timestamptz);
             create role {role}; create publication {publication};",
            schema = quoted("s"),
            entries = quoted("e"),
            devices = quoted("d"),
            role = quoted("r"),
            publication = quoted("p"),
        ))
        .unwrap();
    let relation = |kind: &str| format!("{}.{}", quoted("s"), quoted(kind));
    client
        .execute(
            "select busymate_stats.attach(to_regclass($1), to_regclass($2), $3::text::name, $4::text::name, $5::text::name,
                 $6::text::name, $7::text::name, $8::text::name, $9::text::name, $10::text::name, $11::text::name)",
            &[
                &relation("e"),
                &relation("d"),
                &name("time"),
                &name("host"),
                &name("status"),
                &name("source"),
                &name("device"),
                &name("key"),
                &name("name"),
                &name("kind"),
                &name("seen"),
            ],
        )
        .unwrap();
    client
        .batch_execute(&format!(
            "insert into {} values (now() - interval '10 min', 'h', 200, 's', 'd')",
            relation("e")
        ))
        .unwrap();
    client.execute("select busymate_stats.publish($1::text::name)", &[&name("p")]).unwrap();
    client.execute("select busymate_stats.grant_api($1::text::name)", &[&name("r")]).unwrap();
    make_user(&mut client, &name("u"), &["stats:view"]);
    client
        .execute(
            "select busymate_stats.revoke_capability($1, $2)",
            &[&name("u"), &format!("{}:x", name("c").replace(':', ""))],
        )
        .unwrap();
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    sign_in(&mut client, "service_role", &claims(&name("u")));
    sign_in(&mut client, "none", "");
    let entries: i64 = value(
        &mut client,
        "select (public.get_stats() ->> 'total_entries')::bigint + count(*) from treasure",
    );
    assert_eq!(entries, 1);
    for feed in ["service_stats", "service_status"] {
        let readable: bool = client
            .query_one(
                "select has_table_privilege($1::text::name, $2::text, 'SELECT')",
                &[&name("r"), &format!("public.{feed}")],
            )
            .unwrap()
            .get(0);
        assert!(readable, "{feed}");
    }
    client.batch_execute("select busymate_stats.detach()").unwrap();
    client.batch_execute(&format!("drop owned by {role}; drop role {role}", role = quoted("r"))).unwrap();
}

/// What the worker writes with a superuser's rights: its tables belong to nobody else, and bear no trigger, rule or
/// default but the extension's own.
#[test]
fn nothing_of_others_stands_where_the_worker_writes() {
    let (_, mut client) = installed("security_tables");
    let of_others = "
        select format('%s of %s', what, relation) from (
            select 'owner' as what, c.oid::regclass as relation from pg_class c
             where not (select rolsuper from pg_roles where oid = c.relowner)
            union all
            select 'trigger ' || t.tgname, t.tgrelid from pg_trigger t join pg_proc p on p.oid = t.tgfoid
             where not t.tgisinternal and p.pronamespace <> 'busymate_stats_internal'::regnamespace
            union all
            select 'rule ' || r.rulename, r.ev_class from pg_rewrite r join pg_class c on c.oid = r.ev_class
             where c.relkind = 'r'
            union all
            select 'default', a.adrelid from pg_attrdef a, pg_depend d, pg_proc p
             where d.classid = 'pg_attrdef'::regclass and d.objid = a.oid and d.refclassid = 'pg_proc'::regclass
               and p.oid = d.refobjid and p.pronamespace <> 'pg_catalog'::regnamespace) found (what, relation)
         where relation in (select objid from pg_depend
                             where classid = 'pg_class'::regclass and deptype = 'e' and refclassid = 'pg_extension'::regclass
                               and refobjid = (select oid from pg_extension where extname = 'busymate_stats'))";
    let found = |client: &mut Client| -> Vec<String> {
        client.query(of_others, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(found(&mut client), [""; 0]);
    client
        .batch_execute(
            "create rule planted as on insert to busymate_stats_internal.feed_health do also select 1;
             create role security_tables; alter table busymate_stats.revoked_tokens owner to security_tables",
        )
        .unwrap();
    assert_eq!(found(&mut client).len(), 2);
    client.batch_execute("reassign owned by security_tables to postgres; drop role security_tables").unwrap();
}
