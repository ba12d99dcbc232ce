mod components;
mod host;
mod probes;
mod report;
mod tls;
mod units;
mod worker;
