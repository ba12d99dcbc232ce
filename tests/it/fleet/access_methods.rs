//! Promise: where partitions may be kept by other access methods than heap, columnar say, each partition has a trigger of its
//! own. An old one of another access method stands sealed, and whatever is done to it is seen; a recent one is read by the
//! plain query.

use harness::fleet::stats_at;
use harness::worker::{is_sealed_and_right, seal};
use harness::{Cluster, eventually, shared, value};
use postgres::Client;
use std::sync::OnceLock;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start(
            "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'\n\
             busymate_stats.refresh_interval = 0\nbusymate_stats.verify_interval = 0",
        )
    })
}

/// Heap by another name: it is no stand-in for what columnar refuses, but another access method it is.
const OTHER: &str = "create access method other type table handler heap_tableam_handler";

/// A partition of three days ago that `other` keeps, one of yesterday and one of today and later, with an entry an hour.
const ENTRIES: &str = "
    create table public.devices (device_uuid uuid primary key, name text, connection_type text, last_seen_at timestamptz);
    create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int, source text)
        partition by range (created_at);
    create index on public.entries (created_at);
    create table public.old partition of public.entries for values from (now() - interval '9 d') to (now() - interval '2 d') using other;
    create table public.recent partition of public.entries
        for values from (now() - interval '2 d') to (now() - interval '1 h');
    create table public.current partition of public.entries for values from (now() - interval '1 h') to (maxvalue);
    insert into public.entries (created_at, host, status)
    select now() - n * interval '1 h', 'h' || n % 5, 200 from generate_series(0, 71) n;
    create extension busymate_stats;
    select busymate_stats.attach('public.entries', 'public.devices')";

fn fleet_in(cluster: &Cluster) -> Client {
    let mut client = cluster.connect(&cluster.create_database("method"));
    client.batch_execute(&format!("{OTHER}; {ENTRIES}")).unwrap();
    client
}

/// The tables with a trigger of ours, and the trigger.
fn triggers(client: &mut Client) -> String {
    value(
        client,
        "select coalesce(string_agg(concat_ws(' ', tgrelid::regclass, tgname, tgenabled), ', ' order by tgrelid::regclass::text), '')
           from pg_trigger where tgname ~ '^busymate_stats_(capture|frozen)'",
    )
}

fn epoch(client: &mut Client) -> i64 {
    value(client, "select max(epoch) from busymate_stats_internal.seal_state")
}

const OURS: &str =
    "current busymate_stats_capture A, old busymate_stats_frozen A, recent busymate_stats_capture A";

#[test]
fn an_old_partition_stands_sealed_and_what_is_done_to_it_is_seen() {
    let mut client = fleet_in(cluster());
    assert_eq!(triggers(&mut client), OURS);
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 72);
    for (done, total) in [
        ("insert into public.entries (created_at, host) values (now() - interval '5 d', 'late')", 73),
        (
            "insert into public.old (created_at, host) select now() - interval '5 d', 'late' from generate_series(1, 3)",
            76,
        ),
        ("update public.old set host = 'other' where host = 'late'", 76),
        ("delete from public.entries where host = 'other'", 72),
        (
            "begin; truncate public.old; insert into public.old (created_at) values (now() - interval '3 d'); commit",
            50,
        ),
        ("begin; insert into public.old (created_at) values (now() - interval '3 d'); rollback", 50),
        ("update public.entries set created_at = now() where tableoid = 'public.old'::regclass", 50),
    ] {
        client.batch_execute(done).unwrap_or_else(|error| panic!("{done}: {error:?}"));
        assert_eq!(stats_at(&mut client, "now")["total_entries"], total, "{done}");
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], total, "{done}");
    }
    // What comes on time or late elsewhere costs no count.
    let begun = epoch(&mut client);
    client
        .batch_execute(
            "insert into public.entries (created_at, host) select now() - n * interval '5 h', 'late' from generate_series(0, 9) n",
        )
        .unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 60);
    assert_eq!(epoch(&mut client), begun, "everything was counted anew");
    client.batch_execute("drop table public.old").unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 60);
    assert_eq!(epoch(&mut client), begun, "everything was counted anew");
}

