//! Keeps values equal to what the database holds, though values and changes come on two ways that
//! overtake each other. Pure: it waits for nothing and asks nobody.
//!
//! The log runs ahead of what a read sees, and a read may be ahead of the part of the log that was
//! handed over. So whoever reads says where in the log the read stands ([`Bounds`]), and a key is
//! registered before it is read: from then on its changes are buffered. A value that does not see
//! all that had been handed over when the key was registered is refused, since what lies between
//! was told to nobody. Any other is brought up to date with what was gathered behind it, and
//! changes that it saw already are skipped when they come.
//!
//! One keeper stands for one log. `model.rs` goes through all that can happen to a small one,
//! `simulator.rs` through very many long lives of a large one.

mod weakness;

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::changes::{Bounds, LogPosition};
use weakness::{Weakness, Weaknesses};

/// Changes that are gathered for one key while it is read. An author who posts more than this
/// within a few milliseconds, or a server that stands still between its log and its tables, is
/// not worth the room: the key is given up, and reads go to the database.
pub(crate) const BUFFERED_MAX: usize = 256;

/// What is kept of one user: a tail or a follow list.
pub(crate) trait Replica {
    /// What can happen to it.
    type Change;

    /// Carries out a change; false if it cannot be known any more what this is.
    fn apply(&mut self, change: &Self::Change) -> bool;
}

/// The right to install one value. Void once its key was evicted or given up, or another history
/// began.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ticket {
    epoch: u64,
    generation: u64,
    registered: LogPosition,
}

#[cfg(test)]
impl Ticket {
    /// What was handed over when the key was registered: a value must have seen all of it.
    pub(crate) fn registered(&self) -> LogPosition {
        self.registered
    }
}

/// What became of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Installed {
    /// It can be read now.
    Ready,
    /// It can be read once the log has been handed over far enough: [`Keeper::commit`] shows it
    /// then. The ticket is used up.
    Held,
    /// It does not see all that had been handed over. The key stays pending under the same ticket
    /// and its changes go on being buffered: read again after a pause.
    Retry,
    /// Nobody waits for it any more, or a gathered change says that it cannot be known what this
    /// is. The key may be registered anew.
    Void,
}

