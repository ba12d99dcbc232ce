//! Promise: while nothing is written to the fleet, its sealers write nothing either, and figures stay exact and cheap
//! however long that lasts.

use harness::fleet::stats_at;
use harness::worker::{is_sealed_and_right, seal, wait_for_seal};
use harness::{Cluster, eventually, eventually_within, value};
use postgres::Client;
use std::time::Duration;

/// Autovacuum would use transaction ids of its own.
const SETTINGS: &str = "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'
busymate_stats.refresh_interval = 0\nbusymate_stats.verify_interval = 0\nbusymate_stats.status_interval = 0
busymate_stats.online_window = '4s'\nautovacuum = off";

const ENTRIES: &str = "
    insert into public.entries (created_at, host, status, source)
    select now() - n * interval '36 h' / 300, 'h' || n % 5, 200, 'vpn' from generate_series(1, 300) n;";

fn plain_fleet(cluster: &Cluster) -> Client {
    let mut client = cluster.connect(&cluster.create_database("idle"));
    client
        .batch_execute(&format!(
            "create extension busymate_stats; select busymate_stats.create_fleet_tables();
             insert into public.devices (name, connection_type, last_seen_at)
             select 'd' || n, 'vpn', now() - interval '1 h' from generate_series(1, 20) n;
             {ENTRIES}"
        ))
        .unwrap();
    client
}

/// With partitions, and devices that say themselves whether they are online.
fn partitioned_fleet(cluster: &Cluster) -> Client {
    let mut client = cluster.connect(&cluster.create_database("idle"));
    client
        .batch_execute(&format!(
            "create table public.devices (device_uuid uuid primary key default gen_random_uuid(), name text,
                                          connection_type text, is_online boolean);
             create table public.entries (created_at timestamptz not null default now(), device_uuid uuid, host text,
                                          status int, source text) partition by range (created_at);
             create table public.entries_old partition of public.entries
                 for values from (minvalue) to (now() - interval '3 hours');
             create table public.entries_new partition of public.entries
                 for values from (now() - interval '3 hours') to (maxvalue);
             create index on public.entries (created_at);
             create extension busymate_stats;
             select busymate_stats.attach('public.entries', 'public.devices', online => 'is_online');
             insert into public.devices (name, connection_type, is_online)
             select 'd' || n, 'vpn', n < 4 from generate_series(1, 20) n;
             {ENTRIES}"
        ))
        .unwrap();
    client
}

/// Awaits so many ticks of the sealer that have ended well.
#[track_caller]
fn ticks(client: &mut Client, count: usize) {
    let ended = "select last_refresh::text from busymate_stats.health where feed = 'seal'";
    for _ in 0..count {
        let before: Option<String> = value(client, ended);
        eventually("the sealer ticks", || (value::<Option<String>>(client, ended) != before).then_some(()));
    }
}

/// Awaits that several ticks in these databases of one cluster use no transaction id.
#[track_caller]
fn come_to_rest(fleets: &mut [&mut Client]) {
    let next = "select pg_snapshot_xmax(pg_current_snapshot())::text::int8";
    eventually_within(Duration::from_secs(600), "ticks use no transaction id", || {
        let before: i64 = value(fleets[0], next);
        for fleet in &mut *fleets {
            ticks(fleet, 4);
        }
        (value::<i64>(fleets[0], next) == before).then_some(())
    });
}

/// Both ways agree as of now and of many moments of the next day.
#[track_caller]
fn is_right(client: &mut Client) {
    let moments = "select count(*) from generate_series(now(), now() + interval '23 h', interval '23 min') t
                    where busymate_stats.stats_at(t) is distinct from busymate_stats.stats_recomputed(t)";
    assert_eq!(value::<i64>(client, moments), 0);
    stats_at(client, "now");
}

