//! A fleet whose sealer is led step by step.
use crate::rig::schema::{self, Entries};
use harness::{Cluster, eventually, value};
use postgres::Client;
use std::sync::OnceLock;
use std::thread::JoinHandle;

pub const SETTINGS: &str = "busymate_stats.seal_interval = 0\nbusymate_stats.refresh_interval = 0\n\
                            busymate_stats.seal_lag = '20ms'\nbusymate_stats.top_n = 4";

pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // To see a promise broken: the name of a variant that breaks it.
        let mutants = std::env::var("BUSYMATE_MUTANTS").unwrap_or_default();
        Cluster::start(&format!("{SETTINGS}\nbusymate_stats.mutants = '{mutants}'"))
    })
}

pub struct Fleet {
    cluster: &'static Cluster,
    database: String,
    pub admin: Client,
}

pub fn fleet() -> Fleet {
    Fleet::on(cluster())
}

/// Both ways of computing the figures of this moment agree under the session's snapshot.
#[track_caller]
pub fn agree(client: &mut Client) {
    let row = client
        .query_one(
            "select at, plain from (select busymate_stats.stats_at(t) as at, busymate_stats.stats_recomputed(t) as plain
               from (select clock_timestamp()) now (t) offset 0) both_ways",
            &[],
        )
        .unwrap();
    let (at, plain): (serde_json::Value, serde_json::Value) = (row.get(0), row.get(1));
    assert_eq!(at, plain);
}

impl Fleet {
    pub fn on(cluster: &'static Cluster) -> Self {
        Self::over(cluster, false)
    }

    /// `tree` partitions the entries.
    pub fn over(cluster: &'static Cluster, tree: bool) -> Self {
        let database = cluster.create_database("races");
        let mut admin = cluster.connect(&database);
        admin.batch_execute(&schema::statements(if tree { Entries::Tree } else { Entries::Table })).unwrap();
        Self { cluster, database, admin }
    }

    pub fn connect(&self) -> Client {
        self.cluster.connect(&self.database)
    }

    pub fn reconnect(&mut self) {
        self.admin = self.connect();
    }

    #[track_caller]
    pub fn run(&mut self, statements: &str) {
        self.admin.batch_execute(statements).unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// A sealer that has its locks and its snapshot.
    #[track_caller]
    pub fn begin(&self) -> Sealer {
        let mut client = self.connect();
        // Autovacuum may be at one of the small tables for a moment.
        eventually("the sealer has its locks", || {
            let locked = client.batch_execute(
                "begin isolation level repeatable read;
                 lock table busymate_stats_internal.seal_state in share update exclusive mode nowait;
                 lock table public.entries in access share mode nowait;
                 select 1",
            );
            if locked.is_err() {
                client.batch_execute("rollback").unwrap();
            }
            locked.ok()
        });
        Sealer(client)
    }

    /// A sealer that has done a step and not committed it.
    #[track_caller]
    pub fn hold(&self, step: &str) -> Sealer {
        let mut sealer = self.begin();
        assert_eq!(sealer.step(step), "moved");
        sealer
    }

    #[track_caller]
    pub fn step(&self, step: &str) -> String {
        let mut sealer = self.begin();
        let outcome = sealer.step(step);
        sealer.commit();
        outcome
    }

    fn seal_all(&self) {
        while self.step("seal") == "moved" {}
    }

    /// What a worker does at a tick.
    pub fn tick(&mut self) {
        self.seal_all();
        let before = self.threshold();
        self.wait_past(before);
        self.step("threshold");
        self.step("look");
        self.seal_all();
    }

    /// Ticks until `moment` is sealed.
    pub fn tick_past(&mut self, moment: i64) {
        eventually("the seal passes a moment", || {
            self.tick();
            (self.boundary() > moment).then_some(())
        });
    }

    /// Waits until the threshold can move beyond `moment`.
    pub fn wait_past(&mut self, moment: Option<i64>) {
        let moment = moment.unwrap_or(0);
        eventually("the lag is over", || {
            let now: i64 = value(&mut self.admin, "select test.us(clock_timestamp() - interval '20 ms')");
            (now > moment).then_some(())
        });
    }

    /// Waits until what is written by now is behind the lag.
    pub fn wait_for_lag(&mut self) {
        let now: i64 = value(&mut self.admin, "select test.us(clock_timestamp())");
        self.wait_past(Some(now));
    }

    pub fn threshold(&mut self) -> Option<i64> {
        value(
            &mut self.admin,
            "select test.us(threshold) from busymate_stats_internal.capture order by gen desc limit 1",
        )
    }

    pub fn boundary(&mut self) -> i64 {
        value(
            &mut self.admin,
            "select test.us(boundary) from busymate_stats_internal.seal_state order by version desc limit 1",
        )
    }

    /// How often everything was counted anew.
    pub fn epoch(&mut self) -> i64 {
        value(
            &mut self.admin,
            "select epoch from busymate_stats_internal.seal_state order by version desc limit 1",
        )
    }

    /// A session that keeps the snapshot of this moment.
    pub fn snapshot(&self) -> Client {
        let mut client = self.connect();
        client.batch_execute("begin isolation level repeatable read; select 1").unwrap();
        client
    }

    pub fn late_changes(&mut self) -> i64 {
        value(
            &mut self.admin,
            "select coalesce(sum(changes), 0)::int8 from busymate_stats_internal.late_changes",
        )
    }

    #[track_caller]
    pub fn agrees(&mut self) {
        agree(&mut self.admin);
    }

    /// Which way the figures of this moment, which agree, are come by.
    #[track_caller]
    fn way(&mut self) -> String {
        let _: serde_json::Value = value(&mut self.admin, "select test.ways()");
        agree(&mut self.admin);
        let ways: serde_json::Value = value(&mut self.admin, "select test.ways()");
        let ways: Vec<_> = ways.as_object().unwrap().keys().cloned().collect();
        ways.join(", ")
    }

    #[track_caller]
    pub fn is_sealed(&mut self) {
        assert_eq!(self.way(), "sealed");
    }

    #[track_caller]
    pub fn is_plain(&mut self, reason: &str) {
        assert_eq!(self.way(), reason);
    }
}

/// A sealer's transaction.
pub struct Sealer(Client);

impl Sealer {
    #[track_caller]
    pub fn step(&mut self, step: &str) -> String {
        let hour = 3_600_000_000_i64;
        self.0.query_one("select test.step($1, $2)", &[&step, &hour]).unwrap().get(0)
    }

    #[track_caller]
    pub fn commit(mut self) {
        self.0.batch_execute("commit").unwrap();
    }
}

/// A statement that waits for an advisory lock in its middle.
pub struct Slow(JoinHandle<()>);

impl Slow {
    /// Returns once it waits.
    pub fn start(fleet: &Fleet, statement: String) -> Self {
        let mut client = fleet.connect();
        let pid: i32 = value(&mut client, "select pg_backend_pid()");
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

    pub fn finish(self) {
        self.0.join().unwrap();
    }
}
