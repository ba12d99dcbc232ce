//! Writers of devices, the roster's sealer and readers in the orders that matter, step by step: each rule of the roster
//! as a promise.

use crate::roster_rig;
use harness::{Cluster, eventually, value};
use postgres::Client;
use serde_json::Value;
use std::sync::OnceLock;
use std::thread::JoinHandle;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&settings()))
}

/// A window that no test outlasts.
fn settings() -> String {
    format!("{}\nbusymate_stats.online_window = '10min'", roster_rig::SETTINGS)
}

struct Fleet {
    database: String,
    admin: Client,
}

/// A fleet of nine devices, five of them silent, counted.
fn fleet() -> Fleet {
    let database = cluster().create_database("races");
    let mut admin = cluster().connect(&database);
    admin.batch_execute(include_str!("roster_rig/schema.sql")).unwrap();
    admin.batch_execute(&roster_rig::attach(false)).unwrap();
    let mut fleet = Fleet { database, admin };
    fleet.run(
        "insert into public.devices (connection_type, last_seen_at, owner, slot)
         select 'vpn', clock_timestamp() - n % 2 * interval '1 hour', 0, n from generate_series(1, 9) n",
    );
    fleet.tick();
    fleet.is_counted();
    fleet
}

impl Fleet {
    fn connect(&self) -> Client {
        cluster().connect(&self.database)
    }

    #[track_caller]
    fn run(&mut self, statements: &str) {
        self.admin.batch_execute(statements).unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    #[track_caller]
    fn begin(&self) -> Sealer {
        let mut client = self.connect();
        // Autovacuum may be at one of the small tables for a moment.
        eventually("the sealer has its ground", || {
            client.batch_execute("begin isolation level repeatable read").unwrap();
            let ground: String = value(&mut client, "show busymate_stats.torture_roster_ground");
            if ground != "taken" {
                client.batch_execute("rollback").unwrap();
            }
            (ground == "taken").then_some(())
        });
        Sealer(client)
    }

    #[track_caller]
    fn step(&self, step: &str) -> String {
        let mut sealer = self.begin();
        let outcome = sealer.step(step);
        sealer.commit();
        outcome
    }

    #[track_caller]
    fn tick(&mut self) {
        assert_eq!([self.step("threshold"), self.step("look"), self.step("count")], ["moved"; 3]);
    }

    fn changes(&mut self) -> i64 {
        value(&mut self.admin, "select count(*) from busymate_stats_internal.roster_changes")
    }

    #[track_caller]
    fn is_counted(&mut self) {
        assert_eq!(way(&mut self.admin), "counted");
    }

    #[track_caller]
    fn is_plain(&mut self, reason: &str) {
        assert_eq!(way(&mut self.admin), reason);
    }
}

/// Which way the devices' figures of this moment, which agree, are come by.
#[track_caller]
fn way(client: &mut Client) -> String {
    let _: Value = value(client, "select test.ways()");
    let row = client
        .query_one(
            "select at, plain from (
                 select busymate_stats.stats_at(t) as at, busymate_stats.stats_recomputed(t) as plain
                   from (select clock_timestamp()) now (t) offset 0) both_ways",
            &[],
        )
        .unwrap();
    let (at, plain): (Value, Value) = (row.get(0), row.get(1));
    assert_eq!(at, plain);
    let ways: Value = value(client, "select test.ways()");
    ways.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(", ")
}

/// A sealer's transaction.
struct Sealer(Client);

impl Sealer {
    #[track_caller]
    fn step(&mut self, step: &str) -> String {
        self.0.query_one("select test.step($1)", &[&step]).unwrap().get(0)
    }

    #[track_caller]
    fn commit(mut self) {
        self.0.batch_execute("commit").unwrap();
    }
}

/// A statement that waits for an advisory lock in its middle.
struct Slow(JoinHandle<()>);

impl Slow {
    /// Returns once it waits.
    fn start(fleet: &Fleet, statement: &str) -> Self {
        let mut client = fleet.connect();
        let pid: i32 = value(&mut client, "select pg_backend_pid()");
        let statement = statement.to_owned();
        let thread = std::thread::spawn(move || client.batch_execute(&statement).unwrap());
        let mut observer = fleet.connect();
        eventually("the statement waits", || {
            let sql = format!(
                "select count(*) from pg_locks where pid = {pid} and locktype = 'advisory' and not granted"
            );
            (value::<i64>(&mut observer, &sql) == 1).then_some(())
        });
        Self(thread)
    }

