//! Promise: `create_fleet_tables(partition_by => 'day')` makes entries whose partitions are there before they are needed, takes
//! a row of any day, and is counted as one table is.

use harness::fleet::stats_at;
use harness::worker::{EVERY_SECOND, is_sealed_and_right, next_refresh, seal, wait_for_seal};
use harness::{Cluster, dump, eventually, refusal, shared, value};
use postgres::Client;
use std::sync::OnceLock;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&format!("{EVERY_SECOND}\nbusymate_stats.seal_interval = '1s'")))
}

const DAILY: &str =
    "create extension busymate_stats; select busymate_stats.create_fleet_tables(partition_by => 'day')";

fn daily_in(cluster: &Cluster, prefix: &str) -> (String, Client) {
    let database = cluster.create_database(prefix);
    let mut client = cluster.connect(&database);
    client.batch_execute(DAILY).unwrap();
    (database, client)
}

/// The days that have a partition, counted from today, as one text.
fn days(client: &mut Client) -> String {
    value(
        client,
        "select string_agg((right(relname, 8)::date - (now() at time zone 'UTC')::date)::text, ' ' order by relname)
           from pg_class c join pg_inherits i on i.inhrelid = c.oid
          where i.inhparent = 'public.entries'::regclass and relname ~ '^entries_\\d{8}$' and c.relkind = 'r'",
    )
}

const WEEK: &str = "-1 0 1 2 3 4 5 6 7";

/// The partition of a day, counted from today.
fn partition(client: &mut Client, day: i32) -> String {
    value(
        client,
        &format!(
            "select 'public.entries_' || to_char(now() at time zone 'UTC' + {day} * interval '1 d', 'YYYYMMDD')"
        ),
    )
}

#[test]
fn its_tables_are_as_described() {
    let (database, mut client) = daily_in(shared(), "daily");
    assert_eq!(days(&mut client), WEEK);
    let key: String = value(
        &mut client,
        "select pg_get_partkeydef('public.entries'::regclass) || ' ' || pg_get_constraintdef(oid)
           from pg_constraint where conrelid = 'public.entries'::regclass and contype = 'p'",
    );
    assert_eq!(key, "RANGE (created_at) PRIMARY KEY (id, created_at)");

    // Each row has a number of its own, wherever it lies.
    client
        .batch_execute(
            "insert into public.entries (created_at, host) select now() + n * interval '1 d', 'h' from generate_series(-9, 9) n",
        )
        .unwrap();
    assert_eq!(
        value::<i64>(&mut client, "select count(distinct id) from public.entries where id between 1 and 19"),
        19
    );
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 19);
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.entries_default"), 10);

    // Who has been granted all tables reads no partition by its name, as on Supabase.
    client
        .batch_execute(&format!(
            "create role {database}_reader; grant select on all tables in schema public to {database}_reader;
             set role {database}_reader"
        ))
        .unwrap();
    for day in -1..=7 {
        let name = partition(&mut client, day);
        assert_eq!(value::<i64>(&mut client, &format!("select count(*) from {name}")), 0, "{name}");
    }
    assert_eq!(value::<i64>(&mut client, "select count(*) from public.entries_default"), 0);
}

#[test]
fn nothing_else_can_be_asked_for() {
    let database = shared().create_database("hourly");
    let mut client = shared().connect(&database);
    client.batch_execute("create extension busymate_stats").unwrap();
    for other in ["hour", "", "Day"] {
        let refused = refusal(
            &mut client,
            &format!("select busymate_stats.create_fleet_tables(partition_by => '{other}')"),
        );
        assert_eq!(
            (refused.code.as_str(), refused.message),
            ("22023", format!("cannot partition by \"{other}\""))
        );
        assert!(refused.hint.contains("'day'"), "{}", refused.hint);
    }
    client.batch_execute("select busymate_stats.create_fleet_tables(null)").unwrap();
    assert_eq!(
        value::<String>(
            &mut client,
            "select relkind::text from pg_class where oid = 'public.entries'::regclass"
        ),
        "r"
    );
}

