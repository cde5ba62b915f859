//! A writer for benchmarks: the caller hands it the fills and the log events. It queries no
//! database.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Applier;
use super::entry::CacheKey;
use crate::changes::{Bounds, FeedEvent, LogIdentity, LogPosition};
use crate::clock::now_ms;
use crate::memory::{Installed, Memory, Miss, Slot};
use crate::model::UserId;
use crate::shard::{FillAnswer, FillRequest, FillTarget, Source};

/// The writer of the first log.
pub(crate) struct HandedWriter {
    applier: Applier,
    queue: mpsc::Receiver<Miss>,
}

impl HandedWriter {
    /// Starts a log identity of its own. No author has posts yet, so all heads are known.
    pub(crate) fn new(
        memory: &Arc<Memory>,
        source: &Arc<Source>,
        queue: mpsc::Receiver<Miss>,
    ) -> Self {
        let mut applier = Applier::new(Arc::clone(memory), 0, Arc::clone(source));
        applier.begin(LogIdentity(1), LogPosition(1));
        applier.install_heads(Vec::new());
        Self { applier, queue }
    }

    /// Renews the lease: everything committed so far was handed to this writer.
    pub(crate) fn renew(&self) {
        let memory = &self.applier.memory;
        self.applier.log().renew(memory.now_ms(), now_ms());
    }

    /// Applies a batch of feed events.
    pub(crate) fn take(&mut self, batch: Vec<FeedEvent>) {
        self.applier.take(batch);
        self.applier.make_room();
    }

    /// Sets the heads of all authors that have posts. `None` if the index of users is full.
    pub(crate) fn load_heads(&mut self, heads: &[(UserId, i64)]) -> Option<()> {
        let staged: Option<Vec<(Slot, i64)>> = heads
            .iter()
            .map(|(user, time)| Some((self.applier.memory.register_user(*user)?, *time)))
            .collect();
        self.applier.install_heads(staged?);
        Some(())
    }

    /// Installs an answer as of the high-water mark, in place of the previous value. `None` if it
    /// cannot be cached.
    pub(crate) fn fill(&mut self, request: &FillRequest, answer: FillAnswer) -> Option<()> {
        let applier = &mut self.applier;
        let slot = applier.memory.register_user(request.user)?;
        let key = match request.target {
            FillTarget::Tail { .. } => CacheKey::Tail(slot),
            FillTarget::Follows { .. } => CacheKey::Follows(slot),
        };
        applier.evict(key);
        let at = applier.keeper.high_water();
        let ticket = applier.keeper.register(key)?;
        let entry = applier.entry_of(request, answer)?;
        let installed = applier.keeper.install(key, ticket, Bounds::Exact(at), entry);
        (installed == Installed::Ready).then(|| applier.show_filled(key))
    }

    /// The misses of readers since the last call.
    pub(crate) fn take_misses(&mut self) -> Vec<Miss> {
        std::iter::from_fn(|| self.queue.try_recv().ok()).collect()
    }
}
