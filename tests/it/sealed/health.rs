//! `health` and the log say how sealing goes on: how much a first seal has still to count, who holds the seal up, and
//! since when.

use harness::worker::{logged, seal, wait_for_seal};
use harness::{Cluster, eventually, value};
use postgres::Client;

const SETTINGS: &str = "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'";

/// A fleet whose entries the worker finds all at once.
fn fleet_in(cluster: &Cluster, count: u32, before: &str) -> (String, Client) {
    let database = cluster.create_database("told");
    let mut client = cluster.connect(&database);
    client
        .batch_execute(&format!(
            "begin; create extension busymate_stats; select busymate_stats.create_fleet_tables(); {before};
             insert into public.entries (created_at, host, status, source)
             select now() - n * interval '36 h' / {count}, 'h' || n % 5, 200, 'vpn' from generate_series(1, {count}) n;
             commit"
        ))
        .unwrap();
    (database, client)
}

fn awaited_reason(client: &mut Client, matches: &str) -> String {
    eventually(matches, || {
        let reason = seal(client, "reason")?;
        value::<bool>(client, &format!("select '{}' ~ '{matches}'", reason.replace('\'', "''")))
            .then_some(reason)
    })
}

/// Every chunk takes long enough that the next is no longer.
const SLOW_CHUNKS: &str = "create function public.slowly() returns trigger language plpgsql as 'begin perform pg_sleep(0.2); return null; end';
                           revoke execute on function public.slowly() from public;
                           create trigger slowly after insert on busymate_stats_internal.seal_state execute function public.slowly()";

#[test]
fn a_first_seal_is_told_while_it_lasts() {
    let cluster = Cluster::start(SETTINGS);
    let (_, mut client) = fleet_in(&cluster, 20_000, SLOW_CHUNKS);
    // So that the planner's guess is near.
    client.batch_execute("analyze public.entries").unwrap();
    let told = awaited_reason(&mut client, "^[0-9,]+ rows to the first seal$");
    assert_eq!(seal(&mut client, "sealed").as_deref(), Some("false"));
    let rows = |told: &str| told.split(' ').next().unwrap().replace(',', "").parse::<i64>().unwrap();
    let before = rows(&told);
    let after = eventually("it goes on", || {
        let told = seal(&mut client, "reason")?;
        told.ends_with("rows to the first seal").then(|| rows(&told)).filter(|rows| *rows < before)
    });
    assert!(after > 0 && before < 40_000, "{before}, then {after}");
    wait_for_seal(&mut client);
    assert_eq!(seal(&mut client, "reason"), None);
    assert_eq!(seal(&mut client, "since"), None);
}

/// The planner takes a table that was never analyzed for smaller than it is: it is not told that nothing is left.
#[test]
fn a_first_seal_of_more_rows_than_expected_is_told() {
    let cluster = Cluster::start(&format!("{SETTINGS}\nautovacuum = off"));
    let (_, mut client) = fleet_in(&cluster, 20_000, SLOW_CHUNKS);
    let rows = |client: &mut Client| {
        let reason = seal(client, "reason")?;
        assert!(!reason.starts_with("0 rows"), "{reason}");
        let counted =
            reason.strip_suffix(" rows counted for the first seal, more than the planner expected")?;
        Some(counted.replace(',', "").parse::<i64>().unwrap())
    };
    let before = eventually("more is counted than was expected", || rows(&mut client));
    let after = eventually("it goes on", || rows(&mut client).filter(|rows| *rows > before));
    assert!(before > 1_000 && after < 20_000, "{before}, then {after}");
    wait_for_seal(&mut client);
}

#[test]
fn counting_is_logged_when_it_begins_and_when_it_is_done() {
    let cluster = Cluster::start(SETTINGS);
    let (_, mut client) = fleet_in(&cluster, 300, "");
    let done = "busymate_stats has counted the entries: figures come from the seal";
    eventually("the log tells the end", || (logged(&cluster, done) == 1).then_some(()));
    assert_eq!(logged(&cluster, "rows to the first seal: nothing is sealed yet"), 1);
    wait_for_seal(&mut client);
    assert_eq!(seal(&mut client, "rows_sealed").as_deref(), Some("300"));
    client.batch_execute("truncate public.entries").unwrap();
    eventually("the log tells the end", || (logged(&cluster, done) == 2).then_some(()));
    assert_eq!(logged(&cluster, "rows to the next seal: the table was emptied or rewritten"), 1);
}

#[test]
fn who_holds_the_seal_up_is_named() {
    let cluster = Cluster::start(SETTINGS);
    let (database, mut client) = fleet_in(&cluster, 300, "");
    wait_for_seal(&mut client);
    let mut writer = cluster.connect(&database);
    writer.batch_execute("begin; insert into public.entries (host) values ('open')").unwrap();
    // The boundary stands still until something has come.
    let come = "insert into public.entries (host) values ('come')";
    client.batch_execute(come).unwrap();
    let (pid, id): (i32, String) = {
        let row = writer.query_one("select pg_backend_pid(), pg_current_xact_id()::text", &[]).unwrap();
        (row.get(0), row.get(1))
    };
    awaited_reason(
        &mut client,
        &format!("^held up by transaction {id}, open for [0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}, pid {pid}$"),
    );
    assert!(seal(&mut client, "since").is_some());
    writer.batch_execute("rollback").unwrap();
    writer
        .batch_execute("begin; insert into public.entries (host) values ('open'); prepare transaction 'kept'")
        .unwrap();
    client.batch_execute(come).unwrap();
    awaited_reason(
        &mut client,
        "^held up by transaction [0-9]+, open for .*, pid none: it is prepared as .kept.$",
    );
    writer.batch_execute("commit prepared 'kept'").unwrap();
    wait_for_seal(&mut client);
}

#[test]
fn a_trigger_that_is_off_is_named() {
    let cluster = Cluster::start(SETTINGS);
    let (_, mut client) = fleet_in(&cluster, 300, "");
    wait_for_seal(&mut client);
    client.batch_execute("alter table public.entries disable trigger busymate_stats_capture").unwrap();
    awaited_reason(&mut client, "^trigger busymate_stats_capture is disabled on public.entries$");
    assert!(seal(&mut client, "since").is_some());
    client.batch_execute("alter table public.entries enable always trigger busymate_stats_capture").unwrap();
    wait_for_seal(&mut client);
}
