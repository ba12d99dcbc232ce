//! What TimescaleDB alone knows of a hypertable.

use crate::pg::query::{Param, select};
use crate::pg::relation::LockedRelation;
use crate::pg::scan::extension_version;
use crate::pg::transaction::under_later_snapshot;
use pgrx::spi::quote_identifier;

/// Why a table whose children have our trigger cannot be sealed all the same: rows of a compressed chunk may change without it.
pub fn obstacle(root: &LockedRelation) -> Option<String> {
    extension_version("timescaledb")?;
    // In whatever search path.
    let compressed = "select chunk.chunk_schema::pg_catalog.text, chunk.chunk_name::pg_catalog.text
          from pg_catalog.pg_class parent
          join pg_catalog.pg_namespace schema on schema.oid operator(pg_catalog.=) parent.relnamespace
          join timescaledb_information.chunks chunk
            on chunk.hypertable_schema operator(pg_catalog.=) schema.nspname
           and chunk.hypertable_name operator(pg_catalog.=) parent.relname
         where parent.oid operator(pg_catalog.=) $1 and chunk.is_compressed limit 1";
    let name = |part: Option<String>| quote_identifier(part.unwrap_or_default());
    // A sealer looks at its ground before it has a snapshot.
    let found = under_later_snapshot(|| {
        select(compressed, &[Param::Oid(root.oid)], |row| (name(row.text(1)), name(row.text(2)))).pop()
    })?;
    Some(format!("chunk {}.{} is compressed", found.0, found.1))
}
