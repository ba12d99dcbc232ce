//! What the capability check costs.

use crate::Plan;
use crate::fleet::Fleet;
use crate::harness::Cluster;
use crate::measure::{Samples, note, timed};
use crate::report::{Goal, Report, Row, grouped};
use crate::server::reader;

/// A call of `has_capability()` above one of a function that does nothing, and a scan under a policy that calls it for
/// every row.
pub fn capability(plan: &Plan, cluster: &Cluster, fleet: &Fleet, report: &mut Report) {
    note("the capability check");
    let rows = plan.pick(1_000_000, 200_000);
    prepare(cluster, fleet, rows);
    let mut client = reader(cluster, &fleet.database);
    client.batch_execute("set max_parallel_workers_per_gather = 0").unwrap();
    let mut measure = |queries: [&str; 2]| {
        let mut found = [Samples::default(), Samples::default()];
        for round in 0..plan.pick(8, 4) {
            for (query, samples) in queries.iter().zip(&mut found) {
                let took = timed(|| drop(client.query_one(*query, &[]).unwrap()));
                // The first round warms up.
                if round > 0 {
                    samples.add(took);
                }
            }
        }
        found
    };

    let call =
        |function: &str| format!("select count({function}('stats', 'view')) from generate_series(1, {rows})");
    let [checked, empty] = measure([&call("public.has_capability"), &call("public.bench_empty")]);
    report.row(Row {
        what: format!("`has_capability()` above an internal function, {} calls", grouped(rows)),
        entries: String::new(),
        ours: checked.told("ms"),
        other: empty.told("ms"),
        figure: (checked.median() - empty.median()) * 1000.0 / rows as f64,
        unit: "µs",
        goal: Goal::AtMost(1.0),
    });
    let scan = |table: &str| format!("select count(*) from public.{table}");
    let [guarded, open] = measure([&scan("bench_guarded"), &scan("bench_open")]);
    report.row(Row {
        what: "scan under a policy that calls it unwrapped ÷ without RLS, not parallel".into(),
        entries: grouped(rows),
        ours: guarded.told("ms"),
        other: open.told("ms"),
        figure: guarded.median() / open.median(),
        unit: "×",
        goal: Goal::AtMost(2.0),
    });
}

fn prepare(cluster: &Cluster, fleet: &Fleet, rows: i64) {
    let mut client = cluster.connect(&fleet.database);
    client
        .batch_execute(&format!(
            // Of the same shape, and stable, so that it is called for every row.
            "create function public.bench_empty(text, text) returns boolean
                 language internal stable parallel safe as 'texteq';
             create table public.bench_open as
                 select n as id, md5(n::text) as payload from generate_series(1, {rows}) n;
             create table public.bench_guarded as select * from public.bench_open;
             alter table public.bench_guarded enable row level security;
             create policy bench on public.bench_guarded for select to public
                 using (public.has_capability('stats', 'view'));
             grant select on public.bench_open, public.bench_guarded to authenticated"
        ))
        .unwrap();
    client.batch_execute("vacuum (freeze, analyze) public.bench_open").unwrap();
    client.batch_execute("vacuum (freeze, analyze) public.bench_guarded").unwrap();
}
