//! Owners of a fleet's relations who reach for what is not theirs, in code that reading the relations runs.

use super::{installed, value};
use postgres::Client;

/// Two roles that own a fleet's halves, a treasure that they must not reach, and code of theirs that reaches for it.
///
/// `{e}` owns entries, `{d}` devices. `attack()` writes into `trace.ran` as whom it ran, and into `trace.escaped` what
/// it managed to do; that both may be written by anybody is what lets the attack testify.
const SCENE: &str = r#"
    create role {e}; create role {d};
    create schema treasure; create table treasure.gold (thief text);
    create schema trace; grant usage on schema trace to public;
    create table trace.ran (place text, as_whom text);
    create table trace.attempts (attempt text);
    create table trace.refused (attempt text, reason text);
    create table trace.escaped (attempt text, as_whom text);
    grant insert, select on all tables in schema trace to public;
    insert into trace.attempts values
        ('set role postgres'), ('reset role'), ('set role none'), ('set local role postgres'),
        ('set session authorization postgres'), ('reset session authorization'),
        ($$select set_config('role', 'postgres', false)$$), ($$select set_config('session_authorization', 'postgres', true)$$),
        ($$insert into treasure.gold values (current_user)$$),
        ('create table treasure.more_gold ()'), ('create temporary table pg_temp.loot ()'),
        ('create role {e}_accomplice superuser'), ('alter role {e} superuser'), ('grant pg_execute_server_program to {e}'),
        ($$copy trace.ran to program 'true'$$), ($$select pg_catalog.pg_read_file('PG_VERSION')$$),
        ($$do 'begin set row_security = on; insert into busymate_stats.user_roles values (''thief'', ''viewer''); end'$$),
        ($$select 1 / public.has_capability('roles', 'edit')::int$$),
        ('delete from busymate_stats_internal.attachment'), ('update public.service_stats set snapshot = null'),
        ('set busymate_stats.top_n = 1'), ('drop function public.get_stats()'),
        ('alter extension busymate_stats add table {e}.trap'),
        ('insert into {e}.trap values (1)'),
        ('listen loot'), ('prepare loot as select 1'), ('discard all');
    create schema {e}; grant usage, create on schema {e} to {e};
    create schema {d}; grant usage, create on schema {d} to {d};
    set role {e};
    -- What waits for the end of the transaction would run as whoever commits.
    create function {e}.spring() returns trigger language plpgsql as $f$
        begin insert into treasure.gold values (current_user); return null; end $f$;
    create table {e}.trap (x int);
    create constraint trigger spring after insert on {e}.trap deferrable initially deferred
        for each row execute function {e}.spring();
    create function {e}.attack(place text) returns void language plpgsql set search_path = pg_catalog as $f$
        declare attempt text;
        begin
            insert into trace.ran values (place, current_user);
            for attempt in select a.attempt from trace.attempts a loop
                begin
                    execute attempt;
                    insert into trace.escaped values (attempt, current_user);
                exception when others then
                    insert into trace.refused values (attempt, sqlerrm);
                end;
                if current_user not in ('{e}', '{d}') then
                    insert into trace.escaped values (attempt, current_user);
                end if;
            end loop;
        end $f$;
    create function {e}.evil(value text, place text) returns text language plpgsql set search_path = pg_catalog as $f$
        begin perform {e}.attack(place); return value; end $f$;
    create table {e}.entries (created_at timestamptz not null, host text, status int, source text, device_uuid text);
    create index on {e}.entries (created_at);
    insert into {e}.entries values (now() - interval '1 minute', 'a.example', 200, 'vpn', 'd1');
    reset role;
    grant execute on all functions in schema {e} to {d}; grant usage on schema {e} to {d};
    grant insert on {e}.trap to {d};
    set role {d};
    create table {d}.devices (device_uuid text, name text, connection_type text, last_seen_at timestamptz);
    insert into {d}.devices values ('d1', 'one', 'vpn', now());
    reset role;
    -- The owners may write the role tables as far as their capabilities go, and have none.
    grant usage on schema busymate_stats to {e}, {d};
    grant all on busymate_stats.user_roles to {e}, {d};
    select busymate_stats.grant_api();
    grant execute on all functions in schema busymate_stats to authenticated;
    select busymate_stats.assign_role('v', 'viewer');
"#;

/// One test's scene, in a database and with roles of its own.
pub struct Scene {
    pub client: Client,
    name: String,
}

impl Scene {
    pub fn set(name: &str) -> Self {
        let (_, client) = installed(name);
        let mut scene = Self { client, name: name.into() };
        scene.run(SCENE);
        scene
    }

    /// Runs statements; `{e}` and `{d}` stand for the owners and their schemas.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        let sql = self.named(sql);
        self.client.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub fn named(&self, sql: &str) -> String {
        sql.replace("{e}", &format!("{}_entries", self.name))
            .replace("{d}", &format!("{}_devices", self.name))
    }

    pub fn texts(&mut self, query: &str) -> Vec<String> {
        let query = self.named(query);
        self.client.query(&query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Forgets what has run so far.
    pub fn clear(&mut self) {
        self.run("truncate trace.ran, trace.refused, trace.escaped");
    }

    /// `query`, run by a superuser with nothing between, reaches the treasure: the attack is a real one.
    #[track_caller]
    pub fn assert_live(&mut self, query: &str) {
        self.run("begin");
        self.run(query);
        self.run("reset session authorization; set constraints all immediate");
        let gold: i64 = value(&mut self.client, "select count(*) from treasure.gold");
        assert!(gold > 0, "{query} does no damage");
        self.run("rollback");
    }

    /// Everything that reads the fleet, as a superuser and as a viewer who has no right on the tables.
    pub fn read_everything(&mut self) {
        for call in [
            "select public.get_stats()",
            "select busymate_stats.stats_at(now())",
            "select busymate_stats.stats_recomputed(now())",
            "select busymate_stats.refresh_stats()",
        ] {
            self.run(call);
            self.run(&format!("begin; set local role authenticated; set local request.jwt.claims = '{{\"sub\":\"v\"}}'; {call}; commit"));
        }
    }

    /// None of the owner's code has run.
    #[track_caller]
    pub fn assert_nothing_ran(&mut self) {
        assert_eq!(self.texts("select place || ' as ' || as_whom from trace.ran"), [""; 0]);
    }

    /// The attack ran as `owner` and as nobody else, every attempt was refused, and nothing is different from before.
    #[track_caller]
    pub fn assert_harmless(&mut self, owner: &str) {
        let owner = self.named(owner);
        assert_eq!(self.texts("select distinct as_whom from trace.ran"), [owner]);
        assert_eq!(self.texts("select attempt || ' as ' || as_whom from trace.escaped"), [""; 0]);
        let tried = self.texts("select distinct attempt from trace.refused order by 1");
        assert_eq!(tried, self.texts("select attempt from trace.attempts order by 1"));
        assert_eq!(self.texts("select thief from treasure.gold"), [""; 0]);
        let state: String = value(
            &mut self.client,
            "select concat_ws(' ', session_user, current_user, current_setting('role'), current_setting('busymate_stats.top_n'))",
        );
        assert_eq!(state, "postgres postgres none 10");
    }
}
