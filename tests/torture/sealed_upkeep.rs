//! What the seal keeps stays small over hundreds of ticks, and cheap to read where an old snapshot keeps vacuum from
//! tidying up.

use crate::races;
use crate::races::{Fleet, fleet};
use harness::value;
use postgres::Client;

const TABLES: [&str; 6] = ["capture", "seal_look", "late_changes", "seal_markers", "seal_state", "seal_keys"];

/// A session that seals, and one that reads.
struct Kept {
    fleet: Fleet,
    sealer: Client,
    reader: Client,
}

impl Kept {
    fn new() -> Self {
        let mut fleet = fleet();
        fleet.run(
            "insert into public.entries (created_at, owner, host)
             select now() - n * interval '20 s', 0, 'host' || n % 700 from generate_series(1, 2000) n",
        );
        fleet.tick();
        let (sealer, reader) = (fleet.connect(), fleet.connect());
        Self { fleet, sealer, reader }
    }

    /// Ticks with a few changes each, on time and late.
    fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.fleet.run(
                "insert into public.entries (owner, host) values (0, 'host1');
                 insert into public.entries (created_at, owner, host) values (now() - interval '3 h', 0, 'late');
                 delete from public.entries where id in (select id from public.entries order by created_at limit 1)",
            );
            for step in ["threshold", "look", "seal"] {
                self.sealer
                    .batch_execute(&format!(
                        "begin isolation level repeatable read; lock table busymate_stats_internal.seal_state in share update exclusive mode;
                         lock table public.entries in access share mode; select test.step('{step}', 3600000000); commit"
                    ))
                    .unwrap();
            }
        }
    }

    /// What autovacuum does when it comes by.
    fn vacuum(&mut self) {
        for table in TABLES {
            self.fleet.run(&format!("vacuum busymate_stats_internal.{table}"));
        }
    }

    fn sizes(&mut self) -> Vec<i64> {
        let size = |table| format!("select pg_total_relation_size('busymate_stats_internal.{table}')");
        TABLES.iter().map(|table| value(&mut self.fleet.admin, &size(table))).collect()
    }

    /// Nothing is kept that nobody needs: one state, two thresholds and their looks, a base of keys and what came since.
    #[track_caller]
    fn holds_no_more_than_it_needs(&mut self) {
        for (table, most) in TABLES.iter().zip([2, 2, 10, 0, 1, 20]) {
            let rows: i64 = value(
                &mut self.fleet.admin,
                &format!("select count(*) from busymate_stats_internal.{table}"),
            );
            assert!(rows <= most, "{table} holds {rows} rows");
        }
    }

    fn version(&mut self) -> i64 {
        value(&mut self.fleet.admin, "select max(version) from busymate_stats_internal.seal_state")
    }

    /// How many pages an answer touches, the first one after a tick.
    fn pages(&mut self) -> i64 {
        let sql =
            "explain (analyze, buffers, timing off, summary off, format json) select public.get_stats()";
        let read = |reader: &mut Client| -> serde_json::Value { value(reader, sql) };
        // The first call plans, and looks names up.
        read(&mut self.reader);
        self.ticks(1);
        let plan = read(&mut self.reader);
        let touched = |kind| plan[0]["Plan"][kind].as_i64().unwrap();
        touched("Shared Hit Blocks") + touched("Shared Read Blocks")
    }
}

#[test]
fn hundreds_of_ticks_leave_the_tables_small() {
    let mut kept = Kept::new();
    let round = |kept: &mut Kept| {
        for _ in 0..4 {
            kept.ticks(25);
            kept.vacuum();
        }
        kept.holds_no_more_than_it_needs();
        kept.sizes()
    };
    let first = round(&mut kept);
    let version = kept.version();
    round(&mut kept);
    let third = round(&mut kept);
    assert!(kept.version() >= version + 200);
    println!("{TABLES:?}: {third:?}");
    for (table, (before, after)) in TABLES.iter().zip(first.iter().zip(&third)) {
        assert!(*after <= before + 32 * 1024, "{table} grew from {before} to {after}");
        assert!(*after <= 1024 * 1024, "{table} holds {after} bytes");
    }
    kept.fleet.is_sealed();
}

#[test]
fn an_old_snapshot_costs_readers_nothing_and_room_for_a_while() {
    let mut kept = Kept::new();
    kept.ticks(5);
    kept.vacuum();
    let (pages, small) = (kept.pages(), kept.sizes());
    let mut old = kept.fleet.connect();
    old.batch_execute("begin isolation level repeatable read; select 1").unwrap();
    for _ in 0..6 {
        kept.ticks(25);
        kept.vacuum();
    }
    let (held, large) = (kept.pages(), kept.sizes());
    println!("{pages} pages, then {held}; {small:?}, then {large:?}");
    assert!(held <= pages * 3 / 2, "an answer touched {pages} pages, then {held}");
    races::agree(&mut old);
    old.batch_execute("commit").unwrap();
    kept.vacuum();
    // The room is used again.
    for _ in 0..6 {
        kept.ticks(25);
        kept.vacuum();
    }
    for (table, (before, after)) in TABLES.iter().zip(large.iter().zip(kept.sizes())) {
        assert!(after <= before + 32 * 1024, "{table} grew from {before} to {after}");
    }
    kept.fleet.is_sealed();
}
