//! All connections to one server. Each has a class, and each class has bounds of its own, so no use
//! of the server can take the connections of another one.
//!
//! Requests share a pool of the client library. The other classes open their connections beside it,
//! through [`Connections::lease`]. If the server refuses a connection because of a limit, requests
//! use fewer of them.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, Pool, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::dial::{logged_in, options_beside};
use super::login::Login;
use super::source::{Dialect, EVENT_BYTES_MAX, ServerId};
use crate::backoff::Backoff;
use crate::shard::gate::Gate;
use crate::shard::queue::{ConnectionStats, Turn};
use crate::shard::{Deadline, ShardError};

/// Limit on the wait for a connection beside the pool, with its login. It is short because an
/// attempt to reach an absent server stays dead when the server returns.
const LEASE_DEADLINE: Duration = Duration::from_secs(2);
/// Age at which a connection beside the pool is closed. Thus an address that moved to another
/// server is noticed. Most servers close idle connections later than this.
const LIFETIME: Duration = Duration::from_secs(30);
/// Maximum connections opened in advance, before a server is in service.
const WARM_CONNECTIONS: usize = 4;
/// Limit on an orderly disconnect. After it the connection is dropped, which the server notices
/// too.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);
/// Limit on closing the pool at the end.
const CLOSE_ALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Minimum time between two renewals of the pool, however many writes find the server read-only.
const RENEW_PAUSE: Duration = Duration::from_secs(1);
/// Pause after the server has refused a connection, until the pool is tried again. It does not
/// grow, because an open connection becomes free in a moment.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// The use of a connection beside the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Looks up a commit in doubt, or whether the address leads to another server. More at once
    /// mean that the server has other problems.
    Doubt,
    /// Queries the end of the log, for tokens and for the lease of memory.
    Token,
    /// Reads what memory misses. Several fills can run at once, and they leave room for requests.
    Fill,
    /// Reads the newest times of all authors.
    Heads,
    /// Receives the log. There are two while one feed replaces another.
    Feed,
    /// Queries definitions of tables, or when a file of the log was created.
    Lookup,
}

/// The reaction if the server refuses a connection because of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// One connection of the pool is closed for it.
    Make,
    /// The caller does without.
    IfFree,
}

impl Class {
    const ALL: [Self; 6] =
        [Self::Doubt, Self::Token, Self::Fill, Self::Heads, Self::Feed, Self::Lookup];

    /// The name in the metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Doubt => "doubt",
            Self::Token => "token",
            Self::Fill => "fill",
            Self::Heads => "heads",
            Self::Feed => "feed",
            Self::Lookup => "lookup",
        }
    }

    /// Connections at one time; further callers wait.
    const fn max(self) -> usize {
        match self {
            Self::Doubt => 4,
            Self::Token | Self::Heads => 1,
            Self::Fill => 3,
            Self::Feed | Self::Lookup => 2,
        }
    }

    /// Whether connections are kept for the next use. The others are changed by their use, or must
    /// be new.
    fn is_kept(self) -> bool {
        matches!(self, Self::Token | Self::Fill)
    }

    fn room(self) -> Room {
        match self {
            Self::Fill => Room::IfFree,
            Self::Doubt | Self::Token | Self::Heads | Self::Feed | Self::Lookup => Room::Make,
        }
    }
}

/// All connections to one server.
pub(in crate::shard) struct Connections {
    gate: Arc<Gate>,
    login: Login,
    pool: Mutex<RequestPool>,
    classes: [Arc<ClassConnections>; Class::ALL.len()],
}

/// The connections that requests share.
struct RequestPool {
    pool: Pool,
    opened: Instant,
}

/// The connections of one class.
struct ClassConnections {
    class: Class,
    /// One for each connection that may be in use.
    permits: Arc<Semaphore>,
    open: AtomicUsize,
    idle: Mutex<Vec<Connected>>,
}

/// An open connection beside the pool.
struct Connected {
    conn: Conn,
    /// The server that it leads to, once that was queried.
    server: Option<(ServerId, Dialect)>,
    since: Instant,
    counted: Counted,
}

