//! The memory of PostgreSQL's own queue of row events, which a statement fills until it ends: as many bytes a row as
//! one statement writes. Not part of the whole benchmark, for it takes minutes and says the same each time.

use crate::Plan;
use crate::ingest;
use crate::measure::{note, peak_memory, timed};
use crate::report::{Goal, Report, Row, grouped, short};
use crate::server;
use harness::{Cluster, value};
use std::io::Write as _;

/// Lines of the text that is copied again and again.
const LINES: u64 = 10_000;

const STATEMENTS: [&str; 3] = ["COPY", "UPDATE", "DELETE"];

/// How many rows each statement writes: BENCH_SIZES, the largest.
fn rows(plan: &Plan) -> u64 {
    let asked = plan.given.iter().max().copied().unwrap_or(plan.pick(5_000_000, 500_000));
    asked.next_multiple_of(LINES)
}

/// The disk that it takes, in kB: one table at a time, each row in two versions, and the WAL.
pub fn room(plan: &Plan) -> u64 {
    rows(plan) * 2 / 5 + 10_000_000
}

/// The memory of a session that writes so many rows, on time, in one statement.
pub fn memory(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    let rows = rows(plan);
    // What a process has touched of the shared buffers counts as its memory: they must not hide the queue.
    server::set(cluster, &[("shared_buffers", "'32MB'"), ("autovacuum", "off")]);
    cluster.restart();
    let database = ingest::prepare(cluster, &ingest::PLAIN);
    ingest::seal_once(cluster, &mut cluster.connect(&database));
    let [ours, bare] = ["public", "bare"].map(|schema| peaks(cluster, &database, schema, rows));
    let late: i64 =
        value(&mut cluster.connect(&database), "select count(*) from busymate_stats_internal.late_changes");
    assert_eq!(late, 0, "rows were late");
    for (place, statement) in STATEMENTS.iter().enumerate() {
        let shown = |bytes: u64| format!("{} MB", grouped((bytes / 1_000_000) as i64));
        report.row(Row {
            what: format!(
                "memory of the queue of row events: {statement} of {} rows on time",
                grouped(rows as i64)
            ),
            entries: String::new(),
            ours: format!("{}, {} s", shown(ours[place].0), short(ours[place].1)),
            other: format!("{}, {} s", shown(bare[place].0), short(bare[place].1)),
            figure: (ours[place].0 as f64 - bare[place].0 as f64) / rows as f64,
            unit: "bytes a row",
            goal: Goal::None,
        });
    }
}

/// The peak of memory and the seconds of each statement, in a session of its own.
fn peaks(cluster: &Cluster, database: &str, schema: &str, rows: u64) -> [(u64, f64); 3] {
    let found = STATEMENTS.map(|statement| {
        note(&format!("{statement} of {} rows in {schema}", grouped(rows as i64)));
        let mut client = cluster.connect(database);
        client.batch_execute("set synchronous_commit = off").unwrap();
        let pid: i32 = value(&mut client, "select pg_backend_pid()");
        let mut written = 0;
        let took = timed(|| {
            written = match statement {
                "COPY" => {
                    let copy = format!(
                        "copy {schema}.entries (device_uuid, host, method, status, source) from stdin"
                    );
                    let line = "00000001-0000-4000-8000-000000000000\thost7.example.com\tGET\t200\tvpn\n";
                    let lines = line.repeat(LINES as usize);
                    let mut sink = client.copy_in(&copy).unwrap();
                    (0..rows / LINES).for_each(|_| sink.write_all(lines.as_bytes()).unwrap());
                    sink.finish().unwrap()
                }
                "UPDATE" => {
                    client.execute(&format!("update {schema}.entries set status = 201"), &[]).unwrap()
                }
                _ => client.execute(&format!("delete from {schema}.entries"), &[]).unwrap(),
            };
        });
        assert_eq!(written, rows);
        (peak_memory(pid), took.as_secs_f64())
    });
    cluster.connect(database).batch_execute(&format!("truncate {schema}.entries")).unwrap();
    found
}
