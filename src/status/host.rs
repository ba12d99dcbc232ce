//! The machine that the server runs on: its load, memory and uptime.

use super::snapshot::{Host, Memory};
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{SysconfVar, sysconf};
use procfs::process::Process;
use procfs::{FromRead, LoadAverage, Meminfo, Uptime};
use std::fs;
use std::path::Path;

/// Where the kernel shows its figures, and where cgroup v2 is mounted.
const PROC: &str = "/proc";
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// What is known of the machine.
pub struct Reading {
    /// Its figures.
    pub host: Host,
    /// Which of them are null, and why.
    pub unknown: Option<String>,
}

/// The figures of this machine at this moment, or why they cannot be had.
pub fn this_host() -> Result<Reading, String> {
    read(Path::new(PROC), Path::new(CGROUP_ROOT), &own_cgroup())
}

/// Where /proc shows processes alone (`subset=pid`), sysinfo(2) has all but one figure: what memory is available.
fn read(proc: &Path, cgroup_root: &Path, cgroup: &str) -> Result<Reading, String> {
    let kernel = sysinfo().map_err(|error| format!("could not read the host's figures: {error}"))?;
    let load = match LoadAverage::from_file(proc.join("loadavg")) {
        Ok(load) => [load.one, load.five, load.fifteen].map(f64::from),
        Err(_) => kernel.load_average().into(),
    };
    let load = load.map(in_hundredths);
    let uptime = match Uptime::from_file(proc.join("uptime")) {
        Ok(uptime) => uptime.uptime as u64,
        // sysinfo(2) rounds up.
        Err(_) => kernel.uptime().as_secs().saturating_sub(1),
    };
    let meminfo = Meminfo::from_file(proc.join("meminfo"));
    let machine = match &meminfo {
        Ok(meminfo) => Machine::of(meminfo),
        Err(_) => Machine { total: kernel.ram_total(), used: None },
    };
    let mem = memory(&machine, cgroup_root, cgroup);
    let unknown = match (mem.used_mb, meminfo) {
        (None, Err(error)) => Some(format!("host.mem.usedMb is not known: {error}")),
        _ => None,
    };
    Ok(Reading { host: Host { cpu: busy(load[0], processors()), load, mem, uptime }, unknown })
}

fn in_hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The load per processor, as a fraction that is never more than 1.
fn busy(load: f64, processors: u64) -> f64 {
    in_hundredths((load / processors.max(1) as f64).clamp(0.0, 1.0))
}

fn processors() -> u64 {
    sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().map_or(1, |count| count.max(1) as u64)
}

/// This process's group in the cgroup v2 hierarchy; the root where it is in none.
fn own_cgroup() -> String {
    let groups = Process::myself().and_then(|process| process.cgroups());
    let unified = groups.ok().and_then(|groups| groups.into_iter().find(|group| group.hierarchy == 0));
    unified.map_or_else(|| "/".to_owned(), |group| group.pathname)
}

/// The machine's memory in bytes.
struct Machine {
    total: u64,
    used: Option<u64>,
}

impl Machine {
    fn of(meminfo: &Meminfo) -> Self {
        let available = meminfo.mem_available.unwrap_or(meminfo.mem_free);
        Self { total: meminfo.mem_total, used: Some(meminfo.mem_total.saturating_sub(available)) }
    }
}

/// The machine's memory, or what the narrowest cgroup limit leaves of it.
fn memory(machine: &Machine, cgroup_root: &Path, cgroup: &str) -> Memory {
    let (used, total) = match narrowest_limit(cgroup_root, cgroup) {
        Some(group) if group.limit < machine.total => (Some(group.used.min(group.limit)), group.limit),
        _ => (machine.used, machine.total),
    };
    Memory { used_mb: used.map(|used| used >> 20), total_mb: total >> 20 }
}

struct Group {
    limit: u64,
    used: u64,
}

