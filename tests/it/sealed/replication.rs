//! Promise: logical replication of everything, with the extension on both sides, goes on without an error. A subscriber
//! counts for itself; roles, assignments, revoked tokens and components it takes over.

use harness::fleet::stats_at;
use harness::worker::{is_sealed_and_right, wait_for_seal};
use harness::{Cluster, eventually, value};
use postgres::Client;

const SETTINGS: &str = "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'
busymate_stats.refresh_interval = '1s'\nwal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 1s";

/// On both sides, as an operator would set them up.
const FLEET: &str = "
    create extension busymate_stats;
    select busymate_stats.create_fleet_tables();";

/// What the provider has.
const PROVIDED: &str = "
    insert into public.devices (name, connection_type, last_seen_at)
    select 'd' || n, 'vpn', now() - n * interval '1 min' from generate_series(1, 20) n;
    insert into public.entries (created_at, host, status, source)
    select now() - n * interval '6 min', 'h' || n % 5, 200, 'vpn' from generate_series(1, 400) n;
    insert into busymate_stats.roles (name, description) values ('analyst', 'of the provider'), ('helper', null);
    select busymate_stats.grant_capability('analyst', 'stats:view'), busymate_stats.grant_capability('helper', 'status:view');
    select busymate_stats.assign_role('alice', 'analyst'), busymate_stats.assign_role('bob', 'viewer');
    insert into busymate_stats.revoked_tokens (jti) values ('stolen'), ('lost');
    insert into busymate_stats.components (key, label, unit) values ('web', 'of the provider', 'nginx.service'), ('db', 'DB', 'postgresql.service');
    select busymate_stats.publish('live', create_missing => true);";

/// What the subscriber has of its own: keys of the provider's, and others.
const SUBSCRIBED: &str = "
    insert into busymate_stats.roles (name, description) values ('analyst', 'of the subscriber'), ('own', null);
    select busymate_stats.grant_capability('analyst', 'stats:view');
    select busymate_stats.assign_role('alice', 'analyst'), busymate_stats.assign_role('carol', 'own');
    insert into busymate_stats.revoked_tokens (jti) values ('stolen');
    insert into busymate_stats.components (key, label, unit) values ('web', 'of the subscriber', 'nginx.service');";

struct Pair {
    clusters: [Cluster; 2],
    provider: Client,
    subscriber: Client,
}

impl Pair {
    fn start() -> Self {
        let clusters = [Cluster::start(SETTINGS), Cluster::start(SETTINGS)];
        let [mut provider, mut subscriber] = [0, 1].map(|place: usize| {
            clusters[place].connect("postgres").batch_execute("create database fleet").unwrap();
            clusters[place].connect("fleet")
        });
        for (client, own) in [(&mut provider, PROVIDED), (&mut subscriber, SUBSCRIBED)] {
            client.batch_execute(FLEET).unwrap();
            client.batch_execute(own).unwrap();
            wait_for_seal(client);
        }
        Self { clusters, provider, subscriber }
    }

    fn subscribe(&mut self, publication: &str, options: &str) {
        self.provider.batch_execute(&format!("create publication everything {publication}")).unwrap();
        let subscription = format!(
            "create subscription s connection 'host={} dbname=fleet user=postgres' publication everything with ({options})",
            self.clusters[0].socket_directory().display()
        );
        self.subscriber.batch_execute(&subscription).unwrap();
    }

    /// Awaits that every table is copied, and that the subscriber has confirmed all that the provider has written by now.
    #[track_caller]
    fn wait_for_apply(&mut self) {
        eventually("the tables are copied", || {
            let ready = "select coalesce(bool_and(srsubstate = 'r'), false) from pg_subscription_rel";
            value::<bool>(&mut self.subscriber, ready).then_some(())
        });
        let written: String = value(&mut self.provider, "select pg_current_wal_insert_lsn()::text");
        eventually("the changes are applied", || {
            let applied = format!(
                "select coalesce(bool_and(confirmed_flush_lsn >= '{written}'), false) from pg_replication_slots"
            );
            value::<bool>(&mut self.provider, &applied).then_some(())
        });
    }

    /// Nothing failed, nothing is left behind, and both sides count for themselves.
    #[track_caller]
    fn is_well(&mut self) {
        let errors = "select sum(apply_error_count + sync_error_count)::int8 from pg_stat_subscription_stats";
        assert_eq!(value::<i64>(&mut self.subscriber, errors), 0);
        // A table's own is dropped a moment after the table is ready.
        eventually("one slot is left", || {
            let slots: i64 = value(&mut self.provider, "select count(*) from pg_replication_slots");
            (slots == 1).then_some(())
        });
        for client in [&mut self.provider, &mut self.subscriber] {
            let rows: i64 = value(client, "select count(*) from public.entries");
            assert_eq!(is_sealed_and_right(client)["total_entries"], rows);
            for counted in [
                "select count(*) = 1 from busymate_stats_internal.attachment",
                "select count(*) = 1 and min(id) = 1 from public.service_stats",
                "select count(*) = 0 from busymate_stats.verify()",
                "select bool_and(last_error is null) from busymate_stats.health",
            ] {
                eventually(counted, || value::<bool>(client, counted).then_some(()));
            }
        }
    }

