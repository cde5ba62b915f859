//! The gate of a server: a circuit breaker with a bounded queue. It limits the requests that run
//! and wait, gives each a deadline, and rejects all of them while the server is out of service.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tracing::{error, info, warn};

use super::{Deadline, ShardError};

/// This many consecutive failures close the gate. One unlucky query does not, and a dead server is
/// taken out of service before its requests pile up.
const FAILURES_MAX: u32 = 3;
/// Waiting requests per permit. A request further back in the queue would miss its deadline
/// anyway.
const WAITING_PER_PERMIT: usize = 16;
const OUT_OF_SERVICE: &str = "Server is out of service; it is retried every second";

/// The gate of one server.
#[derive(Debug)]
pub(super) struct Gate {
    server: String,
    permits: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
    state: Mutex<GateState>,
    /// Wakes the supervisor when the gate closes.
    closed: Notify,
}

/// Whether the server has answered at least one statement of a request that sends several.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicBool);

impl Progress {
    /// Records that the server answered a statement.
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
            permits: Semaphore::new(permits),
            waiting: AtomicUsize::new(0),
            waiting_max: permits * WAITING_PER_PERMIT,
            state: Mutex::new(GateState::Closed { reason: "not reached yet".into() }),
            closed: Notify::new(),
        }
    }

    /// Waits for a permit and runs `work`, both until the deadline.
    ///
    /// Only [`ShardError::Unavailable`] without `progress` counts as a failure of the server. Late
    /// work with progress was too much for its time.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] if the gate is closed, its queue is full or the deadline
    /// passes; else the error of `work`.
    pub(super) async fn pass<T>(
        &self,
        until: Deadline,
        progress: &Progress,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let _permit = self.enter(until).await?;
        let outcome = until.in_time(work).await;
        match &outcome {
            Err(error @ ShardError::Unavailable(_)) if !progress.is_made() => {
                self.note_failure(error);
            }
            // Any other error is an answer, so the server is alive.
            Ok(_) | Err(_) => self.note_success(),
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
        let Ok(_permit) = self.enter(until).await else { return };
        if let Err(error @ ShardError::Unavailable(_)) = until.in_time(work).await {
            self.note_failure(&error);
        }
    }

    /// Waits for a permit, if the gate is open.
    async fn enter(&self, until: Deadline) -> Result<SemaphorePermit<'_>, ShardError> {
        self.health().map_err(ShardError::Unavailable)?;
        let _place = self.queue()?;
        match until.limit(self.permits.acquire()).await {
            Some(Ok(permit)) => Ok(permit),
            Some(Err(_)) | None => Err(ShardError::Unavailable("its queue is too slow".into())),
        }
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
            ShardError::Unavailable(_) | ShardError::Slow(_) => {
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

    fn queue(&self) -> Result<QueuePlace<'_>, ShardError> {
        let place = QueuePlace(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            return Err(ShardError::Unavailable("its queue is full".into()));
        }
        Ok(place)
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, released on drop.
struct QueuePlace<'a>(&'a AtomicUsize);

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(20))
    }

    async fn fail(gate: &Gate) -> ShardError {
        let work = async { Err::<(), _>(ShardError::Unavailable("cut".into())) };
        gate.pass(soon(), &Progress::default(), work).await.unwrap_err()
    }

    #[tokio::test]
    async fn only_consecutive_failures_close_the_gate() {
        let gate = Gate::new("db", 2);
        assert!(fail(&gate).await.to_string().contains("not reached yet"));
        gate.open();
        for _ in 0..5 {
            fail(&gate).await;
            fail(&gate).await;
            gate.pass(soon(), &Progress::default(), async { Ok(()) }).await.unwrap();
        }
        for _ in 0..FAILURES_MAX {
            assert!(gate.health().is_ok());
            fail(&gate).await;
        }
        assert!(gate.health().unwrap_err().contains("cut"));
        gate.wait_closed().await;
        gate.open();
        gate.pass(soon(), &Progress::default(), async { Ok(()) }).await.unwrap();
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline_and_the_queue_is_bounded() {
        let gate = Gate::new("db", 1);
        gate.open();
        let silent = std::future::pending::<Result<(), ShardError>>();
        let error = gate.pass(soon(), &Progress::default(), silent).await.unwrap_err();
        assert!(error.to_string().contains("no answer in time"), "{error}");

        gate.open();
        let progress = Progress::default();
        progress.note();
        for _ in 0..=FAILURES_MAX {
            let silent = std::future::pending::<Result<(), ShardError>>();
            gate.pass(soon(), &progress, silent).await.unwrap_err();
        }
        assert!(
            gate.health().is_ok(),
            "work that is late but makes progress must not close the gate"
        );

        let places: Vec<_> = (0..WAITING_PER_PERMIT).map(|_| gate.queue().unwrap()).collect();
        assert!(gate.queue().is_err());
        drop(places);
        assert!(gate.queue().is_ok());
    }
}
