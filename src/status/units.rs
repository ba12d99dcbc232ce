//! The states of systemd units, over the system bus.

use super::rollup::is_healthy_state;
use std::time::Duration;
use zbus::connection::Builder;
use zbus::{Connection, Error, OwnedObjectPath, OwnedVariant};

/// How long the bus may take, and then each of its answers.
pub const TIMEOUT: Duration = Duration::from_secs(2);

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A unit's ActiveState, and what an operator should know about it; or why there is no answer.
pub type Outcome = Result<(String, Option<String>), String>;

/// Asks for the units one after the other on one connection, and hands each answer on as it comes. What is not handed
/// on has no answer.
pub fn ask(names: &[String], mut each: impl FnMut(usize, Outcome)) {
    zbus::block_on(async {
        match Builder::system().method_timeout(TIMEOUT).build().await {
            Ok(bus) => {
                for (index, name) in names.iter().enumerate() {
                    each(index, state(&bus, name).await);
                }
            }
            Err(error) => {
                for index in 0..names.len() {
                    each(index, Err(format!("no system bus: {error}")));
                }
            }
        }
    });
}

async fn state(bus: &Connection, name: &str) -> Outcome {
    match unit_path(bus, name).await {
        Ok(Some(path)) => {
            let state = property(bus, &path, "ActiveState").await.map_err(|error| explain(&error))?;
            let reason = (!is_healthy_state(&state)).then(|| format!("unit {name} is {state}"));
            Ok((state, reason))
        }
        // As `systemctl is-active` has it.
        Ok(None) => Ok(("inactive".into(), Some(format!("systemd knows no unit {name}")))),
        Err(error) => Err(explain(&error)),
    }
}

/// Where the unit's object is. A unit that nobody has asked for yet has to be loaded first.
async fn unit_path(bus: &Connection, name: &str) -> Result<Option<OwnedObjectPath>, Error> {
    match manager(bus, "GetUnit", name).await {
        Err(error) if is_no_such_unit(&error) => {}
        other => return other.map(Some),
    }
    match manager(bus, "LoadUnit", name).await {
        Ok(path) => {
            let loaded = property(bus, &path, "LoadState").await.is_ok_and(|state| state != "not-found");
            Ok(loaded.then_some(path))
        }
        Err(Error::MethodError(..)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_no_such_unit(error: &Error) -> bool {
    matches!(error, Error::MethodError(name, ..) if name.as_str() == NO_SUCH_UNIT)
}

async fn manager(bus: &Connection, method: &str, unit: &str) -> Result<OwnedObjectPath, Error> {
    let reply =
        bus.call_method(Some(SYSTEMD), "/org/freedesktop/systemd1", Some(MANAGER), method, &(unit,)).await?;
    reply.body().deserialize()
}

async fn property(bus: &Connection, unit: &OwnedObjectPath, name: &str) -> Result<String, Error> {
    let reply = bus.call_method(Some(SYSTEMD), unit, Some(PROPERTIES), "Get", &(UNIT, name)).await?;
    let value: OwnedVariant = reply.body().deserialize()?;
    String::try_from(value)
}

fn explain(error: &Error) -> String {
    match error {
        Error::InputOutput(error) if error.kind() == std::io::ErrorKind::TimedOut => timed_out(),
        other => format!("systemd: {other}"),
    }
}

/// What is said of a unit when the bus or systemd is silent.
pub fn timed_out() -> String {
    format!("no answer from systemd within {TIMEOUT:?}")
}
