//! The fleet that is tortured.

/// What the entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// One table.
    Table,
    /// Partitions, two levels deep.
    Tree,
    /// A hypertable of TimescaleDB.
    Chunks,
}

impl Entries {
    /// Whether unique keys hold the entry time, and a row may fit nowhere.
    pub fn are_cut_by_time(self) -> bool {
        self != Self::Table
    }
}

/// Everything that makes it.
pub fn statements(entries: Entries) -> String {
    let entries = match entries {
        Entries::Table => include_str!("plain.sql"),
        Entries::Tree => include_str!("tree.sql"),
        Entries::Chunks => include_str!("chunks.sql"),
    };
    [include_str!("schema.sql"), entries, include_str!("fleet.sql")].concat()
}
