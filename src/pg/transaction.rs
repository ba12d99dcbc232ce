//! Transactions of a background worker, and errors that do not end them.

use super::shared;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::ffi::c_int;
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs `work` in a transaction of its own, with a snapshot. An error inside ends the process, as everywhere in a
/// background worker: what may fail goes into [`attempt`].
pub fn transaction<R>(work: impl FnOnce() -> R) -> R {
    prepared_transaction(|| (), |()| work())
}

/// Like [`transaction`]; what `prepare` does comes before the snapshot: taking locks, so that what they protect is as
/// the snapshot sees it.
pub fn prepared_transaction<P, R>(prepare: impl FnOnce() -> P, work: impl FnOnce(P) -> R) -> R {
    // SAFETY: called between transactions of a process that is connected to a database.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
    }
    let prepared = prepare();
    // SAFETY: inside the transaction begun above.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = work(prepared);
    // SAFETY: pops the snapshot pushed above, and commits the transaction begun above.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
    }
    result
}

/// Like [`transaction`], but without a snapshot: for a process that is connected to no database.
pub fn bare_transaction<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: as in `transaction`.
    unsafe { pg_sys::StartTransactionCommand() };
    let result = work();
    // SAFETY: commits the transaction begun above.
    unsafe { pg_sys::CommitTransactionCommand() };
    result
}

/// An error that was caught.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// Its SQLSTATE.
    pub sqlstate: String,
    /// Its primary message, up to [`LONGEST_MESSAGE`]: it may be that of others' code.
    pub message: String,
    /// Whether the time of [`attempt_within`] was over.
    pub out_of_time: bool,
    /// What to do about it, if it says so.
    pub hint: Option<String>,
}

/// Characters of a message that are kept.
const LONGEST_MESSAGE: usize = 1000;

impl From<&CaughtError> for Failure {
    fn from(error: &CaughtError) -> Self {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = error;
        let message = report.message().chars().take(LONGEST_MESSAGE).collect();
        Self {
            sqlstate: sqlstate(report.sql_error_code() as i32),
            message,
            hint: report.hint().map(str::to_owned),
            out_of_time: false,
        }
    }
}

/// Five characters of six bits each, counted from '0'.
fn sqlstate(code: i32) -> String {
    (0..5).map(|place| char::from((((code >> (6 * place)) & 0x3F) as u8) + b'0')).collect()
}

/// Runs `work` in a subtransaction. Its error is given back, and what it did is undone; the transaction goes on.
pub fn attempt<R>(work: impl FnOnce() -> R) -> Result<R, Failure> {
    caught(work).map_err(|error| Failure::from(&*error))
}

/// [`attempt`], but a cancel, a timeout and a lack of memory go on up: they are not for the function to answer.
pub fn attempt_unless_ended<R>(work: impl FnOnce() -> R) -> Result<R, Failure> {
    caught(work).map_err(|error| {
        let failure = Failure::from(&*error);
        match failure.sqlstate.as_str() {
            QUERY_CANCELED | OUT_OF_MEMORY => error.rethrow(),
            _ => failure,
        }
    })
}

const QUERY_CANCELED: &str = "57014";
const OUT_OF_MEMORY: &str = "53200";

fn caught<R>(work: impl FnOnce() -> R) -> Result<R, Box<CaughtError>> {
    // SAFETY: called inside a transaction. Memory context and resource owner are put back by hand after the
    // subtransaction, which leaves its own behind; role, settings, snapshots and SPI are put back by its abort.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let result = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
            .catch_others(|error| Err(Box::new(error)))
            .catch_rust_panic(|error| Err(Box::new(error)))
            .execute();
        if result.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}

/// Of `utils/timeout.h`, which pgrx does not bind; the number is the same in PostgreSQL 15 to 18.
const STATEMENT_TIMEOUT: c_int = 3;

