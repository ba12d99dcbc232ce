//! The fleet that is tortured.

/// What the entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// One table.
    Table,
    /// Partitions, two levels deep.
    Tree,
    /// The same, the old ones of another access method than heap.
    Mixed,
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
        Entries::Table => include_str!("plain.sql").into(),
        Entries::Tree => include_str!("tree.sql").into(),
        Entries::Mixed => {
            let other = "create access method other type table handler heap_tableam_handler;\n".to_owned();
            other + &in_other_method(include_str!("tree.sql"), "minvalue) to (test.day(3))")
        }
        Entries::Chunks => include_str!("chunks.sql").into(),
    };
    [include_str!("schema.sql"), &entries, include_str!("fleet.sql")].concat()
}

/// Statements that make the partition with these bounds, by another access method.
pub fn in_other_method(statements: &str, bounds: &str) -> String {
    let made = format!("partition of public.entries for values from ({bounds}");
    statements.replace(&made, &format!("{made} using other"))
}
