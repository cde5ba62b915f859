//! The open connections: how many there are, how many bytes they hold, and which of them is closed
//! to make room. The longest wait for a client ends first, so a new client always gets in.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tracing::{debug, warn};
use tributary::config::Http;
use tributary::internal::stats::Occurrences;

use super::address::network_of;

/// Bytes of all answers that clients have not received yet.
const ANSWERS_BYTES_MAX: usize = 32 << 20;
/// Bytes of all request bodies that are not answered yet.
const BODIES_BYTES_MAX: usize = 16 << 20;
/// Answers up to this size are sent even if the budget is used up, so `/livez` always answers.
const SMALL_ANSWER_BYTES: usize = 1024;
/// A request that is younger is not ended to free its bytes.
const MIN_AGE_MS: u64 = 1_000;
/// The longest time from the arrival of an HTTP/2 request until its answer is sent. A client can
/// take one answer slowly while it takes others, so progress on the connection does not count.
const STREAM_AGE_MAX_MS: u64 = 60_000;
/// An HTTP/2 connection without requests is closed after this time.
const IDLE_MAX_MS: u64 = 10_000;

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    /// Connections with and without streams together.
    files_max: usize,
    per_address_max: usize,
    /// The connections with streams, which have a bound of their own.
    live: AtomicUsize,
    limits: Http,
    open: Mutex<Open>,
    /// The connections that were closed or refused, by reason.
    ended: [Occurrences; EndReason::ALL.len()],
    answers: Budget,
    bodies: Budget,
    start: Instant,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
    /// The number of connections of each address that is not trusted.
    per_address: HashMap<IpAddr, usize>,
}

/// A number of bytes that all connections share.
#[derive(Debug)]
struct Budget {
    used: AtomicUsize,
    max: usize,
}

/// The state of an open connection, and the bytes that it holds.
#[derive(Debug)]
pub(super) struct Connection {
    all: Arc<Connections>,
    number: u64,
    /// `None` for a trusted proxy.
    address: Option<IpAddr>,
    /// The requests that the server works on, so that it does not wait for the client.
    working: AtomicUsize,
    /// Its streams of events.
    live: AtomicUsize,
    /// Since when the server waits for the client. Times are in milliseconds since the start.
    waiting_since: AtomicU64,
    /// When the head of the last request arrived.
    request_at: AtomicU64,
    /// Of an HTTP/2 connection: its requests whose answers are not sent yet, by number, with their
    /// arrival. The oldest one is the first.
    streams: OnceLock<Mutex<VecDeque<(u64, u64)>>>,
    next_stream: AtomicU64,
    answer_bytes: AtomicUsize,
    body_bytes: AtomicUsize,
    /// The system takes no bytes for the client at the moment.
    blocked: AtomicBool,
    closing: AtomicBool,
    close: Notify,
}

/// A request until its answer is sent. Dropping it returns the bytes of its body.
#[derive(Debug)]
pub(super) struct Exchange {
    connection: Arc<Connection>,
    /// The number of its stream on an HTTP/2 connection.
    stream: u64,
    is_working: AtomicBool,
    body_bytes: AtomicUsize,
}

/// A request whose answer is a stream of events, until the stream ends.
#[derive(Debug)]
pub(super) struct LiveExchange(Arc<Exchange>);

/// Bytes of an answer. Dropping it returns them to the budget.
#[derive(Debug)]
pub(super) struct HeldAnswer {
    exchange: Arc<Exchange>,
    bytes: usize,
}

/// The state of an HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Fine,
    /// It has had no request for a while.
    Idle,
    /// The client does not take an answer.
    Stuck,
}

/// An open connection. Dropping it makes room for another one.
#[derive(Debug)]
pub(super) struct OpenConnection(pub(super) Arc<Connection>);

/// Why the server closes or refuses a connection before its client is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndReason {
    /// It waited longest of those of an address that has too many.
    AddressLimit,
    /// Its address has too many, all at work.
    Refused,
    /// It waited longest of all, and all were taken.
    ConnectionLimit,
    /// The same, because another one could not be accepted.
    FileLimit,
    /// Its answer or its request held bytes that others needed.
    ByteLimit,
    /// Its client did not read its answer.
    NotReading,
}

impl EndReason {
    const ALL: [Self; 6] = [
        Self::AddressLimit,
        Self::Refused,
        Self::ConnectionLimit,
        Self::FileLimit,
        Self::ByteLimit,
        Self::NotReading,
    ];

