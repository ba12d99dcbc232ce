//! Processes that die, a server that stops in the middle, and one that is promoted.

use super::Rig;
use crate::harness::{eventually, value};

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
        let pid: i32 = value(
            &mut self.observer,
            "select coalesce((select pid from pg_stat_activity where backend_type = 'busymate_stats worker' limit 1), pg_backend_pid())",
        );
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        eventually("the server is back", || {
            let is_gone = self.observer.simple_query("select 1").is_err();
            (is_gone && self.cluster.try_connect("postgres", &self.database).is_ok()).then_some(())
        });
        self.connect();
    }

    /// The standby takes over: its readers stay, with the snapshots that they hold.
    pub fn promote(&mut self) {
        if let Some(standby) = &self.standby {
            self.note_promotion();
            standby.promote();
        }
    }

    fn note_promotion(&self) {
        eprintln!("the standby is promoted");
    }
}
