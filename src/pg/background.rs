//! Background workers: registering, starting, ending them, and how they wait.

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

#[cfg(not(feature = "pg18"))]
use pg_sys::pqsignal;
// The name that port.h gives a server's own.
#[cfg(feature = "pg18")]
use pg_sys::pqsignal_be as pqsignal;

const LIBRARY: &CStr = c"busymate_stats";
const LAUNCHER_FUNCTION: &CStr = c"busymate_stats_launcher";
const WORKER_FUNCTION: &CStr = c"busymate_stats_worker";

/// What the processes run. PostgreSQL finds their main functions by symbol, which only this room may export.
pub struct Mains {
    /// The permanent process.
    pub launcher: fn(),
    /// A process that [`start`] started, with its argument.
    pub worker: fn(u64),
}

static MAINS: OnceLock<Mains> = OnceLock::new();

/// Says what the processes run. Called in every process that loads the library.
pub fn set_mains(mains: Mains) {
    // The library is loaded once per process.
    let _ = MAINS.set(mains);
}

// SAFETY: the names are this library's own.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn busymate_stats_launcher(_argument: pg_sys::Datum) {
    if let Some(mains) = MAINS.get() {
        (mains.launcher)();
    }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn busymate_stats_worker(argument: pg_sys::Datum) {
    if let Some(mains) = MAINS.get() {
        (mains.worker)(argument.value() as u64);
    }
}

fn fill(place: &mut [c_char], text: &CStr) {
    // One byte stays for the NUL; the struct was zeroed.
    for (to, from) in place.iter_mut().zip(text.to_bytes()).take(95) {
        *to = *from as c_char;
    }
}

fn describe(kind: &CStr, function: &CStr, restart_seconds: c_int, argument: u64) -> pg_sys::BackgroundWorker {
    // SAFETY: a struct of numbers and character arrays, for which zero is a valid value.
    let mut worker: pg_sys::BackgroundWorker = unsafe { std::mem::zeroed() };
    fill(&mut worker.bgw_name, kind);
    fill(&mut worker.bgw_type, kind);
    fill(&mut worker.bgw_library_name, LIBRARY);
    fill(&mut worker.bgw_function_name, function);
    worker.bgw_flags =
        (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int;
    // Not on a standby: there the first one starts after promotion.
    worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = restart_seconds;
    worker.bgw_main_arg = pg_sys::Datum::from(argument as usize);
    worker
}

/// Whether the server is loading its preloaded libraries, and is not being upgraded.
pub fn is_preloading() -> bool {
    // SAFETY: reads variables that the postmaster sets before it loads any library.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade }
}

/// Has the postmaster keep a process that runs [`Mains::launcher`], from recovery's end on, and start it again a second after it
/// ends. Only while [`is_preloading`].
pub fn register_launcher(kind: &CStr) {
    let mut worker = describe(kind, LAUNCHER_FUNCTION, 1, 0);
    // SAFETY: the struct is complete, and copied by the call.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

/// A worker that was started by this process.
pub struct Worker(*mut pg_sys::BackgroundWorkerHandle);

/// Starts a process that runs [`Mains::worker`] with `argument` once. `None` when no slot is free.
pub fn start(kind: &CStr, argument: u64) -> Option<Worker> {
    let mut worker = describe(kind, WORKER_FUNCTION, pg_sys::BGW_NEVER_RESTART, argument);
    let mut handle = std::ptr::null_mut();
    // SAFETY: the struct is complete, and copied by the call. The handle is palloc'ed in the current memory context,
    // which for the launcher is TopMemoryContext between transactions; `Worker::drop` frees it.
    unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let started = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
        pg_sys::MemoryContextSwitchTo(context);
        // Not `then_some`: it would make, and drop, a worker without a handle.
        started.then(|| Worker(handle))
    }
}

impl Worker {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle came from RegisterDynamicBackgroundWorker.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        matches!(
            status,
            pg_sys::BgwHandleStatus::BGWH_STOPPED | pg_sys::BgwHandleStatus::BGWH_POSTMASTER_DIED
        )
    }

    /// Its process; `None` before it has started and after it has ended.
    pub fn process(&self) -> Option<i32> {
        let mut pid = 0;
        // SAFETY: as above.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        (status == pg_sys::BgwHandleStatus::BGWH_STARTED).then_some(pid)
    }

    /// Asks it to end now, whatever it is doing.
    pub fn terminate(&self) {
        // SAFETY: as above.
        unsafe { pg_sys::TerminateBackgroundWorker(self.0) };
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: palloc'ed in `start`, and not used after this.
        unsafe { pg_sys::pfree(self.0.cast()) };
    }
}

