//! The caller's grants, looked up once and kept until something changes them.

use super::claims;
use super::grants::{Grant, Grants};
use crate::pg::invalidation::Watch;
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::{identity, setting};
use crate::settings;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The schema of the role tables.
pub const SCHEMA: &str = "busymate_stats";

/// Callers kept per backend; at one more, all are dropped. Realtime asks for thousands in a row, a pooled connection
/// for a few hundred.
const CACHED_CALLERS: usize = 1024;

/// Claims longer than this are looked up at every call rather than kept.
const CACHED_CLAIMS_BYTES: usize = 8 * 1024;

type Key = (pg_sys::Oid, Vec<u8>);

#[derive(Default)]
struct Cache {
    generation: u64,
    callers: HashMap<Key, Rc<Grants>>,
}

static GRANT_TABLES: Watch = Watch::new();

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// What the caller holds at this moment.
pub fn caller_grants() -> Rc<Grants> {
    // Code that reading a relation runs is its owner's, and must gain nothing from who reads: neither a superuser's
    // rights nor what the session's claims stand for.
    if identity::is_restricted() && !identity::bypasses_rls(identity::current_role()) {
        return Rc::default();
    }
    // First of all, for it takes in what others have committed: a role's attributes change too.
    let generation = GRANT_TABLES.generation();
    let role = identity::outer_role();
    if identity::bypasses_rls(role) {
        return Rc::new(Grants::everything());
    }
    let Some(claims) = setting::read(settings::CLAIMS) else {
        return Rc::default();
    };
    let key = (role, claims);
    if let Some(grants) = cached(generation, &key) {
        return grants;
    }
    let Some(grants) = look_up(&key.1) else {
        // Nothing would tell of the tables' coming, so this answer is not kept.
        return Rc::default();
    };
    let grants = Rc::new(grants);
    // A change that came in during the look-up may or may not be in it: then nothing is kept.
    if GRANT_TABLES.generation() == generation && key.1.len() <= CACHED_CLAIMS_BYTES {
        keep(generation, key, Rc::clone(&grants));
    }
    grants
}

fn cached(generation: u64, key: &Key) -> Option<Rc<Grants>> {
    CACHE.with_borrow_mut(|cache| {
        if cache.generation != generation {
            cache.callers.clear();
            cache.generation = generation;
        }
        cache.callers.get(key).cloned()
    })
}

fn keep(generation: u64, key: Key, grants: Rc<Grants>) {
    CACHE.with_borrow_mut(|cache| {
        if cache.callers.len() >= CACHED_CALLERS {
            cache.callers.clear();
        }
        cache.generation = generation;
        cache.callers.insert(key, grants);
    });
}

/// `None` where the extension is not installed.
fn look_up(claims: &[u8]) -> Option<Grants> {
    let user_roles = find_relation(SCHEMA, "user_roles")?;
    let role_capabilities = find_relation(SCHEMA, "role_capabilities")?;
    // Watched before they are read, so that no change falls between.
    GRANT_TABLES.watch([Some(user_roles), Some(role_capabilities), None, None]);
    let Some(sub) = claims::subject(claims) else {
        return Some(Grants::default());
    };
    let mut roles = Vec::new();
    let index = find_relation(SCHEMA, "user_roles_pkey");
    scan(user_roles, index, Some(sub.as_bytes()), Seen::Latest, |row| roles.push(row.text(2)));
    Some(Grants::new(roles.iter().flat_map(|role| grants_of(role)).collect()))
}

/// What `role` grants at this moment.
pub fn role_grants(role: &str) -> Grants {
    Grants::new(grants_of(role.as_bytes()))
}

fn grants_of(role: &[u8]) -> Vec<Grant> {
    let mut grants = Vec::new();
    if let Some(table) = find_relation(SCHEMA, "role_capabilities") {
        let index = find_relation(SCHEMA, "role_capabilities_pkey");
        scan(table, index, Some(role), Seen::Latest, |row| {
            grants.push(Grant {
                section: lossy(row.text(2)),
                action: lossy(row.text(3)),
                via_role: Some(lossy(role.to_vec())),
            });
        });
    }
    grants
}

/// Whether `role` is one of those that the extension brings.
pub fn is_builtin(role: &str) -> bool {
    let mut builtin = false;
    if let Some(table) = find_relation(SCHEMA, "roles") {
        let index = find_relation(SCHEMA, "roles_pkey");
        scan(table, index, Some(role.as_bytes()), Seen::Latest, |row| builtin |= row.bool(3));
    }
    builtin
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
