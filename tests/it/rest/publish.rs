//! Promise: publish() puts the two feeds, and nothing else, into the publication that Realtime reads, and what comes out
//! of it is one whole snapshot per refresh.

use harness::catalog::list;
use harness::decoding::Slot;
use harness::fleet::fleet;
use harness::{Cluster, Refusal, installed, refusal, value};
use postgres::Client;
use serde_json::Value;

#[track_caller]
fn members(client: &mut Client, publication: &str) -> Vec<String> {
    list(
        client,
        &format!(
            "select relid::regclass from pg_publication p, pg_get_publication_tables(p.pubname) t where pubname = '{publication}'"
        ),
    )
}

fn remembered(client: &mut Client) -> Vec<String> {
    list(client, "select name from busymate_stats_internal.publications")
}

const FEEDS: [&str; 2] = ["public.service_stats", "public.service_status"];

#[test]
fn both_feeds_and_nothing_else_are_added() {
    let (_, mut client) = fleet("added");
    client.batch_execute("create table public.other (a int primary key)").unwrap();
    client.batch_execute("create publication supabase_realtime for table public.other").unwrap();
    // Realtime's own publication exists already: publish() needs no argument.
    client.batch_execute("select busymate_stats.publish()").unwrap();
    let expected = ["public.other", FEEDS[0], FEEDS[1]];
    assert_eq!(members(&mut client, "supabase_realtime"), expected);
    assert_eq!(remembered(&mut client), ["supabase_realtime"]);

    client
        .batch_execute("select busymate_stats.publish(), busymate_stats.publish(create_missing => true)")
        .unwrap();
    assert_eq!(members(&mut client, "supabase_realtime"), expected);
    assert_eq!(remembered(&mut client), ["supabase_realtime"]);

    client.batch_execute("alter publication supabase_realtime drop table public.service_status").unwrap();
    client.batch_execute("select busymate_stats.publish()").unwrap();
    assert_eq!(members(&mut client, "supabase_realtime"), expected);
}

#[test]
fn a_missing_publication_is_made_only_on_request() {
    let (_, mut client) = installed("missing");
    let refused = refusal(&mut client, "select busymate_stats.publish()");
    assert_eq!(
        refused,
        Refusal {
            code: "42704".into(),
            message: "publication \"supabase_realtime\" does not exist".into(),
            detail: String::new(),
            hint: "Have it made: SELECT busymate_stats.publish('supabase_realtime', create_missing => true)."
                .into(),
        }
    );
    assert_eq!(remembered(&mut client), [""; 0]);
    let made = refused.hint.strip_prefix("Have it made: ").unwrap().trim_end_matches('.');
    client.batch_execute(made).unwrap();
    assert_eq!(members(&mut client, "supabase_realtime"), FEEDS);
    for nothing in ["null", "null, true", "'other', null"] {
        let refused = refusal(&mut client, &format!("select busymate_stats.publish({nothing})"));
        assert_eq!(refused.code, "42704", "{nothing}");
    }
    assert_eq!(remembered(&mut client), ["supabase_realtime"]);
}

#[test]
fn a_publication_of_all_tables_has_them_already() {
    let (_, mut client) = installed("all");
    client.batch_execute("create publication everything for all tables").unwrap();
    client.batch_execute("select busymate_stats.publish('everything')").unwrap();
    assert_eq!(remembered(&mut client), ["everything"]);
    assert_eq!(list(&mut client, "select prrelid from pg_publication_rel"), [""; 0]);
    // Nothing of ours stands in the way of writes, deletes included.
    client
        .batch_execute(
            "insert into busymate_stats.roles values ('x'); select busymate_stats.grant_capability('x', 'a:b');
             select busymate_stats.assign_role('s', 'x'); update busymate_stats.roles set description = 'd' where name = 'x';
             delete from busymate_stats.roles where name = 'x';
             select busymate_stats.create_fleet_tables(); select busymate_stats.refresh_stats(), busymate_stats.detach();
             delete from busymate_stats_internal.publications",
        )
        .unwrap();
}

