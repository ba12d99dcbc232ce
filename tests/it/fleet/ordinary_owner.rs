//! Promise: whoever owns the entries, and is no superuser, goes on making partitions once the fleet is attached, and so does a
//! member of that role; and has no rights left when it is detached.

use harness::fleet::stats_at;
use harness::{refusal, shared, value};

#[test]
fn an_owner_who_is_no_superuser_makes_partitions() {
    let database = shared().create_database("owner");
    let mut client = shared().connect(&database);
    client
        .batch_execute(&format!(
            "create role \"{database} app\"; create role {database}_member in role \"{database} app\";
             create extension busymate_stats; grant create on schema public to \"{database} app\";
             set role \"{database} app\";
             create table public.devices (device_uuid uuid, name text, connection_type text, last_seen_at timestamptz);
             create table public.entries (created_at timestamptz not null, device_uuid uuid, host text, status int, source text)
                 partition by range (created_at);
             create index on public.entries (created_at);
             reset role;
             select busymate_stats.attach('public.entries', 'public.devices')"
        ))
        .unwrap();
    let rights = format!(
        "select concat(has_schema_privilege('{database} app', 'busymate_stats_internal', 'usage'), ' ',
                       has_function_privilege('{database} app', 'busymate_stats_internal.capture_change()', 'execute'))"
    );
    let others = format!(
        "select count(*) from pg_proc p
          where pronamespace = 'busymate_stats_internal'::regnamespace and proname <> 'capture_change'
            and has_function_privilege('{database} app', p.oid, 'execute')"
    );
    let tables = format!(
        "select count(*) from pg_class c
          where relnamespace = 'busymate_stats_internal'::regnamespace and relkind in ('r', 'v', 'S')
            and has_table_privilege('{database} app', c.oid, 'select, insert, update, delete, truncate')"
    );
    assert_eq!(value::<String>(&mut client, &rights), "f t");
    assert_eq!((value::<i64>(&mut client, &others), value::<i64>(&mut client, &tables)), (0, 0));
    for (place, role) in [format!("\"{database} app\""), format!("{database}_member")].into_iter().enumerate()
    {
        client
            .batch_execute(&format!(
                "set role {role};
                 create table public.leaf{place} partition of public.entries
                     for values from (date_trunc('day', now()) - interval '{0} d') to (date_trunc('day', now()) - interval '{place} d');
                 create table public.other{place} (like public.entries);
                 alter table public.entries attach partition public.other{place}
                     for values from (date_trunc('day', now()) + interval '{0} d') to (date_trunc('day', now()) + interval '{1} d');
                 insert into public.entries (created_at, host) values (date_trunc('day', now()) - interval '{place} d 1 min', 'h');
                 reset role",
                place + 1,
                place + 2
            ))
            .unwrap_or_else(|error| panic!("{role}: {error:?}"));
        assert_eq!(stats_at(&mut client, "now")["total_entries"], place + 1);
    }
    client.batch_execute("select busymate_stats.detach()").unwrap();
    assert_eq!(value::<String>(&mut client, &rights), "f f");

    // The extension's own owner keeps what is his.
    client
        .batch_execute(
            "alter table public.entries owner to postgres; alter table public.devices owner to postgres",
        )
        .unwrap();
    client
        .batch_execute("select busymate_stats.attach('public.entries', 'public.devices'); select busymate_stats.detach()")
        .unwrap();
    client.batch_execute("select busymate_stats.attach('public.entries', 'public.devices')").unwrap();
}

/// Names alone open nothing: where the extension is not installed, a trigger by our name is nobody's business.
#[test]
fn a_trigger_by_our_name_is_not_ours() {
    let database = shared().create_database("names");
    let mut client = shared().connect(&database);
    let somebody_elses = "create schema busymate_stats_internal;
        create table busymate_stats_internal.attachment (a int, b oid);
        insert into busymate_stats_internal.attachment values (1, 'pg_class'::regclass);
        create function busymate_stats_internal.capture_change() returns trigger language plpgsql as 'begin return null; end';
        create table public.noted (a int);
        create trigger busymate_stats_capture after insert on public.noted
            for each row execute function busymate_stats_internal.capture_change();
        insert into public.noted values (1)";
    client.batch_execute(somebody_elses).unwrap();
    assert_eq!(
        value::<String>(
            &mut client,
            "select tgenabled::text from pg_trigger where tgname = 'busymate_stats_capture'"
        ),
        "O"
    );
    client
        .batch_execute("drop schema busymate_stats_internal cascade; create extension busymate_stats")
        .unwrap();

    // Nor is one on another table.
    client
        .batch_execute(
            "select busymate_stats.create_fleet_tables();
             create trigger busymate_stats_capture after insert on public.noted
                 for each row execute function busymate_stats_internal.capture_change('a')",
        )
        .unwrap();
    let state = "select tgenabled::text from pg_trigger where tgrelid = 'public.noted'::regclass";
    assert_eq!(value::<String>(&mut client, state), "O");
    assert_eq!(refusal(&mut client, "drop extension busymate_stats").code, "2BP01");
}
