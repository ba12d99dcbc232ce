//! `jsonb` as the text that it prints as, and JSON text for PostgREST to send as it is.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum, IntoDatum};
use pgrx::nullable::Nullable;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use std::ffi::CStr;

/// A jsonb argument, printed. pgrx's own type parses it at once, and raises where nesting is deep or a number large.
pub struct JsonbText(pub String);

impl FromDatum for JsonbText {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then(|| {
            // SAFETY: the SQL declaration gives this argument the type jsonb. The detoasted copy and the string stay
            // in the call's memory context; the string ends with NUL and is copied at once.
            let text = unsafe {
                let jsonb: *mut pg_sys::Jsonb = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
                let length = pgrx::varlena::varsize_any(jsonb.cast()) as i32;
                let root = &raw mut (*jsonb).root;
                CStr::from_ptr(pg_sys::JsonbToCString(std::ptr::null_mut(), root, length))
            };
            Self(text.to_string_lossy().into_owned())
        })
    }
}

// SAFETY: unboxes through FromDatum, as pgrx does for its own pass-by-reference types.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonbText {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declaration gives this argument the type jsonb.
        match unsafe { arg.unbox_arg_using_from_datum() } {
            Some(text) => text,
            None => panic!("a jsonb argument must not be null"),
        }
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.into()
    }
}

// SAFETY: the SQL type that FromDatum above reads.
unsafe impl SqlTranslatable for JsonbText {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(JsonbText);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

/// A result of the domain `"*/*"` over json: PostgREST sends its text as it is, whatever the client accepts. `None` is an
/// empty body.
pub struct ResponseBody(pub Option<String>);

// SAFETY: gives the datum of a text, whose representation json has, and a domain over it.
unsafe impl BoxRet for ResponseBody {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.0.into_datum() {
            // SAFETY: the datum was made for this call, in its memory context.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

// SAFETY: the SQL type that BoxRet above gives.
unsafe impl SqlTranslatable for ResponseBody {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(ResponseBody);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Ok(SqlMappingRef::literal("busymate_stats.\"*/*\""));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("busymate_stats.\"*/*\"")));
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::JsonbText;
    use crate::testing::value;
    use pgrx::prelude::*;

    /// What a SQL function with such an argument gets.
    #[pg_extern]
    fn print_jsonb(argument: Option<JsonbText>) -> Option<String> {
        argument.map(|text| text.0)
    }

    #[pg_test]
    fn a_jsonb_prints_as_postgresql_prints_it() {
        for document in [
            "'null'",
            r#"'{"b": [1.50, -0, 1e400], "a": "\"\\ü\u0001"}'"#,
            "jsonb_build_object('x', repeat('long ', 100000))",
            "(repeat('[', 3000) || repeat(']', 3000))",
        ] {
            let same = format!("select tests.print_jsonb(d) = d::text from (select ({document})::jsonb d) s");
            assert!(value::<bool>(&same), "{document}");
        }
        assert!(value::<bool>("select tests.print_jsonb(null) is null"));
    }
}
