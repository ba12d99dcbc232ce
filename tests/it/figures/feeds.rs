//! Promise: a refresh replaces the snapshot in place. The first makes the row, every later one is an UPDATE of it: what
//! Realtime pushes, and what PostgREST serves.

use harness::catalog::list;
use harness::fleet::fleet;
use harness::{installed, refusal, shared, value};
use postgres::Client;
use serde_json::{Value, json};

const REFRESH: &str = "select busymate_stats.refresh_stats()";

/// What a refresh does to `service_stats`: rows inserted, updated, updated without touching an index, deleted.
fn written_by_a_refresh(client: &mut Client) -> [i64; 4] {
    // What earlier transactions did and have not reported yet is counted too.
    let counters = |client: &mut Client| -> [i64; 4] {
        let row = client.query_one(
            "select n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del from pg_stat_xact_user_tables
              where relid = 'public.service_stats'::regclass",
            &[],
        );
        let row = row.unwrap();
        std::array::from_fn(|column| row.get(column))
    };
    client.batch_execute("begin").unwrap();
    let before = counters(client);
    client.batch_execute(REFRESH).unwrap();
    let after = counters(client);
    client.batch_execute("commit").unwrap();
    std::array::from_fn(|column| after[column] - before[column])
}

#[test]
fn the_first_refresh_inserts_and_the_next_ones_update_in_place() {
    let (_, mut client) = fleet("in_place");
    assert_eq!(written_by_a_refresh(&mut client), [1, 0, 0, 0]);
    let version = "select xmin::text || ctid::text from public.service_stats where id = 1";
    let mut before: String = value(&mut client, version);
    for _ in 0..3 {
        assert_eq!(written_by_a_refresh(&mut client), [0, 1, 1, 0]);
        let after: String = value(&mut client, version);
        assert_ne!(before, after);
        before = after;
    }
    assert_eq!(list(&mut client, "select id from public.service_stats"), ["1"]);
}

#[test]
fn a_refresh_returns_its_moment() {
    let (_, mut client) = fleet("moment");
    for _ in 0..2 {
        let returned: String = value(&mut client, "select to_jsonb(busymate_stats.refresh_stats())::text");
        let row = "select to_jsonb(updated_at)::text from public.service_stats";
        assert_eq!(returned, value::<String>(&mut client, row));
        let stated =
            "select to_jsonb((snapshot ->> 'generated_at')::timestamptz)::text from public.service_stats";
        assert_eq!(returned, value::<String>(&mut client, stated));
        assert!(value::<bool>(
            &mut client,
            "select updated_at between now() - interval '1 hour' and clock_timestamp() + interval '1 ms'
               from public.service_stats"
        ));
    }
}

#[test]
fn the_snapshot_is_what_get_stats_gives() {
    let (_, mut client) = fleet("same");
    client
        .batch_execute(
            "insert into public.devices (name, connection_type) values ('a', 'vpn'), ('b', null);
             insert into public.entries (host, status, source) select 'h' || i, 200, 'pac' from generate_series(1, 20) i",
        )
        .unwrap();
    client.batch_execute(REFRESH).unwrap();
    assert!(value::<bool>(
        &mut client,
        "select snapshot = busymate_stats.stats_at(updated_at) from public.service_stats"
    ));
    let mut snapshot: Value = value(&mut client, "select snapshot from public.service_stats");
    let mut stats: Value = value(&mut client, "select public.get_stats()");
    assert_eq!(stats["total_entries"], 20);
    snapshot["generated_at"] = json!(null);
    stats["generated_at"] = json!(null);
    assert_eq!(snapshot, stats);
}

/// Only an explicit write touches the feeds' rows: there is one, and it has id 1.
#[test]
fn there_is_no_second_row() {
    let (_, mut client) = fleet("second");
    client.batch_execute(REFRESH).unwrap();
    for feed in ["service_stats", "service_status"] {
        let second = format!("insert into public.{feed} (id, snapshot) values (2, '{{}}')");
        assert_eq!(refusal(&mut client, &second).code, "23514");
    }
    let again = "insert into public.service_stats (snapshot) values ('{}')";
    assert_eq!(refusal(&mut client, again).code, "23505");
}

