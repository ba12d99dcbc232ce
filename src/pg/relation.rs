//! Facts about a relation, held still by a lock.

use pgrx::pg_sys;
use std::ffi::CStr;

/// A relation that exists and stays as it is until the transaction ends.
pub struct LockedRelation {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// The role that owns it.
    pub owner: pg_sys::Oid,
    /// `schema.name`, quoted.
    pub name: String,
    /// `relkind` of pg_class.
    pub kind: u8,
    /// Whether it is temporary.
    pub temporary: bool,
    /// Whether a crash empties it.
    pub unlogged: bool,
    /// The file that holds it: another one after whatever rewrites it.
    pub file: u32,
    /// Whether its rows are kept by PostgreSQL's own table access method.
    pub is_heap: bool,
    /// Whether its policies apply to its own owner too.
    pub force_row_security: bool,
}

/// Locks `relation` ACCESS SHARE until the transaction ends; `None` when it does not exist (any more).
pub fn lock(relation: pg_sys::Oid) -> Option<LockedRelation> {
    // SAFETY: try_relation_open takes the lock before it looks, and gives null for what is gone; the entry is read
    // while it is open. relation_close without a lock mode keeps the lock.
    unsafe {
        let opened = pg_sys::try_relation_open(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if opened.is_null() {
            return None;
        }
        let class = &*(*opened).rd_rel;
        let schema = pg_sys::get_namespace_name(class.relnamespace);
        let name = pg_sys::quote_qualified_identifier(schema, class.relname.data.as_ptr());
        let locked = LockedRelation {
            oid: relation,
            owner: class.relowner,
            name: CStr::from_ptr(name).to_string_lossy().into_owned(),
            kind: class.relkind as u8,
            temporary: class.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP,
            unlogged: class.relpersistence as u8 == pg_sys::RELPERSISTENCE_UNLOGGED,
            file: class.relfilenode.to_u32(),
            is_heap: class.relam == pg_sys::HEAP_TABLE_AM_OID,
            force_row_security: class.relrowsecurity && class.relforcerowsecurity,
        };
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        Some(locked)
    }
}

/// Whether a relation is there, as far as is known without a lock.
pub fn is_there(relation: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up in a transaction.
    unsafe { pg_sys::get_rel_relkind(relation) != 0 }
}

/// Whether `role` may read every column of a relation that is locked.
pub fn may_select(relation: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: syscache look-ups for a relation that is there.
    let found = unsafe { pg_sys::pg_class_aclcheck(relation, role, pg_sys::ACL_SELECT as pg_sys::AclMode) };
    found == pg_sys::AclResult::ACLCHECK_OK
}

/// Whether this session holds a relation that is locked against everybody else too. (Servers of before November 2024 have no
/// CheckRelationOidLockedByMe.)
pub fn is_locked_alone(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is locked, and open while the backend's own list of its locks is searched.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let mode = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        let alone = pg_sys::CheckRelationLockedByMe(opened, mode, false);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        alone
    }
}

/// Whether this session holds a relation in a mode that lets it write.
pub fn is_locked_for_writing(relation: pg_sys::Oid) -> bool {
    let modes = [
        pg_sys::RowExclusiveLock,
        pg_sys::ShareRowExclusiveLock,
        pg_sys::ExclusiveLock,
        pg_sys::AccessExclusiveLock,
    ];
    // SAFETY: as above.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let held = |mode: &u32| pg_sys::CheckRelationLockedByMe(opened, *mode as pg_sys::LOCKMODE, false);
        let writes = modes.iter().any(held);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        writes
    }
}

