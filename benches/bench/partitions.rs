//! Entries partitioned by day: what writers pay, and what it takes to let old days go.

use crate::Plan;
use crate::ingest::{self, Tables};
use crate::measure::{Samples, backend_cpu, note, timed};
use crate::report::{Goal, Report, Row, grouped};
use harness::{Cluster, eventually_within, value};
use postgres::Client;
use std::time::Duration;

/// `public.entries` as `create_fleet_tables()` makes it gives way to a partitioned one.
const BY_DAY: Tables = Tables {
    told: " into 30 daily partitions",
    make: "select busymate_stats.detach();
        alter table public.entries rename to plain_entries;
        do $$
        declare
            schema text;
        begin
            foreach schema in array array['public', 'bare'] loop
                execute format('create table %I.entries (like public.plain_entries including defaults including identity) partition by range (created_at)', schema);
                execute format('create index on %I.entries (created_at)', schema);
                execute format('create index on %I.entries (id)', schema);
                for n in -2..27 loop
                    execute format('create table %I.day_%s partition of %I.entries for values from (%L) to (%L)',
                        schema, case when n < 0 then 'm' || -n else n::text end, schema,
                        date_trunc('day', now()) - n * interval '1 day', date_trunc('day', now()) - (n - 1) * interval '1 day');
                end loop;
            end loop;
        end $$;
        drop table public.plain_entries;
        select busymate_stats.attach('public.entries', 'public.devices')",
};

/// How many days have entries when retention begins.
const FILLED_DAYS: i32 = 20;

/// Ingest into partitions, and retention.
pub fn all(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    ingest::into_partitions(plan, cluster, &BY_DAY, report);
    if plan.wants(DELETED) || plan.wants(DELETED_CPU) {
        retention(plan, cluster, report);
    }
}

const DELETED: &str = "retention, attached ÷ not: a day of old entries deleted in ten batches";
const DELETED_CPU: &str =
    "processor time a row, not ÷ attached: retention, a day of old entries deleted in ten batches";

fn retention(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    let a_day: i32 = plan.pick(100_000, 20_000);
    note(&format!("retention, {a_day} entries a day"));
    let database = ingest::prepare(cluster, &BY_DAY);
    let mut client = cluster.connect(&database);
    for schema in ["public", "bare"] {
        let rows = format!(
            "insert into {schema}.entries (created_at, device_uuid, host, method, status, source)
             select date_trunc('day', now()) - n * interval '1 day' / {a_day}, md5('device' || 1 + n % 1000)::uuid,
                    'host' || n % 997, 'GET', 200, 'vpn' from generate_series(1, {FILLED_DAYS} * {a_day}) n"
        );
        client.batch_execute(&rows).unwrap();
        client.batch_execute(&format!("vacuum analyze {schema}.entries")).unwrap();
    }
    seal(&mut client);
    let epoch = "select max(epoch) from busymate_stats_internal.seal_state";
    let before: i64 = value(&mut client, epoch);
    let days = plan.pick(3, 1);
    delete(&mut client, a_day, days, report);
    let oldest = FILLED_DAYS - days;
    let drop = timed(|| client.batch_execute(&format!("drop table public.day_{oldest}")).unwrap());
    let bare = timed(|| client.batch_execute(&format!("drop table bare.day_{oldest}")).unwrap());
    let read = timed(|| client.batch_execute("select public.get_stats()").unwrap());
    assert_eq!(value::<i64>(&mut client, epoch), before, "retention has counted anew");
    report.row(Row {
        what: "get_stats() after the oldest of 30 daily partitions was dropped, its first call".into(),
        entries: grouped(i64::from(FILLED_DAYS * a_day)),
        ours: format!("dropped in {:.1} ms", drop.as_secs_f64() * 1000.0),
        other: format!("dropped in {:.1} ms", bare.as_secs_f64() * 1000.0),
        figure: read.as_secs_f64() * 1000.0,
        unit: "ms",
        goal: Goal::None,
    });
    std::mem::drop(client);
    cluster.connect("postgres").batch_execute(&format!("drop database {database} with (force)")).unwrap();
}

/// The oldest days, each in ten batches.
fn delete(client: &mut Client, a_day: i32, days: i32, report: &mut Report) {
    let pid: i32 = value(client, "select pg_backend_pid()");
    let mut rates = [Samples::default(), Samples::default()];
    let mut each = [Samples::default(), Samples::default()];
    let (mut rate_ratios, mut cpu_ratios) = (Samples::default(), Samples::default());
    let batches =
        (FILLED_DAYS - days + 1..=FILLED_DAYS).rev().flat_map(|day| (0..10).map(move |batch| (day, batch)));
    for (day, batch) in batches {
        let (mut took, mut cpu) = ([0.0; 2], [0.0; 2]);
        for place in [batch % 2, 1 - batch % 2] {
            let sql = format!(
                "delete from {}.entries
                  where created_at >= date_trunc('day', now()) - {day} * interval '1 day' + {batch} * interval '1 day' / 10
                    and created_at < date_trunc('day', now()) - {day} * interval '1 day' + ({batch} + 1) * interval '1 day' / 10",
                ["public", "bare"][place]
            );
            let before = backend_cpu(pid);
            let mut rows = 0;
            took[place] = timed(|| rows = client.execute(&sql, &[]).unwrap()).as_secs_f64();
            cpu[place] = (backend_cpu(pid) - before).as_secs_f64();
            assert!(rows.abs_diff(a_day as u64 / 10) <= 1, "{rows} rows in a batch");
            rates[place].add_value(rows as f64 / took[place]);
            each[place].add_value(cpu[place] * 1e6 / rows as f64);
        }
        rate_ratios.add_value(took[1] / took[0]);
        cpu_ratios.add_value(cpu[1] / cpu[0]);
    }
    for (what, samples, unit, ratios, goal) in [
        (DELETED, rates, "rows/s", rate_ratios, Goal::AtLeast(0.6)),
        (DELETED_CPU, each, "µs", cpu_ratios, Goal::None),
    ] {
        report.row(Row {
            what: what.into(),
            entries: grouped(i64::from(FILLED_DAYS * a_day)),
            ours: samples[0].told(unit),
            other: samples[1].told(unit),
            figure: ratios.median(),
            unit: "×",
            goal,
        });
    }
}

fn seal(client: &mut Client) {
    let sealed = "select coalesce((select boundary = goal and total > 0 from busymate_stats_internal.seal_state order by version desc limit 1), false)";
    eventually_within(Duration::from_secs(300), "the entries are sealed", || {
        value::<bool>(client, sealed).then_some(())
    });
}
