//! Adds the posts of one log's authors to the recent log. A post of a listed author is added
//! before the log advances past it. New tails are added a little later, many at once.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::memory::{Memory, RecentEntry, Slot};
use crate::model::PostKey;

/// Pause between two additions of tails. Each goes through all chunks of the recent log. Until
/// then deep pages read the tails.
const PAUSE: Duration = Duration::from_millis(250);
/// Posts added at once, approximately; 2.4 MB. That is a thousand tails of the usual depth.
const POSTS_MAX: usize = 100_000;

/// Posts that wait to be added to the recent log.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Posts of the transaction that is being applied.
    posts: Vec<RecentEntry>,
    /// Authors with new tails.
    tails: BTreeSet<Slot>,
    not_before: Option<Instant>,
}

impl Listing {
    /// Queues a post if its author is listed. For other authors the whole tail is added later, if
    /// ever.
    pub(super) fn add_post(&mut self, memory: &Memory, author: Option<Slot>, key: &PostKey) {
        if let Some(slot) = author.filter(|slot| memory.is_listed(*slot)) {
            self.posts.push(RecentEntry { key: (key.time, key.post.0), slot });
        }
    }

    /// Queues an author's new tail.
    pub(super) fn add_tail(&mut self, author: Slot) {
        self.tails.insert(author);
    }

    /// Whether the author's tail is queued.
    pub(super) fn waits_for(&self, author: Slot) -> bool {
        self.tails.contains(&author)
    }

    /// Adds the queued posts. Must be called before the log advances past their transaction.
    pub(super) fn list_posts(&mut self, memory: &Memory) {
        memory.list_posts(std::mem::take(&mut self.posts));
    }

    /// Adds the queued tails, unless the last addition was less than [`PAUSE`] ago.
    pub(super) fn list_tails(&mut self, memory: &Memory) {
        let now = Instant::now();
        if self.tails.is_empty() || self.not_before.is_some_and(|time| time > now) {
            return;
        }
        memory.list_tails(&mut self.tails, POSTS_MAX);
        self.not_before = Some(Instant::now() + PAUSE);
    }
}
