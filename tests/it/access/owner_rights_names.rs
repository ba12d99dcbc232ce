//! Promise: relations are read with their owner's rights only. Whatever stands in the caller's or the owner's way of
//! resolving names (search_path, operators, temporary objects, settings) neither runs nor changes a figure.

use harness::evil::Scene;
use harness::value;
use serde_json::{Value, json};

/// A comparison of the owner's on the index by which windows are cut: the index calls it, as the owner.
#[test]
fn an_evil_operator_class() {
    let mut scene = Scene::set("opclass");
    scene.run(
        "set role {e};
         create function {e}.compare(timestamptz, timestamptz) returns int language plpgsql as $f$
             begin insert into trace.ran values ('opclass', current_user); return timestamptz_cmp($1, $2); end $f$;
         reset role;
         create operator class {e}.evil_ops for type timestamptz using btree as
             operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >,
             function 1 {e}.compare(timestamptz, timestamptz);
         drop index {e}.entries_created_at_idx;
         create index on {e}.entries (created_at {e}.evil_ops);
         set enable_seqscan = off",
    );
    scene.clear();
    scene.run("select from {e}.entries where created_at > now() - interval '1 day'");
    assert_eq!(scene.texts("select distinct as_whom from trace.ran"), ["postgres"]);
    scene.clear();
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
    scene.read_everything();
    let owner = scene.named("{e}");
    assert_eq!(scene.texts("select distinct as_whom from trace.ran"), [owner]);
}

/// Functions, operators, an aggregate and types that stand before PostgreSQL's own.
const SHADOWS: &str = "
    create function {e}.later(timestamptz, timestamptz) returns boolean language plpgsql as $f$
        begin perform {e}.attack('operator'); return true; end $f$;
    create operator {e}.> (leftarg = timestamptz, rightarg = timestamptz, function = {e}.later);
    create operator {e}.<= (leftarg = timestamptz, rightarg = timestamptz, function = {e}.later);
    create function {e}.same(text, text) returns boolean language plpgsql as $f$
        begin perform {e}.attack('equality'); return true; end $f$;
    create operator {e}.= (leftarg = text, rightarg = text, function = {e}.same);
    create function {e}.divided(int, int) returns int language plpgsql as $f$
        begin perform {e}.attack('division'); return 2; end $f$;
    create operator {e}./ (leftarg = int, rightarg = int, function = {e}.divided);
    create function {e}.counted(bigint) returns bigint language plpgsql as $f$
        begin perform {e}.attack('count'); return 7; end $f$;
    create aggregate {e}.count(*) (sfunc = {e}.counted, stype = bigint, initcond = '0');
    create function {e}.first(text, text) returns text language plpgsql as $f$
        begin perform {e}.attack('min'); return $1; end $f$;
    create aggregate {e}.min(text) (sfunc = {e}.first, stype = text, initcond = '');
    create domain {e}.text as pg_catalog.text check ({e}.evil(value, 'type') is not null);
    create domain {e}.jsonb as pg_catalog.jsonb check ({e}.evil('', 'type') is not null);
    create table {e}.pg_class (oid oid); create table {e}.pg_attribute (attname name); create table {e}.pg_index (indrelid oid);
    create table {e}.pg_extension (extname name, extversion pg_catalog.text);
    create table {e}.attachment (id int); create table {e}.service_stats (id int);
";

#[test]
fn a_search_path_full_of_traps() {
    let mut scene = Scene::set("path");
    scene.run(&format!("set role {{e}}; {SHADOWS} reset role; set search_path = {{e}}, pg_catalog, public"));
    for trap in [
        "select now() > now()",
        "select count(*)",
        "select 'a'::text",
        "select 'a'::pg_catalog.text = 'b'",
        "select 6 / 2",
        "select min('a'::pg_catalog.text)",
    ] {
        scene.assert_live(trap);
    }
    scene.clear();
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
    scene.read_everything();
    scene.run("select busymate_stats.detach()");
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
    scene.assert_nothing_ran();
    scene.run("reset search_path");
    scene.run("begin; set local search_path = {e}, pg_catalog");
    let stats: Value = value(&mut scene.client, "select public.get_stats()::pg_catalog.jsonb");
    scene.run("rollback");
    assert_eq!((&stats["total_entries"], &stats["source_mix"]), (&json!(1), &json!({ "vpn": 1 })));
    assert_eq!(stats["status_class_mix"], json!({ "2": 1 }));
    scene.assert_nothing_ran();
}

/// A table's own policies say what others see of it. They neither run nor hide a row where its owner reads.
#[test]
fn an_evil_policy() {
    let mut scene = Scene::set("policy");
    scene.run(
        "set role {e};
         create policy evil on {e}.entries using ({e}.evil(host, 'policy') is null);
         alter table {e}.entries enable row level security;
         grant usage on schema {e} to {d}; grant select on {e}.entries to {d};
         reset role; set role {d}",
    );
    assert_eq!(scene.texts("select host from {e}.entries"), [""; 0]);
    scene.run("reset role");
    let reader = scene.named("{d}");
    assert_eq!(scene.texts("select distinct as_whom from trace.ran"), [reader]);
    scene.clear();
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
    for row_security in ["on", "off"] {
        scene.run(&format!("set row_security = {row_security}"));
        scene.read_everything();
        assert_eq!(
            value::<i64>(&mut scene.client, "select (public.get_stats()->'total_entries')::bigint"),
            1
        );
    }
    scene.assert_nothing_ran();
}

