//! The threads that write memory, one per log. They are not threads of the runtime, because a
//! writer visits all users now and then, and requests must not wait for that.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::error;

use super::{Applier, BATCHES_MAX};
use crate::memory::{Memory, Miss};
use crate::shard::Source;

/// Pause before a writer that has failed is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The writers of all logs. They end when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    /// Dropping it stops the threads.
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// The parts of one writer that remain when it starts again.
struct Writer {
    memory: Arc<Memory>,
    index: usize,
    source: Arc<Source>,
    queue: mpsc::Receiver<Miss>,
}

impl Writers {
    /// Starts the feed and the writer of each log.
    pub(crate) fn start(
        memory: &Arc<Memory>,
        sources: &[Arc<Source>],
        queues: Vec<mpsc::Receiver<Miss>>,
    ) -> Self {
        let (stop, stopped) = watch::channel(());
        let mut threads = Vec::new();
        for (index, (source, queue)) in sources.iter().zip(queues).enumerate() {
            source.issue_tokens();
            let (memory, source) = (Arc::clone(memory), Arc::clone(source));
            let (runtime, mut stopped) = (Handle::current(), stopped.clone());
            let name = format!("memory {}", source.name());
            let mut writer = Writer { memory, index, source, queue };
            let run = move || {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        _ = stopped.changed() => {}
                        () = writer.run() => {}
                    }
                });
            };
            match Builder::new().name(name).spawn(run) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    error!(%error, "Cannot start a thread; a log is not followed");
                }
            }
        }
        Self { stop: Some(stop), threads }
    }

    /// Ends all writers and waits for them.
    pub(crate) async fn close(&mut self) {
        self.stop = None;
        let threads = std::mem::take(&mut self.threads);
        // The writers catch their panics.
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        drop(tokio::task::spawn_blocking(join).await);
    }
}

impl Writer {
    /// Runs until it is dropped. A panic of the feed or of the writer costs what memory holds of
    /// the log.
    async fn run(&mut self) {
        loop {
            let (sender, events) = mpsc::channel(BATCHES_MAX);
            let feed = tokio::spawn(Arc::clone(&self.source).follow(sender));
            let (memory, source) = (Arc::clone(&self.memory), Arc::clone(&self.source));
            let applier = Applier::new(memory, self.index, source);
            let run = AssertUnwindSafe(applier.run(events, &mut self.queue)).catch_unwind();
            let failed = if run.await.is_err() { "the writer" } else { "the feed" };
            feed.abort();
            error!(
                server = self.source.name(),
                failed, "Task failed; memory of this log is empty and starts again in 1 s"
            );
            self.memory.clear(self.index);
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }
}