    /// The name in the metrics.
    fn name(self) -> &'static str {
        match self {
            Self::AddressLimit => "address_limit",
            Self::Refused => "refused",
            Self::ConnectionLimit => "connection_limit",
            Self::FileLimit => "file_limit",
            Self::ByteLimit => "byte_limit",
            Self::NotReading => "not_reading",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::AddressLimit => {
                "Connections of one address are all taken; its longest idle one is closed"
            }
            Self::Refused => "Connections of one address are all at work; another one is refused",
            Self::ConnectionLimit => "Connections are all taken; the longest idle one is closed",
            Self::FileLimit => "Cannot accept a connection; the longest idle one is closed",
            Self::ByteLimit => {
                "Slow clients hold too many bytes; the oldest of their requests are ended"
            }
            Self::NotReading => "Client did not read its answer in time; its connection is closed",
        }
    }
}

/// Why a client is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All connections are taken, and none of them waits for its client. This ends soon.
    Server,
    /// The same for the connections of this client's address.
    Address,
}

impl Connections {
    /// At most `max` connections without streams, and `files_max` together with streams.
    pub(super) fn new((max, files_max): (usize, usize), limits: Http) -> Arc<Self> {
        Arc::new(Self {
            max,
            files_max,
            live: AtomicUsize::new(0),
            per_address_max: limits.connections_per_address,
            limits,
            open: Mutex::default(),
            ended: Default::default(),
            answers: Budget { used: AtomicUsize::new(0), max: ANSWERS_BYTES_MAX },
            bodies: Budget { used: AtomicUsize::new(0), max: BODIES_BYTES_MAX },
            start: Instant::now(),
        })
    }

    /// Admits a connection. If all are taken, it closes the one that waits longest for its client.
    pub(super) fn open(self: &Arc<Self>, peer: IpAddr) -> Result<OpenConnection, Full> {
        let address = (!self.limits.is_trusted_proxy(peer)).then(|| network_of(peer));
        let now = self.now_ms();
        let mut open = self.lock();
        let of_address = address.and_then(|address| open.per_address.get(&address)).copied();
        if of_address.unwrap_or(0) >= self.per_address_max {
            if open.close_longest_waiting(|other| other.address == address).is_none() {
                self.note(EndReason::Refused, open.all.len());
                return Err(Full::Address);
            }
            self.note(EndReason::AddressLimit, open.all.len());
        } else if self.is_full(open.all.len()) {
            open.close_longest_waiting(|_| true).ok_or(Full::Server)?;
            self.note(EndReason::ConnectionLimit, open.all.len());
        }
        open.next += 1;
        let connection = Arc::new(Connection {
            all: Arc::clone(self),
            number: open.next,
            address,
            working: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            waiting_since: AtomicU64::new(now),
            request_at: AtomicU64::new(now),
            streams: OnceLock::new(),
            next_stream: AtomicU64::new(0),
            answer_bytes: AtomicUsize::new(0),
            body_bytes: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            close: Notify::new(),
        });
        open.all.insert(connection.number, Arc::clone(&connection));
        if let Some(address) = address {
            *open.per_address.entry(address).or_default() += 1;
        }
        Ok(OpenConnection(connection))
    }

    fn is_full(&self, open: usize) -> bool {
        open >= self.files_max || open - open.min(self.live.load(Ordering::Relaxed)) >= self.max
    }

    /// Closes the connection that waits longest for its client, because another one cannot be
    /// accepted. The usual cause is that file descriptors ran out.
    pub(super) fn close_one(&self, error: &std::io::Error) {
        let open = self.lock();
        debug!(%error, "Cannot accept a connection; retrying");
        if open.close_longest_waiting(|_| true).is_some() {
            self.note(EndReason::FileLimit, open.all.len());
        }
    }

    /// Counts a connection that is closed or refused, and logs the reason at most once an hour.
    fn note(&self, reason: EndReason, connections: usize) {
        if self.ended[reason as usize].note() {
            warn!(connections, "{}", reason.text());
        }
    }

