//! A SQLite file as the source of memory: its log, and reads whose place in the log is known.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::changes::{Bounds, FeedEvent, History, LogPosition};
use crate::model::ShardId;
use crate::shard::source::{Filled, Heads, Wish};
use crate::shard::{Deadline, Shard, ShardError};

/// One file, which is one shard.
#[derive(Debug)]
pub(in crate::shard) struct SqliteSource {
    id: ShardId,
    shard: Arc<Shard>,
}

impl SqliteSource {
    pub(in crate::shard) fn new(id: ShardId, shard: Arc<Shard>) -> Self {
        Self { id, shard }
    }

    pub(in crate::shard) fn name(&self) -> &str {
        self.shard.name()
    }

    pub(in crate::shard) fn shards(&self) -> Vec<ShardId> {
        vec![self.id]
    }

    pub(in crate::shard) async fn follow(&self, events: mpsc::Sender<Vec<FeedEvent>>) {
        events.closed().await;
    }

    pub(in crate::shard) async fn fill(
        &self,
        _wishes: &[Wish],
        _until: Deadline,
    ) -> Result<Filled, ShardError> {
        Err(ShardError::Unavailable("not yet".into()))
    }

    pub(in crate::shard) async fn heads(
        &self,
        _heads: mpsc::Sender<Heads>,
    ) -> Result<(History, Bounds), ShardError> {
        Err(ShardError::Unavailable("not yet".into()))
    }

    pub(in crate::shard) async fn end_of_log(
        &self,
        _until: Deadline,
    ) -> Result<(History, LogPosition), ShardError> {
        Err(ShardError::Unavailable("not yet".into()))
    }

    pub(in crate::shard) async fn visible(
        &self,
        _until: Deadline,
    ) -> Result<(History, LogPosition), ShardError> {
        Err(ShardError::Unavailable("not yet".into()))
    }
}
