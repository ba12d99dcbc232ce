//! Promise: late rows break nobody's logical decoding. What capture writes stands between the records of the user's own
//! statement, and PostgreSQL's reorder buffer fails on any insertion between the two records of an INSERT … ON CONFLICT:
//! every slot of the database would then be stuck for good, with subscriptions that have nothing to do with entries.

use harness::decoding::wal2json_slot;
use harness::worker::{is_sealed_and_right, sealed_past};
use harness::{Cluster, eventually, refusal_of, value};
use postgres::Client;
use std::sync::OnceLock;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // Little memory: what is larger than that is decoded from disk.
        Cluster::start(
            "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'\n\
             max_replication_slots = 30\nlogical_decoding_work_mem = 64kB",
        )
    })
}

const PLAIN: &str = ");";
const PARTITIONED: &str = ") partition by range (created_at);
    create table public.entries_old partition of public.entries
        for values from (minvalue) to (now() - interval '3 hours');
    create table public.entries_new partition of public.entries
        for values from (now() - interval '3 hours') to (maxvalue);";

/// A fleet whose entries of the last six hours, twelve of them, are sealed; with two publications, of everything and of
/// the feeds alone.
fn sealed(shape: &str) -> (String, Client) {
    let database = cluster().create_database("decoding");
    let mut client = cluster().connect(&database);
    client
        .batch_execute(&format!(
            "create table public.devices (device_uuid uuid primary key, name text, connection_type text,
                                          last_seen_at timestamptz);
             create table public.entries (
                 created_at timestamptz not null default now(), device_uuid uuid, host text, status int, source text,
                 primary key (created_at, host)
             {shape}
             create extension busymate_stats;
             select busymate_stats.attach('public.entries', 'public.devices');
             insert into public.entries (created_at, host, status, source)
             select now() - n * interval '30 min', 'h' || n, 200, 'vpn' from generate_series(1, 12) n;
             create publication everything for all tables;
             select busymate_stats.publish('feeds', create_missing => true)"
        ))
        .unwrap();
    is_sealed_and_right(&mut client);
    (database, client)
}

struct Case {
    what: &'static str,
    /// Begun, and left idle until the seal is past the transaction's `now()`.
    slow: bool,
    statements: &'static str,
    /// A statement of its own, for after them.
    finally: &'static str,
    /// How many rows a subscriber must be sent as inserted, and as updated.
    delivered: (i64, i64),
}

const CASES: [Case; 10] = [
    Case {
        what: "ON CONFLICT DO NOTHING",
        slow: false,
        statements: "insert into public.entries (created_at, host) values (now() - interval '2 h', 'late')
                     on conflict do nothing",
        finally: "",
        delivered: (1, 0),
    },
    Case {
        what: "ON CONFLICT DO UPDATE",
        slow: false,
        statements: "insert into public.entries (created_at, host) values (now() - interval '2 h', 'late')
                     on conflict (created_at, host) do update set status = excluded.status",
        finally: "",
        delivered: (1, 0),
    },
    Case {
        what: "conflicts",
        slow: false,
        statements: "insert into public.entries (created_at, host, status)
                     select created_at, host, 404 from public.entries where status = 200
                     on conflict (created_at, host) do update set status = excluded.status",
        finally: "",
        delivered: (0, 12),
    },
    Case {
        what: "DO NOTHING in a transaction slower than seal_lag",
        slow: true,
        statements: "insert into public.entries (host) values ('slow') on conflict do nothing",
        finally: "commit",
        delivered: (1, 0),
    },
    Case {
        what: "DO UPDATE in a transaction slower than seal_lag",
        slow: true,
        statements: "insert into public.entries (host) values ('slow')
                     on conflict (created_at, host) do update set status = excluded.status",
        finally: "commit",
        delivered: (1, 0),
    },
    Case {
        what: "many, some of which conflict",
        slow: false,
        statements: "insert into public.entries (created_at, host, status)
                     select now() - n * interval '1 min', 'many' || n, 200 from generate_series(1, 300) n
                     union all select created_at, host, 500 from public.entries where host ~ '^h[0-9]+$'
                     on conflict (created_at, host) do update set status = excluded.status",
        finally: "",
        delivered: (300, 12),
    },
    Case {
        what: "more than fits into memory",
        slow: false,
        statements: "insert into public.entries (created_at, host, status)
                     select now() - n * interval '1 s', repeat('large', 20) || n, 200 from generate_series(1, 3000) n
                     on conflict do nothing",
        finally: "",
        delivered: (3000, 0),
    },
    Case {
        what: "subtransactions, one of which is rolled back",
        slow: false,
        statements: "begin; savepoint s;
                     insert into public.entries (created_at, host) values (now() - interval '2 h', 'gone')
                         on conflict do nothing;
                     rollback to s;
                     insert into public.entries (created_at, host) values (now() - interval '2 h', 'stays')
                         on conflict do nothing;
                     savepoint t;
                     insert into public.entries (created_at, host) values (now() - interval '4 h', 'stays')
                         on conflict do nothing;
                     release t; commit",
        finally: "",
        delivered: (2, 0),
    },
    Case {
        what: "prepared",
        slow: false,
        statements: "begin;
                     insert into public.entries (created_at, host) values (now() - interval '2 h', 'prepared')
                         on conflict do nothing;
                     prepare transaction 'DATABASE'",
        finally: "commit prepared 'DATABASE'",
        delivered: (1, 0),
    },
    Case {
        what: "no speculative insertion, an update and a delete",
        slow: false,
        statements: "insert into public.entries (created_at, host)
                         select now() - n * interval '1 h', 'plain' from generate_series(1, 5) n;
                     update public.entries set status = 500 where host = 'plain';
                     delete from public.entries where host = 'plain'",
        finally: "",
        delivered: (5, 5),
    },
];

