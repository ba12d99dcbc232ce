//! Random schedules of writers, sealers, readers and DDL over one fleet, and the one thing that must hold after each
//! step: what is read from the seal is what the plain query gives, under every snapshot that anybody holds.
pub mod chance;
mod chunk_ddl;
mod ddl;
mod decoding;
mod disasters;
mod moments;
mod plugins;
mod readers;
mod rivals;
pub mod schema;
mod sealers;
mod tree_ddl;
mod writers;
mod writes;

use chance::Chance;
use decoding::Decoding;
use harness::{Cluster, value};
use moments::Known;
use postgres::Client;
use readers::Reader;
use schema::Entries;
use sealers::Sealer;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use writers::{Prepared, Writer};

/// Settings of a cluster that is tortured; `seal_interval` decides whether a worker seals too.
pub fn settings(seal_interval: &str) -> String {
    format!(
        "busymate_stats.seal_interval = '{seal_interval}'\nbusymate_stats.seal_lag = '200ms'\n\
         busymate_stats.refresh_interval = '1s'\nbusymate_stats.top_n = 4\n\
         max_prepared_transactions = 20\nwal_level = logical\nhot_standby_feedback = on\n\
         max_standby_streaming_delay = 2s\nmax_standby_archive_delay = 2s\nautovacuum_naptime = 1s\nrestart_after_crash = on"
    )
}

fn discards_caches() -> bool {
    std::env::var_os("BUSYMATE_DISCARD_CACHES").is_some_and(|value| !value.is_empty())
}

/// With BUSYMATE_DISCARD_CACHES, for a server with assertions, every eighth statement runs with PostgreSQL's caches discarded
/// at every chance, which takes a hundred times as long.
fn run_on<T>(client: &mut Client, statement: impl FnOnce(&mut Client) -> T) -> T {
    static STATEMENTS: AtomicUsize = AtomicUsize::new(0);
    let discards = discards_caches() && STATEMENTS.fetch_add(1, Ordering::Relaxed).is_multiple_of(8);
    let set = |client: &mut Client, value: u8| {
        // Not in a transaction that has failed.
        let _ = client.batch_execute(&format!("set debug_discard_caches = {value}"));
    };
    if discards {
        set(client, 1);
    }
    let result = statement(client);
    if discards {
        set(client, 0);
    }
    result
}

/// What a schedule may do beside writing, sealing and reading.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// In how many of a thousand steps.
    pub ddl: usize,
    /// Which of the scripts: those that hold this text.
    pub scripts: &'static str,
    pub disasters: usize,
    pub entries: Entries,
    /// Whether logical decoding is compared too, and whether its publication has partitions' changes as the root's.
    pub decode: bool,
    pub via_root: bool,
    /// Whether a step is followed by a comparison or two rather than by eight: four times as many steps in an hour.
    pub thin: bool,
    /// Settings of the database, for the variants that are broken on purpose.
    pub mutants: &'static str,
    /// Statements that break something of the install script.
    pub sabotage: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        let thin = std::env::var_os("BUSYMATE_THIN").is_some_and(|value| !value.is_empty());
        Self {
            ddl: 6,
            scripts: "",
            disasters: 0,
            entries: Entries::Table,
            decode: false,
            via_root: false,
            thin,
            mutants: "",
            sabotage: "",
        }
    }
}

/// How many of a thousand steps set the clock.
const CLOCK_STEPS: usize = 2;

/// In how many of a thousand steps clients write the same keys at once.
const RIVALRIES: usize = 5;

/// Between how many steps, on the average, slots are drained.
const DRAINS: usize = 30;

/// A difference, or a user who had to wait: what must never be.
pub type Finding = String;

pub struct Rig<'a> {
    pub cluster: &'a Cluster,
    pub standby: Option<Cluster>,
    pub database: String,
    plan: Plan,
    chance: Chance,
    known: Known,
    observer: Client,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
    sealers: Vec<Sealer>,
    prepared: Vec<Prepared>,
    decoding: Option<Decoding>,
    /// How many writers are at work for now: with many there is always one to wait for, with few the seal moves.
    crowd: usize,
    owners: i32,
    /// How often answers were come by which way.
    pub ways: BTreeMap<String, i64>,
    pub comparisons: usize,
    recent: VecDeque<String>,
}

impl<'a> Rig<'a> {
    pub fn new(cluster: &'a Cluster, seed: u64, plan: Plan) -> Self {
        let database = cluster.create_database("torture");
        let mut observer = cluster.connect(&database);
        observer.batch_execute(&schema::statements(plan.entries)).unwrap();
        observer.batch_execute(plan.sabotage).unwrap();
        observer
            .batch_execute(&format!(
                "alter database {database} set busymate_stats.mutants = '{}';
                 -- Planning the plain query would take longer than the query.
                 alter database {database} set plan_cache_mode = force_generic_plan",
                plan.mutants
            ))
            .unwrap();
        let mut rig = Self {
            cluster,
            standby: None,
            observer: cluster.connect(&database),
            plan,
            chance: Chance::new(seed),
            known: Known::default(),
            writers: Vec::new(),
            readers: Vec::new(),
            sealers: Vec::new(),
            prepared: Vec::new(),
            decoding: plan.decode.then(|| Decoding::begin(cluster, &database, plan.via_root)),
            crowd: 5,
            owners: 0,
            ways: BTreeMap::new(),
            comparisons: 0,
            recent: VecDeque::new(),
            database,
        };
        rig.connect();
        rig
    }

