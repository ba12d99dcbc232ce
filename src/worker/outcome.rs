//! How a worker's tick ended, told from the worker to the launcher through a number in shared memory.

/// How a tick ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The worker ended without saying: an error outside its subtransaction, or somebody ended it.
    Died,
    /// The extension is not in this database.
    Absent,
    /// The extension is there, and the tick was done; an error in it, if any, is kept for `health`.
    Done,
    /// Somebody holds a lock on our tables, DROP EXTENSION most likely.
    SteppedAside,
    /// The extension's version is not the library's.
    VersionDiffers,
    /// Its time was over before it had done; that is kept for `health`.
    OutOfTime,
}

impl Outcome {
    /// As a number that is not 0.
    pub fn to_number(self) -> u8 {
        match self {
            Outcome::Died => 1,
            Outcome::Absent => 2,
            Outcome::Done => 3,
            Outcome::SteppedAside => 4,
            Outcome::VersionDiffers => 5,
            Outcome::OutOfTime => 6,
        }
    }

    /// From what the worker left; 0 when it left nothing.
    pub fn from_number(number: u8) -> Self {
        match number {
            2 => Outcome::Absent,
            3 => Outcome::Done,
            4 => Outcome::SteppedAside,
            5 => Outcome::VersionDiffers,
            6 => Outcome::OutOfTime,
            _ => Outcome::Died,
        }
    }
}
