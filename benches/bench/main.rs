//! The figures that README quotes: every row of the goals that concerns statistics, ingest into plain and partitioned
//! tables, and the capability check. Prints one Markdown table; a row that misses its goal says so.

mod access;
mod ddl;
mod devices;
mod fleet;
mod ingest;
mod machine;
mod measure;
mod partitions;
mod queue;
mod read;
mod report;
mod seal;
mod server;
mod status;

use harness::Cluster;
use measure::note;
use report::Report;

/// How much is measured.
pub struct Plan {
    /// Entries in each of the fleets that are read, smallest first.
    pub sizes: Vec<u64>,
    /// Few samples, to see that the benchmark works: its figures are not to be quoted.
    pub quick: bool,
    /// Of what is written, only the rows whose name holds this.
    pub rows: String,
    /// What BENCH_SIZES names, if anything.
    pub given: Vec<u64>,
}

impl Plan {
    fn from_environment() -> Self {
        let quick = std::env::var("BENCH_QUICK").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
        let default = if quick { "100000 1000000" } else { "1000000 10000000" };
        let given = sizes(&std::env::var("BENCH_SIZES").unwrap_or_default());
        // One size comes on top of the usual ones; a list replaces them.
        let mut sizes = if given.len() > 1 { Vec::new() } else { sizes(default) };
        sizes.extend(&given);
        sizes.sort_unstable();
        sizes.dedup();
        Self { sizes, quick, rows: std::env::var("BENCH_ROWS").unwrap_or_default(), given }
    }

    /// Whether the row of that name is asked for.
    pub fn wants(&self, row: &str) -> bool {
        row.contains(&self.rows)
    }

    /// The smallest fleet, which the others' flatness is held against.
    pub fn smallest(&self) -> u64 {
        self.sizes[0]
    }

    /// The largest fleet.
    pub fn largest(&self) -> u64 {
        self.sizes[self.sizes.len() - 1]
    }

    /// `full`, or `quick` for a quick run.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn sizes(text: &str) -> Vec<u64> {
    text.split([' ', ','])
        .filter(|part| !part.is_empty())
        .map(|part| {
            part.replace('_', "").parse().unwrap_or_else(|_| panic!("BENCH_SIZES: {part} is no number"))
        })
        .collect()
}

/// What can be measured by itself.
enum Part {
    Read,
    Write,
    Access,
    Ddl,
    Queue,
}

/// The part that BENCH_ONLY names; without, all of them but the queue's.
fn part() -> Option<Part> {
    match std::env::var("BENCH_ONLY").unwrap_or_default().as_str() {
        "" => None,
        "read" => Some(Part::Read),
        "write" => Some(Part::Write),
        "access" => Some(Part::Access),
        "ddl" => Some(Part::Ddl),
        "queue" => Some(Part::Queue),
        other => panic!("BENCH_ONLY: {other} is none of read, write, access, ddl, queue"),
    }
}

/// Statistics, read and sealed; gives the largest fleet.
fn read_part(plan: &Plan, cluster: &Cluster, report: &mut Report) -> fleet::Fleet {
    let mut fleets: Vec<_> = plan.sizes.iter().map(|size| fleet::load(cluster, *size)).collect();
    seal::first_seals(plan, cluster, &fleets, report);
    read::warm(plan, cluster, &fleets, report);
    // From here on only the largest fleet is left: no other one's ticks disturb.
    fleet::drop_all_but_last(cluster, &fleets);
    let largest = fleets.pop().unwrap();
    read::under_load(plan, cluster, &largest, report);
    read::while_late_entries_arrive(plan, cluster, report);
    seal::tick_cpu(plan, cluster, &largest, report);
    largest
}

/// Entries, devices and the status feed, written.
fn write_part(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    ingest::into_plain_tables(plan, cluster, report);
    partitions::all(plan, cluster, report);
    if !plan.rows.is_empty() {
        return;
    }
    devices::all(plan, cluster, report);
    status::tick_cpu(plan, cluster, report);
}

fn main() {
    // `cargo bench` hands its own arguments through.
    let plan = Plan::from_environment();
    let part = part();
    let needed = match part {
        Some(Part::Queue) => queue::room(&plan),
        Some(Part::Ddl) => ddl::ROOM,
        _ => machine::room(&plan),
    };
    machine::require_room(needed);
    let cluster = server::start();
    let mut report = Report::default();
    machine::describe(&plan, &cluster, &mut report);

    match part {
        None => {
            let largest = read_part(&plan, &cluster, &mut report);
            access::capability(&plan, &cluster, &largest, &mut report);
            fleet::drop(&cluster, &largest);
            write_part(&plan, &cluster, &mut report);
            ddl::beside_a_fleet(&plan, &cluster, &mut report);
        }
        Some(Part::Read) => drop(read_part(&plan, &cluster, &mut report)),
        Some(Part::Write) => write_part(&plan, &cluster, &mut report),
        Some(Part::Access) => {
            let fleet = fleet::load(&cluster, plan.smallest());
            let mut client = cluster.connect(&fleet.database);
            client.batch_execute("create extension busymate_stats").unwrap();
            server::let_reader_in(&mut client);
            access::capability(&plan, &cluster, &fleet, &mut report);
        }
        Some(Part::Ddl) => ddl::beside_a_fleet(&plan, &cluster, &mut report),
        Some(Part::Queue) => queue::memory(&plan, &cluster, &mut report),
    }
    machine::load_average("end", &mut report);
    note("done");
    report.print();
}
