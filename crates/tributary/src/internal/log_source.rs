//! Gives the project's own tests access to the sources that memory is filled from. It is not part
//! of the library's stable interface.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::changes::{Bounds, FeedEvent, LogIdentity, LogPosition};
use crate::cursor::AuthorEdge;
use crate::model::{Direction, PostKey, ShardId, UserId};
use crate::shard::{
    Deadline, FillBatch, FillRequest, Fleet, HeadBatch, Shard, ShardError, Source, TailQuery, Turn,
};

/// A log of a fleet. Most methods call the method of the same name in `source.rs`.
#[derive(Clone, Debug)]
pub struct TestLog(Arc<Source>);

impl TestLog {
    /// The logs of all shards: one per server, or one per file.
    pub fn all(fleet: &Fleet) -> Vec<Self> {
        fleet.sources().iter().map(|source| Self(Arc::clone(source))).collect()
    }

    /// Reads the newest `count` keys of each author, all of one shard, as a page without memory
    /// reads them.
    ///
    /// # Errors
    /// The shard, if it does not answer.
    pub async fn read_newest(
        fleet: &Fleet,
        shard: ShardId,
        authors: &[UserId],
        count: u16,
    ) -> Result<Vec<PostKey>, ShardId> {
        let from = AuthorEdge::Top;
        let query = |author: &UserId| TailQuery { author: *author, from, count };
        let work = BTreeMap::from([(shard, authors.iter().map(query).collect::<Vec<_>>())]);
        let call = |shard: Arc<Shard>, queries: Vec<TailQuery>, until| async move {
            shard.tails(Direction::Older, &queries, until).await
        };
        let read = fleet.scatter(work, Turn::First, fleet.read_deadline(), call);
        read.await.answers.into_iter().next().ok_or(shard)
    }
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
        within: Duration,
    ) -> Result<FillBatch, ShardError> {
        self.0.fill(requests, usize::MAX, Deadline::after(within)).await
    }

    pub async fn heads(
        &self,
        heads: mpsc::Sender<HeadBatch>,
    ) -> Result<(LogIdentity, Bounds), ShardError> {
        let read = self.0.heads(&self.0.shards(), heads).await?;
        match read.failed.into_iter().next() {
            Some((_, reason)) => Err(ShardError::Unavailable(reason)),
            None => Ok((read.identity, read.bounds)),
        }
    }

    pub async fn end_of_log(
        &self,
        within: Duration,
    ) -> Result<(LogIdentity, LogPosition), ShardError> {
        let end = self.0.log_end(Deadline::after(within)).await?;
        Ok((end.identity, end.end))
    }

    pub async fn visible(
        &self,
        within: Duration,
    ) -> Result<(LogIdentity, LogPosition), ShardError> {
        let end = self.0.log_end(Deadline::after(within)).await?;
        Ok((end.identity, end.visible))
    }
}