/// A slot, and the query that gives the table's name and the first letter of the action of each change that it decodes.
struct Slot {
    name: String,
    changes: String,
}

impl Slot {
    fn create(client: &mut Client, database: &str, label: &str, plugin: &str, options: &str) -> Option<Self> {
        let name = format!("{database}_{label}");
        if plugin == "wal2json" {
            if !wal2json_slot(client, &name) {
                return None;
            }
        } else {
            client
                .execute(
                    "select pg_create_logical_replication_slot($1::text::name, $2::text::name)",
                    &[&name, &plugin],
                )
                .unwrap();
        }
        let changes = match plugin {
            "test_decoding" => format!(
                "select change[1]::regclass::oid, change[2]
                   from pg_logical_slot_get_changes('{name}', null, null {options}),
                        regexp_match(data, '^table ([^:]+): ([A-Z])') change
                  where change is not null"
            ),
            "wal2json" => format!(
                "select format('%I.%I', change ->> 'schema', change ->> 'table')::regclass::oid, change ->> 'action'
                   from pg_logical_slot_get_changes('{name}', null, null {options}), json(data) change"
            ),
            _ => format!(
                "select ('x' || encode(substr(data, 2, 4), 'hex'))::bit(32)::int8::oid, chr(get_byte(data, 0))
                   from pg_logical_slot_get_binary_changes('{name}', null, null {options})
                  where chr(get_byte(data, 0)) in ('I', 'U', 'D')"
            ),
        };
        Some(Self { name, changes })
    }

    /// How many rows of `table` it decodes as inserted, updated and deleted; leaves of `entries` are `entries`.
    fn read(&self, client: &mut Client) -> Result<Vec<(String, String, i64)>, String> {
        let sql = format!(
            "select coalesce(pg_partition_root(relation), relation)::regclass::text, action, count(*)
               from ({}) change (relation, action) group by 1, 2 order by 1, 2",
            self.changes
        );
        let rows = client.query(&sql, &[]).map_err(|error| refusal_of(&error).message)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    fn drop(self, client: &mut Client) {
        client.execute("select pg_drop_replication_slot($1::text::name)", &[&self.name]).unwrap();
    }
}

fn count(changes: &[(String, String, i64)], table: &str, action: &str) -> i64 {
    changes.iter().find(|change| change.0 == table && change.1 == action).map_or(0, |change| change.2)
}

/// What is wrong with what the slots give after the case.
fn decode(database: &str, client: &mut Client, case: &Case, failures: &mut Vec<String>) {
    // The boundary moves on while entries come: here, each second, some that were written before.
    if case.slow {
        let coming = "insert into public.entries (created_at, host)
                      select clock_timestamp() + n * interval '1 s', 'coming' from generate_series(1, 90) n";
        client.batch_execute(coming).unwrap();
    }
    let slots: Vec<_> = [
        ("text", "test_decoding", ", 'include-xids', '0', 'skip-empty-xacts', '1'"),
        ("everything", "pgoutput", ", 'proto_version', '1', 'publication_names', 'everything'"),
        ("feeds", "pgoutput", ", 'proto_version', '1', 'publication_names', 'feeds'"),
        ("json", "wal2json", ", 'format-version', '2', 'include-transaction', 'false'"),
    ]
    .into_iter()
    .filter_map(|(label, plugin, options)| Slot::create(client, database, label, plugin, options))
    .collect();

    let mut writer = cluster().connect(database);
    if case.slow {
        writer.batch_execute("begin").unwrap();
        let begun: String = value(&mut writer, "select now()::text");
        eventually("the seal is past the transaction's now()", || sealed_past(client, &begun).then_some(()));
    }
    for statements in [case.statements, case.finally] {
        writer.batch_execute(&statements.replace("DATABASE", database)).unwrap();
    }
    is_sealed_and_right(client);
    let waiting = "select count(*) from busymate_stats_internal.late_changes";
    eventually("the late changes are counted and gone", || {
        (value::<i64>(client, waiting) == 0).then_some(())
    });
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();

    for slot in slots {
        let mut expected = format!("entries ({}, {})", case.delivered.0, case.delivered.1);
        if slot.name.ends_with("_feeds") {
            expected = "entries (0, 0)".into();
        }
        expected += ", late_changes (0, 0), feeds true";
        let found = slot.read(client).map(|changes| {
            let late = "busymate_stats_internal.late_changes";
            // Of late_changes, which has REPLICA IDENTITY NOTHING, no old row is logged when it is deleted: pgoutput sends
            // nothing then, wal2json gives nothing and warns unless its filters leave the table out, and test_decoding says
            // that a row was deleted, and not which.
            let deleted = if slot.name.ends_with("_text") { 0 } else { count(&changes, late, "D") };
            format!(
                "entries ({}, {}), late_changes ({}, {deleted}), feeds {}",
                count(&changes, "entries", "I"),
                count(&changes, "entries", "U"),
                count(&changes, late, "I"),
                count(&changes, "service_stats", "U") > 0
            )
        });
        if found.as_deref() != Ok(&expected) {
            failures.push(format!("{}, {}: {found:?}", case.what, slot.name));
        }
        slot.drop(client);
    }
}

#[track_caller]
fn all_decode(shape: &str) {
    let (database, mut client) = sealed(shape);
    let mut failures = Vec::new();
    for case in &CASES {
        decode(&database, &mut client, case, &mut failures);
        if case.what == "conflicts" {
            client.batch_execute("update public.entries set status = 200 where status = 404").unwrap();
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn late_rows_of_a_plain_table_are_decoded() {
    all_decode(PLAIN);
}

#[test]
fn late_rows_of_a_partitioned_table_are_decoded() {
    all_decode(PARTITIONED);
}