#[test]
fn a_publication_of_the_whole_schema_has_them_already() {
    let (_, mut client) = installed("schema");
    client.batch_execute("create publication of_public for tables in schema public").unwrap();
    client.batch_execute("select busymate_stats.publish('of_public')").unwrap();
    assert_eq!(members(&mut client, "of_public"), FEEDS);
    assert_eq!(list(&mut client, "select prrelid from pg_publication_rel"), [""; 0]);
}

#[test]
fn a_publication_that_leaves_out_updates_is_refused() {
    let (_, mut client) = installed("updates");
    client.batch_execute("create publication \"only Inserts\" with (publish = 'insert, delete')").unwrap();
    let refused = refusal(&mut client, "select busymate_stats.publish('only Inserts')");
    assert_eq!(refused.code, "55000");
    assert_eq!(refused.message, "publication \"only Inserts\" does not publish updates");
    assert_eq!(members(&mut client, "only Inserts"), [""; 0]);
    assert_eq!(remembered(&mut client), [""; 0]);
    let mend = refused.hint.strip_prefix("Run ").unwrap().trim_end_matches('.');
    client.batch_execute(mend).unwrap();
    client.batch_execute("select busymate_stats.publish('only Inserts')").unwrap();
    assert_eq!(members(&mut client, "only Inserts"), FEEDS);
}

/// A server that writes no logical log has nothing to push: said before anything is done.
#[test]
fn without_a_logical_log_it_is_refused() {
    let cluster = Cluster::start("wal_level = replica");
    let mut client = cluster.connect("postgres");
    client.batch_execute("create extension busymate_stats").unwrap();
    let refused = refusal(&mut client, "select busymate_stats.publish('new', create_missing => true)");
    assert_eq!(refused.code, "55000");
    assert_eq!(refused.message, "wal_level is 'replica', and a publication needs 'logical'");
    assert_eq!(list(&mut client, "select pubname from pg_publication"), [""; 0]);
    client.batch_execute("alter system set wal_level = logical").unwrap();
    assert!(refused.hint.contains("ALTER SYSTEM SET wal_level = logical"), "{refused:?}");
    // The test's own configuration file names the level as well; ALTER SYSTEM wins.
    drop(client);
    cluster.restart();
    cluster
        .connect("postgres")
        .batch_execute("select busymate_stats.publish('new', create_missing => true)")
        .unwrap();
}

/// Who owns the publication but not the extension's tables cannot add them, nor have them added.
#[test]
fn publishing_is_the_owners() {
    let (database, mut client) = installed("owner");
    client
        .batch_execute(
            "create role publish_other login; grant usage on schema busymate_stats to publish_other;
             create publication theirs; alter publication theirs owner to publish_other",
        )
        .unwrap();
    let mut other = harness::shared().connect_as("publish_other", &database);
    assert_eq!(refusal(&mut other, "select busymate_stats.publish('theirs')").code, "42501");
    assert_eq!(members(&mut client, "theirs"), [""; 0]);
}

/// One refresh, one UPDATE of the row whose id is 1, with the whole snapshot.
fn one_whole_update(client: &mut Client, slot: &Slot) -> Value {
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    let (updates, others) = slot.read(client);
    assert_eq!(others, "");
    assert_eq!(updates.len(), 1, "{updates:?}");
    let update = &updates[0];
    assert_eq!((update.table.as_str(), update.with_old_row), ("service_stats", false));
    assert_eq!(update.columns[0].as_deref(), Some("1"));
    let snapshot: Value =
        serde_json::from_str(update.columns[1].as_ref().expect("the snapshot is sent")).unwrap();
    assert_eq!(snapshot, value::<Value>(client, "select snapshot from public.service_stats"));
    assert!(update.columns[2].is_some());
    snapshot
}