    fn finish(self) {
        self.0.join().unwrap();
    }
}

#[test]
fn a_threshold_that_moves_while_a_statement_runs_is_obeyed() {
    let mut fleet = fleet();
    let mut gate = fleet.connect();
    gate.batch_execute("select pg_advisory_lock(1)").unwrap();
    // Its snapshot is from before the move, and it has written nothing yet: nobody waits for it. What it writes would
    // cross no threshold but the new one.
    let slow = Slow::start(
        &fleet,
        "update public.devices set last_seen_at = clock_timestamp() - interval '1 s' from pg_advisory_lock(1)",
    );
    let mut sealer = fleet.begin();
    sealer.0.batch_execute("set busymate_stats.online_window = 0").unwrap();
    assert_eq!(sealer.step("threshold"), "moved");
    sealer.commit();
    assert_eq!([fleet.step("look"), fleet.step("count")], ["moved"; 2]);
    gate.batch_execute("select pg_advisory_unlock(1)").unwrap();
    slow.finish();
    assert_eq!(fleet.changes(), 9);
    fleet.is_counted();
}

#[test]
fn the_count_waits_for_who_was_writing_and_for_nobody_else() {
    let mut fleet = fleet();
    let mut writer = fleet.connect();
    // Under the old threshold this crosses nothing; under the next one it may.
    writer
        .batch_execute("begin; update public.devices set last_seen_at = clock_timestamp() where slot = 2")
        .unwrap();
    assert_eq!([fleet.step("threshold"), fleet.step("look")], ["moved"; 2]);
    assert!(fleet.step("count").starts_with("held up by transaction"));
    let mut later = fleet.connect();
    later.batch_execute("begin; insert into public.devices (owner) values (7)").unwrap();
    fleet.is_counted();
    writer.batch_execute("prepare transaction 'kept'").unwrap();
    assert!(fleet.step("count").contains("prepared"));
    fleet.run("commit prepared 'kept'");
    assert_eq!(fleet.step("count"), "moved");
    fleet.is_counted();
    later.batch_execute("commit").unwrap();
    fleet.is_counted();
    assert_eq!(fleet.changes(), 1);
}

/// A rolled back savepoint lets the lock go, and what was kept of the threshold must not outlive it.
#[test]
fn a_savepoint_that_let_its_lock_go_is_no_writer_any_more() {
    let mut fleet = fleet();
    let mut writer = fleet.connect();
    writer
        .batch_execute(
            "begin; savepoint s; update public.devices set last_seen_at = clock_timestamp() where slot = 2; rollback to s",
        )
        .unwrap();
    fleet.tick();
    writer.batch_execute("delete from public.devices where slot = 3; commit").unwrap();
    assert_eq!(fleet.changes(), 1);
    fleet.is_counted();
}

#[test]
fn a_snapshot_from_before_a_truncate_is_answered_by_the_plain_query() {
    let mut fleet = fleet();
    let mut reader = fleet.connect();
    reader.batch_execute("begin isolation level repeatable read; select 1").unwrap();
    fleet.run("truncate public.devices");
    fleet.is_plain("the relation of devices has changed since the last count");
    fleet.tick();
    fleet.is_counted();
    assert_eq!(way(&mut reader), "the relation of devices has changed since the last count");
}

/// Whatever the trigger missed before the sealer's snapshot or after it, and before or after he looked what the relation
/// is like: what he counted does not count.
#[test]
fn what_a_disabled_trigger_missed_while_the_sealer_was_at_work_is_found() {
    let missed = "alter table public.devices disable trigger busymate_stats_roster;
                  insert into public.devices (owner) values (8);
                  alter table public.devices enable always trigger busymate_stats_roster";
    for has_snapshot in [true, false] {
        let mut fleet = fleet();
        assert_eq!([fleet.step("threshold"), fleet.step("look")], ["moved"; 2]);
        let mut sealer = fleet.begin();
        if has_snapshot {
            sealer.0.batch_execute("select 1").unwrap();
        }
        fleet.run(missed);
        assert_eq!(sealer.step("count"), "moved");
        sealer.commit();
        fleet.is_plain("the relation of devices has changed since the last count");
        fleet.tick();
        fleet.is_counted();
    }
}

