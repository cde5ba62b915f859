//! The gate of a server: a circuit breaker in front of the server's queue. It gives each request a
//! deadline, and rejects all of them while the server is out of service.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::queue::{Permit, Queue, QueueStats, Turn};
use super::{Deadline, ShardError};

/// This many consecutive failures close the gate. One unlucky query does not, and a dead server is
/// taken out of service before its requests pile up.
const FAILURES_MAX: u32 = 3;
/// A request that had less time than this for the server says nothing about the server.
const COUNTED_FROM: Duration = Duration::from_millis(250);
const OUT_OF_SERVICE: &str = "Server is out of service; it is retried every second";

/// The gate of one server.
#[derive(Debug)]
pub(super) struct Gate {
    server: String,
    queue: Queue,
    /// The number of statements that the server has answered for reads.
    read_statements: AtomicU64,
    state: Mutex<GateState>,
    /// Wakes the supervisor when the gate closes.
    closed: Notify,
}

/// The answers of the server to one request.
#[derive(Debug, Default)]
pub(super) struct Progress {
    statements: AtomicU64,
    rows: AtomicU64,
}

impl Progress {
    /// Records that the server answered a statement.
    pub(super) fn note(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that the server answered a query with this many rows.
    pub(super) fn note_rows(&self, rows: usize) {
        self.note();
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// The answered statements, and their rows.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.statements.load(Ordering::Relaxed), self.rows.load(Ordering::Relaxed))
    }

    fn is_made(&self) -> bool {
        self.counts().0 > 0
    }
}

#[derive(Debug)]
enum GateState {
    /// Requests pass. `failures` counts consecutive failures.
    Open { failures: u32 },
    /// Requests are rejected at once, until the supervisor has reached and checked the server.
    Closed { reason: String },
}

impl Gate {
    /// A closed gate with `permits` concurrent requests. The first successful check opens it.
    pub(super) fn new(server: &str, permits: usize) -> Self {
        Self {
            server: server.to_owned(),
            queue: Queue::new(server, permits),
            read_statements: AtomicU64::new(0),
            state: Mutex::new(GateState::Closed { reason: "not reached yet".into() }),
            closed: Notify::new(),
        }
    }

    /// Counts the statements of a read.
    pub(super) fn count_read(&self, progress: &Progress) {
        self.read_statements.fetch_add(progress.counts().0, Ordering::Relaxed);
    }

    /// The figures of this moment.
    pub(super) fn stats(&self) -> QueueStats<'_> {
        let read_statements = self.read_statements.load(Ordering::Relaxed);
        QueueStats { read_statements, in_service: self.health().is_ok(), ..self.queue.stats() }
    }

    /// Waits for a permit until half of the time is gone, then runs `work` until the deadline.
    ///
    /// # Errors
    /// As [`Gate::enter`] and [`Gate::observe`].
    pub(super) async fn pass<T>(
        &self,
        until: Deadline,
        progress: &Progress,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let _permit = self.enter(Turn::Next, until.half()).await?;
        self.observe(until, progress, work).await
    }

