//! Whatever a tick of the sealer is ended in, whether asked to end or killed, figures stay right and the next tick goes
//! on; and whoever drops the extension waits for a step at most, and is waited for by none.

use harness::fleet::stats_at;
use harness::worker::{logged, wait_for_seal};
use harness::{Cluster, eventually, eventually_within, value};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

const SETTINGS: &str = "busymate_stats.seal_interval = '1s'\nbusymate_stats.seal_lag = '200ms'\n\
                        busymate_stats.refresh_interval = 0\nbusymate_stats.verify_interval = 0\nmax_worker_processes = 32\nrestart_after_crash = on\ndeadlock_timeout = '100ms'";

fn shared() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(SETTINGS))
}

/// Has the sealer stop in the middle of a step, where it writes into a table: each gate is a table's name.
const GATES: &str = "
    create schema test;
    create table test.gate (name text);
    create function test.wait_at_gate() returns trigger language plpgsql as $$
    begin
        if exists (select from test.gate where name = tg_table_name) then
            while not pg_try_advisory_xact_lock(1) loop perform pg_sleep(0.01); end loop;
        end if;
        return null;
    end $$;
    revoke execute on function test.wait_at_gate() from public;
    create trigger gate after insert on busymate_stats_internal.capture execute function test.wait_at_gate();
    create trigger gate after insert on busymate_stats_internal.seal_look execute function test.wait_at_gate();
    create trigger gate after insert on busymate_stats_internal.seal_keys execute function test.wait_at_gate();
    create trigger gate after insert on busymate_stats_internal.seal_state execute function test.wait_at_gate();
    create trigger gate after insert or update on busymate_stats_internal.feed_health execute function test.wait_at_gate();
    create trigger gate after delete on busymate_stats_internal.seal_partitions execute function test.wait_at_gate();";

struct Fleet<'a> {
    cluster: &'a Cluster,
    database: String,
    client: Client,
}

impl<'a> Fleet<'a> {
    fn sealed_in(cluster: &'a Cluster) -> Self {
        let database = cluster.create_database("killed");
        let mut client = cluster.connect(&database);
        client
            .batch_execute(
                "create extension busymate_stats; select busymate_stats.create_fleet_tables();
                 insert into public.entries (created_at, host)
                 select now() - n * interval '7 min', 'h' || n % 5 from generate_series(1, 300) n",
            )
            .unwrap();
        client.batch_execute(GATES).unwrap();
        wait_for_seal(&mut client);
        Self { cluster, database, client }
    }

    /// A session that keeps the gates closed, and the sealer that waits at one of them.
    fn stopped_at(&mut self, gate: &str) -> (Client, i32) {
        let mut keeper = self.cluster.connect(&self.database);
        keeper.batch_execute("select pg_advisory_lock(1)").unwrap();
        self.client.execute("insert into test.gate values ($1)", &[&gate]).unwrap();
        // A tick that says the same as the one before writes nothing there.
        if gate == "feed_health" {
            self.client.batch_execute("delete from busymate_stats_internal.feed_health").unwrap();
        }
        // What the step needs to have something to do.
        self.client
            .batch_execute(
                "insert into public.entries (created_at, host) values (now() - interval '2 h', 'late');
                 delete from public.entries where id % 50 = 7; update public.entries set host = 'moved' where id % 50 = 8",
            )
            .unwrap();
        // What counts everything anew, markers and late changes already gone, touches this table.
        if gate == "seal_partitions" {
            self.client
                .batch_execute("insert into busymate_stats_internal.seal_markers values ('test', now())")
                .unwrap();
        }
        let sleeping = "select pid from pg_stat_activity
                         where backend_type = 'busymate_stats worker' and wait_event = 'PgSleep' and datname = current_database()";
        let pid = eventually("the sealer waits at the gate", || {
            self.client.query(sleeping, &[]).unwrap().first().map(|row| row.get(0))
        });
        (keeper, pid)
    }

    #[track_caller]
    fn is_exact(&mut self) {
        let rows: i64 = value(&mut self.client, "select count(*) from public.entries");
        assert_eq!(stats_at(&mut self.client, "now")["total_entries"], rows);
    }

    /// What is counted is right, not only what is answered.
    #[track_caller]
    fn goes_on(&mut self) {
        self.is_exact();
        let before: i64 = value(&mut self.client, BOUNDARY);
        self.client.batch_execute("insert into public.entries (host) values ('new')").unwrap();
        eventually("the seal moves on", || (value::<i64>(&mut self.client, BOUNDARY) > before).then_some(()));
        wait_for_seal(&mut self.client);
        self.is_exact();
    }
}