/// Whether a function is `schema.name`.
pub fn is_function_named(function: pg_sys::Oid, name: &str) -> bool {
    // SAFETY: syscache look-ups in a transaction; the names are copies, or null when the function is gone.
    unsafe {
        let (schema, found) = (
            pg_sys::get_namespace_name(pg_sys::get_func_namespace(function)),
            pg_sys::get_func_name(function),
        );
        !schema.is_null()
            && !found.is_null()
            && name.split_once('.')
                == Some((
                    &*CStr::from_ptr(schema).to_string_lossy(),
                    &*CStr::from_ptr(found).to_string_lossy(),
                ))
    }
}

/// Whether a table that is locked has not a single page.
pub fn has_no_page(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is locked and has a file.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let pages = pg_sys::RelationGetNumberOfBlocksInFork(opened, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        pages == 0
    }
}

/// The type behind a domain, however deep; any other type is its own.
pub fn base_type(of: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up inside a transaction; raises when the type is gone.
    unsafe { pg_sys::getBaseType(of) }
}

/// The name of a type, as SQL has it.
pub fn type_name(of: pg_sys::Oid) -> String {
    // SAFETY: a syscache look-up in a transaction; the name is a copy that ends with NUL, also for a type that is gone.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(of)).to_string_lossy().into_owned() }
}

/// Whether a type is citext, which is stored, written and cast as text is. The extension keeps its cast as it is.
pub fn is_citext(kind: pg_sys::Oid) -> bool {
    // SAFETY: reads catalogs in a transaction, told not to raise.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"citext".as_ptr(), true);
        extension != pg_sys::InvalidOid
            && pg_sys::getExtensionOfObject(pg_sys::TypeRelationId, kind) == extension
            && pg_sys::IsBinaryCoercible(kind, pg_sys::TEXTOID)
    }
}

/// Locks `relation` ROW EXCLUSIVE for writing until the transaction ends, unless somebody holds a lock against it:
/// false then, or when it is gone.
pub fn lock_for_writing_now(relation: pg_sys::Oid) -> bool {
    lock_now(relation, pg_sys::RowExclusiveLock)
}

/// The same for reading: ACCESS SHARE.
pub fn lock_for_reading_now(relation: pg_sys::Oid) -> bool {
    lock_now(relation, pg_sys::AccessShareLock)
}

fn lock_now(relation: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: takes the lock and accepts the messages that came with it, or does nothing.
    let locked = unsafe { pg_sys::ConditionalLockRelationOid(relation, mode as pg_sys::LOCKMODE) };
    locked && lock(relation).is_some()
}

/// The same against others who do the same, not against readers and writers of rows: SHARE UPDATE EXCLUSIVE.
pub fn lock_alone_now(relation: pg_sys::Oid) -> bool {
    lock_now(relation, pg_sys::ShareUpdateExclusiveLock)
}

/// The same against everybody, readers too: ACCESS EXCLUSIVE.
pub fn lock_exclusively_now(relation: pg_sys::Oid) -> bool {
    lock_now(relation, pg_sys::AccessExclusiveLock)
}

/// Waits for the others that have called this for the same relation until their transactions end, and keeps them waiting
/// until this one does. It is another lock than the relation's own: readers, writers and DDL do not notice it.
pub fn lock_object(relation: pg_sys::Oid) {
    // SAFETY: takes a lock in a transaction; the row of pg_class that it names need not exist.
    unsafe {
        pg_sys::LockDatabaseObject(
            pg_sys::RelationRelationId,
            relation,
            0,
            pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
        );
    }
}

/// Whether a statement of this session that has not ended may be changing a relation that is locked: somebody up the
/// stack has it open, and the transaction may write into it.
pub fn is_being_changed_here(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is locked, and open while its entry is read.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let open_elsewhere = (*opened).rd_refcnt > 1;
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        let changing = open_elsewhere && pg_sys::CheckRelationLockedByMe(opened, lock, true);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        changing
    }
}

/// The number of a column by its name; 0 when there is none.
pub fn column_number(relation: pg_sys::Oid, column: &str) -> i16 {
    let column = super::c_string(column);
    // SAFETY: a syscache look-up with a string that ends with NUL.
    unsafe { pg_sys::get_attnum(relation, column.as_ptr()) }
}