    /// Some of each kind of change, of the fleet and of what is taken over.
    fn change(&mut self) {
        self.provider
            .batch_execute(
                "insert into public.entries (created_at, host, status) values (now(), 'new', 200), (now() - interval '3 h', 'late', 404);
                 insert into public.devices (name, last_seen_at) values ('new', now());
                 update busymate_stats.roles set description = 'changed' where name = 'analyst';
                 update busymate_stats.user_roles set role = 'helper' where sub = 'bob';
                 select busymate_stats.assign_role('dave', 'analyst'), busymate_stats.assign_role('carol', 'viewer');
                 delete from busymate_stats.revoked_tokens where jti = 'lost';
                 update busymate_stats.components set label = 'changed' where key = 'web';
                 delete from busymate_stats.roles where name = 'helper';
                 select busymate_stats.refresh_stats()",
            )
            .unwrap();
        self.wait_for_apply();
    }
}

/// Who may what, without the moments; and what is watched.
fn rules(client: &mut Client) -> Vec<String> {
    let rules = "select 'role ' || name || ' ' || coalesce(description, '') || ' ' || builtin from busymate_stats.roles
                 union all select format('%s grants %s:%s', role, section, action) from busymate_stats.role_capabilities
                 union all select sub || ' is ' || role from busymate_stats.user_roles
                 union all select 'revoked ' || jti from busymate_stats.revoked_tokens
                 union all select 'watched ' || key || ' ' || label from busymate_stats.components order by 1";
    client.query(rules, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

const OWN: [&str; 2] = ["carol is own", "role own  false"];

#[test]
fn everything_is_copied_and_replicated() {
    let mut pair = Pair::start();
    pair.subscribe("for all tables", "copy_data = true");
    pair.wait_for_apply();
    pair.is_well();
    assert_eq!(value::<i64>(&mut pair.subscriber, "select count(*) from public.entries"), 400);
    pair.change();
    pair.is_well();
    assert_eq!(value::<i64>(&mut pair.subscriber, "select count(*) from public.entries"), 402);
    assert_eq!(stats_at(&mut pair.subscriber, "now")["total_devices"], 21);

    // The subscriber has the provider's rules, and what only it had.
    let mut expected = rules(&mut pair.provider);
    assert!(
        expected.contains(&"carol is viewer".into()) && !expected.contains(&"bob is helper".into()),
        "{expected:?}"
    );
    expected.extend(OWN.map(String::from));
    expected.sort_unstable();
    let mut found = rules(&mut pair.subscriber);
    found.sort_unstable();
    assert_eq!(found, expected);
    // What sessions knew of a role ends with what arrives.
    pair.subscriber
        .batch_execute("select set_config('request.jwt.claims', '{\"sub\":\"dave\"}', false)")
        .unwrap();
    // Its own publications are its own.
    let published = "select count(*) from busymate_stats_internal.publications";
    assert_eq!(value::<i64>(&mut pair.subscriber, published), 0);
    pair.subscriber.batch_execute("drop subscription s").unwrap();
}

/// What was there before stays as it is; the feeds' rows are updated by the provider every second.
#[test]
fn everything_is_replicated_without_a_copy() {
    let mut pair = Pair::start();
    pair.subscribe("for all tables", "copy_data = false");
    pair.change();
    pair.is_well();
    assert_eq!(value::<i64>(&mut pair.subscriber, "select count(*) from public.entries"), 2);
    let found = rules(&mut pair.subscriber);
    for rule in [
        "role analyst changed false",
        "dave is analyst",
        "carol is viewer",
        "watched web changed",
        "role admin Holds every capability. true",
    ] {
        assert!(found.iter().any(|found| found == rule), "{rule} is missing in {found:?}");
    }
    pair.subscriber.batch_execute("drop subscription s").unwrap();
}

#[test]
fn a_schema_is_replicated() {
    let mut pair = Pair::start();
    pair.subscribe("for tables in schema public", "copy_data = true");
    pair.wait_for_apply();
    pair.change();
    pair.is_well();
    assert_eq!(value::<i64>(&mut pair.subscriber, "select count(*) from public.entries"), 402);
    assert!(rules(&mut pair.subscriber).contains(&"role analyst of the subscriber false".into()));
    pair.subscriber.batch_execute("drop subscription s").unwrap();
}

/// A restore into a session that has triggers rest, as tools set it, is no replication.
#[test]
fn a_restore_with_triggers_at_rest_keeps_every_row() {
    let (_, mut client) = harness::installed("at_rest");
    client
        .batch_execute(
            "select busymate_stats.create_fleet_tables();
             set session_replication_role = replica;
             insert into busymate_stats_internal.publications values ('live');
             insert into busymate_stats.roles (name, changed_by) values ('restored', 'test');
             insert into public.service_stats (snapshot) values ('{}')",
        )
        .unwrap();
    for table in
        ["busymate_stats_internal.publications", "public.service_stats", "busymate_stats_internal.attachment"]
    {
        assert_eq!(value::<i64>(&mut client, &format!("select count(*) from {table}")), 1, "{table}");
    }
}
