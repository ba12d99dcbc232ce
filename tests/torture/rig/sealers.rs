//! Two sealers, led by the hand: every step may wait, uncommitted, while others go on, may be rolled back, and may find
//! the other in its way.

use super::{Rig, run_on};
use harness::Cluster;
use postgres::Client;

/// A chunk may be any length.
const STRIDES: [i64; 5] = [600_000_000, 3_600_000_000, 86_400_000_000, 40 * 86_400_000_000, i64::MAX];

/// What a worker's transaction does before its snapshot, and the snapshot.
const BEGIN: &str = "begin isolation level repeatable read;
    set local busymate_stats.clock_step = {clock};
    lock table busymate_stats_internal.seal_state in share update exclusive mode nowait;
    lock table public.entries in access share mode nowait;
    select 1";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    /// It has its snapshot.
    Begun,
    /// It has done a step that is not committed.
    Done,
}

pub struct Sealer {
    client: Client,
    stage: Stage,
}

impl Sealer {
    pub fn connect(cluster: &Cluster, database: &str) -> Self {
        Self { client: cluster.connect(database), stage: Stage::Idle }
    }
}

impl Rig<'_> {
    pub fn seal(&mut self) {
        let place = self.chance.below(self.sealers.len());
        match self.sealers[place].stage {
            Stage::Idle if self.chance.once_in(6) => self.begin_step(place),
            Stage::Idle => {
                // A whole tick, or a part of one.
                for step in [Some("seal"), Some("threshold"), Some("look"), Some("seal"), None] {
                    let Some(step) = step.filter(|_| !self.chance.once_in(6)) else {
                        return;
                    };
                    self.begin_step(place);
                    self.do_step(place, step);
                    self.end_step(place, "commit");
                }
            }
            Stage::Begun => {
                let step = self.chance.pick(&["seal", "seal", "seal", "seal", "threshold", "look"]);
                self.do_step(place, step);
            }
            Stage::Done => {
                let end = self.chance.pick(&["commit", "commit", "commit", "rollback"]);
                self.end_step(place, end);
            }
        }
    }

    fn begin_step(&mut self, place: usize) {
        let sealer = &mut self.sealers[place];
        let begin = BEGIN.replace("{clock}", &self.known.clock_step.to_string());
        match sealer.client.batch_execute(&begin) {
            Ok(()) => sealer.stage = Stage::Begun,
            Err(_) => self.give_up(place),
        }
    }

    fn do_step(&mut self, place: usize, step: &str) {
        let stride = self.chance.pick(&STRIDES);
        let sealer = &mut self.sealers[place];
        if sealer.stage != Stage::Begun {
            return;
        }
        let query = "select test.step($1, $2)";
        match run_on(&mut sealer.client, |client| client.query_one(query, &[&step, &stride])) {
            Ok(row) => {
                sealer.stage = Stage::Done;
                let outcome: String = row.get(0);
                self.note(&format!("sealer {place}"), &format!("{step} {stride}: {outcome}"));
            }
            Err(error) => {
                self.note(&format!("sealer {place}"), &format!("{step}: {error}"));
                self.give_up(place);
            }
        }
    }

    fn end_step(&mut self, place: usize, end: &str) {
        let sealer = &mut self.sealers[place];
        if sealer.stage == Stage::Idle {
            return;
        }
        let ended = run_on(&mut sealer.client, |client| client.batch_execute(end));
        sealer.stage = Stage::Idle;
        self.note(&format!("sealer {place}"), end);
        if ended.is_err() {
            self.give_up(place);
        }
    }

    fn give_up(&mut self, place: usize) {
        let _ = self.sealers[place].client.batch_execute("rollback");
        if self.sealers[place].client.is_closed() {
            self.sealers[place] = Sealer::connect(self.cluster, &self.database);
        }
        self.sealers[place].stage = Stage::Idle;
    }

    /// DDL that locks out readers waits for no step that this schedule holds open.
    pub fn end_steps(&mut self) {
        for place in 0..self.sealers.len() {
            let end = self.chance.pick(&["commit", "rollback"]);
            self.end_step(place, end);
        }
    }

    /// Whole ticks, until nothing is left to seal: what follows is answered from the seal again.
    pub fn catch_up(&mut self) {
        self.end_steps();
        for _ in 0..6 {
            for step in ["seal", "threshold", "look", "seal", "seal"] {
                self.begin_step(0);
                self.do_step(0, step);
                self.end_step(0, "commit");
            }
        }
    }

    /// Ends a sealer in the middle of whatever it is at.
    pub fn kill_sealer(&mut self) {
        let place = self.chance.below(self.sealers.len());
        let other = 1 - place;
        let pid: i32 = harness::value(&mut self.sealers[place].client, "select pg_backend_pid()");
        let _ =
            self.sealers[other].client.batch_execute(&format!("select pg_terminate_backend({pid}, 5000)"));
        self.note(&format!("sealer {place}"), "terminated");
        self.give_up(other);
        self.sealers[place] = Sealer::connect(self.cluster, &self.database);
    }
}
