//! Promise: each change to a row before the threshold is counted, once, whatever transaction it is made in and however
//! that ends; and a reader in the middle of it is answered rightly.

use crate::races;
use crate::races::{Fleet, Slow, agree, fleet};
use harness::{Cluster, eventually, value};
use postgres::Client;

const LATE: &str = "insert into public.entries (created_at, owner) values (now() - interval '1 min', 0)";

/// Statements that note so many late rows, each with a host of its own.
fn late_rows(count: usize) -> String {
    format!(
        "insert into public.entries (created_at, owner, host)
         select now() - interval '1 min', 0, 'host' || n from generate_series(1, {count}) n"
    )
}

/// A fleet with some rows that are sealed.
fn sealed() -> Fleet {
    let mut fleet = fleet();
    fleet.run("insert into public.entries (created_at, owner, host) select now() - interval '2 min', n, 'old' from generate_series(1, 9) n");
    fleet.tick();
    fleet.is_sealed();
    fleet
}

/// The figures agree after these statements, and are those of the seal, before and after a tick.
#[track_caller]
fn is_exact_after(fleet: &mut Fleet, statements: &str) {
    fleet.run(statements);
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}

/// The torture's library keeps some 60 of these rows in memory, and gives up at some 2,000.
#[test]
fn what_a_subtransaction_has_written_early_goes_with_it() {
    let mut fleet = sealed();
    let (few, many) = (late_rows(20), late_rows(200));
    for statements in [
        format!("begin; {few}; savepoint a; {many}; rollback to a; commit"),
        format!("begin; {many}; savepoint a; {many}; rollback to a; {few}; commit"),
        format!(
            "begin; {few}; savepoint a; {few}; savepoint b; {many}; release b; rollback to a; {few}; commit"
        ),
        format!("begin; {few}; savepoint a; {few}; savepoint b; {many}; release b; release a; {few}; commit"),
        format!("begin; {few}; savepoint a; {many}; rollback; {few}"),
        format!("begin; savepoint a; {many}; savepoint b; {few}; rollback to b; {few}; release a; commit"),
    ] {
        println!("{statements}");
        is_exact_after(&mut fleet, &statements);
    }
}