/// Counts a connection as open until it is dropped.
struct Counted(Arc<ClassConnections>);

/// A connection beside the pool. It is closed on drop, because rows may still arrive on it.
pub(super) struct Lease {
    connected: Connected,
    place: Place,
    is_new: bool,
}

/// Counts a connection as in use until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// No connection is opened yet. The pool holds as many as the gate has permits.
    pub(super) fn new(gate: Arc<Gate>, login: Login) -> Self {
        let classes = Class::ALL.map(|class| Arc::new(ClassConnections::new(class)));
        let pool = Pool::new(login.options());
        let pool = Mutex::new(RequestPool { pool, opened: Instant::now() });
        Self { gate, login, pool, classes }
    }

    /// How connections log in.
    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// New connections log in in this way. Those in use close when they are returned.
    pub(in crate::shard) fn log_in_as(&self, login: Login) {
        self.login.replace(login);
        locked(&self.pool).renew(&self.login.options());
        self.classes.iter().for_each(|of| locked(&of.idle).clear());
    }

    /// Runs the command that prints the password, if its last output is older than this. New
    /// connections use the output.
    ///
    /// # Errors
    /// The command prints no password. The earlier one is still used.
    pub(super) async fn refresh_login(&self, age_max: Duration) -> Result<(), ShardError> {
        if self.login.refresh(age_max).await? {
            locked(&self.pool).renew(&self.login.options());
        }
        Ok(())
    }

    /// A connection from the pool. A request that passed the gate does not wait here. If the server
    /// refuses another connection because of a limit, the permits are reduced, and the request
    /// waits for one that is open.
    pub(super) async fn request(&self) -> Result<Conn, ShardError> {
        let mut refused = Backoff::steady(REFUSED_PAUSE);
        loop {
            match self.pooled().await {
                Err(ShardError::Overloaded(reason)) => {
                    self.gate.queue().note_refused();
                    if refused.failures() == 0 && !self.gate.queue().shrink(&reason) {
                        return Err(ShardError::Unavailable(reason));
                    }
                    sleep(refused.pause()).await;
                }
                // A refused login affects all databases of the server.
                Err(error @ ShardError::Faulty(_)) => {
                    self.gate.close(&error);
                    return Err(ShardError::Unavailable(error.to_string()));
                }
                outcome => return outcome,
            }
        }
    }

    /// A connection from the pool, or the error of the login.
    pub(super) async fn pooled(&self) -> Result<Conn, ShardError> {
        let pool = locked(&self.pool).pool.clone();
        if self.gate.queue().is_reduced() {
            // The request before this one has returned its connection, but the pool takes it back
            // in a task of its own. Without this wait, another connection would be refused.
            let metrics = pool.metrics();
            let is_empty = || metrics.connections_in_pool.load(Ordering::Relaxed) == 0;
            let until = Instant::now() + REFUSED_PAUSE;
            while is_empty() && Instant::now() < until {
                sleep(REFUSED_PAUSE / 10).await;
            }
        }
        logged_in(async { pool.get_conn().await }).await
    }

    /// Opens a few pooled connections in advance, so that the first requests need not wait for
    /// logins. All are held until the last is open, so they are distinct. A failed one is not
    /// reported: the request that needs it will get the error.
    pub(super) async fn warm(&self) -> Vec<Conn> {
        let some = self.login.options().pool_opts().constraints().max().min(WARM_CONNECTIONS);
        let connections = join_all((0..some).map(|_| self.pooled())).await;
        connections.into_iter().flatten().collect()
    }

    /// Replaces the pool, unless that was done a moment ago. Connections in use close when they are
    /// returned.
    pub(super) fn renew(&self) -> bool {
        let mut pool = locked(&self.pool);
        let is_due = pool.opened.elapsed() >= RENEW_PAUSE;
        if is_due {
            pool.renew(&self.login.options());
        }
        is_due
    }

    /// Closes everything that is idle, and replaces the pool. The old connections may be dead
    /// without an error so far. They may also be all that the server allows.
    pub(super) async fn start_again(&self) {
        let old = locked(&self.pool).renew(&self.login.options());
        let idle = self.classes.iter().flat_map(|of| std::mem::take(&mut *locked(&of.idle)));
        let idle: Vec<Connected> = idle.collect();
        let close = async {
            join_all(idle.into_iter().map(Connected::close)).await;
            old.disconnect().await
        };
        // An error means that the connections are already gone.
        drop(timeout(CLOSE_TIMEOUT, close).await);
    }

    /// Closes everything that is idle and refuses new connections from the pool. Waits briefly: the
    /// server may be unreachable.
    pub(super) async fn close(&self) {
        self.classes.iter().for_each(|of| locked(&of.idle).clear());
        let pool = locked(&self.pool).pool.clone();
        // An error means that the connections are already gone.
        drop(timeout(CLOSE_ALL_TIMEOUT, pool.disconnect()).await);
    }

    /// Closes the idle connections of a class, because they lead to another server.
    pub(super) fn forget(&self, class: Class) {
        locked(&self.class(class).idle).clear();
    }

    /// A connection of a class: one that is idle, or a new one.
    pub(super) async fn lease(&self, class: Class) -> Result<Lease, ShardError> {
        let (of, until) = (self.class(class), Deadline::after(LEASE_DEADLINE));
        let permit = until.limit(Arc::clone(&of.permits).acquire_owned()).await;
        let Some(Ok(permit)) = permit else {
            let text = format!("no connection of the class `{}` became free in time", class.name());
            return Err(ShardError::Unavailable(text));
        };
        let place = Place { _permit: permit };
        if let Some(connected) = of.take_idle() {
            return Ok(Lease { connected, place, is_new: false });
        }
        // Boxed, because logins are rare and large.
        let conn = until.in_time(Box::pin(self.dial(of))).await?;
        let counted = Counted::new(of);
        let connected = Connected { conn, server: None, since: Instant::now(), counted };
        Ok(Lease { connected, place, is_new: true })
    }

    async fn dial(&self, of: &ClassConnections) -> Result<Conn, ShardError> {
        let options = || of.options(&self.login.options());
        match logged_in(Conn::new(options())).await {
            Err(ShardError::Overloaded(reason)) if of.class.room() == Room::Make => {
                self.make_room(&reason).await;
                logged_in(Conn::new(options())).await
            }
            outcome => outcome,
        }
    }

    /// Closes one connection of the pool, if the requests can do with one less.
    async fn make_room(&self, reason: &str) {
        let until = Deadline::after(LEASE_DEADLINE).half();
        let Ok(_permit) = self.gate.enter(Turn::Next, until).await else { return };
        if self.gate.queue().shrink(reason)
            && let Ok(connection) = self.pooled().await
        {
            // An error means that it is already gone.
            drop(connection.disconnect().await);
        }
    }

    /// The figures of this moment, of the pool and then of each class.
    pub(in crate::shard) fn stats(&self) -> Vec<ConnectionStats> {
        let metrics = locked(&self.pool).pool.metrics();
        let open = metrics.connection_count.load(Ordering::Relaxed);
        let idle = metrics.connections_in_pool.load(Ordering::Relaxed);
        let (in_use, max) = (open.saturating_sub(idle), self.gate.queue().stats().connections);
        let mut stats = vec![ConnectionStats { class: "request", open, in_use, max }];
        stats.extend(self.classes.iter().map(|of| of.stats()));
        stats
    }

    fn class(&self, class: Class) -> &Arc<ClassConnections> {
        &self.classes[class as usize]
    }
}

