//! A device fleet's statistics and its infrastructure's health, computed and guarded inside PostgreSQL.
//!
//! The rooms, and which way they lean: `pg` holds the only unsafe code and knows nobody; `access` says who may
//! read; `fleet` says what is counted; `feed` keeps the snapshot rows that PostgREST and Realtime serve; `worker`
//! refreshes them.
//! `docs/architecture.md` shows the house.

#![deny(clippy::unwrap_used, clippy::expect_used)]

use pgrx::prelude::*;

mod access;
mod error;
mod feed;
mod fleet;
mod pg;
mod settings;
mod torture;
mod version;
mod worker;

pg_module_magic!(name, version);

#[pg_guard]
extern "C-unwind" fn _PG_init() {
    settings::register();
    torture::register();
    access::register_setting();
    worker::register();
    pg::setting::reserve_prefix(c"busymate_stats");
}
