//! Gives the project's own tests access to the sources that memory is filled from. It is not part
//! of the library's stable interface.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::changes::{Bounds, FeedEvent, LogIdentity, LogPosition};
use crate::model::ShardId;
use crate::shard::{Deadline, FillBatch, FillRequest, Fleet, HeadBatch, ShardError, Source};

/// A log of a fleet. Most methods call the method of the same name in `source.rs`.
#[derive(Clone, Debug)]
pub struct TestLog(Arc<Source>);

/// The logs of all shards: one per server, or one per file.
pub fn log_sources(fleet: &Fleet) -> Vec<TestLog> {
    fleet.sources().iter().map(|source| TestLog(Arc::clone(source))).collect()
}

#[expect(missing_docs, reason = "the methods are documented in source.rs")]
impl TestLog {
    pub fn name(&self) -> &str {
        self.0.name()
    }

    pub fn shards(&self) -> Vec<ShardId> {
        self.0.shards()
    }

    pub async fn follow(self, events: mpsc::Sender<Vec<FeedEvent>>) {
        self.0.follow(events).await;
    }

    pub async fn fill(
        &self,
        requests: &[FillRequest],
        until: Deadline,
    ) -> Result<FillBatch, ShardError> {
        self.0.fill(requests, until).await
    }

    pub async fn heads(
        &self,
        heads: mpsc::Sender<HeadBatch>,
    ) -> Result<(LogIdentity, Bounds), ShardError> {
        self.0.heads(heads).await
    }

    pub async fn end_of_log(
        &self,
        until: Deadline,
    ) -> Result<(LogIdentity, LogPosition), ShardError> {
        let end = self.0.log_end(until).await?;
        Ok((end.identity, end.end))
    }

    pub async fn visible(&self, until: Deadline) -> Result<(LogIdentity, LogPosition), ShardError> {
        let end = self.0.log_end(until).await?;
        Ok((end.identity, end.visible))
    }
}