/// Code that writing runs (an index's expression, a default, a trigger) is not run by reading or attaching.
#[test]
fn code_that_only_writing_runs() {
    let mut scene = Scene::set("writing");
    scene.run(
        "set role {e};
         create function {e}.key(text) returns text immutable language plpgsql as $f$
             begin perform {e}.attack('index'); return $1; end $f$;
         create index on {e}.entries (created_at, {e}.key(host));
         alter table {e}.entries alter host set default {e}.evil('x', 'default');
         create function {e}.fired() returns trigger language plpgsql as $f$
             begin perform {e}.attack('trigger'); return new; end $f$;
         create trigger fired before insert or update or delete on {e}.entries for each row execute function {e}.fired();
         create rule evil as on insert to {e}.entries do also select {e}.evil('x', 'rule');
         reset role",
    );
    scene.assert_live("insert into {e}.entries (created_at) values (now())");
    scene.clear();
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
    scene.read_everything();
    scene.run("select busymate_stats.detach()");
    scene.assert_nothing_ran();
}

#[test]
fn temporary_objects_of_the_caller() {
    let mut scene = Scene::set("temporary");
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
    for role in ["postgres", "authenticated"] {
        scene.run(&format!(
            "set role {role}; set request.jwt.claims = '{{\"sub\":\"v\"}}';
             create temporary table entries (created_at timestamptz, host text, status int, source text, device_uuid text);
             create temporary table devices (device_uuid text, name text, connection_type text, last_seen_at timestamptz);
             create temporary table attachment (id int, entries regclass, devices regclass);
             create temporary table service_stats (id int, snapshot jsonb);
             create temporary view pg_class as select 1 as oid; create temporary view pg_index as select 1 as indrelid;
             create temporary view pg_attribute as select 1 as attrelid; create temporary view pg_extension as select 'x' as extversion;
             create function pg_temp.count(text) returns bigint language sql as 'select 7::bigint';
             create function pg_temp.caught(timestamptz, timestamptz) returns boolean language plpgsql as $f$
                 begin insert into trace.ran values ('temp', current_user); return false; end $f$;
             create operator pg_temp.> (leftarg = timestamptz, rightarg = timestamptz, function = pg_temp.caught);
             set search_path = pg_temp, pg_catalog, public"
        ));
        let stats: Value = value(&mut scene.client, "select public.get_stats()");
        let found =
            ["total_entries", "entries_1h", "total_devices", "online_devices"].map(|key| stats[key].as_i64());
        assert_eq!(found, [Some(1); 4], "{role}");
        assert_eq!(stats["top_devices"][0]["name"], "one");
        scene.run("reset role; select busymate_stats.detach()");
        scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
        scene.run("select busymate_stats.refresh_stats()");
        let kept: i64 =
            value(&mut scene.client, "select (snapshot->'total_entries')::bigint from public.service_stats");
        assert_eq!(kept, 1);
        scene.assert_nothing_ran();
        scene.run("discard all");
    }
}

/// How a value reads as text is the database's business, not the caller's.
#[test]
fn settings_of_the_caller() {
    let mut scene = Scene::set("settings");
    scene.run(
        "create table {e}.odd (at timestamptz primary key, host float8, status int, source timestamptz, device bytea);
         insert into {e}.odd values (now() - interval '1 minute', 0.1::float8 + 0.2::float8, 200, '2026-03-04 05:06:07.5+00', '\\xff00');
         alter table {e}.odd owner to {e};
         create table {d}.odd (id bytea, name interval, kind date, seen timestamptz);
         insert into {d}.odd values ('\\xff00', '1 year 2 days 03:04:05', '2026-03-04', now());
         alter table {d}.odd owner to {d};
         select busymate_stats.attach('{e}.odd', '{d}.odd', 'at', source => 'source', entry_device => 'device',
                                      device_key => 'id', device_name => 'name', connection_type => 'kind', last_seen => 'seen')",
    );
    let shown = json!([
        { "2026-03-04 05:06:07.5+00": 1 },
        { "2026-03-04": 1 },
        [{ "host": "0.30000000000000004", "count": 1 }],
        [{ "device_uuid": "\\xff00", "name": "1 year 2 days 03:04:05", "count": 1 }],
    ]);
    for settings in [
        "",
        "set datestyle = 'German'; set timezone = 'Asia/Tokyo'; set intervalstyle = 'iso_8601'",
        "set datestyle = 'SQL, DMY'; set extra_float_digits = -15; set bytea_output = 'escape'",
        "set extra_float_digits = 3; set row_security = off; set timezone = '+13:30'; set intervalstyle = 'sql_standard'",
    ] {
        scene.run(&format!("{settings}; select busymate_stats.refresh_stats()"));
        for source in [
            "select public.get_stats() as s",
            "select busymate_stats.stats_recomputed(now()) as s",
            "select snapshot as s from public.service_stats",
        ] {
            let found: Value = value(
                &mut scene.client,
                &format!(
                    "select jsonb_build_array(s->'source_mix', s->'connection_type_mix', s->'top_domains', s->'top_devices') from ({source}) x"
                ),
            );
            assert_eq!(found, shown, "{settings}: {source}");
        }
    }
    let kept: String = value(
        &mut scene.client,
        "select concat_ws(' ', current_setting('bytea_output'), current_setting('extra_float_digits'), current_setting('search_path'))",
    );
    assert_eq!(kept, "escape 3 \"$user\", public");
}
