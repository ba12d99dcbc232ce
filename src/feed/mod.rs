//! The snapshot rows that PostgREST and Realtime serve.

use crate::pg::query::{Param, execute};
use crate::{fleet, version};
use pgrx::prelude::*;

/// Computes the fleet's statistics and puts them into the row of `service_stats`; gives its `updated_at`.
///
/// Not gated by claims (a scheduled job has none): EXECUTE is the owner's to grant, and the function is a SECURITY
/// DEFINER one, for its caller needs no right on the table.
#[pg_extern]
fn refresh_stats() -> TimestampWithTimeZone {
    version::require_match();
    let (snapshot, as_of) = fleet::snapshot_now();
    // Serialising a value that came from no map with non-string keys cannot fail.
    let snapshot = snapshot.to_string();
    execute(
        "insert into public.service_stats as feed (id, snapshot, updated_at) values (1, $1::pg_catalog.jsonb, $2) \
         on conflict (id) do update set snapshot = excluded.snapshot, updated_at = excluded.updated_at",
        &[Param::Text(&snapshot), Param::Timestamp(as_of)],
    );
    fleet::timestamp(as_of)
}
