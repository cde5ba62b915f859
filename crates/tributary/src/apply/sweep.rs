//! Frees the slots of unused users, so that other users get them.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Applier;
use super::entry::CacheKey;
use crate::memory::Slot;

/// Pause between two sweeps, while the index of users is large.
const PAUSE: Duration = Duration::from_secs(5);
/// A sweep visits all users. The pause after it is at least this many times as long.
const PAUSE_SHARE: u32 = 100;

impl Applier {
    /// Frees the slots of users of this log that have no posts and are on no cached follow list, if
    /// the index of users is large.
    pub(super) fn sweep(&mut self) {
        let start = Instant::now();
        let is_due = self.next_sweep.is_none_or(|time| time <= start);
        if !is_due || !self.memory.budget().is_index_tight() || self.heads.is_loading() {
            return;
        }
        let freed = self.free_unused();
        let took = start.elapsed();
        debug!(server = self.source.name(), freed, ?took, "Freed slots of unused users");
        self.next_sweep = Some(Instant::now() + PAUSE.max(took * PAUSE_SHARE));
    }

    /// Frees the slots of all unused users of this log. Returns their number.
    pub(super) fn free_unused(&mut self) -> usize {
        let (memory, mut unused) = (&self.memory, Vec::new());
        memory.for_each_of(self.log().shards(), |slot| {
            if memory.is_unused(slot) {
                unused.push(slot);
            }
        });
        // Tails without posts.
        for key in unused.iter().map(|slot| CacheKey::Tail(*slot)) {
            if self.keeper.get(key).is_some() {
                self.evict(key);
            }
        }
        unused.retain(|slot| !self.is_busy(*slot));
        if unused.is_empty() { 0 } else { self.memory.free_slots(self.index, unused) }
    }

    /// Whether this writer has work in progress for the user of a slot.
    fn is_busy(&self, slot: Slot) -> bool {
        let keys = CacheKey::tails(slot).into_iter().chain(CacheKey::lists(slot));
        let mut keys = keys.filter(|key| self.keeper.contains(*key) || self.fills.is_queued(*key));
        keys.next().is_some() || self.visible.listing.waits_for(slot)
    }
}