    /// Sessions anew, after a start of the server too. Prepared transactions keep their owners.
    fn connect(&mut self) {
        self.observer = self.cluster.connect(&self.database);
        self.sealers = (0..2).map(|_| Sealer::connect(self.cluster, &self.database)).collect();
        self.readers = readers::connect(self.cluster, self.standby.as_ref(), &self.database);
        let owners: Vec<Vec<i32>> = self.writers.drain(..).map(|writer| writer.owners).collect();
        for place in 0..5 {
            let owned = match owners.get(place) {
                Some(owned) => owned.clone(),
                None => vec![self.new_owner()],
            };
            let client = self.cluster.connect(&self.database);
            self.writers.push(Writer::new(client, owned));
        }
    }

    fn new_owner(&mut self) -> i32 {
        self.owners += 1;
        self.observer.batch_execute(&writes::devices_and_batches(self.owners)).unwrap();
        self.owners
    }

    /// Keeps what was done, to be shown with a finding.
    fn note(&mut self, who: &str, what: &str) {
        if self.recent.len() == 80 {
            self.recent.pop_front();
        }
        if std::env::var_os("BUSYMATE_TRACE").is_some() {
            eprintln!("{who}: {what}");
        }
        self.recent.push_back(format!("{who}: {}", &what[..what.floor_char_boundary(400)]));
    }

    pub fn recent(&self) -> String {
        self.recent.iter().map(|line| format!("  {line}\n")).collect()
    }

    fn look_at_the_clock(&mut self) {
        let row = self
            .observer
            .query_one(
                "select test.us(clock_timestamp()),
                        (select test.us(boundary) from busymate_stats_internal.seal_state order by version desc limit 1),
                        (select test.us(threshold) from busymate_stats_internal.capture order by gen desc limit 1)",
                &[],
            )
            .unwrap();
        let clock_step = self.known.clock_step;
        let now = row.get::<_, i64>(0) + i64::from(clock_step) * 1000;
        self.known = Known { now, clock_step, boundary: row.get(1), threshold: row.get(2) };
    }

    /// One step, and the comparisons after it.
    pub fn step(&mut self) -> Result<(), Finding> {
        self.look_at_the_clock();
        let place = self.chance.below(1000);
        if place < self.plan.ddl {
            self.ddl()?;
        } else if place < self.plan.ddl + self.plan.disasters {
            self.disaster();
        } else if place < self.plan.ddl + self.plan.disasters + CLOCK_STEPS {
            self.step_the_clock();
        } else if place >= 1000 - RIVALRIES {
            self.rival()?;
        } else {
            match self.chance.below(100) {
                0 => self.settle_prepared()?,
                1 => self.change_crowd()?,
                2..=4 => self.thin_out()?,
                5..=52 => self.write()?,
                _ => self.seal(),
            }
        }
        if self.decoding.is_some() && self.chance.once_in(DRAINS) {
            self.drain()?;
        }
        self.compare()
    }

    fn step_the_clock(&mut self) {
        let step = moments::clock_step(&mut self.chance, self.known.clock_step);
        let mut observer = self.cluster.connect(&self.database);
        self.set_clock(&mut observer, step);
    }

    /// The sealers' clock, that of the worker too, is set ahead or back; entries and questions go by it.
    fn set_clock(&mut self, observer: &mut Client, step: i32) {
        self.known.clock_step = step;
        self.note("clock", &format!("{step} ms"));
        let database = &self.database;
        let setting = format!("alter database {database} set busymate_stats.clock_step = {step}");
        observer.batch_execute(&setting).unwrap();
    }

    fn change_crowd(&mut self) -> Result<(), Finding> {
        self.crowd = 1 + self.chance.below(self.writers.len());
        if self.crowd < 3 { self.quiesce() } else { Ok(()) }
    }

    /// Few rows keep the plain query quick.
    fn thin_out(&mut self) -> Result<(), Finding> {
        let rows: i64 = value(&mut self.observer, "select count(*) from public.entries");
        if rows > 500 {
            for place in 0..self.writers.len() {
                if !self.writers[place].is_idle() {
                    continue;
                }
                for owner in self.writers[place].owners.clone() {
                    let half = format!("delete from public.entries where owner = {owner} and id % 3 > 0");
                    self.run_in(place, &half)?;
                }
            }
            // Not in a transaction that may be prepared: the next one to do this would wait for it.
            if self.writers[0].is_idle() {
                self.run_in(0, "delete from public.entries where owner = 0")?;
            }
        }
        Ok(())
    }

    /// The ways of the sessions' answers so far, added up.
    pub fn take_ways(&mut self) {
        for reader in &mut self.readers {
            reader.take_ways(&mut self.ways);
        }
        for writer in &mut self.writers {
            writer.take_ways(&mut self.ways);
        }
    }

    /// How many of a hundred answers came from the seal.
    pub fn sealed_share(&mut self) -> i64 {
        self.take_ways();
        let all: i64 = self.ways.values().sum();
        100 * self.ways.get("sealed").copied().unwrap_or(0) / all.max(1)
    }
}
