//! From components to one word.

use super::snapshot::{ComponentStatus, Host, Overall, Snapshot};

/// Whether a component is as it should be.
fn is_healthy(component: &ComponentStatus) -> bool {
    component.probe.is_none_or(|probe| probe.up)
        && component.unit_state.as_deref().is_none_or(is_healthy_state)
}

/// Whether a unit in this ActiveState is as it should be: for `systemctl is-active` it is active.
pub fn is_healthy_state(state: &str) -> bool {
    matches!(state, "active" | "reloading" | "refreshing")
}

/// `down` when every component is unhealthy or a critical one is, `degraded` when any is, else `ok`.
fn overall<'a>(components: impl IntoIterator<Item = (&'a ComponentStatus, bool)>) -> Overall {
    let (mut all, mut unhealthy, mut critical_unhealthy) = (0_usize, 0_usize, false);
    for (component, critical) in components {
        all += 1;
        if !is_healthy(component) {
            unhealthy += 1;
            critical_unhealthy |= critical;
        }
    }
    match unhealthy {
        0 => Overall::Ok,
        _ if unhealthy == all || critical_unhealthy => Overall::Down,
        _ => Overall::Degraded,
    }
}

/// The snapshot of a host and its components, each with whether it is critical.
pub fn snapshot_of(host: Host, components: Vec<(ComponentStatus, bool)>) -> Snapshot {
    let overall = overall(components.iter().map(|(component, critical)| (component, *critical)));
    Snapshot { overall, host, components: components.into_iter().map(|(component, _)| component).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Memory, Probe};
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn component(up: Option<bool>, unit_state: Option<&str>) -> ComponentStatus {
        ComponentStatus {
            key: "key".into(),
            label: "Label".into(),
            probe: up.map(|up| Probe { up, http_status: Some(200), latency_ms: Some(42) }),
            unit_state: unit_state.map(Into::into),
        }
    }

    fn host() -> Host {
        Host {
            cpu: 0.07,
            load: [0.21, 0.18, 0.15],
            mem: Memory { used_mb: Some(1840), total_mb: 3920 },
            uptime: 1_820_394,
        }
    }

    #[test]
    fn the_documented_example() {
        let dashboard = ComponentStatus {
            key: "dashboard".into(),
            label: "Dashboard".into(),
            ..component(Some(true), Some("active"))
        };
        let snapshot = serde_json::to_value(snapshot_of(host(), vec![(dashboard, false)])).unwrap();
        assert_eq!(
            snapshot,
            json!({
                "overall": "ok",
                "host": {
                    "cpu": 0.07,
                    "load": [0.21, 0.18, 0.15],
                    "mem": { "usedMb": 1840, "totalMb": 3920 },
                    "uptime": 1820394
                },
                "components": [{
                    "key": "dashboard",
                    "label": "Dashboard",
                    "probe": { "up": true, "httpStatus": 200, "latencyMs": 42 },
                    "unitState": "active"
                }]
            })
        );
    }

    #[test]
    fn what_makes_a_component_unhealthy() {
        for (up, unit_state, healthy) in [
            (Some(true), None, true),
            (Some(false), None, false),
            (None, Some("active"), true),
            (None, Some("failed"), false),
            (None, Some("activating"), false),
            (None, Some("reloading"), true),
            (Some(true), Some("refreshing"), true),
            (None, Some("deactivating"), false),
            (None, Some("maintenance"), false),
            (None, Some("Active"), false),
            (None, Some("unknown"), false),
            (Some(true), Some("inactive"), false),
            (Some(false), Some("active"), false),
        ] {
            assert_eq!(is_healthy(&component(up, unit_state)), healthy, "{up:?} {unit_state:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_and_what_did_not_answer_is_null() {
        let value = |component: ComponentStatus| serde_json::to_value(component).unwrap();
        assert_eq!(
            value(component(None, Some("active"))),
            json!({"key": "key", "label": "Label", "unitState": "active"})
        );
        let silent = ComponentStatus { probe: Some(Probe::NONE), ..component(None, None) };
        assert_eq!(
            value(silent)["probe"],
            json!({"up": false, "httpStatus": Value::Null, "latencyMs": Value::Null})
        );
    }

    #[test]
    fn nothing_to_watch_is_ok() {
        assert_eq!(snapshot_of(host(), Vec::new()).overall, Overall::Ok);
    }

    proptest! {
        #[test]
        fn the_roll_up_by_counting(states in prop::collection::vec((any::<bool>(), any::<bool>()), 0..8)) {
            let components: Vec<_> =
                states.iter().map(|(up, critical)| (component(Some(*up), None), *critical)).collect();
            let down = states.iter().filter(|(up, _)| !up).count();
            let expected = if down == 0 {
                Overall::Ok
            } else if down == states.len() || states.contains(&(false, true)) {
                Overall::Down
            } else {
                Overall::Degraded
            };
            prop_assert_eq!(snapshot_of(host(), components).overall, expected);
        }
    }
}