unsafe extern "C-unwind" {
    fn enable_timeout_after(id: c_int, milliseconds: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// [`attempt`] under a statement timeout, which a background worker has to set for itself. The launcher ends a worker that
/// goes on all the same: code of a role that owns what is read may catch the timeout's error.
pub fn attempt_within<R>(milliseconds: i32, work: impl FnOnce() -> R) -> Result<R, Failure> {
    shared::step(milliseconds);
    let started = Instant::now();
    // SAFETY: InitPostgres has registered the timeout. It is switched off again however `work` ends.
    unsafe { enable_timeout_after(STATEMENT_TIMEOUT, milliseconds) };
    let result = attempt(work);
    // SAFETY: as above.
    unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
    shared::step(0);
    let is_over = started.elapsed() >= Duration::from_millis(milliseconds.unsigned_abs().into());
    result
        .map_err(|failure| Failure { out_of_time: is_over && failure.sqlstate == QUERY_CANCELED, ..failure })
}

/// Runs `work` under a snapshot that is taken now, where the transaction's isolation level lets a statement have one of its own.
pub fn under_later_snapshot<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: inside a transaction; the snapshot is popped below, or by the abort of the (sub)transaction.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = work();
    // SAFETY: the snapshot pushed above is on top again.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// What the transaction has done so far is seen by the snapshots that it takes from here on: in an AFTER trigger, what the
/// statement has changed.
pub fn see_own_changes() {
    // SAFETY: called in a transaction, outside of parallel mode: its caller has written.
    unsafe { pg_sys::CommandCounterIncrement() };
}

static AT_COMMIT: AtomicBool = AtomicBool::new(false);
static mut COMMITTED: fn() = || {};

/// Runs `hook` when the running transaction has committed; nothing when it rolls back.
pub fn at_commit(hook: fn()) {
    static REGISTER: Once = Once::new();
    // SAFETY: one thread; the callback is of the type asked for and registered once.
    unsafe {
        COMMITTED = hook;
        REGISTER.call_once(|| pg_sys::RegisterXactCallback(Some(ended), std::ptr::null_mut()));
    }
    AT_COMMIT.store(true, Ordering::Relaxed);
}

extern "C-unwind" fn ended(event: pg_sys::XactEvent::Type, _argument: *mut core::ffi::c_void) {
    match event {
        // SAFETY: one thread; the hook was written in `at_commit` before the flag was set.
        pg_sys::XactEvent::XACT_EVENT_COMMIT if AT_COMMIT.swap(false, Ordering::Relaxed) => unsafe {
            COMMITTED()
        },
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => {
            AT_COMMIT.store(false, Ordering::Relaxed);
        }
        _ => {}
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::{run, value};

    fn raise(sqlstate: &str, message: &str) {
        run(&format!("do $$ begin raise '{message}' using errcode = '{sqlstate}', hint = 'a hint'; end $$"));
    }

    #[pg_test]
    fn a_failed_attempt_tells_its_error_and_undoes_its_work() {
        run("create temp table kept (number int)");
        let failure = attempt(|| {
            run("insert into kept values (1)");
            raise("22023", "some message");
        })
        .unwrap_err();
        assert_eq!((failure.sqlstate.as_str(), failure.message.as_str()), ("22023", "some message"));
        assert_eq!(failure.hint.as_deref(), Some("a hint"));
        assert!(!failure.out_of_time);
        assert_eq!(attempt(|| run("insert into kept values (2)")).map_err(|failure| failure.message), Ok(()));
        assert_eq!(value::<i32>("select sum(number)::int from kept"), 2);
    }

    /// pgrx knows the codes of PostgreSQL's errcodes.txt, and takes any other for an internal error.
    #[pg_test]
    fn a_sqlstate_that_pgrx_does_not_know_is_lost() {
        let failure = attempt(|| raise("BM001", "some message")).unwrap_err();
        assert_eq!((failure.sqlstate.as_str(), failure.message.as_str()), ("XX000", "some message"));
    }

    #[pg_test]
    fn attempts_are_nested() {
        run("create temp table kept (number int)");
        let inner = attempt(|| {
            let inner = attempt(|| {
                run("insert into kept values (1)");
                panic!("a panic");
            });
            run("insert into kept values (2)");
            inner.unwrap_err()
        })
        .unwrap();
        assert_eq!((inner.sqlstate.as_str(), inner.message.as_str()), ("XX000", "a panic"));
        assert_eq!(value::<i32>("select sum(number)::int from kept"), 2);
    }

    #[pg_test]
    fn an_attempt_leaves_memory_and_resources_as_they_were() {
        // SAFETY: reads backend-local state.
        let state = || unsafe {
            (
                pg_sys::CurrentMemoryContext,
                pg_sys::CurrentResourceOwner,
                pg_sys::GetCurrentTransactionNestLevel(),
            )
        };
        let before = state();
        assert!(attempt(|| ()).is_ok());
        assert_eq!(state(), before);
        assert!(attempt(|| raise("22012", "x")).is_err());
        assert_eq!(state(), before);
    }

    #[pg_test]
    fn a_cancel_and_a_lack_of_memory_end_the_statement() {
        for (sqlstate, goes_on_up) in [("57014", true), ("53200", true), ("57P03", false), ("22012", false)] {
            let outcome = attempt(|| attempt_unless_ended(|| raise(sqlstate, "x")));
            let is_inside = matches!(&outcome, Ok(Err(failure)) if failure.sqlstate == sqlstate);
            let is_outside = matches!(&outcome, Err(failure) if failure.sqlstate == sqlstate);
            assert_eq!((is_inside, is_outside), (!goes_on_up, goes_on_up), "{sqlstate}");
        }
    }

    #[pg_test]
    fn a_long_message_is_cut_between_characters() {
        let failure = attempt(|| raise("22012", &"ü".repeat(3000))).unwrap_err();
        assert_eq!(failure.message, "ü".repeat(LONGEST_MESSAGE));
    }

    #[pg_test]
    fn an_attempt_within_a_time_ends_with_it() {
        let failure = attempt_within(50, || run("select pg_sleep(60)")).unwrap_err();
        assert_eq!((failure.sqlstate.as_str(), failure.out_of_time), (QUERY_CANCELED, true));
        // Somebody's own cancel is none of the timeout's doing.
        let failure = attempt_within(60_000, || raise(QUERY_CANCELED, "x")).unwrap_err();
        assert!(!failure.out_of_time);
    }
}
