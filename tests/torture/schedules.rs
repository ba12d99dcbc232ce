//! Whatever happens in whatever order, what is read from the seal is what the plain query gives, under every snapshot,
//! and no writer waits. A seed (BUSYMATE_SEED) and a number of steps (BUSYMATE_STEPS) say which random schedule.

use crate::rig::schema::Entries;
use crate::rig::{Plan, Rig, settings};
use harness::Cluster;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

fn seed() -> u64 {
    number("BUSYMATE_SEED").unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
    })
}

#[track_caller]
fn run(rig: &mut Rig, seed: u64, steps: u64) {
    run_with_share(rig, seed, steps, 40);
}

/// `least` of a hundred answers come from the seal; half as many in a run that was asked to be short, of which one count
/// of everything at a bad moment is a large part.
#[track_caller]
fn run_with_share(rig: &mut Rig, seed: u64, steps: u64, least: i64) {
    let short = number("BUSYMATE_STEPS").is_some_and(|steps| steps < 1500);
    let least = if short { least / 2 } else { least };
    for step in 0..steps {
        if let Err(finding) = rig.step() {
            panic!("seed {seed}, step {step}: {finding}\nbefore it:\n{}", rig.recent());
        }
    }
    if let Err(finding) = rig.finish_decoding() {
        panic!("seed {seed}, at the end: {finding}\nbefore it:\n{}", rig.recent());
    }
    let share = rig.sealed_share();
    println!("seed {seed}: {steps} steps, {} comparisons, {share}% answered from the seal", rig.comparisons);
    println!("{:#?}", rig.ways);
    assert!(share >= least, "only {share}% of the answers came from the seal, so little is proved");
}

#[test]
fn the_seal_and_the_plain_query_agree_step_by_step() {
    let seed = seed();
    let cluster = Cluster::start(&settings("0"));
    let mut rig = Rig::new(&cluster, seed, Plan::default());
    run(&mut rig, seed, number("BUSYMATE_STEPS").unwrap_or(1500));
}

#[test]
fn the_seal_and_the_plain_query_agree_over_partitions() {
    let seed = seed();
    let cluster = Cluster::start(&settings("0"));
    let mut rig = Rig::new(&cluster, seed, Plan { entries: Entries::Tree, ddl: 12, ..Plan::default() });
    run(&mut rig, seed, number("BUSYMATE_STEPS").unwrap_or(1500));
}

/// Old partitions are heap under another name, which is another access method all the same; each write into one has everything
/// counted anew.
#[test]
fn the_seal_and_the_plain_query_agree_over_other_access_methods() {
    let seed = seed();
    let cluster = Cluster::start(&settings("0"));
    let mut rig = Rig::new(&cluster, seed, Plan { entries: Entries::Mixed, ddl: 12, ..Plan::default() });
    run_with_share(&mut rig, seed, number("BUSYMATE_STEPS").unwrap_or(1500), 8);
}

/// A hypertable of the real TimescaleDB, where it is installed.
#[test]
fn the_seal_and_the_plain_query_agree_over_chunks() {
    if !harness::has_extension("timescaledb") {
        harness::left_out("a schedule over a hypertable: no TimescaleDB is installed");
        return;
    }
    let seed = seed();
    let libraries =
        "shared_preload_libraries = 'timescaledb, busymate_stats'\ntimescaledb.telemetry_level = off";
    let cluster = Cluster::start(&format!("{}\n{libraries}\nmax_worker_processes = 20", settings("0")));
    let mut rig = Rig::new(&cluster, seed, Plan { entries: Entries::Chunks, ..Plan::default() });
    // A late row that makes a chunk has everything counted anew.
    run_with_share(&mut rig, seed, number("BUSYMATE_STEPS").unwrap_or(1500), 20);
}

/// What logical decoding delivers, by every output plugin, is what the tables hold, and nothing of ours.
#[test]
fn what_is_decoded_gives_the_same_rows() {
    let seed = seed();
    let cluster = Cluster::start(&settings("0"));
    let mut rig = Rig::new(&cluster, seed, Plan { decode: true, ..Plan::default() });
    run(&mut rig, seed, number("BUSYMATE_STEPS").unwrap_or(1500));
}

/// Half of the steps with a publication that names the partitions, half with one that names the root.
#[test]
fn what_is_decoded_of_partitions_gives_the_same_rows() {
    let seed = seed();
    let cluster = Cluster::start(&settings("0"));
    for via_root in [false, true] {
        println!("publish_via_partition_root = {via_root}");
        let plan = Plan { entries: Entries::Tree, ddl: 12, decode: true, via_root, ..Plan::default() };
        run(&mut Rig::new(&cluster, seed, plan), seed, number("BUSYMATE_STEPS").unwrap_or(1500) / 2);
    }
}

/// The worker seals too, processes die, and a standby is read until it takes over.
#[test]
fn the_seal_survives_crashes_and_promotion() {
    let seed = seed();
    let cluster = Cluster::start(&settings("1s"));
    let mut rig = Rig::new(
        &cluster,
        seed,
        Plan {
            disasters: 10,
            entries: if seed % 2 == 1 { Entries::Tree } else { Entries::Table },
            ..Plan::default()
        },
    );
    rig.follow(cluster.standby());
    run(&mut rig, seed, number("BUSYMATE_STEPS").unwrap_or(1500) / 3);
    if let Err(finding) = rig.promote() {
        panic!("seed {seed}, promoted: {finding}\nbefore it:\n{}", rig.recent());
    }
}
