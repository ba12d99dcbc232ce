//! Tables that inherit from others without being partitions: plain INHERITS, and the chunks of a TimescaleDB hypertable, which
//! come and go without an event trigger.

use super::catalog::{children, parents, parents_and_versions};
use super::partition::parent_of_partition;
use pgrx::pg_sys;
use std::collections::BTreeSet;

/// The relations that inherit straight from one that is locked, as they are now.
pub fn children_of(parent: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    children(parent)
}

/// Whether `relation` stands somewhere below `root`, as a partition or by inheritance.
pub fn stands_below(relation: pg_sys::Oid, root: pg_sys::Oid) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![relation];
    while let Some(relation) = next.pop() {
        let above = match parent_of_partition(relation) {
            Some(parent) => vec![parent],
            None => parents(relation),
        };
        for parent in above {
            if parent == root {
                return true;
            }
            if seen.insert(parent.to_u32()) {
                next.push(parent);
            }
        }
    }
    false
}

/// How `relation` stands below `root`: another text once it, or what stands between them, was elsewhere.
pub fn place_below(root: pg_sys::Oid, relation: pg_sys::Oid) -> String {
    let mut place = String::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![relation];
    while let Some(relation) = next.pop() {
        for (parent, version) in parents_and_versions(relation) {
            place.push_str(&format!(" {version}"));
            if parent != root && seen.insert(parent.to_u32()) {
                next.push(parent);
            }
        }
    }
    place
}

/// The first moment that no row of a locked table can have in its timestamptz column of that number, as far as a CHECK
/// constraint says so: `column < '…'`, by itself or with AND.
pub fn checked_until(relation: pg_sys::Oid, column: i16) -> Option<i64> {
    let mut until: Option<i64> = None;
    // SAFETY: the table is locked, and open while its constraints are read: an array as long as its count says, of expressions
    // as PostgreSQL writes them.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let constraints = (*(*opened).rd_att).constr;
        if !constraints.is_null() {
            for place in 0..usize::from((*constraints).num_check) {
                let check = &*(*constraints).check.add(place);
                if check.ccvalid {
                    let expression = pg_sys::stringToNode(check.ccbin).cast();
                    ends_of(expression, column, &mut until);
                }
            }
        }
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
    until
}

/// # Safety
/// `node` is an expression that has been analyzed.
unsafe fn ends_of(node: *mut pg_sys::Node, column: i16, until: &mut Option<i64>) {
    // SAFETY: a node's tag says what it is. A comparison has two arguments, and a constant of type timestamptz is a number.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_BoolExpr => {
                let both = &*node.cast::<pg_sys::BoolExpr>();
                if both.boolop == pg_sys::BoolExprType::AND_EXPR {
                    let list = &*both.args;
                    for place in 0..list.length as usize {
                        ends_of((*list.elements.add(place)).ptr_value.cast(), column, until);
                    }
                }
            }
            pg_sys::NodeTag::T_OpExpr => {
                let comparison = &*node.cast::<pg_sys::OpExpr>();
                let list = &*comparison.args;
                if pg_sys::get_opcode(comparison.opno).to_u32() != pg_sys::F_TIMESTAMPTZ_LT
                    || list.length != 2
                {
                    return;
                }
                let [left, right] =
                    [0, 1].map(|place| (*list.elements.add(place)).ptr_value.cast::<pg_sys::Node>());
                if (*left).type_ != pg_sys::NodeTag::T_Var || (*right).type_ != pg_sys::NodeTag::T_Const {
                    return;
                }
                let constant = &*right.cast::<pg_sys::Const>();
                if (*left.cast::<pg_sys::Var>()).varattno == column && !constant.constisnull {
                    let end = constant.constvalue.value() as i64;
                    *until = Some(until.map_or(end, |known| known.min(end)));
                }
            }
            _ => {}
        }
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::testing::{relation, run};
    use pgrx::prelude::*;

    #[pg_test]
    fn what_inherits_stands_below() {
        run("create temp table root (at timestamptz); create temp table other ()");
        run(
            "create temp table child () inherits (root, other); create temp table grandchild () inherits (child)",
        );
        let [root, other, child, grandchild] = ["root", "other", "child", "grandchild"].map(relation);
        assert_eq!(children_of(root), [child]);
        assert_eq!(children_of(child), [grandchild]);
        assert!(children_of(grandchild).is_empty());
        for above in [root, other, child] {
            assert!(stands_below(grandchild, above));
        }
        assert!(!stands_below(root, child) && !stands_below(root, root) && !stands_below(other, root));
    }

    #[pg_test]
    fn a_partition_stands_below_too() {
        run("create temp table root (number int) partition by list (number)");
        run("create temp table middle partition of root for values in (1) partition by list (number)");
        run("create temp table leaf partition of middle default");
        let [root, middle, leaf] = ["root", "middle", "leaf"].map(relation);
        assert!(stands_below(leaf, root) && stands_below(leaf, middle) && !stands_below(middle, leaf));
    }

    #[pg_test]
    fn a_check_says_where_a_table_ends() {
        run("create temp table bounded (gone int, at timestamptz, other timestamptz, naive timestamp)");
        run("alter table bounded drop column gone");
        let (table, year) = (relation("bounded"), 31_622_400_000_000);
        let check = |condition: &str| {
            run(&format!("alter table bounded add constraint c check ({condition})"));
            let until = checked_until(table, 2);
            run("alter table bounded drop constraint c");
            until
        };
        assert_eq!(checked_until(table, 2), None);
        assert_eq!(check("at >= '1999-01-01Z' and at < '2001-01-01Z'"), Some(year));
        assert_eq!(check("at < '2002-01-01Z' and (at < '2001-01-01Z' and at is not null)"), Some(year));
        for other in [
            "at < '2001-01-01Z' or other is null",
            "not (at < '2001-01-01Z')",
            "other < '2001-01-01Z'",
            "at <= '2001-01-01Z'",
            "at > '2001-01-01Z'",
            "at < other",
            "naive < '2001-01-01'",
            "(at + interval '1 day') < '2001-01-01Z'",
        ] {
            assert_eq!(check(other), None, "{other}");
        }
        run("alter table bounded add check (at < '2001-01-01Z') not valid");
        assert_eq!(checked_until(table, 2), None);
    }
}
