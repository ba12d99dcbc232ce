//! The caller's grants, looked up once and kept until something changes them.

use super::claims::{self, Claims};
use super::grants::{Grant, Grants, lossy};
use crate::pg::question::{Caller, DEPENDENCIES};
use crate::pg::relation::lock_object;
use crate::pg::scan::{Seen, find_relation, scan};
use crate::pg::transaction::see_own_changes;
use crate::pg::{identity, setting};
use crate::schemas::OPERATORS;
use crate::settings;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// Callers kept per backend; at one more, all are dropped. Realtime asks for thousands in a row, a pooled connection
/// for a few hundred.
const CACHED_CALLERS: usize = 1024;

/// Claims longer than this are looked up at every call rather than kept.
const CACHED_CLAIMS_BYTES: usize = 8 * 1024;

/// The roles and the claims that stand for a caller.
type Key = (pg_sys::Oid, pg_sys::Oid, Vec<u8>);

#[derive(Default)]
struct Cache {
    generation: u64,
    callers: HashMap<Key, Rc<Grants>>,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// What the caller holds at this moment.
pub fn caller_grants() -> Rc<Grants> {
    caller().0
}

/// What the caller holds at this moment, and who it is, where the same one holds the same until something changes.
pub fn caller() -> (Rc<Grants>, Option<Caller>) {
    // Code that reading a relation runs is its owner's, and must gain nothing from who reads: neither a superuser's
    // rights nor what the session's claims stand for.
    if identity::is_restricted() && !identity::bypasses_rls(identity::current_role()) {
        return Default::default();
    }
    // Before anything is kept, whatever it depends on: a superuser's answers depend on no relation.
    DEPENDENCIES.watch_roles();
    // First of all, for it takes in what others have committed: a role's attributes change too.
    let generation = DEPENDENCIES.generation();
    let role = identity::outer_role();
    let bypasses_rls = identity::bypasses_rls(role);
    let Some(claims) = setting::read(settings::CLAIMS) else {
        return (if bypasses_rls { Grants::everything() } else { Grants::default() }.into(), None);
    };
    let session = identity::session_role();
    let (grants, caller) = if bypasses_rls {
        (Grants::everything().into(), Caller { generation, role, session, setting: claims })
    } else {
        let key = (role, session, claims);
        let Some(grants) = cached(generation, &key).or_else(|| find(generation, &key)) else {
            // Nothing would tell of the tables' coming, so this answer is not kept.
            return Default::default();
        };
        (grants, Caller { generation, role, session, setting: key.2 })
    };
    (grants, (!identity::is_restricted()).then_some(caller))
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

/// Looks up what is not cached, and caches it.
fn find(generation: u64, key: &Key) -> Option<Rc<Grants>> {
    let grants = Rc::new(look_up(key.1, &key.2)?);
    // A change that came in during the look-up may or may not be in it: then nothing is kept.
    if DEPENDENCIES.generation() == generation && key.2.len() <= CACHED_CLAIMS_BYTES {
        CACHE.with_borrow_mut(|cache| {
            if cache.callers.len() >= CACHED_CALLERS {
                cache.callers.clear();
            }
            cache.generation = generation;
            cache.callers.insert(key.clone(), Rc::clone(&grants));
        });
    }
    Some(grants)
}

/// `None` where the extension is not installed.
fn look_up(session: pg_sys::Oid, claims: &[u8]) -> Option<Grants> {
    let user_roles = find_relation(OPERATORS, "user_roles")?;
    let role_capabilities = find_relation(OPERATORS, "role_capabilities")?;
    let revoked_tokens = find_relation(OPERATORS, "revoked_tokens")?;
    // Watched before they are read, so that no change falls between.
    DEPENDENCIES.watch([Some(user_roles), Some(role_capabilities), Some(revoked_tokens), None]);
    let Some(claims) = trusted(session, claims) else {
        return Some(Grants::default());
    };
    if claims.jti.is_some_and(|jti| is_revoked(revoked_tokens, &jti)) {
        return Some(Grants::default());
    }
    let mut roles: BTreeSet<Vec<u8>> = claims.roles.into_iter().map(String::into_bytes).collect();
    if let Some(sub) = claims.sub {
        let index = find_relation(OPERATORS, "user_roles_pkey");
        scan(user_roles, index, Some(sub.as_bytes()), Seen::Latest, |row| roles.extend([row.text(2)]));
    }
    Some(Grants::new(roles.iter().flat_map(|role| grants_of(role)).collect()))
}

/// What `claims` say, where a session of this role may carry any.
fn trusted(session: pg_sys::Oid, claims: &[u8]) -> Option<Claims> {
    let logins = settings::claims_trusted_from();
    let is_trusted =
        logins.is_empty() || identity::role_name(session).is_some_and(|login| logins.name(&login));
    is_trusted.then(|| claims::read(claims, settings::role_claim().as_ref())).flatten()
}

fn is_revoked(revoked_tokens: pg_sys::Oid, jti: &str) -> bool {
    let mut revoked = false;
    let index = find_relation(OPERATORS, "revoked_tokens_pkey");
    scan(revoked_tokens, index, Some(jti.as_bytes()), Seen::Latest, |_| revoked = true);
    revoked
}

/// Who acts, to be written down: the user that the claims name, or else the database role.
pub fn actor() -> String {
    let claims = setting::read(settings::CLAIMS);
    claims
        .and_then(|claims| trusted(identity::session_role(), &claims)?.sub)
        // PostgreSQL has no text with a NUL in it.
        .filter(|sub| !sub.contains('\0'))
        .or_else(|| identity::role_name(identity::outer_role()))
        .unwrap_or_default()
}

/// What `role` grants at this moment.
pub fn role_grants(role: &str) -> Grants {
    Grants::new(grants_of(role.as_bytes()))
}

fn grants_of(role: &[u8]) -> Vec<Grant> {
    let mut grants = Vec::new();
    if let Some(table) = find_relation(OPERATORS, "role_capabilities") {
        let index = find_relation(OPERATORS, "role_capabilities_pkey");
        scan(table, index, Some(role), Seen::Latest, |row| {
            grants.push(Grant {
                section: row.text(2),
                action: row.text(3),
                via_role: Some(lossy(role).into_owned()),
            });
        });
    }
    grants
}

/// Whether `role` is one of those that the extension brings.
pub fn is_builtin(role: &str) -> bool {
    let mut builtin = false;
    if let Some(table) = find_relation(OPERATORS, "roles") {
        let index = find_relation(OPERATORS, "roles_pkey");
        scan(table, index, Some(role.as_bytes()), Seen::Latest, |row| builtin |= row.bool(3));
    }
    builtin
}

/// Whether anybody has `role`: before the running statement, or at this moment.
pub fn is_assigned(role: &str) -> bool {
    [Seen::Statement, Seen::Latest].into_iter().any(|seen| assigned_roles(seen).contains(role.as_bytes()))
}

/// Whether anybody has a role that grants everything, at this moment.
pub fn is_anybody_assigned_everything() -> bool {
    assigned_roles(Seen::Latest).iter().any(|role| Grants::new(grants_of(role)).hold("*", "*"))
}

fn assigned_roles(seen: Seen) -> BTreeSet<Vec<u8>> {
    let mut roles = BTreeSet::new();
    if let Some(table) = find_relation(OPERATORS, "user_roles") {
        scan(table, None, None, seen, |row| {
            roles.insert(row.text(2));
        });
    }
    roles
}

/// Waits for whoever else has called this in a transaction that has not ended, so that what they did is seen from here
/// on; so is what the running statement has done.
pub fn serialize_assignments() {
    if let Some(table) = find_relation(OPERATORS, "user_roles") {
        lock_object(table);
    }
    see_own_changes();
}
