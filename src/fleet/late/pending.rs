//! A transaction's late changes, in memory until just before it commits, so that they cost one row for many and stand in
//! the WAL apart from what the user writes.
//!
//! They lie in one log in the order in which they were noted, and a *mark* stands wherever another subtransaction goes on.
//! Subtransactions are numbered in the order in which they begin, so what a subtransaction and those within it have noted
//! is the end of the log: the marks with its number and greater ones. A rollback cuts that off.

use super::pack::{Buffer, Encoder, HourChange, Key, RowChange};
use super::table::{OwnTables, Pack};
use crate::pg::own_rows::WrongShape;
use crate::pg::transaction_events::{
    Event, SubTransaction, command_of_snapshot, current_command, current_subtransaction, on_event,
};
use crate::pg::transaction_memory::{TransactionVec, forget_context};
use crate::torture::{Mutant, broken};
use std::cell::RefCell;

/// A pack of a batch of some hundred rows is stored inline, in one page. A larger one goes out of line, where it still costs
/// less than several: each spells out its keys for itself.
pub const PACK_BYTES: usize = if cfg!(feature = "torture") { 400 } else { 60_000 };

/// More than this is written before the transaction ends: what a subtransaction holds of it can be written by itself alone.
const PENDING_BYTES: usize = if cfg!(feature = "torture") { 1_500 } else { 4 << 20 };

/// A transaction that notes more than this voids what is sealed instead: to count everything anew is quicker.
const MOST_BYTES: usize = if cfg!(feature = "torture") { 40_000 } else { 64 << 20 };

impl Buffer for TransactionVec<u8> {
    fn append(&mut self, bytes: &[u8]) {
        self.extend(bytes);
    }
}

/// The beginning of a pack in the log, and what is known of it.
#[derive(Clone, Copy)]
struct Head {
    start: usize,
    generation: i64,
    first: i64,
    last: i64,
    changes: i64,
}

/// Where another subtransaction goes on.
#[derive(Clone, Copy)]
struct Mark {
    subtransaction: SubTransaction,
    at: usize,
    /// How many packs there were, and what was known of the last.
    packs: usize,
    head: Option<Head>,
}

/// What a subtransaction has written early.
#[derive(Clone, Copy)]
struct Piece {
    subtransaction: SubTransaction,
    bytes: usize,
}

struct Pending {
    log: TransactionVec<u8>,
    packs: TransactionVec<Head>,
    marks: TransactionVec<Mark>,
    encoder: Encoder,
    /// Whether the encoder remembers what the last pack ends with.
    is_segment_open: bool,
    tables: OwnTables,
    /// What is in the table already.
    pieces: TransactionVec<Piece>,
    /// The subtransaction that has voided what is sealed, because there was too much to note.
    void_since: Option<SubTransaction>,
    /// The last command that has noted or written anything; rows that it changed are of this command or one before.
    last_command: Option<u32>,
    /// The transaction is about to end: what is noted from now on is written at once.
    is_ending: bool,
}

thread_local! {
    static PENDING: RefCell<Pending> = const { RefCell::new(Pending::new()) };
}

/// Has what is pending written at the end of each transaction.
pub fn register() {
    on_event(|event| {
        PENDING.with(|pending| match (event, pending.try_borrow_mut()) {
            (_, Ok(mut pending)) => pending.event(event),
            // The process is ended while PostgreSQL writes for us: FATAL rolls the transaction back without unwinding.
            (Event::Ended | Event::SubAborted(_), Err(_)) => {}
            (_, Err(_)) => unreachable!("what is noted is written by one call at a time"),
        });
    });
}

/// Notes a row.
pub fn note_row(tables: OwnTables, generation: i64, row: &RowChange<Key>) {
    PENDING.with_borrow_mut(|pending| {
        pending.note(tables, row.size(), generation, row.time, |encoder, log| encoder.row(log, row));
    });
}

/// Notes rows that are older than every window.
pub fn note_hour(tables: OwnTables, generation: i64, change: HourChange) {
    PENDING.with_borrow_mut(|pending| {
        pending.note(tables, HourChange::SIZE, generation, change.hour, |encoder, log| {
            encoder.hour(log, change)
        });
    });
}

/// Hands over the packs of this very transaction that are not in the table yet; or says why a reader with the active
/// snapshot must do without what is sealed.
pub fn each_own_pack(mut each: impl FnMut(&[u8])) -> Result<(), &'static str> {
    PENDING.with_borrow(|pending| {
        if pending.void_since.is_some() {
            return Err("this transaction changes more late entries than are noted");
        }
        // A cursor's snapshot may be older than the rows whose changes are noted, and a piece that was written early is
        // younger than they are.
        let is_hidden = pending.last_command.is_some_and(|last| command_of_snapshot() <= last);
        if is_hidden && !broken(Mutant::CommandIgnored) {
            return Err("this transaction has changed late entries since this snapshot");
        }
        for place in 0..pending.packs.len() {
            each(pending.pack_from(place, 0).bytes);
        }
        Ok(())
    })
}

