//! Every setting, each with the reason for its default.

use crate::access::{RoleClaim, TrustedLogins};
use crate::mcp::AllowedOrigins;
use crate::pg::setting::{self, TextCheck};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicI32, Ordering};

/// A minute, as the cron job had it that this replaces.
static REFRESH_INTERVAL_MS: AtomicI32 = AtomicI32::new(60_000);

/// Ten seconds: soon enough for somebody who watches, seldom enough for what is probed.
static STATUS_INTERVAL_MS: AtomicI32 = AtomicI32::new(10_000);

/// Where the status snapshot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum StatusSource {
    /// This server, unless a report that is young enough stands.
    #[name = c"local"]
    Local,
    /// Reporters alone.
    #[name = c"reported"]
    Reported,
    /// Nowhere.
    #[name = c"off"]
    Off,
}

/// Local: a status that is there without anybody's doing, and a reporter takes over by reporting.
static STATUS_SOURCE: GucSetting<StatusSource> = GucSetting::<StatusSource>::new(StatusSource::Local);

/// Five minutes: a device that beats every minute may miss four beats before it counts as offline.
static ONLINE_WINDOW_MS: GucSetting<i32> = GucSetting::<i32>::new(5 * 60 * 1000);

/// Ten fit on a dashboard; a hundred still keep a snapshot far below Realtime's limit for a record.
static TOP_N: GucSetting<i32> = GucSetting::<i32>::new(10);

/// Five seconds: what stands between the seal and now is read at each call, and a tick costs a process.
static SEAL_INTERVAL_MS: AtomicI32 = AtomicI32::new(5_000);

/// Five seconds: an entry that is written within this after it happened costs its writer nothing.
static SEAL_LAG_MS: AtomicI32 = AtomicI32::new(5_000);

/// A day: it reads every entry, for what should never be found.
static VERIFY_INTERVAL_MS: AtomicI32 = AtomicI32::new(24 * 60 * 60 * 1000);

/// None: a web page may call from this machine only, until its operator is trusted by name.
static MCP_ALLOWED_ORIGINS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// None: a token's roles come from the tables here, until its issuer is trusted with them.
static ROLE_CLAIM: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Nobody is named, so every session may carry claims: which logins are gateways only the operator knows.
static CLAIMS_TRUSTED_FROM: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Defines the settings. The two that decide what every reader sees are for superusers to change.
pub fn register() {
    setting::define_interval(
        c"busymate_stats.refresh_interval",
        c"How often the background worker refreshes service_stats.",
        &REFRESH_INTERVAL_MS,
    );
    setting::define_interval(
        c"busymate_stats.seal_interval",
        c"How often the background worker moves the seal forward.",
        &SEAL_INTERVAL_MS,
    );
    setting::define_milliseconds(
        c"busymate_stats.seal_lag",
        c"How far the seal stays behind the clock: later entries cost their writer a row.",
        &SEAL_LAG_MS,
    );
    setting::define_interval(
        c"busymate_stats.verify_interval",
        c"How often the background worker holds the sealed statistics against a plain count of every entry.",
        &VERIFY_INTERVAL_MS,
    );
    setting::define_interval(
        c"busymate_stats.status_interval",
        c"How often the background worker refreshes service_status.",
        &STATUS_INTERVAL_MS,
    );
    GucRegistry::define_enum_guc(
        c"busymate_stats.status_source",
        c"Who writes service_status: this server (local), reporters alone (reported), or nobody (off).",
        c"With local, a report younger than three status intervals stands.",
        &STATUS_SOURCE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"busymate_stats.online_window",
        c"How long after its last_seen a device counts as online.",
        c"",
        &ONLINE_WINDOW_MS,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"busymate_stats.top_n",
        c"How many hosts and devices top_domains and top_devices list.",
        c"",
        &TOP_N,
        1,
        100,
        GucContext::Suset,
        GucFlags::default(),
    );
    setting::define_text::<Path>(
        c"busymate_stats.role_claim",
        c"Where a token names roles of busymate_stats.roles: a path into its claims.",
        c"Keys apart by dots, such as app_metadata.role, to a role's name or an array of them. Empty: nowhere.",
        &ROLE_CLAIM,
    );
    setting::define_list::<Logins>(
        c"busymate_stats.claims_trusted_from",
        c"The login roles whose sessions may carry claims.",
        c"Names separated by commas. Empty: every session may.",
        &CLAIMS_TRUSTED_FROM,
    );
    setting::define_list::<Origins>(
        c"busymate_stats.mcp_allowed_origins",
        c"Which web pages may call mcp(), besides those of loopback.",
        c"Origins, scheme://host[:port], separated by commas.",
        &MCP_ALLOWED_ORIGINS,
    );
}

