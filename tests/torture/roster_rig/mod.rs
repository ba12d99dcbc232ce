//! Random schedules of writers of devices, sealers, readers and DDL, and the one thing that must hold after each step:
//! what is counted is what the plain query gives, under every snapshot that anybody holds.
use crate::rig::chance::Chance;
use harness::{Cluster, value};
use postgres::Client;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

pub const SETTINGS: &str = "busymate_stats.seal_interval = 0\nbusymate_stats.refresh_interval = 0\n\
     busymate_stats.status_interval = 0\nbusymate_stats.online_window = '4s'\nmax_prepared_transactions = 20";

/// Errors that the schedule brings about by itself: a conflict, a lock that is not had, what follows in a transaction
/// that has failed, a row that is there already.
const EXPECTED: [&str; 5] = ["40001", "40P01", "55P03", "25P02", "23505"];

/// A difference, or an error: what must never be.
pub type Finding = String;

struct Session {
    client: Client,
    owner: i32,
    open: bool,
    savepoints: usize,
    /// Only its snapshot is held: no lock keeps DDL away.
    lies_low: bool,
}

pub struct Rig {
    pub database: String,
    /// Which columns the fleet is attached with: `online` instead of the last sign of life.
    boolean: bool,
    chance: Chance,
    admin: Client,
    writers: Vec<Session>,
    readers: Vec<Session>,
    sealers: Vec<Session>,
    prepared: Vec<String>,
    names: usize,
    threshold: i64,
    since: i64,
    pub ways: BTreeMap<String, i64>,
    pub comparisons: usize,
    recent: VecDeque<String>,
}

impl Rig {
    pub fn new(cluster: &Cluster, seed: u64, boolean: bool, mutants: &str) -> Self {
        let database = cluster.create_database("roster");
        let mut admin = cluster.connect(&database);
        admin.batch_execute(include_str!("schema.sql")).unwrap();
        admin.batch_execute(&attach(boolean)).unwrap();
        admin
            .batch_execute(&format!("alter database {database} set busymate_stats.mutants = '{mutants}'"))
            .unwrap();
        let session = |owner| {
            let mut client = cluster.connect(&database);
            client.batch_execute("set lock_timeout = '50ms'").unwrap();
            Session { client, owner, open: false, savepoints: 0, lies_low: false }
        };
        Self {
            admin: {
                let mut client = cluster.connect(&database);
                client.batch_execute("set lock_timeout = '5s'").unwrap();
                client
            },
            writers: (0..4).map(session).collect(),
            readers: (10..13).map(session).collect(),
            sealers: (20..22).map(session).collect(),
            database,
            boolean,
            chance: Chance::new(seed),
            prepared: Vec::new(),
            names: 0,
            threshold: 0,
            since: 0,
            ways: BTreeMap::new(),
            comparisons: 0,
            recent: VecDeque::new(),
        }
    }

    fn note(&mut self, what: &str) {
        if self.recent.len() == 60 {
            self.recent.pop_front();
        }
        if std::env::var_os("BUSYMATE_TRACE").is_some() {
            eprintln!("{what}");
        }
        self.recent.push_back(what.into());
    }

    pub fn recent(&self) -> String {
        self.recent.iter().map(|line| format!("  {line}\n")).collect()
    }

    pub fn step(&mut self) -> Result<(), Finding> {
        match self.chance.below(100) {
            0 => self.ddl()?,
            1..=3 => self.settle_prepared(),
            4..=55 => self.write()?,
            56..=65 => self.hold_or_let_go(),
            _ => self.seal()?,
        }
        self.compare()
    }

    fn moment(&mut self) -> String {
        let near = self.chance.between(-2, 3);
        match self.chance.below(12) {
            0 => "null".into(),
            1 => "'-infinity'".into(),
            2 => "'infinity'".into(),
            3 => format!("test.at({})", self.threshold + near),
            4 => format!("test.at({})", self.since + near),
            5 => "clock_timestamp() + interval '3 s'".into(),
            6 | 7 => "now()".into(),
            8 => "clock_timestamp() - interval '1 day'".into(),
            _ => format!("clock_timestamp() - interval '{} ms'", self.chance.below(9000)),
        }
    }

