//! Writers with transactions of every kind, that may stay open while the seal moves, be prepared, and end later.

use super::readers::{add_ways, differences};
use super::schema::Entries;
use super::writes::Owned;
use super::{Finding, Rig, discards_caches, moments, run_on, tree_ddl};
use postgres::Client;
use std::collections::BTreeMap;
use std::io::Write;

pub struct Writer {
    pub client: Client,
    /// Whose rows it writes.
    pub owners: Vec<i32>,
    open: bool,
    savepoints: usize,
    /// Whether its open transaction has written keys that are shared.
    is_sharing: bool,
}

/// A prepared transaction, and the owners whose rows it may hold locked.
pub struct Prepared {
    name: String,
    owners: Vec<i32>,
    is_sharing: bool,
}

impl Writer {
    pub fn new(mut client: Client, owners: Vec<i32>) -> Self {
        // Nobody of this schedule makes a writer wait, so whoever waits this long waits because of the extension.
        let patience = if discards_caches() { "15min" } else { "60s" };
        client
            .batch_execute(&format!("set lock_timeout = '2s'; set statement_timeout = '{patience}'"))
            .unwrap();
        Self { client, owners, open: false, savepoints: 0, is_sharing: false }
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn is_idle(&self) -> bool {
        !self.open
    }

    pub fn take_ways(&mut self, ways: &mut BTreeMap<String, i64>) {
        if !self.client.is_closed() {
            add_ways(&mut self.client, ways);
        }
    }
}

impl Rig<'_> {
    pub fn write(&mut self) -> Result<(), Finding> {
        let place = self.chance.below(self.crowd);
        if !self.writers[place].open {
            return match self.chance.below(80) {
                0..20 => self.begin(place),
                20 => self.late_transaction(place),
                21 => self.beside_a_held_cursor(place),
                _ => self.write_some(place),
            };
        }
        match self.chance.below(20) {
            0 | 1 => self.end(place, "commit"),
            2 => self.end(place, "rollback"),
            3 => self.prepare(place),
            4 | 5 => {
                self.writers[place].savepoints += 1;
                self.run_in(place, "savepoint s")
            }
            6 | 7 if self.writers[place].savepoints > 0 => self.run_in(place, "rollback to s"),
            8 if self.writers[place].savepoints > 0 => {
                self.writers[place].savepoints -= 1;
                self.run_in(place, "release s")
            }
            _ => self.write_some(place),
        }
    }

    fn begin(&mut self, place: usize) -> Result<(), Finding> {
        let level =
            self.chance.pick(&["read committed", "read committed", "repeatable read", "serializable"]);
        // Some take their snapshot long before they write.
        let snapshot = if self.chance.once_in(2) { "; select 1" } else { "" };
        self.run_in(place, &format!("begin isolation level {level}{snapshot}"))?;
        self.writers[place].open = true;
        Ok(())
    }

    fn end(&mut self, place: usize, how: &str) -> Result<(), Finding> {
        let writer = &mut self.writers[place];
        (writer.open, writer.savepoints, writer.is_sharing) = (false, 0, false);
        self.run_in(place, how)
    }

    fn prepare(&mut self, place: usize) -> Result<(), Finding> {
        if self.prepared.len() >= self.crowd {
            return self.end(place, "commit");
        }
        self.owners += 1;
        let name = format!("{}-{}", self.database, self.owners);
        let is_sharing = self.writers[place].is_sharing;
        self.end(place, &format!("prepare transaction '{name}'"))?;
        let fresh = self.new_owner();
        let owners = std::mem::replace(&mut self.writers[place].owners, vec![fresh]);
        self.prepared.push(Prepared { name, owners, is_sharing });
        Ok(())
    }

    /// One of the prepared transactions ends, at last.
    pub fn settle_prepared(&mut self) -> Result<(), Finding> {
        if self.prepared.is_empty() {
            return Ok(());
        }
        let Prepared { name, owners, .. } = self.prepared.remove(self.chance.below(self.prepared.len()));
        let how = self.chance.pick(&["commit", "commit", "rollback"]);
        let ended = self.observer.batch_execute(&format!("{how} prepared '{name}'"));
        self.note("observer", &format!("{how} prepared '{name}': {ended:?}"));
        // Its rows have somebody again.
        let place = self.chance.below(self.writers.len());
        if self.writers[place].owners.len() < 4 {
            self.writers[place].owners.extend(owners);
        }
        Ok(())
    }

    /// Ends whatever stays open, one way or the other: DDL would wait for it, and should.
    pub fn quiesce(&mut self) -> Result<(), Finding> {
        for place in 0..self.writers.len() {
            if self.writers[place].open {
                let how = self.chance.pick(&["commit", "rollback"]);
                self.end(place, how)?;
            }
        }
        while !self.prepared.is_empty() {
            self.settle_prepared()?;
        }
        Ok(())
    }

