//! Promise: partitioned entries are sealed like a plain table: whatever comes, goes and is written through the root or
//! straight at a partition, and a partition that holds nothing of the last 24 hours may go without a recount.

use crate::races;
use crate::races::{Fleet, cluster};
use harness::value;
use postgres::Client;

fn tree() -> Fleet {
    let mut fleet = Fleet::over(cluster(), true);
    fleet.run(
        "insert into public.entries (created_at, host, source, owner)
         select now() - interval '80 hours' * n / 400, 'host' || n % 7, 'vpn', n % 5 from generate_series(1, 400) n",
    );
    fleet.tick();
    fleet.is_sealed();
    fleet
}

/// Compares under a held snapshot, and lets the locks go that DDL would wait for.
#[track_caller]
fn agree(old: &mut Client) {
    old.batch_execute("savepoint compared").unwrap();
    races::agree(old);
    old.batch_execute("rollback to compared").unwrap();
}

fn day3(fleet: &mut Fleet) -> i64 {
    value(&mut fleet.admin, "select count(*) from test.day3")
}

fn triggers(client: &mut Client) -> i64 {
    value(client, "select count(*) from pg_trigger where tgname = 'busymate_stats_capture'")
}

const CREATE_DAY3: &str =
    "create table test.day3 partition of public.entries for values from (test.day(3)) to (test.day(2))";
const ATTACH_DAY3: &str =
    "alter table public.entries attach partition test.day3 for values from (test.day(3)) to (test.day(2))";

/// Statements that write rows of the past, by every way.
const WRITES: [&str; 9] = [
    "insert into public.entries (created_at, host, owner) select test.day(n), 'late', n from generate_series(0, 4) n",
    "insert into test.day1 (created_at, host, owner) values (test.day(1), 'straight', 0)",
    "update test.day2 set host = 'changed' where owner = 1",
    "update public.entries set created_at = created_at - interval '1 day' where owner = 2 and created_at > test.day(2)",
    "delete from public.entries where owner = 3",
    "delete from test.day0_odd",
    "merge into public.entries e using (values (4, 'merged'), (9, 'new')) v (owner, host) on e.owner = v.owner
     when matched and created_at > test.day(1) then update set created_at = e.created_at - interval '1 day', host = v.host
     when matched then delete
     when not matched then insert (created_at, host, owner) values (test.day(2), v.host, v.owner)",
    "insert into public.entries (created_at, slot, owner) values (test.day(2), 1, 1), (test.day(2), 1, 2);
     insert into public.entries (created_at, slot, owner) values (test.day(2), 1, 1)
         on conflict (owner, slot, created_at) do update set host = 'again'",
    "set session_replication_role = replica; delete from test.day2 where owner = 0; reset session_replication_role",
];

#[test]
fn every_way_to_write_is_seen() {
    let mut fleet = tree();
    for write in WRITES {
        println!("{write}");
        fleet.run(write);
        fleet.is_sealed();
    }
    fleet
        .admin
        .copy_in("copy public.entries (created_at, host, owner) from stdin")
        .unwrap()
        .finish()
        .unwrap();
    fleet.tick();
    fleet.is_sealed();
    assert_eq!(fleet.late_changes(), 0);
}

#[test]
fn a_new_partition_needs_no_recount_when_it_comes_empty() {
    let mut fleet = tree();
    let epoch = fleet.epoch();
    let mut old = fleet.snapshot();
    for comes in
        [CREATE_DAY3, &format!("create table test.day3 (like public.entries including all); {ATTACH_DAY3}")]
    {
        fleet.run("drop table test.day3");
        fleet.run(comes);
        fleet.is_sealed();
        fleet.run("insert into public.entries (created_at, owner) select test.day(3) + n * interval '1 min', n from generate_series(0, 9) n");
        fleet.is_sealed();
        agree(&mut old);
        fleet.tick();
        fleet.is_sealed();
        agree(&mut old);
        fleet.run("delete from test.day3 where owner > 4");
        fleet.is_sealed();
    }
    assert_eq!(fleet.epoch(), epoch);
}

