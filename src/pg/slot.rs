//! The values of a row in a slot, as scans and triggers hand them over.

use super::own_rows::Place;
use pgrx::pg_sys;
use std::ffi::CStr;

/// A value as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// The bytes of a text; of a type that is none of the others, what its output function writes.
    Text(&'a [u8]),
    /// The bytes of a uuid.
    Uuid(&'a [u8; 16]),
    /// A smallint, integer or bigint.
    Int(i64),
}

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

    /// Where the row is stored.
    pub fn place(&self) -> Place {
        // SAFETY: by the promise of `new`; a row that a scan has found has a place.
        unsafe { (*self.0).tts_tid }
    }

    /// Takes the row apart up to this column, so that those before it are there already when they are asked for.
    pub fn take_apart(&self, number: i16) {
        // SAFETY: by the promise of `new` the slot holds a row that has this column.
        unsafe {
            if (*self.0).tts_nvalid < number {
                pg_sys::slot_getsomeattrs_int(self.0, i32::from(number));
            }
        }
    }

    /// A column by its number; `None` when null.
    pub fn value(&self, number: i16) -> Option<pg_sys::Datum> {
        self.take_apart(number);
        // SAFETY: by the promise of `new` the slot holds a row that has this column; the attributes up to it were taken
        // apart before the arrays are read.
        unsafe {
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

    /// A column of type `kind`, for as long as the slot holds its row and the current memory context is not reset.
    pub fn stored(&self, number: i16, kind: pg_sys::Oid) -> Value<'_> {
        let Some(datum) = self.value(number) else { return Value::Null };
        match kind {
            pg_sys::INT2OID => Value::Int(i64::from(datum.value() as i16)),
            pg_sys::INT4OID => Value::Int(i64::from(datum.value() as i32)),
            pg_sys::INT8OID => Value::Int(datum.value() as i64),
            // SAFETY: a uuid is 16 bytes behind a pointer, into the row.
            pg_sys::UUIDOID => Value::Uuid(unsafe { &*datum.cast_mut_ptr::<[u8; 16]>() }),
            pg_sys::TEXTOID | pg_sys::VARCHAROID => {
                let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
                // SAFETY: a varlena; one that is neither compressed nor out of line is read where it is, any other in a
                // copy that is left to the memory context.
                unsafe {
                    let is_whole =
                        !pgrx::varlena::varatt_is_1b_e(stored) && !pgrx::varlena::varatt_is_4b_c(stored);
                    let text = if is_whole { stored } else { pg_sys::pg_detoast_datum_packed(stored) };
                    Value::Text(pgrx::varlena::varlena_to_byte_slice(text))
                }
            }
            pg_sys::BPCHAROID => {
                // SAFETY: as above; what is compressed or out of line is copied into the memory context.
                let text = unsafe { pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()) };
                // SAFETY: a varlena that is whole.
                Value::Text(without_padding(unsafe { pgrx::varlena::varlena_to_byte_slice(text) }))
            }
            _ => {
                // SAFETY: the value is not null, and of this type; the text is copied into the memory context.
                let text = unsafe { output(datum, kind) };
                Value::Text(text.to_bytes())
            }
        }
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

/// A char(n) as its cast to text gives it: without the spaces at its end, which are no part of its value.
pub fn without_padding(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    &text[..end]
}

/// A value as its cast to text gives it, where that is what the type's output function writes, and for char(n).
///
/// # Safety
/// `datum` is a non-null value of type `kind`.
pub unsafe fn datum_text(datum: pg_sys::Datum, kind: pg_sys::Oid) -> String {
    if kind == pg_sys::TEXTOID || kind == pg_sys::VARCHAROID {
        // SAFETY: a non-null datum of a text type.
        let bytes = unsafe { super::scan::text_bytes(datum) };
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    // SAFETY: by the caller's promise.
    let text = unsafe { output(datum, kind) };
    let bytes = if kind == pg_sys::BPCHAROID { without_padding(text.to_bytes()) } else { text.to_bytes() };
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the type's output function writes, in the current memory context.
///
/// # Safety
/// `datum` is a non-null value of type `kind`.
unsafe fn output<'a>(datum: pg_sys::Datum, kind: pg_sys::Oid) -> &'a CStr {
    let mut function = pg_sys::InvalidOid;
    let mut is_varlena = false;
    // SAFETY: by the caller's promise; the output function's string ends with NUL.
    unsafe {
        pg_sys::getTypeOutputInfo(kind, &mut function, &mut is_varlena);
        CStr::from_ptr(pg_sys::OidOutputFunctionCall(function, datum))
    }
}

#[cfg(test)]
mod tests {
    use super::without_padding;

    #[test]
    fn only_spaces_at_the_end_are_padding() {
        for (stored, value) in [("ab  ", "ab"), ("  ab c ", "  ab c"), ("   ", ""), ("", ""), ("a\t ", "a\t")]
        {
            assert_eq!(without_padding(stored.as_bytes()), value.as_bytes(), "{stored:?}");
        }
    }
}