/// How a process takes SIGTERM.
pub enum OnTerminate {
    /// A flag, seen by [`shutdown_requested`]: for a process whose every step is short.
    Flag,
    /// The running query is ended, and the process with it.
    EndQuery,
}

// PostgreSQL's own handlers, as they are: pgrx's bindings wrap them in code that does not belong into a signal handler.
unsafe extern "C-unwind" {
    fn die(signal: c_int);
    fn SignalHandlerForShutdownRequest(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
}

/// Sets the signal handlers up, and connects to a database, or to none for the shared catalogs alone.
pub fn begin(on_terminate: OnTerminate, database: Option<pg_sys::Oid>) {
    // SAFETY: called first thing in a worker's main function, with signals still blocked. The handlers are PostgreSQL's
    // own.
    unsafe {
        let terminate: unsafe extern "C-unwind" fn(c_int) = match on_terminate {
            OnTerminate::Flag => SignalHandlerForShutdownRequest,
            OnTerminate::EndQuery => die,
        };
        pqsignal(pg_sys::SIGTERM as c_int, Some(terminate));
        pqsignal(pg_sys::SIGHUP as c_int, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            database.unwrap_or(pg_sys::InvalidOid),
            pg_sys::InvalidOid,
            0,
        );
    }
}

/// Whether SIGTERM came, for [`OnTerminate::Flag`].
pub fn shutdown_requested() -> bool {
    // SAFETY: reads a flag that a signal handler sets.
    unsafe { pg_sys::ShutdownRequestPending != 0 }
}

/// Ends the process so that the postmaster starts it again: 0 would mean never.
pub fn exit_to_be_restarted() -> ! {
    // SAFETY: ends the process through its exit callbacks; nothing of ours is held.
    unsafe { pg_sys::proc_exit(1) };
    // The bindings of PostgreSQL 18 do not say that it never returns.
    #[allow(unreachable_code)]
    {
        unreachable!("proc_exit() does not return")
    }
}

/// Sleeps until somebody sets the latch, or for so long; then serves interrupts, and reads the configuration when it was
/// reloaded.
pub fn wait(milliseconds: i64) {
    pause(milliseconds);
    // SAFETY: called between transactions, where the configuration may change.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// [`wait`] for any session, inside a statement too: the configuration stays as it is.
pub fn pause(milliseconds: i64) {
    // SAFETY: called with no lightweight lock held, so an interrupt may end the statement or the process here.
    unsafe {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        pg_sys::WaitLatch(pg_sys::MyLatch, events as c_int, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        pg_sys::check_for_interrupts!();
    }
}

/// Ends the process here when it was asked to end, and answers to barriers.
pub fn serve_interrupts() {
    // SAFETY: called between transactions, with no lock held.
    pg_sys::check_for_interrupts!();
}

/// This process.
pub fn my_pid() -> i32 {
    // SAFETY: a backend-local variable, set at the start of every process.
    unsafe { pg_sys::MyProcPid }
}

/// `max_worker_processes`.
pub fn max_workers() -> usize {
    // SAFETY: a setting that is fixed at server start.
    unsafe { pg_sys::max_worker_processes as usize }
}

/// Sets a setting for this process alone, over whatever ALTER DATABASE or ALTER ROLE say.
pub fn override_setting(name: &CStr, value: &CStr) {
    // SAFETY: both strings end with NUL; the process runs as a superuser.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Has this process belong to the role that a background worker belongs to when nobody says otherwise, the one that initdb
/// has made: ALTER DATABASE may set `session_authorization`.
pub fn belong_to_first_superuser() {
    // SAFETY: called between transactions; roles are looked up, and the setting is checked, inside one. The name ends with
    // NUL.
    unsafe {
        pg_sys::StartTransactionCommand();
        let name = pg_sys::GetUserNameFromId(pg_sys::BOOTSTRAP_SUPERUSERID.into(), false);
        override_setting(c"session_authorization", CStr::from_ptr(name));
        pg_sys::CommitTransactionCommand();
    }
}

/// Runs `hook` when this process ends, as long as shared memory is still there.
pub fn at_exit(hook: unsafe extern "C-unwind" fn(c_int, pg_sys::Datum)) {
    // SAFETY: the hook lives as long as the process.
    unsafe { pg_sys::before_shmem_exit(Some(hook), pg_sys::Datum::null()) };
}
