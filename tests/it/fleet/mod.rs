mod attach;
mod ddl;
mod drop_beside_writers;
mod lifecycle;
mod not_valid;
mod partman;
mod relations;
mod without_event_triggers;
