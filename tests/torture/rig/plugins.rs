//! What output plugins write, as changes of rows that can be applied to a copy.

use harness::decoding::{Message, Sent};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// Columns by their names, each as its type's output function writes it.
pub type Row = BTreeMap<String, Option<String>>;

#[derive(Debug)]
pub enum Change {
    Insert {
        table: String,
        row: Row,
    },
    /// `row` leaves out columns whose TOASTed value is unchanged. `old_key` comes where the key may have changed.
    Update {
        table: String,
        old_key: Option<Row>,
        row: Row,
    },
    /// Without a key where the table has no replica identity.
    Delete {
        table: String,
        key: Row,
    },
    Truncate {
        tables: Vec<String>,
    },
}

impl Change {
    pub fn tables(&self) -> &[String] {
        match self {
            Self::Insert { table, .. } | Self::Update { table, .. } | Self::Delete { table, .. } => {
                std::slice::from_ref(table)
            }
            Self::Truncate { tables } => tables,
        }
    }
}

/// A line of test_decoding, `None` where a transaction begins or ends.
pub fn of_test_decoding(line: &str) -> Result<Option<Change>, String> {
    if line.starts_with("BEGIN") || line.starts_with("COMMIT") {
        return Ok(None);
    }
    let parsed = || {
        let (tables, rest) = line.strip_prefix("table ")?.split_once(": ")?;
        let (verb, mut rest) = rest.split_once(':')?;
        let table = tables.to_owned();
        Some(match verb {
            "INSERT" => Change::Insert { table, row: columns(&mut rest)? },
            "UPDATE" => {
                let old_key = match rest.strip_prefix(" old-key:") {
                    Some(after) => {
                        rest = after;
                        let key = columns(&mut rest)?;
                        rest = rest.strip_prefix(" new-tuple:")?;
                        Some(key)
                    }
                    None => None,
                };
                Change::Update { table, old_key, row: columns(&mut rest)? }
            }
            "DELETE" if rest == " (no-tuple-data)" => Change::Delete { table, key: Row::new() },
            "DELETE" => Change::Delete { table, key: columns(&mut rest)? },
            "TRUNCATE" => Change::Truncate { tables: tables.split(", ").map(str::to_owned).collect() },
            _ => return None,
        })
    };
    parsed().map(Some).ok_or_else(|| format!("test_decoding wrote what cannot be read: {line}"))
}

/// ` name[type]:value` as often as it comes. What is left begins behind the last value.
fn columns(rest: &mut &str) -> Option<Row> {
    let mut row = Row::new();
    while !rest.is_empty() && !rest.starts_with(" new-tuple:") {
        let (name, after) = rest.strip_prefix(' ')?.split_once('[')?;
        let (_type, after) = after.split_once("]:")?;
        let value = match after.strip_prefix('\'') {
            Some(quoted) => {
                let (value, after) = quoted_literal(quoted)?;
                *rest = after;
                Some(value)
            }
            None => {
                let (value, after) = after.split_at(after.find(' ').unwrap_or(after.len()));
                *rest = after;
                if value == "unchanged-toast-datum" {
                    continue;
                }
                (value != "null").then(|| value.to_owned())
            }
        };
        row.insert(name.trim_matches('"').to_owned(), value);
    }
    Some(row)
}