/// Values of users, as of a place in one log.
#[derive(Clone, Debug)]
pub(crate) struct Keeper<K, V: Replica> {
    /// Which history this is, counted.
    epoch: u64,
    /// How many keys were ever registered.
    generation: u64,
    /// The end of the last transaction that was carried out.
    high_water: LogPosition,
    entries: HashMap<K, Tracked<V, V::Change>>,
    /// The pending keys whose values wait for the log, by the place they wait for.
    held: BTreeSet<(LogPosition, K)>,
    ready: usize,
    weaknesses: Weaknesses,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Tracked<V, C> {
    Pending(Box<Pending<V, C>>),
    Ready {
        /// The value has seen all up to here, perhaps more than was handed over.
        fence: LogPosition,
        value: V,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending<V, C> {
    ticket: Ticket,
    /// All changes behind `ticket.registered`.
    buffered: Vec<(LogPosition, C)>,
    held: Option<Held<V>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held<V> {
    /// The value has seen all up to here.
    low: LogPosition,
    /// And nothing behind this.
    high: LogPosition,
    value: V,
}

impl<V, C> Tracked<V, C> {
    fn value(&self) -> Option<&V> {
        match self {
            Self::Ready { value, .. } => Some(value),
            Self::Pending(_) => None,
        }
    }
}

impl<K: Copy + Eq + Hash + Ord, V: Replica> Keeper<K, V> {
    /// Keeps nothing yet; its first history has to begin.
    pub(crate) fn new() -> Self {
        Self {
            epoch: 0,
            generation: 0,
            high_water: LogPosition::default(),
            entries: HashMap::new(),
            held: BTreeSet::new(),
            ready: 0,
            weaknesses: Weaknesses::default(),
        }
    }

    /// Another history begins, or the first: all that was kept is gone without being shown, and
    /// all tickets are void. `at` is a place up to which nothing will be handed over.
    pub(crate) fn begin(&mut self, at: LogPosition) {
        self.epoch += 1;
        self.high_water = at;
        self.weaknesses.told(at);
        self.entries.clear();
        self.held.clear();
        self.ready = 0;
    }

    /// The end of the last transaction that was carried out. It never goes back in one history,
    /// even if the log is told again from an earlier place.
    pub(crate) fn high_water(&self) -> LogPosition {
        self.high_water
    }

    /// Which history this is, counted from one.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many values can be read.
    #[cfg(test)]
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// How many keys are waiting for a value.
    #[cfg(test)]
    pub(crate) fn pending(&self) -> usize {
        self.entries.len() - self.ready
    }

    /// Whether the key is pending or its value can be read.
    pub(crate) fn knows(&self, key: K) -> bool {
        self.entries.contains_key(&key)
    }

    /// All keys that are pending or whose values can be read, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.entries.keys().copied()
    }

    /// The value, and the place in the log as of which it is what the database holds.
    pub(crate) fn get(&self, key: K) -> Option<(&V, LogPosition)> {
        match self.entries.get(&key)? {
            Tracked::Ready { fence, value } => Some((value, self.high_water.max(*fence))),
            Tracked::Pending(_) => None,
        }
    }

    /// Begins to gather the key's changes; its value may be read as soon as this has returned, not
    /// before. None if that is under way already, or the value is there.
    ///
    /// This counts from the high water, even while the log is told again from an earlier place:
    /// what is told again is ignored, so it would be gathered by nobody.
    pub(crate) fn register(&mut self, key: K) -> Option<Ticket> {
        let Slot::Vacant(vacant) = self.entries.entry(key) else { return None };
        self.generation += 1;
        let registered = self.weaknesses.registration(self.high_water);
        let ticket = Ticket { epoch: self.epoch, generation: self.generation, registered };
        let pending = Pending { ticket, buffered: Vec::new(), held: None };
        vacant.insert(Tracked::Pending(Box::new(pending)));
        Some(ticket)
    }

    /// Carries out a transaction from the log, whole, unless that was done before.
    ///
    /// Calls `shown` once for each key whose readable value was changed or became readable, with
    /// the value, and once for each key whose value went away, or will never come after
    /// [`Installed::Held`], with none. By rising keys, after all changes.
    pub(crate) fn commit(
        &mut self,
        at: LogPosition,
        changes: impl IntoIterator<Item = (K, V::Change)>,
        mut shown: impl FnMut(&K, Option<&V>),
    ) {
        self.weaknesses.told(at);
        if at <= self.high_water && !self.weaknesses.has(Weakness::NoFence) {
            return;
        }
        let mut touched = Vec::new();
        for (key, change) in changes {
            if self.change(at, key, change) {
                touched.push(key);
            }
        }
        self.high_water = self.high_water.max(at);
        self.release(&mut touched);
        touched.sort_unstable();
        touched.dedup();
        for key in &touched {
            shown(key, self.entries.get(key).and_then(Tracked::value));
        }
    }

    /// Takes in what was read for a ticket. The caller has made sure that it was read from the
    /// history that began last. After [`Installed::Ready`] the value is to be had from
    /// [`Keeper::get`].
    pub(crate) fn install(
        &mut self,
        key: K,
        ticket: Ticket,
        bounds: Bounds,
        value: V,
    ) -> Installed {
        let Some(pending) = self.waiting(key, ticket) else { return Installed::Void };
        let registered = pending.ticket.registered;
        let (low, high) = match bounds {
            // No need to wait if it is ahead of the log: what it saw is skipped when it comes.
            Bounds::Exact(at) => (at, LogPosition::default()),
            Bounds::Window { low, high } => (low, high),
        };
        if low < registered && !self.weaknesses.trusts_any_read() {
            return Installed::Retry;
        }
        let waits = high > self.high_water && !self.weaknesses.has(Weakness::NoHold);
        if !waits || self.weaknesses.trusts_any_read() {
            return self.settle(key, low, value);
        }
        // What the value saw of the transactions up to `high` nobody knows. Carried out again,
        // all of them, it ends as the database was there, and not before.
        if let Some(Tracked::Pending(pending)) = self.entries.get_mut(&key) {
            pending.held = Some(Held { low, high, value });
            self.held.insert((high, key));
        }
        Installed::Held
    }

    /// The read failed: the key is neither pending nor there, if it is still this ticket's.
    pub(crate) fn give_up(&mut self, key: K, ticket: Ticket) {
        if self.waiting(key, ticket).is_some() {
            self.forget(key);
        }
    }

    /// Forgets a key, whatever is under way for it; whether there was anything. Nothing is to be
    /// remembered of it, since the high water is the log's and not the key's.
    pub(crate) fn evict(&mut self, key: K) -> bool {
        self.forget(key)
    }

    /// The pending key that this ticket was given out for, if it has no value yet.
    fn waiting(&self, key: K, ticket: Ticket) -> Option<&Pending<V, V::Change>> {
        let Some(Tracked::Pending(pending)) = self.entries.get(&key) else { return None };
        let same = pending.ticket.epoch == ticket.epoch
            && pending.ticket.generation == ticket.generation
            || self.weaknesses.has(Weakness::NoTickets);
        (same && pending.held.is_none()).then_some(pending)
    }

    /// Carries out or gathers one change; whether that is to be shown.
    fn change(&mut self, at: LogPosition, key: K, change: V::Change) -> bool {
        let shown = match self.entries.get_mut(&key) {
            None => return false,
            Some(Tracked::Ready { fence, value }) => {
                let seen = at <= *fence && !self.weaknesses.has(Weakness::NoFence);
                if seen || value.apply(&change) {
                    return !seen;
                }
                true
            }
            Some(Tracked::Pending(pending)) => {
                let room = pending.buffered.len() < BUFFERED_MAX;
                if room && !self.weaknesses.has(Weakness::VoidOnChange) {
                    pending.buffered.push((at, change));
                    return false;
                }
                pending.held.is_some()
            }
        };
        self.forget(key);
        shown
    }

    /// Makes readable what has waited for the log to come this far.
    fn release(&mut self, touched: &mut Vec<K>) {
        while let Some(&(high, key)) = self.held.first() {
            if high > self.high_water {
                return;
            }
            self.held.pop_first();
            let held = match self.entries.get_mut(&key) {
                Some(Tracked::Pending(pending)) => pending.held.take(),
                _ => None,
            };
            let Held { low, value, .. } = held.expect("what is held is pending");
            self.settle(key, low, value);
            touched.push(key);
        }
    }

    /// Brings a pending key's value, which has seen all up to `low`, to the high water if it is
    /// not ahead of it, and makes it readable.
    fn settle(&mut self, key: K, low: LogPosition, mut value: V) -> Installed {
        let Some(Tracked::Pending(pending)) = self.entries.get(&key) else {
            return Installed::Void;
        };
        let all = self.weaknesses.has(Weakness::NoPositions);
        let unseen = pending.buffered.iter().filter(|(at, _)| *at > low || all);
        let lost = self.weaknesses.has(Weakness::NoBuffer);
        let known = lost || unseen.into_iter().all(|(_, change)| value.apply(change));
        if !known {
            self.forget(key);
            return Installed::Void;
        }
        self.entries.insert(key, Tracked::Ready { fence: low, value });
        self.ready += 1;
        Installed::Ready
    }

    fn forget(&mut self, key: K) -> bool {
        match self.entries.remove(&key) {
            None => return false,
            Some(Tracked::Ready { .. }) => self.ready -= 1,
            Some(Tracked::Pending(pending)) => {
                if let Some(held) = &pending.held {
                    self.held.remove(&(held.high, key));
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod bits;
#[cfg(test)]
mod model;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
