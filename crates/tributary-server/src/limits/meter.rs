//! The units and the requests in flight of many clients, in a table of fixed size.
//!
//! Units follow the generic cell rate algorithm: a client has one number, the time at which its
//! whole burst is available again. Each unit moves this time forward by the time of one unit.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tributary::config::ClientLimit;

/// Clients with a cell of their own, for each kind of client. A cell takes 24 bytes.
const CLIENTS_MAX: usize = 65_536;
/// Cells in which a client can be.
const WAYS: usize = 8;

/// The state of all clients of one kind.
#[derive(Debug)]
pub(super) struct Meter {
    limit: ClientLimit,
    sets: Box<[Mutex<[Cell; WAYS]>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// The hash of the client.
    client: u64,
    /// When the whole burst is available again, in nanoseconds since the start.
    full_at: u64,
    in_flight: u32,
}

/// The rest of a client's burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) units: u32,
    /// Whole seconds until the burst is available again.
    pub(super) full_in_s: u32,
}

/// Why a client must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// It has no unit until this time has passed.
    Units(Duration),
    InFlight,
}

impl Meter {
    pub(super) fn new(limit: ClientLimit) -> Self {
        let sets = (0..CLIENTS_MAX / WAYS).map(|_| Mutex::default()).collect();
        Self { limit, sets }
    }

    pub(super) fn limit(&self) -> ClientLimit {
        self.limit
    }

    /// Takes one unit of the client, and these `further` ones, which the client may owe.
    pub(super) fn take(&self, client: u64, now: u64, further: u32) -> Result<Left, Exceeded> {
        let mut set = self.set(client);
        let cell = cell_of(&mut set, client);
        self.take_one(cell, now)?;
        Ok(self.owe(cell, now, further))
    }

    /// Takes one unit for a request that is in flight until [`Meter::leave`].
    pub(super) fn enter(&self, client: u64, now: u64) -> Result<(), Exceeded> {
        let mut set = self.set(client);
        let cell = cell_of(&mut set, client);
        if cell.in_flight >= self.limit.in_flight {
            return Err(Exceeded::InFlight);
        }
        self.take_one(cell, now)?;
        cell.in_flight += 1;
        Ok(())
    }

    fn take_one(&self, cell: &mut Cell, now: u64) -> Result<(), Exceeded> {
        let full_at = cell.full_at.max(now) + self.unit();
        let excess = (full_at - now).saturating_sub(self.burst());
        if excess > 0 {
            return Err(Exceeded::Units(Duration::from_nanos(excess)));
        }
        cell.full_at = full_at;
        Ok(())
    }

    /// Takes further units, once the cost of a request is known.
    pub(super) fn charge(&self, client: u64, now: u64, units: u32) -> Left {
        let mut set = self.set(client);
        self.owe(cell_of(&mut set, client), now, units)
    }

    /// The client may owe units, but at most one burst.
    fn owe(&self, cell: &mut Cell, now: u64, units: u32) -> Left {
        let full_at = cell.full_at.max(now) + self.unit() * u64::from(units);
        cell.full_at = full_at.min(now + 2 * self.burst()).max(cell.full_at);
        self.left(cell.full_at, now)
    }

    /// The rest of the client's burst.
    pub(super) fn look(&self, client: u64, now: u64) -> Left {
        self.charge(client, now, 0)
    }

    /// A request of the client is no longer in flight.
    pub(super) fn leave(&self, client: u64) {
        let mut set = self.set(client);
        if let Some(cell) = set.iter_mut().find(|cell| cell.client == client) {
            cell.in_flight = cell.in_flight.saturating_sub(1);
        }
    }

    fn left(&self, full_at: u64, now: u64) -> Left {
        let missing = full_at.saturating_sub(now);
        let units = self.burst().saturating_sub(missing) / self.unit();
        Left {
            units: u32::try_from(units).unwrap_or(u32::MAX),
            full_in_s: u32::try_from(missing.div_ceil(NANOS)).unwrap_or(u32::MAX),
        }
    }

    /// The time of one unit in nanoseconds.
    fn unit(&self) -> u64 {
        NANOS / u64::from(self.limit.per_second)
    }

