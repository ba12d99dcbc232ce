//! The host's figures are those that the kernel gives.

use harness::status::{component, install, quiet_cluster, refreshed, watch_url};
use harness::value;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
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

/// Gives this thread, and what it starts, a /proc that shows processes alone.
fn hide_all_but_processes() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, Some("subset=pid"))
}

/// Hardened services and containers mount it so. It takes root to try; the unit tests of `host.rs` do without.
#[test]
fn what_proc_does_not_show_is_named_and_the_rest_is_published() {
    if let Err(error) = hide_all_but_processes() {
        eprintln!("not tried: a mount namespace of our own was refused: {error}");
        return;
    }
    assert!(!fs::exists("/proc/loadavg").unwrap(), "hidden");
    let cluster = quiet_cluster(&[]);
    let mut client = install(&cluster, "subset");
    watch_url(&mut client, "web", &harness::listeners::answering("HTTP/1.1 200 OK\r\n\r\n"));
    let snapshot = refreshed(&mut client);
    assert_eq!(
        (&snapshot["overall"], &component(&snapshot, "web")["probe"]["up"]),
        (&"ok".into(), &true.into())
    );
    let host = &snapshot["host"];
    assert!(host["uptime"].as_u64().unwrap() > 0 && host["load"][2].is_number() && host["cpu"].is_number());
    assert!(host["mem"]["totalMb"].as_u64().unwrap() > 0, "{host}");
    let said =
        "select detail ->> 'unknown' from busymate_stats.health where feed = 'status' and last_error is null";
    let unknown: Option<String> = value(&mut client, said);
    // A cgroup's limit is told elsewhere, and what its processes use.
    assert_eq!(host["mem"]["usedMb"].is_null(), unknown.is_some(), "{host}");
    if let Some(unknown) = unknown {
        assert!(unknown.starts_with("host.mem.usedMb is not known: "), "{unknown}");
    }
    // A reporter elsewhere has the figure, and then nothing is unknown.
    let report = r#"{"host": {"cpu": 0, "load": [0, 0, 0], "mem": {"usedMb": 1, "totalMb": 2}, "uptime": 1},
                     "components": [{"key": "a", "label": "A", "probe": {"up": true, "httpStatus": 200, "latencyMs": 1},
                                     "unitState": null}]}"#;
    client.execute("select public.report_status($1::text::jsonb)", &[&report]).unwrap();
    assert_eq!(value::<Option<String>>(&mut client, said), None);
    assert_eq!(harness::status::snapshot(&mut client)["components"][0].get("unitState"), None);
}
