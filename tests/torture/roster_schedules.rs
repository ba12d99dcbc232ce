//! Promise: whatever happens to devices in whatever order, what is counted of them is what the plain query gives, under
//! every snapshot; and a rule of the roster that is broken on purpose is found. A seed (BUSYMATE_SEED) and a number of
//! steps (BUSYMATE_STEPS) say which random schedule.

use crate::roster_rig::{Rig, SETTINGS};
use harness::Cluster;
use std::sync::OnceLock;

/// Steps within which a broken rule must be found, over as many seeds as it takes.
const STEPS: u64 = 12_000;
const STEPS_A_SEED: u64 = 1500;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(SETTINGS))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

fn run(boolean: bool) {
    let seed = number("BUSYMATE_SEED").unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
    });
    let steps = number("BUSYMATE_STEPS").unwrap_or(1500);
    let mut rig = Rig::new(cluster(), seed, boolean, "");
    for step in 0..steps {
        if let Err(finding) = rig.step() {
            panic!("seed {seed}, step {step}: {finding}\nbefore it:\n{}", rig.recent());
        }
    }
    let (whole, some) = rig.counted_shares();
    println!("seed {seed}: {steps} steps, {} comparisons, {some}% answered from the count", rig.comparisons);
    println!("{:#?}", rig.ways);
    assert!(
        whole >= 25 && some >= 40,
        "only {whole}% and {some}% of the answers came from the count, so little is proved"
    );
}

#[test]
fn the_count_and_the_plain_query_agree_step_by_step() {
    run(false);
}

#[test]
fn they_agree_where_a_column_says_who_is_online() {
    run(true);
}

#[track_caller]
fn is_found(mutant: &str) {
    for seed in 1..=STEPS / STEPS_A_SEED {
        let mut rig = Rig::new(cluster(), seed, false, mutant);
        for step in 0..STEPS_A_SEED {
            if let Err(finding) = rig.step() {
                let step = (seed - 1) * STEPS_A_SEED + step;
                println!("{mutant} was found at step {step}: {finding:.300}");
                assert!(
                    finding.contains("plain") || finding.contains(" is not "),
                    "not by a difference: {finding}"
                );
                return;
            }
        }
    }
    panic!("not found in {STEPS} steps: {mutant}");
}

/// One test for each variant, so that they run side by side and a missing one is named.
macro_rules! found {
    ($($name:ident: $mutant:literal,)*) => {
        $(#[test]
        fn $name() {
            is_found($mutant);
        })*
    };
}

found! {
    a_sealer_that_waits_for_no_writer: "RosterNoDrain",
    a_writer_that_keeps_the_threshold: "RosterThresholdKept",
    a_count_that_holds_whatever_the_file: "RosterFileUnseen",
    a_count_that_holds_though_the_trigger_was_off: "RosterTriggerUnseen",
    a_reader_that_takes_any_moment: "RosterMomentUnchecked",
    a_reader_that_leaves_out_changes: "RosterChangesForgotten",
    a_call_inside_a_statement_answered_from_the_count: "InsideStatement",
}
