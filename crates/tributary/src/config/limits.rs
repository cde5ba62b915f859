//! `[limits]`: how much one client may request.

use serde::{Deserialize, Deserializer};

use super::source::optional_number;
use super::{ConfigError, fail};

/// Largest rate: one unit in a microsecond.
const PER_SECOND_MAX: u32 = 1_000_000;
/// Largest burst. It has to be filled within the life of the process, whatever the rate.
const BURST_MAX: u32 = 100_000_000;
/// Largest number of requests in flight.
const IN_FLIGHT_MAX: u32 = 1_000_000;

/// `[limits]`: the limits of each client. They apply unless the HTTP server answers this machine
/// only.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Limits {
    /// The limits of each service key.
    #[serde(deserialize_with = "keys")]
    pub keys: ClientLimit,
    /// The limits of each user with a token.
    #[serde(deserialize_with = "users")]
    pub users: ClientLimit,
    /// The limits of each address, for requests without a service key.
    #[serde(deserialize_with = "addresses")]
    pub addresses: ClientLimit,
}

/// The limits of a client. A unit is about the work for a page from the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientLimit {
    /// Units in each second on average.
    pub per_second: u32,
    /// Units that a client may use at once after a pause.
    pub burst: u32,
    /// Requests that are worked on at the same time.
    pub in_flight: u32,
}

const KEYS_DEFAULT: ClientLimit = ClientLimit { per_second: 10_000, burst: 20_000, in_flight: 512 };
const USERS_DEFAULT: ClientLimit = ClientLimit { per_second: 50, burst: 500, in_flight: 16 };
const ADDRESSES_DEFAULT: ClientLimit =
    ClientLimit { per_second: 500, burst: 5_000, in_flight: 128 };

impl Default for Limits {
    fn default() -> Self {
        Self { keys: KEYS_DEFAULT, users: USERS_DEFAULT, addresses: ADDRESSES_DEFAULT }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (name, limit) in
            [("keys", self.keys), ("users", self.users), ("addresses", self.addresses)]
        {
            for (key, value, max) in [
                ("per_second", limit.per_second, PER_SECOND_MAX),
                ("burst", limit.burst, BURST_MAX),
                ("in_flight", limit.in_flight, IN_FLIGHT_MAX),
            ] {
                if !(1..=max).contains(&value) {
                    return fail(format!("limits.{name}.{key} must be from 1 to {max}"));
                }
            }
        }
        Ok(())
    }
}

impl ClientLimit {
    /// Sets all three limits.
    pub fn new(per_second: u32, burst: u32, in_flight: u32) -> Self {
        Self { per_second, burst, in_flight }
    }
}

/// The keys of a section; absent ones have the default of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitKeys {
    #[serde(deserialize_with = "optional_number")]
    per_second: Option<u32>,
    #[serde(deserialize_with = "optional_number")]
    burst: Option<u32>,
    #[serde(deserialize_with = "optional_number")]
    in_flight: Option<u32>,
}

impl LimitKeys {
    fn or(self, default: ClientLimit) -> ClientLimit {
        ClientLimit {
            per_second: self.per_second.unwrap_or(default.per_second),
            burst: self.burst.unwrap_or(default.burst),
            in_flight: self.in_flight.unwrap_or(default.in_flight),
        }
    }
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClientLimit, D::Error> {
    LimitKeys::deserialize(deserializer).map(|keys| keys.or(KEYS_DEFAULT))
}

fn users<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClientLimit, D::Error> {
    LimitKeys::deserialize(deserializer).map(|keys| keys.or(USERS_DEFAULT))
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClientLimit, D::Error> {
    LimitKeys::deserialize(deserializer).map(|keys| keys.or(ADDRESSES_DEFAULT))
}
