//! A jsonb argument, read within bounds. pgrx's own type goes through text, and panics where serde cannot follow: at a
//! number beyond a double, or deep nesting.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::nullable::Nullable;
use pgrx::pg_sys;
use pgrx::pg_sys::JsonbIteratorToken as Token;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, direct_function_call};
use serde_json::{Map, Number, Value};
use std::ffi::CStr;

/// An argument of type jsonb, not read yet.
pub struct Jsonb(pg_sys::Datum);

/// Why a jsonb was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum TooBig {
    /// It is longer than asked for.
    Long,
    /// It is nested deeper than asked for.
    Deep,
}

impl FromDatum for Jsonb {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        (!is_null).then_some(Self(datum))
    }
}

// SAFETY: the datum of an argument that SQL declares as jsonb is one, and stays for the call.
unsafe impl<'fcx> ArgAbi<'fcx> for Jsonb {
    unsafe fn unbox_arg_unchecked(argument: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        match unsafe { argument.unbox_arg_using_from_datum() } {
            Some(jsonb) => jsonb,
            None => panic!("the argument must not be null"),
        }
    }

    unsafe fn unbox_nullable_arg(argument: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { argument.unbox_arg_using_from_datum() }.into()
    }
}

// SAFETY: jsonb is what the type stands for in SQL.
unsafe impl SqlTranslatable for Jsonb {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Jsonb);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

impl Jsonb {
    /// The value, if it is no longer than `most_bytes` (counted as its text, without escapes) and nested no deeper than
    /// `most_levels`.
    pub fn read(&self, most_bytes: usize, most_levels: usize) -> Result<Value, TooBig> {
        let mut builder = Builder { open: Vec::new(), result: None, bytes_left: most_bytes, most_levels };
        // SAFETY: the datum is a jsonb. The iterator stays within its detoasted copy, which lives until the memory
        // context of the call is reset.
        unsafe {
            let jsonb: *mut pg_sys::Jsonb = pg_sys::pg_detoast_datum(self.0.cast_mut_ptr()).cast();
            let mut iterator = pg_sys::JsonbIteratorInit(&raw mut (*jsonb).root);
            let mut value = pg_sys::JsonbValue::default();
            loop {
                match pg_sys::JsonbIteratorNext(&mut iterator, &mut value, false) {
                    Token::WJB_DONE => break,
                    Token::WJB_BEGIN_ARRAY => {
                        builder.begin(Open::Array(value.val.array.rawScalar, Vec::new()))?
                    }
                    Token::WJB_BEGIN_OBJECT => builder.begin(Open::Object(String::new(), Map::new()))?,
                    Token::WJB_KEY => builder.key(string(&value))?,
                    Token::WJB_VALUE | Token::WJB_ELEM => builder.scalar(&value)?,
                    _ => builder.end(),
                }
            }
        }
        Ok(builder.result.unwrap_or_default())
    }
}

/// A container that has not ended yet.
enum Open {
    /// Whether it only wraps a scalar, and its elements.
    Array(bool, Vec<Value>),
    /// The last key, and its members.
    Object(String, Map<String, Value>),
}

struct Builder {
    open: Vec<Open>,
    result: Option<Value>,
    bytes_left: usize,
    most_levels: usize,
}

impl Builder {
    fn count(&mut self, bytes: usize) -> Result<(), TooBig> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(TooBig::Long)?;
        Ok(())
    }

    fn begin(&mut self, container: Open) -> Result<(), TooBig> {
        self.count(2)?;
        if self.open.len() == self.most_levels {
            return Err(TooBig::Deep);
        }
        self.open.push(container);
        Ok(())
    }

    fn key(&mut self, key: String) -> Result<(), TooBig> {
        self.count(key.len() + 6)?;
        if let Some(Open::Object(last, _)) = self.open.last_mut() {
            *last = key;
        }
        Ok(())
    }

    /// # Safety
    /// `value` is a scalar that the iterator has just given.
    unsafe fn scalar(&mut self, value: &pg_sys::JsonbValue) -> Result<(), TooBig> {
        // SAFETY: by the caller's promise; the type says which part of the union is there.
        let value = unsafe {
            match value.type_ {
                pg_sys::jbvType::jbvString => {
                    self.count(value.val.string.len as usize + 2)?;
                    Value::String(string(value))
                }
                pg_sys::jbvType::jbvNumeric => {
                    let text: Option<&CStr> = direct_function_call(
                        pg_sys::numeric_out,
                        &[Some(pg_sys::Datum::from(value.val.numeric))],
                    );
                    let text = text.unwrap_or_default();
                    self.count(text.count_bytes())?;
                    number(&text.to_string_lossy())
                }
                pg_sys::jbvType::jbvBool => Value::Bool(value.val.boolean),
                _ => Value::Null,
            }
        };
        self.count(2)?;
        self.put(value);
        Ok(())
    }

    fn end(&mut self) {
        let value = match self.open.pop() {
            Some(Open::Array(true, mut elements)) => elements.pop().unwrap_or_default(),
            Some(Open::Array(false, elements)) => Value::Array(elements),
            Some(Open::Object(_, members)) => Value::Object(members),
            None => Value::Null,
        };
        self.put(value);
    }

    fn put(&mut self, value: Value) {
        match self.open.last_mut() {
            Some(Open::Array(_, elements)) => elements.push(value),
            Some(Open::Object(key, members)) => {
                members.insert(std::mem::take(key), value);
            }
            None => self.result = Some(value),
        }
    }
}

