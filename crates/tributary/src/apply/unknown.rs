//! Changes of which the log does not contain all: each makes as little of memory unknown as
//! possible.

use std::collections::{HashMap, HashSet};

use super::Applier;
use super::entry::{CacheKey, CachedChange, CachedEntry};
use crate::changes::Change;
use crate::memory::{FollowChange, TailChange};
use crate::model::{PostId, ShardId, UserId};

/// The posts of a transaction whose authors the log does not contain.
#[derive(Debug, Default)]
pub(super) struct UnknownPosts {
    posts: HashSet<(ShardId, PostId)>,
    /// Authors of such posts that the same transaction stored or deleted with their author.
    authors: Vec<UserId>,
}

impl UnknownPosts {
    pub(super) fn of(changes: &[(ShardId, Change)]) -> Self {
        let unknown = |(shard, change): &(ShardId, Change)| match change {
            Change::PostUnknown(post) => Some((*shard, *post)),
            _ => None,
        };
        let posts: HashSet<_> = changes.iter().filter_map(unknown).collect();
        if posts.is_empty() {
            return Self::default();
        }
        let stored = |(shard, change): &(ShardId, Change)| match change {
            Change::Post(post) | Change::PostEdited(post) => {
                Some((post.key.author, (*shard, post.key.post)))
            }
            _ => None,
        };
        let authors = changes.iter().filter_map(stored);
        let authors = authors.filter(|(_, post)| posts.contains(post)).map(|(user, _)| user);
        Self { authors: authors.collect(), posts }
    }
}

impl Applier {
    /// The shard changed in a way that the log does not contain. Evicts everything of the shard.
    pub(super) fn forget_shard(&mut self, shard: ShardId) {
        for key in self.keys_of(shard) {
            self.evict(key);
        }
        self.memory.forget_heads(&[shard]);
        self.heads.invalidate(shard);
    }

    /// Makes all follow lists of the shard unknown.
    pub(super) fn forget_readers(
        &self,
        shard: ShardId,
        translated: &mut Vec<(CacheKey, CachedChange)>,
    ) {
        let lists =
            |key: &CacheKey| matches!(key, CacheKey::Follows(_) | CacheKey::FollowsAudit(_));
        let unknown = |key| (key, CachedChange::Follows(FollowChange::Unknown));
        translated.extend(self.keys_of(shard).into_iter().filter(lists).map(unknown));
    }

    /// Makes those tails unknown that contain one of these posts, and those that are being read.
    /// Compares the ids of all posts in the tails of the log, once for each transaction.
    pub(super) fn forget_posts(
        &self,
        unknown: &UnknownPosts,
        translated: &mut Vec<(CacheKey, CachedChange)>,
    ) {
        if unknown.posts.is_empty() {
            return;
        }
        let mut of_shard: HashMap<ShardId, HashSet<u64>> = HashMap::new();
        for (shard, post) in &unknown.posts {
            of_shard.entry(*shard).or_default().insert(post.0);
        }
        let affected = |key: &CacheKey| {
            let Some(posts) = of_shard.get(&self.owner(*key)) else { return false };
            match (key, self.keeper.get(*key)) {
                (CacheKey::Follows(_) | CacheKey::FollowsAudit(_), _) => false,
                (_, Some((CachedEntry::Tail(tail), _))) => {
                    tail.posts().iter().any(|post| posts.contains(&post.key.1))
                }
                (_, _) => true,
            }
        };
        let tails = self.keeper.keys().filter(affected);
        let of_users = unknown.authors.iter().filter_map(|user| self.memory.find(*user));
        let of_users = of_users.flat_map(CacheKey::tails);
        let of_users = of_users.filter(|key| self.keeper.contains(*key));
        let change = |key| (key, CachedChange::Tail(TailChange::Unknown));
        translated.extend(tails.chain(of_users).map(change));
    }

    fn keys_of(&self, shard: ShardId) -> Vec<CacheKey> {
        self.keeper.keys().filter(|key| self.owner(*key) == shard).collect()
    }

    /// The shard that owns the user of a key.
    fn owner(&self, key: CacheKey) -> ShardId {
        self.memory.placement().shard_of(self.memory.user(key.slot()))
    }
}
