//! The fleet that is tortured.

/// Everything that makes it; `tree` partitions the entries.
pub fn statements(tree: bool) -> String {
    let entries = if tree { include_str!("tree.sql") } else { include_str!("plain.sql") };
    [include_str!("schema.sql"), entries, include_str!("fleet.sql")].concat()
}