/// Whoever owns the tables is no superuser; a partition that has gone is made again, as that owner's.
#[test]
fn a_refresh_makes_those_that_are_missing() {
    let database = cluster().create_database("ahead");
    let mut client = cluster().connect(&database);
    client
        .batch_execute(&format!(
            "create role {database}_app; create extension busymate_stats; grant create on schema public to {database}_app;
             grant usage on schema busymate_stats to {database}_app;
             grant execute on function busymate_stats.create_fleet_tables(text) to {database}_app;
             set role {database}_app; select busymate_stats.create_fleet_tables('day'); reset role;
             insert into public.entries (created_at, host)
             select now() - n * interval '10 min', 'h' from generate_series(1, 300) n"
        ))
        .unwrap();
    for day in [2, 5, 6, 7] {
        let name = partition(&mut client, day);
        client.batch_execute(&format!("drop table {name}")).unwrap();
    }
    eventually("they are there again", || (days(&mut client) == WEEK).then_some(()));
    let owners: String = value(
        &mut client,
        "select string_agg(distinct pg_get_userbyid(relowner), ' ') from pg_class where relname like 'entries_2%' and relkind = 'r'",
    );
    assert_eq!(owners, format!("{database}_app"));
    let name = partition(&mut client, 5);
    assert!(value::<bool>(
        &mut client,
        &format!("select relrowsecurity from pg_class where oid = '{name}'::regclass")
    ));
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 300);

    // It goes on after the fleet was attached in another way.
    client
        .batch_execute(
            "select busymate_stats.detach(); select busymate_stats.attach('public.entries', 'public.devices', source => 'method')",
        )
        .unwrap();
    let name = partition(&mut client, 3);
    client.batch_execute(&format!("drop table {name}")).unwrap();
    eventually("it is there again", || (days(&mut client) == WEEK).then_some(()));
}

/// What is sealed holds: they come without a row.
#[test]
fn new_partitions_cost_no_count() {
    let settings = "busymate_stats.refresh_interval = 0\nbusymate_stats.seal_interval = '1s'";
    let cluster = Cluster::start(settings);
    let mut client = cluster.connect(&cluster.create_database("no_count"));
    let [sixth, seventh] = [6, 7].map(|day| partition(&mut client, day));
    // In one transaction: a sealer that had seen them would count anew once they are gone.
    client
        .batch_execute(&format!(
            "{DAILY}; drop table {sixth}, {seventh};
             insert into public.entries (created_at, host)
             select now() - n * interval '10 min', 'h' from generate_series(1, 300) n"
        ))
        .unwrap();
    wait_for_seal(&mut client);
    let epoch = "select max(epoch) from busymate_stats_internal.seal_state";
    let begun: i64 = value(&mut client, epoch);
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(days(&mut client), WEEK);
    client.batch_execute("insert into public.entries (host) values ('now')").unwrap();
    assert_eq!(is_sealed_and_right(&mut client)["total_entries"], 301);
    assert_eq!(value::<i64>(&mut client, epoch), begun, "everything was counted anew");
}

#[test]
fn a_day_of_which_the_default_partition_holds_rows_is_left_out_and_told() {
    let (_, mut client) = daily_in(cluster(), "left_out");
    let [third, fifth] = [3, 5].map(|day| partition(&mut client, day));
    client
        .batch_execute(&format!(
            "begin; drop table {third}, {fifth};
             insert into public.entries (created_at, host) values (now() + interval '5 d', 'h'); commit"
        ))
        .unwrap();
    let told = eventually("it is told", || seal(&mut client, "partitions"));
    let day: String = value(&mut client, "select ((now() + interval '5 d') at time zone 'UTC')::date::text");
    assert_eq!(
        told,
        format!(
            "public.entries has no partition for {day}: public.entries_default holds entries of that day"
        )
    );
    eventually("the others are made", || (days(&mut client) == "-1 0 1 2 3 4 6 7").then_some(()));
    client
        .batch_execute(&format!(
            "begin;
             create temporary table moved on commit drop as select * from public.entries_default;
             delete from public.entries_default;
             create table {fifth} partition of public.entries for values from ('{day} 00:00Z') to ('{day} 24:00Z');
             insert into public.entries overriding system value select * from moved;
             commit"
        ))
        .unwrap();
    eventually("nothing is left to tell", || seal(&mut client, "partitions").is_none().then_some(()));
    assert_eq!(days(&mut client), WEEK);
    assert_eq!(stats_at(&mut client, "now")["total_entries"], 1);
}

