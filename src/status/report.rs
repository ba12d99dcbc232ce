//! A snapshot from a reporter elsewhere: taken apart field by field, so that what does not fit is told by its path.

use super::rollup;
use super::snapshot::{ComponentStatus, Host, Memory, Probe, Snapshot};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// The longest report, as text.
pub const LIMIT_BYTES: usize = 64 * 1024;

/// The longest key and label, and the longest unit state.
const MAX_TEXT: usize = 256;
const MAX_STATE: usize = 64;

/// A year of seconds and more, an exabyte in MiB: beyond that a figure is a mistake.
const MAX_COUNT: f64 = 1e12;
const MAX_LOAD: f64 = 1e6;
const MAX_LATENCY_MS: f64 = 86_400_000.0;

/// Which keys belong to critical components.
pub type Critical<'a> = &'a dyn Fn(&str) -> bool;

/// The snapshot that a report makes, or the field that does not fit and why.
pub fn read_report(report: &Value, critical: Critical) -> Result<Snapshot, String> {
    let root = Field { path: String::new(), value: report };
    let mut object = root.object(&["overall", "host", "components"])?;
    if let Some(overall) = object.optional("overall") {
        // Its type is checked; the word is found anew.
        overall.one_of(&["ok", "degraded", "down"])?;
    }
    let host = read_host(&object.required("host")?)?;
    let mut components = Vec::new();
    let mut keys = HashSet::new();
    for element in object.required("components")?.elements()? {
        let component = read_component(&element)?;
        if !keys.insert(component.key.clone()) {
            return element.child("key").refuse("is there twice");
        }
        let is_critical = critical(&component.key);
        components.push((component, is_critical));
    }
    Ok(rollup::snapshot_of(host, components))
}

fn read_host(field: &Field) -> Result<Host, String> {
    let mut host = field.object(&["cpu", "load", "mem", "uptime"])?;
    let cpu = host.required("cpu")?.number(0.0, 1.0)?;
    let load = host.required("load")?;
    let loads: Vec<f64> =
        load.elements()?.iter().map(|element| element.number(0.0, MAX_LOAD)).collect::<Result<_, _>>()?;
    let Ok(loads) = <[f64; 3]>::try_from(loads) else {
        return load.refuse("expected three numbers");
    };
    let mut memory = host.required("mem")?.object(&["usedMb", "totalMb"])?;
    let mem = Memory {
        used_mb: memory.required("usedMb")?.whole_or_null(0.0, MAX_COUNT)?,
        total_mb: memory.required("totalMb")?.whole(0.0, MAX_COUNT)?,
    };
    Ok(Host { cpu, load: loads, mem, uptime: host.required("uptime")?.whole(0.0, MAX_COUNT)? })
}

fn read_component(field: &Field) -> Result<ComponentStatus, String> {
    let mut component = field.object(&["key", "label", "probe", "unitState"])?;
    let key = component.required("key")?.text(MAX_TEXT)?;
    let label = component.required("label")?.text(MAX_TEXT)?;
    let probe = component.optional("probe").map(|probe| read_probe(&probe)).transpose()?;
    // null, as other languages write what is not applicable, is as good as nothing.
    let unit_state = component.optional("unitState").filter(|state| !state.value.is_null());
    let unit_state = unit_state.map(|state| state.text(MAX_STATE)).transpose()?;
    if probe.is_none() && unit_state.is_none() {
        return field.refuse("expected a probe, a unitState, or both");
    }
    Ok(ComponentStatus { key, label, probe, unit_state })
}

fn read_probe(field: &Field) -> Result<Probe, String> {
    let mut probe = field.object(&["up", "httpStatus", "latencyMs"])?;
    Ok(Probe {
        up: probe.required("up")?.boolean()?,
        http_status: probe.required("httpStatus")?.whole_or_null(100.0, 599.0)?.map(|status| status as u16),
        latency_ms: probe.required("latencyMs")?.whole_or_null(0.0, MAX_LATENCY_MS)?,
    })
}

/// A value and where it stands.
struct Field<'a> {
    path: String,
    value: &'a Value,
}

struct Object<'a> {
    path: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Field<'a> {
    fn refuse<T>(&self, problem: &str) -> Result<T, String> {
        let path = if self.path.is_empty() { "the report" } else { &self.path };
        Err(format!("{path}: {problem}"))
    }

    fn child(&self, key: &str) -> Field<'a> {
        Field { path: join(&self.path, key), value: self.value }
    }

    /// An object that has none but `known` keys.
    fn object(&self, known: &[&str]) -> Result<Object<'a>, String> {
        let Value::Object(fields) = self.value else {
            return self.refuse("expected an object");
        };
        if let Some(key) = fields.keys().find(|key| !known.contains(&key.as_str())) {
            return self
                .child(&shown(key))
                .refuse(&format!("unexpected key; known are {}", known.join(", ")));
        }
        Ok(Object { path: self.path.clone(), fields })
    }

    fn elements(&self) -> Result<Vec<Field<'a>>, String> {
        let Value::Array(elements) = self.value else {
            return self.refuse("expected an array");
        };
        let place = |(index, value)| Field { path: format!("{}[{index}]", self.path), value };
        Ok(elements.iter().enumerate().map(place).collect())
    }

    fn boolean(&self) -> Result<bool, String> {
        self.value.as_bool().map_or_else(|| self.refuse("expected true or false"), Ok)
    }

    fn number(&self, least: f64, most: f64) -> Result<f64, String> {
        let Some(number) = self.value.as_f64() else {
            return self.refuse("expected a number");
        };
        if (least..=most).contains(&number) {
            // -0 is 0.
            Ok(number + 0.0)
        } else {
            self.refuse(&format!("expected a number from {least} to {most}"))
        }
    }

    fn whole(&self, least: f64, most: f64) -> Result<u64, String> {
        let number = self.number(least, most)?;
        if number.fract() == 0.0 { Ok(number as u64) } else { self.refuse("expected a whole number") }
    }

    fn whole_or_null(&self, least: f64, most: f64) -> Result<Option<u64>, String> {
        if self.value.is_null() { Ok(None) } else { self.whole(least, most).map(Some) }
    }

    fn text(&self, most: usize) -> Result<String, String> {
        let Value::String(text) = self.value else {
            return self.refuse("expected a string");
        };
        if text.is_empty() {
            self.refuse("expected a string that is not empty")
        } else if text.len() > most {
            self.refuse(&format!("expected a string of at most {most} bytes"))
        } else {
            Ok(text.clone())
        }
    }

    fn one_of(&self, words: &[&str]) -> Result<(), String> {
        match self.value {
            Value::String(text) if words.contains(&text.as_str()) => Ok(()),
            Value::String(_) => self.refuse(&format!("expected one of {}", words.join(", "))),
            _ => self.refuse("expected a string"),
        }
    }
}

impl<'a> Object<'a> {
    fn optional(&mut self, key: &str) -> Option<Field<'a>> {
        self.fields.get(key).map(|value| Field { path: join(&self.path, key), value })
    }

    fn required(&mut self, key: &str) -> Result<Field<'a>, String> {
        self.optional(key).ok_or_else(|| format!("{}: is missing", join(&self.path, key)))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key that somebody made up, fit for a message.
fn shown(key: &str) -> String {
    let plain =
        !key.is_empty() && key.len() <= 64 && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { key.to_owned() } else { format!("{:?}", key.chars().take(32).collect::<String>()) }
}

#[cfg(test)]
mod tests;
