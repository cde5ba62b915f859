//! Follows the logs of a whole fleet.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Fleet, Source};
use crate::changes::FeedEvent;

/// Batches that wait to be taken, of one log and of all.
const BATCHES_WAITING: usize = 16;

/// What happens in the logs of a fleet, from now on and until this is dropped.
#[derive(Debug)]
pub struct Changes {
    events: mpsc::Receiver<(String, Vec<FeedEvent>)>,
    /// Two for each log; they end with this.
    _readers: JoinSet<()>,
}

impl Changes {
    /// The next events of one log, and the name of its server or shard. What is not taken waits,
    /// and whoever sends it too.
    pub async fn next(&mut self) -> Option<(String, Vec<FeedEvent>)> {
        self.events.recv().await
    }
}

impl Fleet {
    /// Follows the log of each server, or of each file. Every call reads the logs anew.
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
