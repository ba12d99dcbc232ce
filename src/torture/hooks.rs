//! The torture's hooks. Its tests declare the functions for themselves: the install script knows nothing of them.

use super::Mutant;
use crate::fleet::sealed::sealer::{Ground, Step, Stride, move_threshold};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CString;

/// Names of [`Mutant`]s with commas between.
static MUTANTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// By how many milliseconds the sealer's clock was set ahead, or back.
static CLOCK_STEP: GucSetting<i32> = GucSetting::<i32>::new(0);

thread_local! {
    static WAYS: RefCell<BTreeMap<String, i64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Defines the torture's settings.
pub fn register() {
    GucRegistry::define_string_guc(
        c"busymate_stats.mutants",
        c"The rules that are broken on purpose.",
        c"",
        &MUTANTS,
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

/// Remembers which way an answer was come by.
pub fn note_way<T>(answer: &Result<T, String>) {
    let way = match answer {
        Ok(_) => "sealed".to_owned(),
        Err(reason) => reason.clone(),
    };
    WAYS.with_borrow_mut(|ways| *ways.entry(way).or_default() += 1);
}

/// Which ways this session's answers were come by, and how often, since the last call.
#[pg_extern]
fn torture_ways() -> pgrx::JsonB {
    pgrx::JsonB(serde_json::json!(WAYS.take()))
}

/// One step of the sealer in the running transaction, which must be REPEATABLE READ and hold the sealer's locks since
/// before its snapshot: `threshold`, `look`, or `seal` in chunks of `stride` microseconds.
#[pg_extern]
fn torture_step(step: &str, stride: i64) -> String {
    let outcome = Ground::take().map(|ground| match step {
        "threshold" => move_threshold(),
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
