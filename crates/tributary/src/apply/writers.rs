//! The tasks of memory: for each log a feed, which receives changes, and a writer, which applies
//! them. A writer has a thread of its own, because it visits all users now and then, and requests
//! must not wait for that.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::error;

use super::{Applier, BATCHES_MAX};
use crate::changes::FeedEvent;
use crate::memory::{Memory, Miss};
use crate::shard::Source;
use crate::tasks::Tasks;

type Events = mpsc::Receiver<Vec<FeedEvent>>;

/// Starts the feed and the writer of each log on the current runtime.
pub(crate) fn start(
    memory: &Arc<Memory>,
    sources: &[Arc<Source>],
    queues: Vec<mpsc::Receiver<Miss>>,
    tasks: &Tasks,
) {
    for (index, (source, queue)) in sources.iter().zip(queues).enumerate() {
        source.issue_tokens();
        let (feeds, started) = mpsc::channel(1);
        let mut writer = Writer {
            memory: Arc::clone(memory),
            index,
            source: Arc::clone(source),
            queue,
            feeds: started,
            runtime: Handle::current(),
        };
        let write = async move || writer.run().await;
        if let Err(error) = tasks.spawn_thread("memory", source.name(), write) {
            error!(%error, "Cannot start a thread; a log is not followed");
            continue;
        }
        let followed = Arc::clone(source);
        tasks.spawn("feed", source.name(), move || feed(Arc::clone(&followed), feeds.clone()));
    }
}

/// Delivers the log to one writer after the other.
async fn feed(source: Arc<Source>, feeds: mpsc::Sender<Events>) {
    loop {
        let (sender, events) = mpsc::channel(BATCHES_MAX);
        if feeds.send(events).await.is_err() {
            return;
        }
        // It returns once the writer has dropped `events`.
        Arc::clone(&source).follow(sender).await;
    }
}

/// The parts of one writer that remain when it starts again.
struct Writer {
    memory: Arc<Memory>,
    index: usize,
    source: Arc<Source>,
    queue: mpsc::Receiver<Miss>,
    feeds: mpsc::Receiver<Events>,
    /// Runs the reads of the databases.
    runtime: Handle,
}

impl Writer {
    /// Runs until the feed has ended. A panic of either costs what memory holds of the log.
    async fn run(&mut self) {
        while let Some(events) = self.feeds.recv().await {
            let (memory, source) = (Arc::clone(&self.memory), Arc::clone(&self.source));
            let applier = Applier::new(memory, self.index, source, Some(self.runtime.clone()));
            let run = AssertUnwindSafe(applier.run(events, &mut self.queue)).catch_unwind();
            let outcome = run.await;
            self.memory.clear(self.index);
            if let Err(panic) = outcome {
                resume_unwind(panic);
            }
        }
    }
}
