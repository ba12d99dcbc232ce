//! The devices' figures from what was counted, and what has changed since. All under the caller's own snapshot, whatever
//! it is.

use super::print::fingerprint;
use super::state::{Change, Device, State, changes_since};
use crate::fleet::attachment::Attachment;
use crate::fleet::clock::before;
use crate::fleet::figures::{Count, Figures, MIX_KEYS};
use crate::fleet::sealed::counts::add;
use crate::fleet::sealed::toplist::top_of;
use crate::pg::identity::{as_owner, owner_of, trigger_depth};
use crate::pg::relation::{LockedRelation, is_being_changed_here};
use crate::pg::scan::{Seen, find_relation};
use crate::settings;
use crate::torture::{Mutant, broken};
use std::fmt;

/// More changes than this are not worth adding up.
pub const CHANGES: i64 = 50_000;

/// What the plain query must answer, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Every figure of devices.
    All(String),
    /// How many are online.
    Online(&'static str),
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Missing::All(reason) => formatter.write_str(reason),
            Missing::Online(reason) => write!(formatter, "online: {reason}"),
        }
    }
}

/// Fills in how many devices there are, by connection type, and how many are online.
pub fn read_devices(
    fleet: &Attachment,
    devices: &LockedRelation,
    figures: &mut Figures,
) -> Result<(), Missing> {
    let state = usable_state(fleet, devices).map_err(Missing::All)?;
    let offline_since = before(figures.as_of, settings::online_window_us());
    let told_apart = fleet.online.is_some() || (state.since..=state.until).contains(&offline_since);
    let (changes, silent) = own_tables(|| {
        let changes = changes_since(state.gen_, CHANGES + 1);
        let silent = state.silent_at(offline_since);
        (changes, silent)
    })
    .map_err(Missing::All)?;
    if changes.len() as i64 > CHANGES {
        return Err(Missing::All("more has changed since the last count than is worth adding up".into()));
    }
    let changes = if broken(Mutant::RosterChangesForgotten) { Vec::new() } else { changes };

    figures.total_devices = state.total + sum(&changes, |_| true);
    let mut types = state.types;
    for (old, new) in &changes {
        for (device, n) in [(old, -1), (new, 1)] {
            if let Some(device) = device {
                add(&mut types, &device.kind, n);
            }
        }
    }
    figures.connection_types =
        top_of(&types, MIX_KEYS as usize).into_iter().map(|(key, count)| Count { key, count }).collect();
    let silent = silent.filter(|_| told_apart || broken(Mutant::RosterMomentUnchecked));
    let Some(silent) = silent else {
        return Err(Missing::Online("the moment is not one that the last count tells apart"));
    };
    let silent = silent + sum(&changes, |device| device.seen <= offline_since);
    figures.online_devices = figures.total_devices - silent;
    Ok(())
}

/// How many devices more there are now, of those that `counts` is true for.
fn sum(changes: &[Change], counts: impl Fn(&Device) -> bool) -> i64 {
    let number = |device: &Option<Device>| i64::from(device.as_ref().is_some_and(&counts));
    changes.iter().map(|(old, new)| number(new) - number(old)).sum()
}

/// The newest state that this snapshot sees, if what it counts still holds.
fn usable_state(fleet: &Attachment, devices: &LockedRelation) -> Result<State, String> {
    // A trigger, or a function that a statement calls, may see rows of that statement whose changes are not written down
    // yet.
    let inside = trigger_depth() > 0 || is_being_changed_here(devices.oid);
    if inside && !broken(Mutant::InsideStatement) {
        return Err("asked for from inside a statement".into());
    }
    let state = State::newest(Seen::Statement).ok_or("devices are not counted yet")?;
    if state.fingerprint != fingerprint(devices, fleet) {
        return Err("the relation of devices has changed since the last count".into());
    }
    Ok(state)
}

fn own_tables<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    let owner = find_relation("busymate_stats", "roster_changes")
        .and_then(owner_of)
        .ok_or("a table of ours is gone")?;
    Ok(as_owner(owner, work))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::clock::Timestamp;

    fn device(kind: &str, seen: Timestamp) -> Option<Device> {
        Some(Device { kind: kind.into(), seen })
    }

    #[test]
    fn changes_add_up() {
        let changes = [
            (None, device("vpn", 7)),
            (device("vpn", 7), device("pac", 9)),
            (device("pac", 9), None),
            (device("cdp", 1), device("cdp", 8)),
        ];
        assert_eq!(sum(&changes, |_| true), 0);
        assert_eq!(sum(&changes, |device| device.seen <= 5), -1);
        assert_eq!(sum(&changes, |device| device.seen <= 8), 0);
    }
}