    /// Waits for a permit, if the gate is open.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] if the gate is closed, else as [`Queue::enter`].
    pub(super) async fn enter(
        &self,
        turn: Turn,
        until: Deadline,
    ) -> Result<Permit<'_>, ShardError> {
        self.health().map_err(ShardError::Unavailable)?;
        let permit = self.queue.enter(turn, until).await?;
        // It may have closed during the wait.
        self.health().map_err(ShardError::Unavailable)?;
        Ok(permit)
    }

    /// Runs `work` of a request that has a permit, until the deadline.
    ///
    /// Only [`ShardError::Unavailable`] without `progress` counts as a failure of the server, and
    /// only if the request had at least 250 ms. Late work with progress was too much for its time.
    /// If the server has refused a connection because of a limit, it is alive.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] at the deadline, else the error of `work`.
    pub(super) async fn observe<T>(
        &self,
        until: Deadline,
        progress: &Progress,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let (is_counted, since) = (until.remaining() >= COUNTED_FROM, Instant::now());
        let outcome = until.in_time(work).await;
        match &outcome {
            Err(error @ ShardError::Unavailable(_)) if !progress.is_made() => {
                if is_counted && !self.queue.was_refused_since(since) {
                    self.note_failure(error);
                }
            }
            Err(ShardError::Overloaded(reason)) => self.queue.note_limited(reason),
            // Any other error is an answer, so the server is alive.
            Ok(_) | Err(_) => self.note_success(),
        }
        outcome
    }

    /// Runs a read that is repeated in another way if it fails: a failure does not count.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] at the deadline, else the error of `work`.
    pub(super) async fn attempt<T>(
        &self,
        until: Deadline,
        progress: &Progress,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let outcome = until.in_time(work).await;
        self.count_read(progress);
        if outcome.is_ok() {
            self.note_success();
        }
        outcome
    }

    /// Runs the supervisor's `work`. A failure counts; a success does not reset the counter,
    /// because requests may still fail.
    pub(super) async fn probe(
        &self,
        until: Deadline,
        work: impl Future<Output = Result<(), ShardError>>,
    ) {
        let Ok(_permit) = self.enter(Turn::Next, until.half()).await else { return };
        let since = Instant::now();
        if let Err(error @ ShardError::Unavailable(_)) = until.in_time(work).await
            && !self.queue.was_refused_since(since)
        {
            self.note_failure(&error);
        }
    }

    /// The queue of the server.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The name of the server.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// `Ok` if requests pass, else the reason.
    pub(super) fn health(&self) -> Result<(), String> {
        match &*self.state() {
            GateState::Open { .. } => Ok(()),
            GateState::Closed { reason } => Err(reason.clone()),
        }
    }

    /// Opens the gate, after the server was reached and its checks passed.
    pub(super) fn open(&self) {
        let before = std::mem::replace(&mut *self.state(), GateState::Open { failures: 0 });
        if matches!(before, GateState::Closed { .. }) {
            info!(server = self.server, "Server is in service");
        }
    }

    /// Closes the gate because of `reason`. Logs once per reason.
    pub(super) fn close(&self, reason: &ShardError) {
        let text = reason.to_string();
        let mut state = self.state();
        if matches!(&*state, GateState::Closed { reason } if *reason == text) {
            return;
        }
        match reason {
            ShardError::Unavailable(_) | ShardError::Overloaded(_) | ShardError::Slow(_) => {
                warn!(server = self.server, reason = text, "{OUT_OF_SERVICE}");
            }
            ShardError::Faulty(_)
            | ShardError::ReadOnly(_)
            | ShardError::Unreadable(_)
            | ShardError::Refused(_)
            | ShardError::Full(_)
            | ShardError::InDoubt(_) => {
                error!(server = self.server, reason = text, "{OUT_OF_SERVICE}");
            }
        }
        *state = GateState::Closed { reason: text };
        self.closed.notify_one();
    }

    /// Waits until the gate is closed.
    pub(super) async fn wait_closed(&self) {
        while self.health().is_ok() {
            // `notify_one` stores a permit, so a close before this line is not lost.
            self.closed.notified().await;
        }
    }

    fn note_success(&self) {
        if let GateState::Open { failures } = &mut *self.state() {
            *failures = 0;
        }
    }

    fn note_failure(&self, error: &ShardError) {
        let close = match &mut *self.state() {
            GateState::Open { failures } => {
                *failures += 1;
                *failures >= FAILURES_MAX
            }
            GateState::Closed { .. } => false,
        };
        if close {
            self.close(error);
        }
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough time for a failure to count.
    fn counted() -> Deadline {
        Deadline::after(COUNTED_FROM * 2)
    }

    async fn fail(gate: &Gate, until: Deadline) -> ShardError {
        let work = async { Err::<(), _>(ShardError::Unavailable("cut".into())) };
        gate.pass(until, &Progress::default(), work).await.unwrap_err()
    }

    #[tokio::test]
    async fn only_consecutive_failures_close_the_gate() {
        let gate = Gate::new("db", 2);
        assert!(fail(&gate, counted()).await.to_string().contains("not reached yet"));
        gate.open();
        for _ in 0..5 {
            fail(&gate, counted()).await;
            fail(&gate, counted()).await;
            gate.pass(counted(), &Progress::default(), async { Ok(()) }).await.unwrap();
        }
        for _ in 0..FAILURES_MAX {
            assert!(gate.health().is_ok());
            fail(&gate, counted()).await;
        }
        assert!(gate.health().unwrap_err().contains("cut"));
        gate.wait_closed().await;
        gate.open();
        gate.pass(counted(), &Progress::default(), async { Ok(()) }).await.unwrap();
    }

    #[tokio::test]
    async fn silence_counts_only_if_the_request_had_time_and_made_no_progress() {
        let gate = Gate::new("db", 1);
        gate.open();
        let silent = || std::future::pending::<Result<(), ShardError>>();
        let short = || Deadline::after(Duration::from_millis(10));
        for _ in 0..=FAILURES_MAX {
            let error = gate.pass(short(), &Progress::default(), silent()).await.unwrap_err();
            assert!(error.to_string().contains("no answer in time"), "{error}");
            fail(&gate, short()).await;
        }
        let progress = Progress::default();
        progress.note();
        let refused = || async { Err::<(), _>(ShardError::Overloaded("1040".into())) };
        for _ in 0..=FAILURES_MAX {
            gate.pass(counted(), &Progress::default(), refused()).await.unwrap_err();
            let late = async { Err::<(), _>(ShardError::Unavailable("late".into())) };
            gate.pass(counted(), &progress, late).await.unwrap_err();
            let limited = async {
                gate.queue().note_refused();
                silent().await
            };
            gate.pass(counted(), &Progress::default(), limited).await.unwrap_err();
        }
        assert!(gate.health().is_ok(), "overload closed the gate");
    }
}