    fn kind(&mut self) -> &'static str {
        self.chance.pick(&[
            "null",
            "'unknown'",
            "'vpn'",
            "'pac'",
            "'cdp'",
            "''",
            "'Ünï'",
            "repeat('long', 900)",
        ])
    }

    fn statement(&mut self, owner: i32) -> String {
        let (moment, kind, n) = (self.moment(), self.kind(), self.chance.below(3));
        let online = self.chance.pick(&["true", "false", "null"]);
        let values = format!("({kind}, {moment}, {online}, {owner}, {n})");
        let columns = "(connection_type, last_seen_at, online, owner, slot)";
        let some = match self.chance.below(3) {
            0 => format!("owner = {owner}"),
            _ => format!("owner = {owner} and slot % 3 = {n}"),
        };
        match self.chance.below(16) {
            0..=3 => format!("update public.devices set last_seen_at = clock_timestamp(), online = true where {some}"),
            4 | 5 => format!("update public.devices set last_seen_at = {moment}, online = {online} where {some}"),
            6 => format!("update public.devices set connection_type = {kind} where {some}"),
            7 => format!("update public.devices set note = 'noted' where {some}"),
            8 => format!("delete from public.devices where {some} and slot > 1"),
            9 => format!(
                "insert into public.devices {columns} select {kind}, {moment}, {online}, {owner}, s from generate_series(0, 8) s
                 on conflict do nothing"
            ),
            10 => format!(
                "insert into public.devices {columns} values {values} on conflict (owner, slot)
                 do update set last_seen_at = excluded.last_seen_at, online = excluded.online"
            ),
            11 => format!(
                "merge into public.devices d using (values {values}) v {columns} on d.owner = v.owner and d.slot = v.slot
                 when matched and d.slot = 0 then delete
                 when matched then update set last_seen_at = v.last_seen_at::timestamptz
                 when not matched then insert {columns}
                     values (v.connection_type::text, v.last_seen_at::timestamptz, v.online::boolean, v.owner, v.slot)"
            ),
            12 => format!(
                "with gone as (delete from public.devices where {some} and slot = 1 returning *)
                 insert into public.devices {columns} select connection_type, {moment}, online, owner, slot + 100 + (random() * 1000)::int
                   from gone on conflict do nothing"
            ),
            13 => format!(
                "set local test.look = 'on'; update public.devices set last_seen_at = {moment}, online = {online} where {some}"
            ),
            14 => format!("update public.devices set note = test.agree()::text, last_seen_at = {moment} where {some}"),
            _ => format!(
                "do $$ begin
                     update public.devices set last_seen_at = {moment} where {some};
                     begin
                         update public.devices set connection_type = {kind}, online = {online} where {some};
                         raise 'undone';
                     exception when raise_exception then null; end;
                     perform test.agree();
                 end $$"
            ),
        }
    }

    fn write(&mut self) -> Result<(), Finding> {
        let place = self.chance.below(self.writers.len());
        let owner = self.writers[place].owner;
        let statement = match (self.writers[place].open, self.chance.below(10)) {
            (false, 0..=3) => {
                let level = self.chance.pick(&[
                    "read committed",
                    "read committed",
                    "repeatable read",
                    "serializable",
                ]);
                format!("begin isolation level {level}")
            }
            (true, 0 | 1) => self.chance.pick(&["commit", "commit", "rollback"]).into(),
            (true, 2) => {
                self.names += 1;
                format!("prepare transaction '{}-{}'", self.database, self.names)
            }
            (true, 3) => {
                self.writers[place].savepoints += 1;
                format!("savepoint s{}", self.writers[place].savepoints)
            }
            (true, 4) if self.writers[place].savepoints > 0 => {
                let to = 1 + self.chance.below(self.writers[place].savepoints);
                self.writers[place].savepoints = to;
                format!("rollback to savepoint s{to}")
            }
            (false, 4) => {
                let many: Vec<_> = (0..3).map(|_| self.statement(owner)).collect();
                format!("begin; {}; commit", many.join("; "))
            }
            _ => self.statement(owner),
        };
        self.run(place, &statement)
    }

    fn run(&mut self, place: usize, statement: &str) -> Result<(), Finding> {
        self.note(&format!("writer {place}: {statement}"));
        let writer = &mut self.writers[place];
        let result = writer.client.batch_execute(statement);
        let begins = statement.starts_with("begin isolation");
        let ends = statement.starts_with("commit")
            || statement.starts_with("rollback") && !statement.starts_with("rollback to")
            || statement.starts_with("prepare");
        match result {
            Ok(()) => {
                if begins || ends {
                    writer.open = begins;
                    writer.savepoints = 0;
                }
                if let Some(name) = statement.strip_prefix("prepare transaction ") {
                    self.prepared.push(name.into());
                }
                Ok(())
            }
            Err(error) => {
                let found = match error.as_db_error() {
                    Some(told) if EXPECTED.contains(&told.code().code()) => Ok(()),
                    _ => Err(format!("{statement}: {error:?}")),
                };
                let _ = writer.client.batch_execute("rollback");
                writer.open = false;
                writer.savepoints = 0;
                self.note("  failed, rolled back");
                found
            }
        }
    }

    fn settle_prepared(&mut self) {
        if !self.prepared.is_empty() {
            let name = self.prepared.swap_remove(self.chance.below(self.prepared.len()));
            let how = self.chance.pick(&["commit", "commit", "rollback"]);
            self.note(&format!("{how} prepared {name}"));
            self.admin.batch_execute(&format!("{how} prepared {name}")).unwrap();
        }
    }

    /// A reader takes a snapshot to keep, or lets it go.
    fn hold_or_let_go(&mut self) {
        let place = self.chance.below(self.readers.len());
        let lies_low = self.chance.once_in(2);
        let level = self.chance.pick(&["repeatable read", "serializable"]);
        let window = self.chance.pick(&["default", "default", "'2s'", "'6s'", "'1h'", "0"]);
        let reader = &mut self.readers[place];
        let statement = if reader.open {
            "commit".into()
        } else {
            format!("set busymate_stats.online_window = {window}; begin isolation level {level}; select 1")
        };
        reader.client.batch_execute(&statement).unwrap();
        reader.open = !reader.open;
        reader.lies_low = reader.open && lies_low;
        self.note(&format!("reader {place}: {statement}"));
    }

    /// A step of a sealer, which may stay uncommitted for a while; or all of them one after the other.
    fn seal(&mut self) -> Result<(), Finding> {
        let place = self.chance.below(self.sealers.len());
        if self.sealers[place].open {
            self.sealers[place].client.batch_execute("commit").unwrap();
            self.sealers[place].open = false;
            self.note(&format!("sealer {place}: commit"));
            return Ok(());
        }
        if self.chance.once_in(4) {
            return ["threshold", "look", "count"]
                .iter()
                .try_for_each(|step| self.seal_step(place, step, false));
        }
        let step = self.chance.pick(&["threshold", "look", "look", "count", "count", "count"]);
        let stays = self.chance.once_in(4);
        self.seal_step(place, step, stays)
    }

    fn seal_step(&mut self, place: usize, step: &str, stays: bool) -> Result<(), Finding> {
        let sealer = &mut self.sealers[place];
        sealer
            .client
            .batch_execute("begin isolation level repeatable read; show busymate_stats.torture_roster_ground")
            .unwrap();
        match sealer.client.query_one("select test.step($1)", &[&step]) {
            Ok(row) => {
                let outcome: String = row.get(0);
                sealer.open = stays;
                if !stays {
                    sealer.client.batch_execute("commit").unwrap();
                }
                self.note(&format!("sealer {place}: {step}: {outcome}{}", if stays { ", open" } else { "" }));
                Ok(())
            }
            Err(error) => {
                sealer.client.batch_execute("rollback").unwrap();
                match error.as_db_error() {
                    Some(told) if EXPECTED.contains(&told.code().code()) => Ok(()),
                    _ => Err(format!("sealer, {step}: {error:?}")),
                }
            }
        }
    }

    /// Ends whatever holds a lock on devices.
    fn quiesce(&mut self) {
        while !self.prepared.is_empty() {
            self.settle_prepared();
        }
        let readers = self.readers.iter_mut().filter(|reader| !reader.lies_low);
        for session in self.writers.iter_mut().chain(readers).chain(&mut self.sealers) {
            let _ = session.client.batch_execute("commit");
            session.open = false;
            session.savepoints = 0;
        }
    }

    fn ddl(&mut self) -> Result<(), Finding> {
        let write = format!(
            "update public.devices set last_seen_at = {}, connection_type = {} where slot < 4",
            self.moment(),
            self.kind()
        );
        let insert = format!(
            "insert into public.devices (connection_type, last_seen_at, owner) values ({}, {}, 99)",
            self.kind(),
            self.moment()
        );
        let again = attach(self.boolean);
        let script: &[&str] = match self.chance.below(13) {
            0 => &["truncate public.devices", &insert],
            1 => &["begin; truncate public.devices; rollback"],
            2 => &["begin; truncate public.devices", &insert, "truncate public.devices", &insert, "commit"],
            3 => &[
                "alter table public.devices disable trigger busymate_stats_roster",
                &write,
                "alter table public.devices enable always trigger busymate_stats_roster",
            ],
            4 => &[
                "begin; alter table public.devices disable trigger busymate_stats_roster",
                &insert,
                "alter table public.devices enable always trigger busymate_stats_roster",
                "commit",
            ],
            5 => &[
                "alter table public.devices rename connection_type to x; alter table public.devices rename note to connection_type",
                &write,
                "alter table public.devices rename connection_type to note; alter table public.devices rename x to connection_type",
            ],
            6 => &[
                "alter table public.devices rename last_seen_at to x; alter table public.devices rename online to y",
                "update public.devices set x = null, y = null where slot < 4",
                "alter table public.devices rename x to last_seen_at; alter table public.devices rename y to online",
            ],
            7 => &["vacuum full public.devices"],
            8 => &[
                "create table test.child () inherits (public.devices)",
                "insert into test.child (connection_type, last_seen_at, owner) values ('vpn', now(), 98)",
                "alter table test.child no inherit public.devices",
                "drop table test.child",
            ],
            9 => {
                &["set session_replication_role = replica", &write, &insert, "reset session_replication_role"]
            }
            10 => &["begin; select busymate_stats.detach()", &write, &again, "commit"],
            11 => &["select busymate_stats.detach()", &insert, &again],
            _ => &[
                "alter table public.devices alter connection_type type varchar(9000)",
                &write,
                "alter table public.devices alter connection_type type text",
            ],
        };
        for statement in script {
            self.quiesce();
            self.note(&format!("ddl: {statement}"));
            self.admin.batch_execute(statement).map_err(|error| format!("{statement}: {error:?}"))?;
            if self.chance.once_in(2) {
                self.seal()?;
            }
            self.compare()?;
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), Finding> {
        let row = self
            .admin
            .query_one(
                "select coalesce((select test.us(threshold) from busymate_stats_internal.roster_capture order by gen desc limit 1), 0),
                        coalesce((select test.us(since) from busymate_stats_internal.roster_state order by version desc limit 1), 0),
                        exists (select from busymate_stats_internal.attachment),
                        not has_table_privilege('public.devices', 'select')",
                &[],
            )
            .unwrap();
        (self.threshold, self.since) = (row.get(0), row.get(1));
        if !row.get::<_, bool>(2) {
            return Ok(());
        }
        let edge = self.chance.pick(&[self.threshold, self.since]) + self.chance.between(-2, 3);
        let moments = format!(
            "values (clock_timestamp()), (test.at({edge}) + current_setting('busymate_stats.online_window')::interval)"
        );
        let sql = format!(
            "select t::text, at, plain from (
                 select t, busymate_stats.stats_at(t) as at, busymate_stats.stats_recomputed(t) as plain
                   from ({moments}) moment (t) offset 0) both_ways"
        );
        let mut findings = Vec::new();
        let readers = self.readers.iter_mut().filter(|reader| !reader.lies_low || self.chance.once_in(8));
        for session in readers.chain(self.writers.iter_mut()) {
            let rows = match session.client.query(&sql, &[]) {
                Ok(rows) => rows,
                Err(error) => {
                    let code = error.as_db_error().map_or(String::new(), |told| told.code().code().into());
                    // DDL of this very step may hold the lock; a column may be on its way.
                    if !EXPECTED.contains(&&*code) && code != "42703" {
                        findings.push(format!("{error:?}"));
                    }
                    let _ = session.client.batch_execute("rollback");
                    (session.open, session.savepoints, session.lies_low) = (false, 0, false);
                    continue;
                }
            };
            session.lies_low = false;
            self.comparisons += rows.len();
            for row in rows {
                let (moment, at, plain): (String, Value, Value) = (row.get(0), row.get(1), row.get(2));
                if at != plain {
                    findings.push(format!("session {} as of {moment}: {at}\nplain: {plain}", session.owner));
                }
            }
        }
        if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
    }

    /// How many of a hundred answers came from the count: with every figure, and with or without who is online.
    pub fn counted_shares(&mut self) -> (i64, i64) {
        for session in self.readers.iter_mut().chain(&mut self.writers) {
            let _ = session.client.batch_execute("rollback");
            let ways: Value = value(&mut session.client, "select test.ways()");
            for (way, count) in ways.as_object().unwrap() {
                *self.ways.entry(way.clone()).or_default() += count.as_i64().unwrap();
            }
        }
        let all: i64 = self.ways.values().sum();
        let share = |of: &str| {
            let ways = self.ways.iter().filter(|(way, _)| way.starts_with(of));
            100 * ways.map(|(_, count)| count).sum::<i64>() / all.max(1)
        };
        let counted = share("counted");
        (counted, counted + share("online"))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for name in self.prepared.drain(..) {
            let _ = self.admin.batch_execute(&format!("rollback prepared {name}"));
        }
    }
}

pub fn attach(boolean: bool) -> String {
    let online = if boolean { ", online => 'online'" } else { "" };
    format!("select busymate_stats.attach('public.entries', 'public.devices'{online})")
}