/// The type of a column, domains resolved.
pub fn column_type(relation: pg_sys::Oid, number: i16) -> pg_sys::Oid {
    // SAFETY: a syscache look-up; the number is one that `column_number` gave under the same lock.
    base_type(unsafe { pg_sys::get_atttype(relation, number) })
}

fn attribute<R>(
    relation: pg_sys::Oid,
    number: i16,
    read: impl FnOnce(&pg_sys::FormData_pg_attribute) -> R,
) -> Option<R> {
    // SAFETY: the relation is locked, so it is there.
    let opened =
        unsafe { pgrx::PgRelation::with_lock(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    opened.tuple_desc().get(number as usize - 1).map(read)
}

/// About how many rows a locked table has, as the planner guesses: also where nobody has analyzed it yet.
pub fn about_rows(relation: pg_sys::Oid) -> i64 {
    // SAFETY: the relation is locked and a table, as the function asks; without an array of widths it guesses those too.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let (mut pages, mut rows, mut visible) = (0, 0.0, 0.0);
        pg_sys::estimate_rel_size(opened, std::ptr::null_mut(), &mut pages, &mut rows, &mut visible);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        rows as i64
    }
}

/// Whether no row of a locked relation has a null in a column.
#[cfg(not(feature = "pg18"))]
pub fn is_not_null(relation: pg_sys::Oid, number: i16) -> bool {
    attribute(relation, number, |attribute| attribute.attnotnull).unwrap_or(false)
}

/// Whether no row of a locked relation has a null in a column. Since PostgreSQL 18 a NOT NULL constraint may be NOT VALID:
/// `attnotnull` is true of such a column, and rows of before the constraint may have nulls.
#[cfg(feature = "pg18")]
pub fn is_not_null(relation: pg_sys::Oid, number: i16) -> bool {
    let Ok(place) = usize::try_from(number - 1) else {
        return false;
    };
    // SAFETY: the relation is locked, and open while its entry is read, which has as many columns as it says.
    // RelationBuildTupleDesc has looked the constraints up, so that none is left as ATTNULLABLE_UNKNOWN.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let columns = (*opened).rd_att;
        let valid = place < (*columns).natts as usize
            && (*(*columns).compact_attrs.as_ptr().add(place)).attnullability as u8
                == pg_sys::ATTNULLABLE_VALID;
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        valid
    }
}

/// Whether a column of a locked relation is computed when it is read, so that a row does not hold it.
pub fn is_virtual(relation: pg_sys::Oid, number: i16) -> bool {
    attribute(relation, number, |attribute| attribute.attgenerated as u8 == b'v').unwrap_or(false)
}

/// A trigger of a relation.
pub struct TriggerState {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// Its name.
    pub name: String,
    /// `schema.function` that it calls, not quoted.
    pub function: String,
    /// That function's OID.
    pub function_oid: pg_sys::Oid,
    /// Whether an INSERT, UPDATE or DELETE can fire it: it is not disabled, nor for TRUNCATE alone.
    pub fires_on_writes: bool,
    /// Whether it fires whatever session_replication_role says.
    pub always: bool,
    /// Whether it fires for every row or statement of its kind: no WHEN, no list of columns.
    pub unconditional: bool,
    /// Whether it fires after each row that is inserted, updated or deleted.
    pub fires_after_each_row: bool,
    /// Whether it fires before each of them.
    pub fires_before_each_row: bool,
    /// What it was made with.
    pub arguments: Vec<String>,
}

/// `tgtype` of AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW.
const AFTER_EACH_ROW: u32 = pg_sys::TRIGGER_TYPE_ROW
    | pg_sys::TRIGGER_TYPE_INSERT
    | pg_sys::TRIGGER_TYPE_UPDATE
    | pg_sys::TRIGGER_TYPE_DELETE;

