//! Promise: a refresh that has waited for somebody's DDL stores what is there afterwards. Under a snapshot of before, a table that
//! was rewritten meanwhile looks empty.

use harness::worker::updated_at;
use harness::{Cluster, eventually, value};
use postgres::Client;

const SETTINGS: &str = "busymate_stats.refresh_interval = 0\nbusymate_stats.seal_interval = '1s'\nbusymate_stats.verify_interval = 0";

const DEVICES: &str = "create extension busymate_stats;
    create table public.devices (device_uuid uuid, name text, connection_type text, last_seen_at timestamptz);
    insert into public.devices select gen_random_uuid(), 'd', 'vpn', now() from generate_series(1, 5);";

const ROWS: &str =
    "select now() - n * interval '1 min', null, 'h' || n % 5, 200, 's' from generate_series(1, 300) n";

const COLUMNS: &str = "created_at timestamptz not null, device_uuid uuid, host text, status int, source text";

/// Fleets whose entries are read in different ways, and the table behind them that is rewritten.
fn fleets() -> Vec<(&'static str, String, &'static str)> {
    vec![
        (
            "a table",
            format!(
                "create table public.entries ({COLUMNS}); create index on public.entries (created_at); insert into public.entries {ROWS}"
            ),
            "public.entries",
        ),
        (
            "partitions",
            format!(
                "create table public.entries ({COLUMNS}) partition by range (created_at);
                 create table public.leaf partition of public.entries default;
                 create index on public.entries (created_at); insert into public.entries {ROWS}"
            ),
            "public.leaf",
        ),
        (
            "what inherits",
            format!(
                "create table public.entries ({COLUMNS}); create index on public.entries (created_at);
                 create table public.leaf () inherits (public.entries); insert into public.leaf {ROWS}"
            ),
            "public.leaf",
        ),
        (
            "a view",
            format!(
                "create table public.leaf ({COLUMNS}); insert into public.leaf {ROWS}; create view public.entries as select * from public.leaf"
            ),
            "public.leaf",
        ),
    ]
}

/// The table's rows in another file, as rows of this transaction, which then commits.
fn rewrite(table: &str) -> String {
    format!(
        "create temp table kept on commit drop as table {table}; truncate {table}; insert into {table} table kept; commit"
    )
}

fn stored(client: &mut Client) -> (i64, i64) {
    let query = "select (snapshot ->> 'total_entries')::int8 from public.service_stats";
    let devices = "select (snapshot ->> 'total_devices')::int8 from public.service_stats";
    (value(client, query), value(client, devices))
}

#[test]
fn a_refresh_stores_what_is_there_when_it_has_its_locks() {
    let cluster = Cluster::start(SETTINGS);
    for (what, statements, rewritten) in fleets() {
        let database = cluster.create_database("rewritten");
        let [mut ddl, mut caller, mut observer] = [(); 3].map(|()| cluster.connect(&database));
        ddl.batch_execute(&format!(
            "{DEVICES} {statements}; select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
        // Devices beside a view are locked when they are read: DDL on them must not wait for a slow view.
        let devices = Some("public.devices").filter(|_| what != "a view");
        for table in [rewritten].into_iter().chain(devices) {
            ddl.batch_execute(&format!("begin; lock table {table}")).unwrap();
            let pid: i32 = value(&mut caller, "select pg_backend_pid()");
            let refresh = std::thread::spawn(move || {
                caller.batch_execute("select busymate_stats.refresh_stats()").unwrap();
                caller
            });
            let waits = format!(
                "select wait_event_type is not distinct from 'Lock' from pg_stat_activity where pid = {pid}"
            );
            eventually("the refresh waits", || value::<bool>(&mut observer, &waits).then_some(()));
            ddl.batch_execute(&rewrite(table)).unwrap();
            caller = refresh.join().unwrap();
            assert_eq!(stored(&mut caller), (300, 5), "{what}, {table}");
        }
    }
}

/// The worker's refresh, which gives up a lock after a while, has a snapshot of its own transaction's beginning.
#[test]
fn the_worker_stores_no_empty_table_either() {
    let cluster = Cluster::start(&SETTINGS.replace("refresh_interval = 0", "refresh_interval = '1s'"));
    for (what, statements, rewritten) in fleets() {
        let database = cluster.create_database("rewritten");
        let [mut ddl, mut observer] = [(); 2].map(|()| cluster.connect(&database));
        ddl.batch_execute(&format!(
            "{DEVICES} {statements}; select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
        eventually("it is refreshed", || updated_at(&mut observer));
        ddl.batch_execute(&format!("begin; lock table {rewritten}")).unwrap();
        let waits = "select count(*) > 0 from pg_stat_activity
                      where datname = current_database() and backend_type like 'busymate%' and wait_event_type = 'Lock'";
        eventually("the worker waits", || value::<bool>(&mut observer, waits).then_some(()));
        ddl.batch_execute(&rewrite(rewritten)).unwrap();
        let before = updated_at(&mut observer);
        eventually("it is refreshed again", || (updated_at(&mut observer) != before).then_some(()));
        assert_eq!(stored(&mut observer), (300, 5), "{what}");
    }
}
