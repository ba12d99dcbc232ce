//! Promise: Realtime can deliver the feeds. Each refresh is one UPDATE with the whole snapshot, however large, in what
//! logical decoding gives; nothing else of ours is; and the subscriber check lets exactly those through who may see it.

use harness::api::{served, user};
use harness::decoding::wal2json_slot;
use harness::{installed, refusal, value};
use postgres::Client;
use serde_json::{Value, json};

/// The changes since the last call, as Realtime asks for them: of the tables in the publication.
fn changes(client: &mut Client, slot: &str, publication: &str) -> Vec<Value> {
    client
        .query(
            "select data from pg_logical_slot_get_changes($1::text::name, null, null,
                 'include-pk', '1', 'include-xids', '1', 'include-transaction', 'false', 'include-timestamp', 'true',
                 'include-type-oids', 'true', 'format-version', '2', 'actions', 'insert,update,delete,truncate',
                 'add-tables', (select string_agg(format('%s.%s', schemaname, tablename), ',')
                                  from pg_publication_tables where pubname = $2::text))",
            &[&slot, &publication],
        )
        .unwrap()
        .iter()
        .map(|row| serde_json::from_str(row.get(0)).unwrap())
        .collect()
}

fn column(change: &Value, name: &str) -> Value {
    let columns = change["columns"].as_array().unwrap();
    let found = columns.iter().find(|column| column["name"] == name);
    found.map(|column| column["value"].clone()).unwrap_or_else(|| panic!("no {name} in {change}"))
}

/// A fleet whose feeds are published.
fn published(prefix: &str) -> Client {
    let (mut client, _) = served(prefix);
    client.batch_execute("select busymate_stats.publish('feeds', create_missing => true)").unwrap();
    client
}

#[test]
fn each_refresh_is_one_update_with_the_whole_snapshot() {
    let mut client = published("rt_update");
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    if !wal2json_slot(&mut client, "rt_update") {
        return;
    }
    client
        .batch_execute(
            "set busymate_stats.top_n = 100;
             insert into public.entries (host, source, status)
             select repeat(md5(n::text), 6) || n, repeat(md5((-n)::text), 6) || n, 200 from generate_series(1, 300) n",
        )
        .unwrap();
    for _ in 0..3 {
        changes(&mut client, "rt_update", "feeds");
        // The worker refreshes the row as well: the changes of this transaction are ours.
        client.batch_execute("begin").unwrap();
        let xid: i64 = value(&mut client, "select pg_current_xact_id()::text::bigint");
        client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
        let stored: Value = value(&mut client, "select snapshot from public.service_stats");
        client.batch_execute("commit").unwrap();
        assert!(stored.to_string().len() > 30_000, "not large enough to be stored out of line");
        let seen = changes(&mut client, "rt_update", "feeds");
        let seen: Vec<_> = seen.iter().filter(|change| change["xid"] == xid).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((&seen[0]["action"], &seen[0]["table"]), (&json!("U"), &json!("service_stats")));
        let snapshot: Value = serde_json::from_str(column(seen[0], "snapshot").as_str().unwrap()).unwrap();
        assert_eq!(snapshot, stored);
        assert_eq!(seen[0]["pk"], json!([{ "name": "id", "type": "integer", "typeoid": 23 }]));
        let identity = seen[0]["identity"].as_array().unwrap();
        assert!(identity.len() == 1 && identity[0]["name"] == "id", "{identity:?}");
    }
    client.batch_execute("select pg_drop_replication_slot('rt_update')").unwrap();
}

#[test]
fn a_large_status_too() {
    let mut client = published("rt_status");
    if !wal2json_slot(&mut client, "rt_status") {
        return;
    }
    let component = "jsonb_build_object('key', 'c' || n, 'label', repeat(md5(n::text), 5), 'probe',
        jsonb_build_object('up', true, 'httpStatus', 200, 'latencyMs', n), 'unitState', 'active')";
    client
        .batch_execute(&format!(
            "update public.service_status set snapshot = jsonb_set(snapshot, '{{components}}',
                 (select jsonb_agg({component}) from generate_series(1, 1000) n)), updated_at = now()"
        ))
        .unwrap();
    let stored: Value = value(&mut client, "select snapshot from public.service_status");
    let seen = changes(&mut client, "rt_status", "feeds");
    let seen: Vec<_> = seen.iter().filter(|change| change["table"] == "service_status").collect();
    assert_eq!(seen.len(), 1);
    let snapshot: Value = serde_json::from_str(column(seen[0], "snapshot").as_str().unwrap()).unwrap();
    assert_eq!(snapshot, stored);
    assert!(seen[0].to_string().len() < 1 << 20);
    client.batch_execute("select pg_drop_replication_slot('rt_status')").unwrap();
}

