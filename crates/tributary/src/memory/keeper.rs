//! Keeps cached values equal to the database, although values (from reads) and changes (from the
//! log) arrive independently and out of order. Pure: no I/O, no waiting.
//!
//! The problem: a server writes a transaction to its log before its tables show it. A snapshot
//! can therefore lack changes that the log has already delivered. It can also contain changes
//! that the log has not delivered yet.
//!
//! The solution:
//!
//! 1. Each read reports its position in the log as [`Bounds`].
//! 2. A key is registered before it is read. The keeper buffers the changes after that.
//! 3. A fill is rejected if its snapshot is older than the key's registration: the changes in
//!    between were applied before anyone was buffering them.
//! 4. Any other fill is installed. The keeper applies the buffered changes after the snapshot and
//!    skips later changes that the snapshot already contains.
//!
//! There is one keeper per log. `model.rs` checks every possible run of a small one;
//! `simulator.rs` checks thousands of long random runs of a large one.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::changes::{Bounds, LogPosition};

/// At most this many changes are buffered for one key while it is read. If there are more, the
/// key is given up and reads go to the database. That happens to an author who posts more than
/// this within a few milliseconds. It also happens while a server stalls between its log and its
/// tables.
pub(crate) const BUFFERED_MAX: usize = 256;

/// A copy of something the database holds about one user: a tail or a follow list.
pub(crate) trait Replica {
    /// One change to the copy.
    type Change;

    /// Applies a change. Returns false if the content can no longer be known; the caller must
    /// drop the copy.
    fn apply(&mut self, change: &Self::Change) -> bool;
}

/// The right to install one value. It becomes void when its key is evicted or given up, or when
/// another log identity begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ticket {
    epoch: u64,
    generation: u64,
    registered: LogPosition,
}

#[cfg(test)]
impl Ticket {
    /// The high-water mark at registration. A value must contain every transaction up to here.
    pub(crate) fn registered(&self) -> LogPosition {
        self.registered
    }
}

/// The result of [`Keeper::install`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Installed {
    /// The value can be read now.
    Ready,
    /// The value can be read once the log has reached its upper bound: [`Keeper::commit`] reports
    /// it then. The ticket is used up.
    Held,
    /// The snapshot is older than the registration. The key stays pending under the same ticket
    /// and its changes are still buffered, until it is read again or given up.
    Retry,
    /// The ticket is void, or a buffered change made the content unknown. The key may be
    /// registered again.
    Void,
}

