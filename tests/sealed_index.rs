//! Promise: the capture index counts each row that an INSERT leaves in the table, once, and is in nobody's way.

mod harness;
#[path = "races/mod.rs"]
mod races;

use harness::{eventually, value};
use races::{Fleet, Slow, fleet};

const LATE: &str = "insert into public.entries (created_at, owner) values (now() - interval '1 min', 0)";

fn is_ready(fleet: &mut Fleet, index: &str) -> bool {
    let sql = format!(
        "select exists (select from pg_index i join pg_class c on c.oid = i.indexrelid
                         where c.relname = '{index}' and i.indisready)"
    );
    value(&mut fleet.admin, &sql)
}

/// Runs a statement that waits for old snapshots; in between, with its new index told of rows, does `meanwhile`.
fn concurrently(fleet: &mut Fleet, statement: &str, new: &str, mut meanwhile: impl FnMut(&mut Fleet)) {
    let mut old = fleet.connect();
    old.batch_execute("begin isolation level repeatable read; select 1").unwrap();
    let mut builder = fleet.connect();
    let statement = statement.to_owned();
    let thread = std::thread::spawn(move || builder.batch_execute(&statement).unwrap());
    eventually("the new index is told of rows", || is_ready(fleet, new).then_some(()));
    meanwhile(fleet);
    old.batch_execute("commit").unwrap();
    thread.join().unwrap();
}

#[test]
fn a_concurrent_build_tells_of_no_new_row() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run("insert into public.entries (created_at, owner) select now() - interval '1 min', 0 from generate_series(1, 3)");
    fleet.tick();
    let build =
        "create index concurrently another on public.entries using busymate_stats_capture (created_at)";
    concurrently(&mut fleet, build, "another", |fleet| {
        fleet.run(LATE);
        assert_eq!(fleet.late_changes(), 1);
        fleet.is_sealed();
    });
    assert_eq!(fleet.late_changes(), 1, "the build's own rows");
    fleet.run(LATE);
    assert_eq!(fleet.late_changes(), 2);
    fleet.is_sealed();
    // The one that counts goes first.
    fleet.run("drop index public.busymate_stats_insert");
    fleet.run(LATE);
    fleet.agrees();
    fleet.is_plain("the capture index is another one");
    fleet.tick();
    fleet.is_sealed();
    // Nor when it is the only one.
    fleet.run("drop index public.another");
    concurrently(&mut fleet, build, "another", |_| ());
    assert_eq!(fleet.late_changes(), 0);
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_rebuilt_index_begins_anew() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run(LATE);
    concurrently(
        &mut fleet,
        "reindex index concurrently public.busymate_stats_insert",
        "busymate_stats_insert_ccnew",
        |fleet| {
            fleet.run(LATE);
            fleet.is_sealed();
        },
    );
    fleet.run(LATE);
    fleet.is_plain("the capture index is another one");
    fleet.tick();
    fleet.is_sealed();
    fleet.run("reindex index public.busymate_stats_insert");
    fleet.run("vacuum public.entries");
    fleet.is_sealed();
    fleet.run(LATE);
    fleet.is_sealed();
}

#[test]
fn a_missing_index_is_named() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run("drop index public.busymate_stats_insert");
    fleet.run(LATE);
    fleet.is_plain("index busymate_stats_insert is missing on public.entries");
}

#[test]
fn the_planner_and_the_statistics_know_nothing_of_it() {
    let mut fleet = fleet();
    fleet.run("insert into public.entries (created_at, owner) select now(), 0 from generate_series(1, 500); analyze public.entries");
    let rows = "select reltuples::int8 from pg_class where oid = 'public.entries'::regclass";
    assert_eq!(value::<i64>(&mut fleet.admin, rows), 500);
    fleet.run("select busymate_stats.detach()");
    fleet.run("select busymate_stats.attach('public.entries', 'public.devices')");
    fleet.run("reindex table public.entries");
    assert_eq!(value::<i64>(&mut fleet.admin, rows), 500);
    let planned = fleet
        .admin
        .query("explain select count(*) from public.entries where created_at = now() - interval '1 day'", &[])
        .unwrap();
    let planned: Vec<String> = planned.iter().map(|row| row.get(0)).collect();
    assert!(!planned.join("\n").contains("busymate"), "{planned:?}");
}

#[test]
fn the_entry_time_can_be_given_any_type() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run("alter table public.entries alter created_at drop default, alter created_at type text");
    fleet
        .run("insert into public.entries (created_at, owner) values ('noon', 0); delete from public.entries");
    fleet.run("alter table public.entries alter created_at type timestamptz using now()");
    fleet.run(LATE);
    fleet.agrees();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_copy_of_the_table_is_not_the_table() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run("create table public.copied (like public.entries including all)");
    fleet.run("insert into public.copied (created_at, owner) values (now() - interval '1 min', 0)");
    assert_eq!(fleet.late_changes(), 0);
    fleet.is_sealed();
    // Attached itself, it has one index of ours.
    fleet.run(
        "select busymate_stats.detach(); select busymate_stats.attach('public.copied', 'public.devices')",
    );
    let indexes = "select count(*) from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
                    where m.amname = 'busymate_stats_capture'";
    assert_eq!(value::<i64>(&mut fleet.admin, indexes), 1);
    fleet.tick();
    fleet.run("insert into public.copied (created_at, owner) values (now() - interval '1 min', 0)");
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
}

