//! Holding what the sealed window answers against the plain count.

use super::attachment::{self, lock_entries};
use super::capture;
use super::clock::now_in_whole_milliseconds;
use super::figures::Figures;
use super::roster;
use super::sealed::reader;
use super::{Way, snapshot_and_way};
use crate::pg::scan::Seen;
use pgrx::pg_sys;
use serde_json::{Map, Value, json};

/// Whether the sealed window answers at the moment.
pub fn is_sealed() -> bool {
    let Some(fleet) = attachment::read(Seen::Statement) else {
        return false;
    };
    let entries = lock_entries(&fleet);
    let mut figures = Figures { as_of: now_in_whole_milliseconds(), ..Figures::default() };
    reader::read_entries(&fleet, &entries, &mut figures).is_ok()
}

fn sealed_snapshot(as_of: super::Timestamp) -> Option<Value> {
    let (snapshot, way) = snapshot_and_way(as_of, Way::Sealed);
    (way == Way::Sealed).then_some(snapshot)
}

/// Computes the statistics both ways under the active snapshot, and gives the figures that differ, each with both
/// values; `None` when the sealed window does not answer. `holding` is told beforehand what is read for long.
///
/// The plain count comes first: what follows is quick, so that the tables of the extension are not held for long.
pub fn compare(holding: impl FnOnce([pg_sys::Oid; 2])) -> Option<Map<String, Value>> {
    let fleet = attachment::read(Seen::Statement)?;
    holding([fleet.entries, fleet.devices]);
    let as_of = now_in_whole_milliseconds();
    let (plain, _) = snapshot_and_way(as_of, Way::Plain);
    Some(differences(&sealed_snapshot(as_of)?, &plain))
}

fn differences(sealed: &Value, plain: &Value) -> Map<String, Value> {
    let figures = plain.as_object().into_iter().flatten();
    figures
        .filter(|(figure, counted)| sealed.get(*figure) != Some(*counted))
        .map(|(figure, counted)| {
            (figure.clone(), json!({ "incremental": sealed.get(figure), "recomputed": counted }))
        })
        .collect()
}

/// Has everything counted anew, and answered by the plain query until then. False, and nothing done, while a sealer is at
/// work.
pub fn void_seal(reason: &str) -> bool {
    let voided = roster::sealer::void();
    if voided {
        capture::mark(reason);
    }
    voided
}

#[cfg(test)]
mod tests {
    use super::differences;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_told_with_both_values() {
        let sealed = json!({"total_entries": 3, "entries_1h": 1, "source_mix": {"vpn": 1}});
        let plain = json!({"total_entries": 4, "entries_1h": 1, "source_mix": {"vpn": 1}});
        assert_eq!(
            json!(differences(&sealed, &plain)),
            json!({"total_entries": {"incremental": 3, "recomputed": 4}})
        );
        assert_eq!(json!(differences(&plain, &plain)), json!({}));
    }
}