/// As the feed computes it: as many components as are watched, with names as long as there may be, and nobody there to
/// answer.
#[test]
fn a_status_of_all_components_stays_under_a_mebibyte() {
    let (mut client, _) = served("rt_components");
    client
        .batch_execute(
            "insert into busymate_stats.components (key, label, url, unit)
             select lpad(n::text, 256, 'k'), repeat('\"', 256), 'http://127.0.0.1:1/', rpad('u' || n, 247, 'x') || '.service'
               from generate_series(1, 200) n;
             select busymate_stats.refresh_status()",
        )
        .unwrap();
    let row = client
        .query_one(
            "select octet_length(snapshot::text), jsonb_array_length(snapshot -> 'components'),
                    snapshot #>> '{components,199,probe,up}', snapshot ->> 'overall'
               from public.service_status",
            &[],
        )
        .unwrap();
    let (size, count): (i32, i32) = (row.get(0), row.get(1));
    println!("{size} bytes with 200 components");
    assert_eq!(count, 200);
    assert_eq!((row.get::<_, &str>(2), row.get::<_, &str>(3)), ("false", "down"));
    assert!(size < 1 << 20);
}

#[test]
fn a_snapshot_stays_under_a_mebibyte() {
    let (mut client, _) = served("rt_size");
    client
        .batch_execute(
            "set busymate_stats.top_n = 100;
             insert into public.devices (device_uuid, name, connection_type)
             select ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, repeat('\"é', 5000), repeat('\\ü', 4000) || n
               from generate_series(1, 1000) n;
             insert into public.entries (host, source, status, device_uuid)
             select repeat(E'\\u0001\"', 5000) || n, repeat('ö\"', 5000) || n, 100 + n % 500,
                    ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid
               from generate_series(1, 1000) n;
             select busymate_stats.refresh_stats()",
        )
        .unwrap();
    let size: i32 = value(&mut client, "select octet_length(snapshot::text) from public.service_stats");
    println!("{size} bytes with 10 kB keys, 1,000 sources, top_n = 100");
    let shown: i32 =
        value(&mut client, "select jsonb_array_length(snapshot -> 'top_domains') from public.service_stats");
    assert_eq!(shown, 100);
    assert!(size < 1 << 20, "{size}");
}

/// The two tables and nothing else; and all of ours in a FOR ALL TABLES publication without an error.
#[test]
fn what_a_publication_holds() {
    let mut client = published("rt_members");
    let members = "select string_agg(tablename, ' ' order by tablename) from pg_publication_tables where pubname = 'feeds'";
    assert_eq!(value::<String>(&mut client, members), "service_stats service_status");
    client
        .batch_execute("select busymate_stats.publish('feeds'); select busymate_stats.publish('feeds', true)")
        .unwrap();
    assert_eq!(value::<String>(&mut client, members), "service_stats service_status");

    client
        .batch_execute(
            "create publication everything for all tables; select busymate_stats.publish('everything')",
        )
        .unwrap();
    client
        .batch_execute(
            "select busymate_stats.refresh_stats();
             delete from public.entries; update public.devices set name = name; delete from public.service_status;
             select busymate_stats.assign_role('x', 'viewer'); select busymate_stats.unassign_role('x', 'viewer');
             select busymate_stats.revoke_capability('counter', 'stats:view');
             update busymate_stats.roles set description = 'd' where name = 'counter';
             delete from busymate_stats.roles where name = 'counter';
             select busymate_stats.detach(); select busymate_stats.attach('entries', 'devices');
             select busymate_stats.refresh_stats(); select busymate_stats.detach();
             delete from busymate_stats_internal.publications",
        )
        .unwrap();
}

/// The check of each subscriber: in one transaction of a superuser, with role and claims switched from one to the next.
#[test]
fn subscribers_get_what_they_may_see() {
    let (mut client, _) = served("rt_subscribers");
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    let subscribers = [
        ("authenticated", user("v"), true, true),
        ("authenticated", user("nobody"), false, false),
        ("authenticated", user("s"), true, false),
        ("anon", Some(json!({ "role": "anon" })), false, false),
        ("authenticated", Some(json!({ "sub": 7 })), false, false),
        ("authenticated", None, false, false),
        ("service_role", Some(json!({ "role": "service_role" })), true, true),
    ];
    client.batch_execute("begin").unwrap();
    for table in ["service_stats", "service_status"] {
        client
            .batch_execute(&format!("prepare walrus_{table} as select 1 from public.{table} where id = 1"))
            .unwrap();
    }
    let mut at = 0;
    for turn in 0..500 {
        at = (at + 1 + turn % (subscribers.len() - 1)) % subscribers.len();
        let (role, claims, stats, status) = &subscribers[at];
        let claims = claims.as_ref().map(Value::to_string).unwrap_or_default();
        for (table, seen) in [("service_stats", *stats), ("service_status", *status)] {
            let readable: bool = client
                .query_one(
                    &format!(
                        "select bool_and(has_column_privilege($1::text, 'public.{table}'::regclass, attname, 'SELECT'))
                           from pg_attribute where attrelid = 'public.{table}'::regclass and attnum > 0"
                    ),
                    &[&role],
                )
                .unwrap()
                .get(0);
            assert!(readable, "{role} {table}");
            client
                .execute(
                    "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)",
                    &[&role, &claims],
                )
                .unwrap();
            let delivered = client.simple_query(&format!("execute walrus_{table}")).unwrap();
            let rows = delivered
                .iter()
                .filter(|message| matches!(message, postgres::SimpleQueryMessage::Row(_)))
                .count();
            assert_eq!(rows == 1, seen, "turn {turn}: {role} {claims} {table}");
            client.batch_execute("reset role").unwrap();
        }
    }
    client.batch_execute("commit").unwrap();
}