/// The group with the smallest limit, from `cgroup` up to the root. What it could give back at once, the inactive part
/// of its page cache, does not count as used.
fn narrowest_limit(root: &Path, cgroup: &str) -> Option<Group> {
    let group = root.join(cgroup.trim_start_matches('/'));
    let mut narrowest: Option<Group> = None;
    for directory in group.ancestors().take_while(|directory| directory.starts_with(root)) {
        // "max", where there is no limit, is no number.
        let Some(limit) = read_number(&directory.join("memory.max")) else {
            continue;
        };
        if narrowest.as_ref().is_none_or(|narrowest| limit < narrowest.limit) {
            let current = read_number(&directory.join("memory.current")).unwrap_or(0);
            let used = current.saturating_sub(inactive_file(directory));
            narrowest = Some(Group { limit, used });
        }
    }
    narrowest
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn inactive_file(directory: &Path) -> u64 {
    let statistics = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let value = statistics.lines().find_map(|line| line.strip_prefix("inactive_file "));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const MIB: u64 = 1 << 20;

    /// 8 GiB, of which 6 GiB are available.
    fn machine() -> Meminfo {
        let mut text = String::from("MemTotal: 8388608 kB\nMemFree: 1048576 kB\nMemAvailable: 6291456 kB\n");
        for key in [
            "Buffers",
            "Cached",
            "SwapCached",
            "Active",
            "Inactive",
            "SwapTotal",
            "SwapFree",
            "Dirty",
            "Writeback",
            "Mapped",
            "Slab",
            "Committed_AS",
            "VmallocTotal",
            "VmallocUsed",
            "VmallocChunk",
        ] {
            text.push_str(&format!("{key}: 0 kB\n"));
        }
        Meminfo::from_read(text.as_bytes()).unwrap()
    }

    /// A folder in the shape of a cgroup v2 mount.
    struct Mount(PathBuf);

    impl Mount {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("busymate-cgroup-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn memory(&self, cgroup: &str) -> Memory {
            memory(&Machine::of(&machine()), &self.0, cgroup)
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const WHOLE_MACHINE: Memory = Memory { used_mb: Some(2048), total_mb: 8192 };

    #[test]
    fn without_a_limit_the_machine_counts() {
        let mount = Mount::new("none", &[("a/memory.max", "max\n"), ("a/memory.current", "5\n")]);
        assert_eq!(mount.memory("/a"), WHOLE_MACHINE);
        assert_eq!(mount.memory("/missing/group"), WHOLE_MACHINE);
        assert_eq!(mount.memory("/"), WHOLE_MACHINE);
    }

    #[test]
    fn a_limit_is_the_total_and_cache_that_can_go_is_not_used() {
        let current = (900 * MIB).to_string();
        let statistics = format!("anon 1\ninactive_file {}\nactive_file 77\n", 300 * MIB);
        let limit = format!("{}\n", 1024 * MIB);
        let mount = Mount::new(
            "limit",
            &[("memory.max", &limit), ("memory.current", &current), ("memory.stat", &statistics)],
        );
        assert_eq!(mount.memory("/"), Memory { used_mb: Some(600), total_mb: 1024 });
    }

    #[test]
    fn the_narrowest_limit_on_the_way_up_counts() {
        let (wide, narrow, used) =
            ((4096 * MIB).to_string(), (2048 * MIB).to_string(), (1000 * MIB).to_string());
        let files = [
            ("a/memory.max", narrow.as_str()),
            ("a/memory.current", used.as_str()),
            ("a/b/memory.max", wide.as_str()),
            ("a/b/memory.current", "1"),
        ];
        assert_eq!(Mount::new("up", &files).memory("/a/b"), Memory { used_mb: Some(1000), total_mb: 2048 });
    }

    #[test]
    fn a_limit_beyond_the_machine_is_none() {
        let limit = (1_u64 << 50).to_string();
        let mount = Mount::new("beyond", &[("memory.max", &limit), ("memory.current", "1")]);
        assert_eq!(mount.memory("/"), WHOLE_MACHINE);
    }

    #[test]
    fn busy_is_a_fraction_with_two_decimals() {
        assert_eq!(busy(0.21, 3), 0.07);
        assert_eq!(busy(9.0, 2), 1.0);
        assert_eq!(busy(0.0, 4), 0.0);
        assert_eq!(busy(1.0, 3), 0.33);
    }

    #[test]
    fn this_machine_has_figures() {
        let Reading { host, unknown } = this_host().unwrap();
        assert!((0.0..=1.0).contains(&host.cpu));
        assert!(host.mem.total_mb > 0 && host.mem.used_mb.unwrap() <= host.mem.total_mb);
        assert!(host.uptime > 0);
        assert_eq!(unknown, None);
    }

    /// `/proc` with `subset=pid` has none of the files.
    #[test]
    fn without_the_files_in_proc_one_figure_is_missing() {
        let empty = Mount::new("no-proc", &[]);
        let before = this_host().unwrap().host;
        let Reading { host, unknown } = read(&empty.0, &empty.0, "/").unwrap();
        assert!(host.uptime >= before.uptime && host.uptime <= this_host().unwrap().host.uptime);
        let machine = Meminfo::from_file("/proc/meminfo").unwrap().mem_total;
        assert_eq!(host.mem, Memory { used_mb: None, total_mb: machine >> 20 });
        let said = unknown.unwrap();
        assert!(said.starts_with("host.mem.usedMb is not known: ") && said.contains("meminfo"), "{said}");
        // A cgroup's limit and use are told elsewhere.
        let limited = Mount::new(
            "no-proc-limit",
            &[("memory.max", &(64 * MIB).to_string()), ("memory.current", &(16 * MIB).to_string())],
        );
        let Reading { host, unknown } = read(&limited.0, &limited.0, "/").unwrap();
        assert_eq!((host.mem, unknown), (Memory { used_mb: Some(16), total_mb: 64 }, None));
    }
}
