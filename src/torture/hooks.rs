//! The torture's hooks. Its tests declare the functions for themselves: the install script knows nothing of them.

use super::Mutant;
use crate::fleet::roster;
use crate::fleet::sealed::sealer::{Ground, Step, Stride, move_threshold_of};
use crate::pg::identity::transaction_id;
use crate::pg::relation::MESSAGES_COME_IN;
use crate::pg::setting;
use crate::pg::thresholds::Threshold;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};

/// Names of [`Mutant`]s with commas between.
static MUTANTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// By how many milliseconds the sealer's clock was set ahead, or back.
static CLOCK_STEP: GucSetting<i32> = GucSetting::<i32>::new(0);

thread_local! {
    static KEPT: Cell<Option<(u32, Threshold)>> = const { Cell::new(None) };
    static WAYS: RefCell<BTreeMap<String, i64>> = const { RefCell::new(BTreeMap::new()) };
    static ROSTER_WAYS: RefCell<BTreeMap<String, i64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Defines the torture's settings.
pub fn register() {
    setting::define(
        c"busymate_stats.torture_roster_ground",
        c"Takes what the roster's sealer takes before its snapshot.",
        show_roster_ground,
    );
    GucRegistry::define_string_guc(
        c"busymate_stats.mutants",
        c"The rules that are broken on purpose.",
        c"",
        &MUTANTS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"busymate_stats.messages_come_in",
        c"Whether another session's message about a relation comes in wherever it could.",
        c"",
        &MESSAGES_COME_IN,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"busymate_stats.clock_step",
        c"By how much the sealer's clock was set ahead, or back.",
        c"",
        &CLOCK_STEP,
        i32::MIN,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
}

/// The clock that the sealer goes by.
pub fn clock() -> i64 {
    pgrx::datetime::clock_timestamp().into_inner() + i64::from(CLOCK_STEP.get()) * 1000
}

/// Whether a rule is broken.
pub fn broken(mutant: Mutant) -> bool {
    let name = format!("{mutant:?}");
    MUTANTS.get().is_some_and(|mutants| mutants.to_string_lossy().split(',').any(|one| one.trim() == name))
}

/// What `read` gave first in the running transaction.
pub fn kept_for_transaction(read: impl FnOnce() -> Threshold) -> Threshold {
    let transaction = transaction_id();
    if let Some((_, kept)) = KEPT.get().filter(|(of, _)| *of == transaction) {
        return kept;
    }
    let read = read();
    KEPT.set(Some((transaction, read)));
    read
}

/// Remembers which way an answer was come by.
pub fn note_way<T>(answer: &Result<T, String>) {
    let way = match answer {
        Ok(_) => "sealed".to_owned(),
        Err(reason) => reason.clone(),
    };
    WAYS.with_borrow_mut(|ways| *ways.entry(way).or_default() += 1);
}

/// The same of how the devices' figures were come by.
pub fn note_roster_way(answer: &Result<(), roster::reader::Missing>) {
    let way = match answer {
        Ok(()) => "counted".to_owned(),
        Err(missing) => missing.to_string(),
    };
    ROSTER_WAYS.with_borrow_mut(|ways| *ways.entry(way).or_default() += 1);
}

/// Which ways this session's answers were come by, and how often, since the last call.
#[pg_extern(sql = false)]
fn torture_ways() -> pgrx::JsonB {
    pgrx::JsonB(serde_json::json!(WAYS.take()))
}

/// One step of the sealer in the running transaction, which must be REPEATABLE READ and hold the sealer's locks since
/// before its snapshot: `threshold`, `look`, or `seal` in chunks of `stride` microseconds.
#[pg_extern(sql = false)]
fn torture_step(step: &str, stride: i64) -> String {
    let outcome = Ground::take().map(|ground| match step {
        "threshold" => move_threshold_of(&ground),
        "look" => ground.look(),
        _ => ground.seal(&mut Stride::of(stride)),
    });
    match outcome {
        Ok(Step::Moved) => "moved".into(),
        Ok(Step::Done) | Err(Step::Done) => "done".into(),
        Ok(Step::Waits(reason)) | Err(Step::Waits(reason)) => reason,
        Err(Step::Moved) => unreachable!("taking the ground moves nothing"),
    }
}

/// Which ways this session's figures of devices were come by, and how often, since the last call.
#[pg_extern(sql = false)]
fn torture_roster_ways() -> pgrx::JsonB {
    pgrx::JsonB(serde_json::json!(ROSTER_WAYS.take()))
}

thread_local! {
    static ROSTER_GROUND: RefCell<Option<Result<roster::sealer::Ground, Step>>> = const { RefCell::new(None) };
}

/// Takes what the roster's sealer takes before its snapshot. A setting, since SHOW needs no snapshot.
#[pg_guard]
extern "C-unwind" fn show_roster_ground() -> *const c_char {
    let ground = roster::sealer::Ground::take();
    let outcome = match &ground {
        Ok(_) => "taken".to_owned(),
        Err(step) => told(step.clone()),
    };
    ROSTER_GROUND.set(Some(ground));
    setting::palloc_string(&outcome)
}

/// One step of the roster's sealer, on the ground taken last: `threshold`, `look` or `count`.
#[pg_extern(sql = false)]
fn torture_roster_step(step: &str) -> String {
    let Some(ground) = ROSTER_GROUND.take() else {
        return "no ground".into();
    };
    let outcome = ground.map(|ground| match step {
        "threshold" => ground.move_threshold(),
        "look" => ground.look(),
        "tick" => ground.step().unwrap_or(Step::Done),
        _ => ground.count(),
    });
    told(outcome.unwrap_or_else(|step| step))
}

fn told(step: Step) -> String {
    match step {
        Step::Moved => "moved".into(),
        Step::Done => "done".into(),
        Step::Waits(reason) => reason,
    }
}
