//! Weaknesses: ways in which tests break the protocol on purpose, to prove that the checks notice.
//! The keeper itself has no switch for this. A [`TestKeeper`] changes what is passed to a real
//! keeper, or what it holds.

use std::hash::Hash;
use std::ops::{Deref, DerefMut};

use super::bits::{Bits, Change};
use super::{Installed, Keeper, Ticket, Tracked};
use crate::changes::{Bounds, LogPosition};

/// One part of the protocol that is removed or replaced by a weaker rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Weakness {
    /// Buffered changes are not applied: a fill is installed as it was read.
    NoBuffer,
    /// All buffered changes are applied, whatever the position of the snapshot.
    NoPositions,
    /// No buffer: a change to a pending key voids the fill, and any other fill is installed. This
    /// is the rule of a lease.
    VoidOnChange,
    /// The position of a read is the end of the log before the read, not the visible position.
    EndAsSnapshot,
    /// A fill is accepted even if its snapshot is older than the registration.
    NoRegistration,
    /// A WINDOW fill can be read before the log has reached its upper bound.
    NoHold,
    /// Transactions that the server resends, and changes up to a value's fence, are applied
    /// again.
    NoFence,
    /// Keys are registered at the position that is being resent, not at the high-water mark.
    NoHighWater,
    /// A trimmed tail has no floor and answers for all posts.
    NoFloor,
    /// A failover goes unnoticed: the log identity does not change.
    NoFailover,
    /// Any fill is accepted for any pending key, even from another ticket or an earlier epoch.
    NoTickets,
    /// Fills from a server other than the followed one are accepted.
    NoServerCheck,
    /// Reads from the database ignore the position that the reader has already seen.
    NoToken,
}

/// A keeper with one weakness, or none.
#[derive(Clone, Debug)]
pub(super) struct TestKeeper<K> {
    keeper: Keeper<K, Bits>,
    weakness: Option<Weakness>,
    /// The position up to which the log has been delivered; falls when the server resends.
    delivered: LogPosition,
}

impl<K> Deref for TestKeeper<K> {
    type Target = Keeper<K, Bits>;

    fn deref(&self) -> &Keeper<K, Bits> {
        &self.keeper
    }
}

impl<K> DerefMut for TestKeeper<K> {
    fn deref_mut(&mut self) -> &mut Keeper<K, Bits> {
        &mut self.keeper
    }
}

impl<K: Copy + Eq + Hash + Ord> TestKeeper<K> {
    pub(super) fn new(weakness: Option<Weakness>) -> Self {
        Self { keeper: Keeper::new(), weakness, delivered: LogPosition::default() }
    }

    pub(super) fn has(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    pub(super) fn begin(&mut self, at: LogPosition) {
        self.delivered = at;
        self.keeper.begin(at);
    }

    /// The log is delivered from this position on.
    pub(super) fn set_delivered(&mut self, at: LogPosition) {
        self.delivered = at;
    }

    pub(super) fn register(&mut self, key: K) -> Option<Ticket> {
        let mut ticket = self.keeper.register(key)?;
        if self.has(Weakness::NoHighWater) {
            ticket.registered = self.delivered;
            if let Some(Tracked::Pending(pending)) = self.keeper.entries.get_mut(&key) {
                pending.ticket = ticket;
            }
        }
        Some(ticket)
    }

    pub(super) fn commit(
        &mut self,
        at: LogPosition,
        changes: impl IntoIterator<Item = (K, Change)>,
        shown: impl FnMut(&K, Option<&Bits>),
    ) {
        self.delivered = at;
        let (mut changes, before): (Vec<_>, _) = (changes.into_iter().collect(), self.high_water);
        if self.has(Weakness::NoFence) && at <= before {
            // Changes before the registration are never buffered.
            changes.retain(|(key, _)| self.keeper.get(*key).is_some());
        }
        for (key, _) in &changes {
            match self.keeper.entries.get_mut(key) {
                Some(Tracked::Ready { fence, .. }) if self.weakness == Some(Weakness::NoFence) => {
                    *fence = LogPosition::default();
                }
                Some(Tracked::Pending(_)) if self.weakness == Some(Weakness::VoidOnChange) => {
                    self.keeper.evict(*key);
                }
                _ => {}
            }
        }
        if self.has(Weakness::NoFence) {
            self.keeper.high_water = before.min(LogPosition(at.0 - 1));
        }
        self.keeper.commit(at, changes, shown);
        self.keeper.high_water = before.max(self.keeper.high_water);
    }

    pub(super) fn install(
        &mut self,
        key: K,
        ticket: Ticket,
        bounds: Bounds,
        value: Bits,
    ) -> Installed {
        use Weakness::{NoBuffer, NoHold, NoPositions, NoRegistration, VoidOnChange};
        let ticket = self.accepted(key, ticket);
        let (Bounds::Exact(low) | Bounds::Window { low, .. }) = bounds;
        let Some(registered) = self.waiting(key, ticket).map(|waiting| waiting.ticket.registered)
        else {
            return Installed::Void;
        };
        let bounds = match self.weakness {
            Some(NoRegistration | VoidOnChange) => Bounds::Exact(low.max(registered)),
            Some(NoBuffer) => Bounds::Exact(low.max(self.high_water)),
            Some(NoPositions) => Bounds::Exact(registered),
            Some(NoHold) => Bounds::Exact(low),
            _ => bounds,
        };
        let installed = self.keeper.install(key, ticket, bounds, value);
        if let (true, Some(Tracked::Ready { fence, .. })) =
            (self.has(NoPositions), self.keeper.entries.get_mut(&key))
        {
            *fence = low;
        }
        installed
    }

    pub(super) fn give_up(&mut self, key: K, ticket: Ticket) {
        let ticket = self.accepted(key, ticket);
        self.keeper.give_up(key, ticket);
    }

    /// Whether a fill for this ticket can be installed.
    pub(super) fn is_waiting(&self, key: K, ticket: Ticket) -> bool {
        self.waiting(key, self.accepted(key, ticket)).is_some()
    }

    /// The ticket for which a fill is installed.
    fn accepted(&self, key: K, ticket: Ticket) -> Ticket {
        match self.entries.get(&key) {
            Some(Tracked::Pending(pending)) if self.has(Weakness::NoTickets) => pending.ticket,
            _ => ticket,
        }
    }
}
