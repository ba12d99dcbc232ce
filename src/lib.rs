//! A device fleet's statistics and its infrastructure's health, computed and guarded inside PostgreSQL.
//!
//! The rooms, and which way they lean: `pg` alone calls PostgreSQL's C and knows nobody; `access` says who may
//! read; `fleet` says what is counted; `status` looks after the infrastructure, knowing nothing of PostgreSQL; `feed`
//! keeps the snapshot rows that PostgREST and Realtime serve; `worker` refreshes them; `mcp` is a server for the same
//! figures, in one SQL function.
//! `docs/architecture.md` shows the house.

#![deny(clippy::unwrap_used, clippy::expect_used)]

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
mod torture;
mod version;
mod worker;

pg_module_magic!(name, version);

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
