//! Logical decoding beside the schedule: a slot of each output plugin is drained now and then, and what it delivers,
//! applied to a copy of the tables, must give the rows that SQL reads.

use super::plugins::{self, Change, Relations, Row};
use super::{Finding, Rig};
use harness::Cluster;
use harness::decoding::wal2json_slot;
use postgres::Client;
use std::collections::BTreeMap;

/// The values of the primary key's columns.
type Key = Vec<Option<String>>;
type Rows = BTreeMap<Key, Row>;

const PUBLICATION: &str = "torture";

/// While this is held, no refresh changes the feeds. Nobody else writes while a slot is drained.
const KEEP_FEEDS: &str =
    "begin; lock table public.service_stats, public.service_status in share mode; select 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugin {
    TestDecoding,
    PgOutput,
    Wal2Json,
}

struct Slot {
    name: String,
    plugin: Plugin,
    copy: BTreeMap<String, Rows>,
}

/// A table with a primary key.
struct Table {
    name: String,
    columns: Vec<String>,
    key: Vec<String>,
    is_partition: bool,
}

pub struct Decoding {
    client: Client,
    /// Keeps the feeds as they are.
    keeper: Client,
    slots: Vec<Slot>,
    tables: Vec<Table>,
    /// Whether the publication has the changes of partitions as those of the root.
    via_root: bool,
    /// How many changes were applied, by plugin and kind.
    pub applied: BTreeMap<String, usize>,
}

impl Decoding {
    /// Makes the slots, and copies the tables. Nobody writes meanwhile.
    pub fn begin(cluster: &Cluster, database: &str, via_root: bool) -> Self {
        let mut client = cluster.connect(database);
        // Each drain would have some lines in the log.
        client.batch_execute("set log_min_messages = 'warning'").unwrap();
        client
            .batch_execute(&format!(
                "create publication {PUBLICATION}
                     for table public.entries, public.devices, public.service_stats, public.service_status, test.batches
                     with (publish_via_partition_root = {via_root})"
            ))
            .unwrap();
        let mut slots = Vec::new();
        for (plugin, library) in [
            (Plugin::TestDecoding, "test_decoding"),
            (Plugin::PgOutput, "pgoutput"),
            (Plugin::Wal2Json, "wal2json"),
        ] {
            let name = format!("{database}_{library}");
            if plugin == Plugin::Wal2Json {
                if !wal2json_slot(&mut client, &name) {
                    continue;
                }
            } else {
                let create = "select pg_create_logical_replication_slot($1::text::name, $2::text::name)";
                client.execute(create, &[&name, &library]).unwrap();
            }
            slots.push(Slot { name, plugin, copy: BTreeMap::new() });
        }
        let keeper = cluster.connect(database);
        let (tables, applied) = (Vec::new(), BTreeMap::new());
        let mut decoding = Self { client, keeper, slots, tables, via_root, applied };
        decoding.copy_anew().unwrap();
        decoding
    }

    /// Copies the tables after a change of them that is not decoded. What is decoded until then must come without an
    /// error and is left aside.
    pub fn copy_anew(&mut self) -> Result<(), Finding> {
        self.keeping_feeds(|decoding| {
            decoding.tables = tables(&mut decoding.client);
            for place in 0..decoding.slots.len() {
                decoding.changes(place)?;
            }
            let rows = decoding.read_tables();
            for place in 0..decoding.slots.len() {
                let slot = &mut decoding.slots[place];
                slot.copy = expected(&rows, &decoding.tables, slot.plugin, decoding.via_root);
            }
            Ok(())
        })
    }

    /// Drains each slot and compares its copy.
    pub fn drain(&mut self) -> Result<(), Finding> {
        self.keeping_feeds(|decoding| {
            for place in 0..decoding.slots.len() {
                for change in decoding.changes(place)? {
                    decoding.apply(place, change)?;
                }
            }
            let rows = decoding.read_tables();
            for slot in &decoding.slots {
                let expected = expected(&rows, &decoding.tables, slot.plugin, decoding.via_root);
                compare(&slot.copy, &expected).map_err(|text| format!("{:?}: {text}", slot.plugin))?;
            }
            Ok(())
        })
    }

    fn keeping_feeds(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Finding>) -> Result<(), Finding> {
        self.keeper.batch_execute(KEEP_FEEDS).unwrap();
        let worked = work(self);
        self.keeper.batch_execute("commit").unwrap();
        worked
    }

