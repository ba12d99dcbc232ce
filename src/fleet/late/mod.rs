//! Late changes: what writers change in rows before the capture threshold, on its way from the trigger that notes it to the
//! reader and the sealer that add it up.
//!
//! `pack` is the format and `sum` adds up what is packed, both pure. `pending` keeps a transaction's own late changes until
//! it commits, `table` has everybody's.

pub mod pack;
pub mod pending;
pub mod sum;
pub mod table;
