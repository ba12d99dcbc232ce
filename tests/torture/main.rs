//! Schedules drawn at random, and interleavings led step by step, against a library with hooks for them.

mod late_changes;
mod mutants;
mod partitions;
mod races;
mod rig;
mod roster_races;
mod roster_rig;
mod roster_schedules;
mod schedules;
mod sealed_races;
mod sealed_upkeep;
