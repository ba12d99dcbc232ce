//! Event triggers in C. They fire for every DDL statement of the database, nearly all of which are nobody's business here:
//! the statement's parse tree says so before anything is looked up.

use super::VERSION_1;
use super::scan::{find_schema, relation_in};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

/// Called with what a statement has made a partition.
type OnPartitions = fn(&Partitions);

static ON_PARTITIONS: OnceLock<OnPartitions> = OnceLock::new();

/// The names of relations that a statement has made a partition of another.
pub struct Partitions(Vec<Named>);

/// A relation as a statement names it; the schema is that of a name which has none.
struct Named {
    name: *mut pg_sys::RangeVar,
    schema: Option<String>,
}

/// Names the function that is called with partitions. It runs with the rights and the search path of the statement's role.
pub fn register(on_partitions: OnPartitions) {
    // A second call is one with the same function: the library is loaded once.
    let _ = ON_PARTITIONS.set(on_partitions);
}

/// What PostgreSQL asks a function's library for.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_note_empty_partitions_wrapper() -> *const pg_sys::Pg_finfo_record {
    &VERSION_1
}

/// On `ddl_command_end` of CREATE TABLE, ALTER TABLE and CREATE SCHEMA.
///
/// # Safety
/// Called by PostgreSQL's function manager.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn note_empty_partitions_wrapper(
    call: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: by the caller's promise; the parse tree is the statement's own and stays while it runs.
    unsafe {
        let partitions = partitions_in(statement(call));
        if let Some(work) = ON_PARTITIONS.get().filter(|_| !partitions.is_empty()) {
            work(&Partitions(partitions));
        }
    }
    pg_sys::Datum::null()
}

/// The parse tree of the statement that an event trigger fires for.
///
/// # Safety
/// `call` is the function manager's.
unsafe fn statement(call: pg_sys::FunctionCallInfo) -> *mut pg_sys::Node {
    // SAFETY: by the caller's promise; the context says whether the event trigger manager called.
    unsafe {
        let context = (*call).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            error!("the function must be called as an event trigger");
        }
        (*context.cast::<pg_sys::EventTriggerData>()).parsetree
    }
}

/// # Safety
/// The list is null or one of pointers.
unsafe fn nodes<'a>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut pg_sys::Node> + 'a {
    // SAFETY: by the caller's promise; a list has as many elements as it says.
    let length = unsafe { list.as_ref() }.map_or(0, |list| list.length as usize);
    (0..length).map(move |place| unsafe {
        // SAFETY: as above.
        (*(*list).elements.add(place)).ptr_value.cast::<pg_sys::Node>()
    })
}

/// # Safety
/// `text` is null or ends with NUL.
unsafe fn owned(text: *const c_char) -> Option<String> {
    // SAFETY: by the caller's promise.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// The relations that a statement has made a partition of another.
///
/// # Safety
/// `statement` is a statement's parse tree.
unsafe fn partitions_in(statement: *mut pg_sys::Node) -> Vec<Named> {
    // SAFETY: a node's tag says what it is; the fields are those that the grammar fills.
    unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_CreateStmt => created(statement.cast(), None).into_iter().collect(),
            pg_sys::NodeTag::T_CreateSchemaStmt => {
                let schema = owned((*statement.cast::<pg_sys::CreateSchemaStmt>()).schemaname);
                nodes((*statement.cast::<pg_sys::CreateSchemaStmt>()).schemaElts)
                    .filter(|element| (**element).type_ == pg_sys::NodeTag::T_CreateStmt)
                    .filter_map(|element| created(element.cast(), schema.clone()))
                    .collect()
            }
            pg_sys::NodeTag::T_AlterTableStmt => nodes((*statement.cast::<pg_sys::AlterTableStmt>()).cmds)
                .map(|command| &*command.cast::<pg_sys::AlterTableCmd>())
                .filter(|command| command.subtype == pg_sys::AlterTableType::AT_AttachPartition)
                .map(|command| (*command.def.cast::<pg_sys::PartitionCmd>()).name)
                .map(|name| Named { name, schema: None })
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// The table that CREATE TABLE … PARTITION OF has made; `None` for any other CREATE TABLE.
///
/// # Safety
/// `statement` is its parse tree.
unsafe fn created(statement: *mut pg_sys::CreateStmt, schema: Option<String>) -> Option<Named> {
    // SAFETY: by the caller's promise.
    let statement = unsafe { &*statement };
    (!statement.partbound.is_null()).then_some(Named { name: statement.relation, schema })
}

impl Partitions {
    /// Those that are found by their names. What the statement's role may not look up raises an error.
    pub fn find(&self) -> Vec<pg_sys::Oid> {
        self.0.iter().filter_map(Named::find).collect()
    }
}

impl Named {
    fn find(&self) -> Option<pg_sys::Oid> {
        // SAFETY: the name is part of the statement's parse tree, which stays while its event triggers run; without a lock
        // nothing waits, and what is missing raises nothing.
        unsafe {
            if let Some(schema) = self.schema.as_ref().filter(|_| (*self.name).schemaname.is_null()) {
                return relation_in(find_schema(schema)?, &owned((*self.name).relname)?);
            }
            let found = pg_sys::RangeVarGetRelidExtended(
                self.name,
                pg_sys::NoLock as pg_sys::LOCKMODE,
                pg_sys::RVROption::RVR_MISSING_OK,
                None,
                std::ptr::null_mut(),
            );
            (found != pg_sys::InvalidOid).then_some(found)
        }
    }
}
