//! Writers pay for the seal only where a row comes late: otherwise nothing is written, no transaction id is assigned and
//! nothing but ACCESS SHARE is taken; and whoever may write entries needs no right of ours.

use harness::fleet::stats_at;
use harness::worker::wait_for_seal;
use harness::{Cluster, refusal, value};
use postgres::Client;
use std::sync::OnceLock;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start("busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '60s'")
    })
}

/// A fleet whose entries are sealed, by the worker, up to a minute ago.
fn sealed() -> (String, Client) {
    let database = cluster().create_database("capture");
    let mut client = cluster().connect(&database);
    client
        .batch_execute(
            "create extension busymate_stats; select busymate_stats.create_fleet_tables();
             create unique index one_a_host on public.entries (host) where source = 'unique';
             insert into public.entries (created_at, host, status, source)
             select now() - n * interval '2 min', 'h' || n % 7, 200, 'vpn' from generate_series(1, 100) n",
        )
        .unwrap();
    wait_for_seal(&mut client);
    (database, client)
}

/// The locks that this session holds on tables and indexes of the extension.
fn locks(client: &mut Client) -> Vec<String> {
    let sql = "select c.relname || ' ' || l.mode from pg_locks l
                 join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace
                where l.pid = pg_backend_pid() and n.nspname = 'busymate_stats_internal' order by 1";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[track_caller]
fn locks_for_reading_only(client: &mut Client, statement: &str) {
    let strong: Vec<_> =
        locks(client).into_iter().filter(|lock| !lock.ends_with(" AccessShareLock")).collect();
    assert_eq!(strong, [""; 0], "{statement}");
}

fn late_changes(client: &mut Client) -> i64 {
    value(client, "select coalesce(sum(changes), 0)::int8 from busymate_stats_internal.late_changes")
}

#[test]
fn what_changes_no_row_assigns_no_transaction_id() {
    let (_, mut client) = sealed();
    client.batch_execute("insert into public.entries (host, source) values ('once', 'unique')").unwrap();
    for statement in [
        "update public.entries set host = 'x' where id < 0",
        "delete from public.entries where id < 0",
        "insert into public.entries (host) select 'x' where false",
        "insert into public.entries (host, source) values ('once', 'unique') on conflict do nothing",
        "merge into public.entries e using (values (-1)) v (id) on e.id = v.id when matched then delete",
    ] {
        client.batch_execute(&format!("begin; {statement}")).unwrap();
        let id: Option<String> = value(&mut client, "select pg_current_xact_id_if_assigned()::text");
        assert_eq!(id, None, "{statement}");
        locks_for_reading_only(&mut client, statement);
        client.batch_execute("rollback").unwrap();
    }
}

#[test]
fn a_row_on_time_writes_nothing_and_takes_no_lock_that_could_hold_anybody_up() {
    let (_, mut client) = sealed();
    client.batch_execute("begin").unwrap();
    for statement in [
        "insert into public.entries (host) select 'now' from generate_series(1, 10)",
        "update public.entries set status = 404 where host = 'now'",
        "delete from public.entries where host = 'now'",
        // Late rows in which nothing changes that is counted.
        "update public.entries set method = 'GET' where host = 'h1'",
    ] {
        client.batch_execute(statement).unwrap();
        // Locks before the count, whose own SELECT takes more of ours.
        locks_for_reading_only(&mut client, statement);
        assert_eq!(late_changes(&mut client), 0, "{statement}");
    }
    let late = "insert into public.entries (created_at) values (now() - interval '1 h')";
    client.batch_execute(late).unwrap();
    // Nor does a late one, until the transaction commits.
    locks_for_reading_only(&mut client, late);
    assert_eq!(late_changes(&mut client), 0);
    client.batch_execute("commit").unwrap();
    assert_eq!(late_changes(&mut client), 1);
}

#[test]
fn who_may_write_entries_needs_no_right_on_what_is_ours() {
    let (database, mut owner) = sealed();
    owner
        .batch_execute(
            "create role ingest login; grant insert, select, update, delete, truncate on public.entries to ingest;
             create policy anything on public.entries for all to ingest using (true)",
        )
        .unwrap();
    let mut ingest = cluster().connect_as("ingest", &database);
    assert_eq!(refusal(&mut ingest, "select from busymate_stats_internal.late_changes").code, "42501");
    ingest
        .batch_execute(
            "insert into public.entries (created_at, host) values (now() - interval '1 h', 'late');
             update public.entries set created_at = created_at - interval '1 h' where id % 10 = 0;
             delete from public.entries where id % 10 = 1",
        )
        .unwrap();
    // One came, eleven went: the one that came too.
    assert_eq!(stats_at(&mut owner, "now")["total_entries"], 90);
    ingest.batch_execute("truncate public.entries").unwrap();
    assert_eq!(stats_at(&mut owner, "now")["total_entries"], 0);
}
