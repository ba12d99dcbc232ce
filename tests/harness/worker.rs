//! Fleets that the background worker refreshes, and what can be seen of its processes from outside.

use super::{Cluster, eventually, value};
use postgres::Client;
use std::io::Write;

/// Ticks as often as they can be had.
pub const EVERY_SECOND: &str = "busymate_stats.refresh_interval = 1s";

/// A new database in `cluster` with the extension and empty fleet tables, attached.
pub fn fleet_in(cluster: &Cluster, prefix: &str) -> (String, Client) {
    let database = cluster.create_database(prefix);
    let mut client = cluster.connect(&database);
    client
        .batch_execute("create extension busymate_stats; select busymate_stats.create_fleet_tables()")
        .unwrap();
    (database, client)
}

/// A new database whose fleet takes as long to read as [`set_pause`] says: at first no time.
pub fn slow_fleet_in(cluster: &Cluster, prefix: &str) -> (String, Client) {
    let database = cluster.create_database(prefix);
    let mut client = cluster.connect(&database);
    client
        .batch_execute(
            "create extension busymate_stats;
             create table pause (seconds float8 not null);
             insert into pause values (0);
             create view slow_entries as
                select now() as created_at, gen_random_uuid() as device_uuid, 'slow.example' as host,
                       200 as status, 'app' as source
                  from pause, lateral pg_sleep(pause.seconds);
             create table devices (device_uuid uuid primary key, name text, connection_type text,
                                   last_seen_at timestamptz);
             select busymate_stats.attach('slow_entries', 'devices')",
        )
        .unwrap();
    (database, client)
}

/// How long each of the few reads of a slow fleet takes, from the next refresh on.
pub fn set_pause(client: &mut Client, seconds: f64) {
    client.execute("update pause set seconds = $1", &[&seconds]).unwrap();
}

/// When the feed was last written, in microseconds; `None` when it never was.
pub fn updated_at(client: &mut Client) -> Option<i64> {
    let query = "select (extract(epoch from updated_at) * 1000000)::int8 from public.service_stats";
    client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
}

/// Awaits that the feed has been written at all, for a fleet that is refreshed once in a test's time.
#[track_caller]
pub fn first_refresh(client: &mut Client) {
    eventually("service_stats is refreshed for the first time", || updated_at(client));
}

/// Awaits a refresh later than all there were, and gives its moment.
#[track_caller]
pub fn next_refresh(client: &mut Client) -> i64 {
    let before = updated_at(client);
    eventually("service_stats is refreshed", || updated_at(client).filter(|now| Some(*now) != before))
}

/// Awaits so many refreshes: as many intervals have then passed for every database of the cluster.
#[track_caller]
pub fn refreshes(client: &mut Client, count: usize) {
    for _ in 0..count {
        next_refresh(client);
    }
}

/// The process of a worker that is in the middle of reading a slow fleet.
pub fn sleeping_worker(observer: &mut Client, database: &str) -> Option<i32> {
    let query = "select pid from pg_stat_activity
                  where backend_type = 'busymate_stats worker' and datname = $1 and wait_event = 'PgSleep'";
    observer.query(query, &[&database]).unwrap().first().map(|row| row.get(0))
}

/// Awaits [`sleeping_worker`].
#[track_caller]
pub fn mid_refresh(observer: &mut Client, database: &str) -> i32 {
    eventually("a worker is in the middle of a refresh", || sleeping_worker(observer, database))
}

/// The launcher's process, if there is one.
pub fn launcher(observer: &mut Client) -> Option<i32> {
    let query = "select pid from pg_stat_activity where backend_type = 'busymate_stats launcher'";
    observer.query(query, &[]).unwrap().first().map(|row| row.get(0))
}

/// How many workers there are.
pub fn workers(observer: &mut Client) -> i64 {
    value(observer, "select count(*) from pg_stat_activity where backend_type = 'busymate_stats worker'")
}

/// Awaits that no session of a test is left in `database`: one that was closed takes a moment to end.
#[track_caller]
pub fn nobody_connected(observer: &mut Client, database: &str) {
    let query = "select 1 from pg_stat_activity where datname = $1 and backend_type = 'client backend'";
    eventually("the sessions have ended", || {
        observer.query(query, &[&database]).unwrap().is_empty().then_some(())
    });
}

/// A field of `health`'s row for the stats feed, as text.
pub fn health(client: &mut Client, expression: &str) -> Option<String> {
    value(client, &format!("select ({expression})::text from busymate_stats.health where feed = 'stats'"))
}

/// How many lines of the log contain `text`.
pub fn logged(cluster: &Cluster, text: &str) -> usize {
    cluster.log().lines().filter(|line| line.contains(text)).count()
}

/// Tells a measured figure, past the test runner's capture: it is read by people, and asserted by nobody.
pub fn report(figure: &str) {
    let _ = writeln!(std::io::stderr(), "    {figure}");
}

/// Awaits that the worker has sealed all that it may, and nothing stands in its way.
#[track_caller]
pub fn wait_for_seal(client: &mut Client) {
    eventually("the worker has sealed", || (seal(client, "sealed")? == "true").then_some(()));
}

/// Awaits that all entries of before this call are sealed, future ones aside, and that both ways of computing the figures agree.
#[track_caller]
pub fn is_sealed_and_right(client: &mut Client) -> serde_json::Value {
    let now: String = value(client, "select clock_timestamp()::text");
    eventually("it is sealed since", || nothing_unsealed_before(client, &now).then_some(()));
    super::fleet::stats_at(client, "now")
}

/// Whether readers use what is sealed, and no entry of before `time` is behind the boundary, which stands still while
/// nothing comes.
fn nothing_unsealed_before(client: &mut Client, time: &str) -> bool {
    if sealed_past(client, time) {
        return true;
    }
    let attached = "select entries::text, quote_ident(entry_time) from busymate_stats_internal.attachment";
    let row = client.query_one(attached, &[]).unwrap();
    let (entries, at): (String, String) = (row.get(0), row.get(1));
    let query = format!(
        "select coalesce((detail ->> 'sealed')::boolean
                         and not exists (select from {entries}
                                          where {at} >= (detail ->> 'boundary')::timestamptz
                                            and {at} < '{time}'), false)
           from busymate_stats.health where feed = 'seal'"
    );
    value(client, &query)
}

/// Whether the entries before `time` are sealed and readers use that.
pub fn sealed_past(client: &mut Client, time: &str) -> bool {
    let query = format!(
        "select coalesce((detail ->> 'sealed')::boolean and (detail ->> 'boundary')::timestamptz > '{time}', false)
           from busymate_stats.health where feed = 'seal'"
    );
    value(client, &query)
}

/// A field of the detail that `health` shows of the seal, as text.
pub fn seal(client: &mut Client, field: &str) -> Option<String> {
    value(client, &format!("select detail ->> '{field}' from busymate_stats.health where feed = 'seal'"))
}
