//! Writers of devices, the roster's sealer and readers in the orders that matter, step by step.

mod harness;
