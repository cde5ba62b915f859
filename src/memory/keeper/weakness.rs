//! What tests take away from the protocol, to see that their checks notice. Nothing can be taken
//! away in a build that is not a test: the questions are constants there.

use crate::changes::LogPosition;

/// A part of the protocol that can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(not(test), expect(dead_code, reason = "some parts stand around the keeper"))]
pub(super) enum Weakness {
    /// What is read is put in place, and that is all.
    NoBuffer,
    /// Changes are gathered from the registration on and carried out, wherever the read stood.
    NoPositions,
    /// A change while the key is pending voids the read; any other is put in place.
    VoidOnChange,
    /// The place of a read is where the log ended before it.
    EndAsSnapshot,
    /// A read may stand before the registration.
    NoRegistration,
    /// What was read between two places can be read before the log has come to the second one.
    NoHold,
    /// What is told again is carried out again.
    NoFence,
    /// Keys are registered where the log is being told again.
    NoHighWater,
    /// A tail that was cut answers for all there is.
    NoFloor,
    /// Nobody notices that another server took over.
    NoFailover,
    /// Whatever was read is taken in, whoever it was read for and in whichever epoch.
    NoTickets,
    /// Reads of another server's history than the one that is followed are taken in.
    NoServerCheck,
    /// Reads that go to the database do not care what was seen before.
    NoToken,
}

/// What is missing.
#[cfg(test)]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Weaknesses {
    pub(super) weakness: Option<Weakness>,
    /// Where the log is being told.
    pub(super) cursor: LogPosition,
}

#[cfg(test)]
impl Weaknesses {
    pub(super) fn has(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    /// A place where a key is registered.
    pub(super) fn registration(&self, high_water: LogPosition) -> LogPosition {
        if self.has(Weakness::NoHighWater) { self.cursor } else { high_water }
    }

    /// The log is told from here on.
    pub(super) fn told(&mut self, at: LogPosition) {
        self.cursor = at;
    }

    /// Whether the place of a read does not matter.
    pub(super) fn trusts_any_read(&self) -> bool {
        use Weakness::{NoBuffer, NoPositions, NoRegistration, VoidOnChange};
        matches!(self.weakness, Some(NoBuffer | VoidOnChange | NoPositions | NoRegistration))
    }
}

/// Nothing is missing.
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

    pub(super) const fn told(&self, _: LogPosition) {}

    pub(super) const fn trusts_any_read(&self) -> bool {
        false
    }
}
