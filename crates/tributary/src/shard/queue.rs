//! The queue of a server: which requests use its connections, and in which order.
//!
//! A page has at most one permit per server that it waits for, however many of its shards are on
//! the server. A page that has not read anything waits at the *door*, which lets one page at a time
//! wait for a permit. Everything else waits for permits only: pages that have begun, and writes. So
//! an overloaded server finishes the pages that it has begun, and the others wait or are rejected.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};

use super::{Deadline, ShardError};
use crate::problems::{ProblemCause, Problems};

/// Requests of each [`Turn`] that may wait, per permit. By default 1,024 pages wait for a server,
/// which answers them within their deadline if each keeps a connection busy for 15 ms.
const WAITING_PER_PERMIT: usize = 64;
/// After the server has refused a connection, no other one is tried for this long.
const REDUCED_FOR: Duration = Duration::from_secs(10);

/// Whether a request has already read something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The request begins, so nothing is lost if it is rejected.
    First,
    /// The request continues, or is a write.
    Next,
}

impl Turn {
    /// The end of the wait for a permit, for a page with this deadline.
    pub(super) fn patience(self, deadline: Deadline) -> Deadline {
        match self {
            Self::First => deadline.most(),
            Self::Next => deadline.half(),
        }
    }
}

/// The permits of one server, and the requests that wait for them.
#[derive(Debug)]
pub(super) struct Queue {
    server: String,
    permits: Semaphore,
    door: Semaphore,
    /// The waiting requests of each turn.
    waiting: [AtomicUsize; 2],
    waiting_max: usize,
    /// The permits that were given, and the microseconds that requests waited for them.
    given: AtomicU64,
    waited_us: AtomicU64,
    allowed: Mutex<Allowed>,
    problems: Problems,
}

/// The state of a server's gate and queue, for metrics.
#[derive(Clone, Debug)]
pub struct QueueStats<'a> {
    /// The number of statements that the server has answered for reads.
    pub read_statements: u64,
    /// The configured name of the server.
    pub server: &'a str,
    /// Whether requests are sent to the server.
    pub in_service: bool,
    /// The connections that requests may use; fewer than configured if the server refused one.
    pub connections: usize,
    /// The requests that got a connection since the start.
    pub served: u64,
    /// The time that these requests waited for it, all together.
    pub waited: Duration,
    /// The requests that wait for a connection.
    pub waiting: usize,
    /// The requests that were rejected since the start.
    pub rejected: u64,
}

/// The connections of one class, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionStats {
    /// The class.
    pub class: &'static str,
    /// Open connections.
    pub open: usize,
    /// Connections in use, including those that are being opened.
    pub in_use: usize,
    /// The most that may be in use.
    pub max: usize,
}

/// How many permits there are.
#[derive(Debug)]
struct Allowed {
    now: usize,
    max: usize,
    /// Permits that end when they are returned.
    surplus: usize,
    /// When the server last refused a connection.
    refused: Option<Instant>,
}

/// The right to use one connection of the server.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    queue: &'a Queue,
    permit: Option<SemaphorePermit<'a>>,
}

impl Queue {
    pub(super) fn new(server: &str, permits: usize) -> Self {
        Self {
            server: server.to_owned(),
            permits: Semaphore::new(permits),
            door: Semaphore::new(1),
            waiting: Default::default(),
            waiting_max: permits * WAITING_PER_PERMIT,
            given: AtomicU64::new(0),
            waited_us: AtomicU64::new(0),
            allowed: Mutex::new(Allowed { now: permits, max: permits, surplus: 0, refused: None }),
            problems: Problems::default(),
        }
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// [`ShardError::Overloaded`] if the queue is full or `until` passes.
    pub(super) async fn enter(
        &self,
        turn: Turn,
        until: Deadline,
    ) -> Result<Permit<'_>, ShardError> {
        if until.is_over() {
            return Err(self.reject("no time was left"));
        }
        let Some(_place) = self.place(turn) else { return Err(self.reject("the queue was full")) };
        let arrived = Instant::now();
        let permit = async {
            let _door = match turn {
                Turn::First => Some(self.door.acquire().await),
                Turn::Next => None,
            };
            self.permits.acquire().await
        };
        match until.limit(permit).await {
            Some(Ok(permit)) => {
                let waited = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.given.fetch_add(1, Ordering::Relaxed);
                self.waited_us.fetch_add(waited, Ordering::Relaxed);
                Ok(Permit { queue: self, permit: Some(permit) })
            }
            Some(Err(_)) | None => Err(self.reject("the wait was too long")),
        }
    }