/// ATTACH PARTITION locks the default partition against readers: a refresh does not wait for them, nor keep others waiting.
#[test]
fn a_refresh_waits_for_no_reader() {
    let (database, mut client) = daily_in(shared(), "readers");
    let mut reader = shared().connect(&database);
    let name = partition(&mut client, 7);
    client.batch_execute(&format!("drop table {name}")).unwrap();
    reader.batch_execute("begin; select from public.entries_default").unwrap();
    client.batch_execute("set lock_timeout = '1ms'; select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(days(&mut client), WEEK.trim_end_matches(" 7"));
    assert_eq!(seal(&mut client, "partitions"), None);
    reader.batch_execute("commit").unwrap();
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(days(&mut client), WEEK);
}

/// What is in the way of one day is in nobody else's: a table by the partition's name, a partition that was let go, and one of one's
/// own that takes a part of the day.
#[test]
fn one_day_that_cannot_be_made_stops_no_other() {
    let (_, mut client) = daily_in(shared(), "one");
    let names: Vec<String> = (2..=6).map(|day| partition(&mut client, day)).collect();
    client
        .batch_execute(&format!(
            "drop table {}; create table {} (mine int); alter table public.entries detach partition {};
             select busymate_stats.refresh_stats()",
            names[1..].join(", "),
            names[1],
            names[0]
        ))
        .unwrap();
    assert_eq!(days(&mut client), "-1 0 1 4 5 6 7");
    let told = seal(&mut client, "partitions").unwrap();
    assert!(told.ends_with("already exists"), "{told}");
    client
        .batch_execute(&format!(
            "drop table {};
             do $$ begin
                 execute format('create table public.noon partition of public.entries for values from (%L) to (%L)',
                                date_trunc('day', now(), 'UTC') + interval '3 d 12 h', date_trunc('day', now(), 'UTC') + interval '3 d 18 h');
             end $$;
             select busymate_stats.refresh_stats()",
            names[4]
        ))
        .unwrap();
    assert_eq!(days(&mut client), "-1 0 1 4 5 6 7");
}

/// PostgreSQL reads the whole default partition for each new one, while nobody else may: one that holds much is left alone.
#[test]
fn a_default_partition_that_holds_much_is_not_read_for_a_new_one() {
    let (_, mut client) = daily_in(shared(), "much");
    let name = partition(&mut client, 4);
    client
        .batch_execute(&format!(
            "drop table {name};
             insert into public.entries (created_at) select now() - interval '99 d' from generate_series(1, 300000) n;
             analyze public.entries_default; select busymate_stats.refresh_stats()"
        ))
        .unwrap();
    let told = seal(&mut client, "partitions").unwrap();
    assert!(told.ends_with(": public.entries_default holds too many entries of other days"), "{told}");
    client.batch_execute("truncate public.entries_default; select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(seal(&mut client, "partitions"), None);
    assert_eq!(days(&mut client), WEEK);
}

/// A foreign key makes ATTACH PARTITION lock devices against writers; and a day that is left out locks nothing.
#[test]
fn a_refresh_does_not_wait_for_writers_of_what_entries_refer_to() {
    let (database, mut client) = daily_in(shared(), "refers");
    let mut other = shared().connect(&database);
    let [third, fifth] = [3, 5].map(|day| partition(&mut client, day));
    client
        .batch_execute(&format!(
            "insert into public.devices (name) values ('d');
             alter table public.entries add foreign key (device_uuid) references public.devices;
             drop table {third}, {fifth};
             insert into public.entries (created_at) values (now() + interval '5 d')"
        ))
        .unwrap();
    other.batch_execute("begin; update public.devices set last_seen_at = now()").unwrap();
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(days(&mut client), "-1 0 1 2 4 6 7");
    other.batch_execute("commit").unwrap();
    client.batch_execute("select busymate_stats.refresh_stats()").unwrap();
    assert_eq!(days(&mut client), "-1 0 1 2 3 4 6 7");
    client.batch_execute("begin; select busymate_stats.refresh_stats()").unwrap();
    let locks = "select count(*) from pg_locks where relation = 'public.entries_default'::regclass and mode = 'AccessExclusiveLock'";
    assert_eq!(value::<i64>(&mut client, locks), 0);
    client.batch_execute("commit").unwrap();
}

/// PostgREST's schema cache is reloaded by an event trigger on Supabase; and one that raises is told, and costs no refresh.
#[test]
fn event_triggers_of_others_fire() {
    let (_, mut client) = daily_in(cluster(), "watched");
    client
        .batch_execute(
            "create table seen (by name);
             grant insert on seen to public;
             create function watch() returns event_trigger language plpgsql as $$
             begin
                 insert into public.seen values (current_user);
                 notify pgrst, 'reload schema';
                 if exists (select from public.refused) then raise exception 'not today'; end if;
             end $$;
             create table refused (a int); grant select on refused to public;
             create event trigger watch on ddl_command_end when tag in ('CREATE TABLE') execute function watch()",
        )
        .unwrap();
    let name = partition(&mut client, 6);
    client.batch_execute(&format!("drop table {name}")).unwrap();
    eventually("it is made", || (days(&mut client) == WEEK).then_some(()));
    assert!(value::<bool>(&mut client, "select exists (select from seen where by = 'postgres')"));
    client
        .batch_execute(&format!("begin; insert into refused values (1); drop table {name}; commit"))
        .unwrap();
    let told = eventually("it is told", || seal(&mut client, "partitions"));
    let day: String = value(&mut client, "select ((now() + interval '6 d') at time zone 'UTC')::date::text");
    assert_eq!(told, format!("public.entries has no partition for {day}: not today"));
    next_refresh(&mut client);
    client.batch_execute("delete from refused").unwrap();
    eventually("it is made", || (days(&mut client) == WEEK).then_some(()));
}

#[test]
fn a_dump_keeps_it() {
    let (database, mut client) = daily_in(shared(), "kept");
    client
        .batch_execute("insert into public.entries (created_at, host) select now() - n * interval '1 d', 'h' from generate_series(-9, 9) n")
        .unwrap();
    let restored = format!("{database}_restored");
    client.batch_execute(&format!("create database {restored} template template0")).unwrap();
    dump::copy_custom(shared(), &database, &restored);
    let mut copy = shared().connect(&restored);
    assert_eq!(days(&mut copy), WEEK);
    let name = partition(&mut copy, 4);
    copy.batch_execute(&format!("drop table {name}; select busymate_stats.refresh_stats()")).unwrap();
    assert_eq!(days(&mut copy), WEEK);
    copy.batch_execute("insert into public.entries (host) values ('new')").unwrap();
    assert_eq!(stats_at(&mut copy, "now")["total_entries"], 19);
    assert_eq!(value::<i64>(&mut copy, "select max(id) from public.entries"), 20);

    // A table that has gone is no burden.
    copy.batch_execute("select busymate_stats.detach(); drop table public.entries, public.devices").unwrap();
    copy.batch_execute("select busymate_stats.create_fleet_tables('day')").unwrap();
    assert_eq!(value::<i64>(&mut copy, "select count(*) from busymate_stats_internal.daily_partitions"), 1);
}