#[test]
fn a_block_for_each_row_is_kept_in_few_packs() {
    let mut fleet = sealed();
    fleet.run(
        "do $$ begin
             for n in 1..60 loop
                 begin
                     insert into public.entries (created_at, owner, slot) values (now() - interval '1 min', 7, n % 50);
                 exception when unique_violation then null;
                 end;
             end loop;
         end $$",
    );
    assert_eq!(fleet.late_changes(), 50);
    let packs: i64 = value(&mut fleet.admin, "select count(*) from busymate_stats_internal.late_changes");
    assert!(packs < 10, "{packs} packs");
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_transaction_that_notes_too_much_voids_the_seal_unless_it_is_rolled_back() {
    let mut fleet = sealed();
    let flood = late_rows(5000);
    fleet.run(&format!("begin; {LATE}; savepoint a; {flood}"));
    fleet.is_plain("more late changes than one transaction may note");
    fleet.run(&format!("rollback to a; {LATE}"));
    fleet.is_sealed();
    fleet.run("commit");
    fleet.is_sealed();
    assert_eq!(fleet.late_changes(), 2);
    fleet.run(&flood);
    fleet.is_plain("more late changes than one transaction may note");
    fleet.tick();
    fleet.is_sealed();
    assert_eq!(fleet.late_changes(), 0);
}

#[test]
fn a_reader_who_would_add_up_too_much_asks_the_plain_query() {
    let mut fleet = sealed();
    for _ in 0..12 {
        fleet.run(&late_rows(400));
    }
    fleet.is_plain("more late changes are pending than are worth adding up");
    fleet.wait_for_lag();
    // They are folded in by themselves, and with the old boundary.
    let before = fleet.boundary();
    fleet.step("threshold");
    fleet.step("look");
    assert_eq!(fleet.step("seal"), "moved");
    assert_eq!(fleet.boundary(), before);
    fleet.agrees();
    fleet.tick();
    fleet.is_sealed();
}

/// Of a snapshot that is older than the changes of its own transaction.
#[test]
fn a_cursor_sees_what_its_snapshot_sees() {
    let mut fleet = sealed();
    for hold in ["", "with hold"] {
        let declare = format!("declare c cursor {hold} for select test.agree()");
        for statements in [
            format!("{declare}; {LATE}"),
            format!("{LATE}; {declare}; {LATE}"),
            format!("{declare}; {}", late_rows(200)),
        ] {
            fleet.run(&format!("begin; {statements}; fetch c; close c; commit"));
        }
    }
    fleet.run(&format!(
        "begin; declare held cursor with hold for select test.agree(); {LATE}; commit; fetch held; close held"
    ));
    fleet.run(
        "do $$ declare ok record; begin
             for ok in select test.agree() from generate_series(1, 3) loop
                 insert into public.entries (created_at, owner) values (now() - interval '1 min', 0);
             end loop;
         end $$",
    );
    fleet.is_sealed();
}

#[test]
fn a_transaction_reads_its_own_late_changes() {
    let mut fleet = sealed();
    fleet.run(&format!("begin; {LATE}"));
    fleet.is_sealed();
    // What a backend keeps of a version is nobody's whose transaction has changed it, nor anybody's after a rollback.
    fleet.run("savepoint a; delete from public.entries where owner < 5");
    fleet.is_sealed();
    fleet.run("rollback to a");
    fleet.is_sealed();
    fleet.run("update public.entries set host = 'x', created_at = created_at - interval '2 days'; rollback");
    fleet.is_sealed();
    fleet.run(&format!("begin; {}", late_rows(200)));
    fleet.is_sealed();
    fleet.run("rollback");
    fleet.is_sealed();
}

#[test]
fn rows_older_than_every_window_are_noted_by_the_hour() {
    let mut fleet = sealed();
    // The first threshold after a complete state says which rows are.
    fleet.tick();
    fleet.run(
        "insert into public.entries (created_at, owner, host) select now() - interval '5 days', 0, 'host' || n from generate_series(1, 500) n",
    );
    assert_eq!(fleet.late_changes(), 500);
    let bytes: i64 =
        value(&mut fleet.admin, "select sum(length(packed))::int8 from busymate_stats_internal.late_changes");
    assert!(bytes < 100, "{bytes} bytes");
    fleet.is_sealed();
    is_exact_after(
        &mut fleet,
        "delete from public.entries where id % 3 = 0 and created_at < now() - interval '2 days';
         update public.entries set created_at = created_at + interval '5 days' - interval '2 minutes' where id % 7 = 0 and created_at < now() - interval '2 days';
         update public.entries set created_at = created_at - interval '9 days' where id % 5 = 0;
         insert into public.entries (created_at, owner) values ('-infinity', 0)",
    );
}

/// A rebuild that is under way when rows come that are noted by the hour.
#[test]
fn hours_are_counted_once_by_a_rebuild() {
    let mut fleet = sealed();
    fleet.run(
        "insert into public.entries (created_at, owner) select now() - n * interval '25 min', 0 from generate_series(1, 300) n",
    );
    fleet.tick();
    fleet.tick();
    fleet.run("insert into busymate_stats_internal.seal_markers values ('test', now())");
    let mut chunks = 0;
    while fleet.step("seal") == "moved" {
        chunks += 1;
        fleet.run(
            "insert into public.entries (created_at, owner) select now() - n * interval '37 min', 0 from generate_series(1, 150, 7) n;
             delete from public.entries where id % 50 = 7",
        );
        fleet.agrees();
    }
    assert!(chunks > 20, "{chunks} chunks");
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}

/// A pack may hold changes on both sides of a chunk's end.
#[test]
fn a_pack_wider_than_a_chunk_is_folded_in_by_parts() {
    let mut fleet = sealed();
    fleet.run("insert into public.entries (created_at, owner) select now() - n * interval '20 min', 0 from generate_series(0, 60) n");
    fleet.run("insert into busymate_stats_internal.seal_markers values ('test', now())");
    assert_eq!(fleet.step("seal"), "moved");
    let mut chunks = 0;
    loop {
        fleet.run(
            "begin; insert into public.entries (created_at, owner, host) select now() - n * interval '19 min', 0, 'h' || n from generate_series(1, 60) n;
             delete from public.entries where id % 40 = 3; commit",
        );
        if fleet.step("seal") != "moved" {
            break;
        }
        chunks += 1;
        fleet.agrees();
    }
    assert!(chunks > 5, "{chunks} chunks");
    fleet.is_sealed();
}

/// ROLLBACK TO gives up the lock by which a sealer finds a writer, and keeps its id.
#[test]
fn the_threshold_is_read_anew_after_a_rollback_to_a_savepoint() {
    let mut fleet = sealed();
    let mut writer = fleet.connect();
    writer.batch_execute(&format!("begin; savepoint a; {LATE}; rollback to a")).unwrap();
    let time: i64 = value(&mut writer, "select test.us(clock_timestamp())");
    fleet.tick_past(time);
    writer
        .batch_execute(&format!(
            "insert into public.entries (created_at, owner) values (test.at({time}), 0); commit"
        ))
        .unwrap();
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
}

/// Each subtransaction that writes has an id of its own, and holds a lock on it.
#[test]
fn a_writer_is_waited_for_by_the_id_of_its_transaction() {
    let mut fleet = sealed();
    let now = "insert into public.entries (created_at, owner) values (clock_timestamp(), 0)";
    for within in [
        format!("{now}; savepoint a; {now}; rollback to a; savepoint b; {now}"),
        format!("savepoint a; {now}; savepoint b; {now}; release b"),
        format!("savepoint a; {now}; savepoint b; {LATE}; rollback to b"),
    ] {
        let mut writer = fleet.connect();
        writer.batch_execute(&format!("begin; {within}")).unwrap();
        let time: i64 = value(&mut writer, "select test.us(clock_timestamp())");
        fleet.wait_past(Some(time));
        fleet.step("seal");
        assert_eq!(fleet.step("threshold"), "moved");
        fleet.step("look");
        assert!(fleet.step("seal").starts_with("held up by transaction"), "{within}");
        writer.batch_execute("commit").unwrap();
        fleet.tick();
        fleet.is_sealed();
    }
}

#[test]
fn a_prepared_transaction_keeps_its_late_changes_over_a_restart() {
    let cluster = Box::leak(Box::new(Cluster::start(races::SETTINGS)));
    let mut fleet = Fleet::on(cluster);
    fleet.tick();
    fleet.run(&format!("begin; {}; savepoint a; {LATE}; release a; prepare transaction 'p'", late_rows(150)));
    fleet.is_sealed();
    cluster.restart();
    fleet.reconnect();
    fleet.is_sealed();
    fleet.run("commit prepared 'p'");
    assert_eq!(fleet.late_changes(), 151);
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
    fleet.run(&format!("begin; {LATE}; prepare transaction 'q'"));
    fleet.run("rollback prepared 'q'");
    fleet.is_sealed();
}

/// FATAL rolls a transaction back without unwinding what has called PostgreSQL.
#[test]
fn a_session_that_is_ended_while_its_late_changes_are_written_lets_go_of_its_locks() {
    let mut fleet = sealed();
    let mut blocker = fleet.connect();
    blocker.batch_execute("begin; lock table busymate_stats_internal.late_changes in share mode").unwrap();
    let mut writer = fleet.connect();
    let pid: i32 = value(&mut writer, "select pg_backend_pid()");
    let thread = std::thread::spawn(move || writer.batch_execute(LATE).unwrap_err());
    eventually("the writer waits at its commit", || {
        let waits = format!("select exists (select from pg_locks where pid = {pid} and not granted)");
        value::<bool>(&mut fleet.admin, &waits).then_some(())
    });
    assert!(value::<bool>(&mut fleet.admin, &format!("select pg_terminate_backend({pid}, 10000)")));
    thread.join().unwrap();
    blocker.batch_execute("commit").unwrap();
    let held = format!("select count(*) from pg_locks where pid = {pid}");
    assert_eq!(value::<i64>(&mut fleet.admin, &held), 0);
    fleet.run("set lock_timeout = '10s'; lock table public.entries in access exclusive mode nowait");
    fleet.is_sealed();
}

/// Rows at -infinity are a chunk of their own, and what follows begins in the middle of an hour.
#[test]
fn a_rebuild_over_rows_without_a_beginning_counts_each_hour_once() {
    let mut fleet = fleet();
    fleet.run(
        "insert into public.entries (created_at, owner) values
         ('-infinity', 0), (now() - interval '5 days 17 min', 0), (now() - interval '5 days' + interval '4 h', 0), (now() - interval '1 h', 0)",
    );
    fleet.tick();
    fleet.tick();
    fleet.run("insert into busymate_stats_internal.seal_markers values ('test', now())");
    for _ in 0..5 {
        assert_eq!(fleet.step("seal"), "moved");
        fleet.run("insert into public.entries (created_at, owner) select now() - interval '5 days 17 min' + n * interval '7 min', 0 from generate_series(-9, 9) n");
    }
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_schema_that_is_renamed_for_a_while_loses_nothing() {
    let mut fleet = sealed();
    let mut writer = fleet.connect();
    fleet.run("alter schema busymate_stats_internal rename to another");
    writer.batch_execute(LATE).unwrap();
    fleet.run("alter schema another rename to busymate_stats_internal");
    writer.batch_execute(LATE).unwrap();
    assert_eq!(fleet.late_changes(), 2);
    fleet.is_sealed();
}

#[test]
fn another_trigger_with_the_same_function_counts_nothing_and_goes_with_the_fleet() {
    let mut fleet = sealed();
    fleet.run(
        "create trigger again after insert or update or delete on public.entries
             for each row execute function busymate_stats_internal.capture_change('created_at')",
    );
    fleet.tick();
    fleet.run(LATE);
    assert_eq!(fleet.late_changes(), 1);
    fleet.is_sealed();
    fleet.run("alter trigger busymate_stats_capture on public.entries rename to renamed; select busymate_stats.detach()");
    let left =
        "select count(*) from pg_trigger where tgfoid = 'busymate_stats_internal.capture_change'::regproc";
    assert_eq!(value::<i64>(&mut fleet.admin, left), 0);
}

#[test]
fn the_function_serves_no_other_kind_of_trigger() {
    let mut fleet = sealed();
    for kind in ["before insert on test.other for each row", "after insert on test.other for each statement"]
    {
        fleet.run(&format!(
            "create table test.other (created_at timestamptz);
             create trigger wrong {kind} execute function busymate_stats_internal.capture_change('created_at')"
        ));
        let refused =
            fleet.admin.batch_execute("insert into test.other values (now() + interval '1 h')").unwrap_err();
        assert!(refused.to_string().contains("db error"), "{refused:?}");
        fleet.run("drop table test.other");
    }
}

/// A char(n) is its text without the spaces at its end, a citext its text as it was written.
#[test]
fn columns_of_char_and_citext_are_sealed() {
    let mut fleet = fleet();
    fleet.run(
        "create extension citext;
         alter table public.entries alter host type char(20), alter source type citext",
    );
    fleet.tick();
    fleet.is_sealed();
    let mut old = fleet.snapshot();
    for (host, source) in [("ab", "Vpn"), ("ab  ", "vpn"), (" ab c ", "VPN "), ("é ü", "")] {
        fleet.run(&format!(
            "insert into public.entries (created_at, owner, host, source)
                 values (now() - interval '1 min', 0, '{host}', '{source}'), (now(), 0, '{host}', '{source}')"
        ));
        fleet.is_sealed();
    }
    assert_eq!(fleet.late_changes(), 4);
    fleet.run(
        "update public.entries set host = 'ab' where host = ' ab c'; update public.entries set source = upper(source::text);
         delete from public.entries where host = 'é ü'",
    );
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
    agree(&mut old);
}

/// They are counted by the plain query, so nothing is noted of them.
#[test]
fn entries_that_cannot_be_sealed_leave_no_late_changes() {
    let mut fleet = fleet();
    fleet.run("alter table public.entries alter host type inet using null");
    fleet.wait_for_lag();
    assert!(fleet.step("threshold").contains("has type inet, which cannot be counted ahead"));
    fleet.run(LATE);
    assert_eq!(fleet.late_changes(), 0);
    fleet.agrees();
}

#[test]
fn markers_do_not_pile_up_while_nothing_can_be_sealed() {
    let mut fleet = sealed();
    fleet.run("alter table public.entries rename created_at to at");
    for _ in 0..5 {
        fleet.run("insert into public.entries (at, owner) values (now(), 0)");
    }
    fleet.step("seal");
    let markers = "select count(*) from busymate_stats_internal.seal_markers";
    assert_eq!(value::<i64>(&mut fleet.admin, markers), 1);
    fleet.run("alter table public.entries rename at to created_at");
    fleet.tick();
    fleet.is_sealed();
    assert_eq!(value::<i64>(&mut fleet.admin, markers), 0);
}

/// Many small subtransactions, or one beside much that is pending, write few packs.
#[test]
fn what_is_written_early_is_written_in_few_packs() {
    let mut fleet = sealed();
    fleet.run(&format!("begin; {}; savepoint a; {}; release a; commit", late_rows(70), late_rows(60)));
    let packs: i64 = value(&mut fleet.admin, "select count(*) from busymate_stats_internal.late_changes");
    assert!(packs < 20, "{packs} packs");
    assert_eq!(fleet.late_changes(), 130);
    fleet.is_sealed();
}

/// Ours by hand, or in a dump restored under another name.
#[test]
fn a_trigger_of_ours_on_another_table_counts_nothing() {
    let mut fleet = sealed();
    fleet.run(
        "create table test.another (like public.entries including all);
         create trigger busymate_stats_capture after insert or update or delete on test.another
             for each row execute function busymate_stats_internal.capture_change('created_at');
         insert into test.another (created_at, owner) values (now() - interval '1 min', 0)",
    );
    assert_eq!(fleet.late_changes(), 0);
    fleet.is_sealed();
}

#[test]
fn a_copy_of_the_table_takes_nothing_of_ours_along() {
    let mut fleet = sealed();
    fleet.run("create table public.copied (like public.entries including all)");
    fleet.run("insert into public.copied (created_at, owner) values (now() - interval '1 min', 0)");
    assert_eq!(fleet.late_changes(), 0);
    fleet.is_sealed();
    fleet.run("drop extension busymate_stats");
    fleet.run("insert into public.copied (created_at, owner) values (now() - interval '1 min', 0)");
}

/// Deferred triggers, cascades and a failure at the very end.
#[test]
fn whatever_fires_at_commit_is_counted() {
    let mut fleet = sealed();
    fleet.run(
        "create function test.again() returns trigger language plpgsql as $$ begin
             insert into public.entries (created_at, owner, host) values (now() - interval '1 min', 0, 'deferred');
             perform test.agree();
             return null;
         end $$;
         create constraint trigger again after insert on public.entries deferrable initially deferred
             for each row when (new.host = 'again') execute function test.again();
         create function test.refuse() returns trigger language plpgsql as $$ begin raise 'refused'; end $$;
         create constraint trigger refuse after insert on public.entries deferrable initially deferred
             for each row when (new.host = 'refuse') execute function test.refuse()",
    );
    fleet.tick();
    let late = |host: &str| {
        LATE.replace("(created_at, owner)", "(created_at, owner, host)")
            .replace(", 0)", &format!(", 0, '{host}')"))
    };
    is_exact_after(&mut fleet, &late("again"));
    is_exact_after(
        &mut fleet,
        &format!(
            "begin; {}; {}; set constraints all immediate; {LATE}; commit",
            late("again"),
            late("again")
        ),
    );
    fleet.admin.batch_execute(&late("refuse")).unwrap_err();
    fleet.is_sealed();
    fleet.admin.batch_execute(&format!("begin; {}; {}; commit", late("refuse"), late_rows(200))).unwrap_err();
    fleet.run("rollback");
    is_exact_after(&mut fleet, LATE);
}

#[test]
fn frozen_rows_are_counted() {
    let mut fleet = sealed();
    let mut old = fleet.snapshot();
    fleet.run("begin; truncate public.entries");
    copy(&mut fleet.admin, "freeze", 300);
    fleet.run("commit");
    agree(&mut fleet.admin);
    agree(&mut old);
    old.batch_execute("commit").unwrap();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn serializable_transactions_are_exact_and_may_fail_only_by_their_own_conflicts() {
    let mut fleet = sealed();
    let serializable = "begin isolation level serializable";
    fleet.run(&format!("{serializable}; select test.agree(); {LATE}; select test.agree(); commit"));
    let mut one = fleet.connect();
    let mut two = fleet.connect();
    for client in [&mut one, &mut two] {
        client.batch_execute(&format!("{serializable}; {LATE}")).unwrap();
    }
    // They write late rows and read none of each other's.
    one.batch_execute("commit").unwrap();
    two.batch_execute("commit").unwrap();
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}

fn copy(client: &mut Client, freeze: &str, rows: usize) {
    let options = if freeze.is_empty() { String::new() } else { format!(" with ({freeze})") };
    let mut sink = client
        .copy_in(&format!("copy public.entries (created_at, owner, host) from stdin{options}"))
        .unwrap();
    for n in 0..rows {
        use std::io::Write as _;
        writeln!(sink, "yesterday\t0\thost{}", n % 7).unwrap();
    }
    sink.finish().unwrap();
}

#[test]
fn many_late_rows_by_copy_are_counted() {
    let mut fleet = sealed();
    copy(&mut fleet.admin, "", 5000);
    fleet.agrees();
    fleet.tick();
    fleet.is_sealed();
}

/// REINDEX CONCURRENTLY has a second index on late changes for as long as an old snapshot is open.
#[test]
fn late_changes_are_in_every_index_of_their_table() {
    let mut fleet = sealed();
    let mut old = fleet.connect();
    old.batch_execute("begin isolation level repeatable read; select 1").unwrap();
    let mut builder = fleet.connect();
    let thread = std::thread::spawn(move || {
        builder.batch_execute("reindex index concurrently busymate_stats_internal.late_changes_gen").unwrap();
    });
    eventually("the new index is ready", || {
        let ready = "select exists (select from pg_index i join pg_class c on c.oid = i.indexrelid
                                     where c.relname = 'late_changes_gen_ccnew' and i.indisready)";
        value::<bool>(&mut fleet.admin, ready).then_some(())
    });
    fleet.run(LATE);
    fleet.is_sealed();
    old.batch_execute("commit").unwrap();
    thread.join().unwrap();
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_single_key_may_be_longer_than_a_page() {
    let mut fleet = sealed();
    is_exact_after(
        &mut fleet,
        "begin; insert into public.entries (created_at, owner, host) values (now() - interval '1 min', 0, repeat('long ', 2000));
         insert into public.entries (created_at, owner, host) select now() - interval '1 min', 0, string_agg(md5(n::text), '') from generate_series(1, 260) n;
         commit",
    );
}

#[test]
fn a_table_of_late_changes_that_cannot_be_written_voids_the_seal_and_fails_nobody() {
    let mut fleet = sealed();
    fleet.run("alter table busymate_stats_internal.late_changes add column more int");
    fleet.run(LATE);
    fleet.is_plain("late changes cannot be written");
    fleet.run("alter table busymate_stats_internal.late_changes drop column more");
}

#[test]
fn rows_of_children_count_though_nothing_tells_of_their_coming() {
    let mut fleet = fleet();
    fleet.tick();
    fleet.run(
        "alter event trigger busymate_stats_partitions disable;
         create table test.child () inherits (public.entries);
         insert into test.child (id, owner, created_at) values (-1, 0, now() - interval '1 min')",
    );
    fleet.is_plain("trigger busymate_stats_capture is missing on test.child");
    fleet.run("drop table test.child");
    fleet.is_sealed();
}

#[test]
fn a_trigger_that_was_disabled_for_a_while_is_noticed_without_event_triggers() {
    let mut fleet = sealed();
    fleet.run(
        "alter event trigger busymate_stats_partitions disable;
         alter table public.entries disable trigger busymate_stats_capture",
    );
    fleet.run("update public.entries set host = 'unseen'");
    fleet.run("alter table public.entries enable always trigger busymate_stats_capture");
    fleet.is_plain("the table has changed since");
    fleet.tick();
    fleet.is_sealed();
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

/// DROP EXTENSION by itself would lock late_changes first, which a writer of late rows wants at its commit.
#[test]
fn the_extension_is_dropped_in_the_order_of_everybody_elses_locks() {
    let device = "insert into public.devices (device_uuid, name) values (gen_random_uuid(), 'new')";
    let (extension, schema) = ("drop extension busymate_stats", "drop schema busymate_stats cascade");
    for (tree, statement, drop) in
        [(false, LATE, extension), (true, LATE, extension), (false, device, extension), (false, LATE, schema)]
    {
        let fleet = Fleet::over(races::cluster(), tree);
        let mut fleet = fleet;
        fleet.tick();
        let mut writer = fleet.connect();
        writer.batch_execute(&format!("begin; set local deadlock_timeout = '100ms'; {statement}")).unwrap();
        let mut dropper = fleet.connect();
        let pid: i32 = value(&mut dropper, "select pg_backend_pid()");
        let thread = std::thread::spawn(move || dropper.batch_execute(drop).unwrap());
        eventually("the drop waits", || {
            let waiting = format!("select exists (select from pg_locks where pid = {pid} and not granted)");
            value::<bool>(&mut fleet.admin, &waiting).then_some(())
        });
        writer.batch_execute(&format!("{statement}; commit")).unwrap();
        thread.join().unwrap();
    }
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
    let prepared: i64 = value(
        &mut fleet.admin,
        "select count(*) from pg_prepared_xacts where gid = 'taken' and database = current_database()",
    );
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
