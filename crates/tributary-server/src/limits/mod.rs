//! Limits of clients: units and requests in flight for each service key, user and address.
//!
//! A request takes one unit at its start. The rest of its cost is charged once it is known, so a
//! client may owe units. Clients of this machine without credentials have no limits.

mod cost;
mod meter;

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use tracing::{debug, warn};
use tributary::config::{ClientLimit, Limits, Network};
use tributary::internal::stats::Occurrences;

pub(super) use self::cost::Cost;
use self::meter::{Exceeded, Left, Meter};
use super::address::client_of;
use super::auth::Principal;
use super::error::ApiError;

// The fields of draft-ietf-httpapi-ratelimit-headers, and their older form.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The limits of all clients.
#[derive(Debug)]
pub(super) struct Limiter {
    kinds: [Kind; 3],
    proxies: Vec<Network>,
    hasher: RandomState,
    start: Instant,
}

/// The limits in effect. A reload replaces them.
#[derive(Clone, Debug)]
pub(super) struct CurrentLimiter(Arc<ArcSwap<Limiter>>);

impl CurrentLimiter {
    pub(super) fn new(limiter: Limiter) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(limiter)))
    }

    pub(super) fn get(&self) -> Guard<Arc<Limiter>> {
        self.0.load()
    }

    /// Uses other limits from now on. Every client then has its whole burst.
    pub(super) fn replace(&self, limits: &Limits) {
        let next = self.get().with(limits);
        self.0.store(Arc::new(next));
    }
}

/// The clients of one kind.
#[derive(Debug)]
struct Kind {
    /// The name of the limit in headers and problems.
    name: &'static str,
    meter: Meter,
    policy: HeaderValue,
    burst: HeaderValue,
    /// Refused requests, by [`Exceeded`].
    refused: Arc<[AtomicU64; REASONS.len()]>,
    refused_any: Occurrences,
}

/// Why requests are refused, as labels: no units are left, or too many are in flight.
const REASONS: [&str; 2] = ["units", "in_flight"];

// Indexes of kinds.
const KEYS: usize = 0;
const USERS: usize = 1;
const ADDRESSES: usize = 2;

/// A client: the index of its kind, and its hash.
type Client = (usize, u64);
/// The clients that a request counts for: an address and a user, or a key.
type Clients = [Option<Client>; 2];

/// A request that its clients may send. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct Admission {
    limiter: Arc<Limiter>,
    clients: Clients,
    /// The request was admitted and has no answer yet.
    is_open: bool,
}

/// A request that is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: ApiError,
    limiter: Arc<Limiter>,
    client: Client,
}

impl Limiter {
    /// Limits for clients whose requests may come through these proxies.
    pub(super) fn new(limits: &Limits, proxies: &[Network]) -> Self {
        let kinds = [("key", limits.keys), ("user", limits.users), ("address", limits.addresses)];
        Self {
            kinds: kinds.map(|(name, limit)| Kind::new(name, limit)),
            proxies: proxies.to_vec(),
            hasher: RandomState::new(),
            start: Instant::now(),
        }
    }

    /// A limiter with other limits. It counts refused requests on.
    fn with(&self, limits: &Limits) -> Self {
        let mut next = Self::new(limits, &self.proxies);
        for (next, kind) in next.kinds.iter_mut().zip(&self.kinds) {
            next.refused = Arc::clone(&kind.refused);
        }
        next
    }

