//! The torture finds what it is there to find: each rule of the sealed window, broken on purpose, is told within a
//! number of steps.

use crate::rig::schema::Entries;
use crate::rig::{Plan, Rig, settings};
use harness::Cluster;
use std::sync::OnceLock;

/// Steps within which a broken rule must be found, over as many seeds as it takes.
const STEPS: usize = 12_000;
const STEPS_A_SEED: usize = 1500;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&settings("0")))
}

/// The step and the finding, or `None` after all steps.
fn find(plan: Plan) -> Option<(usize, String)> {
    for seed in 1..=(STEPS / STEPS_A_SEED) {
        let mut rig = Rig::new(cluster(), seed as u64, plan);
        for step in 0..STEPS_A_SEED {
            if let Err(finding) = rig.step() {
                if std::env::var_os("BUSYMATE_RECENT").is_some() {
                    println!("{}", rig.recent());
                }
                return Some(((seed - 1) * STEPS_A_SEED + step, finding));
            }
        }
    }
    None
}

#[track_caller]
fn is_found(plan: Plan) -> String {
    let (step, finding) = find(plan).unwrap_or_else(|| panic!("not found in {STEPS} steps: {plan:?}"));
    println!("{}{} was found at step {step}: {finding:.300}", plan.mutants, plan.sabotage);
    assert!(!plan.sabotage.is_empty() || finding.contains("plain"), "not by a difference: {finding}");
    finding
}

/// One test for each variant, so that they run side by side and a missing one is named.
macro_rules! found {
    ($($name:ident: $mutants:literal,)*) => {
        $(#[test]
        fn $name() {
            is_found(Plan { mutants: $mutants, ..Plan::default() });
        })*
    };
}

found! {
    a_sealer_that_waits_for_no_writer: "NoDrain",
    a_sealer_that_looks_for_writers_after_its_snapshot: "LookInSnapshot",
    a_writer_that_reads_the_threshold_of_its_statement: "ThresholdOfStatement",
    writers_who_do_not_hear_of_a_threshold: "ThresholdUnpublished",
    // Either alone is made good by the other on a plain table.
    a_reader_that_sees_neither_rebuilds_nor_the_file: "RebuildOfStatement,LeafFileUnseen",
    a_state_that_holds_whatever_the_relation_is_like: "FingerprintUnseen",
    a_reader_that_takes_no_heed_of_markers: "MarkersUnseen",
    a_top_list_that_forgets_the_keys_outside_of_it: "LimitIgnored",
    a_reader_that_adds_late_changes_beyond_the_boundary: "LateBeyond",
    a_reader_that_leaves_out_late_changes_of_its_generation: "LateForgotten",
    a_reader_whose_copy_of_a_version_outlives_late_changes: "MovedBaseTrusted",
    a_piece_that_takes_changes_of_outer_subtransactions_along: "PieceOfParents",
    a_reader_that_adds_what_its_snapshot_is_too_old_for: "CommandIgnored",
    a_reader_that_forgets_what_its_transaction_has_noted: "OwnForgotten",
    a_pack_that_goes_with_its_first_change: "PackRemovedWhole",
    a_relation_whose_children_go_unnoticed: "ChildrenUnseen",
    a_call_inside_a_statement_answered_from_the_seal: "InsideStatement",
}

/// The same over partitioned entries; `scripts` brings about what the rule is about often enough.
macro_rules! found_in_tree {
    ($($name:ident: $mutants:literal, $scripts:literal,)*) => {
        $(#[test]
        fn $name() {
            let plan = Plan { entries: Entries::Tree, ddl: 60, scripts: $scripts, mutants: $mutants, ..Plan::default() };
            is_found(plan);
        })*
    };
}

found_in_tree! {
    partitions_whose_files_are_not_looked_at: "LeafFileUnseen", "truncate test.day1",
    a_partition_of_the_last_day_that_goes_unnoticed: "RecentLeafGone", "drop table test.day1",
    a_partition_with_rows_that_is_taken_for_empty: "FullLeafTrusted", "insert into test.day0",
    a_partition_that_has_gone_and_is_counted_still: "GoneLeafCounted", "drop table test.day3",
    late_changes_of_a_partition_that_has_gone: "GoneLeafNotIgnored", "drop table test.day3;; {seal}",
    a_new_file_that_was_emptied_in_place: "NewFileTrusted", "{old}; {old}; truncate test.day3",
    a_sealer_that_waits_for_no_writer_of_partitions: "NoDrain", "no script",
}

/// Its own trigger stays on a partition while it is away.
#[test]
fn a_partition_that_was_away_and_is_back() {
    is_found(Plan {
        entries: Entries::Mixed,
        ddl: 60,
        scripts: "insert into test.day0",
        mutants: "AwayUnseen",
        ..Plan::default()
    });
}

/// Had unsealing to update the state, and did more than leave a marker, whoever disables a trigger would wait for a sealer.
#[test]
fn an_unseal_that_updates_the_state() {
    let finding = is_found(Plan {
        sabotage: "create function test.unseal() returns event_trigger
                       language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
                   begin
                       update busymate_stats_internal.seal_state set epoch = epoch + 1
                        where exists (select from pg_event_trigger_ddl_commands() command
                                        join busymate_stats_internal.attachment a on a.entries = command.objid)
                          and exists (select from pg_trigger t where t.tgname like 'busymate%' and t.tgenabled <> 'A');
                   end $$;
                   create event trigger unseal on ddl_command_end when tag in ('ALTER TABLE') execute function test.unseal()",
        ddl: 100,
        scripts: "disable trigger",
        ..Plan::default()
    });
    assert!(finding.contains("lock timeout"), "not by waiting: {finding}");
}
