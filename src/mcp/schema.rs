//! How the server and its tools describe themselves, to a model that has never seen the system.
//!
//! Clients throw away a whole result that does not fit its `outputSchema`. So it requires only what is always there,
//! and forbids nothing.

use serde_json::{Value, json};

/// What the server is for.
pub const INSTRUCTIONS: &str = "Read-only access to a running system. get_stats tells what its fleet of devices is \
    doing: how many devices there are and are online, how many requests (entries) they make, from which sources, and \
    to which domains. get_status tells whether the infrastructure is healthy: the host's load and memory, and a probe \
    per component. Each needs a capability, stats:view and status:view; an answer that says it is lacking will not \
    change by asking again.";

/// The server's name and version.
pub fn server_info() -> Value {
    json!({
        "name": "busymate_stats",
        "title": "Fleet statistics and infrastructure status",
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// Everything that there is: neither prompts nor resources, and a list that never changes.
pub fn capabilities() -> Value {
    json!({ "tools": {} })
}

/// The tools, as `tools/list` shows them.
pub fn tools() -> Value {
    json!([
        tool(
            "get_stats",
            "Fleet statistics",
            "Returns statistics of the device fleet, computed at this moment: devices in total and online; entries \
             (one per request that a device made) in total, in the last hour and in the last 24 hours; requests per \
             second over the last hour; the last 24 hours by status class, by source and by host; and the busiest \
             domains and devices, busiest first. Use it for questions about traffic, activity and devices. Takes no \
             arguments. Needs the capability stats:view.",
            stats(),
        ),
        tool(
            "get_status",
            "Infrastructure status",
            "Returns the latest health check of the infrastructure, written every few seconds: an overall verdict \
             (ok, degraded or down), the host's CPU load, memory and uptime, and for each component whether it \
             answered its HTTP probe, with which status, how fast, and the state of its systemd unit. Use it for \
             questions about outages and load. Takes no arguments. Needs the capability status:view.",
            status(),
        ),
    ])
}

fn tool(name: &str, title: &str, description: &str, output: Value) -> Value {
    json!({
        "name": name,
        "title": title,
        "description": description,
        "inputSchema": { "type": "object", "properties": {}, "additionalProperties": false },
        "outputSchema": output,
        "annotations": {
            "title": title,
            "readOnlyHint": true,
            "destructiveHint": false,
            "idempotentHint": true,
            "openWorldHint": false,
        },
    })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn mix(description: &str) -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "integer" }, "description": description })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn number(description: &str) -> Value {
    json!({ "type": "number", "description": description })
}

/// Something, or null.
fn nullable(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn stats() -> Value {
    let domain = json!({
        "type": "object",
        "properties": { "host": text("The host's name."), "count": count("Entries in the last 24 hours.") },
        "required": ["host", "count"],
    });
    let device = json!({
        "type": "object",
        "properties": {
            "device_uuid": text("The device's key."),
            "name": nullable(text("The device's name; null when the device is gone.")),
            "count": count("Entries in the last 24 hours."),
        },
        "required": ["device_uuid", "name", "count"],
    });
    let properties = json!({
        "total_devices": count("Devices in the fleet."),
        "online_devices": count("Devices that are online now."),
        "total_entries": count("Entries ever recorded; an entry is one request that a device made."),
        "entries_1h": count("Entries in the last hour."),
        "entries_24h": count("Entries in the last 24 hours."),
        "requests_per_sec": number("Requests per second, on average over the last hour."),
        "status_class_mix": mix("Entries in the last 24 hours by first digit of the HTTP status, 1 to 5."),
        "source_mix": mix("Entries in the last 24 hours by source; \"unknown\" where none was recorded."),
        "connection_type_mix": mix("Devices by connection type; \"unknown\" where none is recorded."),
        "top_domains": {
            "type": "array", "items": domain, "description": "The busiest hosts of the last 24 hours, busiest first."
        },
        "top_devices": {
            "type": "array", "items": device, "description": "The busiest devices of the last 24 hours, busiest first."
        },
        "generated_at": text("When this was computed, in UTC: YYYY-MM-DDTHH:MM:SS.mmmZ."),
    });
    let required: Vec<_> = properties.as_object().into_iter().flat_map(|keys| keys.keys().cloned()).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn status() -> Value {
    let probe = json!({
        "type": "object",
        "description": "The HTTP probe; left out for a component without a URL.",
        "properties": {
            "up": { "type": "boolean", "description": "Whether it answered in time with an expected status." },
            "httpStatus": nullable(json!({ "type": "integer", "description": "The HTTP status; null without an answer." })),
            "latencyMs": nullable(number("How long the answer took, in milliseconds; null without one.")),
        },
        "required": ["up"],
    });
    let component = json!({
        "type": "object",
        "properties": {
            "key": text("The component's key."),
            "label": text("Its name for people."),
            "probe": nullable(probe),
            "unitState": nullable(text("Its systemd unit's state, such as active or failed; left out without a unit.")),
        },
        "required": ["key", "label"],
    });
    let memory = json!({
        "type": "object",
        "properties": { "usedMb": number("Memory in use, in MiB."), "totalMb": number("Memory there is, in MiB.") },
    });
    let host = json!({
        "type": "object",
        "description": "The machine that the system runs on.",
        "properties": {
            "cpu": nullable(number("CPU load, as a fraction from 0 to 1.")),
            "load": nullable(json!({
                "type": "array", "items": { "type": "number" },
                "description": "Load averages over 1, 5 and 15 minutes.",
            })),
            "mem": nullable(memory),
            "uptime": nullable(number("Seconds since the machine was started.")),
        },
    });
    json!({
        "type": "object",
        "properties": {
            "overall": {
                "type": "string", "enum": ["ok", "degraded", "down"],
                "description": "ok: every component is healthy; down: all are unhealthy, or a critical one is; degraded: some are.",
            },
            "host": nullable(host),
            "components": { "type": "array", "items": component, "description": "One entry per watched component." },
        },
        "required": ["overall", "host", "components"],
    })
}
