//! Tokens that were revoked, and have expired since.

use crate::pg::query::{execute, select};
use crate::pg::relation::lock_for_writing_now;
use crate::pg::scan::find_relation;
use crate::schemas::OPERATORS;

/// Removes the tokens that nobody accepts any more. False when their table is locked against writing, as DROP EXTENSION
/// does: then nothing was done.
pub fn clear_expired_tokens() -> bool {
    if !find_relation(OPERATORS, "revoked_tokens").is_some_and(lock_for_writing_now) {
        return false;
    }
    // Asked first, for writing takes a transaction id.
    let expired =
        "select true from busymate_stats.revoked_tokens where expires_at <= pg_catalog.now() limit 1";
    if !select(expired, &[], |_| ()).is_empty() {
        execute("delete from busymate_stats.revoked_tokens where expires_at <= pg_catalog.now()", &[]);
    }
    true
}