/// # Safety
/// `value` is a string or a key that the iterator has just given.
unsafe fn string(value: &pg_sys::JsonbValue) -> String {
    // SAFETY: by the caller's promise; length and pointer belong together.
    let bytes = unsafe {
        let string = value.val.string;
        std::slice::from_raw_parts(string.val.cast::<u8>(), string.len as usize)
    };
    String::from_utf8_lossy(bytes).into_owned()
}

/// A number from its decimal text: the nearest that there is.
fn number(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return whole.into();
    }
    let nearest = text.parse::<f64>().unwrap_or_default().clamp(f64::MIN, f64::MAX);
    Number::from_f64(nearest).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod unit_tests {
    use super::number;
    use serde_json::{Value, json};

    #[test]
    fn every_number_has_a_nearest_one() {
        assert_eq!(number("42"), json!(42));
        assert_eq!(number("-0.5"), json!(-0.5));
        assert_eq!(number(&format!("1{}", "0".repeat(400))), Value::from(f64::MAX));
        assert_eq!(number(&format!("-1{}", "0".repeat(400))), Value::from(f64::MIN));
        assert_eq!(number(&format!("0.{}1", "0".repeat(400))), json!(0.0));
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::{Jsonb, TooBig};
    use crate::testing::{run, value};
    use pgrx::pg_sys;
    use pgrx::prelude::*;
    use pgrx_tests::proptest::PgTestRunner;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// `text` as PostgreSQL's input function stores it.
    fn jsonb(text: &str) -> Jsonb {
        let text = crate::pg::c_string(text);
        // SAFETY: the function takes a string that ends with NUL, and gives a jsonb in the current memory context.
        let datum = unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(text.as_ptr()))])
        };
        Jsonb(datum.unwrap())
    }

    /// What a SQL function with such an argument gets.
    #[pg_extern]
    fn read_jsonb(argument: Jsonb, most_bytes: i32, most_levels: i32) -> String {
        match argument.read(most_bytes as usize, most_levels as usize) {
            Ok(value) => value.to_string(),
            Err(too_big) => format!("{too_big:?}"),
        }
    }

    /// Any JSON that serde and numeric write in the same way.
    fn any_json() -> impl Strategy<Value = Value> {
        let text = "[^\\x00]{0,12}";
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // With a fraction, so that it is not read as a whole number.
            (-1_000_000i32..1_000_000).prop_map(|eighths| Value::from(f64::from(8 * eighths + 1) / 8.0)),
            text.prop_map(Value::from),
        ];
        scalar.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(text, inner, 0..6).prop_map(|members| json!(members)),
            ]
        })
    }

    #[pg_test]
    fn a_jsonb_is_read_as_it_was_written() {
        PgTestRunner::default()
            .run(&any_json(), |written| {
                prop_assert_eq!(jsonb(&written.to_string()).read(usize::MAX, 10), Ok(written));
                Ok(())
            })
            .unwrap();
    }

    #[pg_test]
    fn a_jsonb_is_read_up_to_its_limits_and_no_further() {
        let nested = jsonb(r#"[[["x"]]]"#);
        assert_eq!(nested.read(1000, 3), Ok(json!([[["x"]]])));
        assert_eq!(nested.read(1000, 2), Err(TooBig::Deep));
        // The string with its quotes and comma is 5 bytes, each pair of brackets 2.
        assert_eq!(nested.read(11, 3), Ok(json!([[["x"]]])));
        assert_eq!(nested.read(10, 3), Err(TooBig::Long));
        // A scalar is in an array for the iterator only.
        assert_eq!(jsonb("7").read(1000, 1), Ok(json!(7)));
    }

    #[pg_test]
    fn a_number_beyond_a_double_and_deep_nesting_are_answered() {
        assert_eq!(jsonb("1e400").read(1000, 1), Ok(json!(f64::MAX)));
        assert_eq!(jsonb("1e-400").read(1000, 1), Ok(json!(0.0)));
        assert_eq!(jsonb("9223372036854775808").read(1000, 1), Ok(json!(9223372036854775808f64)));
        // serde_json would give up at 128 levels.
        let deep = "[".repeat(4000) + &"]".repeat(4000);
        assert_eq!(jsonb(&deep).read(usize::MAX, 128), Err(TooBig::Deep));
        assert!(jsonb(&deep).read(usize::MAX, 5000).is_ok());
    }

    #[pg_test]
    fn a_jsonb_is_read_from_wherever_it_is_stored() {
        run("create temp table document (kind text, body jsonb)");
        run("alter table document alter body set storage external");
        run("insert into document values ('out of line', jsonb_build_array(repeat('ab', 5000)))");
        run("alter table document alter body set storage main");
        run(
            "insert into document values ('compressed', jsonb_build_array(repeat('ab', 5000))), ('short', '[1]')",
        );
        assert!(value::<bool>(
            "select bool_and(tests.read_jsonb(body, 100000, 3)::jsonb = body) and count(*) = 3 from document"
        ));
        assert_eq!(value::<String>("select tests.read_jsonb(body, 100, 3) from document limit 1"), "Long");
    }
}