    /// What a slot has to deliver up to now, of our own tables nothing.
    fn changes(&mut self, place: usize) -> Result<Vec<Change>, Finding> {
        let Slot { name, plugin, .. } = &self.slots[place];
        let options = match plugin {
            Plugin::TestDecoding => "'include-xids', '0', 'skip-empty-xacts', '1'".to_owned(),
            Plugin::PgOutput => format!("'proto_version', '1', 'publication_names', '{PUBLICATION}'"),
            Plugin::Wal2Json => "'format-version', '2', 'include-transaction', 'false',
                                 'actions', 'insert,update,delete,truncate'"
                .to_owned(),
        };
        let binary = if *plugin == Plugin::PgOutput { "binary_" } else { "" };
        let sql =
            format!("select data from pg_logical_slot_get_{binary}changes('{name}', null, null, {options})");
        let rows = self.client.query(&sql, &[]).map_err(|error| format!("{plugin:?}: {error:?}"))?;
        let mut relations = Relations::default();
        let mut changes = Vec::new();
        for row in &rows {
            let change = match plugin {
                Plugin::TestDecoding => plugins::of_test_decoding(row.get(0)),
                Plugin::PgOutput => relations.change(row.get(0)),
                Plugin::Wal2Json => plugins::of_wal2json(row.get(0)),
            };
            let Some(change) = change? else { continue };
            if !change.tables().iter().all(|table| table.starts_with("busymate_stats")) {
                changes.push(change);
            } else if let Change::Insert { table, .. } | Change::Update { table, .. } = &change
                && table == "busymate_stats_internal.late_changes"
            {
                return Err(format!("{plugin:?} delivers a late change: {change:?}"));
            }
        }
        Ok(changes)
    }

    fn apply(&mut self, place: usize, change: Change) -> Result<(), Finding> {
        let Slot { plugin, copy, .. } = &mut self.slots[place];
        let kind = match &change {
            Change::Insert { .. } => "INSERT",
            Change::Update { .. } => "UPDATE",
            Change::Delete { .. } => "DELETE",
            Change::Truncate { .. } => "TRUNCATE",
        };
        *self.applied.entry(format!("{plugin:?} {kind}")).or_default() += 1;
        let key_columns =
            |table: &str| self.tables.iter().find(|known| known.name == table).map(|known| &known.key);
        let applied = match &change {
            Change::Truncate { tables } => tables.iter().try_for_each(|table| {
                copy.get_mut(table).ok_or("a table that is not copied").map(|rows| rows.clear())
            }),
            Change::Insert { table, .. } | Change::Update { table, .. } | Change::Delete { table, .. } => {
                match copy.get_mut(table).zip(key_columns(table)) {
                    Some((rows, key)) => change_row(rows, key, &change),
                    None => Err("a table that is not copied"),
                }
            }
        };
        applied.map_err(|why| {
            let change = format!("{change:?}");
            let change = &change[..change.floor_char_boundary(1500)];
            format!("{plugin:?} delivers a change that cannot be applied ({why}): {change}")
        })
    }

    /// The rows of each table that has some of its own.
    fn read_tables(&mut self) -> BTreeMap<String, Rows> {
        let mut read = BTreeMap::new();
        for table in &self.tables {
            let columns: Vec<String> = table.columns.iter().map(|column| format!("{column}::text")).collect();
            let sql = format!("select {} from only {}", columns.join(", "), table.name);
            let rows = self.client.query(&sql, &[]).unwrap();
            let rows = rows.iter().map(|row| {
                let row: Row = table
                    .columns
                    .iter()
                    .enumerate()
                    .map(|(place, name)| (name.clone(), row.get(place)))
                    .collect();
                (key_of(&row, &table.key).expect("the key is among the columns"), row)
            });
            read.insert(table.name.clone(), rows.collect());
        }
        read
    }

    /// Drops the slots, which would hold back what the server can forget.
    fn end(mut self) {
        for slot in &self.slots {
            self.client.execute("select pg_drop_replication_slot($1::text::name)", &[&slot.name]).unwrap();
        }
    }
}

