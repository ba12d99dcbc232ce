//! What the relation of entries is like, as far as it decides whether it can be sealed and what is sealed still holds.
//!
//! Entries are one table, or a tree: of partitions, or of tables that inherit, as the chunks of a hypertable do. The tables that
//! hold rows are its leaves, and a plain table is its own only leaf. The columns of the root are part of every state, and so
//! is each leaf that a state has counted. A leaf that has gone takes its count with it; one that has come must have come
//! empty. Anything else, and all is counted anew.

use super::attachment::{Attachment, attach_again};
use super::clock::{DAY, Timestamp, before};
use super::hypertable;
use super::sealed::state::{State, reads_the_same_everywhere, type_obstacle};
use super::triggers::{CAPTURE_FUNCTION, CAPTURE_TRIGGER, FROZEN_FUNCTION, FROZEN_TRIGGER};
use crate::pg::catalog::{Version, column_version, has_children, trigger_version};
use crate::pg::identity::database_is_utf8;
use crate::pg::inheritance::{checked_until, children_of, place_below};
use crate::pg::partition::{generation, lock_for_reading, partitions_of, watch, watch_all};
use crate::pg::relation::{
    LockedRelation, column_number, column_type, is_being_changed_here, is_not_null, is_virtual, lock,
    lock_for_reading_now, triggers,
};
use crate::pg::scan::{Seen, find_relation, scan};
use crate::schemas::INTERNAL;
use crate::torture::{self, Mutant, broken};
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How often a tree that changes while it is looked at is looked at again.
const TRIES: usize = 10;

/// What a state has counted of a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The file that holds it: another one after a TRUNCATE or a rewrite.
    pub file: u32,
    /// What else it was like.
    pub fingerprint: u64,
    /// The first moment that none of its rows can have; the end of time where nothing is known.
    pub until: Timestamp,
    /// Its rows before the state's boundary.
    pub count: i64,
}

/// The leaves of a state by OID.
pub type Leaves = BTreeMap<u32, Leaf>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct LeafNow {
    file: u32,
    fingerprint: u64,
    until: Timestamp,
    trigger: pg_sys::Oid,
    since: Since,
    is_heap: bool,
}

/// Another one once rows may have come into a table without its trigger telling: that was changed, or the table was away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since(String);

impl Since {
    /// Of a leaf below `root` with this version of its trigger.
    pub fn of(root: pg_sys::Oid, leaf: pg_sys::Oid, trigger: Version) -> Self {
        Self(format!("{trigger}{}", place_below(root, leaf)))
    }

