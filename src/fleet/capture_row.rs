//! What writers do for the sealed window of partitioned entries: nothing, but for rows that come late.
//!
//! The trigger fires for each row, at the end of its statement, on the partition that holds it. A statement trigger with
//! transition tables would make PostgreSQL insert a COPY into the parent row by row; a row trigger leaves it its batches.
//! What is read at the first firing holds for the whole statement: by then the transaction has its id and holds the
//! partition's lock, and it keeps both. Whoever looks for writers later finds it, and whoever looked before has committed
//! the threshold that is read here.

use super::capture::{Column, counted_columns, entry_of, is_timestamptz, mark, threshold_now, write_down};
use super::clock::Timestamp;
use super::sealed::counts::Entry;
use crate::pg::row_trigger::{RowTrigger, Rows, on_row};
use crate::pg::slot::Slot;
use crate::torture::{Mutant, broken};

/// Has rows captured.
pub fn register() {
    on_row(Rows::Entries, changed);
}

/// What is known of a partition for as long as one statement runs.
#[derive(Clone, Copy)]
struct Known {
    /// The number of the entry time; 0 when it is gone or of another type.
    time: i16,
    gen_: i64,
    threshold: Timestamp,
    /// Of host, status, source, device: looked up when the first late row comes.
    columns: Option<[Column; 4]>,
    /// Whether the statement has voided what is sealed, so that it need not write down any more.
    marked: bool,
}

fn changed(trigger: &RowTrigger) {
    let known = trigger.kept(|| look_up(trigger));
    if known.marked {
        return;
    }
    let void = |reason| {
        mark(reason);
        trigger.keep(Known { marked: true, ..known });
    };
    if known.time == 0 {
        return void("entry time changed");
    }
    let late =
        |row: &Slot| row.value(known.time).map_or(i64::MIN, |datum| datum.value() as i64) < known.threshold;
    let (old, new) = (trigger.before().filter(late), trigger.after().filter(late));
    if old.is_none() && new.is_none() {
        return;
    }
    // A TRUNCATE later in this transaction would empty the file in place: nothing would tell that the rows are gone.
    if trigger.is_in_new_file() && !broken(Mutant::NewFileTrusted) {
        return void("written into a new partition");
    }
    let columns = known.columns.unwrap_or_else(|| {
        let columns = counted_columns(|name| trigger.column_of(name));
        trigger.keep(Known { columns: Some(columns), ..known });
        columns
    });
    let (gen_, time) = (known.gen_, known.time);
    let entry = |row: Slot| {
        let at = row.value(time).map_or(i64::MIN, |datum| datum.value() as i64);
        entry_of(at, &columns, &row)
    };
    let (old, new): (Option<Entry>, Option<Entry>) = (old.map(entry), new.map(entry));
    if old != new {
        let changes = old.iter().map(|entry| (entry, -1)).chain(new.iter().map(|entry| (entry, 1)));
        write_down(gen_, trigger.relation(), changes);
    }
}

fn look_up(trigger: &RowTrigger) -> Known {
    let time = trigger.named_column(0).filter(|(_, kind)| is_timestamptz(*kind));
    let (gen_, threshold) = threshold_now();
    Known { time: time.map_or(0, |(number, _)| number), gen_, threshold, columns: None, marked: false }
}
