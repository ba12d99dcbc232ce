//! Writers, sealer and readers in the orders that matter, step by step: each rule of the sealed window as a promise.

use crate::races;
use crate::races::{Fleet, Slow, fleet};
use harness::{Cluster, value};
use postgres::Client;

#[test]
fn a_threshold_that_moves_while_a_statement_runs_is_obeyed() {
    let mut fleet = fleet();
    fleet.tick();
    let mut gate = fleet.connect();
    gate.batch_execute("select pg_advisory_lock(1)").unwrap();
    let time: i64 = value(&mut gate, "select test.us(clock_timestamp())");
    // Its snapshot is from before the move, and it has written nothing yet: nobody waits for it.
    let slow = Slow::start(
        &fleet,
        format!(
            "insert into public.entries (created_at, owner) select test.at({time}), 0 from pg_advisory_lock(1)"
        ),
    );
    fleet.tick_past(time);
    gate.batch_execute("select pg_advisory_unlock(1)").unwrap();
    slow.finish();
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_late_change_beyond_the_boundary_is_read_from_its_row() {
    let mut fleet = fleet();
    fleet.tick();
    let mut writer = fleet.connect();
    writer
        .batch_execute("begin; insert into public.entries (created_at, owner) values (clock_timestamp(), 0)")
        .unwrap();
    let time: i64 = value(&mut writer, "select test.us(clock_timestamp())");
    fleet.wait_past(Some(time));
    assert_eq!(fleet.step("threshold"), "moved");
    fleet.step("look");
    assert!(fleet.step("seal").starts_with("held up"));
    fleet.run(&format!("insert into public.entries (created_at, owner) values (test.at({time}), 0)"));
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
    writer.batch_execute("commit").unwrap();
    fleet.step("seal");
    assert_eq!(fleet.late_changes(), 0);
    fleet.is_sealed();
}

#[test]
fn a_writer_with_an_old_snapshot_obeys_the_newest_threshold() {
    let mut fleet = fleet();
    fleet.tick();
    let mut writer = fleet.connect();
    writer.batch_execute("begin isolation level repeatable read; select 1").unwrap();
    let row = "insert into public.entries (created_at, owner) values (clock_timestamp(), 0)";
    let time: i64 = value(&mut writer, "select test.us(clock_timestamp())");
    fleet.tick_past(time);
    let late = row.replace("clock_timestamp()", &format!("test.at({time})"));
    writer.batch_execute(&format!("{late}; commit")).unwrap();
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
}

#[test]
fn a_bulk_load_before_the_first_seal_is_written_once() {
    let mut fleet = fleet();
    fleet.run(
        "insert into public.entries (created_at, owner) select now() - n * interval '1 min', 0 from generate_series(1, 500) n",
    );
    assert_eq!(fleet.late_changes(), 0);
    fleet.agrees();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn what_changes_no_counted_column_is_not_written_down() {
    let mut fleet = fleet();
    fleet.run("insert into public.entries (created_at, owner, host) select now() - interval '1 min', n, 'a' from generate_series(1, 9) n");
    fleet.tick();
    fleet.run("update public.entries set note = 'x'");
    assert_eq!(fleet.late_changes(), 0);
    fleet.run("update public.entries set host = 'b' where owner = 1");
    assert_eq!(fleet.late_changes(), 2);
    // Two rows that swap their hosts: four changes, which come to nothing.
    fleet.run(
        "update public.entries set host = case host when 'a' then 'b' else 'a' end where owner in (1, 2)",
    );
    assert_eq!(fleet.late_changes(), 6);
    fleet.is_sealed();
}

#[test]
fn a_late_writer_waits_for_no_sealer() {
    let mut fleet = fleet();
    fleet.run("insert into public.entries (created_at, owner) values (now() - interval '1 min', 0)");
    fleet.tick();
    fleet.run("delete from public.entries");
    fleet.wait_for_lag();
    fleet.step("threshold");
    fleet.step("look");
    let sealer = fleet.hold("seal");
    let mut writer = fleet.connect();
    writer.batch_execute("set lock_timeout = '100ms'").unwrap();
    writer
        .batch_execute("insert into public.entries (created_at, owner) values (now() - interval '1 min', 0)")
        .unwrap();
    writer.batch_execute("begin; truncate test.batches cascade; rollback").unwrap_err();
    let _ = writer.batch_execute("rollback");
    writer.batch_execute("alter table public.entries disable trigger busymate_stats_capture").unwrap();
    sealer.commit();
    fleet.run("alter table public.entries enable always trigger busymate_stats_capture");
    fleet.is_plain("the table has changed since");
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_sealer_takes_away_the_markers_that_it_saw_and_no_other() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run("truncate public.entries");
    let mut sealer = fleet.begin();
    fleet.run("insert into busymate_stats_internal.seal_markers values ('another', now())");
    sealer.step("seal");
    sealer.commit();
    fleet.is_plain("another");
    fleet.tick();
    fleet.is_sealed();
}

/// What happens behind the triggers' back, and then a late change that they miss or mistake.
const UNSEEN: [(&str, &str); 11] = [
    ("truncate", "truncate public.entries"),
    ("retyped", "alter table public.entries alter host type varchar(20) using left(host, 1); alter table public.entries alter host type text"),
    ("dropped", "alter table public.entries drop column source; alter table public.entries add column source text"),
    (
        "renamed",
        "begin; alter table public.entries rename host to h; alter table public.entries rename method to host; alter table public.entries rename h to method; commit;
         update public.entries set method = 'unseen';
         begin; alter table public.entries rename host to h; alter table public.entries rename method to host; alter table public.entries rename h to method; commit",
    ),
    (
        "disabled",
        "alter table public.entries disable trigger user; update public.entries set host = 'unseen';
         alter table public.entries enable trigger user;
         alter table public.entries enable always trigger busymate_stats_capture",
    ),
    (
        "without trigger",
        "drop trigger busymate_stats_capture on public.entries; insert into public.entries (created_at, owner) values (now() - interval '1 min', 0);
         create trigger busymate_stats_capture after insert or update or delete on public.entries for each row execute function busymate_stats_internal.capture_change('created_at');
         alter table public.entries enable always trigger busymate_stats_capture",
    ),
    (
        "emptied twice",
        "begin; truncate public.entries; insert into public.entries (created_at, owner) values (now() - interval '1 min', 0);
         truncate public.entries; insert into public.entries (created_at, owner) values (now() - interval '2 min', 0); commit",
    ),
    (
        "child",
        "create table test.child () inherits (public.entries); insert into test.child (id, owner, created_at) values (-1, 0, now() - interval '1 min');
         delete from public.entries where id = -1; drop table test.child",
    ),
    (
        "parent",
        "create table test.parent (like public.entries); alter table public.entries inherit test.parent;
         update test.parent set host = 'unseen'; alter table public.entries no inherit test.parent",
    ),
    ("detached", "select busymate_stats.detach(); update public.entries set host = 'unseen'; select busymate_stats.attach('public.entries', 'public.devices')"),
    ("unlogged", "alter table public.entries set unlogged; update public.entries set host = 'unseen'; alter table public.entries set logged"),
];

#[test]
fn what_no_trigger_sees_voids_the_seal_for_every_snapshot() {
    for (name, statements) in UNSEEN {
        let mut fleet = fleet();
        fleet.run(
            "insert into public.entries (created_at, owner, host, source, method)
             select now() - interval '1 min', 0, 'host' || n, 'vpn', 'GET' from generate_series(1, 5) n",
        );
        fleet.tick();
        fleet.is_sealed();
        let mut old = fleet.connect();
        old.batch_execute("begin isolation level repeatable read; select 1").unwrap();
        for statement in statements.split(';') {
            fleet.run(statement);
        }
        println!("{name}");
        fleet.agrees();
        races::agree(&mut old);
        old.batch_execute("commit; begin isolation level repeatable read; select 1").unwrap();
        fleet.tick();
        races::agree(&mut old);
        fleet.is_sealed();
    }
}

#[test]
fn voiding_the_seal_never_lowers_the_threshold() {
    let mut fleet = fleet();
    fleet.tick();
    let before = fleet.threshold();
    fleet.run("truncate public.entries");
    assert_eq!(fleet.step("seal"), "moved");
    assert!(fleet.threshold() >= before);
    fleet.tick();
    assert!(fleet.threshold() >= before);
}

#[test]
fn who_has_written_nothing_at_the_look_is_not_waited_for_and_misses_nothing() {
    let mut fleet = fleet();
    fleet.tick();
    let mut writer = fleet.connect();
    writer.batch_execute("begin; lock table public.entries in row exclusive mode").unwrap();
    let time: i64 = value(&mut writer, "select test.us(clock_timestamp())");
    fleet.tick_past(time);
    writer
        .batch_execute(&format!("insert into public.entries (created_at, owner) values (test.at({time}), 0)"))
        .unwrap();
    races::agree(&mut writer);
    writer.batch_execute("commit").unwrap();
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
}

#[test]
fn who_was_writing_at_the_look_is_waited_for_and_who_came_later_is_not() {
    let mut fleet = fleet();
    fleet.tick();
    let mut early = fleet.connect();
    early
        .batch_execute("begin; insert into public.entries (created_at, owner) values (clock_timestamp(), 0)")
        .unwrap();
    fleet.wait_for_lag();
    fleet.step("seal");
    assert_eq!(fleet.step("threshold"), "moved");
    fleet.step("look");
    let mut later = fleet.connect();
    later
        .batch_execute(
            "begin; insert into public.entries (created_at, owner) values (now() - interval '1 min', 0)",
        )
        .unwrap();
    assert!(fleet.step("seal").starts_with("held up by transaction"));
    // A snapshot from before its end is of no use either.
    let mut sealer = fleet.begin();
    early.batch_execute("commit").unwrap();
    assert!(sealer.step("seal").starts_with("held up by transaction"));
    sealer.commit();
    assert_eq!(fleet.step("seal"), "moved");
    fleet.is_sealed();
    races::agree(&mut later);
    later.batch_execute("commit").unwrap();
    fleet.is_sealed();
}

#[test]
fn a_prepared_transaction_is_waited_for_across_a_restart() {
    let cluster = Box::leak(Box::new(Cluster::start(races::SETTINGS)));
    let mut fleet = Fleet::on(cluster);
    fleet.tick();
    fleet.run("begin; insert into public.entries (created_at, owner) values (clock_timestamp(), 0); prepare transaction 'p'");
    fleet.wait_for_lag();
    fleet.step("seal");
    fleet.step("threshold");
    fleet.step("look");
    cluster.restart();
    fleet.reconnect();
    assert!(fleet.step("seal").contains("it is prepared as 'p'"));
    fleet.is_sealed();
    fleet.run("commit prepared 'p'");
    assert_eq!(fleet.step("seal"), "moved");
    fleet.is_sealed();
}

#[test]
fn a_rolled_back_savepoint_leaves_neither_rows_nor_late_changes() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run(
        "begin; savepoint s; insert into public.entries (created_at, owner) values (now() - interval '1 min', 0);
         rollback to s; insert into public.entries (created_at, owner) values (now() - interval '2 min', 0); commit",
    );
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
}

#[test]
fn two_sealers_do_not_meet() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.wait_for_lag();
    fleet.step("threshold");
    fleet.step("look");
    let sealer = fleet.hold("seal");
    let mut other = fleet.connect();
    other.batch_execute("begin isolation level repeatable read").unwrap();
    let outcome: String = value(&mut other, "select test.step('seal', 1)");
    assert_eq!(outcome, "another sealer is at work");
    other.batch_execute("rollback").unwrap();
    sealer.commit();
    fleet.is_sealed();
}