#[test]
fn an_idle_fleet_writes_nothing_and_stays_exact() {
    let cluster = Cluster::start(SETTINGS);
    let (mut plain, mut partitioned) = (plain_fleet(&cluster), partitioned_fleet(&cluster));
    for fleet in [&mut plain, &mut partitioned] {
        wait_for_seal(fleet);
    }
    come_to_rest(&mut [&mut plain, &mut partitioned]);
    for fleet in [&mut plain, &mut partitioned] {
        is_right(fleet);
        let shown = "select stale or last_error is not null or detail ->> 'sealed' <> 'true'
                            or (detail #>> '{devices,counted}') <> 'true'
                       from busymate_stats.health where feed = 'seal'";
        assert!(!value::<bool>(fleet, shown));
    }

    // What comes then is counted, and moves the boundary.
    let boundary = seal(&mut plain, "boundary");
    for fleet in [&mut plain, &mut partitioned] {
        fleet.batch_execute("insert into public.entries (host, status) values ('new', 200)").unwrap();
        assert_eq!(is_sealed_and_right(fleet)["total_entries"], 301);
    }
    eventually("the boundary has moved", || (seal(&mut plain, "boundary") != boundary).then_some(()));
    let late =
        "insert into public.entries (created_at, host, status) values (now() - interval '2 h', 'late', 200);
                delete from public.entries where host = 'new'";
    for fleet in [&mut plain, &mut partitioned] {
        fleet.batch_execute(late).unwrap();
        assert_eq!(stats_at(fleet, "now")["total_entries"], 301);
    }
    come_to_rest(&mut [&mut plain, &mut partitioned]);
    for fleet in [&mut plain, &mut partitioned] {
        let waiting = "select count(*) from busymate_stats_internal.late_changes";
        assert_eq!(value::<i64>(fleet, waiting), 0);
        is_right(fleet);
    }
}

#[test]
fn devices_of_an_idle_fleet_come_and_go_offline() {
    let cluster = Cluster::start(SETTINGS);
    let mut client = plain_fleet(&cluster);
    wait_for_seal(&mut client);
    come_to_rest(&mut [&mut client]);
    assert_eq!(stats_at(&mut client, "now")["online_devices"], 0);
    // Two signs of life: the second changes nothing that is written down.
    for _ in 0..2 {
        client
            .batch_execute(
                "update public.devices set last_seen_at = clock_timestamp() where name in ('d1', 'd2')",
            )
            .unwrap();
        stats_at(&mut client, "now");
    }
    client
        .batch_execute("update public.devices set last_seen_at = now() + interval '8 s' where name = 'd1'")
        .unwrap();
    // Whatever was counted meanwhile, each moment's answer is that of a plain count.
    eventually("all are offline", || {
        let online = stats_at(&mut client, "now")["online_devices"].as_i64().unwrap();
        is_right(&mut client);
        (online == 0).then_some(())
    });
    come_to_rest(&mut [&mut client]);
    is_right(&mut client);
}

/// What is written down of a device that comes back is its first sign of life. Where no count follows, that one is old soon,
/// and says nothing of the later ones.
#[test]
fn a_device_that_comes_back_stays_online_though_nobody_counts() {
    let cluster = Cluster::start(SETTINGS);
    let mut client = plain_fleet(&cluster);
    wait_for_seal(&mut client);
    come_to_rest(&mut [&mut client]);
    let database: String = value(&mut client, "select current_database()::text");
    let mut holder = cluster.connect(&database);
    holder
        .batch_execute(
            "begin; lock table busymate_stats_internal.roster_state in share update exclusive mode",
        )
        .unwrap();
    let beat = "update public.devices set last_seen_at = clock_timestamp() where name = 'd1'";
    let begun: String = value(&mut client, "select clock_timestamp()::text");
    eventually("twice the online window has passed", || {
        client.batch_execute(beat).unwrap();
        stats_at(&mut client, "now");
        let passed = format!("select clock_timestamp() > '{begun}'::timestamptz + interval '8 s'");
        value::<bool>(&mut client, &passed).then_some(())
    });
    client
        .batch_execute("update public.devices set last_seen_at = now() + interval '1 h' where name = 'd1'")
        .unwrap();
    assert_eq!(stats_at(&mut client, "now")["online_devices"], 1);
    holder.batch_execute("rollback").unwrap();
    is_right(&mut client);
}

/// Readers would read them again at each call.
#[test]
fn rows_that_leave_the_windows_move_the_boundary() {
    let cluster = Cluster::start(SETTINGS);
    let mut client = plain_fleet(&cluster);
    client
        .batch_execute(
            "insert into public.entries (created_at, host, status)
             select now() - interval '1 h' + interval '4 s', 'leaving', 200 from generate_series(1, 300)",
        )
        .unwrap();
    wait_for_seal(&mut client);
    let left = "select max(boundary) > (select max(created_at) + interval '1 h' from public.entries where host = 'leaving')
                  from busymate_stats_internal.seal_state";
    eventually("the boundary follows", || value::<bool>(&mut client, left).then_some(()));
    is_right(&mut client);
    come_to_rest(&mut [&mut client]);
}

#[test]
fn a_status_tick_writes_the_feed_and_little_else() {
    let cluster =
        Cluster::start("busymate_stats.status_interval = '1s'\nbusymate_stats.refresh_interval = 0");
    let mut client = cluster.connect(&cluster.create_database("idle"));
    client.batch_execute("create extension busymate_stats").unwrap();
    let written = "select (select updated_at::text from public.service_status)";
    let kept = "select (select format('%s %s', xmin, ctid) from busymate_stats_internal.feed_health where feed = 'status')";
    let next = |client: &mut Client| {
        let before: Option<String> = value(client, written);
        eventually("the status is written", || {
            (value::<Option<String>>(client, written) != before).then_some(())
        });
    };
    eventually("ticks keep no more than the feed", || {
        next(&mut client);
        let before: Option<String> = value(&mut client, kept);
        for _ in 0..3 {
            next(&mut client);
        }
        (value::<Option<String>>(&mut client, kept) == before).then_some(())
    });
    assert!(!value::<bool>(&mut client, "select stale from busymate_stats.health where feed = 'status'"));
}