struct Origins;

impl TextCheck for Origins {
    fn hint(value: &str) -> Option<String> {
        AllowedOrigins::parse(value).err().map(|culprit| {
            format!("\"{culprit}\" is no origin: write scheme://host[:port], such as https://app.example.com, without a path or wildcard.")
        })
    }
}

struct Path;

impl TextCheck for Path {
    fn hint(value: &str) -> Option<String> {
        RoleClaim::parse(value).err()
    }
}

struct Logins;

impl TextCheck for Logins {
    fn hint(value: &str) -> Option<String> {
        TrustedLogins::parse(value).err().map(|culprit| {
            format!("{culprit} is no list of role names: separate them by commas, with odd names in double quotes.")
        })
    }
}

/// Where tokens name roles, if they may.
pub fn role_claim() -> Option<RoleClaim> {
    let path = ROLE_CLAIM.get().unwrap_or_default();
    // What is no path was refused when it was set.
    RoleClaim::parse(&path.to_string_lossy()).ok().flatten()
}

/// The login roles whose sessions may carry claims.
pub fn claims_trusted_from() -> TrustedLogins {
    let list = CLAIMS_TRUSTED_FROM.get().unwrap_or_default();
    TrustedLogins::parse(&list.to_string_lossy()).unwrap_or_default()
}

/// The web pages that may call `mcp()`, besides those of loopback.
pub fn mcp_allowed_origins() -> AllowedOrigins {
    let list = MCP_ALLOWED_ORIGINS.get().unwrap_or_default();
    // What is no list was refused when it was set.
    AllowedOrigins::parse(&list.to_string_lossy()).unwrap_or_default()
}

/// How often `service_stats` is refreshed, in milliseconds; 0 for never.
pub fn refresh_interval_ms() -> i32 {
    REFRESH_INTERVAL_MS.load(Ordering::Relaxed)
}

/// How often the seal is moved, in milliseconds; 0 for never.
pub fn seal_interval_ms() -> i32 {
    SEAL_INTERVAL_MS.load(Ordering::Relaxed)
}

/// How far the seal stays behind the clock, in microseconds.
pub fn seal_lag_us() -> i64 {
    i64::from(SEAL_LAG_MS.load(Ordering::Relaxed)) * 1000
}

/// How often what is sealed is held against a plain count, in milliseconds; 0 for never.
pub fn verify_interval_ms() -> i32 {
    VERIFY_INTERVAL_MS.load(Ordering::Relaxed)
}

/// How often `service_status` is refreshed, in milliseconds; 0 for never.
pub fn status_interval_ms() -> i32 {
    STATUS_INTERVAL_MS.load(Ordering::Relaxed)
}

/// Where the status snapshot comes from.
pub fn status_source() -> StatusSource {
    STATUS_SOURCE.get()
}

/// How long after its `last_seen` a device counts as online, in microseconds.
pub fn online_window_us() -> i64 {
    i64::from(ONLINE_WINDOW_MS.get()) * 1000
}

/// How many hosts and devices the top lists hold, 1 to 100.
pub fn top_n() -> i64 {
    i64::from(TOP_N.get())
}

/// Where PostgREST and Realtime put a verified token's claims.
pub const CLAIMS: &CStr = c"request.jwt.claims";