    /// As it is remembered.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// What the relation of entries is like now.
pub struct Shape(Rc<Tree>);

struct Tree {
    of: Attachment,
    generation: u64,
    /// Whether there is more than the one table.
    is_tree: bool,
    /// What stands below the root, each after its parent.
    below: Vec<pg_sys::Oid>,
    leaves: BTreeMap<u32, LeafNow>,
    fingerprint: String,
}

thread_local! {
    static KEPT: RefCell<Option<Rc<Tree>>> = const { RefCell::new(None) };
}

/// The shape of entries that are locked, with every partition locked too; or why they cannot be sealed.
pub fn shape(entries: &LockedRelation, fleet: &Attachment) -> Result<Shape, String> {
    shape_with(entries, fleet, |oid| {
        lock_for_reading(oid);
        true
    })
}

/// The same, but nothing waits.
pub fn shape_now(entries: &LockedRelation, fleet: &Attachment) -> Result<Shape, String> {
    shape_with(entries, fleet, lock_for_reading_now)
}

fn shape_with(
    entries: &LockedRelation,
    fleet: &Attachment,
    lock: impl Fn(pg_sys::Oid) -> bool,
) -> Result<Shape, String> {
    let locked = |oid| if lock(oid) { Ok(()) } else { Err("a partition is locked".to_owned()) };
    for _ in 0..TRIES {
        let kept = KEPT.with_borrow(|kept| kept.clone().filter(|tree| tree.of == *fleet));
        let tree = match kept.filter(|tree| tree.generation == generation()) {
            Some(tree) => {
                tree.below.iter().try_for_each(|oid| locked(*oid))?;
                tree
            }
            None => {
                KEPT.set(None);
                watch_all();
                let begun = generation();
                let tree = Rc::new(grow(entries, fleet, begun, &locked)?);
                watch(std::iter::once(entries.oid).chain(tree.below.iter().copied()));
                KEPT.set(Some(Rc::clone(&tree)));
                tree
            }
        };
        if tree.generation == generation() {
            return Ok(Shape(tree));
        }
    }
    Err("partitions are changing".into())
}

/// Looks at a tree from its root down.
fn grow(
    root: &LockedRelation,
    fleet: &Attachment,
    generation: u64,
    locked: &impl Fn(pg_sys::Oid) -> Result<(), String>,
) -> Result<Tree, String> {
    let inherited = root.kind == b'r' && has_children(root.oid) && !broken(Mutant::ChildrenUnseen);
    let mut tree = Tree {
        of: fleet.clone(),
        generation,
        is_tree: root.kind == b'p' || inherited,
        below: Vec::new(),
        leaves: BTreeMap::new(),
        fingerprint: columns_fingerprint(root, fleet)?,
    };
    if root.kind != b'p' {
        tree.leaves.insert(root.oid.to_u32(), leaf(root, fleet, Timestamp::MAX)?);
        if inherited {
            // What was counted of one table is not by leaf.
            tree.fingerprint.push_str(" and what inherits");
            grow_by_inheritance(&mut tree, root, fleet, locked)?;
            if let Some(reason) = hypertable::obstacle(root) {
                return Err(reason);
            }
        }
        return Ok(tree);
    }
    let (mut parents, mut relations) = (vec![(root.oid, Timestamp::MAX)], Vec::new());
    while let Some((parent, until)) = parents.pop() {
        let partitions = partitions_of(parent, column_number(parent, &fleet.entry_time));
        if partitions.detaching {
            return Err("a partition is being detached".into());
        }
        for partition in partitions.list {
            locked(partition.oid)?;
            tree.below.push(partition.oid);
            let until = partition.until.map_or(until, |own| own.min(until));
            let Some(relation) = lock(partition.oid) else {
                return Err("partitions are changing".into());
            };
            if relation.kind == b'p' {
                parents.push((partition.oid, until));
            } else {
                tree.leaves.insert(partition.oid.to_u32(), leaf(&relation, fleet, until)?);
                relations.push(relation);
            }
        }
    }
    // Each is asked by itself then, as its owner.
    if tree.leaves.values().any(|leaf| !leaf.is_heap)
        && let Some(leaf) = relations.iter().find(|leaf| leaf.force_row_security || leaf.owner != root.owner)
    {
        return Err(format!(
            "{} has an owner of its own, or policies that hide rows from its owner",
            leaf.name
        ));
    }
    Ok(tree)
}

fn grow_by_inheritance(
    tree: &mut Tree,
    root: &LockedRelation,
    fleet: &Attachment,
    locked: &impl Fn(pg_sys::Oid) -> Result<(), String>,
) -> Result<(), String> {
    for child in children_of(root.oid) {
        locked(child)?;
        tree.below.push(child);
        let Some(relation) = lock(child) else {
            return Err("inheriting tables are changing".into());
        };
        // INHERIT does not wait for transactions that have written below the table that it moves.
        if has_children(child) {
            return Err(format!("tables inherit from {}, which itself inherits", relation.name));
        }
        let until = checked_until(child, column_number(child, &fleet.entry_time));
        tree.leaves.insert(child.to_u32(), leaf(&relation, fleet, until.unwrap_or(Timestamp::MAX))?);
    }
    Ok(())
}

fn leaf(relation: &LockedRelation, fleet: &Attachment, until: Timestamp) -> Result<LeafNow, String> {
    let name = &relation.name;
    match relation.kind {
        b'r' => {}
        b'f' => return Err(format!("{name} is a foreign table")),
        _ => return Err(format!("{name} is not a table")),
    }
    if relation.unlogged {
        return Err(format!("{name} is unlogged, so a crash would empty it unseen"));
    }
    let (wanted, function) = if relation.is_heap {
        (CAPTURE_TRIGGER, CAPTURE_FUNCTION)
    } else {
        // Its rows are not followed one by one: whatever is done to any has all counted anew.
        if until > before(torture::clock(), DAY) {
            return Err(format!(
                "{name} is kept by another access method than heap, and may have entries of the last 24 hours"
            ));
        }
        (FROZEN_TRIGGER, FROZEN_FUNCTION)
    };
    let found = triggers(relation.oid)
        .into_iter()
        .find(|trigger| trigger.name == wanted && trigger.function == function);
    let Some(trigger) = found else {
        return Err(format!("trigger {wanted} is missing on {name}"));
    };
    if !trigger.always {
        return Err(format!("trigger {wanted} is disabled on {name}"));
    }
    let is_as_made = if relation.is_heap {
        trigger.fires_after_each_row && trigger.arguments == [fleet.entry_time.as_str()]
    } else {
        trigger.fires_before_each_row
    };
    if !trigger.unconditional || !is_as_made {
        return Err(format!("trigger {wanted} on {name} is not as attach() makes it"));
    }
    let version = match trigger_version(relation.oid, wanted) {
        Some(_) if broken(Mutant::TriggerVersionUnseen) => Some((trigger.oid.to_u32(), Version::default())),
        found => found,
    };
    let file = if broken(Mutant::LeafFileUnseen) { 0 } else { relation.file };
    let (trigger_oid, version) = version.unwrap_or((0, Version::default()));
    let since = if broken(Mutant::AwayUnseen) {
        Since(version.to_string())
    } else {
        Since::of(fleet.entries, relation.oid, version)
    };
    // The trigger's own OID: a partition that was away and is back has a new one, if it is a copy of its parent's.
    let fingerprint = format!("{trigger_oid} {} {}", since.text(), columns_fingerprint(relation, fleet)?);
    let hash = Sha256::digest(fingerprint.as_bytes());
    let fingerprint = hash.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    Ok(LeafNow { file, fingerprint, until, trigger: trigger.oid, since, is_heap: relation.is_heap })
}

/// What a relation's counted columns are like, or why their rows cannot be counted ahead. The versions of their rows in the
/// catalog are part of it: doing something to a column and undoing it makes another version.
fn columns_fingerprint(relation: &LockedRelation, fleet: &Attachment) -> Result<String, String> {
    if !database_is_utf8() {
        return Err("the database's encoding is not UTF8".into());
    }
    let name = &relation.name;
    if !matches!(relation.kind, b'r' | b'p') {
        return Err(format!("{name} is not a table"));
    }
    let mut fingerprint = relation.oid.to_u32().to_string();
    for (place, column) in fleet.counted_columns().into_iter().enumerate() {
        let number = column_number(relation.oid, column);
        if number <= 0 {
            return Err(format!(
                "column \"{column}\" is missing in {name}. {}",
                attach_again(Attachment::COUNTED_ARGUMENTS[place])
            ));
        }
        if place == 0 && !is_not_null(relation.oid, number) {
            return Err(format!("column \"{column}\" of {name} may be null"));
        }
        if is_virtual(relation.oid, number) {
            return Err(format!("column \"{column}\" of {name} is computed when it is read"));
        }
        let kind = column_type(relation.oid, number);
        if place != 0 && place != 2 && !reads_the_same_everywhere(kind) {
            return Err(type_obstacle(column, name, kind));
        }
        let version = column_version(relation.oid, number);
        fingerprint.push_str(&format!(" {number}:{} {version:?}", kind.to_u32()));
    }
    Ok(fingerprint)
}

/// Every relation that a writer into entries may hold a lock on, as of this moment; none of them is locked.
pub fn members(entries: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut members = vec![entries];
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        next += 1;
        let found = match lock(parent).map(|relation| relation.kind) {
            Some(b'p') => partitions_of(parent, 0).list.iter().map(|partition| partition.oid).collect(),
            Some(b'r') if has_children(parent) => children_of(parent),
            _ => Vec::new(),
        };
        for member in found {
            if !members.contains(&member) {
                members.push(member);
            }
        }
    }
    members
}

