//! The change feed of a whole fleet: the logs of all its servers, or of all its files.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Fleet, Source};
use crate::changes::FeedEvent;

/// Batches that may wait for the receiver: this many per log, and this many for all logs together.
const BATCHES_WAITING: usize = 16;

/// Receives the events of all logs of a fleet, from now on. The feed ends when this is dropped.
#[derive(Debug)]
pub struct Changes {
    events: mpsc::Receiver<(String, Vec<FeedEvent>)>,
    /// Two tasks per log. They are aborted when this is dropped.
    _readers: JoinSet<()>,
}

impl Changes {
    /// The next batch of events of one log, with the name of its server or shard.
    ///
    /// If the caller is slow, a bounded number of batches waits, and then reading the logs pauses.
    pub async fn next(&mut self) -> Option<(String, Vec<FeedEvent>)> {
        self.events.recv().await
    }
}

impl Fleet {
    /// Follows the log of each server, or of each file. Every call starts a feed of its own.
    pub fn follow_changes(&self) -> Changes {
        let (sender, events) = mpsc::channel(BATCHES_WAITING);
        let mut readers = JoinSet::new();
        for source in self.sources() {
            let (batches, received) = mpsc::channel(BATCHES_WAITING);
            readers.spawn(Arc::clone(source).follow(batches));
            readers.spawn(forward(Arc::clone(source), received, sender.clone()));
        }
        Changes { events, _readers: readers }
    }
}

async fn forward(
    source: Arc<Source>,
    mut batches: mpsc::Receiver<Vec<FeedEvent>>,
    events: mpsc::Sender<(String, Vec<FeedEvent>)>,
) {
    while let Some(batch) = batches.recv().await {
        if events.send((source.name().to_owned(), batch)).await.is_err() {
            return;
        }
    }
}