/// `tgtype` of a trigger that fires for INSERT, UPDATE or DELETE has one of these.
const ON_WRITES: u32 =
    pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE;

/// The torture's: whether another session's message about a relation comes in wherever it could.
#[cfg(feature = "torture")]
pub static MESSAGES_COME_IN: pgrx::guc::GucSetting<bool> = pgrx::guc::GucSetting::<bool>::new(false);

/// The triggers of a relation that is locked.
pub fn triggers(relation: pg_sys::Oid) -> Vec<TriggerState> {
    // SAFETY: the relation is locked and open while its triggers are copied. The copy is read: looking up a function takes
    // messages of other sessions in, and any of them, an ANALYZE of the table for one, has the relation's own list freed,
    // whatever is locked. Names and arguments are NUL-terminated, and the names from the syscache are copies, or null
    // when the function is gone.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let description = pg_sys::CopyTriggerDesc((*opened).trigdesc);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        let mut found = Vec::new();
        if !description.is_null() {
            let triggers =
                std::slice::from_raw_parts((*description).triggers, (*description).numtriggers as usize);
            for trigger in triggers.iter().filter(|trigger| !trigger.tgisinternal) {
                #[cfg(feature = "torture")]
                if MESSAGES_COME_IN.get() {
                    pg_sys::RelationCacheInvalidateEntry(relation);
                }
                let schema = pg_sys::get_namespace_name(pg_sys::get_func_namespace(trigger.tgfoid));
                let function = pg_sys::get_func_name(trigger.tgfoid);
                if schema.is_null() || function.is_null() {
                    continue;
                }
                let [schema, function, name] =
                    [schema, function, trigger.tgname].map(|text| CStr::from_ptr(text).to_string_lossy());
                let count = usize::try_from(trigger.tgnargs).unwrap_or(0);
                let argument =
                    |place| CStr::from_ptr(*trigger.tgargs.add(place)).to_string_lossy().into_owned();
                found.push(TriggerState {
                    oid: trigger.tgoid,
                    name: name.into_owned(),
                    function: format!("{schema}.{function}"),
                    function_oid: trigger.tgfoid,
                    fires_on_writes: trigger.tgenabled as u8 != pg_sys::TRIGGER_DISABLED
                        && trigger.tgtype as u32 & ON_WRITES != 0,
                    always: trigger.tgenabled as u8 == pg_sys::TRIGGER_FIRES_ALWAYS,
                    fires_after_each_row: trigger.tgtype as u32 == AFTER_EACH_ROW,
                    fires_before_each_row: trigger.tgtype as u32
                        == AFTER_EACH_ROW | pg_sys::TRIGGER_TYPE_BEFORE,
                    unconditional: trigger.tgnattr == 0 && trigger.tgqual.is_null(),
                    arguments: (0..count).map(argument).collect(),
                });
            }
            pg_sys::FreeTriggerDesc(description);
        }
        found
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::{relation, run, value};
    use pgrx::prelude::*;

    #[pg_test]
    fn a_locked_relation_is_described_and_stays() {
        run("create schema \"Odd schema\"");
        run("create unlogged table \"Odd schema\".\"table\" (number int)");
        run("alter table \"Odd schema\".\"table\" enable row level security, force row level security");
        let locked = lock(relation("\"Odd schema\".\"table\"")).unwrap();
        assert_eq!(locked.name, "\"Odd schema\".\"table\"");
        assert!(locked.unlogged && !locked.temporary && locked.force_row_security && locked.is_heap);
        assert_eq!(locked.kind, pg_sys::RELKIND_RELATION);
        run("alter table \"Odd schema\".\"table\" disable row level security");
        assert!(!lock(locked.oid).unwrap().force_row_security, "FORCE counts only where policies are on");
        run("create temp view seen as select 1");
        let view = lock(relation("seen")).unwrap();
        assert!(view.temporary && view.kind == pg_sys::RELKIND_VIEW && !view.is_heap);
        run("drop view seen");
        assert!(lock(view.oid).is_none() && !is_there(view.oid));
    }

    #[pg_test]
    fn pages_columns_and_domains() {
        run("create domain inner_domain as timestamptz");
        run("create domain outer_domain as inner_domain not null");
        run("create temp table sized (gone int, at outer_domain, word text not null)");
        run("alter table sized drop column gone");
        run("create index sized_at on sized (at)");
        let sized = relation("sized");
        assert!(has_no_page(sized));
        assert_eq!(["at", "word", "gone", "no such"].map(|name| column_number(sized, name)), [2, 3, 0, 0]);
        assert_eq!(column_type(sized, 2), pg_sys::TIMESTAMPTZOID);
        assert!(is_not_null(sized, 3) && !is_not_null(sized, 2) && !is_not_null(sized, 9));
        assert_eq!(type_name(pg_sys::TIMESTAMPTZOID), "timestamp with time zone");
        run("insert into sized values (now(), 'x')");
        assert!(!has_no_page(sized));
        run("truncate sized");
        assert!(has_no_page(sized));
        let file = lock(sized).unwrap().file;
        run("cluster sized using sized_at");
        assert_ne!(lock(sized).unwrap().file, file);
    }

    #[pg_extern]
    fn is_test_table_being_changed() -> bool {
        is_being_changed_here(relation("changing"))
    }

    #[pg_test]
    fn a_statement_that_changes_a_relation_is_noticed_from_inside() {
        run("create temp table changing (number int, noticed bool)");
        run("insert into changing values (1)");
        assert!(!value::<bool>("select tests.is_test_table_being_changed()"));
        run("update changing set noticed = tests.is_test_table_being_changed()");
        assert!(value::<bool>("select noticed from changing"));
        assert!(!value::<bool>("select tests.is_test_table_being_changed()"), "the statement has ended");
    }

    #[pg_test]
    fn a_trigger_is_described_as_it_was_made() {
        run("create temp table fired (number int, word text)");
        run("create function pg_temp.nothing() returns trigger language plpgsql as 'begin return null; end'");
        run("create trigger a after insert or update or delete on fired for each row \
             execute function pg_temp.nothing('one', '')");
        run("create trigger b after update of word on fired for each row execute function pg_temp.nothing()");
        run("create trigger c after truncate on fired execute function pg_temp.nothing()");
        run("create trigger d after insert on fired for each row when (new.number > 1) \
             execute function pg_temp.nothing()");
        run("alter table fired enable always trigger a, disable trigger b");
        let found = triggers(relation("fired"));
        let flags = |name: &str| {
            let trigger = found.iter().find(|trigger| trigger.name == name).unwrap();
            let flags = [
                trigger.fires_on_writes,
                trigger.always,
                trigger.unconditional,
                trigger.fires_after_each_row,
            ];
            (flags, trigger.arguments.join("|"))
        };
        assert_eq!(flags("a"), ([true, true, true, true], "one|".into()));
        assert_eq!(flags("b"), ([false, false, false, false], String::new()));
        assert_eq!(flags("c"), ([false, false, true, false], String::new()));
        assert_eq!(flags("d"), ([true, false, false, false], String::new()));
        assert!(found.iter().all(|trigger| trigger.function.ends_with(".nothing")));
    }

    #[pg_test]
    fn only_the_strongest_lock_is_against_everybody() {
        run("create temp table locked (number int)");
        // Whoever makes a table has it locked so.
        let locked = relation("locked");
        assert!(is_locked_alone(locked));
        let roles = relation("busymate_stats.roles");
        assert!(lock_for_reading_now(roles) && lock_alone_now(roles) && !is_locked_alone(roles));
        run("drop table locked");
        assert!(!lock_for_reading_now(locked), "a relation that is gone");
    }
}
