//! What the relation of entries is like, as far as it decides whether it can be sealed and what is sealed still holds:
//! a plain table, or a tree of partitions.
//!
//! The columns of a tree's root are part of every state, and so is each leaf that a state has counted. A leaf that has
//! gone takes its count with it; one that has come must have come empty. Anything else, and all is counted anew.

use super::attachment::Attachment;
use super::clock::Timestamp;
use super::sealed::state::{ROW_FUNCTION, ROW_TRIGGER, State, change_of_table, columns_print, fingerprint};
use crate::pg::partition::{generation, lock_for_reading, partitions_of, watch, watch_all};
use crate::pg::relation::{
    LockedRelation, column_number, is_being_changed_here, lock, lock_for_reading_now, triggers,
};
use crate::pg::scan::{Seen, find_relation, scan};
use crate::torture::{Mutant, broken};
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
    /// What it was like.
    pub print: u64,
    /// The first moment that none of its rows can have; the end of time where nothing is known.
    pub until: Timestamp,
    /// Its rows before the state's boundary.
    pub count: i64,
}

/// The leaves of a state by OID.
pub type Leaves = BTreeMap<u32, Leaf>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct LeafNow {
    print: u64,
    until: Timestamp,
    file: u32,
    trigger: pg_sys::Oid,
}

/// What the relation of entries is like now.
pub struct Shape {
    /// Of the relation itself.
    pub print: String,
    tree: Option<Rc<Tree>>,
}

struct Tree {
    of: Attachment,
    generation: u64,
    /// The root and what stands between it and the leaves.
    inner: Vec<pg_sys::Oid>,
    /// What stands below the root, each after its parent.
    below: Vec<pg_sys::Oid>,
    leaves: BTreeMap<u32, LeafNow>,
    print: String,
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
    if entries.kind != b'p' {
        return Ok(Shape { print: fingerprint(entries, fleet)?, tree: None });
    }
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
                watch(tree.inner.iter().chain(&tree.below).copied());
                KEPT.set(Some(Rc::clone(&tree)));
                tree
            }
        };
        if tree.generation == generation() {
            return Ok(Shape { print: tree.print.clone(), tree: Some(tree) });
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
    let mut tree = Tree {
        of: fleet.clone(),
        generation,
        inner: vec![root.oid],
        below: Vec::new(),
        leaves: BTreeMap::new(),
        print: columns_print(root, fleet)?,
    };
    let mut parents = vec![(root.oid, Timestamp::MAX)];
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
                tree.inner.push(partition.oid);
                parents.push((partition.oid, until));
            } else {
                tree.leaves.insert(partition.oid.to_u32(), leaf(&relation, fleet, until)?);
            }
        }
    }
    Ok(tree)
}

fn leaf(relation: &LockedRelation, fleet: &Attachment, until: Timestamp) -> Result<LeafNow, String> {
    if relation.kind != b'r' {
        return Err(format!("partition {} is a foreign table", relation.name));
    }
    if relation.unlogged {
        return Err(format!("{} is unlogged, so a crash would empty it unseen", relation.name));
    }
    let found = triggers(relation.oid)
        .into_iter()
        .find(|trigger| trigger.name == ROW_TRIGGER && trigger.function == ROW_FUNCTION);
    let Some(trigger) = found else {
        return Err(format!("trigger {ROW_TRIGGER} is missing on {}", relation.name));
    };
    if !trigger.always {
        return Err(format!("trigger {ROW_TRIGGER} is disabled on {}", relation.name));
    }
    if !trigger.unconditional || trigger.arguments != [fleet.entry_time.as_str()] {
        return Err(format!("trigger {ROW_TRIGGER} on {} is not as attach() makes it", relation.name));
    }
    let file = if broken(Mutant::LeafFileUnseen) { 0 } else { relation.file };
    // The trigger's own OID: a partition that was away and is back has a new one.
    let print = format!("{file} {} {}", trigger.oid.to_u32(), columns_print(relation, fleet)?);
    let hash = Sha256::digest(print.as_bytes());
    let print = hash.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    Ok(LeafNow { print, until, file: relation.file, trigger: trigger.oid })
}

