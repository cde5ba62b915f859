//! The plan of a page: which of its authors are read from memory, and which from the databases.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::memory::{FollowList, Slot};
use crate::model::{ShardId, UserId};
use crate::shard::KnownHeads;

/// The authors of a page, by where their posts are read.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The reader of a home timeline. Posts of authors that block the reader are not on the page.
    pub(super) reader: Option<UserId>,
    pub(super) from_memory: KnownAuthors,
    /// Authors that memory does not know, or for which it may not be used.
    pub(super) from_databases: Vec<UserId>,
    /// Shards whose authors are read from memory that may be stale, and since when (ms since
    /// 1970).
    pub(super) stale: BTreeMap<ShardId, i64>,
    /// The newest posts of authors that were read with the follow list.
    pub(super) heads: KnownHeads,
    /// The shard that was queried for the follow list, if one was.
    pub(super) queried: Option<ShardId>,
}

/// Authors whose posts may be read from memory.
#[derive(Debug)]
pub(super) enum KnownAuthors {
    /// All users that a follow list shows.
    FollowList(Arc<FollowList>),
    Slots(Vec<Slot>),
}

impl Default for KnownAuthors {
    fn default() -> Self {
        Self::Slots(Vec::new())
    }
}

impl Plan {
    /// The number of all authors.
    pub(super) fn authors(&self) -> usize {
        self.slots().len() + self.from_databases.len()
    }

    /// The authors that are read from memory.
    pub(super) fn slots(&self) -> &[Slot] {
        match &self.from_memory {
            KnownAuthors::FollowList(list) => list.slots(),
            KnownAuthors::Slots(slots) => slots,
        }
    }
}