    fn owned(&mut self, place: usize) -> Owned<'_> {
        let owner = self.chance.pick(&self.writers[place].owners);
        Owned { chance: &mut self.chance, known: self.known, owner }
    }

    fn write_some(&mut self, place: usize) -> Result<(), Finding> {
        if self.chance.once_in(12) {
            return self.copy_some(place);
        }
        if self.chance.once_in(12) && !self.is_shared_beside(Some(place)) {
            let tree = self.plan.entries.are_cut_by_time();
            let statement = self.owned(place).shared(tree);
            self.writers[place].is_sharing = self.writers[place].open;
            return self.run_in(place, &statement);
        }
        let statement = self.owned(place).statement();
        self.run_in(place, &statement)
    }

    fn copy_some(&mut self, place: usize) -> Result<(), Finding> {
        let (statement, rows) = self.owned(place).copied();
        self.copy_in(place, &statement, &rows)
    }

    /// Whether a transaction other than this writer's, open or prepared, may hold a shared key, so that who writes it
    /// would wait.
    pub fn is_shared_beside(&self, place: Option<usize>) -> bool {
        let mut others = self.writers.iter().enumerate().filter(|(other, _)| Some(*other) != place);
        others.any(|(_, writer)| writer.is_sharing)
            || self.prepared.iter().any(|prepared| prepared.is_sharing)
    }

    fn beside_a_held_cursor(&mut self, place: usize) -> Result<(), Finding> {
        let statement = self.owned(place).beside_a_held_cursor();
        self.run_in(place, &statement)
    }

    /// Late batches, in savepoints too and some of them taken back. It ends at once, by PREPARE more often than others, or
    /// stays open.
    fn late_transaction(&mut self, place: usize) -> Result<(), Finding> {
        self.begin(place)?;
        for _ in 0..1 + self.chance.below(4) {
            let (before, after) = self.chance.pick(&[
                ("", ""),
                ("savepoint late", "release late"),
                ("savepoint late", "rollback to late"),
                ("savepoint late; savepoint later", "rollback to later; release late"),
            ]);
            self.run_in(place, before)?;
            if self.chance.once_in(3) {
                self.copy_some(place)?;
            } else {
                let statement = self.owned(place).late_batch();
                self.run_in(place, &statement)?;
            }
            if !self.writers[place].open {
                // It had to give way.
                return Ok(());
            }
            self.run_in(place, after)?;
            self.compare_in_writer(place)?;
            if !self.writers[place].open {
                return Ok(());
            }
        }
        match self.chance.below(4) {
            0 => self.end(place, "commit"),
            1 | 2 => self.prepare(place),
            _ => Ok(()),
        }
    }

    fn copy_in(&mut self, place: usize, statement: &str, rows: &[String]) -> Result<(), Finding> {
        self.note(&format!("writer {place}"), &format!("{statement} {rows:?}"));
        let client = &mut self.writers[place].client;
        let copied = client.copy_in(statement).and_then(|mut copy| {
            for row in rows {
                // The client sends at the end; what fails, fails there.
                let _ = copy.write_all(row.as_bytes());
            }
            copy.finish().map(|_| ())
        });
        copied.or_else(|error| self.writer_failed(place, &error))
    }

    pub fn run_in(&mut self, place: usize, statement: &str) -> Result<(), Finding> {
        let statement = self.in_this_schema(statement);
        self.note(&format!("writer {place}"), &statement);
        let client = &mut self.writers[place].client;
        let done = match statement.starts_with("begin") {
            // What is set within the transaction would go with it.
            true => client.batch_execute(&statement),
            false => run_on(client, |client| client.batch_execute(&statement)),
        };
        done.or_else(|error| self.writer_failed(place, &error))
    }

    /// Partitioned entries have another unique key, and partitions that can be named straight.
    fn in_this_schema(&mut self, statement: &str) -> String {
        if !self.plan.entries.are_cut_by_time() {
            return statement.to_owned();
        }
        let statement =
            statement.replace("on conflict (owner, slot)", "on conflict (owner, slot, created_at)");
        if self.plan.entries == Entries::Chunks {
            return statement;
        }
        if statement.starts_with("insert into public.entries")
            && !statement.contains("on conflict")
            && self.chance.once_in(4)
        {
            return statement.replacen("public.entries", "test.day0", 1);
        }
        for verb in ["update", "delete from"] {
            if statement.starts_with(&format!("{verb} public.entries")) && self.chance.once_in(3) {
                // Each write into the first two has everything counted anew where they are kept otherwise: enough come by the parent.
                let left_out = if self.plan.entries == Entries::Mixed { 2 } else { 0 };
                let leaf = self.chance.pick(&tree_ddl::LEAVES[left_out..]);
                return statement.replacen("public.entries", leaf, 1);
            }
        }
        statement
    }

    /// A transaction may have to give way to another of its kind. Nothing else, but that a row may fit no partition.
    fn writer_failed(&mut self, place: usize, error: &postgres::Error) -> Result<(), Finding> {
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        self.note(&format!("writer {place}"), &format!("failed: {error}"));
        // A MERGE in a transaction that is older than the row it would insert finds it only in the unique index.
        let in_tree = self.plan.entries.are_cut_by_time() && ["23514", "42P01"].contains(&code.as_str());
        // TimescaleDB makes no chunk for what is out of its range, 2.19 lets nobody alter the triggers of one, and who needs a new
        // chunk waits for another who has made one.
        let in_chunks = self.plan.entries == Entries::Chunks
            && ["22008", "0A000", "55P03", "40P01"].contains(&code.as_str());
        if !["40001", "23505"].contains(&code.as_str()) && !in_tree && !in_chunks {
            return Err(format!("writer {place}: {error:?}"));
        }
        let writer = &mut self.writers[place];
        let _ = writer.client.batch_execute("rollback; set session_replication_role = origin");
        let _ = writer.client.batch_execute("set debug_discard_caches = 0");
        (writer.open, writer.savepoints, writer.is_sharing) = (false, 0, false);
        Ok(())
    }

    pub fn compare_in_writer(&mut self, place: usize) -> Result<(), Finding> {
        let moments = moments::asked_for(&mut self.chance, self.known, 3);
        self.comparisons += 3;
        match differences(&mut self.writers[place].client, &moments, true) {
            Ok(None) => Ok(()),
            Ok(Some(difference)) => Err(format!("writer {place}, {difference}")),
            Err(error) => self.writer_failed(place, &error),
        }
    }
}