/// The same, to see that the test above can fail.
#[test]
fn a_sealer_that_looks_too_late_what_the_relation_is_like_is_found() {
    let mut fleet = fleet();
    assert_eq!([fleet.step("threshold"), fleet.step("look")], ["moved"; 2]);
    let mut sealer = fleet.begin();
    sealer.0.batch_execute("set busymate_stats.mutants = 'RosterPrintInSnapshot'; select 1").unwrap();
    fleet.run(
        "alter table public.devices disable trigger busymate_stats_roster;
         insert into public.devices (owner) values (8);
         alter table public.devices enable always trigger busymate_stats_roster",
    );
    assert_eq!(sealer.step("count"), "moved");
    sealer.commit();
    let differ: bool = value(
        &mut fleet.admin,
        "select busymate_stats.stats_at(t) <> busymate_stats.stats_recomputed(t) from (select now()) moment (t)",
    );
    assert!(differ);
}

/// The look must come before the snapshot: a random schedule has nothing happen between the two.
#[test]
fn a_sealer_that_looks_for_writers_after_his_snapshot_is_found() {
    for (mutant, held_up) in [("", true), ("RosterLookInSnapshot", false)] {
        let mut fleet = fleet();
        let seen: i64 =
            value(&mut fleet.admin, "select test.us(last_seen_at) from public.devices where slot = 2");
        let mut writer = fleet.connect();
        writer
            .batch_execute("begin; update public.devices set last_seen_at = clock_timestamp() where slot = 2")
            .unwrap();
        let mut sealer = fleet.begin();
        // A threshold beyond both signs of life.
        sealer.0.batch_execute("set busymate_stats.online_window = 0").unwrap();
        assert_eq!(sealer.step("threshold"), "moved");
        sealer.commit();
        assert_eq!(fleet.step("look"), "moved");
        let mut sealer = fleet.begin();
        sealer.0.batch_execute(&format!("set busymate_stats.mutants = '{mutant}'; select 1")).unwrap();
        writer.batch_execute("commit").unwrap();
        assert_eq!(sealer.step("count").starts_with("held up"), held_up);
        sealer.commit();
        let differ: bool = value(
            &mut fleet.admin,
            &format!(
                "select busymate_stats.stats_at(t) <> busymate_stats.stats_recomputed(t)
                   from (select test.at({seen}) + interval '10 min') moment (t)"
            ),
        );
        assert_eq!(differ, !held_up);
    }
}

#[test]
fn labels_of_an_enum_may_change() {
    let mut fleet = fleet();
    fleet.run(
        "create type public.kind as enum ('vpn', 'pac');
         alter table public.devices alter connection_type type public.kind using 'vpn'",
    );
    fleet.tick();
    fleet.run("update public.devices set connection_type = 'pac' where slot = 1");
    assert_eq!(fleet.changes(), 1);
    fleet.is_counted();
    assert_eq!([fleet.step("threshold"), fleet.step("look")], ["moved"; 2]);
    let mut writer = fleet.connect();
    writer.batch_execute("begin; update public.devices set connection_type = 'pac' where slot = 2").unwrap();
    fleet.run("alter type public.kind rename value 'pac' to 'packed'");
    fleet.is_plain("the relation of devices has changed since the last count");
    // What the writer has written down says pac.
    assert_eq!(fleet.step("count"), "the relation of devices has changed since the look");
    assert_eq!([fleet.step("tick"), fleet.step("tick")], ["moved"; 2]);
    assert!(fleet.step("tick").starts_with("held up by transaction"));
    writer.batch_execute("commit").unwrap();
    assert_eq!(fleet.step("tick"), "moved");
    fleet.is_counted();
    fleet.run("alter type public.kind add value 'cdp'");
    fleet.run("update public.devices set connection_type = 'cdp' where slot = 3");
    fleet.is_plain("the relation of devices has changed since the last count");
    fleet.tick();
    fleet.is_counted();
}

#[test]
fn an_obstacle_sets_writers_free_and_passes() {
    let mut fleet = fleet();
    fleet.run(
        "create table test.child () inherits (public.devices); insert into test.child (owner) values (1)",
    );
    assert_eq!(fleet.step("tick"), "other tables inherit from public.devices");
    fleet.run("insert into public.devices (owner) values (9)");
    assert_eq!(fleet.changes(), 0);
    fleet.is_plain("devices are not counted yet");
    fleet.run("drop table test.child");
    assert_eq!(
        [fleet.step("tick"), fleet.step("tick"), fleet.step("tick"), fleet.step("tick")],
        ["moved", "moved", "moved", "done"]
    );
    fleet.is_counted();
}

