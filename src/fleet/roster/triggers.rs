//! Putting the trigger on devices, and taking it off.

use super::TRIGGER;
use super::print::{TRIGGER_FUNCTION, columns};
use super::sealer::forget;
use crate::fleet::attachment::Attachment;
use crate::fleet::triggers::drop_triggers_of;
use crate::pg::query::execute_utility;
use crate::pg::relation::LockedRelation;
use pgrx::spi::quote_literal;

/// Makes the trigger, where the relation can have it. It goes with the extension, not with CASCADE.
///
/// It fires by row: a heartbeat is an UPDATE of one row, for which transition tables would cost more than what it does.
pub fn create(devices: &LockedRelation, fleet: &Attachment) {
    if devices.kind != b'r' {
        return;
    }
    let arguments: Vec<String> = columns(fleet).into_iter().map(quote_literal).collect();
    let (name, arguments) = (&devices.name, arguments.join(", "));
    for statement in [
        format!(
            "create trigger {TRIGGER} after insert or update or delete on {name}
                for each row execute function busymate_stats_internal.roster_change({arguments})"
        ),
        format!("alter table {name} enable always trigger {TRIGGER}"),
        format!("alter trigger {TRIGGER} on {name} depends on extension busymate_stats"),
    ] {
        execute_utility(&statement);
    }
}

/// Drops the trigger, and forgets what was counted.
pub fn drop(devices: Option<&LockedRelation>) {
    if let Some(devices) = devices.filter(|devices| devices.kind == b'r') {
        drop_triggers_of(devices, TRIGGER_FUNCTION);
    }
    forget();
}