#[test]
fn a_refresh_is_sent_as_one_update_with_the_whole_snapshot() {
    let (_, mut client) = fleet("sent");
    client.batch_execute("select busymate_stats.publish('Real \"time\"', create_missing => true)").unwrap();
    assert_eq!(members(&mut client, "Real \"time\""), FEEDS);
    client.batch_execute("insert into public.entries (host) values ('a')").unwrap();
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    let slot = Slot::create(&mut client, "sent", "Real \"time\"");
    for _ in 0..2 {
        assert_eq!(one_whole_update(&mut client, &slot)["total_entries"], 1);
    }
    // The fleet's tables are not in it.
    client.batch_execute("insert into public.entries (host) values ('b')").unwrap();
    assert_eq!(slot.read(&mut client), (vec![], String::new()));
    slot.drop(&mut client);
}

/// A value kept out of line is left out of the message where it has not changed; a snapshot never is.
#[test]
fn a_snapshot_kept_out_of_line_is_sent_whole_too() {
    let (_, mut client) = fleet("toast");
    client.batch_execute("select busymate_stats.publish('large', create_missing => true)").unwrap();
    client
        .batch_execute(
            "insert into public.entries (host)
             select string_agg(md5(i::text || j), '') from generate_series(1, 100) i, generate_series(1, 7) j group by i;
             set busymate_stats.top_n = 100;
             select busymate_stats.refresh_stats()",
        )
        .unwrap();
    let slot = Slot::create(&mut client, "toast", "large");
    for _ in 0..2 {
        let snapshot = one_whole_update(&mut client, &slot);
        assert_eq!(snapshot["top_domains"].as_array().unwrap().len(), 100);
        assert!(value::<bool>(
            &mut client,
            "select pg_column_size(snapshot) > 8000 and pg_relation_size(reltoastrelid) > 0
               from public.service_stats, pg_class where oid = 'public.service_stats'::regclass"
        ));
    }
    slot.drop(&mut client);
}

/// In it already, but not whole: Realtime would get half a snapshot, or no event.
#[test]
fn a_part_of_a_feed_is_not_taken_for_all_of_it() {
    for part in [
        "public.service_stats (id, updated_at)",
        "public.service_stats where (id > 1)",
        "public.service_status (id, snapshot, updated_at) where (id = 1)",
    ] {
        let (_, mut client) = installed("part");
        client.batch_execute(&format!("create publication partial for table {part}")).unwrap();
        let refused = refusal(&mut client, "select busymate_stats.publish('partial')");
        let table = part.split(' ').next().unwrap();
        assert_eq!(
            (refused.code.as_str(), refused.message),
            (
                "55000",
                format!("publication \"partial\" has table {table} with a column list or a row filter")
            )
        );
        assert_eq!(remembered(&mut client), [""; 0]);
        let cure = refused.hint.strip_prefix("Run ").unwrap().split(", then").next().unwrap();
        client.batch_execute(cure).unwrap();
        client.batch_execute("select busymate_stats.publish('partial')").unwrap();
        assert_eq!(members(&mut client, "partial"), FEEDS);
        // Changed behind its back, it is told.
        let incomplete =
            "select detail -> 'publications_incomplete' from busymate_stats.health where feed = 'stats'";
        assert_eq!(value::<Value>(&mut client, incomplete), serde_json::json!([]));
        client.batch_execute(&format!("alter publication partial set table {part}")).unwrap();
        client.batch_execute("select busymate_stats_internal.restore_publications()").unwrap();
        assert_eq!(members(&mut client, "partial"), FEEDS);
        assert_eq!(value::<Value>(&mut client, incomplete), serde_json::json!(["partial"]));
    }
    // All columns by name are all columns.
    let (_, mut client) = installed("named");
    client
        .batch_execute(
            "create publication whole for table public.service_stats (id, snapshot, updated_at);
             select busymate_stats.publish('whole')",
        )
        .unwrap();
}