#[test]
fn a_partition_that_comes_with_rows_is_counted() {
    let mut fleet = tree();
    fleet.run(&format!("alter table public.entries detach partition test.day3; update test.day3 set host = 'away'; {ATTACH_DAY3}"));
    fleet.is_plain("a partition has changed since");
    fleet.tick();
    fleet.is_sealed();
    fleet.run("alter table public.entries detach partition test.day3");
    fleet.tick();
    fleet.run("delete from test.day3 where owner = 1");
    fleet.run(ATTACH_DAY3);
    fleet.is_plain("a partition has come with entries in it");
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn an_old_partition_goes_without_a_recount() {
    let mut fleet = tree();
    let epoch = fleet.epoch();
    for goes in [
        "drop table test.day3",
        "alter table public.entries detach partition test.day3; drop table test.day3",
        "alter table public.entries detach partition test.day3 concurrently;; drop table test.day3",
    ] {
        fleet.run("insert into public.entries (created_at, owner) select test.day(3) + n * interval '1 min', n from generate_series(0, 9) n");
        fleet.tick();
        let mut old = fleet.snapshot();
        // Late changes of the partition that are not folded in yet go with it.
        fleet.run("delete from test.day3 where owner > 4; insert into test.day3 (created_at, owner) values (test.day(3), 1)");
        assert!(day3(&mut fleet) > 0);
        for statement in goes.split(";;") {
            fleet.run(statement);
        }
        println!("{goes}");
        fleet.is_sealed();
        agree(&mut old);
        // Rows that come to its days later are others.
        fleet.run(CREATE_DAY3);
        fleet.run("insert into public.entries (created_at, owner) values (test.day(3), 1)");
        fleet.is_sealed();
        agree(&mut old);
        fleet.tick();
        fleet.is_sealed();
        agree(&mut old);
    }
    assert_eq!(fleet.epoch(), epoch);
}

#[test]
fn a_partition_of_the_last_day_goes_with_a_recount() {
    let mut fleet = tree();
    fleet.run("alter table public.entries detach partition test.day0");
    fleet.is_plain("a partition with entries of the last 24 hours has gone");
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_partition_that_is_emptied_in_place_is_not_mistaken() {
    let mut fleet = tree();
    fleet.run("drop table test.day3");
    fleet.run(&format!(
        "begin; {CREATE_DAY3};
         insert into test.day3 (created_at, owner) select test.day(3), n from generate_series(1, 9) n;
         truncate test.day3; commit"
    ));
    fleet.agrees();
    fleet.tick();
    fleet.is_sealed();
}

/// What changes a tree behind its triggers' back.
const UNSEEN: [&str; 7] = [
    "truncate test.day1",
    "truncate public.entries",
    "alter table public.entries alter host type varchar(20) using left(host, 1)",
    "vacuum full test.day2",
    "alter table test.day1 disable trigger busymate_stats_capture;; update test.day1 set host = 'unseen';;
     alter table test.day1 enable always trigger busymate_stats_capture",
    "begin; alter table public.entries rename host to h; alter table public.entries rename method to host; commit;;
     update public.entries set h = 'unseen';;
     begin; alter table public.entries rename host to method; alter table public.entries rename h to host; commit",
    "drop trigger busymate_stats_capture on public.entries;; update public.entries set host = 'unseen';;
     select busymate_stats.detach(); select busymate_stats.attach('public.entries', 'public.devices')",
];

#[test]
fn what_no_trigger_sees_voids_the_seal_for_every_snapshot() {
    for statements in UNSEEN {
        println!("{statements}");
        let mut fleet = tree();
        let mut old = fleet.snapshot();
        for statement in statements.split(";;") {
            fleet.run(statement);
            fleet.agrees();
            agree(&mut old);
        }
        fleet.tick();
        fleet.is_sealed();
        agree(&mut old);
    }
}

#[test]
fn partitions_that_others_analyze_meanwhile_are_read_right() {
    let mut fleet = tree();
    // As if the message of an ANALYZE came in while a partition's triggers are looked at: the server crashed.
    fleet.run("set busymate_stats.messages_come_in = on");
    fleet.run("analyze test.day1");
    fleet.is_sealed();
    fleet.run("insert into public.entries (created_at, owner) values (test.day(1), 1)");
    fleet.is_sealed();
}

#[test]
fn a_writer_straight_at_a_partition_is_waited_for() {
    let mut fleet = tree();
    let mut writer = fleet.connect();
    writer
        .batch_execute("begin; insert into test.day0 (created_at, owner) values (clock_timestamp(), 1)")
        .unwrap();
    let time: i64 = value(&mut writer, "select test.us(clock_timestamp())");
    fleet.wait_past(Some(time));
    assert_eq!(fleet.step("threshold"), "moved");
    fleet.step("look");
    assert!(fleet.step("seal").starts_with("held up"));
    writer.batch_execute("commit").unwrap();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_writer_whose_partition_nobody_sees_yet_is_waited_for() {
    let mut fleet = tree();
    fleet.run("drop table test.tomorrow; create table test.tomorrow (like public.entries including all)");
    fleet.tick();
    let mut writer = fleet.connect();
    writer
        .batch_execute(
            "begin; alter table test.later attach partition test.tomorrow for values from (test.day(-1)) to (test.day(-2));
             insert into test.tomorrow (created_at, owner) values (test.day(-1), 1)",
        )
        .unwrap();
    let time: i64 = value(&mut writer, "select test.us(clock_timestamp())");
    fleet.wait_past(Some(time));
    assert_eq!(fleet.step("threshold"), "moved");
    fleet.step("look");
    assert!(fleet.step("seal").starts_with("held up"));
    writer.batch_execute("commit").unwrap();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn a_foreign_partition_means_the_plain_query_until_it_goes() {
    let mut fleet = tree();
    fleet.run(
        "create extension postgres_fdw; create server nowhere foreign data wrapper postgres_fdw;
         drop table test.day3; alter table public.entries drop constraint entries_pkey, drop constraint entries_owner_slot_created_at_key,
             drop constraint entries_device_uuid_fkey, drop constraint entries_owner_batch_fkey;
         drop trigger look_at_commit on public.entries;
         create foreign table test.day3 partition of public.entries for values from (test.day(3)) to (test.day(2)) server nowhere",
    );
    let plain = fleet.step("seal");
    assert_eq!(plain, "test.day3 is a foreign table");
    fleet.run("insert into test.day2 (created_at, owner) values (test.day(2), 1)");
    fleet.run(&format!("drop foreign table test.day3; {CREATE_DAY3}"));
    fleet.is_sealed();
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn detach_takes_off_what_attach_has_put_on_every_partition() {
    let mut fleet = tree();
    assert_eq!(triggers(&mut fleet.admin), 11);
    fleet.run("alter table public.entries detach partition test.day3");
    assert_eq!(triggers(&mut fleet.admin), 10);
    fleet.run("select busymate_stats.detach()");
    assert_eq!(triggers(&mut fleet.admin), 0);
    fleet.run(&format!("{ATTACH_DAY3}; select busymate_stats.attach('public.entries', 'public.devices')"));
    assert_eq!(triggers(&mut fleet.admin), 11);
    fleet.run("drop extension busymate_stats");
    assert_eq!(triggers(&mut fleet.admin), 0);
}

#[test]
fn a_partition_that_may_lose_rows_in_a_crash_is_not_sealed() {
    let mut fleet = tree();
    fleet.run("alter table test.day2 set unlogged");
    fleet.is_plain("test.day2 is unlogged, so a crash would empty it unseen");
    fleet.run("alter table test.day2 set logged");
    fleet.tick();
    fleet.is_sealed();
}

#[test]
fn figures_of_a_role_without_rights_on_partitions_are_exact() {
    let mut fleet = Fleet::over(cluster(), true);
    fleet.run("create role tree_owner; create role tree_writer; grant usage on schema test to tree_owner, tree_writer;
         alter table public.entries owner to tree_owner; alter table public.devices owner to tree_owner;
         update busymate_stats_internal.attachment set entries_owner = 'tree_owner'::regrole, devices_owner = 'tree_owner'::regrole;
         grant select on all tables in schema test to tree_owner;
         grant insert, delete, select on public.entries to tree_writer; grant usage on all sequences in schema test to tree_writer");
    fleet.tick();
    fleet.run("set role tree_writer; insert into public.entries (created_at, owner) values (test.day(2), 1), (now(), 1); reset role");
    fleet.is_sealed();
    assert_eq!(fleet.late_changes(), 1);
    fleet.run("set role tree_writer; delete from public.entries; reset role");
    fleet.is_sealed();
}