impl RequestPool {
    /// Replaces the pool and returns the old one, whose connections close when requests return
    /// them.
    fn renew(&mut self, options: &Opts) -> Pool {
        self.opened = Instant::now();
        std::mem::replace(&mut self.pool, Pool::new(options.clone()))
    }
}

impl ClassConnections {
    fn new(class: Class) -> Self {
        Self {
            class,
            permits: Arc::new(Semaphore::new(class.max())),
            open: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// The options of its connections, from those of the pool.
    fn options(&self, pooled: &Opts) -> Opts {
        let packet_bytes = (self.class == Class::Feed).then_some(EVENT_BYTES_MAX);
        options_beside(pooled, packet_bytes)
    }

    fn take_idle(&self) -> Option<Connected> {
        let mut idle = locked(&self.idle);
        idle.retain(|connected| connected.since.elapsed() < LIFETIME);
        idle.pop()
    }

    fn stats(&self) -> ConnectionStats {
        let max = self.class.max();
        let in_use = max.saturating_sub(self.permits.available_permits());
        let open = self.open.load(Ordering::Relaxed);
        ConnectionStats { class: self.class.name(), open, in_use, max }
    }
}

impl Connected {
    /// Closes the connection, even if a query is still running on it.
    async fn close(self) {
        drop(timeout(CLOSE_TIMEOUT, self.conn.disconnect()).await);
    }
}

impl Counted {
    fn new(of: &Arc<ClassConnections>) -> Self {
        of.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(of))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// The server that the connection leads to, and its kind. They are queried once.
    pub(super) async fn server(&mut self) -> Result<(ServerId, Dialect), ShardError> {
        if let Some(known) = self.connected.server {
            return Ok(known);
        }
        let dialect = Dialect::query(self).await?;
        let id: Vec<Row> = self.query(dialect.server_id()).await?;
        let server = (ServerId::of(&id), dialect);
        self.connected.server = Some(server);
        Ok(server)
    }

    /// Ends the use of the connection, which stays open for the next use if this one succeeded. If
    /// a connection that was idle fails, the server may have closed it: the result is `None`, and
    /// the caller repeats its work on another one.
    pub(super) async fn finish<T>(
        self,
        outcome: Result<T, ShardError>,
    ) -> Option<Result<T, ShardError>> {
        let Self { connected, place, is_new } = self;
        let of = Arc::clone(&connected.counted.0);
        if outcome.is_ok() && of.class.is_kept() {
            locked(&of.idle).push(connected);
        } else {
            connected.close().await;
        }
        drop(place);
        if !is_new && matches!(outcome, Err(ShardError::Unavailable(_))) {
            locked(&of.idle).clear();
            return None;
        }
        Some(outcome)
    }

    /// Closes the connection.
    pub(super) async fn close(self) {
        let Self { connected, place, .. } = self;
        connected.close().await;
        drop(place);
    }

    /// The connection for a stream, and its place, which must be held until the stream ends.
    pub(super) fn into_stream(self) -> (Conn, impl Sized + Send) {
        let Connected { conn, counted, .. } = self.connected;
        (conn, (counted, self.place))
    }
}

impl Deref for Lease {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.connected.conn
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.connected.conn
    }
}

/// Omits the options, because they hold the password.
impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections() -> Connections {
        let gate = Arc::new(Gate::new("db", 16));
        // Nothing listens on this port.
        let options = Opts::from_url("mysql://user@127.0.0.1:1/").unwrap();
        Connections::new(gate, Login::new(options, None))
    }

    #[tokio::test]
    async fn each_class_has_connections_of_its_own() {
        let connections = connections();
        let limits: Vec<(&str, usize)> =
            connections.stats().iter().map(|of| (of.class, of.max)).collect();
        let beside = [("doubt", 4), ("token", 1), ("fill", 3), ("heads", 1), ("feed", 2)];
        let expected = [&[("request", 16)], beside.as_slice(), &[("lookup", 2)]].concat();
        assert_eq!(limits, expected);
        assert!(Class::ALL.iter().all(|class| connections.class(*class).class == *class));

        let fills = &connections.class(Class::Fill).permits;
        let _all = fills.acquire_many(3).await.unwrap();
        let error = connections.lease(Class::Token).await.err().unwrap();
        assert!(error.to_string().contains("refused"), "{error}");
        let busy = |of: &ConnectionStats| (of.class == "fill").then_some(of.in_use);
        assert_eq!(connections.stats().iter().find_map(busy), Some(3));
        assert!(connections.stats().iter().all(|of| of.open == 0));
        let error = connections.lease(Class::Fill).await.err().unwrap();
        assert!(error.to_string().contains("`fill`"), "{error}");
    }
}