#[test]
fn a_backlog_is_counted_in_chunks_and_read_rightly_all_the_while() {
    let mut fleet = fleet();
    fleet.run(
        "insert into public.entries (created_at, owner, host)
         select now() - n * interval '20 min', 0, 'h' || n % 13 from generate_series(0, 200) n
         union all values (timestamptz '-infinity', 0, 'old'), ('infinity', 0, 'new'), (now() - interval '9 days', 0, 'old')",
    );
    fleet.step("threshold");
    fleet.step("look");
    let mut chunks = 0;
    while fleet.step("seal") == "moved" {
        chunks += 1;
        fleet.agrees();
        fleet.run("delete from public.entries where id % 60 = 7; update public.entries set created_at = created_at - interval '1 hour' where id % 50 = 3");
    }
    assert!(chunks > 20, "{chunks} chunks");
    fleet.is_sealed();
}

fn ask(client: &mut Client, moments: &str) {
    let sql = format!(
        "select count(*) from unnest({moments}) t
          where busymate_stats.stats_at(t) is distinct from busymate_stats.stats_recomputed(t)"
    );
    assert_eq!(value::<i64>(client, &sql), 0, "{moments}");
}

#[test]
fn every_edge_of_the_windows_is_where_it_should_be() {
    let mut fleet = fleet();
    fleet.tick();
    let boundary = fleet.boundary();
    fleet.run(&format!(
        "insert into public.entries (created_at, owner)
         select test.at({boundary}) - w + d * interval '1 microsecond', 0
           from unnest(array['0', '1 hour', '1 day', '23 hours', '25 hours']::interval[]) w, generate_series(-2, 2) d"
    ));
    let moments = format!(
        "array(select test.at({boundary}) + w + d * interval '1 microsecond'
                 from unnest(array['0', '1 hour', '-1 hour', '30 min', '-30 min', '1 day', '-1 day']::interval[]) w, generate_series(-3, 3) d)"
    );
    ask(&mut fleet.admin, &moments);
    fleet.tick();
    ask(&mut fleet.admin, &moments);
    fleet.is_sealed();
}