/// While a partition is away its own trigger stays on it, and notes nothing: so where what stands above it was away, and where it
/// had come empty.
#[test]
fn what_comes_into_a_partition_that_is_away_counts_when_it_is_back() {
    let mut client = fleet_in(cluster());
    client
        .batch_execute(
            "drop table public.current;
             create table public.current partition of public.entries
                 for values from (now() - interval '1 h') to (now() + interval '1 h') partition by range (created_at);
             create table public.leaf partition of public.current default;
             insert into public.entries (created_at) values (now())",
        )
        .unwrap();
    is_sealed_and_right(&mut client);
    let mut total = 71;
    for (away, rows) in [
        (
            "current",
            "insert into public.leaf (created_at) select now() - interval '30 min' from generate_series(1, 3)",
        ),
        (
            "next",
            "insert into public.next (created_at) select now() - interval '10 d' from generate_series(1, 3)",
        ),
        (
            "old",
            "insert into public.old (created_at) select now() - interval '4 d' from generate_series(1, 3)",
        ),
    ] {
        // In one transaction, so that no sealer finds it away.
        let mut transaction = client.transaction().unwrap();
        transaction
            .batch_execute(
                "create table if not exists public.next partition of public.entries
                     for values from (now() - interval '99 d') to (now() - interval '9 d 1 h')",
            )
            .unwrap();
        let bounds = format!(
            "select pg_get_expr(relpartbound, oid) from pg_class where oid = 'public.{away}'::regclass"
        );
        let bounds: String = transaction.query_one(&bounds, &[]).unwrap().get(0);
        transaction
            .batch_execute(&format!(
                "alter table public.entries detach partition public.{away}; {rows};
                 alter table public.entries attach partition public.{away} {bounds}"
            ))
            .unwrap_or_else(|error| panic!("{away}: {error:?}"));
        transaction.commit().unwrap();
        total += 3;
        assert_eq!(stats_at(&mut client, "now")["total_entries"], total, "{away}");
        assert_eq!(is_sealed_and_right(&mut client)["total_entries"], total, "{away}");
    }
}

/// One statement leaves one mark, however many rows it writes.
#[test]
fn a_load_into_an_old_partition_marks_once() {
    let mut client = fleet_in(shared());
    client
        .batch_execute(
            "insert into public.entries (created_at) select now() - n * interval '1 min' - interval '3 d' from generate_series(1, 5000) n",
        )
        .unwrap();
    let marks = "select count(*) from busymate_stats_internal.seal_markers where reason like 'a partition of another%'";
    assert_eq!(value::<i64>(&mut client, marks), 1);
}

#[test]
fn a_recent_one_is_read_by_the_plain_query() {
    let mut client = fleet_in(cluster());
    is_sealed_and_right(&mut client);
    client
        .batch_execute(
            "drop table public.current;
             create table public.current partition of public.entries for values from (now() - interval '1 h') to (maxvalue) using other",
        )
        .unwrap();
    let reason = eventually("it is told", || seal(&mut client, "reason"));
    assert_eq!(
        reason,
        "public.current is kept by another access method than heap, and may have entries of the last 24 hours"
    );
    client.batch_execute("insert into public.entries (created_at, host) values (now(), 'h')").unwrap();
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 71);
}

/// They come by CREATE, by ATTACH, below another one, from an owner who is no superuser, and with another event trigger that
/// writes; each has its trigger when the statement ends, and an empty one of heap costs no count.
#[test]
fn partitions_that_come_get_their_trigger() {
    let database = cluster().create_database("comes");
    let mut client = cluster().connect(&database);
    client.batch_execute(&format!("{OTHER}; {ENTRIES}")).unwrap();
    client
        .batch_execute(&format!(
            "select busymate_stats.detach(); drop table public.current;
             create table public.current partition of public.entries
                 for values from (now() - interval '1 h') to (now() + interval '1 h');
             create role {database}_app; grant create on schema public to {database}_app;
             alter table public.entries owner to {database}_app; alter table public.devices owner to {database}_app;
             alter table public.old owner to {database}_app; alter table public.recent owner to {database}_app;
             alter table public.current owner to {database}_app;
             select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
    is_sealed_and_right(&mut client);
    let begun = epoch(&mut client);
    client
        .batch_execute(&format!(
            "set role {database}_app;
             create table public.next1 partition of public.entries
                 for values from (now() + interval '1 h') to (now() + interval '2 h');
             create table public.next2 (like public.entries);
             alter table public.entries attach partition public.next2
                 for values from (now() + interval '2 h') to (now() + interval '3 h');
             create table public.branch (like public.entries) partition by range (created_at);
             create table public.leaf partition of public.branch
                 for values from (now() + interval '3 h') to (now() + interval '4 h');
             alter table public.entries attach partition public.branch
                 for values from (now() + interval '3 h') to (now() + interval '5 h');
             reset role"
        ))
        .unwrap();
    let ours = "current busymate_stats_capture A, leaf busymate_stats_capture A, next1 busymate_stats_capture A, \
                next2 busymate_stats_capture A, old busymate_stats_frozen A";
    assert_eq!(triggers(&mut client).replace(", recent busymate_stats_capture A", ""), ours);
    client.batch_execute("insert into public.entries (created_at, host) select now() + n * interval '50 min', 'h' from generate_series(0, 4) n").unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 75);
    assert_eq!(epoch(&mut client), begun, "everything was counted anew");

    // A partition of another's is not asked by itself.
    client.batch_execute("alter table public.leaf owner to postgres").unwrap();
    let reason = eventually("it is told", || seal(&mut client, "reason"));
    assert_eq!(reason, "public.leaf has an owner of its own, or policies that hide rows from its owner");
    client.batch_execute(&format!("alter table public.leaf owner to {database}_app")).unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 75);

    // Without our event trigger, the plain query answers.
    client
        .batch_execute(
            "alter event trigger busymate_stats_partitions disable;
             create table public.unseen partition of public.entries for values from (now() + interval '6 h') to (maxvalue);
             insert into public.entries (created_at) values (now() + interval '7 h')",
        )
        .unwrap();
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 76);
    let reason = eventually("it is told", || seal(&mut client, "reason"));
    assert_eq!(reason, "trigger busymate_stats_capture is missing on public.unseen");
}

