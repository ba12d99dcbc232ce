//! Processes that die, a server that stops in the middle, and one that is promoted.

use super::{Finding, Rig};
use harness::{Cluster, eventually, value};
use postgres::Client;

impl Rig<'_> {
    pub fn disaster(&mut self) {
        self.take_ways();
        match self.chance.below(6) {
            0 | 1 => self.kill_sealer(),
            2 => self.end_workers(),
            3 => self.crash(),
            4 => {
                self.note("server", "immediate stop");
                self.cluster.stop("immediate");
                self.cluster.start_again();
                self.connect();
            }
            _ => {
                self.note("server", "restart");
                self.cluster.restart();
                self.connect();
            }
        }
    }

    /// SIGTERM to every worker and to the launcher, whatever they are at.
    fn end_workers(&mut self) {
        self.note("server", "workers ended");
        let _ = self.observer.batch_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where backend_type like 'busymate%'",
        );
    }

    /// A process dies without a word, so the server starts itself over.
    fn crash(&mut self) {
        self.note("server", "a backend is killed");
        let reader: i32 = value(&mut self.readers[0].client, "select pg_backend_pid()");
        let pid: i32 = value(
            &mut self.observer,
            &format!(
                "select coalesce((select pid from pg_stat_activity where backend_type = 'busymate_stats worker' limit 1), {reader})"
            ),
        );
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        // Once the server has ended the others too, whoever gets in finds it recovered.
        eventually("the server is back", || {
            let is_gone = self.observer.simple_query("select 1").is_err();
            (is_gone && self.cluster.try_connect("postgres", &self.database).is_ok()).then_some(())
        });
        self.connect();
    }

    /// A standby whose readers are asked as the primary's are.
    pub fn follow(&mut self, standby: Cluster) {
        eventually("the standby has the database", || standby.try_connect("postgres", &self.database).ok());
        self.standby = Some(standby);
        self.connect();
    }

    /// The primary is gone and the standby takes over: its readers stay, with the snapshots that they hold, and a worker
    /// of its own moves the seal on.
    pub fn promote(&mut self) -> Result<(), Finding> {
        let Some(standby) = self.standby.take() else {
            return Ok(());
        };
        let last = self.known.boundary;
        self.cluster.stop("immediate");
        standby.promote();
        self.standby = Some(standby);
        let mut observer = self.standby_session();
        let compare = |rig: &mut Self| {
            let standbys = rig.readers.iter().position(|reader| reader.on_standby).unwrap_or(0);
            (standbys..rig.readers.len()).try_for_each(|place| rig.compare_reader(place))
        };
        for _ in 0..50 {
            compare(self)?;
            let row = "insert into public.entries (host, owner) values ('promoted', 1)";
            observer.batch_execute(row).map_err(|error| format!("{error:?}"))?;
        }
        for name in prepared_names(&mut observer) {
            observer
                .batch_execute(&format!("commit prepared '{name}'"))
                .map_err(|error| format!("{error:?}"))?;
        }
        self.let_the_clock_pass(&mut observer, last);
        eventually("the worker of the promoted standby seals", || {
            let sql = "select test.us(max(boundary)) from busymate_stats_internal.seal_state";
            let boundary: Option<i64> = value(&mut observer, sql);
            (boundary > last).then_some(())
        });
        compare(self)
    }

    /// A seal beyond a clock that was set back would wait for it.
    fn let_the_clock_pass(&mut self, observer: &mut Client, moment: Option<i64>) {
        let real: i64 = value(observer, "select test.us(clock_timestamp())");
        let beyond = (moment.unwrap_or(real) - real) / 1000 + 1000;
        let step = self.known.clock_step.max(beyond as i32);
        self.set_clock(observer, step);
    }

    fn standby_session(&self) -> Client {
        self.standby.as_ref().unwrap_or(self.cluster).connect(&self.database)
    }
}

fn prepared_names(client: &mut Client) -> Vec<String> {
    let names = client.query("select gid from pg_prepared_xacts", &[]).unwrap();
    names.iter().map(|row| row.get(0)).collect()
}