    /// A permit, if one is free.
    pub(super) fn try_enter(&self) -> Option<Permit<'_>> {
        let permit = self.permits.try_acquire().ok()?;
        Some(Permit { queue: self, permit: Some(permit) })
    }

    /// Whether any request waits.
    pub(super) fn is_contended(&self) -> bool {
        self.waiting() > 0
    }

    /// The figures of this moment, without those of the gate.
    pub(super) fn stats(&self) -> QueueStats<'_> {
        let connections = self.allowed().now;
        QueueStats {
            read_statements: 0,
            server: &self.server,
            in_service: true,
            connections,
            served: self.given.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.waited_us.load(Ordering::Relaxed)),
            waiting: self.waiting(),
            rejected: self.problems.count(ProblemCause::Overloaded),
        }
    }

    /// The number of requests that wait.
    fn waiting(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.load(Ordering::Relaxed)).sum()
    }

    /// Whether the server has refused a connection, so that there are fewer permits than usual.
    pub(super) fn is_reduced(&self) -> bool {
        let allowed = self.allowed();
        allowed.now < allowed.max
    }

    /// Takes one permit away, because the server refuses another connection for `reason`. Returns
    /// false if only one is left.
    pub(super) fn shrink(&self, reason: &str) -> bool {
        let mut allowed = self.allowed();
        let first = allowed.now == allowed.max;
        allowed.refused = Some(Instant::now());
        if allowed.now == 1 {
            return false;
        }
        allowed.now -= 1;
        allowed.surplus += 1;
        drop(allowed);
        if first && self.problems.note(ProblemCause::ConnectionsRefused) {
            warn!(
                server = self.server,
                reason,
                "Server refuses more connections; using those that are open. Raise the limit, or \
                 lower connections_max of this server"
            );
        }
        true
    }

    /// Records that the server has refused a connection.
    pub(super) fn note_refused(&self) {
        self.allowed().refused = Some(Instant::now());
    }

    /// Whether the server has refused a connection since then.
    pub(super) fn was_refused_since(&self, since: Instant) -> bool {
        self.allowed().refused.is_some_and(|at| at >= since)
    }

    /// Gives one permit back, if the server has not refused a connection lately.
    pub(super) fn grow(&self) {
        let mut allowed = self.allowed();
        let lately = allowed.refused.is_some_and(|at| at.elapsed() < REDUCED_FOR);
        if allowed.now == allowed.max || lately {
            return;
        }
        allowed.now += 1;
        if allowed.surplus > 0 {
            allowed.surplus -= 1;
        } else {
            self.permits.add_permits(1);
        }
        if allowed.now == allowed.max {
            info!(server = self.server, "Server accepts all connections again");
        }
    }

    /// The server has refused a statement because of a limit of the account.
    pub(super) fn note_limited(&self, reason: &str) {
        if self.problems.note(ProblemCause::ConnectionsRefused) {
            warn!(
                server = self.server,
                reason,
                "Server refuses statements because of a limit; its shards are missing from pages. \
                 Raise the limit of the account"
            );
        }
    }

    pub(super) fn problems(&self) -> &Problems {
        &self.problems
    }

    fn reject(&self, reason: &'static str) -> ShardError {
        if self.problems.note(ProblemCause::Overloaded) {
            warn!(
                server = self.server,
                reason,
                rejected = self.problems.count(ProblemCause::Overloaded),
                waiting = self.waiting(),
                "Server is overloaded; requests are rejected. Add servers, or raise its \
                 connections_max if it has capacity left"
            );
        }
        ShardError::Overloaded(format!("the server is overloaded: {reason}"))
    }

    fn place(&self, turn: Turn) -> Option<Place<'_>> {
        let waiting = &self.waiting[turn as usize];
        let place = Place(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < self.waiting_max).then_some(place)
    }

    fn allowed(&self) -> MutexGuard<'_, Allowed> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut allowed = self.queue.allowed();
        if allowed.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            allowed.surplus -= 1;
            permit.forget();
        }
    }
}