/// The values of one log's users, each as of a known position in that log.
#[derive(Clone, Debug)]
pub(crate) struct Keeper<K, V: Replica> {
    /// Number of the current log identity, counted from 1; 0 before the first.
    epoch: u64,
    /// Number of keys registered so far. Gives each ticket a number of its own.
    generation: u64,
    /// The high-water mark: the end of the last applied transaction.
    high_water: LogPosition,
    entries: HashMap<K, Tracked<V, V::Change>>,
    /// The pending keys whose values wait for the log, by the position they wait for.
    held: BTreeSet<(LogPosition, K)>,
    ready: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Tracked<V, C> {
    Pending(Box<Pending<V, C>>),
    Ready {
        /// The value contains every transaction up to here. May be after the high-water mark.
        fence: LogPosition,
        value: V,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending<V, C> {
    ticket: Ticket,
    /// All changes after `ticket.registered`.
    buffered: Vec<(LogPosition, C)>,
    held: Option<Held<V>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held<V> {
    /// The value contains every transaction up to here.
    low: LogPosition,
    /// The value contains no transaction after this.
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
    /// An empty keeper. Call [`Keeper::begin`] before anything else.
    pub(crate) fn new() -> Self {
        Self {
            epoch: 0,
            generation: 0,
            high_water: LogPosition::default(),
            entries: HashMap::new(),
            held: BTreeSet::new(),
            ready: 0,
        }
    }

    /// Starts another log identity (or the first): drops all values without reporting them and
    /// voids all tickets. `at` is the position from which the log is delivered: no later
    /// transaction ends at or before it.
    pub(crate) fn begin(&mut self, at: LogPosition) {
        self.epoch += 1;
        self.high_water = at;
        self.entries.clear();
        self.held.clear();
        self.ready = 0;
    }

    /// The high-water mark: the end of the last applied transaction. It never falls within one
    /// log identity, even if the server resends transactions after a reconnect.
    pub(crate) fn high_water(&self) -> LogPosition {
        self.high_water
    }

    /// Number of the current log identity, counted from 1.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Number of values that can be read.
    #[cfg(test)]
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// Number of keys that wait for a value.
    #[cfg(test)]
    pub(crate) fn pending(&self) -> usize {
        self.entries.len() - self.ready
    }

    /// Whether the key is pending or its value can be read.
    pub(crate) fn contains(&self, key: K) -> bool {
        self.entries.contains_key(&key)
    }

    /// All keys that are pending or whose values can be read, in no particular order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.entries.keys().copied()
    }

    /// The value, and the log position at which it equals the content of the database.
    pub(crate) fn get(&self, key: K) -> Option<(&V, LogPosition)> {
        match self.entries.get(&key)? {
            Tracked::Ready { fence, value } => Some((value, self.high_water.max(*fence))),
            Tracked::Pending(_) => None,
        }
    }

    /// Starts to buffer the key's changes. Read the value only after this has returned. Returns
    /// `None` if the key is already pending or its value is present.
    ///
    /// The registration counts from the high-water mark, even while the server resends earlier
    /// transactions. Resent transactions are ignored, so nothing would buffer their changes.
    pub(crate) fn register(&mut self, key: K) -> Option<Ticket> {
        let Slot::Vacant(vacant) = self.entries.entry(key) else { return None };
        self.generation += 1;
        let (epoch, generation, registered) = (self.epoch, self.generation, self.high_water);
        let ticket = Ticket { epoch, generation, registered };
        let pending = Pending { ticket, buffered: Vec::new(), held: None };
        vacant.insert(Tracked::Pending(Box::new(pending)));
        Some(ticket)
    }

    /// Applies one whole transaction from the log. Ignores it if it ends at or before the
    /// high-water mark.
    ///
    /// Calls `shown` after all changes, in ascending key order, once for each affected key. It
    /// passes the value if the readable value changed or became readable. It passes `None` if the
    /// value was dropped, or will never arrive after [`Installed::Held`].
    pub(crate) fn commit(
        &mut self,
        at: LogPosition,
        changes: impl IntoIterator<Item = (K, V::Change)>,
        mut shown: impl FnMut(&K, Option<&V>),
    ) {
        if at <= self.high_water {
            return;
        }
        let mut touched = Vec::new();
        for (key, change) in changes {
            if self.apply_change(at, key, change) {
                touched.push(key);
            }
        }
        self.high_water = at;
        self.release(&mut touched);
        debug_assert!(
            self.held.first().is_none_or(|(high, _)| *high > at),
            "a value is held although the log has reached it"
        );
        touched.sort_unstable();
        touched.dedup();
        for key in &touched {
            shown(key, self.entries.get(key).and_then(Tracked::value));
        }
    }

    /// Installs the value that was read for a ticket. The caller has checked that it was read
    /// from the current log identity. After [`Installed::Ready`], [`Keeper::get`] returns the
    /// value.
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
            // A snapshot ahead of the log is readable at once: the fence skips the changes it
            // contains.
            Bounds::Exact(at) => (at, LogPosition::default()),
            Bounds::Window { low, high } => (low, high),
        };
        if low < registered {
            return Installed::Retry;
        }
        if high <= self.high_water {
            return self.settle(key, low, value);
        }
        // The value contains an unknown subset of the transactions from `low` to `high`. Applying
        // all of them again ends in the state at `high`; before that it is not valid.
        if let Some(Tracked::Pending(pending)) = self.entries.get_mut(&key) {
            pending.held = Some(Held { low, high, value });
            self.held.insert((high, key));
        }
        Installed::Held
    }

    /// Whether a value can still be installed for this ticket.
    pub(crate) fn awaits(&self, key: K, ticket: Ticket) -> bool {
        self.waiting(key, ticket).is_some()
    }

    /// Moves a readable value to another key, whose own value or ticket is dropped. Both keys must
    /// have received all changes of one user.
    pub(crate) fn replace(&mut self, key: K, by: K) {
        if !matches!(self.entries.get(&by), Some(Tracked::Ready { .. })) {
            return;
        }
        if let Some(entry) = self.entries.remove(&by) {
            self.ready -= 1;
            self.forget(key);
            self.entries.insert(key, entry);
            self.ready += 1;
        }
    }

    /// Reports that the read failed. Forgets the key if it still belongs to this ticket.
    pub(crate) fn give_up(&mut self, key: K, ticket: Ticket) {
        if self.waiting(key, ticket).is_some() {
            self.forget(key);
        }
    }

    /// Forgets a key and voids its ticket. Returns whether there was anything to forget. Nothing
    /// about the key must be remembered, since the high-water mark belongs to the log.
    pub(crate) fn evict(&mut self, key: K) -> bool {
        self.forget(key)
    }

    /// The pending key of this ticket, if the key has no value yet.
    fn waiting(&self, key: K, ticket: Ticket) -> Option<&Pending<V, V::Change>> {
        let Some(Tracked::Pending(pending)) = self.entries.get(&key) else { return None };
        let same =
            pending.ticket.epoch == ticket.epoch && pending.ticket.generation == ticket.generation;
        (same && pending.held.is_none()).then_some(pending)
    }

    /// Applies or buffers one change. Returns whether the key must be reported.
    fn apply_change(&mut self, at: LogPosition, key: K, change: V::Change) -> bool {
        let shown = match self.entries.get_mut(&key) {
            None => return false,
            Some(Tracked::Ready { fence, value }) => {
                let seen = at <= *fence;
                if seen || value.apply(&change) {
                    return !seen;
                }
                true
            }
            Some(Tracked::Pending(pending)) => {
                if pending.buffered.len() < BUFFERED_MAX {
                    pending.buffered.push((at, change));
                    return false;
                }
                pending.held.is_some()
            }
        };
        self.forget(key);
        shown
    }

    /// Makes the held values readable whose position the log has reached.
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
            let Held { low, value, .. } = held.expect("a held key is pending");
            self.settle(key, low, value);
            touched.push(key);
        }
    }

    /// Applies the buffered changes after `low` to a pending key's value, and makes it readable.
    /// The value contains every transaction up to `low`.
    fn settle(&mut self, key: K, low: LogPosition, mut value: V) -> Installed {
        let Some(Tracked::Pending(pending)) = self.entries.get(&key) else {
            return Installed::Void;
        };
        let (registered, buffered) = (pending.ticket.registered, &pending.buffered);
        debug_assert!(low >= registered, "changes before the registration were not buffered");
        debug_assert!(buffered.is_sorted_by_key(|(at, _)| *at), "changes out of order");
        debug_assert!(buffered.first().is_none_or(|(at, _)| *at > registered));
        let mut unseen = buffered.iter().filter(|(at, _)| *at > low);
        if !unseen.all(|(_, change)| value.apply(change)) {
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
                    let was_held = self.held.remove(&(held.high, key));
                    debug_assert!(was_held, "a held value has no position to wait for");
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
#[cfg(test)]
mod weakness;