#[test]
fn other_moments_than_the_counted_ones_are_asked_of_the_rows() {
    let mut fleet = fleet();
    let elsewhere = "online: the moment is not one that the last count tells apart";
    for window in ["'1h'", "0"] {
        fleet.run(&format!("set busymate_stats.online_window = {window}"));
        fleet.is_plain(elsewhere);
    }
    fleet.run("set busymate_stats.online_window = '1h'");
    let mut sealer = fleet.begin();
    sealer.0.batch_execute("set busymate_stats.online_window = '1h'").unwrap();
    assert_eq!(sealer.step("threshold"), "moved");
    sealer.commit();
    fleet.step("look");
    let mut sealer = fleet.begin();
    sealer.0.batch_execute("set busymate_stats.online_window = '1h'").unwrap();
    assert_eq!(sealer.step("count"), "moved");
    sealer.commit();
    fleet.is_counted();
}

/// A row trigger fires for what a subscription writes and for what comes through a parent, so both are counted.
#[test]
fn rows_of_a_subscription_and_of_a_parent_are_counted() {
    let mut fleet = fleet();
    fleet.run(
        "create table test.all_devices (like public.devices) partition by list (owner);
         create table test.others partition of test.all_devices default;
         alter table public.devices add check (owner in (0, 1));
         alter table test.all_devices attach partition public.devices for values in (0, 1)",
    );
    fleet.tick();
    fleet.run(
        "insert into test.all_devices (device_uuid, connection_type, owner) select gen_random_uuid(), 'pac', n from generate_series(0, 4) n;
         update test.all_devices set owner = 1 where owner = 4;
         update test.all_devices set owner = 5 where slot = 1",
    );
    assert_eq!(fleet.changes(), 4);
    fleet.is_counted();

    let source = cluster().create_database("source");
    let slot = format!("{source}_slot");
    let mut publisher = cluster().connect(&source);
    publisher
        .batch_execute("create table public.devices (device_uuid uuid primary key, connection_type text, owner int); create publication p for all tables")
        .unwrap();
    publisher
        .batch_execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
        .unwrap();
    fleet.run(&format!(
        "create subscription {slot} connection 'host={} dbname={source} user=postgres' publication p
           with (create_slot = false, slot_name = '{slot}', copy_data = false)",
        cluster().socket_directory().display()
    ));
    publisher.batch_execute("insert into public.devices values (gen_random_uuid(), 'sub', 0)").unwrap();
    eventually("the row has come", || {
        let sql = "select count(*) from public.devices where connection_type = 'sub'";
        (value::<i64>(&mut fleet.admin, sql) == 1).then_some(())
    });
    fleet.is_counted();
    assert_eq!(fleet.changes(), 5);
    publisher.batch_execute("truncate public.devices").unwrap();
    eventually("the truncate has come", || {
        (value::<i64>(&mut fleet.admin, "select count(*) from public.devices") == 0).then_some(())
    });
    fleet.is_plain("the relation of devices has changed since the last count");
    fleet.run(&format!("drop subscription {slot}"));
}

#[test]
fn a_restart_changes_nothing() {
    let own = Cluster::start(&settings());
    let database = own.create_database("restart");
    let mut admin = own.connect(&database);
    admin.batch_execute(include_str!("roster_rig/schema.sql")).unwrap();
    admin.batch_execute(&roster_rig::attach(false)).unwrap();
    for step in ["threshold", "look", "count"] {
        admin
            .batch_execute("begin isolation level repeatable read; show busymate_stats.torture_roster_ground")
            .unwrap();
        admin.query_one("select test.step($1)", &[&step]).unwrap();
        admin.batch_execute("commit").unwrap();
    }
    admin.batch_execute("insert into public.devices (owner) values (1)").unwrap();
    own.stop("immediate");
    own.start_again();
    let mut admin = own.connect(&database);
    assert_eq!(way(&mut admin), "counted");
    admin.batch_execute("insert into public.devices (owner) values (2)").unwrap();
    assert_eq!(way(&mut admin), "counted");
}
