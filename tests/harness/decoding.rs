//! What a subscriber of a publication is sent, as `pgoutput` writes it (protocol version 1), and leave for other output
//! plugins.

use super::{eventually, left_out, refusal_of, value};
use postgres::Client;

/// Makes a slot of wal2json, which comes from the distribution; where it is missing, the tests say so and check nothing
/// of it, except in CI on a server that should have it.
pub fn wal2json_slot(client: &mut Client, slot: &str) -> bool {
    allow_output_plugin(client, "wal2json");
    let made =
        client.execute("select pg_create_logical_replication_slot($1::text::name, 'wal2json')", &[&slot]);
    let Err(error) = made else { return true };
    let refused = refusal_of(&error);
    assert!(refused.code == "58P01" && refused.message.contains("wal2json"), "{refused:?}");
    if std::env::var_os("BUSYMATE_TEST_SERVER_ALONE").is_some() {
        left_out("what wal2json decodes");
    } else {
        assert!(std::env::var("CI").is_err(), "no wal2json: scripts/setup postgresql-wal2json");
        left_out("what wal2json decodes: scripts/setup postgresql-wal2json installs it");
    }
    false
}

/// Newer servers decode only by the libraries that the operator lists.
pub fn allow_output_plugin(client: &mut Client, plugin: &str) {
    let listed = "select setting from pg_settings where name = 'output_plugin_libraries'";
    let Some(row) = client.query_opt(listed, &[]).unwrap() else { return };
    let plugins: String = row.get(0);
    if plugins.contains(plugin) {
        return;
    }
    let plugins = [plugins.as_str(), plugin].join(if plugins.is_empty() { "" } else { ", " });
    client.batch_execute(&format!("alter system set output_plugin_libraries = {plugins}")).unwrap();
    client.batch_execute("select pg_reload_conf()").unwrap();
    eventually("the setting is loaded", || value::<String>(client, listed).contains(plugin).then_some(()));
}

/// A row that was updated. A column is `None` where it is null, or was not sent since its TOASTed value is unchanged.
#[derive(Debug, PartialEq, Eq)]
pub struct Update {
    pub table: String,
    /// Whether the old row, or its key, is sent too: not so where the key stays as it is.
    pub with_old_row: bool,
    pub columns: Vec<Option<String>>,
}

/// A logical slot that decodes for one publication.
pub struct Slot<'a> {
    name: String,
    publication: &'a str,
}

impl<'a> Slot<'a> {
    /// Makes the slot; `name` is unique in the cluster.
    pub fn create(client: &mut Client, name: &str, publication: &'a str) -> Self {
        client
            .execute("select pg_create_logical_replication_slot($1::text::name, 'pgoutput')", &[&name])
            .unwrap();
        Self { name: name.into(), publication }
    }

    /// The updates since the last call, and what else there was, by its message letter.
    pub fn read(&self, client: &mut Client) -> (Vec<Update>, String) {
        // In the option's list of names a quote doubles what it quotes.
        let publication = format!("\"{}\"", self.publication.replace('"', "\"\""));
        let rows = client
            .query(
                "select data from pg_logical_slot_get_binary_changes($1::text::name, null, null,
                                                                     'proto_version', '1', 'publication_names', $2)",
                &[&self.name, &publication],
            )
            .unwrap();
        let (mut updates, mut others, mut relations) = (Vec::new(), String::new(), Vec::new());
        for row in &rows {
            let mut message = Message(row.get(0));
            match message.letter() {
                'R' => {
                    let oid = message.number();
                    message.string();
                    relations.push((oid, message.string()));
                }
                'U' => updates.push(message.update(&relations)),
                'B' | 'C' => {}
                other => others.push(other),
            }
        }
        (updates, others)
    }

    /// Drops the slot, which would hold back what the server can forget.
    pub fn drop(self, client: &mut Client) {
        client.execute("select pg_drop_replication_slot($1::text::name)", &[&self.name]).unwrap();
    }
}

/// A column of a row that is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    Null,
    /// A TOASTed value that the update has not changed.
    Unchanged,
    Text(String),
}

/// What is left to read of a message.
pub struct Message<'a>(pub &'a [u8]);

impl Message<'_> {
    pub fn letter(&mut self) -> char {
        char::from(*self.0.split_off_first().unwrap())
    }

    pub fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.0.split_off(..4).unwrap().try_into().unwrap())
    }

    pub fn string(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap();
        let text = self.0.split_off(..end).unwrap();
        self.letter();
        String::from_utf8(text.to_vec()).unwrap()
    }

    fn update(&mut self, relations: &[(u32, String)]) -> Update {
        let oid = self.number();
        let table = relations.iter().find(|relation| relation.0 == oid).unwrap().1.clone();
        let mut kind = self.letter();
        let with_old_row = kind != 'N';
        if with_old_row {
            self.row();
            kind = self.letter();
        }
        assert_eq!(kind, 'N');
        Update { table, with_old_row, columns: self.row() }
    }

    fn row(&mut self) -> Vec<Option<String>> {
        let text = |column| if let Sent::Text(text) = column { Some(text) } else { None };
        self.tuple().into_iter().map(text).collect()
    }

    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.0.split_off(..2).unwrap().try_into().unwrap())
    }

    pub fn tuple(&mut self) -> Vec<Sent> {
        (0..self.short())
            .map(|_| match self.letter() {
                'n' => Sent::Null,
                'u' => Sent::Unchanged,
                't' => {
                    let length = self.number() as usize;
                    Sent::Text(String::from_utf8(self.0.split_off(..length).unwrap().to_vec()).unwrap())
                }
                other => panic!("a column of kind {other}"),
            })
            .collect()
    }
}
