//! What a reader starts from: a version of the state, or this backend's own copy of one, from which the rows are taken off
//! already that have left the windows since.
//!
//! Rows before the boundary are the same for every reader of a version who sees no late change: a change to one would
//! have been written down. So what has left the windows can be taken off once rather than at each call. A reader who
//! does see a late change starts from the version itself.

use super::counts::{Changes, KeyCounts};
use super::state::Prepared;
use super::window::Interval;
use crate::fleet::clock::{DAY, HOUR, Timestamp};
use std::cell::RefCell;
use std::rc::Rc;

/// Fewer rows than this are read again at each call: to take them off costs more.
pub const WORTH_IT: i64 = if cfg!(feature = "torture") { 1 } else { 16 };

/// A version, as it is or moved on.
pub struct Base {
    /// As it is.
    pub version: Rc<Prepared>,
    /// As it is to be used.
    pub now: Rc<Prepared>,
    /// The rows that are counted into the last 24 hours.
    pub day: Interval,
    /// The rows that are counted into the last hour.
    pub hour: Interval,
    /// Of hosts and devices, what distinguishes the two.
    pub moved: KeyCounts,
}

thread_local! {
    static KEPT: RefCell<Option<Rc<Base>>> = const { RefCell::new(None) };
}

impl Base {
    /// A version as it is.
    pub fn of(version: &Rc<Prepared>) -> Rc<Self> {
        let (day, hour) = (version.state.day(), version.state.hour());
        let (version, now) = (Rc::clone(version), Rc::clone(version));
        Rc::new(Self { version, now, day, hour, moved: KeyCounts::default() })
    }

    /// The copy that this backend keeps of a version, unless it has moved beyond an answer as of `as_of`.
    pub fn kept(version: &Rc<Prepared>, as_of: Timestamp) -> Option<Rc<Self>> {
        let (day, hour) = (Interval::answer(as_of, DAY), Interval::answer(as_of, HOUR));
        let kept = KEPT.with_borrow(Clone::clone)?;
        let fits =
            Rc::ptr_eq(&kept.version, version) && kept.day.from <= day.from && kept.hour.from <= hour.from;
        fits.then_some(kept)
    }

    /// Keeps a copy from which `left` is taken off: the rows of both windows that an answer as of `as_of` leaves out.
    pub fn keep_without(&self, mut left: Changes, as_of: Timestamp) {
        let (day, hour) = (Interval::answer(as_of, DAY), Interval::answer(as_of, HOUR));
        let begins_in =
            |counted: Interval, wanted: Interval| counted.from <= wanted.from && wanted.from <= counted.to;
        if !begins_in(self.day, day) || !begins_in(self.hour, hour) {
            return;
        }
        let gone =
            KeyCounts { hosts: std::mem::take(&mut left.hosts), devices: std::mem::take(&mut left.devices) };
        let mut state = self.now.state.clone();
        state.apply(&left);
        let (hosts, devices) = (self.now.hosts.changed(&gone.hosts), self.now.devices.changed(&gone.devices));
        let mut moved = self.moved.clone();
        moved.apply(&gone);
        let moved = Self {
            version: Rc::clone(&self.version),
            now: Rc::new(Prepared { state, hosts, devices }),
            day: Interval { from: day.from, ..self.day },
            hour: Interval { from: hour.from, ..self.hour },
            moved,
        };
        KEPT.set(Some(Rc::new(moved)));
    }
}
