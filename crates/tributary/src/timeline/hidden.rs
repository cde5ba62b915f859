//! Authors whose posts a reader must not see, although the reader follows them: those that block
//! the reader. Each such block is on the author's shard, and in memory with the author's tail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::view::View;
use crate::freshness::Freshness;
use crate::memory::{Memory, Miss};
use crate::model::{Follow, ShardId, UserId, UserList};
use crate::shard::{Deadline, Shard, Turn};

/// The longest wait for the tails of authors. Subscriptions that wait for the same author then
/// share one fill, instead of one query each. A subscription rests after a read for nine times as
/// long as the read took, so this delays its next news by half a second at most.
const FILL_PATIENCE: Duration = Duration::from_millis(50);
/// Pause between two looks at a tail that is being filled.
const FILL_PAUSE: Duration = Duration::from_millis(2);

/// The authors that block one reader, as far as their blocks were read.
#[derive(Debug)]
pub(super) struct Blockers {
    reader: UserId,
    /// The authors whose blocks were read.
    known: BTreeSet<UserId>,
    authors: BTreeSet<UserId>,
    /// Whether a database was queried.
    pub(super) queried: bool,
}

/// Whether the author blocks the reader. `None` if memory does not have the author's tail.
pub(super) fn blocks_in_memory(memory: &Memory, author: UserId, reader: UserId) -> Option<bool> {
    let tail = memory.tail(memory.find(author)?, memory.tick())?;
    Some(tail.is_hidden_from(Some(reader)))
}

impl Blockers {
    pub(super) fn of(reader: UserId) -> Self {
        let (known, authors) = (BTreeSet::new(), BTreeSet::new());
        Self { reader, known, authors, queried: false }
    }

    /// Whether this author blocks the reader, which was read before.
    pub(super) fn contains(&self, author: UserId) -> bool {
        self.authors.contains(&author)
    }

    /// Finds out which of these authors block the reader, at these positions or later: from memory,
    /// or else by one wave of queries.
    ///
    /// # Errors
    /// The shards that did not answer, or do not show the positions.
    pub(super) async fn read(
        &mut self,
        view: &mut View<'_>,
        (memory, reached): (&Memory, &Freshness),
        authors: impl Iterator<Item = UserId>,
    ) -> Result<(), BTreeSet<ShardId>> {
        if !view.fleet().has_table(UserList::Blocks) {
            return Ok(());
        }
        let is_new = |author: &UserId| *author != self.reader && !self.known.contains(author);
        let unknown: BTreeSet<UserId> = authors.filter(is_new).collect();
        let unknown = self.read_tails(view, memory, unknown).await;
        if unknown.is_empty() {
            return Ok(());
        }
        // A server that is down would delay the answers of the others.
        let fleet = view.fleet();
        let shard_of = |author: &UserId| fleet.placement().shard_of(*author);
        let is_down = |author: &UserId| fleet.shard(shard_of(author)).health().is_err();
        let (down, unknown): (BTreeSet<_>, BTreeSet<_>) = unknown.into_iter().partition(is_down);
        let mut missing: BTreeSet<ShardId> = down.iter().map(shard_of).collect();
        if unknown.is_empty() {
            return Err(missing);
        }
        self.queried = true;
        // A block that has ended at the positions would hide a post that no later answer has.
        let logs = unknown.iter().filter_map(|author| memory.log_of(*author).position());
        view.has_reached(&reached.only(logs.map(|(identity, _)| identity)));
        view.wait_until_visible().await;
        let entry = |author: &UserId| Follow { follower: *author, followee: self.reader };
        let work = fleet.placement().group(unknown.iter().map(entry), |entry| entry.follower);
        let entries = |shard: Arc<Shard>, entries: Vec<Follow>, until: Deadline| async move {
            shard.entries(UserList::Blocks, &entries, until).await
        };
        let found = fleet.scatter(work, Turn::Next, view.deadline(), entries).await;
        let shown: Vec<_> = view.required_after_reads().reached().map(|(log, _)| log).collect();
        let is_shown = |author: &UserId| {
            let log = memory.log_of(*author).position();
            log.is_some_and(|(identity, _)| shown.contains(&identity))
        };
        let has_answered =
            |author: &UserId| is_shown(author) && !found.missing.contains(&shard_of(author));
        let (known, others): (BTreeSet<_>, BTreeSet<_>) =
            unknown.into_iter().partition(has_answered);
        let blockers = found.answers.into_iter().flatten().map(|entry| entry.follower);
        self.authors.extend(blockers.filter(|author| known.contains(author)));
        self.known.extend(known);
        missing.extend(others.iter().map(shard_of));
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    /// Reads the blocks of the authors whose tails memory has, or has soon. Returns the others.
    async fn read_tails(
        &mut self,
        view: &View<'_>,
        memory: &Memory,
        mut unknown: BTreeSet<UserId>,
    ) -> BTreeSet<UserId> {
        let patience = view.patience().min(Deadline::after(FILL_PATIENCE));
        loop {
            let frees = memory.frees();
            let blocks = |author| Some((author, blocks_in_memory(memory, author, self.reader)?));
            let found: Vec<(UserId, bool)> = unknown.iter().copied().filter_map(blocks).collect();
            // A slot that was freed during this may have another user's tail.
            if memory.frees() == frees {
                for (author, blocks) in found {
                    unknown.remove(&author);
                    self.known.insert(author);
                    if blocks {
                        self.authors.insert(author);
                    }
                }
            }
            if unknown.is_empty() || patience.is_over() {
                return unknown;
            }
            let slots = unknown.iter().filter_map(|author| memory.register_user(*author));
            slots.for_each(|slot| memory.request_fill(Miss::Tail { slot, depth: 0 }));
            patience.limit(tokio::time::sleep(FILL_PAUSE)).await;
        }
    }
}