/// What a WARNING tells to run, as statements of their own.
fn run_remedy(client: &mut Client, remedy: &str) {
    let statements = remedy.strip_prefix("Run ").unwrap().split("; or ").next().unwrap();
    for statement in statements.trim_end_matches('.').split(", then ") {
        let statement = statement.split(" (no quotes").next().unwrap();
        if statement != "restart the server" {
            client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }
}

fn needs(client: &mut Client) -> Vec<String> {
    list(
        client,
        "select jsonb_array_elements_text(detail -> 'realtime_needs') from busymate_stats.health where feed = 'stats'",
    )
}

/// Warnings of publish(), with what mends them.
fn warnings(cluster: &Cluster) -> Vec<Refusal> {
    let (mut hearing, heard) = cluster.connect_hearing("postgres");
    hearing.batch_execute("select busymate_stats.publish('p', create_missing => true)").unwrap();
    heard.lock().unwrap().clone()
}

/// Every server that Realtime cannot read is told so, by publish() and in health, with statements that help as they stand.
#[test]
fn what_realtime_needs_of_the_server_is_told() {
    let cluster = Cluster::start("max_replication_slots = 1\nmax_wal_senders = 0");
    let mut client = cluster.connect("postgres");
    client.batch_execute(harness::SUPABASE_ROLES).unwrap();
    client.batch_execute("create extension busymate_stats; select busymate_stats.grant_api()").unwrap();
    let lists_plugins: bool =
        value(&mut client, "select exists (select from pg_settings where name = 'output_plugin_libraries')");
    assert_eq!(needs(&mut client), [""; 0], "nothing is published");
    client.batch_execute("select pg_create_physical_replication_slot('other')").unwrap();

    let told = warnings(&cluster);
    let problems: Vec<_> = told.iter().map(|warning| warning.message.as_str()).collect();
    let plugin = "output_plugin_libraries does not list wal2json, so the server refuses Realtime's slots";
    let mut expected = vec![
        "all 1 replication slots are in use, and Realtime needs one",
        "all 0 WAL senders are in use, and Realtime needs one",
    ];
    if lists_plugins {
        expected.insert(0, plugin);
    }
    assert_eq!(problems, expected);
    let shown: Vec<_> = told.iter().map(|warning| format!("{}. {}", warning.message, warning.hint)).collect();
    let mut sorted = shown.clone();
    sorted.sort();
    assert_eq!(needs(&mut client), sorted);
    for warning in &told {
        assert_eq!(warning.code, "55000");
        run_remedy(&mut client, &warning.hint);
    }
    drop(client);
    cluster.restart();
    assert_eq!(warnings(&cluster), []);
    let mut client = cluster.connect("postgres");
    assert_eq!(needs(&mut client), [""; 0]);
    if !lists_plugins {
        return;
    }

    // The list as one quoted string is one name: not even pgoutput is on it.
    client.batch_execute("alter system set output_plugin_libraries = 'pgoutput, wal2json, \"Odd\"'").unwrap();
    cluster.restart();
    let told = warnings(&cluster);
    assert_eq!(
        told.iter().map(|warning| warning.message.as_str()).collect::<Vec<_>>(),
        ["output_plugin_libraries does not list pgoutput, wal2json, so the server refuses Realtime's slots"]
    );
    let mut client = cluster.connect("postgres");
    run_remedy(&mut client, &told[0].hint);
    cluster.restart();
    assert_eq!(warnings(&cluster), []);
    let mut client = cluster.connect("postgres");
    let made = "select count(*) from pg_create_logical_replication_slot('realtime', 'pgoutput')";
    assert_eq!(value::<i64>(&mut client, made), 1);
}

/// A server that has lost its logical WAL since is told in health.
#[test]
fn a_wal_level_that_was_lowered_is_told() {
    let cluster = Cluster::start("");
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "create extension busymate_stats; select busymate_stats.publish('p', create_missing => true)",
        )
        .unwrap();
    drop(client);
    cluster.configure("wal_level = replica");
    cluster.restart();
    let mut client = cluster.connect("postgres");
    let needs = needs(&mut client);
    let wal = "wal_level is 'replica', and Realtime needs 'logical'. Run ALTER SYSTEM SET wal_level = logical, then restart the server.";
    assert!(needs.contains(&wal.to_owned()), "{needs:?}");
}