/// A place among the waiting requests, released on drop.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A request that notes its name when it gets its permit, and then returns the permit.
    fn request(
        queue: &Arc<Queue>,
        done: &Arc<Mutex<Vec<&'static str>>>,
        turn: Turn,
        name: &'static str,
    ) -> JoinHandle<()> {
        let (queue, done) = (Arc::clone(queue), Arc::clone(done));
        tokio::spawn(async move {
            let _permit = queue.enter(turn, Deadline::after(LONG)).await.unwrap();
            done.lock().unwrap().push(name);
        })
    }

    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_page_that_has_begun_passes_those_that_wait_at_the_door() {
        let (queue, done) = (Arc::new(Queue::new("db", 1)), Arc::default());
        let held = queue.enter(Turn::First, Deadline::after(LONG)).await.unwrap();
        let mut tasks = Vec::new();
        for (turn, name) in [
            (Turn::First, "new 1"),
            (Turn::First, "new 2"),
            (Turn::First, "new 3"),
            (Turn::Next, "begun 1"),
            (Turn::Next, "begun 2"),
        ] {
            tasks.push(request(&queue, &done, turn, name));
            settle().await;
        }
        assert_eq!(queue.waiting(), 5);
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        let expected = ["new 1", "begun 1", "begun 2", "new 2", "new 3"];
        assert_eq!(*done.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_full_queue_and_a_late_request_are_rejected_and_counted() {
        let queue = Queue::new("db", 1);
        let places: Vec<_> =
            (0..WAITING_PER_PERMIT).map(|_| queue.place(Turn::First).unwrap()).collect();
        let error = queue.enter(Turn::First, Deadline::after(LONG)).await.unwrap_err();
        assert!(error.to_string().contains("queue was full"), "{error}");
        // New pages do not take the places of those that have begun.
        let permit = queue.enter(Turn::Next, Deadline::after(LONG)).await.unwrap();
        drop(places);
        let soon = Deadline::after(Duration::from_millis(10));
        let error = queue.enter(Turn::First, soon).await.unwrap_err();
        assert!(matches!(error, ShardError::Overloaded(_)), "{error}");
        assert!(queue.enter(Turn::Next, soon).await.is_err());
        assert_eq!((queue.stats().rejected, queue.waiting()), (3, 0));
        drop(permit);
        queue.enter(Turn::First, Deadline::after(LONG)).await.unwrap();
    }

    #[tokio::test]
    async fn refused_connections_reduce_the_permits_to_one_at_least() {
        let queue = Queue::new("db", 3);
        let first = queue.try_enter().unwrap();
        assert!(queue.shrink("too many connections"));
        assert!(queue.shrink("too many connections"));
        assert!(!queue.shrink("too many connections"));
        drop(first);
        let (second, third) = (queue.try_enter().unwrap(), queue.try_enter().unwrap());
        drop((second, third));
        assert!(queue.is_reduced());
        assert_eq!(queue.stats().connections, 1);
        let only = queue.try_enter().unwrap();
        assert!(queue.try_enter().is_none());
        queue.grow();
        assert!(queue.try_enter().is_none(), "it grows only after a pause");
        queue.allowed().refused = None;
        queue.grow();
        assert!(queue.try_enter().is_some());
        drop(only);
        assert_eq!(queue.stats().connections, 2);
    }
}