/// Nothing of ours is left by detach(), nor by DROP EXTENSION, which needs no CASCADE.
#[test]
fn they_go_as_they_came() {
    let mut client = fleet_in(shared());
    client.batch_execute("select busymate_stats.detach()").unwrap();
    assert_eq!(triggers(&mut client), "");
    client.batch_execute("select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
    assert_eq!(triggers(&mut client), OURS);
    client.batch_execute("alter table public.entries detach partition public.recent").unwrap();
    client.batch_execute("drop extension busymate_stats").unwrap();
    assert_eq!(triggers(&mut client), "");
}

/// A partition that was detached keeps its trigger, whatever becomes of the others; it is no hindrance when it is back, nor is its
/// own to others that come with it.
#[test]
fn one_that_comes_with_its_trigger_is_no_hindrance() {
    let mut client = fleet_in(shared());
    let bounds: String = value(
        &mut client,
        "select pg_get_expr(relpartbound, oid) from pg_class where oid = 'public.recent'::regclass",
    );
    client
        .batch_execute(&format!(
            "alter table public.entries detach partition public.recent; select busymate_stats.detach();
             alter table public.entries attach partition public.recent {bounds};
             select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
    assert_eq!(triggers(&mut client), OURS);
    client
        .batch_execute(&format!(
            "alter table public.entries detach partition public.recent;
             create table public.above (like public.entries) partition by range (created_at);
             alter table public.above attach partition public.recent {bounds};
             create table public.beside partition of public.above for values from (minvalue) to ('2001-01-01');
             alter table public.entries attach partition public.above {bounds}"
        ))
        .unwrap();
    assert_eq!(triggers(&mut client), format!("beside busymate_stats_capture A, {OURS}"));
}

/// Each has its own for as long as any has, also when the other access method has gone.
#[test]
fn it_goes_on_when_the_access_method_has_gone() {
    let mut client = fleet_in(shared());
    client
        .batch_execute(
            "drop table public.old; drop access method other;
             create table public.old partition of public.entries for values from (now() - interval '9 d') to (now() - interval '3 d')",
        )
        .unwrap();
    assert_eq!(triggers(&mut client), OURS.replace("frozen", "capture"));
}

/// detach() locks the parent before its partitions, as a writer does.
#[test]
fn detach_does_not_deadlock_with_a_writer() {
    let database = shared().create_database("deadlock");
    let [mut client, mut writer] = [(), ()].map(|()| shared().connect(&database));
    client.batch_execute(&format!("{OTHER}; {ENTRIES}")).unwrap();
    for table in ["current", "recent", "old"] {
        writer
            .batch_execute(&format!(
                "begin; insert into public.entries select created_at from public.{table} limit 1"
            ))
            .unwrap();
        std::thread::scope(|scope| {
            let mut other = shared().connect(&database);
            let detach = scope.spawn(move || {
                other.batch_execute("select busymate_stats.detach(); select busymate_stats.attach('public.entries', 'public.devices')")
            });
            eventually("it waits", || {
                value::<bool>(
                    &mut client,
                    "select exists (select from pg_locks where not granted and relation = 'public.entries'::regclass)",
                )
                .then_some(())
            });
            let all = "insert into public.entries select created_at - interval '1 us' from public.entries where host = 'h1'";
            writer.batch_execute(all).unwrap();
            writer.batch_execute("commit").unwrap();
            detach.join().unwrap().unwrap();
        });
    }
}

/// A table of another access method gets nothing of ours; and in a database that has only heap, partitions get copies.
#[test]
fn what_cannot_be_sealed_gets_nothing_and_heap_alone_gets_copies() {
    let database = shared().create_database("method");
    let mut client = shared().connect(&database);
    client
        .batch_execute(&format!(
            "{OTHER}; create extension busymate_stats;
             create table public.devices (device_uuid uuid primary key, name text, connection_type text, last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int, source text) using other;
             create index on public.entries (created_at); insert into public.entries values (now());
             select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
    assert_eq!(triggers(&mut client), "");
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 1);

    let database = shared().create_database("heap");
    let mut client = shared().connect(&database);
    client.batch_execute(&ENTRIES.replace("using other", "")).unwrap();
    assert_eq!(
        triggers(&mut client),
        "current busymate_stats_capture A, entries busymate_stats_capture A, old busymate_stats_capture A, recent busymate_stats_capture A"
    );
}
