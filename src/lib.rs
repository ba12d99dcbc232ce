//! A device fleet's statistics and its infrastructure's health, computed and guarded inside PostgreSQL.
//!
//! The rooms, and which way they lean: `pg` alone calls PostgreSQL's C and knows nobody; `access` says who may
//! read; `fleet` says what is counted; `status` looks after the infrastructure, knowing nothing of PostgreSQL; `feed`
//! keeps the snapshot rows that PostgREST and Realtime serve; `worker` refreshes them; `mcp` is a server for the same
//! figures, in one SQL function.
//! `docs/architecture.md` shows the house.

// The `#[pg_test]`s, which are not under cfg(test) in the library that the server loads, may unwrap as other tests do.
#![cfg_attr(not(feature = "pg_test"), deny(clippy::unwrap_used, clippy::expect_used))]

use pgrx::prelude::*;

mod access;
mod error;
mod feed;
mod fleet;
mod foreign_objects;
mod mcp;
mod pg;
mod replicated;
mod schemas;
mod settings;
mod status;
mod strong_locks;
#[cfg(feature = "pg_test")]
mod testing;
mod torture;
mod version;
mod worker;

pg_module_magic!(name, version);

// cargo-pgrx writes the install script from what the library describes. That is the committed script, whole, and no
// function's description beside it: hence `sql = false` on each of them.
#[cfg(feature = "install_script")]
extension_sql_file!("../sql/busymate_stats--0.1.0.sql", name = "install_script", bootstrap);

#[cfg(not(feature = "install_script"))]
extension_sql!(
    "do $$ begin raise 'busymate_stats was built without its feature install_script'; end $$;",
    name = "no_install_script"
);

#[pg_guard]
extern "C-unwind" fn _PG_init() {
    pg::backtrace::keep_out_of_errors();
    settings::register();
    torture::register();
    access::register();
    foreign_objects::register();
    strong_locks::register();
    fleet::register();
    worker::register();
    pg::setting::reserve_prefix(c"busymate_stats");
}

/// What the framework of the `#[pg_test]`s asks for.
#[cfg(all(test, feature = "pg_test"))]
pub mod pg_test {
    /// Nothing to prepare.
    pub fn setup(_options: Vec<&str>) {}

    /// The library as a server has it; its workers keep out of the tests' way.
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![
            "shared_preload_libraries = 'busymate_stats'",
            "busymate_stats.refresh_interval = 0",
            "busymate_stats.status_interval = 0",
            "busymate_stats.seal_interval = 0",
            "busymate_stats.verify_interval = 0",
            "fsync = off",
        ]
    }
}
