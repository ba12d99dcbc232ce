//! The shape of a status snapshot, as readers get it.

use serde::Serialize;

/// How the whole fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    /// Nothing is unhealthy.
    Ok,
    /// Something is.
    Degraded,
    /// Everything is, or something critical.
    Down,
}

/// What `service_status.snapshot` holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The roll-up.
    pub overall: Overall,
    /// The machine.
    pub host: Host,
    /// What runs on it, in the order of display.
    pub components: Vec<ComponentStatus>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// The 1-minute load per processor, 0 to 1.
    pub cpu: f64,
    /// The load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Its memory.
    pub mem: Memory,
    /// Seconds since it started.
    pub uptime: u64,
}

/// Memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// What cannot be had without swapping; null where the kernel does not tell.
    pub used_mb: Option<u64>,
    /// What there is, or may be used.
    pub total_mb: u64,
}

/// One component.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// What it is known by.
    pub key: String,
    /// What people call it.
    pub label: String,
    /// What its URL answered; left out where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// systemd's ActiveState; left out where it has no unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit_state: Option<String>,
}

/// What a URL answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Whether it answered as expected, in time.
    pub up: bool,
    /// The status of the answer; null when there was none.
    pub http_status: Option<u16>,
    /// Milliseconds until the answer's headers were there; null when there was none.
    pub latency_ms: Option<u64>,
}

impl Probe {
    /// No answer.
    pub const NONE: Self = Self { up: false, http_status: None, latency_ms: None };
}
