//! The values of a row in a slot, as scans and transition tables hand them over.

use pgrx::pg_sys;
use std::ffi::CStr;

/// A row of a relation, in a slot that the holder keeps filled.
pub struct Slot(*mut pg_sys::TupleTableSlot);

impl Slot {
    /// Wraps a slot.
    ///
    /// # Safety
    /// The slot holds a row whenever a value is asked for, and is made for the row type that the numbers belong to.
    pub unsafe fn new(slot: *mut pg_sys::TupleTableSlot) -> Self {
        Self(slot)
    }

    /// The slot itself.
    pub fn as_ptr(&self) -> *mut pg_sys::TupleTableSlot {
        self.0
    }

    /// A column by its number; `None` when null.
    pub fn value(&self, number: i16) -> Option<pg_sys::Datum> {
        // SAFETY: by the promise of `new` the slot holds a row that has this column; the attributes up to it are taken
        // apart before the arrays are read.
        unsafe {
            let slot = &*self.0;
            if slot.tts_nvalid < number {
                pg_sys::slot_getsomeattrs_int(self.0, i32::from(number));
            }
            let place = number as usize - 1;
            let slot = &*self.0;
            (!*slot.tts_isnull.add(place)).then(|| *slot.tts_values.add(place))
        }
    }

    /// A column as text, by its type's output function.
    pub fn text(&self, number: i16, type_oid: pg_sys::Oid) -> Option<String> {
        // SAFETY: the value is not null, and of this type.
        self.value(number).map(|datum| unsafe { datum_text(datum, type_oid) })
    }

    /// Whether a column of type `kind` reads the same in both rows.
    pub fn has_same_text(&self, other: &Self, number: i16, kind: pg_sys::Oid) -> bool {
        match (self.value(number), other.value(number)) {
            (None, None) => true,
            // A value itself, or a place where one stands.
            (Some(one), Some(another)) if one.value() == another.value() => true,
            (Some(_), Some(_)) if kind == pg_sys::TEXTOID || kind == pg_sys::VARCHAROID => {
                self.with_text(number, |one| other.with_text(number, |another| one == another)).flatten()
                    == Some(true)
            }
            (Some(_), Some(_)) => self.text(number, kind) == other.text(number, kind),
            _ => false,
        }
    }

    /// A column of type smallint, integer or bigint; `None` when null.
    pub fn int(&self, number: i16, type_oid: pg_sys::Oid) -> Option<i64> {
        self.value(number).map(|datum| match type_oid {
            pg_sys::INT2OID => i64::from(datum.value() as i16),
            pg_sys::INT4OID => i64::from(datum.value() as i32),
            _ => datum.value() as i64,
        })
    }

    /// Hands over the bytes of a column of a text type, copied only where they are compressed or out of line; `None`
    /// when null.
    pub fn with_text<R>(&self, number: i16, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.value(number).map(|datum| {
            // SAFETY: the callers name columns of text types, whose datums are varlenas; the bytes are read before the
            // copy is freed or the slot moves on.
            unsafe {
                let text = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
                let result = read(pgrx::varlena::varlena_to_byte_slice(text));
                if !std::ptr::eq(text, datum.cast_mut_ptr()) {
                    pg_sys::pfree(text.cast());
                }
                result
            }
        })
    }
}

/// A value as its type's output function writes it.
///
/// # Safety
/// `datum` is a non-null value of type `kind`.
pub unsafe fn datum_text(datum: pg_sys::Datum, kind: pg_sys::Oid) -> String {
    if kind == pg_sys::TEXTOID || kind == pg_sys::VARCHAROID {
        // SAFETY: a non-null datum of a text type.
        let bytes = unsafe { super::scan::text_bytes(datum) };
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    let mut output = pg_sys::InvalidOid;
    let mut is_varlena = false;
    // SAFETY: the datum is of this type, and the output function's string is NUL-terminated.
    unsafe {
        pg_sys::getTypeOutputInfo(kind, &mut output, &mut is_varlena);
        let text = pg_sys::OidOutputFunctionCall(output, datum);
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
