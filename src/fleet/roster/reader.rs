//! The devices' figures from what was counted, and what has changed since. All under the caller's own snapshot, whatever
//! it is.

use super::changes::{Changes, MOST};
use super::print::fingerprint;
use super::state::State;
use crate::fleet::attachment::Attachment;
use crate::fleet::clock::before;
use crate::fleet::figures::{Count, Figures, MIX_KEYS};
use crate::fleet::sealed::toplist::top_of;
use crate::pg::identity::{as_owner, owner_of, trigger_depth};
use crate::pg::relation::{LockedRelation, is_being_changed_here};
use crate::pg::scan::{Seen, find_relation};
use crate::schemas::INTERNAL;
use crate::settings;
use crate::torture::{Mutant, broken};
use std::fmt;

const GONE: &str = "a table of ours is gone";

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
    let changes = Changes::since(state.gen_, offline_since).ok_or_else(|| Missing::All(GONE.into()))?;
    if changes.number > MOST {
        return Err(Missing::All("more has changed since the last count than is worth adding up".into()));
    }
    let changes = if broken(Mutant::RosterChangesForgotten) { Changes::none(offline_since) } else { changes };
    let silent = own_tables(|| state.silent_at(offline_since)).map_err(Missing::All)?;
    // Where every device was silent when they were counted and none has been heard of since, all are silent at any later
    // moment too. A change since then says no more than that a device was heard of: later signs of life change nothing.
    let all_silent = offline_since > state.until && changes.number == 0 && silent == Some(state.total);
    let told_apart =
        fleet.online.is_some() || (state.since..=state.until).contains(&offline_since) || all_silent;

    figures.total_devices = state.total + changes.total;
    let mut types = state.types;
    changes.add_types_to(&mut types);
    figures.connection_types =
        top_of(&types, MIX_KEYS as usize).into_iter().map(|(key, count)| Count { key, count }).collect();
    let silent = silent.filter(|_| told_apart || broken(Mutant::RosterMomentUnchecked));
    let Some(silent) = silent else {
        return Err(Missing::Online("the moment is not one that the last count tells apart"));
    };
    figures.online_devices = figures.total_devices - (silent + changes.silent);
    Ok(())
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
    let owner = find_relation(INTERNAL, "roster_changes").and_then(owner_of).ok_or(GONE)?;
    Ok(as_owner(owner, work))
}
