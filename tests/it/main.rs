//! What the extension promises, tried on real servers. A folder a room; each file holds one promise and says which.

mod access;
mod docs;
mod figures;
mod fleet;
mod install;
mod mcp;
mod rest;
mod sealed;
mod status;
mod worker;
