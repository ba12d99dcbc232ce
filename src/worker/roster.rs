//! A tick of the roster's sealer: short transactions, one after the other.

use crate::feed;
use crate::fleet::roster::sealer::Ground;
use crate::fleet::sealed::sealer::Step;
use crate::pg::background;
use crate::pg::setting::set_local;
use crate::pg::transaction::{Failure, attempt_within, prepared_transaction};

/// Longer than this no step may take: so long DDL on devices waits for it at most.
const LIMIT_MS: i32 = 500;

/// Steps of one tick: a threshold, its look, its count.
const STEPS: usize = 4;

const QUERY_CANCELED: &str = "57014";

/// Counts the devices anew when it is time to, and keeps why it could not. False when our table is locked against
/// writing.
pub fn run() -> bool {
    let result = match tick() {
        Ok(Step::Waits(reason)) => Ok(Some(reason)),
        Ok(Step::Moved) => Ok(None),
        // Nothing is due: what is noted still holds.
        Ok(Step::Done) => return true,
        Err(failure) => {
            rest();
            match failure.sqlstate.as_str() {
                QUERY_CANCELED => Ok(Some(format!("counting the devices takes longer than {LIMIT_MS} ms"))),
                _ => Err(failure),
            }
        }
    };
    prepared_transaction(|| (), |()| feed::note_roster(&result))
}

fn tick() -> Result<Step, Failure> {
    let mut last = Step::Done;
    for _ in 0..STEPS {
        let step = prepared_transaction(Ground::take, |ground| match ground {
            Ok(ground) => attempt_within(LIMIT_MS, || {
                // One processor, so that its share is what the pace says.
                set_local(c"max_parallel_workers_per_gather", "0");
                ground.step()
            }),
            Err(step) => Ok(step),
        })?;
        match step {
            Step::Moved => last = Step::Moved,
            // What was done in this tick is worth noting.
            Step::Done => return Ok(last),
            Step::Waits(_) => return Ok(step),
        }
        background::serve_interrupts();
    }
    Ok(last)
}

fn rest() {
    prepared_transaction(Ground::take, |ground| {
        if let Ok(ground) = ground {
            // What fails here fails again at the next tick.
            let _ = attempt_within(LIMIT_MS, || ground.rest());
        }
    });
}