impl Pending {
    const fn new() -> Self {
        Self {
            log: TransactionVec::new(),
            packs: TransactionVec::new(),
            marks: TransactionVec::new(),
            encoder: Encoder::new(),
            is_segment_open: false,
            tables: OwnTables::NONE,
            pieces: TransactionVec::new(),
            void_since: None,
            last_command: None,
            is_ending: false,
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::BeforeEnd => {
                self.write_from(0);
                self.is_ending = true;
            }
            Event::Ended => self.forget(),
            Event::BeforeSubCommit(own) => self.write_early(own),
            Event::SubAborted(own) => {
                self.cut(self.first_of(own));
                let kept = self.pieces.iter().rposition(|piece| piece.subtransaction < own);
                self.pieces.truncate(kept.map_or(0, |place| place + 1));
                self.void_since = self.void_since.filter(|since| *since < own);
            }
        }
    }

    /// PostgreSQL frees the memory.
    fn forget(&mut self) {
        self.log.forget();
        self.packs.forget();
        self.marks.forget();
        self.pieces.forget();
        forget_context();
        self.is_segment_open = false;
        (self.void_since, self.last_command, self.is_ending) = (None, None, false);
    }

    fn note(
        &mut self,
        tables: OwnTables,
        size: usize,
        generation: i64,
        time: i64,
        append: impl FnOnce(&mut Encoder, &mut TransactionVec<u8>),
    ) {
        self.tables = tables;
        self.last_command = Some(current_command());
        if self.void_since.is_some() {
            return;
        }
        let own = current_subtransaction();
        self.go_on(own);
        if self.packs.last().is_none_or(|pack| self.log.len() - pack.start + 1 + size > PACK_BYTES) {
            self.encoder.begin_pack();
            let start = self.log.len();
            self.packs.push(Head { start, generation, first: time, last: time, changes: 0 });
        } else if !self.is_segment_open {
            self.encoder.begin_segment(&mut self.log);
        }
        self.is_segment_open = true;
        append(&mut self.encoder, &mut self.log);
        if let Some(pack) = self.packs.last_mut() {
            pack.generation = pack.generation.max(generation);
            pack.first = pack.first.min(time);
            pack.last = pack.last.max(time);
            pack.changes += 1;
        }
        let written: usize = self.pieces.iter().map(|piece| piece.bytes).sum();
        if written + self.log.len() > MOST_BYTES {
            self.void_since = Some(own);
            self.tables.mark("more late changes than one transaction may note");
            self.cut(self.first_of(own));
        } else if self.is_ending {
            self.write_from(self.first_of(own));
        } else {
            self.write_early(own);
        }
    }

    /// Above the bound, writes what a subtransaction and those within it have noted: a few packs at least, unless far too
    /// much is pending.
    fn write_early(&mut self, own: SubTransaction) {
        let first = self.first_of(if broken(Mutant::PieceOfParents) { 0 } else { own });
        let Some(mark) = self.marks.get(first) else { return };
        let is_worth_it = self.log.len() - mark.at > PENDING_BYTES / 4 || self.log.len() > 4 * PENDING_BYTES;
        if self.log.len() > PENDING_BYTES && is_worth_it {
            self.write_from(first);
        }
    }

    /// Sets a mark where another subtransaction goes on.
    fn go_on(&mut self, subtransaction: SubTransaction) {
        if self.marks.last().is_some_and(|mark| mark.subtransaction == subtransaction) {
            return;
        }
        let head = self.packs.last().copied();
        let (at, packs) = (self.log.len(), self.packs.len());
        self.marks.push(Mark { subtransaction, at, packs, head });
        self.is_segment_open = false;
    }

    /// The first mark of what a subtransaction, and those within it, have noted.
    fn first_of(&self, subtransaction: SubTransaction) -> usize {
        let before = self.marks.iter().rposition(|mark| mark.subtransaction < subtransaction);
        before.map_or(0, |place| place + 1)
    }

    /// Removes what was noted from a mark on.
    fn cut(&mut self, first: usize) {
        let Some(mark) = self.marks.get(first).copied() else { return };
        self.log.truncate(mark.at);
        self.packs.truncate(mark.packs);
        if let (Some(last), Some(head)) = (self.packs.last_mut(), mark.head) {
            *last = head;
        }
        self.marks.truncate(first);
        // What the encoder remembers may have been cut off.
        self.is_segment_open = false;
    }

    /// Writes what was noted from a mark on, and removes it.
    fn write_from(&mut self, first: usize) {
        let Some(mark) = self.marks.get(first).copied() else { return };
        let packs = (mark.packs.saturating_sub(1)..self.packs.len())
            .map(|place| self.pack_from(place, mark.at))
            .map(|pack| match mark.head {
                Some(head) if pack.start == head.start => {
                    Pack { changes: pack.changes - head.changes, ..pack }
                }
                _ => pack,
            })
            .filter(|pack| pack.changes > 0);
        let bytes = self.log.len() - mark.at;
        match self.tables.insert(packs) {
            Ok(()) => {}
            Err(WrongShape) => self.tables.mark("late changes cannot be written"),
        }
        self.last_command = Some(current_command());
        self.cut(first);
        self.pieces.push(Piece { subtransaction: current_subtransaction(), bytes });
    }

    /// The pack with this number, from `at` on.
    fn pack_from(&self, place: usize, at: usize) -> Pack<'_> {
        let head = self.packs[place];
        let end = self.packs.get(place + 1).map_or(self.log.len(), |next| next.start);
        Pack {
            start: head.start,
            generation: head.generation,
            first: head.first,
            last: head.last,
            changes: head.changes,
            bytes: &self.log[head.start.max(at).min(end)..end],
        }
    }
}
