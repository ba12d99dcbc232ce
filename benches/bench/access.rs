//! What the capability check costs, and what it costs as others write it.

use crate::Plan;
use crate::fleet::Fleet;
use crate::measure::{Samples, backend_cpu, note, timed};
use crate::report::{Goal, Report, Row, grouped, short};
use crate::server::reader;
use harness::{Cluster, value};
use postgres::Client;

/// The same check by other means, and how many calls or rows of them are enough to measure it.
struct Other {
    what: &'static str,
    function: &'static str,
}

const OTHERS: [Other; 2] = [
    Other { what: "a stable SQL function", function: "public.bench_sql" },
    Other { what: "plpgsql, security definer", function: "public.bench_plpgsql" },
];

const OURS: &str = "public.has_capability";

/// Calls and scans, warm and first, wrapped and not, with and without parallel workers.
pub fn capability(plan: &Plan, cluster: &Cluster, fleet: &Fleet, report: &mut Report) {
    note("the capability check");
    let rows = plan.pick(1_000_000, 200_000);
    let mut owner = cluster.connect(&fleet.database);
    owner.batch_execute(&PREPARE.replace("{rows}", &rows.to_string())).unwrap();
    for table in ["bench_open", "bench_guarded", "bench_few_open", "bench_few"] {
        owner.batch_execute(&format!("vacuum (freeze, analyze) public.{table}")).unwrap();
    }
    let mut client = reader(cluster, &fleet.database);
    client.batch_execute("set max_parallel_workers_per_gather = 0").unwrap();
    let rounds = plan.pick(9, 4);
    warm_calls(&mut client, rows, rounds, report);
    first_calls(cluster, fleet, rounds, report);
    scans(&mut owner, &mut client, rows, rounds, report);
    slow_scans(&mut owner, &mut client, report);
    client.batch_execute("set max_parallel_workers_per_gather = 2").unwrap();
    parallel_scans(&mut owner, &mut client, rows, rounds, report);
}