    /// The number of open connections, and of those that were closed or refused by reason.
    pub(super) fn stats(&self) -> (usize, impl Iterator<Item = (&'static str, u64)>) {
        let ended = EndReason::ALL.into_iter().zip(&self.ended);
        let ended = ended.map(|(reason, ended)| (reason.name(), ended.count()));
        (self.lock().all.len(), ended)
    }

    /// Ends the oldest requests for which `held` counts bytes, until `bytes` are or will be free.
    /// The connection that needs them stays.
    fn free(&self, bytes: usize, by: &Connection, held: fn(&Connection) -> usize) -> bool {
        let now = self.now_ms();
        let open = self.lock();
        let mut old: Vec<(u64, &Arc<Connection>)> = open
            .all
            .values()
            .filter(|connection| connection.is_waiting() || connection.is_multiplexed())
            .map(|connection| (connection.oldest_request(), connection))
            .filter(|(at, _)| at + MIN_AGE_MS <= now)
            .filter(|(_, connection)| connection.number != by.number)
            .collect();
        // Bytes of connections that are closing will be free in a moment.
        old.sort_unstable_by_key(|(at, connection)| (!connection.is_closing(), *at));
        let mut freed = 0;
        for (_, connection) in old {
            if freed >= bytes {
                break;
            }
            let holds = held(connection);
            if holds > 0 {
                freed += holds;
                if connection.close() {
                    self.note(EndReason::ByteLimit, open.all.len());
                }
            }
        }
        freed >= bytes
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.ms_at(Instant::now())
    }

    fn ms_at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Open {
    fn close_longest_waiting(&self, of: impl Fn(&Connection) -> bool) -> Option<()> {
        let waiting = self.all.values().filter(|connection| {
            connection.is_waiting()
                && !connection.is_live()
                && !connection.is_closing()
                && of(connection)
        });
        let longest = waiting.min_by_key(|connection| {
            (connection.waiting_since.load(Ordering::Relaxed), connection.number)
        });
        longest.map(|connection| {
            connection.close();
        })
    }
}

impl Connection {
    /// The client has chosen HTTP/2: the connection has several requests at a time.
    pub(super) fn multiplexes(&self) {
        self.streams.get_or_init(Mutex::default);
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.streams.get().is_some()
    }

    /// The head of a request has arrived at this moment.
    pub(super) fn request_arrived(self: &Arc<Self>, at: Instant) -> Arc<Exchange> {
        let now = self.all.ms_at(at);
        self.request_at.store(now, Ordering::Relaxed);
        self.working.fetch_add(1, Ordering::Relaxed);
        let mut stream = 0;
        if let Some(streams) = self.streams.get() {
            stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
            streams.lock().unwrap_or_else(PoisonError::into_inner).push_back((stream, now));
        }
        Arc::new(Exchange {
            connection: Arc::clone(self),
            stream,
            is_working: AtomicBool::new(true),
            body_bytes: AtomicUsize::new(0),
        })
    }

    /// The client does not take more of an answer now.
    pub(super) fn blocks(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// The client has received a part of an answer. The wait for it has begun just now, unless the
    /// client did not take that part at once.
    pub(super) fn received(&self) {
        if self.is_blocked() {
            self.blocked.store(false, Ordering::Relaxed);
            if self.is_waiting() {
                self.waits(Instant::now());
            }
        }
    }

    /// The server waits for the client from this moment on.
    fn waits(&self, since: Instant) {
        self.waiting_since.store(self.all.ms_at(since), Ordering::Relaxed);
    }

    /// When the oldest request arrived whose answer is not sent yet. On an HTTP/1.1 connection it
    /// is the last request.
    fn oldest_request(&self) -> u64 {
        let Some(streams) = self.streams.get() else {
            return self.request_at.load(Ordering::Relaxed);
        };
        let streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.front().map_or(u64::MAX / 2, |(_, at)| *at)
    }

    /// Whether an HTTP/2 connection is in use, and its client takes all answers.
    pub(super) fn look(&self) -> Look {
        self.look_at(self.all.now_ms())
    }

    fn look_at(&self, now: u64) -> Look {
        let Some(streams) = self.streams.get() else { return Look::Fine };
        let streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.front() {
            Some((_, at)) if at + STREAM_AGE_MAX_MS < now => Look::Stuck,
            Some(_) => Look::Fine,
            None if self.waiting_since.load(Ordering::Relaxed) + IDLE_MAX_MS < now => Look::Idle,
            None => Look::Fine,
        }
    }

    /// Whether it has streams of events. It is then not closed to make room.
    fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed) > 0
    }

    fn is_waiting(&self) -> bool {
        self.working.load(Ordering::Relaxed) == 0
    }

    /// Closes the connection without waiting for its client. Returns false if it is being closed
    /// already.
    fn close(&self) -> bool {
        let is_first = !self.closing.swap(true, Ordering::Relaxed);
        if is_first {
            self.close.notify_one();
        }
        is_first
    }

    /// The client does not read its answer, so the connection ends.
    pub(super) fn stalled(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let connections = self.all.lock().all.len();
        self.all.note(EndReason::NotReading, connections);
    }

    /// Whether the connection is being closed to make room.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Completes once the connection has to be closed.
    pub(super) async fn closing(&self) {
        self.close.notified().await;
    }
}

impl Exchange {
    /// The server works on the request, for which it does not wait for the client.
    pub(super) fn works(&self) {
        if !self.is_working.swap(true, Ordering::Relaxed) {
            self.connection.working.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The server waits for a part of the request, or for the client to receive its answer.
    pub(super) fn waits(&self) {
        self.waits_since(Instant::now);
    }

    fn waits_since(&self, since: impl FnOnce() -> Instant) {
        let was_working = self.is_working.load(Ordering::Relaxed);
        if was_working && self.is_working.swap(false, Ordering::Relaxed) {
            self.connection.working.fetch_sub(1, Ordering::Relaxed);
            self.connection.waits(since());
        }
    }

    /// The request has an answer since this moment. The client still has to receive it.
    pub(super) fn answered(&self, at: Instant) {
        self.release_body();
        self.waits_since(|| at);
    }

    /// Takes the bytes of an answer from the budget. `None` if too many are in flight, except for
    /// an answer that `must` be sent.
    pub(super) fn hold_answer(self: &Arc<Self>, bytes: usize, must: bool) -> Option<HeldAnswer> {
        let connection = &self.connection;
        connection.answer_bytes.fetch_add(bytes, Ordering::Relaxed);
        let held = HeldAnswer { exchange: Arc::clone(self), bytes };
        let excess = connection.all.answers.take(bytes);
        let of = |connection: &Connection| connection.answer_bytes.load(Ordering::Relaxed);
        let has_room = excess == 0
            || bytes <= SMALL_ANSWER_BYTES
            || connection.all.free(excess, connection, of)
            || must;
        has_room.then_some(held)
    }

    /// Takes the bytes of a part of a request body from the budget, until the request is answered.
    /// False if too many are being received.
    pub(super) fn hold_body(&self, bytes: usize) -> bool {
        let connection = &self.connection;
        self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        connection.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        let excess = connection.all.bodies.take(bytes);
        let of = |connection: &Connection| connection.body_bytes.load(Ordering::Relaxed);
        excess == 0 || connection.all.free(excess, connection, of)
    }

    fn release_body(&self) {
        if self.body_bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let bytes = self.body_bytes.swap(0, Ordering::Relaxed);
        self.connection.body_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.connection.all.bodies.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl LiveExchange {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        let connection = &exchange.connection;
        if connection.live.fetch_add(1, Ordering::Relaxed) == 0 {
            connection.all.live.fetch_add(1, Ordering::Relaxed);
        }
        Self(exchange)
    }

    /// Takes the bytes of the next events from the budget. `None` if too many are in flight. The
    /// client has taken the earlier events, so its request counts as new.
    pub(super) fn hold(&self, bytes: usize) -> Option<HeldAnswer> {
        let Self(exchange) = self;
        let now = exchange.connection.all.now_ms();
        match exchange.connection.streams.get() {
            Some(streams) => {
                let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
                streams.retain(|(stream, _)| *stream != exchange.stream);
                streams.push_back((exchange.stream, now));
            }
            None => exchange.connection.request_at.store(now, Ordering::Relaxed),
        }
        exchange.hold_answer(bytes, false)
    }
}

impl Drop for LiveExchange {
    fn drop(&mut self) {
        let connection = &self.0.connection;
        if connection.live.fetch_sub(1, Ordering::Relaxed) == 1 {
            connection.all.live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Budget {
    /// Takes bytes. Returns by how many the budget is exceeded.
    fn take(&self, bytes: usize) -> usize {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        used.saturating_sub(self.max)
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        let connection = &self.exchange.connection;
        connection.answer_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        connection.all.answers.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.release_body();
        self.waits();
        let Some(streams) = self.connection.streams.get() else { return };
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|(stream, _)| *stream != self.stream);
        if streams.is_empty() {
            self.connection.waits(Instant::now());
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let Self(connection) = self;
        let mut open = connection.all.lock();
        open.all.remove(&connection.number);
        if let Some(address) = connection.address
            && let Some(count) = open.per_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.per_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