/// What the copy of a plugin must hold when the tables hold these rows.
fn expected(
    rows: &BTreeMap<String, Rows>,
    tables: &[Table],
    plugin: Plugin,
    via_root: bool,
) -> BTreeMap<String, Rows> {
    if plugin != Plugin::PgOutput || !via_root {
        return rows.clone();
    }
    let mut expected = BTreeMap::<String, Rows>::new();
    for table in tables {
        let name = if table.is_partition { "public.entries" } else { &table.name };
        expected.entry(name.to_owned()).or_default().extend(rows[&table.name].clone());
    }
    expected
}

fn compare(copy: &BTreeMap<String, Rows>, expected: &BTreeMap<String, Rows>) -> Result<(), String> {
    for (table, rows) in expected {
        let copied = &copy[table];
        if copied == rows {
            continue;
        }
        let key = rows.keys().chain(copied.keys()).find(|key| rows.get(*key) != copied.get(*key));
        let [has, delivered] = [rows, copied].map(|rows| key.and_then(|key| rows.get(key)));
        return Err(format!("{table} has {has:.600?}, and what was delivered gives {delivered:.600?}"));
    }
    Ok(())
}

fn key_of(row: &Row, key: &[String]) -> Option<Key> {
    key.iter().map(|column| row.get(column).cloned()).collect()
}

fn change_row(rows: &mut Rows, key: &[String], change: &Change) -> Result<(), &'static str> {
    const NO_KEY: &str = "its key is not whole";
    match change {
        Change::Insert { row, .. } => match rows.insert(key_of(row, key).ok_or(NO_KEY)?, row.clone()) {
            Some(_) => Err("there is such a row"),
            None => Ok(()),
        },
        Change::Update { old_key, row, .. } => {
            let old_key = key_of(old_key.as_ref().unwrap_or(row), key).ok_or(NO_KEY)?;
            let mut updated = rows.remove(&old_key).ok_or("there is no such row")?;
            updated.extend(row.clone());
            match rows.insert(key_of(&updated, key).ok_or(NO_KEY)?, updated) {
                Some(_) => Err("there is a row of its new key"),
                None => Ok(()),
            }
        }
        Change::Delete { key: old, .. } => {
            let old = key_of(old, key).ok_or(NO_KEY)?;
            rows.remove(&old).map(|_| ()).ok_or("there is no such row")
        }
        Change::Truncate { .. } => unreachable!("is of whole tables"),
    }
}

/// The tables that are copied, partitions of entries among them.
fn tables(client: &mut Client) -> Vec<Table> {
    let rows = client
        .query(
            "select format('%I.%I', n.nspname, c.relname), c.relispartition,
                    (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
                    (select array_agg(a.attname::text order by a.attname) from pg_attribute a
                      where a.attrelid = c.oid and a.attnum = any (i.indkey))
               from pg_class c
               join pg_namespace n on n.oid = c.relnamespace
               join pg_index i on i.indrelid = c.oid and i.indisprimary
              where c.relkind in ('r', 'p') and n.nspname in ('public', 'test')",
            &[],
        )
        .unwrap();
    rows.iter()
        .map(|row| Table { name: row.get(0), is_partition: row.get(1), columns: row.get(2), key: row.get(3) })
        .collect()
}

/// Whether logical decoding delivers all that this script does to rows: TRUNCATE is delivered, what changes columns or
/// partitions is not.
fn is_decoded(script: &str, via_root: bool) -> bool {
    let changes_tables = ["alter ", "create ", "drop "].iter().any(|word| script.contains(word));
    // The publication's root tells nothing of a partition that is truncated by itself.
    let is_lost = via_root && script.contains("truncate test.");
    !changes_tables && !is_lost
}

impl Rig<'_> {
    /// What is committed so far must have been delivered.
    pub fn drain(&mut self) -> Result<(), Finding> {
        match &mut self.decoding {
            Some(decoding) => decoding.drain(),
            None => Ok(()),
        }
    }

    /// After a script whose changes may not be decoded.
    pub fn drain_after(&mut self, script: &str) -> Result<(), Finding> {
        match &mut self.decoding {
            Some(decoding) if is_decoded(script, decoding.via_root) => decoding.drain(),
            Some(decoding) => decoding.copy_anew(),
            None => Ok(()),
        }
    }

    /// Ends what is open, drains the slots for the last time and drops them.
    pub fn finish_decoding(&mut self) -> Result<(), Finding> {
        if self.decoding.is_some() {
            self.quiesce()?;
            self.drain()?;
        }
        if let Some(decoding) = self.decoding.take() {
            println!("delivered: {:#?}", decoding.applied);
            decoding.end();
        }
        Ok(())
    }
}
