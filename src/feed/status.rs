//! `service_status`: one row, as it was last written.

use crate::pg::identity::as_owner;
use crate::pg::query::select;
use crate::pg::relation::lock;
use crate::pg::scan::find_relation;

/// The snapshot in the row, as JSON text; `None` before there is one. Who may see it is the caller's to check: the row
/// is read as the table's owner, whatever rights the reader has on it.
pub fn snapshot() -> Option<String> {
    let table = find_relation("public", "service_status").and_then(lock)?;
    let sql = "select snapshot::pg_catalog.text from public.service_status where id = 1";
    as_owner(table.owner, || select(sql, &[], |row| row.text(1))).pop().flatten()
}
