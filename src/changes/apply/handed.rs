//! A writer into memory that is handed what the databases hold and what the log says, to measure
//! what that costs; it asks nobody.

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
    /// Begins a history of its own. Nobody is known yet, so that all newest times are.
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

    /// All that was committed by now was handed over.
    pub(crate) fn renew(&self) {
        let memory = &self.applier.memory;
        self.applier.log().renew(memory.now_ms(), now_ms());
    }

    /// What a feed tells at once.
    pub(crate) fn take(&mut self, batch: Vec<FeedEvent>) {
        self.applier.take(batch);
        self.applier.make_room();
    }

    /// The newest times of all authors that have posts.
    pub(crate) fn load_heads(&mut self, heads: &[(UserId, i64)]) -> Option<()> {
        let staged: Option<Vec<(Slot, i64)>> = heads
            .iter()
            .map(|(user, time)| Some((self.applier.memory.register_user(*user)?, *time)))
            .collect();
        self.applier.install_heads(staged?);
        Some(())
    }

    /// What a fill has read, as of now; instead of what was known before. None if it does not fit.
    pub(crate) fn fill(&mut self, wish: &FillRequest, answer: FillAnswer) -> Option<()> {
        let applier = &mut self.applier;
        let slot = applier.memory.register_user(wish.user)?;
        let key = match wish.target {
            FillTarget::Tail { .. } => CacheKey::Tail(slot),
            FillTarget::Follows { .. } => CacheKey::Follows(slot),
        };
        applier.evict(key);
        let at = applier.keeper.high_water();
        let ticket = applier.keeper.register(key)?;
        let entry = applier.entry_of(wish, answer)?;
        let installed = applier.keeper.install(key, ticket, Bounds::Exact(at), entry);
        (installed == Installed::Ready).then(|| applier.show_filled(key))
    }

    /// What readers lacked meanwhile.
    pub(crate) fn take_misses(&mut self) -> Vec<Miss> {
        std::iter::from_fn(|| self.queue.try_recv().ok()).collect()
    }
}