/// DROP EXTENSION by itself would lock the index first, and whoever has read the table would then wait for the index.
#[test]
fn the_extension_is_dropped_in_the_order_of_everybody_elses_locks() {
    let mut fleet = fleet();
    let mut user = fleet.connect();
    user.batch_execute(
        "begin; set local lock_timeout = '10s'; lock table public.entries in access share mode",
    )
    .unwrap();
    let mut dropper = fleet.connect();
    let pid: i32 = value(&mut dropper, "select pg_backend_pid()");
    let thread = std::thread::spawn(move || dropper.batch_execute("drop extension busymate_stats").unwrap());
    let waiting = format!(
        "select relation::regclass::text from pg_locks where pid = {pid} and not granted and locktype = 'relation'"
    );
    let wanted = eventually("the drop waits", || {
        fleet.admin.query_opt(&waiting, &[]).unwrap().map(|row| row.get::<_, String>(0))
    });
    assert!(wanted.ends_with("entries"), "{wanted}");
    user.batch_execute("select * from public.entries where id = 1; commit").unwrap();
    thread.join().unwrap();
}

/// Has the next INSERT of a session wait, between its look for conflicts and its entry into the unique index, for whoever
/// holds the lock.
const GATE: &str = "
    create function test.gate(k int) returns int immutable language plpgsql as $$
    begin
        case current_setting('test.gate', true)
            when 'armed' then perform set_config('test.gate', 'passed', false);
            when 'passed' then
                perform set_config('test.gate', '', false);
                perform pg_advisory_lock(77);
                perform pg_advisory_unlock(77);
            else null;
        end case;
        return k;
    end $$;
    create unique index gate on public.entries (test.gate(slot)) where slot is not null";

const CONFLICTING: &str = "insert into public.entries (created_at, owner, slot) values (now() - interval '1 min', 1, 7) on conflict do nothing";

/// `{}` stands for the INSERT whose row is taken back.
fn is_taken_back(statements: &str) {
    let mut fleet = fleet();
    fleet.run(GATE);
    fleet.tick();
    let mut gate = fleet.connect();
    gate.batch_execute("select pg_advisory_lock(77)").unwrap();
    let slow =
        Slow::start(&fleet, format!("set test.gate = armed; {}", statements.replace("{}", CONFLICTING)));
    gate.batch_execute(
        "insert into public.entries (created_at, owner, slot) values (now() - interval '1 min', 2, 7);
         select pg_advisory_unlock(77)",
    )
    .unwrap();
    slow.finish();
    let rows: i64 = value(&mut fleet.admin, "select count(*) from public.entries where slot = 7");
    assert_eq!(rows, 1, "{statements}");
    fleet.agrees();
    let prepared: i64 = value(&mut fleet.admin, "select count(*) from pg_prepared_xacts where gid = 'taken'");
    if prepared > 0 {
        fleet.run("commit prepared 'taken'");
        fleet.agrees();
    }
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_row_that_on_conflict_takes_back_is_not_counted() {
    is_taken_back("{}");
}

#[test]
fn nor_in_a_longer_transaction_that_reads() {
    is_taken_back(
        "begin; {};
         do $$ begin assert (select busymate_stats.stats_at(t) = busymate_stats.stats_recomputed(t) from (select clock_timestamp()) now (t)); end $$;
         insert into public.entries (created_at, owner) values (now() - interval '2 min', 0); commit",
    );
}

#[test]
fn nor_after_others_of_its_kind() {
    is_taken_back(
        "begin; {}; insert into public.entries (created_at, owner, slot)
             select now() - interval '1 min', 3, 100 + n from generate_series(1, 3) n on conflict do nothing; commit",
    );
}

#[test]
fn nor_in_a_savepoint_that_stays() {
    is_taken_back("begin; savepoint a; {}; release a; commit");
}

#[test]
fn nor_in_a_prepared_transaction() {
    is_taken_back("begin; {}; prepare transaction 'taken'");
}

#[test]
fn nor_when_the_table_is_emptied_after_it() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run(&format!("begin; {CONFLICTING}; truncate public.entries; commit"));
    fleet.agrees();
    fleet.tick();
    fleet.is_sealed();
    fleet.run(&format!("begin; {CONFLICTING}; drop table public.entries cascade; commit"));
}

#[test]
fn what_goes_with_its_savepoint_voids_nothing() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run(&format!("begin; savepoint a; {CONFLICTING}; rollback to a; {LATE}; commit"));
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
}

#[test]
fn a_row_that_on_conflict_leaves_is_counted() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run(&format!("{CONFLICTING}; {CONFLICTING}"));
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
    fleet.run(
        &CONFLICTING
            .replace("nothing", "update set host = 'again'")
            .replace("conflict do", "conflict (owner, slot) do"),
    );
    fleet.is_sealed();
    fleet.run(&format!(
        "begin; {}; update public.entries set note = 'x'; delete from public.entries where slot = 8; commit",
        CONFLICTING.replace("1, 7", "1, 8")
    ));
    fleet.is_sealed();
}

#[test]
fn many_late_rows_by_copy_are_counted() {
    let mut fleet = fleet();
    fleet.tick();
    let mut sink = fleet.admin.copy_in("copy public.entries (created_at, owner, host) from stdin").unwrap();
    for n in 0..5000 {
        use std::io::Write as _;
        writeln!(sink, "2020-01-01 00:00:{:02}+00\t0\thost{}", n % 60, n % 7).unwrap();
    }
    sink.finish().unwrap();
    assert_eq!(fleet.late_changes(), 5000);
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}
