//! A tick of the sealer: short transactions, one after the other.

use super::outcome::Outcome;
use super::roster;
use crate::feed;
use crate::fleet::sealed::progress::progress;
use crate::fleet::sealed::sealer::{self, Ground, Step, Stride};
use crate::pg::background::{self, override_setting};
use crate::pg::shared;
use crate::pg::transaction::{Failure, attempt_within, prepared_transaction, transaction};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// How long a backlog is worked on before the worker's slot is given up to others for a moment.
const LIMIT: Duration = Duration::from_secs(20);

/// How long it is worked on where other databases wait for a worker.
const LIMIT_WHEN_CROWDED: Duration = Duration::from_secs(1);

/// How often a backlog's progress is kept for `health`.
const PROGRESS: Duration = Duration::from_secs(1);

/// Seals what can be sealed, and keeps why no more could be. `ended` is how often the last ticks had no time for a step.
pub fn run(limit_ms: i32, ended: u8) -> Outcome {
    // One snapshot for all that a step counts, reads and removes.
    override_setting(c"default_transaction_isolation", c"repeatable read");
    let result = Tick { limit_ms, ended }.run().map(|step| match step {
        Step::Waits(reason) => Some(reason),
        Step::Moved | Step::Done => None,
    });
    let noted = note(&result);
    let counted = roster::run();
    match (noted && counted, result) {
        (_, Err(failure)) if failure.out_of_time => Outcome::OutOfTime,
        (true, _) => Outcome::Done,
        (false, _) => Outcome::SteppedAside,
    }
}

struct Tick {
    /// What one step may take.
    limit_ms: i32,
    ended: u8,
}

impl Tick {
    /// First what is pending. When nothing is, a new threshold, the look for its writers, and once more: where nobody was
    /// writing, the seal follows the threshold at once.
    fn run(&self) -> Result<Step, Failure> {
        let pending = self.seal_all()?;
        if pending != Step::Done {
            return Ok(pending);
        }
        self.on_ground(sealer::move_threshold_where_due)?;
        match self.on_ground(Ground::look)? {
            Step::Waits(reason) => Ok(Step::Waits(reason)),
            Step::Moved | Step::Done => self.seal_all(),
        }
    }

    /// Chunk after chunk, until nothing is left, nothing goes, or others should have a turn.
    fn seal_all(&self) -> Result<Step, Failure> {
        let started = Instant::now();
        let mut kept = started;
        let mut stride = Stride::after(self.ended);
        loop {
            let step = self.on_ground(|ground| ground.seal(&mut stride))?;
            if step != Step::Moved {
                return Ok(step);
            }
            let elapsed = started.elapsed();
            if elapsed > LIMIT || elapsed > LIMIT_WHEN_CROWDED && shared::read().is_anyone_late() {
                if elapsed > LIMIT
                    && let Some(progress) = transaction(progress)
                {
                    log!("busymate_stats counts the entries, {progress}");
                }
                return Ok(step);
            }
            if kept.elapsed() > PROGRESS {
                note(&Ok(None));
                kept = Instant::now();
            }
            background::serve_interrupts();
        }
    }

    fn on_ground(&self, work: impl FnOnce(&Ground) -> Step) -> Result<Step, Failure> {
        prepared_transaction(Ground::take, |ground| match ground {
            Ok(ground) => attempt_within(self.limit_ms, || work(&ground)),
            Err(step) => Ok(step),
        })
    }
}

fn note(result: &Result<Option<String>, Failure>) -> bool {
    prepared_transaction(|| (), |()| feed::note_seal(result))
}
