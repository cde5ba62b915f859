//! Weaknesses: ways in which tests break the protocol on purpose, to prove that the checks
//! notice. In a build without tests every check here is a constant, so nothing can be broken.

use crate::changes::LogPosition;

/// One part of the protocol that is removed or replaced by a weaker rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(not(test), expect(dead_code, reason = "some weaknesses are outside the keeper"))]
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

/// The weakness of this keeper, if any.
#[cfg(test)]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Weaknesses {
    pub(super) weakness: Option<Weakness>,
    /// The position up to which the log has been delivered; falls when the server resends.
    pub(super) delivered: LogPosition,
}

#[cfg(test)]
impl Weaknesses {
    pub(super) fn has(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    /// The position at which a key is registered.
    pub(super) fn registration(&self, high_water: LogPosition) -> LogPosition {
        if self.has(Weakness::NoHighWater) { self.delivered } else { high_water }
    }

    /// The log is delivered from this position on.
    pub(super) fn set_delivered(&mut self, at: LogPosition) {
        self.delivered = at;
    }

    /// Whether a fill is installed whatever its position.
    pub(super) fn trusts_any_read(&self) -> bool {
        use Weakness::{NoBuffer, NoPositions, NoRegistration, VoidOnChange};
        matches!(self.weakness, Some(NoBuffer | VoidOnChange | NoPositions | NoRegistration))
    }
}

/// No weakness.
#[cfg(not(test))]
#[derive(Clone, Debug, Default)]
pub(super) struct Weaknesses {}

#[cfg(not(test))]
impl Weaknesses {
    pub(super) const fn has(&self, _: Weakness) -> bool {
        false
    }

    pub(super) const fn registration(&self, high_water: LogPosition) -> LogPosition {
        high_water
    }

    pub(super) const fn set_delivered(&self, _: LogPosition) {}

    pub(super) const fn trusts_any_read(&self) -> bool {
        false
    }
}