    /// The time of a whole burst in nanoseconds.
    fn burst(&self) -> u64 {
        self.unit() * u64::from(self.limit.burst)
    }

    fn set(&self, client: u64) -> MutexGuard<'_, [Cell; WAYS]> {
        let sets = self.sets.len() as u64;
        let index = usize::try_from(client % sets).unwrap_or_default();
        self.sets[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NANOS: u64 = 1_000_000_000;

/// The cell of the client. A new client takes over the idle cell with the most units, with these
/// units: it cannot get a new burst by displacing others.
fn cell_of(set: &mut [Cell; WAYS], client: u64) -> &mut Cell {
    let own = set.iter().position(|cell| cell.client == client);
    let index = own.unwrap_or_else(|| {
        let by_use = |index: &usize| (set[*index].in_flight > 0, set[*index].full_at);
        let index = (0..WAYS).min_by_key(by_use).unwrap_or_default();
        set[index] = Cell { client, full_at: set[index].full_at, in_flight: 0 };
        index
    });
    &mut set[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = NANOS;

    fn meter(per_second: u32, burst: u32, in_flight: u32) -> Meter {
        Meter::new(ClientLimit::new(per_second, burst, in_flight))
    }

    #[test]
    fn a_client_gets_its_burst_and_then_its_rate() {
        let meter = meter(10, 5, 100);
        let mut now = 7 * SECOND;
        for left in (0..5).rev() {
            assert_eq!(meter.take(1, now, 0).unwrap().units, left);
        }
        let refused = Exceeded::Units(Duration::from_millis(100));
        assert_eq!(meter.take(1, now, 0), Err(refused));
        assert!(meter.take(2, now, 0).is_ok(), "another client");
        let mut taken = 0;
        for _ in 0..10_000 {
            now += SECOND / 1_000;
            taken += u32::from(meter.take(1, now, 0).is_ok());
        }
        assert_eq!(taken, 100, "10 units in each of 10 s");
        assert_eq!(meter.look(1, now + 10 * SECOND), Left { units: 5, full_in_s: 0 });
    }

    #[test]
    fn units_can_be_owed_up_to_one_burst() {
        let meter = meter(10, 50, 100);
        assert_eq!(meter.take(1, 0, 0).unwrap(), Left { units: 49, full_in_s: 1 });
        assert_eq!(meter.charge(1, 0, 20), Left { units: 29, full_in_s: 3 });
        assert_eq!(meter.charge(1, 0, u32::MAX), Left { units: 0, full_in_s: 10 });
        let wait = Duration::from_millis(5_100);
        assert_eq!(meter.take(1, 0, 0), Err(Exceeded::Units(wait)));
        assert!(meter.take(1, 5 * SECOND, 0).is_err());
        assert!(meter.take(1, 51 * SECOND / 10, 0).is_ok());
    }

    #[test]
    fn requests_in_flight_are_counted_until_they_leave() {
        let meter = meter(1_000, 1_000, 2);
        assert!(meter.enter(1, 0).is_ok() && meter.enter(1, 0).is_ok());
        assert_eq!(meter.enter(1, 0), Err(Exceeded::InFlight));
        assert!(meter.take(1, 0, 0).is_ok() && meter.enter(2, 0).is_ok());
        meter.leave(1);
        assert!(meter.enter(1, 0).is_ok());
        assert!(meter.enter(1, 0).is_err());
    }

    /// Many clients of one set cannot free the one that has used its burst, and cost no memory.
    #[test]
    fn more_clients_than_cells_get_no_more_than_the_cells() {
        let meter = meter(1, 10, 100);
        let sets = meter.sets.len() as u64;
        let mut taken = 0;
        for round in 0..50 {
            for client in 1..=100 {
                taken += u32::from(meter.take(client * sets, round, 0).is_ok());
            }
        }
        assert_eq!(taken, 80, "the bursts of 8 cells");
        assert_eq!(meter.sets.len() * WAYS, CLIENTS_MAX);
        assert!(size_of::<Cell>() <= 24);
    }
}
