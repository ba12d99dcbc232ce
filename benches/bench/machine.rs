//! Where and what was measured.

use crate::measure::note;
use crate::report::{Report, grouped};
use crate::{Plan, server};
use harness::{Cluster, value};
use std::fs;
use std::process::Command;

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The machine's memory, in MiB.
pub fn memory_mb() -> u64 {
    read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(4096, |kib| kib / 1024)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn processor() -> String {
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or_else(|| "unknown".into(), |rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn output(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// The disk that the fleets take, in kB: a table of entries and its index take some 200 bytes a row, the plain ones in
/// the ingest rows a few gigabytes, the WAL up to its limit.
pub fn room(plan: &Plan) -> u64 {
    plan.sizes.iter().sum::<u64>() / 5 + plan.pick(16_000_000, 4_000_000)
}

/// Ends here when the temporary directory's disk has less than `needed` kB left.
pub fn require_room(needed: u64) {
    let directory = std::env::temp_dir();
    let shown = output("df", &["-Pk", &directory.display().to_string()]);
    let Some(free) =
        shown.lines().last().and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok())
    else {
        note("cannot tell how much room there is");
        return;
    };
    assert!(
        free > needed,
        "{} has {} MB free, and this needs {} MB. Set TMPDIR to a directory on a larger disk.",
        directory.display(),
        grouped((free / 1000) as i64),
        grouped((needed / 1000) as i64)
    );
}

/// What else the machine was doing. The benchmark itself keeps up to five processes busy, so only the start accuses.
pub fn load_average(when: &str, report: &mut Report) {
    let shown = read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let busy =
        shown.split(' ').next().and_then(|load| load.parse::<f64>().ok()).is_some_and(|load| load > 0.5);
    let verdict =
        if when == "start" && busy { ": **the machine was not quiet, do not quote this**" } else { "" };
    report.fact(&format!("load average at the {when} (1, 5, 15 minutes)"), format!("{shown}{verdict}"));
}

/// What stands before the table.
pub fn describe(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    let mut client = cluster.connect("postgres");
    let now: String = value(
        &mut client,
        "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC'",
    );
    let version: String = value(&mut client, "select version()");
    client.batch_execute("load 'busymate_stats'").unwrap();
    let launcher: serde_json::Value =
        value(&mut client, "select current_setting('busymate_stats.launcher_state')::jsonb");
    let library = launcher["library_version"].as_str().unwrap_or("unknown").to_owned();
    let commit = output("git", &["describe", "--always", "--dirty"]);
    report.fact("date", now);
    report.fact(
        "machine",
        format!(
            "{}, {} cores, {} MiB of memory, {}",
            processor(),
            cores(),
            memory_mb(),
            output("uname", &["-sr"])
        ),
    );
    load_average("start", report);
    report.fact("server", version);
    report.fact("library", format!("busymate_stats {library}, {commit}"));
    report.fact("settings", format!("{}; autovacuum on, wal_level logical", server::settings().join(", ")));
    let sizes: Vec<_> = plan.sizes.iter().map(|size| grouped(*size as i64)).collect();
    report.fact(
        "data",
        format!(
            "{} entries in time order over 30 days, 10 % of them in the last day; 1,000 devices, 5,000 hosts (Zipf), 5 sources",
            sizes.join(" and ")
        ),
    );
    report.fact(
        "figures",
        "medians, with least–most and the number of samples; one client unless said otherwise, over a Unix socket, the round trip included",
    );
    if plan.quick {
        report.fact("note", "a quick run: too short to be quoted");
    }
}
