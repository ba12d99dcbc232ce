//! Entries partitioned by day: what writers pay, and what it takes to let old days go.

use crate::Plan;
use crate::harness::{Cluster, eventually_within, value};
use crate::ingest::{self, Kind, Tables};
use crate::measure::{note, timed};
use crate::report::{Goal, Report, Row};
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
    goal: |kind| if kind == Kind::Copy { 0.90 } else { 0.97 },
};

/// Ingest into partitions, and retention.
pub fn all(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    ingest::into_partitions(plan, cluster, &BY_DAY, report);
    if plan.rows.is_empty() {
        retention(plan, cluster, report);
    }
}

fn retention(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    let a_day: i32 = plan.pick(100_000, 20_000);
    note(&format!("retention, {a_day} entries a day"));
    let database = ingest::prepare(cluster, &BY_DAY);
    let mut client = cluster.connect(&database);
    for schema in ["public", "bare"] {
        let rows = format!(
            "insert into {schema}.entries (created_at, device_uuid, host, method, status, source)
             select date_trunc('day', now()) - n * interval '1 day' / {a_day}, md5('device' || 1 + n % 1000)::uuid,
                    'host' || n % 997, 'GET', 200, 'vpn' from generate_series(1, 20 * {a_day}) n"
        );
        client.batch_execute(&rows).unwrap();
        client.batch_execute(&format!("vacuum analyze {schema}.entries")).unwrap();
    }
    seal(&mut client);
    let epoch = "select max(epoch) from busymate_stats.seal_state";
    let before: i64 = value(&mut client, epoch);
    delete(&mut client, a_day, report);
    let drop = timed(|| client.batch_execute("drop table public.day_18").unwrap());
    let bare = timed(|| client.batch_execute("drop table bare.day_18").unwrap());
    let read = timed(|| client.batch_execute("select public.get_stats()").unwrap());
    assert_eq!(value::<i64>(&mut client, epoch), before, "retention has counted anew");
    report.row(Row {
        what: "get_stats() after the oldest of 30 daily partitions was dropped, its first call".into(),
        entries: (20 * i64::from(a_day)).to_string(),
        ours: format!("dropped in {:.1} ms", drop.as_secs_f64() * 1000.0),
        other: format!("dropped in {:.1} ms", bare.as_secs_f64() * 1000.0),
        figure: read.as_secs_f64() * 1000.0,
        unit: "ms",
        goal: Goal::None,
    });
    std::mem::drop(client);
    cluster.connect("postgres").batch_execute(&format!("drop database {database} with (force)")).unwrap();
}

/// The oldest day, in batches.
fn delete(client: &mut Client, a_day: i32, report: &mut Report) {
    let days = 20;
    let mut took = [0.0; 2];
    for batch in 0..10 {
        for (place, schema) in ["public", "bare"].into_iter().enumerate() {
            let sql = format!(
                "delete from {schema}.entries
                  where created_at >= date_trunc('day', now()) - {days} * interval '1 day' + {batch} * interval '1 day' / 10
                    and created_at < date_trunc('day', now()) - {days} * interval '1 day' + ({batch} + 1) * interval '1 day' / 10"
            );
            took[place] += timed(|| client.batch_execute(&sql).unwrap()).as_secs_f64();
        }
    }
    let rate = |took: f64| format!("{:.0} rows/s", f64::from(a_day) / took);
    report.row(Row {
        what: "retention, attached ÷ not: a day of old entries deleted in ten batches".into(),
        entries: (20 * i64::from(a_day)).to_string(),
        ours: rate(took[0]),
        other: rate(took[1]),
        figure: took[1] / took[0],
        unit: "×",
        goal: Goal::None,
    });
}

fn seal(client: &mut Client) {
    let sealed = "select coalesce((select boundary = goal and total > 0 from busymate_stats.seal_state order by version desc limit 1), false)";
    eventually_within(Duration::from_secs(300), "the entries are sealed", || {
        value::<bool>(client, sealed).then_some(())
    });
}
