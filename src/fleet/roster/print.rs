//! Whether devices can be counted ahead, and whether what was counted still holds.
//!
//! Whatever lets the trigger miss a row, or takes one column for another, is DDL that writes a row of a catalog anew: a
//! disabled trigger, a renamed column, another file. So the fingerprint is made of the versions of those rows. Doing and
//! undoing it gives another version, and nothing more is needed to notice what happened in between.

use super::TRIGGER;
use crate::fleet::attachment::{Attachment, attach_again};
use crate::fleet::sealed::state::{reads_the_same_everywhere, type_obstacle};
use crate::pg::catalog::{Version, column_version, has_children, label_versions, trigger_version};
use crate::pg::identity::database_is_utf8;
use crate::pg::relation::{LockedRelation, column_number, column_type, is_virtual, triggers};
use crate::torture::{Mutant, broken};

/// The trigger's function.
pub const TRIGGER_FUNCTION: &str = "busymate_stats_internal.roster_change";

/// The columns that are counted: connection type, and what tells who is online.
pub fn columns(fleet: &Attachment) -> [&String; 2] {
    [&fleet.connection_type, fleet.online.as_ref().unwrap_or(&fleet.last_seen)]
}

/// What a relation is like. Two that are equal hold the same rows but for those that the trigger has seen; if it could be
/// counted then it can be counted now.
pub fn fingerprint(devices: &LockedRelation, fleet: &Attachment) -> String {
    let file = if broken(Mutant::RosterFileUnseen) { 0 } else { devices.file };
    let trigger = match trigger_version(devices.oid, TRIGGER) {
        Some((oid, _)) if broken(Mutant::RosterTriggerUnseen) => Some((oid, Version::default())),
        found => found,
    };
    let columns = columns(fleet).map(|column| {
        let number = column_number(devices.oid, column);
        (number, column_version(devices.oid, number))
    });
    let labels = match columns[0].0 {
        number if number > 0 => label_versions(column_type(devices.oid, number)),
        _ => Vec::new(),
    };
    let parent = has_children(devices.oid);
    format!("{} {file} {trigger:?} {columns:?} {labels:?} {parent}", devices.oid.to_u32())
}

/// Why the devices cannot be counted ahead, if so.
pub fn obstacle(devices: &LockedRelation, fleet: &Attachment) -> Option<String> {
    let name = &devices.name;
    if devices.kind != b'r' {
        return Some(format!("{name} is no plain table"));
    }
    if devices.unlogged {
        return Some(format!("{name} is unlogged, so a crash would empty it unseen"));
    }
    if has_children(devices.oid) {
        return Some(format!("other tables inherit from {name}"));
    }
    if !database_is_utf8() {
        return Some("the database's encoding is not UTF8".into());
    }
    let wanted = columns(fleet);
    match triggers(devices.oid).iter().find(|trigger| trigger.name == TRIGGER) {
        None => return Some(format!("trigger {TRIGGER} is missing on {name}")),
        Some(trigger) if !trigger.always => {
            return Some(format!("trigger {TRIGGER} is disabled on {name}"));
        }
        Some(trigger)
            if trigger.function != TRIGGER_FUNCTION
                || !trigger.unconditional
                || !trigger.fires_after_each_row
                || !trigger.arguments.iter().eq(wanted) =>
        {
            return Some(format!("trigger {TRIGGER} on {name} is not as attach() makes it"));
        }
        Some(_) => {}
    }
    for column in wanted {
        let number = column_number(devices.oid, column);
        if number <= 0 {
            let argument = fleet.device_columns().into_iter().find(|(name, _)| *name == column);
            let cure = argument.map_or_else(String::new, |(_, argument)| attach_again(argument));
            return Some(format!("column \"{column}\" is missing in {name}. {cure}"));
        }
        if is_virtual(devices.oid, number) {
            return Some(format!("column \"{column}\" of {name} is computed when it is read"));
        }
    }
    let kind = column_type(devices.oid, column_number(devices.oid, wanted[0]));
    // An enum's labels may change, but not unnoticed.
    (!reads_the_same_everywhere(kind) && label_versions(kind).is_empty())
        .then(|| type_obstacle(wanted[0], name, kind))
}
