//! What the torture needs and no user gets: the sealer's steps one by one, which way answers were come by, and variants
//! of the library that are broken on purpose, each of which the torture must find. Nothing of it is left without the
//! feature `torture`.

/// A rule of the sealed window that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "torture"), allow(dead_code))]
pub enum Mutant {
    /// The sealer does not wait for those who were writing.
    NoDrain,
    /// The sealer looks who is writing after it has taken its snapshot.
    LookInSnapshot,
    /// A writer reads the threshold under its statement's snapshot.
    ThresholdOfStatement,
    /// The look for writers comes before the threshold is published, for all that is published after the first.
    ThresholdUnpublished,
    /// A reader looks for a rebuild and for markers under its own snapshot only.
    RebuildOfStatement,
    /// Nothing of the relation is part of what a state holds for.
    FingerprintUnseen,
    /// Markers are not looked for at all.
    MarkersUnseen,
    /// A top list answers without regard to the keys outside of it.
    LimitIgnored,
    /// A reader adds late changes beyond the boundary too.
    LateBeyond,
    /// A reader takes late changes for folded in that are not.
    LateForgotten,
    /// A call from inside a statement that writes is answered from what is sealed.
    InsideStatement,
    /// A row that is late in a file which a TRUNCATE may still empty in place is written down like any other.
    NewFileTrusted,
    /// The file of a leaf is no part of what a state holds for.
    LeafFileUnseen,
    /// A partition with rows in the windows may go.
    RecentLeafGone,
    /// A partition that comes is taken for empty.
    FullLeafTrusted,
    /// What was counted of a partition stays when it has gone.
    GoneLeafCounted,
    /// Late changes of a partition that has gone are counted.
    GoneLeafNotIgnored,
    /// The sealer looks for writers on the root alone.
    LeafWritersUnseen,
    /// The roster's sealer does not wait for those who were writing.
    RosterNoDrain,
    /// The roster's sealer looks who is writing after it has taken its snapshot.
    RosterLookInSnapshot,
    /// A writer of devices keeps the threshold that it has read once.
    RosterThresholdKept,
    /// The devices' file is no part of what was counted for.
    RosterFileUnseen,
    /// Whether the trigger on devices was disabled meanwhile is no part of what was counted for.
    RosterTriggerUnseen,
    /// The roster's sealer looks what the relation is like after it has taken its snapshot.
    RosterPrintInSnapshot,
    /// A reader takes a moment that the count does not tell apart for one that it does.
    RosterMomentUnchecked,
    /// A backend's moved copy of a version is used whatever late changes are seen.
    MovedBaseTrusted,
    /// A reader leaves out what has changed since the count.
    RosterChangesForgotten,
    /// A writer keeps the threshold that it has read once for the whole transaction.
    ThresholdOfTransaction,
    /// Any table's rows count whose trigger is ours.
    AnyTableCounts,
    /// What is written early takes changes along that an outer subtransaction has noted.
    PieceOfParents,
    /// A reader adds what its transaction has noted, however old its snapshot is.
    CommandIgnored,
    /// A reader leaves out what its transaction has noted.
    OwnForgotten,
    /// A pack goes once its first change is behind the boundary.
    PackRemovedWhole,
    /// Tables that inherit from entries are not looked for.
    ChildrenUnseen,
    /// Whether the trigger on entries was disabled meanwhile is no part of what a state holds for.
    TriggerVersionUnseen,
    /// Whether a partition with a trigger of its own was away is no part of what a state holds for.
    AwayUnseen,
}

#[cfg(feature = "torture")]
mod hooks;
#[cfg(feature = "torture")]
pub use hooks::{broken, clock, kept_for_transaction, note_roster_way, note_way, register};

#[cfg(not(feature = "torture"))]
mod hooks {
    use super::Mutant;

    /// Whether a rule is broken: never.
    pub const fn broken(_: Mutant) -> bool {
        false
    }

    /// The clock that the sealer goes by.
    pub fn clock() -> i64 {
        pgrx::datetime::clock_timestamp().into_inner()
    }

    /// Remembers which way an answer was come by: nobody asks.
    pub fn note_way<T>(_: &Result<T, String>) {}

    /// The same of how the devices' figures were come by.
    pub fn note_roster_way<E>(_: &Result<(), E>) {}

    /// What `read` gives.
    pub fn kept_for_transaction<T>(read: impl FnOnce() -> T) -> T {
        read()
    }

    /// Defines the torture's settings: there are none.
    pub fn register() {}
}
#[cfg(not(feature = "torture"))]
pub use hooks::{broken, clock, kept_for_transaction, note_roster_way, note_way, register};