/// The literal whose opening quote has been read, and what comes behind its closing one. Quotes in it are doubled.
fn quoted_literal(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

/// A line of wal2json, format version 2, `None` where a transaction begins or ends.
pub fn of_wal2json(line: &str) -> Result<Option<Change>, String> {
    let change: Value =
        serde_json::from_str(line).map_err(|error| format!("wal2json wrote no JSON: {error}: {line}"))?;
    let parsed = || {
        let table = || Some(format!("{}.{}", change["schema"].as_str()?, change["table"].as_str()?));
        Some(match change["action"].as_str()? {
            "B" | "C" => None,
            "I" => Some(Change::Insert { table: table()?, row: values(&change["columns"])? }),
            "U" => Some(Change::Update {
                table: table()?,
                old_key: Some(values(&change["identity"])?),
                row: values(&change["columns"])?,
            }),
            "D" => Some(Change::Delete { table: table()?, key: values(&change["identity"])? }),
            "T" => Some(Change::Truncate { tables: vec![table()?] }),
            _ => return None,
        })
    };
    parsed().ok_or_else(|| format!("wal2json wrote what cannot be read: {line}"))
}

fn values(columns: &Value) -> Option<Row> {
    let value = |column: &Value| {
        let value = match &column["value"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        Some((column["name"].as_str()?.to_owned(), value))
    };
    columns.as_array()?.iter().map(value).collect()
}

/// What pgoutput has told of the tables. It does so once in a session, before the first change.
#[derive(Default)]
pub struct Relations(HashMap<u32, Relation>);

struct Relation {
    table: String,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    is_key: bool,
}

impl Relations {
    /// A message of protocol version 1, `None` where it is about no row.
    pub fn change(&mut self, message: &[u8]) -> Result<Option<Change>, String> {
        let mut message = Message(message);
        Ok(match message.letter() {
            'B' | 'C' | 'Y' => None,
            'R' => {
                let (oid, relation) = relation(&mut message);
                self.0.insert(oid, relation);
                None
            }
            'I' => {
                let relation = self.relation(message.number())?;
                expect(&mut message, "N")?;
                Some(Change::Insert { table: relation.table.clone(), row: relation.row(message.tuple()) })
            }
            'U' => {
                let relation = self.relation(message.number())?;
                let old_key = match expect(&mut message, "KON")? {
                    'N' => None,
                    _ => {
                        let key = relation.key(message.tuple());
                        expect(&mut message, "N")?;
                        Some(key)
                    }
                };
                let row = relation.row(message.tuple());
                Some(Change::Update { table: relation.table.clone(), old_key, row })
            }
            'D' => {
                let relation = self.relation(message.number())?;
                expect(&mut message, "KO")?;
                Some(Change::Delete { table: relation.table.clone(), key: relation.key(message.tuple()) })
            }
            'T' => {
                let count = message.number();
                message.letter();
                let tables =
                    (0..count).map(|_| self.relation(message.number()).map(|found| found.table.clone()));
                Some(Change::Truncate { tables: tables.collect::<Result<_, _>>()? })
            }
            other => return Err(format!("pgoutput wrote a message of kind {other}")),
        })
    }

    fn relation(&self, oid: u32) -> Result<&Relation, String> {
        self.0.get(&oid).ok_or_else(|| format!("pgoutput has not told of relation {oid}"))
    }
}

fn relation(message: &mut Message) -> (u32, Relation) {
    let oid = message.number();
    let table = format!("{}.{}", message.string(), message.string());
    let _replica_identity = message.letter();
    let columns = (0..message.short())
        .map(|_| {
            let is_key = message.letter() == '\u{1}';
            let name = message.string();
            let (_type, _modifier) = (message.number(), message.number());
            Column { name, is_key }
        })
        .collect();
    (oid, Relation { table, columns })
}

fn expect(message: &mut Message, letters: &str) -> Result<char, String> {
    let letter = message.letter();
    if letters.contains(letter) {
        Ok(letter)
    } else {
        Err(format!("pgoutput wrote a tuple of kind {letter}"))
    }
}

impl Relation {
    fn row(&self, tuple: Vec<Sent>) -> Row {
        let sent = self.columns.iter().zip(tuple);
        sent.filter_map(|(column, value)| {
            let value = match value {
                Sent::Unchanged => return None,
                Sent::Null => None,
                Sent::Text(text) => Some(text),
            };
            Some((column.name.clone(), value))
        })
        .collect()
    }

    /// Of an old row only what identifies it: the other columns are sent as null.
    fn key(&self, tuple: Vec<Sent>) -> Row {
        let mut row = self.row(tuple);
        row.retain(|name, _| self.columns.iter().any(|column| column.is_key && column.name == *name));
        row
    }
}
