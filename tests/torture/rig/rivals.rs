//! Several clients that write the same keys at once, while the seal moves and readers compare.

use super::schema::Entries;
use super::writes::Owned;
use super::{Finding, Rig};
use std::thread;

const CLIENTS: usize = 3;
const STATEMENTS: usize = 40;

impl Rig<'_> {
    pub fn rival(&mut self) -> Result<(), Finding> {
        // TimescaleDB has those deadlock who make chunks in another order.
        if self.is_shared_beside(None) || self.plan.entries == Entries::Chunks {
            return Ok(());
        }
        self.note("rivals", "begin");
        let rivals: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let mut client = self.cluster.connect(&self.database);
                let (mut chance, known, tree) =
                    (self.chance.fork(), self.known, self.plan.entries.are_cut_by_time());
                thread::spawn(move || {
                    for _ in 0..STATEMENTS {
                        let statement = Owned { chance: &mut chance, known, owner: 0 }.shared(tree);
                        client
                            .batch_execute(&statement)
                            .map_err(|error| format!("{statement}: {error:?}"))?;
                    }
                    Ok::<(), Finding>(())
                })
            })
            .collect();
        let compared = (0..8).try_for_each(|_| {
            self.seal();
            self.compare()
        });
        for rival in rivals {
            rival.join().expect("a rival panicked").map_err(|error| format!("rival: {error}"))?;
        }
        self.note("rivals", "end");
        compared
    }
}
