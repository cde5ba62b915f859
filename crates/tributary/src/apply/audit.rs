//! Audits: the writer reads a few cached values again and compares both copies at the same position
//! of the log. A difference means that a change is in no log.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::Applier;
use super::entry::{CacheKey, CachedEntry};
use crate::memory::count;
use crate::problems::ProblemCause;
use crate::shard::ShardError;

/// Pause between two audits.
const AUDIT_PAUSE: Duration = Duration::from_secs(1);
/// Values per audit, and the posts that they may have together. One value is always audited.
const AUDIT_BATCH: usize = 4;
const AUDIT_POSTS_MAX: usize = 2_048;
/// The auditor waits this many upkeep rounds (5 s) for both copies to reach the same position.
const AUDIT_ROUNDS_MAX: u32 = 250;

impl Applier {
    /// Reads a few cached values again, and compares both copies when they are at the same
    /// position.
    pub(super) fn audit(&mut self) {
        self.compare_audits();
        let now = Instant::now();
        if self.fills.next_audit.is_some_and(|time| time > now) {
            return;
        }
        self.fills.next_audit = Some(now + AUDIT_PAUSE);
        let mut posts = 0;
        for _ in 0..AUDIT_BATCH {
            let Some(key) = self.visible.residents.next() else { return };
            // Everything that the entry holds is compared.
            let held = match self.keeper.get(key) {
                Some((CachedEntry::Tail(tail), _)) => tail.posts().len().max(1),
                _ => 1,
            };
            self.fills.audits.insert(key.audit(), 0);
            // One row more shows a post that is missing at the end of the entry.
            self.fills.enqueue(key.audit(), u32::try_from(held + 1).unwrap_or(u32::MAX));
            posts += held;
            if posts > AUDIT_POSTS_MAX {
                return;
            }
        }
    }

    /// The value of an audit cannot be read. If its table is at fault, the entries of its shard are
    /// evicted: pages then list the shard as missing.
    pub(super) fn audit_failed(&mut self, key: CacheKey, error: &ShardError, dropped: bool) {
        let is_faulty = matches!(error, ShardError::Faulty(_));
        if !is_faulty && !dropped {
            return;
        }
        self.fills.audits.remove(&key);
        self.fills.depths.remove(&key);
        self.fills.waiting.retain(|waiting| waiting.key != key);
        self.evict(key);
        count(&self.log().counters.audits_failed);
        let user = self.memory.user(key.slot());
        let shard = self.memory.placement().shard_of(user);
        if is_faulty {
            self.forget_shard(shard);
        }
        if self.source.problems().note(ProblemCause::Unverified) {
            warn!(
                server = self.source.name(),
                shard = shard.index(),
                %user,
                %error,
                "Audit cannot read the database; what is cached of a table at fault is evicted"
            );
        }
    }

    fn compare_audits(&mut self) {
        let mut audits = std::mem::take(&mut self.fills.audits);
        audits.retain(|key, rounds| {
            *rounds += 1;
            let open = !self.compare_audit(*key) && !self.give_up_audit(*key, *rounds);
            if !open {
                self.evict(*key);
            }
            open
        });
        self.fills.audits = audits;
    }

    /// Whether the audit has waited too long: the value could not be read again, or the two copies
    /// never were at the same position.
    fn give_up_audit(&self, key: CacheKey, rounds: u32) -> bool {
        let is_late = rounds >= AUDIT_ROUNDS_MAX;
        if is_late && self.source.problems().note(ProblemCause::Unverified) {
            let (server, user) = (self.source.name(), self.memory.user(key.slot()));
            warn!(
                server,
                %user,
                "Memory could not be compared with the database within 5 s; the comparison is \
                 skipped. Check the server's load and the account's rights"
            );
        }
        is_late
    }

    /// Whether the audit of this key is finished.
    fn compare_audit(&mut self, key: CacheKey) -> bool {
        let Some(shown) = key.audited() else { return true };
        // The value may have been evicted in the meantime.
        let Some((entry, at)) = self.keeper.get(shown) else { return true };
        let Some((again, read_at)) = self.keeper.get(key) else { return false };
        if again.is_outdated(self.memory.frees()) {
            return true;
        }
        if at != read_at {
            return false;
        }
        let counters = &self.log().counters;
        count(&counters.audited);
        if let Some(difference) = entry.difference(again) {
            count(&counters.mismatched);
            let (server, user) = (self.source.name(), self.memory.user(shown.slot()));
            if self.source.problems().note(ProblemCause::Mismatch) {
                error!(
                    server,
                    %user,
                    ?at,
                    difference = difference.describe(|slot| self.memory.user(slot)),
                    "Memory differs from the database; the cached value is evicted"
                );
            }
            self.source.doubt(self.memory.placement().shard_of(self.memory.user(shown.slot())));
            self.evict(shown);
        }
        true
    }
}
