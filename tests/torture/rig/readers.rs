//! Who reads, and under which snapshots: a new one for each statement, or one that was taken many steps ago.

use super::chance::Chance;
use super::{Finding, Rig, moments};
use harness::{Cluster, eventually};
use postgres::{Client, SimpleQueryMessage};
use std::collections::BTreeMap;

pub struct Reader {
    pub client: Client,
    /// The isolation level of its transactions, `None` for single statements.
    level: Option<&'static str>,
    open: bool,
    pub on_standby: bool,
}

pub fn connect(primary: &Cluster, standby: Option<&Cluster>, database: &str) -> Vec<Reader> {
    let levels = [
        None,
        Some("repeatable read"),
        Some("repeatable read read only"),
        Some("repeatable read"),
        Some("serializable read only"),
    ];
    let on = |cluster: &Cluster, level, on_standby| Reader {
        client: cluster.connect(database),
        level,
        open: false,
        on_standby,
    };
    let mut readers: Vec<Reader> = levels.into_iter().map(|level| on(primary, level, false)).collect();
    if let Some(standby) = standby {
        readers.extend(levels.into_iter().take(3).map(|level| on(standby, level, true)));
    }
    readers
}

impl Reader {
    /// Begins with a snapshot, or lets one go that it has held for a while. No table is locked by that.
    fn turn_over(&mut self, chance: &mut Chance) -> Result<(), postgres::Error> {
        let Some(level) = self.level else {
            return Ok(());
        };
        if self.open && !chance.once_in(60) {
            return Ok(());
        }
        if self.open {
            self.client.batch_execute("commit")?;
        }
        self.open = false;
        self.client.batch_execute(&format!("begin isolation level {level}; select 1"))?;
        self.open = true;
        Ok(())
    }

    pub fn take_ways(&mut self, ways: &mut BTreeMap<String, i64>) {
        if !self.client.is_closed() {
            add_ways(&mut self.client, ways);
        }
    }
}

pub fn add_ways(client: &mut Client, ways: &mut BTreeMap<String, i64>) {
    if let Ok(row) = client.query_one("select test.ways()", &[]) {
        let counted: serde_json::Value = row.get(0);
        for (way, count) in counted.as_object().into_iter().flatten() {
            // Of the reasons that name something, one stands for all.
            *ways.entry(way.clone()).or_default() += count.as_i64().unwrap_or(0);
        }
    }
}

/// Compares both ways in one snapshot. In a transaction nothing stays locked afterwards.
pub fn differences(
    client: &mut Client,
    moments: &str,
    in_transaction: bool,
) -> Result<Option<String>, postgres::Error> {
    let question = format!(
        "select test.us(t), at, plain
           from (select t, busymate_stats.stats_at(t) as at, busymate_stats.stats_recomputed(t) as plain
                   from unnest({moments}) t offset 0) both_ways
          where at is distinct from plain"
    );
    let question = match in_transaction {
        true => format!("savepoint compared; {question}; rollback to compared; release compared"),
        false => question,
    };
    for message in client.simple_query(&question)? {
        if let SimpleQueryMessage::Row(row) = message {
            let [t, at, plain] = [0, 1, 2].map(|column| row.get(column).unwrap_or("null").to_owned());
            return Ok(Some(format!("as of {t}:\n    sealed {at}\n    plain  {plain}")));
        }
    }
    Ok(None)
}

impl Rig<'_> {
    /// Some of the readers, and who has a transaction open, for it sees what nobody else does.
    pub fn compare(&mut self) -> Result<(), Finding> {
        let (reader, writer) = if self.plan.thin { (12, 16) } else { (3, 4) };
        for place in 0..self.readers.len() {
            if place > 0 && !self.chance.once_in(reader) {
                continue;
            }
            self.compare_reader(place)?;
        }
        for place in 0..self.writers.len() {
            if self.writers[place].is_open() && self.chance.once_in(writer) {
                self.compare_in_writer(place)?;
            }
        }
        Ok(())
    }

    pub fn compare_reader(&mut self, place: usize) -> Result<(), Finding> {
        let count = if self.plan.thin { 1 + self.chance.below(2) } else { 3 };
        let moments = moments::asked_for(&mut self.chance, self.known, count);
        let reader = &mut self.readers[place];
        let compared = reader
            .turn_over(&mut self.chance)
            .and_then(|()| differences(&mut reader.client, &moments, reader.open));
        self.comparisons += count;
        match compared {
            Ok(None) => Ok(()),
            Ok(Some(difference)) => {
                let (level, standby) = (self.readers[place].level, self.readers[place].on_standby);
                Err(format!("reader {place}, {level:?}, on standby: {standby}, {difference}"))
            }
            Err(error) => self.reader_failed(place, &error),
        }
    }

    /// Recovery may end a reader of the standby, and a serializable one may have to give way.
    fn reader_failed(&mut self, place: usize, error: &postgres::Error) -> Result<(), Finding> {
        let reader = &mut self.readers[place];
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        if !reader.on_standby && code != "40001" {
            return Err(format!("reader {place}: {error:?}"));
        }
        let _ = reader.client.batch_execute("rollback");
        reader.open = false;
        if reader.client.is_closed() {
            let (level, cluster) = (reader.level, self.standby.as_ref().unwrap_or(self.cluster));
            // A standby may have to refuse while it replays what a look into its catalogs stands in the way of.
            let client = eventually("the standby lets a reader in", || {
                cluster.try_connect("postgres", &self.database).ok()
            });
            self.readers[place] = Reader { client, level, open: false, on_standby: true };
        }
        Ok(())
    }
}