    /// Admits a request with this principal, from this peer; the peer is unknown if an application
    /// serves the routes without it.
    pub(super) fn enter(
        self: &Arc<Self>,
        principal: &Principal,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Result<Admission, Refusal> {
        let now = self.now();
        let (limiter, clients) = (Arc::clone(self), [None; 2]);
        let mut admission = Admission { limiter, clients, is_open: false };
        let clients = self.clients(principal, peer, headers);
        for (entered, client) in admission.clients.iter_mut().zip(clients) {
            let Some(client) = client else { continue };
            let kind = &self.kinds[client.0];
            kind.meter.enter(client.1, now).map_err(|exceeded| {
                let error = kind.refuse(exceeded);
                Refusal { error, limiter: Arc::clone(self), client }
            })?;
            *entered = Some(client);
        }
        admission.is_open = true;
        Ok(admission)
    }

    /// Admits a request that is answered at once, and sets the headers of its answer. False if it
    /// is refused.
    pub(super) fn pass(
        &self,
        (clients, now): (Clients, Instant),
        cost: Cost,
        headers: &mut HeaderMap,
    ) -> bool {
        let now = self.nanos_at(now);
        let mut reported = None;
        for (kind, client) in clients.into_iter().flatten() {
            let taken = self.kinds[kind].meter.take(client, now, cost.units());
            let Ok(left) = taken else { return false };
            reported = Some((kind, left));
        }
        if let Some((kind, left)) = reported {
            self.kinds[kind].set_headers(headers, left);
        }
        true
    }

    /// Whether one of the clients has no units at the moment.
    pub(super) fn is_spent(&self, clients: Clients, now: Instant) -> bool {
        let now = self.nanos_at(now);
        let spent = |(kind, client): Client| self.kinds[kind].meter.look(client, now).units == 0;
        clients.into_iter().flatten().any(spent)
    }

    /// The clients of a request. Addresses are not limited for services: one has many users.
    pub(super) fn clients(
        &self,
        principal: &Principal,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Clients {
        if let Principal::Service { id, .. } = principal {
            return [Some((KEYS, self.hash(id))), None];
        }
        let address = peer.and_then(|peer| client_of(peer, headers, &self.proxies));
        let user = principal.user().map(|user| (USERS, self.hash(user)));
        [address.map(|address| (ADDRESSES, self.hash(address))), user]
    }

    /// The refused requests since the start: limit, reason and number.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.kinds.iter().flat_map(|kind| {
            let reasons = REASONS.iter().zip(kind.refused.iter());
            reasons.map(|(reason, count)| (kind.name, *reason, count.load(Ordering::Relaxed)))
        })
    }

    fn hash(&self, client: impl Hash) -> u64 {
        self.hasher.hash_one(client)
    }

    fn now(&self) -> u64 {
        self.nanos_at(Instant::now())
    }

    fn nanos_at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Kind {
    fn new(name: &'static str, limit: ClientLimit) -> Self {
        let window = limit.burst.div_ceil(limit.per_second);
        let policy = format!("\"{name}\";q={};w={window}", limit.burst);
        Self {
            name,
            meter: Meter::new(limit),
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("")),
            burst: limit.burst.into(),
            refused: Default::default(),
            refused_any: Occurrences::default(),
        }
    }

    /// The answer to a request that exceeds a limit. The log has it, at most once an hour.
    fn refuse(&self, exceeded: Exceeded) -> ApiError {
        debug!(limit = self.name, ?exceeded, "Client exceeds its limit; the request is refused");
        let reason = usize::from(matches!(exceeded, Exceeded::InFlight));
        self.refused[reason].fetch_add(1, Ordering::Relaxed);
        if self.refused_any.note() {
            warn!(
                limit = self.name,
                "Clients exceed their limit and are answered 429; raise it in [limits] if they are \
                 legitimate"
            );
        }
        match exceeded {
            Exceeded::Units(wait) => ApiError::TooManyRequests {
                limit: self.name,
                retry_after_s: wait
                    .as_nanos()
                    .div_ceil(1_000_000_000)
                    .try_into()
                    .unwrap_or(u32::MAX),
            },
            Exceeded::InFlight => {
                let max = self.meter.limit().in_flight;
                ApiError::TooManyInFlight { limit: self.name, max }
            }
        }
    }

    fn set_headers(&self, headers: &mut HeaderMap, Left { units, full_in_s }: Left) {
        headers.insert(POLICY, self.policy.clone());
        headers.insert(X_LIMIT, self.burst.clone());
        let start = self.name.len() + "\"\";r=".len();
        // The older headers share the bytes of the newer one.
        let text = Bytes::from(format!("\"{}\";r={units};t={full_in_s}", self.name));
        let end = text.len() - ";t=".len() - digits(full_in_s);
        let parts =
            [(X_REMAINING, text.slice(start..end)), (X_RESET, text.slice(end + ";t=".len()..))];
        for (name, bytes) in parts.into_iter().chain([(RATE_LIMIT, text)]) {
            if let Ok(value) = HeaderValue::from_maybe_shared(bytes) {
                headers.insert(name, value);
            }
        }
    }
}

/// The number of decimal digits.
fn digits(number: u32) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

impl Admission {
    /// Charges the cost of the request and sets the headers of its answer.
    pub(super) fn finish(mut self, cost: Cost, headers: &mut HeaderMap) {
        self.is_open = false;
        let now = self.limiter.now();
        let mut reported = None;
        for (kind, client) in self.clients.into_iter().flatten() {
            let left = self.limiter.kinds[kind].meter.charge(client, now, cost.units());
            reported = Some((kind, left));
        }
        if let Some((kind, left)) = reported {
            self.limiter.kinds[kind].set_headers(headers, left);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let now = self.limiter.now();
        for (kind, client) in self.clients.into_iter().flatten() {
            let meter = &self.limiter.kinds[kind].meter;
            // The client has left before the answer; the databases may have been queried.
            if self.is_open {
                meter.charge(client, now, Cost::QUERY.units());
            }
            meter.leave(client);
        }
    }
}

impl Refusal {
    /// Sets the headers of the answer.
    pub(super) fn set_headers(&self, headers: &mut HeaderMap) {
        let (kind, client) = self.client;
        let kind = &self.limiter.kinds[kind];
        kind.set_headers(headers, kind.meter.look(client, self.limiter.now()));
    }
}

#[cfg(test)]
mod tests;