/// A thousand subscribers with claims of their own in one transaction, asked the row on behalf of each; one of them sends
/// garbage, one a revoked token. Exactly those who may see the row do.
#[test]
fn a_thousand_subscribers() {
    let (mut client, _) = served("rt_thousand");
    client
        .batch_execute(
            "select busymate_stats.refresh_stats();
             insert into busymate_stats.user_roles (sub, role)
             select 'u' || n, case n % 3 when 0 then 'viewer' else 'counter' end from generate_series(0, 999, 2) n;
             insert into busymate_stats.revoked_tokens (jti) values ('t500');
             set busymate_stats.role_claim = 'app_metadata.role'",
        )
        .unwrap();
    let subscribers: Vec<(String, bool)> = (0..1_000)
        .map(|n| match n {
            444 => ("{\"sub\":\"u444\"".into(), false),
            446 => (r#"{"sub":"u446","sub":"u446"}"#.into(), false),
            500 => (json!({ "sub": "u500", "jti": "t500" }).to_string(), false),
            501 => (json!({ "sub": "u501", "app_metadata": { "role": "viewer" } }).to_string(), true),
            503 => (json!({ "sub": "u503", "user_metadata": { "role": "viewer" } }).to_string(), false),
            _ => {
                (json!({ "sub": format!("u{n}"), "jti": format!("t{n}"), "exp": n }).to_string(), n % 2 == 0)
            }
        })
        .collect();
    client.batch_execute("begin; prepare walrus as select 1 from public.service_stats where id = 1").unwrap();
    // Twice: the second round finds what the first has left in memory.
    for _ in 0..2 {
        for (claims, sees) in &subscribers {
            client
                .execute(
                    "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
                    &[claims],
                )
                .unwrap();
            let delivered = client.simple_query("execute walrus").unwrap();
            let rows =
                delivered.iter().filter(|message| matches!(message, postgres::SimpleQueryMessage::Row(_)));
            assert_eq!(rows.count() == 1, *sees, "{claims}");
        }
        client.batch_execute("reset role").unwrap();
    }
    assert_eq!(value::<Option<String>>(&mut client, "select pg_current_xact_id_if_assigned()::text"), None);
    client.batch_execute("commit").unwrap();
}

#[test]
fn publish_says_what_realtime_lacks() {
    let (database, mut client) = installed("rt_lacks");
    let publish = "select busymate_stats.publish('p', true)";
    // A grant that is missing may come later: told, not refused.
    let (mut hearing, heard) = harness::shared().connect_hearing(&database);
    hearing.batch_execute(&format!("begin; {publish}; rollback")).unwrap();
    let warned = heard.lock().unwrap().iter().any(|said| {
        said.message.contains("no role has been granted SELECT") && said.hint.contains("grant_api")
    });
    assert!(warned);
    client.batch_execute("select busymate_stats.grant_api()").unwrap();

    client.batch_execute("alter table public.service_stats replica identity nothing").unwrap();
    let refused = refusal(&mut client, publish);
    assert!(refused.code == "55000" && refused.hint.contains("REPLICA IDENTITY DEFAULT"), "{refused:?}");
    client.batch_execute("alter table public.service_stats replica identity default").unwrap();

    client.batch_execute("alter table public.service_status drop constraint service_status_pkey").unwrap();
    let refused = refusal(&mut client, publish);
    assert!(refused.code == "55000" && refused.hint.contains("ADD PRIMARY KEY"), "{refused:?}");
    client.batch_execute("alter table public.service_status add primary key (id)").unwrap();

    assert_eq!(refusal(&mut client, "select busymate_stats.publish('absent')").code, "42704");
    client.batch_execute(publish).unwrap();
    client.batch_execute("alter publication p set (publish = 'insert')").unwrap();
    let refused = refusal(&mut client, publish);
    assert!(refused.code == "55000" && refused.hint.contains("ALTER PUBLICATION p"), "{refused:?}");
}

#[test]
fn publish_needs_logical_wal() {
    let cluster = harness::Cluster::start("wal_level = replica");
    let mut client = cluster.connect("postgres");
    client.batch_execute(harness::SUPABASE_ROLES).unwrap();
    client.batch_execute("create extension busymate_stats; select busymate_stats.grant_api()").unwrap();
    let refused = refusal(&mut client, "select busymate_stats.publish('p', true)");
    assert!(refused.code == "55000" && refused.hint.contains("ALTER SYSTEM SET wal_level"), "{refused:?}");
}
