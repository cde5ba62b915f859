//! One deadline for everything a request waits for: queues, connections, logins, queries.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ShardError;

/// The moment by which a request must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// The moment `span` before this one.
    pub(crate) fn earlier(self, span: Duration) -> Self {
        Self(self.0.checked_sub(span).unwrap_or(self.0))
    }

    /// The deadline of one wave: half of the remaining time. So a silent shard cannot use up the
    /// time of the waves after it.
    pub fn half(self) -> Self {
        let now = Instant::now();
        Self(now + self.0.saturating_duration_since(now) / 2)
    }

    /// Three quarters of the remaining time: the longest wait of a page that has not begun. The
    /// rest suffices to read it, because a page that has begun hardly waits.
    pub(super) fn most(self) -> Self {
        let now = Instant::now();
        Self(now + self.0.saturating_duration_since(now) * 3 / 4)
    }

    /// The time until the deadline.
    pub(super) fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the deadline has passed.
    pub fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// The output of `work`. At the deadline `work` is dropped and the result is `None`.
    pub async fn limit<T>(self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.0, work).await.ok()
    }

    /// The outcome of `work`. At the deadline `work` is dropped and the result is
    /// [`ShardError::Unavailable`].
    pub(super) async fn in_time<T>(
        self,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let late = || Err(ShardError::Unavailable("no answer in time".into()));
        self.limit(work).await.unwrap_or_else(late)
    }
}