impl Shape {
    /// Whether nothing has been added since: ATTACH PARTITION and INHERIT do not wait for readers. VACUUM and ANALYZE send
    /// the same messages, and change nothing.
    pub fn still_holds(&self, entries: &LockedRelation, fleet: &Attachment) -> bool {
        if self.0.generation == generation() {
            return true;
        }
        let now = shape_now(entries, fleet);
        now.is_ok_and(|Shape(now)| now.fingerprint == self.0.fingerprint && now.leaves == self.0.leaves)
    }

    /// Whether what a state has counted still holds, or why not.
    pub fn agrees_with(&self, state: &State) -> Result<(), String> {
        let tree = &self.0;
        if state.fingerprint != tree.fingerprint {
            return Err("the relation has changed since".into());
        }
        let counted = &state.maps.leaves;
        let mut new = Vec::new();
        for (oid, now) in &tree.leaves {
            match counted.get(oid) {
                Some(leaf) if leaf.file != now.file => return Err(tree.told_of("was emptied or rewritten")),
                Some(leaf) if leaf.fingerprint != now.fingerprint => {
                    return Err(tree.told_of("has changed since"));
                }
                Some(_) => {}
                None => new.push((*oid, now)),
            }
        }
        let windows = state.day().from;
        let gone_from_windows =
            counted.iter().any(|(oid, leaf)| !tree.leaves.contains_key(oid) && leaf.until > windows);
        if gone_from_windows && !broken(Mutant::RecentLeafGone) {
            return Err("a partition with entries of the last 24 hours has gone".into());
        }
        if !new.is_empty() && !broken(Mutant::FullLeafTrusted) && !came_empty(&new) {
            return Err("a partition has come with entries in it".into());
        }
        Ok(())
    }

