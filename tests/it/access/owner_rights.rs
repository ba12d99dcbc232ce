//! Promise: relations are read with their owner's rights only. Code of the owner's that is reached by reading runs as
//! the owner, whoever asks, and finds no way out.
//!
//! Every attack is shown to be live: what it does is written down by itself, and the same view, read by a superuser
//! without the extension between, does the damage.

use harness::evil::Scene;
use harness::{refusal, value};

#[test]
fn the_caller_needs_no_right_on_the_tables() {
    let mut scene = Scene::set("rights");
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
    scene.run("begin; set local role authenticated; set local request.jwt.claims = '{\"sub\":\"v\"}'");
    let counted: String = value(
        &mut scene.client,
        "select concat_ws(' ', s->'total_entries', s->'online_devices', s->'top_devices'->0->'name') from public.get_stats() s",
    );
    assert_eq!(counted, "1 1 \"one\"");
    // Each half is read by its own owner, who has no right on the other.
    let query = scene.named("select from {e}.entries");
    assert_eq!(refusal(&mut scene.client, &query).code, "42501");
    scene.run("rollback; set role {d}");
    assert_eq!(refusal(&mut scene.client, &query).code, "42501");
    scene.run("reset role");
    // An owner that has lost his right to read is told so: superuser's rights are no substitute.
    scene.run("revoke all on {e}.entries from {e}");
    let refused = refusal(&mut scene.client, "select public.get_stats()");
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("42501", "permission denied for table entries")
    );
    assert_eq!(refusal(&mut scene.client, "select busymate_stats.refresh_stats()").code, "42501");
}

#[test]
fn a_view_over_an_evil_function() {
    let mut scene = Scene::set("view");
    scene.run(
        "set role {e};
         create view {e}.log as select created_at, {e}.evil(host, 'entries') as host, status, source, device_uuid from {e}.entries;
         reset role;",
    );
    scene.assert_live("select host from {e}.log");
    scene.run("select busymate_stats.attach('{e}.log', '{d}.devices')");
    scene.read_everything();
    scene.assert_harmless("{e}");
}

#[test]
fn a_view_over_devices() {
    let mut scene = Scene::set("devices");
    scene.run(
        "set role {d};
         create view {d}.list as select device_uuid, name, {e}.evil(connection_type, 'devices') as connection_type, last_seen_at
                                   from {d}.devices;
         reset role;",
    );
    scene.assert_live("select connection_type from {d}.list");
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.list')");
    scene.read_everything();
    scene.assert_harmless("{d}");
}

/// What is declared immutable runs while a query is planned, also the one with which attach() tries a relation.
#[test]
fn a_function_that_runs_in_the_planner() {
    let mut scene = Scene::set("planner");
    scene.run(
        "set role {e};
         create function {e}.constant() returns boolean immutable language plpgsql as $f$
             begin perform {e}.attack('planner'); return true; end $f$;
         create view {e}.log as select * from {e}.entries where {e}.constant();
         reset role;",
    );
    scene.assert_live("explain select from {e}.log");
    scene.run("select busymate_stats.attach('{e}.log', '{d}.devices')");
    scene.assert_harmless("{e}");
    scene.clear();
    scene.read_everything();
    scene.assert_harmless("{e}");
}

/// The code that turns a value into text is the type's owner's. (A type's output function proper must be written in C,
/// which needs a superuser.)
#[test]
fn a_type_with_an_evil_cast_to_text() {
    let mut scene = Scene::set("cast");
    scene.run(
        "set role {e};
         create type {e}.host as (name text);
         create function {e}.shown({e}.host) returns text language plpgsql as $f$
             begin perform {e}.attack('cast'); return $1.name; end $f$;
         create cast ({e}.host as text) with function {e}.shown({e}.host);
         alter table {e}.entries alter host type {e}.host using row(host)::{e}.host;
         reset role;",
    );
    scene.assert_live("select host::text from {e}.entries");
    scene.run("select busymate_stats.attach('{e}.entries', '{d}.devices')");
    scene.read_everything();
    scene.assert_harmless("{e}");
    let host: String = value(&mut scene.client, "select public.get_stats()->'top_domains'->0->>'host'");
    assert_eq!(host, "a.example");
}

