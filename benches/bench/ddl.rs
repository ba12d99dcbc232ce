//! What DDL that is none of the fleet's costs beside a partitioned fleet: 1,000 CREATE TABLE in one transaction.

use crate::Plan;
use crate::measure::{Samples, backend_cpu, note, timed};
use crate::report::{Goal, Report, Row};
use harness::{Cluster, value};
use postgres::Client;

/// Partitions of the fleet that stands beside.
const PARTITIONS: i32 = 30;

/// What the databases and their log take, in kB.
pub const ROOM: u64 = 1 << 20;

/// CREATE TABLE, in a database with a partitioned fleet and in one without the extension, in turn.
pub fn beside_a_fleet(plan: &Plan, cluster: &Cluster, report: &mut Report) {
    let tables: i32 = plan.pick(1000, 200);
    let rounds = plan.pick(15, 5);
    note(&format!("{tables} CREATE TABLE in one transaction, {rounds} rounds"));
    let [with, without] = ["ddl_with", "ddl_without"].map(|name| cluster.create_database(name));
    let mut clients = [cluster.connect(&with), cluster.connect(&without)];
    clients[0]
        .batch_execute(&format!(
            "create extension busymate_stats;
             create table public.devices (device_uuid uuid primary key, name text, connection_type text,
                                          last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int,
                                          source text) partition by range (created_at);
             create index on public.entries (created_at);
             do $$ begin
                 for n in 1..{PARTITIONS} loop
                     execute format('create table public.day%s partition of public.entries for values from (%L) to (%L)',
                                    n, date '2026-01-01' + n, date '2026-01-02' + n);
                 end loop;
             end $$;
             select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
    let pids: Vec<i32> = clients.iter_mut().map(|client| value(client, "select pg_backend_pid()")).collect();
    let mut each = [Samples::default(), Samples::default()];
    let mut each_cpu = [Samples::default(), Samples::default()];
    let (mut ratios, mut cpu_ratios) = (Samples::default(), Samples::default());
    // The first round fills the caches.
    for round in 0..=rounds {
        let (mut took, mut cpu) = ([0.0; 2], [0.0; 2]);
        for place in [round % 2, 1 - round % 2] {
            let before = backend_cpu(pids[place]);
            took[place] = timed(|| make(&mut clients[place], tables)).as_secs_f64();
            cpu[place] = (backend_cpu(pids[place]) - before).as_secs_f64();
            clients[place].batch_execute("rollback").unwrap();
        }
        if round > 0 {
            for place in [0, 1] {
                each[place].add_value(took[place] * 1000.0);
                each_cpu[place].add_value(cpu[place] * 1000.0);
            }
            ratios.add_value(took[0] / took[1]);
            cpu_ratios.add_value(cpu[0] / cpu[1]);
        }
    }
    let what = format!(
        "{tables} CREATE TABLE in one transaction beside a partitioned fleet, ÷ without the extension"
    );
    let cpu = "processor time of the same".to_owned();
    for (what, samples, ratios, goal) in
        [(what, each, ratios, Goal::AtMost(1.1)), (cpu, each_cpu, cpu_ratios, Goal::None)]
    {
        report.row(Row {
            what,
            entries: "0".into(),
            ours: samples[0].told("ms"),
            other: samples[1].told("ms"),
            figure: ratios.median(),
            unit: "×",
            goal,
        });
    }
    drop(clients);
    for database in [with, without] {
        cluster.connect("postgres").batch_execute(&format!("drop database {database} with (force)")).unwrap();
    }
}

/// Left open: the tables go with a rollback, outside of what is measured.
fn make(client: &mut Client, tables: i32) {
    client
        .batch_execute(&format!(
            "begin;
             do $$ begin
                 for n in 1..{tables} loop
                     execute format('create table public.made%s (id bigint primary key, number int)', n);
                 end loop;
             end $$"
        ))
        .unwrap();
}