#[test]
fn ties_and_keys_outside_of_the_list_are_ranked_as_the_plain_query_ranks_them() {
    let mut fleet = fleet();
    fleet.run("insert into public.entries (created_at, owner, host) select now() - interval '1 min', 0, 'k' || n % 60 from generate_series(1, 600) n");
    fleet.tick();
    fleet.is_sealed();
    fleet.run("insert into public.entries (created_at, owner, host) select now() - interval '1 min', 0, 'k39' from generate_series(1, 3) n");
    fleet.is_sealed();
    fleet.run("delete from public.entries where host in ('k0', 'k1', 'k10', 'k11', 'k12', 'k13', 'k14')");
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn counts_of_keys_that_cannot_be_read_are_counted_anew() {
    let mut fleet = fleet();
    fleet.run("insert into public.entries (created_at, owner, host) select now() - interval '1 min', 0, 'k' || n % 60 from generate_series(1, 600) n");
    fleet.tick();
    fleet.is_sealed();
    fleet.run("update busymate_stats_internal.seal_keys set keys = '\\x010203'");
    // The list no longer suffices, so those who read, and the sealer, need every key.
    fleet.run("delete from public.entries where host in ('k0', 'k1', 'k10', 'k11', 'k12', 'k13', 'k14')");
    fleet.agrees();
    fleet.tick();
    fleet.agrees();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_call_from_inside_a_writing_statement_is_right() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run("insert into public.entries (created_at, owner, note) select now() - interval '1 min', 0, 'look' from generate_series(1, 3)");
    fleet.run("insert into public.entries (created_at, owner, source) select now() - interval '1 min', 0, test.agree()::text from generate_series(1, 3)");
    fleet.run("update public.entries set host = test.agree()::text");
    fleet.run("with gone as (delete from public.entries where test.agree() returning id) select test.agree(), count(*) from gone");
    fleet.run("set test.look = 'on'; insert into public.entries (created_at, owner) values (now() - interval '1 min', 0)");
    fleet.is_sealed();
}

#[test]
fn what_a_subscription_writes_is_counted() {
    let cluster = races::cluster();
    let source = cluster.create_database("source");
    let slot = format!("{source}_slot");
    let mut publisher = cluster.connect(&source);
    publisher
        .batch_execute("create table public.entries (id bigint primary key, created_at timestamptz, owner int); create publication p for all tables")
        .unwrap();
    publisher
        .batch_execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
        .unwrap();
    let mut fleet = fleet();
    fleet.tick();
    fleet.run(&format!(
        "create subscription {slot} connection 'host={} dbname={source} user=postgres' publication p
           with (create_slot = false, slot_name = '{slot}', copy_data = false)",
        cluster.socket_directory().display()
    ));
    publisher.batch_execute("insert into public.entries values (-1, now() - interval '1 min', 0)").unwrap();
    harness::eventually("the row has come", || {
        (value::<i64>(&mut fleet.admin, "select count(*) from public.entries where id = -1") == 1)
            .then_some(())
    });
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
    fleet.run(&format!("drop subscription {slot}"));
}

#[test]
fn a_threshold_that_was_rolled_back_is_nobodys() {
    let mut fleet = fleet();
    fleet.tick();
    let time: i64 = value(&mut fleet.admin, "select test.us(clock_timestamp())");
    fleet.tick_past(time);
    let late = format!("insert into public.entries (created_at, owner) values (test.at({time}), 0)");
    // Once nothing is published, the writer reads the threshold that his own transaction has set back.
    fleet.run(&format!(
        "begin; select busymate_stats.detach(); select busymate_stats.attach('public.entries', 'public.devices'); {late}; rollback"
    ));
    fleet.run(&late);
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
    // And this one has read the table, for all who come next.
    fleet.run(&late);
    assert_eq!(fleet.late_changes(), 2);
    fleet.is_sealed();
}
