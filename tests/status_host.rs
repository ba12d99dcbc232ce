//! The host's figures are those that the kernel gives.

mod harness;

use harness::status::{install, quiet_cluster, refreshed};
use std::fs;

fn load_average() -> Vec<f64> {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').take(3).map(|number| number.parse().unwrap()).collect()
}

fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// The processors that are online, as ranges: `0-3,8`.
fn processors() -> f64 {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let count = |range: &str| -> usize {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<usize>().unwrap() - first.parse::<usize>().unwrap() + 1
    };
    text.trim().split(',').map(count).sum::<usize>() as f64
}

#[test]
fn they_agree_with_proc_read_at_the_same_moment() {
    let cluster = quiet_cluster(&[]);
    let mut client = install(&cluster, "host");
    let (load_before, uptime_before) = (load_average(), uptime());
    let snapshot = refreshed(&mut client);
    let (load_after, uptime_after) = (load_average(), uptime());
    let host = &snapshot["host"];
    for place in 0..3 {
        let (low, high) =
            (load_before[place].min(load_after[place]), load_before[place].max(load_after[place]));
        let load = host["load"][place].as_f64().unwrap();
        assert!(load >= low - 0.005 && load <= high + 0.005, "{load_before:?} {host} {load_after:?}");
    }
    let cpu = (host["load"][0].as_f64().unwrap() / processors()).min(1.0);
    assert!((host["cpu"].as_f64().unwrap() - cpu).abs() <= 0.0051, "{host}");
    let up = host["uptime"].as_f64().unwrap();
    assert!(up >= uptime_before.floor() && up <= uptime_after, "{uptime_before} {host} {uptime_after}");
    let total = host["mem"]["totalMb"].as_u64().unwrap();
    let used = host["mem"]["usedMb"].as_u64().unwrap();
    // A container's limit counts as the total; then what is used is the container's.
    let machine = meminfo("MemTotal");
    assert!(total > 0 && total <= machine && used <= total, "{host}");
    if total == machine {
        let expected = machine - meminfo("MemAvailable");
        assert!(used.abs_diff(expected) <= machine / 10, "{host}, and {expected} are used");
    }
}
