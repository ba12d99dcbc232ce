//! Samples, and what is told of them.

use crate::report::short;
use std::time::{Duration, Instant};

/// Shows how the benchmark goes on, apart from its result.
pub fn note(text: &str) {
    eprintln!("bench: {text}");
}

/// How long `work` takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// The processor time that the process `pid` has taken so far: on a machine with other work, steadier than the clock.
pub fn backend_cpu(pid: i32) -> Duration {
    let path = format!("/proc/{pid}/schedstat");
    let told = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    Duration::from_nanos(told.split(' ').next().and_then(|first| first.parse().ok()).unwrap())
}

/// The most memory that the process `pid` has had so far, in bytes.
pub fn peak_memory(pid: i32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let told = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let peak = told.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Measurements of one thing.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a duration, in milliseconds.
    pub fn add(&mut self, duration: Duration) {
        self.0.push(duration.as_secs_f64() * 1000.0);
    }

    /// Adds a number.
    pub fn add_value(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which `share` of the samples lie.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        assert!(!sorted.is_empty(), "nothing was measured");
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// `median unit (min–max of n)`
    pub fn told(&self, unit: &str) -> String {
        let (least, most) = (short(self.quantile(0.0)), short(self.quantile(1.0)));
        format!("{} {unit} ({least}–{most}, n = {})", short(self.median()), self.len())
    }
}