#[test]
fn a_refresh_without_a_fleet_is_refused_and_keeps_what_was_there() {
    let (_, mut client) = installed("no_fleet");
    client.batch_execute("insert into public.service_stats (snapshot) values ('{\"old\": 1}')").unwrap();
    let refused = refusal(&mut client, REFRESH);
    assert_eq!(refused.code, "42P01");
    assert!(refused.hint.contains("busymate_stats.attach("), "{refused:?}");
    assert_eq!(value::<Value>(&mut client, "select snapshot from public.service_stats"), json!({"old": 1}));
}

/// A scheduled job has no claims, and often no rights but the one to refresh.
#[test]
fn who_may_refresh_needs_neither_claims_nor_rights_on_the_tables() {
    let (database, mut client) = fleet("scheduled");
    client.batch_execute("insert into public.entries (host) values ('a'), ('b')").unwrap();
    client
        .batch_execute("create role feeds_job login; grant usage on schema busymate_stats to feeds_job")
        .unwrap();
    let mut job = shared().connect_as("feeds_job", &database);
    assert_eq!(refusal(&mut job, REFRESH).code, "42501");
    client.batch_execute("grant execute on function busymate_stats.refresh_stats() to feeds_job").unwrap();
    for claims in ["", "{\"sub\": \"nobody\"}", "no json"] {
        job.execute("select set_config('request.jwt.claims', $1, false)", &[&claims]).unwrap();
        job.batch_execute(REFRESH).unwrap();
        let snapshot: Value = value(&mut client, "select snapshot from public.service_stats");
        assert_eq!(snapshot["total_entries"], 2);
    }
    assert_eq!(refusal(&mut job, "select * from public.service_stats").code, "42501");
    assert_eq!(refusal(&mut job, "select * from public.entries").code, "42501");
    assert_eq!(refusal(&mut job, "select public.get_stats()").code, "42501");
}

/// Whoever refreshes, the rights it runs with are not lent to what lies on his search_path.
#[test]
fn a_refresh_ignores_the_search_path_of_its_caller() {
    let (database, mut client) = fleet("path");
    client
        .batch_execute(
            "create role feeds_path login; grant usage on schema busymate_stats to feeds_path;
             grant execute on function busymate_stats.refresh_stats() to feeds_path;
             create schema trap authorization feeds_path",
        )
        .unwrap();
    let mut job = shared().connect_as("feeds_path", &database);
    job.batch_execute(
        "create function trap.now() returns timestamptz language plpgsql as $$ begin raise 'trapped as %', current_user; end $$;
         create function trap.trapped(text, anyelement) returns boolean language plpgsql
             as $$ begin raise 'trapped as %', current_user; end $$;
         create operator trap.= (leftarg = text, rightarg = anyelement, function = trap.trapped);
         create temp table service_stats (id int, snapshot jsonb, updated_at timestamptz);
         create temp table entries (created_at timestamptz);
         set search_path = trap, pg_temp, public, pg_catalog",
    )
    .unwrap();
    job.batch_execute(REFRESH).unwrap();
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_stats"), 1);
    assert_eq!(value::<i64>(&mut job, "select count(*) from pg_temp.service_stats"), 0);
}

/// Two refreshes at once: one waits for the other, and neither fails.
#[test]
fn refreshes_at_the_same_time_do_not_fail() {
    let (database, mut client) = fleet("race");
    client.batch_execute("begin").unwrap();
    client.batch_execute(REFRESH).unwrap();
    let other = std::thread::spawn({
        let database = database.clone();
        move || shared().connect(&database).batch_execute(REFRESH).map_err(|error| error.to_string())
    });
    let mut watcher = shared().connect(&database);
    harness::eventually("the second refresh waits", || {
        let waiting = "select count(*) from pg_locks l join pg_database d on d.datname = current_database()
                        where not l.granted and (l.database = d.oid or l.database is null)
                          and l.pid in (select pid from pg_stat_activity where datid = d.oid)";
        (value::<i64>(&mut watcher, waiting) == 1).then_some(())
    });
    client.batch_execute("commit").unwrap();
    assert_eq!(other.join().unwrap(), Ok(()));
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.service_stats"), 1);
}
