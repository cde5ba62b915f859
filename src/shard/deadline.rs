//! One deadline for all that a request waits for: connections, greetings, queries, queues.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ShardError;

/// The moment by which an answer must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// Half of the time that is left: what one wave may take, so that a shard that stays silent
    /// does not use up the time of the waves behind it.
    pub fn half(self) -> Self {
        let now = Instant::now();
        Self(now + self.0.saturating_duration_since(now) / 2)
    }

    /// Whether it has passed.
    pub fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// The output of `work`, or `None` when the deadline comes first. The work is then dropped.
    pub async fn limit<T>(self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.0, work).await.ok()
    }

    /// The outcome of `work`; when the deadline comes first, whoever was asked is unavailable.
    pub(super) async fn in_time<T>(
        self,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let late = || Err(ShardError::Unavailable("no answer in time".into()));
        self.limit(work).await.unwrap_or_else(late)
    }
}
