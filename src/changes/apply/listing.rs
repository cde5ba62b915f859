//! Tells the recent log what is shown of the authors of one log: each post before the log advances
//! over it, and tails that came a little later, many in one go.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::memory::{Memory, RecentEntry, Slot};
use crate::model::PostKey;

/// Between two tellings of tails that came: each goes through all chunks of the recent log, and until
/// then deep pages look into tails.
const PAUSE: Duration = Duration::from_millis(250);
/// Posts that are told of at once, about, 2.4 MB: a thousand tails of the usual depth.
const POSTS_MAX: usize = 100_000;

/// What the recent log is to be told.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Of the transaction that is being carried out.
    posts: Vec<RecentEntry>,
    /// Authors whose tails came.
    tails: BTreeSet<Slot>,
    not_before: Option<Instant>,
}

impl Listing {
    /// A post of any author. That of one who is not listed comes with its whole tail, if ever.
    pub(super) fn post(&mut self, memory: &Memory, author: Option<Slot>, key: &PostKey) {
        if let Some(slot) = author.filter(|slot| memory.is_listed(*slot)) {
            self.posts.push(RecentEntry { key: (key.time, key.post.0), slot });
        }
    }

    /// A tail came.
    pub(super) fn tail(&mut self, author: Slot) {
        self.tails.insert(author);
    }

    /// Of the present transaction: all posts that there were so far.
    pub(super) fn list_posts(&mut self, memory: &Memory) {
        memory.list_posts(std::mem::take(&mut self.posts));
    }

    /// Tells of tails that came, now and then.
    pub(super) fn list_tails(&mut self, memory: &Memory) {
        let now = Instant::now();
        if self.tails.is_empty() || self.not_before.is_some_and(|time| time > now) {
            return;
        }
        memory.list_tails(&mut self.tails, POSTS_MAX);
        self.not_before = Some(Instant::now() + PAUSE);
    }
}