const BOUNDARY: &str = "select coalesce((extract(epoch from max(boundary)) * 1000000)::int8, 0)
                          from busymate_stats_internal.seal_state where boundary = goal";

const STEPS: [&str; 6] =
    ["capture", "seal_look", "seal_keys", "seal_state", "feed_health", "seal_partitions"];

#[test]
fn a_sealer_that_is_asked_to_end_in_any_step() {
    let mut fleet = Fleet::sealed_in(shared());
    for step in STEPS {
        let (keeper, pid) = fleet.stopped_at(step);
        fleet.is_exact();
        fleet.client.batch_execute("delete from test.gate").unwrap();
        fleet.client.execute("select pg_terminate_backend($1, 10000)", &[&pid]).unwrap();
        drop(keeper);
        fleet.goes_on();
    }
}

#[test]
fn a_sealer_that_is_killed_in_any_step() {
    let cluster = Cluster::start(SETTINGS);
    let mut fleet = Fleet::sealed_in(&cluster);
    for (killed, step) in STEPS.into_iter().enumerate() {
        let (_keeper, pid) = fleet.stopped_at(step);
        fleet.is_exact();
        fleet.client.batch_execute("delete from test.gate").unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        eventually("the server notices", || {
            (logged(fleet.cluster, "terminated by signal 9") == killed + 1).then_some(())
        });
        fleet.client = eventually("the server is back", || {
            let mut client = fleet.cluster.try_connect("postgres", &fleet.database).ok()?;
            client.batch_execute("select 1").is_ok().then_some(client)
        });
        fleet.goes_on();
    }
}

#[test]
fn the_extension_is_dropped_while_a_step_is_under_way() {
    for step in STEPS {
        let mut fleet = Fleet::sealed_in(shared());
        let (keeper, _) = fleet.stopped_at(step);
        let mut dropper = fleet.cluster.connect(&fleet.database);
        let pid: i32 = value(&mut dropper, "select pg_backend_pid()");
        let dropping = std::thread::spawn(move || dropper.batch_execute("drop extension busymate_stats"));
        eventually("the drop waits for the step", || {
            let waits = format!("select count(*) from pg_locks where pid = {pid} and not granted");
            (value::<i64>(&mut fleet.client, &waits) > 0).then_some(())
        });
        drop(keeper);
        dropping.join().unwrap().unwrap_or_else(|error| panic!("{step}: {error:?}"));
        assert_eq!(logged(fleet.cluster, "deadlock detected"), 0, "{step}");
    }
}

const HOLDS: [&str; 7] = [
    "drop extension busymate_stats",
    "lock table busymate_stats_internal.seal_state",
    "lock table busymate_stats_internal.attachment",
    "lock table busymate_stats_internal.late_changes",
    "lock table busymate_stats_internal.feed_health",
    "lock table public.entries",
    "select busymate_stats.detach()",
];

#[test]
fn no_sealer_waits_for_who_holds_the_extensions_tables() {
    std::thread::scope(|scope| {
        HOLDS.map(|hold| scope.spawn(move || waits_for_nobody(hold))).map(|held| held.join().unwrap())
    });
}

fn waits_for_nobody(hold: &str) {
    let mut fleet = Fleet::sealed_in(shared());
    let mut holder = fleet.cluster.connect(&fleet.database);
    holder.batch_execute(&format!("begin; {hold}")).unwrap();
    // Whoever waits for a lock does so for seconds, so it is seen.
    let mut seen = BTreeSet::new();
    // A tick that is turned away is over in some milliseconds: it is looked for without a pause, and on a busy machine not seen
    // for long.
    eventually_within(Duration::from_secs(300), "some ticks have come and gone", || {
        let sql = "select pid, wait_event_type is not distinct from 'Lock' from pg_stat_activity
                    where backend_type = 'busymate_stats worker' and datname = current_database()";
        for row in (0..300).flat_map(|_| fleet.client.query(sql, &[]).unwrap()) {
            assert!(!row.get::<_, bool>(1), "{hold}: the sealer waits");
            seen.insert(row.get::<_, i32>(0));
        }
        (seen.len() > 2).then_some(())
    });
    holder.batch_execute("rollback").unwrap();
    fleet.goes_on();
}
