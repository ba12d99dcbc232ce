//! What the `#[pg_test]`s share: SQL as a user would run it, and the errors that it raises.

use crate::pg::transaction::{Failure, attempt};
use pgrx::prelude::*;

/// Runs statements. It may assign a transaction id, as the library's own reads must not: tests alone have this module.
#[allow(clippy::disallowed_methods)]
pub fn run(sql: &str) {
    Spi::run(sql).unwrap();
}

/// The value that a query gives; it must not be null.
#[allow(clippy::disallowed_methods)]
pub fn value<T: FromDatum + IntoDatum>(sql: &str) -> T {
    Spi::get_one(sql).unwrap().unwrap()
}

/// The OID of a relation, as its name is resolved.
pub fn relation(name: &str) -> pg_sys::Oid {
    value(&format!("select '{name}'::regclass::oid"))
}

/// The error that `work` raises. What it did is undone.
pub fn error_of<R>(work: impl FnOnce() -> R) -> Failure {
    match attempt(work) {
        Ok(_) => panic!("no error was raised"),
        Err(failure) => failure,
    }
}
