//! The only room with unsafe code: what PostgreSQL's own API asks for and pgrx does not wrap.
//! Each block states the precondition it rests on. Nothing here knows what the extension is about.
#![allow(unsafe_code)]

pub mod argument;
pub mod attached;
pub mod background;
pub mod backtrace;
pub mod bare;
pub mod catalog;
pub mod databases;
pub mod event_trigger;
pub mod identity;
pub mod inheritance;
pub mod invalidation;
pub mod json;
pub mod jsonb;
pub mod lock_guard;
pub mod locks;
pub mod new_trigger;
pub mod own_rows;
pub mod partition;
pub mod query;
pub mod question;
pub mod range;
pub mod relation;
pub mod row_trigger;
pub mod scan;
pub mod screen;
pub mod setting;
pub mod setting_place;
pub mod shared;
pub mod slot;
pub mod thresholds;
pub mod transaction;
pub mod transaction_events;
pub mod transaction_memory;
pub mod write_guard;

/// What PostgreSQL asks the library for of each function that does without pgrx's wrapper.
const VERSION_1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };

/// PostgreSQL's name and text arguments end with a NUL byte; what comes from a datum has none inside.
/// A NUL cuts the string short, as it does everywhere in PostgreSQL.
fn c_string(text: &str) -> std::ffi::CString {
    let until_nul = text.split('\0').next().unwrap_or_default();
    std::ffi::CString::new(until_nul).unwrap_or_default()
}
