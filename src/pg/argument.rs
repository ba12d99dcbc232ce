//! Argument types of SQL functions that pgrx has no type for, or one that does too much.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::FromDatum;
use pgrx::nullable::Nullable;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use std::ffi::CStr;

/// An identifier as the user gave it, not quoted.
pub struct Name(pub String);

impl FromDatum for Name {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then(|| {
            // SAFETY: PostgreSQL passes a name as a pointer to 64 bytes that end with NUL.
            let name = unsafe { CStr::from_ptr(datum.cast_mut_ptr()) };
            Name(name.to_string_lossy().into_owned())
        })
    }
}

// SAFETY: unboxes through FromDatum, as pgrx does for its own pass-by-reference types.
unsafe impl<'fcx> ArgAbi<'fcx> for Name {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declaration gives this argument the type name.
        match unsafe { arg.unbox_arg_using_from_datum() } {
            Some(name) => name,
            None => panic!("a name argument must not be null"),
        }
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.into()
    }
}

// SAFETY: the SQL type that FromDatum above reads.
unsafe impl SqlTranslatable for Name {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Name);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("name"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("name")));
}

/// A relation by its OID, `regclass` in SQL. pgrx's own type opens the relation, which then counts as in use when the
/// function alters it, and raises an internal error for one that is gone.
#[derive(Clone, Copy)]
pub struct RegClass(pub pg_sys::Oid);

impl FromDatum for RegClass {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then(|| RegClass(pg_sys::Oid::from(datum.value() as u32)))
    }
}

// SAFETY: unboxes through FromDatum, which reads a pass-by-value number.
unsafe impl<'fcx> ArgAbi<'fcx> for RegClass {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declaration gives this argument the type regclass.
        match unsafe { arg.unbox_arg_using_from_datum() } {
            Some(relation) => relation,
            None => panic!("a regclass argument must not be null"),
        }
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.into()
    }
}

// SAFETY: the SQL type that FromDatum above reads.
unsafe impl SqlTranslatable for RegClass {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(RegClass);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("regclass"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("regclass")));
}

/// A text as its bytes, which need not be UTF-8: a SQL_ASCII database takes any.
pub struct TextBytes(pub Vec<u8>);

impl FromDatum for TextBytes {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: the SQL declaration gives this argument the type text.
        (!is_null).then(|| TextBytes(unsafe { super::scan::text_bytes(datum) }))
    }
}

// SAFETY: unboxes through FromDatum, as pgrx does for its own pass-by-reference types.
unsafe impl<'fcx> ArgAbi<'fcx> for TextBytes {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declaration gives this argument the type text.
        match unsafe { arg.unbox_arg_using_from_datum() } {
            Some(text) => text,
            None => panic!("a text argument must not be null"),
        }
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.into()
    }
}

// SAFETY: the SQL type that FromDatum above reads.
unsafe impl SqlTranslatable for TextBytes {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(TextBytes);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("text"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("text")));
}