    /// What a state that counts these relations carries of them.
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// The leaves that a state counts from now on, with what it has counted of them.
    pub fn leaves(&self, counted: &Leaves) -> Leaves {
        let leaf = |(oid, now): (&u32, &LeafNow)| {
            let count = counted.get(oid).map_or(0, |leaf| leaf.count);
            (*oid, Leaf { file: now.file, fingerprint: now.fingerprint, until: now.until, count })
        };
        self.0.leaves.iter().map(leaf).collect()
    }

    /// What a state has counted in total, without what has gone since.
    pub fn total(&self, state: &State) -> i64 {
        if !self.0.is_tree {
            return state.total;
        }
        let stays = |oid| broken(Mutant::GoneLeafCounted) || self.0.leaves.contains_key(oid);
        let present = state.maps.leaves.iter().filter(|(oid, _)| stays(*oid));
        present.map(|(_, leaf)| leaf.count).sum()
    }

    /// Whether the entries are more than one table.
    pub fn is_tree(&self) -> bool {
        self.0.is_tree
    }

    /// The tables that hold the entries, where some are kept by another access method than heap.
    pub fn tables_of_several_methods(&self) -> Option<Vec<pg_sys::Oid>> {
        let leaves = &self.0.leaves;
        leaves
            .values()
            .any(|leaf| !leaf.is_heap)
            .then(|| leaves.keys().map(|oid| pg_sys::Oid::from(*oid)).collect())
    }

    /// Whether a late change to a row of the table with this OID counts: a partition may have left since.
    pub fn counts(&self, table: u32) -> bool {
        broken(Mutant::GoneLeafNotIgnored) || self.0.leaves.contains_key(&table)
    }

    /// Whether a statement of this session that has not ended may be changing a partition.
    pub fn is_being_changed_here(&self) -> bool {
        self.0.below.iter().any(|oid| is_being_changed_here(*oid))
    }
}

impl Tree {
    fn told_of(&self, what: &str) -> String {
        format!("{} {what}", if self.is_tree { "a partition" } else { "the table" })
    }
}

/// Whether each of these is known to have joined without a row in it, and to have had its trigger since.
fn came_empty(leaves: &[(u32, &LeafNow)]) -> bool {
    let Some(table) = find_relation(INTERNAL, "seal_partitions") else {
        return false;
    };
    let mut known = Vec::new();
    scan(table, None, None, Seen::Latest, |row| {
        known.push((row.oid(1).to_u32(), row.oid(2).to_u32(), row.oid(3), row.text(4)));
    });
    leaves.iter().all(|(oid, now)| {
        known.contains(&(*oid, now.file, now.trigger, now.since.text().as_bytes().to_vec()))
    })
}
