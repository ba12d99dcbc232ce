//! What systemd says of units, over a real bus with a stand-in for its manager, and what is said where nobody answers.

use harness::listeners::answering;
use harness::status::{component, install, quiet_cluster, reason, refreshed, watch_unit, watch_url};
use harness::{Cluster, eventually};
use postgres::Client;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use zbus::connection::Builder;
use zbus::{OwnedObjectPath, fdo, interface};

/// systemd's manager, as far as it is asked: these units are loaded, and one more on demand.
struct Manager;

const UNITS: [(&str, &str); 11] = [
    ("running.service", "active"),
    ("stopped.service", "inactive"),
    ("broken.service", "failed"),
    ("starting.service", "activating"),
    ("sleeping.service", "inactive"),
    ("reloading.service", "reloading"),
    ("refreshing.service", "refreshing"),
    ("stopping.service", "deactivating"),
    ("cleaning.service", "maintenance"),
    ("php8.2-fpm.service", "active"),
    ("backup.timer", "active"),
];

fn path(place: usize) -> OwnedObjectPath {
    OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/unit/u{place}")).unwrap()
}

fn place(name: &str) -> Option<usize> {
    UNITS.iter().position(|(known, _)| *known == name)
}

/// Where a unit's object is that there is no file for.
const NOT_FOUND: usize = 99;

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum SystemdError {
    #[zbus(error)]
    ZBus(zbus::Error),
    NoSuchUnit(String),
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn get_unit(&self, name: &str) -> Result<OwnedObjectPath, SystemdError> {
        if name == "hanging.service" {
            std::future::pending::<()>().await;
        }
        match place(name) {
            Some(place) if name != "sleeping.service" => Ok(path(place)),
            _ => Err(SystemdError::NoSuchUnit(format!("Unit {name} not loaded."))),
        }
    }

    fn load_unit(&self, name: &str) -> fdo::Result<OwnedObjectPath> {
        Ok(path(place(name).unwrap_or(NOT_FOUND)))
    }
}

struct Unit(&'static str, &'static str);

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn active_state(&self) -> &str {
        self.0
    }

    #[zbus(property)]
    fn load_state(&self) -> &str {
        self.1
    }
}

/// A bus of our own, gone with the test process.
struct Bus {
    socket: PathBuf,
    _daemon: Child,
}

fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join(format!("busymate-bus-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn address(socket: &Path) -> String {
    format!("unix:path={}", socket.display())
}

impl Bus {
    fn start(name: &str) -> Self {
        let socket = directory().join(name);
        let configuration = directory().join(format!("{name}.conf"));
        let text = format!(
            "<busconfig><listen>{}</listen><auth>EXTERNAL</auth>
             <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>
             <allow send_destination=\"*\" eavesdrop=\"false\"/><allow receive_sender=\"*\"/></policy></busconfig>",
            address(&socket)
        );
        fs::write(&configuration, text).unwrap();
        // The shell ends the daemon when this process's end of the pipe closes.
        let script = r#"dbus-daemon --nofork --nopidfile --config-file="$0" & cat >/dev/null; kill $!"#;
        let daemon = Command::new("/bin/sh")
            .args(["-c", script])
            .arg(&configuration)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("the bus listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        Self { socket, _daemon: daemon }
    }

    /// Puts the stand-in on it, served by a thread for as long as the test process lives.
    fn serve_systemd(&self) {
        let address = address(&self.socket);
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            zbus::block_on(async {
                let mut builder = Builder::address(address.as_str())
                    .name("org.freedesktop.systemd1")
                    .serve_at("/org/freedesktop/systemd1", Manager)
                    .serve_at(path(NOT_FOUND), Unit("inactive", "not-found"));
                for (place, (_, state)) in UNITS.into_iter().enumerate() {
                    builder = builder.serve_at(path(place), Unit(state, "loaded"));
                }
                let _connection = builder.build().await.unwrap();
                ready.send(()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        wait.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}

/// A cluster whose bus has systemd on it.
fn with_systemd(prefix: &str) -> Client {
    static CLUSTER: OnceLock<(Bus, Cluster)> = OnceLock::new();
    let (_, cluster) = CLUSTER.get_or_init(|| {
        let bus = Bus::start("bus");
        bus.serve_systemd();
        let cluster = quiet_cluster(&[("DBUS_SYSTEM_BUS_ADDRESS", &address(&bus.socket))]);
        (bus, cluster)
    });
    install(cluster, prefix)
}

#[test]
fn each_unit_has_its_active_state() {
    let mut client = with_systemd("states");
    for (unit, state, says) in [
        ("running.service", "active", None),
        ("running", "active", None),
        ("stopped.service", "inactive", Some("unit stopped.service is inactive")),
        ("broken.service", "failed", Some("unit broken.service is failed")),
        ("starting.service", "activating", Some("unit starting.service is activating")),
        ("sleeping.service", "inactive", Some("unit sleeping.service is inactive")),
        ("missing.service", "inactive", Some("systemd knows no unit missing.service")),
        ("reloading.service", "reloading", None),
        ("refreshing.service", "refreshing", None),
        ("stopping.service", "deactivating", Some("unit stopping.service is deactivating")),
        ("cleaning.service", "maintenance", Some("unit cleaning.service is maintenance")),
        ("php8.2-fpm", "active", None),
        ("backup.timer", "active", None),
        ("openvpn@client.conf", "inactive", Some("systemd knows no unit openvpn@client.conf.service")),
    ] {
        watch_unit(&mut client, unit, unit);
        let snapshot = refreshed(&mut client);
        assert_eq!(component(&snapshot, unit)["unitState"], state, "{unit}");
        assert!(component(&snapshot, unit).get("probe").is_none());
        assert_eq!(reason(&mut client, unit).as_deref(), says, "{unit}");
    }
    assert_eq!(harness::status::snapshot(&mut client)["overall"], "degraded");
    client
        .batch_execute("delete from busymate_stats.components where key not in ('reloading.service', 'refreshing.service')")
        .unwrap();
    assert_eq!(refreshed(&mut client)["overall"], "ok");
}

#[test]
fn a_component_is_healthy_when_both_its_parts_are() {
    let mut client = with_systemd("both");
    watch_url(&mut client, "web", &answering("HTTP/1.1 200 OK\r\n\r\n"));
    client.batch_execute("update busymate_stats.components set unit = 'running.service'").unwrap();
    let snapshot = refreshed(&mut client);
    assert_eq!(snapshot["overall"], "ok");
    assert_eq!(component(&snapshot, "web")["unitState"], "active");
    assert_eq!(component(&snapshot, "web")["probe"]["up"], true);
    client.batch_execute("update busymate_stats.components set unit = 'broken.service'").unwrap();
    assert_eq!(refreshed(&mut client)["overall"], "down");
}

#[test]
fn a_unit_that_systemd_hangs_over_does_not_spoil_those_before_it() {
    let mut client = with_systemd("hanging");
    watch_unit(&mut client, "a", "running.service");
    watch_unit(&mut client, "b", "hanging.service");
    let snapshot = refreshed(&mut client);
    assert_eq!(component(&snapshot, "a")["unitState"], "active");
    assert_eq!(component(&snapshot, "b")["unitState"], "unknown");
    assert_eq!(reason(&mut client, "b").as_deref(), Some("no answer from systemd within 2s"));
}

/// With a URL beside the unit, the unit is left out; without, it is unknown. The reason is told either way.
#[track_caller]
fn assert_nobody_answers(bus: &str, says: &str) {
    let cluster = quiet_cluster(&[("DBUS_SYSTEM_BUS_ADDRESS", bus)]);
    let mut client = install(&cluster, "silent");
    watch_unit(&mut client, "unit", "running.service");
    watch_url(&mut client, "both", &answering("HTTP/1.1 200 OK\r\n\r\n"));
    client
        .batch_execute("update busymate_stats.components set unit = 'x.service' where key = 'both'")
        .unwrap();
    let snapshot = refreshed(&mut client);
    assert_eq!(component(&snapshot, "unit")["unitState"], "unknown");
    assert!(component(&snapshot, "both").get("unitState").is_none());
    assert_eq!(component(&snapshot, "both")["probe"]["up"], true);
    assert_eq!(snapshot["overall"], "degraded");
    for key in ["unit", "both"] {
        let reason = reason(&mut client, key).unwrap();
        assert!(reason.contains(says), "{reason}");
    }
}

#[test]
fn no_bus() {
    assert_nobody_answers("unix:path=/nonexistent/bus", "no system bus");
}

#[test]
fn a_bus_that_takes_connections_and_is_silent() {
    let socket = directory().join("silent");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    assert_nobody_answers(&address(&socket), "no answer from systemd within 2s");
}

#[test]
fn a_bus_without_systemd() {
    let bus = Bus::start("lonely");
    assert_nobody_answers(&address(&bus.socket), "systemd: org.freedesktop.DBus.Error.");
}
