//! The row that was changed, as an AFTER ROW trigger finds it: as it was, and as it is.

use super::slot::datum_text;
use pgrx::htup::heap_getattr_raw;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::varlena::varlena_to_byte_slice;
use std::num::NonZeroUsize;

/// One row as a trigger's event shows it.
#[derive(Clone, Copy)]
pub struct Version {
    tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
}

/// The row before an UPDATE or DELETE, and after an INSERT or UPDATE.
pub fn versions(trigger: &PgTrigger) -> (Option<Version>, Option<Version>) {
    let data = trigger.trigger_data();
    // SAFETY: the trigger manager keeps relation and tuples while the trigger runs.
    let description = unsafe { (*data.tg_relation).rd_att };
    let version = |tuple: pg_sys::HeapTuple| (!tuple.is_null()).then_some(Version { tuple, description });
    match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => (None, version(data.tg_trigtuple)),
        pg_sys::TRIGGER_EVENT_DELETE => (version(data.tg_trigtuple), None),
        _ => (version(data.tg_trigtuple), version(data.tg_newtuple)),
    }
}

impl Version {
    /// A column by its number, counted from 1; `None` when null.
    pub fn value(self, number: i16) -> Option<pg_sys::Datum> {
        let number = NonZeroUsize::new(usize::try_from(number).unwrap_or(0))?;
        // SAFETY: tuple and description belong together, and live as long as the trigger runs; callers take the number
        // from the relation's catalog.
        unsafe { heap_getattr_raw(self.tuple, number, self.description) }
    }

    /// A column as text, by its type's output function; `None` when null.
    pub fn text(self, number: i16, kind: pg_sys::Oid) -> Option<String> {
        // SAFETY: the value is not null, and `kind` is its column's type.
        self.value(number).map(|datum| unsafe { datum_text(datum, kind) })
    }

    /// Whether a column of type `kind` reads the same in both.
    pub fn has_same_text(self, other: Version, number: i16, kind: pg_sys::Oid) -> bool {
        match (self.value(number), other.value(number)) {
            (None, None) => true,
            // Enums and integers are their own datum.
            (Some(one), Some(another)) if one.value() == another.value() => true,
            (Some(one), Some(another)) if kind == pg_sys::TEXTOID || kind == pg_sys::VARCHAROID => {
                // SAFETY: both values are of a text type and not null. Copies that detoasting makes go with the
                // trigger's memory.
                unsafe {
                    let bytes = |datum: pg_sys::Datum| {
                        varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()))
                    };
                    bytes(one) == bytes(another)
                }
            }
            (Some(_), Some(_)) => self.text(number, kind) == other.text(number, kind),
            _ => false,
        }
    }
}

/// The OID of the trigger that fires.
pub fn trigger_oid(trigger: &PgTrigger) -> pg_sys::Oid {
    trigger.trigger().tgoid
}