const PREPARE: &str = "
    -- Of the same shape, and stable, so that it is called for every row.
    create function public.bench_empty(text, text) returns boolean
        language internal stable parallel safe as 'texteq';
    create table public.bench_users as select sub, role from busymate_stats.user_roles;
    create table public.bench_grants as select role, section, action from busymate_stats.role_capabilities;
    alter table public.bench_users add primary key (sub, role);
    alter table public.bench_grants add primary key (role, section, action);
    create function public.bench_sql(section text, action text) returns boolean
        language sql stable parallel safe security definer set search_path = '' as $$
            select exists (
                select from public.bench_users u join public.bench_grants g on g.role = u.role
                 where u.sub = (nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
                   and g.section in ('*', $1) and g.action in ('*', $2))
        $$;
    create function public.bench_plpgsql(wanted_section text, wanted_action text) returns boolean
        language plpgsql stable parallel safe security definer set search_path = '' as $$
        declare
            caller text := nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';
            grants int;
        begin
            select count(*) into grants
              from public.bench_users u join public.bench_grants g on g.role = u.role
             where u.sub = caller and g.section in ('*', wanted_section) and g.action in ('*', wanted_action);
            return grants > 0;
        end $$;
    create table public.bench_open as select n as id, md5(n::text) as payload from generate_series(1, {rows}) n;
    create table public.bench_guarded as table public.bench_open;
    create table public.bench_few_open as select * from public.bench_open where id <= 50000;
    create table public.bench_few as table public.bench_few_open;
    alter table public.bench_guarded enable row level security;
    alter table public.bench_few enable row level security;
    create policy bench on public.bench_guarded for select to public using (false);
    create policy bench on public.bench_few for select to public using (false);
    grant select on public.bench_open, public.bench_guarded, public.bench_few_open, public.bench_few to authenticated
";

/// How the policy of `table` asks.
fn set_policy(owner: &mut Client, table: &str, function: &str, wrapped: bool) {
    let call = format!("{function}('stats', 'view')");
    let call = if wrapped { format!("(select {call})") } else { call };
    owner.batch_execute(&format!("alter policy bench on public.{table} using ({call})")).unwrap();
}

/// The processor time that the session's server process spends on each query, in turn; the first round warms up.
fn measure<const N: usize>(client: &mut Client, queries: [&str; N], rounds: usize) -> [Samples; N] {
    let pid: i32 = value(client, "select pg_backend_pid()");
    let mut found = [const { Samples::new() }; N];
    for round in 0..=rounds {
        for (query, samples) in queries.iter().zip(&mut found) {
            let before = backend_cpu(pid);
            client.query_one(*query, &[]).unwrap();
            if round > 0 {
                samples.add(backend_cpu(pid) - before);
            }
        }
    }
    found
}

fn call(function: &str, calls: i64) -> String {
    format!("select count({function}('stats', 'view')) from generate_series(1, {calls})")
}

fn scan(table: &str) -> String {
    format!("select count(*) from public.{table}")
}

fn warm_calls(client: &mut Client, calls: i64, rounds: usize, report: &mut Report) {
    let [ours, empty] = measure(client, [&call(OURS, calls), &call("public.bench_empty", calls)], rounds);
    report.row(Row {
        what: format!("`has_capability()` above an internal function, {} warm calls, CPU", grouped(calls)),
        entries: String::new(),
        ours: ours.told("ms"),
        other: empty.told("ms"),
        figure: (ours.median() - empty.median()) * 1000.0 / calls as f64,
        unit: "µs",
        goal: Goal::AtMost(1.0),
    });
    let own = ours.median() * 1000.0 / calls as f64;
    for Other { what, function } in OTHERS {
        let few = calls / 50;
        let [theirs] = measure(client, [&call(function, few)], rounds.min(3));
        let each = theirs.median() * 1000.0 / few as f64;
        report.row(Row {
            what: format!("a warm call as {what} ÷ ours, CPU"),
            entries: String::new(),
            ours: format!("{} µs", short(own)),
            other: format!("{} µs", short(each)),
            figure: each / own,
            unit: "×",
            goal: Goal::None,
        });
    }
}

/// The first call of a session, which has read no catalog yet.
fn first_calls(cluster: &Cluster, fleet: &Fleet, rounds: usize, report: &mut Report) {
    let mut found = [const { Samples::new() }; 4];
    for _ in 0..rounds {
        let functions = [OURS, OTHERS[0].function, OTHERS[1].function, "public.bench_empty"];
        for (function, samples) in functions.iter().zip(&mut found) {
            let mut client = reader(cluster, &fleet.database);
            let pid: i32 = value(&mut client, "select pg_backend_pid()");
            let before = backend_cpu(pid);
            client.query_one(&format!("select {function}('stats', 'view')"), &[]).unwrap();
            samples.add(backend_cpu(pid) - before);
        }
    }
    let [ours, sql, plpgsql, empty] = found;
    for (what, other) in [("an internal function", empty), (OTHERS[0].what, sql), (OTHERS[1].what, plpgsql)] {
        report.row(Row {
            what: format!("a session's first call against {what}, CPU"),
            entries: String::new(),
            ours: ours.told("ms"),
            other: other.told("ms"),
            figure: ours.median() / other.median(),
            unit: "×",
            goal: Goal::None,
        });
    }
}

fn scans(owner: &mut Client, client: &mut Client, rows: i64, rounds: usize, report: &mut Report) {
    for (wrapped, how, goal) in
        [(false, "unwrapped", Goal::AtMost(2.0)), (true, "in a subselect", Goal::None)]
    {
        set_policy(owner, "bench_guarded", OURS, wrapped);
        let [guarded, open] = measure(client, [&scan("bench_guarded"), &scan("bench_open")], rounds);
        report.row(Row {
            what: format!("scan under a policy that calls it {how} ÷ without RLS, not parallel, CPU"),
            entries: grouped(rows),
            ours: guarded.told("ms"),
            other: open.told("ms"),
            figure: guarded.median() / open.median(),
            unit: "×",
            goal,
        });
    }
}

/// The others need a second for what takes a million rows of ours.
fn slow_scans(owner: &mut Client, client: &mut Client, report: &mut Report) {
    for Other { what, function } in OTHERS {
        for (wrapped, how) in [(false, "unwrapped"), (true, "in a subselect")] {
            set_policy(owner, "bench_few", function, wrapped);
            let [guarded, open] = measure(client, [&scan("bench_few"), &scan("bench_few_open")], 3);
            report.row(Row {
                what: format!("the same with {what}, {how}"),
                entries: grouped(50_000),
                ours: guarded.told("ms"),
                other: open.told("ms"),
                figure: guarded.median() / open.median(),
                unit: "×",
                goal: Goal::None,
            });
        }
    }
}

fn parallel_scans(owner: &mut Client, client: &mut Client, rows: i64, rounds: usize, report: &mut Report) {
    for (wrapped, how) in [(false, "unwrapped"), (true, "in a subselect")] {
        set_policy(owner, "bench_guarded", OURS, wrapped);
        let mut found = [const { Samples::new() }; 2];
        for round in 0..=rounds {
            for (table, samples) in ["bench_guarded", "bench_open"].iter().zip(&mut found) {
                let took = timed(|| drop(client.query_one(&scan(table), &[]).unwrap()));
                if round > 0 {
                    samples.add(took);
                }
            }
        }
        let [guarded, open] = found;
        report.row(Row {
            what: format!("scan under a policy that calls it {how} ÷ without RLS, 2 parallel workers"),
            entries: grouped(rows),
            ours: guarded.told("ms"),
            other: open.told("ms"),
            figure: guarded.median() / open.median(),
            unit: "×",
            goal: Goal::None,
        });
    }
}
