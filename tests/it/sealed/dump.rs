//! A fleet that is dumped and restored has its capture triggers and right figures, before its first seal and after; the
//! triggers go with the fleet or with the extension.

use harness::fleet::stats_at;
use harness::worker::wait_for_seal;
use harness::{Cluster, dump, value};
use postgres::Client;
use std::sync::OnceLock;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start("busymate_stats.seal_interval = '1s'"))
}

/// A sealed fleet.
fn fleet() -> (String, Client) {
    let database = cluster().create_database("dumped");
    let mut client = cluster().connect(&database);
    client
        .batch_execute(
            "create extension busymate_stats; select busymate_stats.create_fleet_tables();
             insert into public.entries (created_at, host, status, source)
             select now() - n * interval '7 min', 'h' || n % 5, 200 + n, 'vpn' from generate_series(0, 300) n",
        )
        .unwrap();
    wait_for_seal(&mut client);
    (database, client)
}

/// How many triggers there are that fire always, and indexes of ours, all of which go with the extension.
fn captures(client: &mut Client) -> i64 {
    let sql = "select (select count(*) from pg_trigger t
                 join pg_depend d on d.classid = 'pg_trigger'::regclass and d.objid = t.oid and d.deptype = 'x'
                where t.tgrelid = 'public.entries'::regclass and t.tgenabled = 'A')
                    + (select count(*) from pg_index i
                 join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = i.indexrelid and d.deptype = 'x'
                where i.indrelid = 'public.entries'::regclass)";
    value(client, sql)
}

fn traces(client: &mut Client) -> i64 {
    let sql = "select (select count(*) from pg_trigger where tgname like 'busymate%')
                    + (select count(*) from pg_class where relkind = 'i' and relname like 'busymate%')";
    value(client, sql)
}

#[track_caller]
fn stays_exact(client: &mut Client) {
    stats_at(client, "now");
    client
        .batch_execute(
            "insert into public.entries (created_at, host) values (now() - interval '2 h', 'late'), (now(), 'now');
             delete from public.entries where status = 210",
        )
        .unwrap();
    let rows: i64 = value(client, "select count(*) from public.entries");
    assert_eq!(stats_at(client, "now")["total_entries"], rows);
}

#[test]
fn a_restored_fleet_is_captured_and_exact() {
    let (from, mut client) = fleet();
    assert_eq!(captures(&mut client), 1);
    for format in ["custom", "plain"] {
        let to = cluster().create_database("restored");
        match format {
            "custom" => dump::copy_custom(cluster(), &from, &to),
            _ => dump::restore_plain(cluster(), &dump::plain(cluster(), &from), &to),
        }
        let mut restored = cluster().connect(&to);
        assert_eq!(captures(&mut restored), 1, "{format}");
        stays_exact(&mut restored);
        wait_for_seal(&mut restored);
        stays_exact(&mut restored);
    }
}

#[test]
fn the_extension_goes_without_cascade_and_takes_what_captures_with_it() {
    let (_, mut client) = fleet();
    client.batch_execute("drop extension busymate_stats").unwrap();
    assert_eq!(traces(&mut client), 0);
    client.batch_execute("insert into public.entries (created_at) values (now() - interval '2 h')").unwrap();
    // And comes again, to the same tables.
    client
        .batch_execute(
            "create extension busymate_stats; select busymate_stats.attach('public.entries', 'public.devices')",
        )
        .unwrap();
    stays_exact(&mut client);
    wait_for_seal(&mut client);
    stays_exact(&mut client);
}

#[test]
fn a_detached_table_has_no_trace_left() {
    let (_, mut client) = fleet();
    client.batch_execute("select busymate_stats.detach()").unwrap();
    assert_eq!(traces(&mut client), 0);
    client.batch_execute("insert into public.entries (created_at) values (now() - interval '2 h')").unwrap();
    let kept = "select (select count(*) from busymate_stats_internal.seal_state) + (select count(*) from busymate_stats_internal.seal_keys)
                     + (select count(*) from busymate_stats_internal.late_changes)";
    assert_eq!(value::<i64>(&mut client, kept), 0);
}
