//! The library's version, and what happens when the extension in the database has another.
//!
//! An upgrade replaces the library first; `ALTER EXTENSION … UPDATE` follows in each database, and old sessions keep the
//! old library until they end. Reading goes on through all of that: a policy that raised would shut everybody out.
//! What writes waits until both agree.

use crate::error::UserError;
use crate::pg::scan::extension_version;
use crate::pg::setting_place::enum_outside_command;
use pgrx::prelude::*;

/// The version of this library.
pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// The version of the loaded library.
#[pg_extern(immutable, parallel_safe, sql = false)]
fn version() -> &'static str {
    LIBRARY
}

/// The version of the extension in this database; `None` where it is not installed.
pub fn installed() -> Option<String> {
    extension_version("busymate_stats")
}

/// Raises 55000 unless the extension in this database has the library's version.
pub fn require_match() {
    let installed = installed();
    if installed.as_deref() == Some(LIBRARY) {
        return;
    }
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the busymate_stats library and extension differ in version",
    )
    .detail(format!(
        "The library is {LIBRARY}, the extension in this database is {}.",
        installed.as_deref().unwrap_or("missing")
    ))
    .hint("Run ALTER EXTENSION busymate_stats UPDATE, then reconnect. If the library is the older one, restart the server.")
    .raise()
}

#[pg_extern(sql = false)]
fn require_matching_version() {
    require_match();
}

/// Whether the session sees notices. CREATE EXTENSION raises client_min_messages to WARNING while the script runs
/// (`execute_extension_script`), which hides from the script what the session had.
#[pg_extern(sql = false)]
fn session_sees_notices() -> bool {
    enum_outside_command(c"client_min_messages").is_none_or(|level| level <= PgLogLevel::NOTICE as i32)
}
