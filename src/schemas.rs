//! The schemas that the extension's objects are in.

/// What operators call and read.
pub const OPERATORS: &str = "busymate_stats";

/// What only the extension itself uses: nobody else is ever granted anything here.
pub const INTERNAL: &str = "busymate_stats_internal";