#[test]
fn a_domain_with_an_evil_check() {
    let mut scene = Scene::set("domain");
    scene.run(
        "set role {e};
         create domain {e}.source as text check ({e}.evil(value, 'check') is not null);
         create view {e}.log as select created_at, host, status, source::{e}.source as source, device_uuid from {e}.entries;
         reset role;",
    );
    scene.assert_live("select source from {e}.log");
    scene.run("select busymate_stats.attach('{e}.log', '{d}.devices')");
    scene.read_everything();
    scene.assert_harmless("{e}");
}

/// An operator of the owner's, for a type of the owner's, inside a view.
#[test]
fn a_view_over_an_evil_operator() {
    let mut scene = Scene::set("operator");
    scene.run(
        "set role {e};
         create function {e}.same(text, text) returns boolean language plpgsql as $f$
             begin perform {e}.attack('operator'); return true; end $f$;
         create operator {e}.= (leftarg = text, rightarg = text, function = {e}.same);
         create view {e}.log as select * from {e}.entries where source operator({e}.=) 'vpn';
         reset role;",
    );
    scene.assert_live("select from {e}.log");
    scene.run("select busymate_stats.attach('{e}.log', '{d}.devices')");
    scene.read_everything();
    scene.assert_harmless("{e}");
}

/// What the owner's code sets, ends with the owner's query: before the other owner's is read, and before the caller
/// goes on, also when it fails.
#[test]
fn settings_that_the_owner_changes() {
    let mut scene = Scene::set("undone");
    scene.run(
        "create table trace.settings (seen text); grant insert on trace.settings to public;
         set role {e};
         create function {e}.set(value text) returns text language plpgsql as $f$
             begin
                 perform set_config('request.jwt.claims', '{\"sub\":\"v\"}', false), set_config('search_path', 'trace', false),
                         set_config('row_security', 'on', false), set_config('timezone', 'Asia/Tokyo', false),
                         set_config('statement_timeout', '7s', false), set_config('thief.was', 'here', true);
                 if value = 'raise' then raise exception 'raised'; end if;
                 return value;
             end $f$;
         create view {e}.log as select created_at, {e}.set(host) as host, status, source, device_uuid from {e}.entries;
         reset role; set role {d};
         create function {d}.note(text) returns text language plpgsql as $f$
             begin
                 insert into trace.settings values (concat_ws('|', current_setting('request.jwt.claims'), current_setting('search_path'),
                                                    current_setting('row_security'), current_setting('timezone'),
                                                    current_setting('statement_timeout'), current_setting('thief.was')));
                 return $1;
             end $f$;
         create view {d}.list as select device_uuid, name, {d}.note(connection_type) as connection_type, last_seen_at from {d}.devices;
         reset role;
         select busymate_stats.attach('{e}.log', '{d}.list');
         set thief.was = 'nowhere'; set request.jwt.claims = 'none'; set timezone = 'Europe/Berlin';",
    );
    let settings = "select concat_ws('|', current_user, current_setting('request.jwt.claims'), current_setting('search_path'),
        current_setting('row_security'), current_setting('timezone'), current_setting('statement_timeout'), current_setting('thief.was'))";
    let before: String = value(&mut scene.client, settings);
    assert_eq!(before, "postgres|none|\"$user\", public|on|Europe/Berlin|0|nowhere");
    scene.run("begin; select public.get_stats()");
    assert_eq!(value::<String>(&mut scene.client, settings), before);
    assert_eq!(
        scene.texts("select distinct seen from trace.settings"),
        ["none|pg_catalog, pg_temp|off|UTC|0|nowhere"]
    );
    scene.run("update {e}.entries set host = 'raise'; savepoint s");
    assert_eq!(refusal(&mut scene.client, "select public.get_stats()").message, "raised");
    scene.run("rollback to s");
    assert_eq!(value::<String>(&mut scene.client, settings), before);
    scene.run("commit");
    assert_eq!(value::<String>(&mut scene.client, settings), before);
}