/// Every relation that a writer into entries may hold a lock on, as of this moment; none of them is locked.
pub fn members(entries: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut members = vec![entries];
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        next += 1;
        if let Some(relation) = lock(parent).filter(|relation| relation.kind == b'p') {
            members.extend(partitions_of(relation.oid, 0).list.iter().map(|partition| partition.oid));
        }
    }
    members
}

impl Shape {
    /// Whether nothing has been added since: ATTACH PARTITION does not wait for readers. VACUUM and ANALYZE send the same
    /// messages, and change nothing.
    pub fn still_holds(&self, entries: &LockedRelation, fleet: &Attachment) -> bool {
        let Some(tree) = self.tree.as_ref().filter(|tree| tree.generation != generation()) else {
            return true;
        };
        let now = shape_now(entries, fleet).ok().and_then(|shape| shape.tree);
        now.is_some_and(|now| now.print == tree.print && now.leaves == tree.leaves)
    }

    /// Whether what a state has counted still holds, or why not.
    pub fn agrees_with(&self, state: &State) -> Result<(), String> {
        if state.fingerprint != self.print {
            return Err(match self.tree {
                None => change_of_table(&state.fingerprint, &self.print).into(),
                Some(_) => "the relation has changed since".into(),
            });
        }
        let Some(tree) = &self.tree else {
            return Ok(());
        };
        let counted = &state.maps.leaves;
        let mut new = Vec::new();
        for (oid, now) in &tree.leaves {
            match counted.get(oid) {
                Some(leaf) if leaf.print == now.print => {}
                Some(_) => return Err("a partition has changed since".into()),
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

    /// The leaves that a state counts from now on, with what it has counted of them; none for a plain table.
    pub fn leaves(&self, counted: &Leaves) -> Leaves {
        let Some(tree) = &self.tree else {
            return Leaves::new();
        };
        let leaf = |(oid, now): (&u32, &LeafNow)| {
            let count = counted.get(oid).map_or(0, |leaf| leaf.count);
            (*oid, Leaf { print: now.print, until: now.until, count })
        };
        tree.leaves.iter().map(leaf).collect()
    }

    /// What a state has counted in total, without what has gone since.
    pub fn total(&self, state: &State) -> i64 {
        let Some(tree) = self.tree.as_ref().filter(|_| !broken(Mutant::GoneLeafCounted)) else {
            return state.total;
        };
        let present = state.maps.leaves.iter().filter(|(oid, _)| tree.leaves.contains_key(oid));
        present.map(|(_, leaf)| leaf.count).sum()
    }

    /// Whether these are partitioned entries.
    pub fn is_tree(&self) -> bool {
        self.tree.is_some()
    }

    /// Whether a late change to a row of `relation` counts: a partition may have left since.
    pub fn counts(&self, relation: pg_sys::Oid) -> bool {
        broken(Mutant::GoneLeafNotIgnored)
            || self.tree.as_ref().is_none_or(|tree| tree.leaves.contains_key(&relation.to_u32()))
    }

    /// Whether a statement of this session that has not ended may be changing a partition.
    pub fn is_being_changed_here(&self) -> bool {
        self.tree.as_ref().is_some_and(|tree| tree.below.iter().any(|oid| is_being_changed_here(*oid)))
    }
}

/// Whether each of these is known to have joined without a row in it, and to have had its trigger since.
fn came_empty(leaves: &[(u32, &LeafNow)]) -> bool {
    let Some(table) = find_relation("busymate_stats", "seal_partitions") else {
        return false;
    };
    let mut known = Vec::new();
    scan(table, None, None, Seen::Latest, |row| {
        known.push((row.oid(1).to_u32(), row.oid(2).to_u32(), row.oid(3)));
    });
    leaves.iter().all(|(oid, now)| known.contains(&(*oid, now.file, now.trigger)))
}
