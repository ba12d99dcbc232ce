//! A tick of the roster's sealer: short transactions, one after the other.

use crate::feed;
use crate::fleet::roster::sealer::{Ground, tidy_up};
use crate::fleet::sealed::sealer::Step;
use crate::pg::background;
use crate::pg::setting::set_local;
use crate::pg::transaction::{Failure, attempt_within, prepared_transaction};

/// Longer than this no step may take: so long DDL on devices waits for it at most.
const LIMIT_MS: i32 = 500;

/// Steps of one tick: a threshold, its look, its count.
const STEPS: usize = 4;

/// What tidying up may take: it reads tables of the extension alone.
const WRITE_MS: i32 = 60_000;

/// Counts the devices anew when it is time to, and keeps why it could not. False when our table is locked against
/// writing.
pub fn run() -> bool {
    let result = match tick() {
        // The last count failed, and what is noted of it still holds.
        Ok(None) => return true,
        Ok(Some(Step::Waits(reason))) => Ok(Some(reason)),
        Ok(Some(Step::Moved | Step::Done)) => Ok(None),
        Err(failure) => {
            rest();
            match failure.out_of_time {
                true => Ok(Some(format!("counting the devices takes longer than {LIMIT_MS} ms"))),
                false => Err(failure),
            }
        }
    };
    prepared_transaction(|| (), |()| feed::note_roster(&result))
}

fn tick() -> Result<Option<Step>, Failure> {
    for _ in 0..STEPS {
        let step = prepared_transaction(Ground::take, |ground| match ground {
            Ok(ground) => attempt_within(LIMIT_MS, || {
                // One processor, so that its share is what the pace says.
                set_local(c"max_parallel_workers_per_gather", "0");
                ground.step()
            }),
            Err(step) => Ok(Some(step)),
        })?;
        if step != Some(Step::Moved) {
            prepared_transaction(|| (), |()| attempt_within(WRITE_MS, tidy_up))?;
            return Ok(step);
        }
        background::serve_interrupts();
    }
    Ok(Some(Step::Moved))
}

fn rest() {
    prepared_transaction(Ground::take, |ground| {
        if let Ok(ground) = ground {
            // What fails here is tried again at the next tick, with the count.
            let _ = attempt_within(WRITE_MS, || ground.rest());
        }
    });
}
