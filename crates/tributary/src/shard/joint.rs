//! Reads several shards by one statement, if they are databases of one server.

use std::sync::Arc;

#[cfg(feature = "mysql")]
use super::mysql::joint::{self, Part};
#[cfg(feature = "mysql")]
use super::mysql::lists_with_heads::lists_with_heads;
use super::{Cut, Deadline, KnownHeads, Shard, SpanPosts, TailQuery, UserLists};
use crate::model::{Direction, Post, PostKey, UserId};

/// Shards, and the queries for each.
type Parts = [(Arc<Shard>, Vec<TailQuery>)];

/// [`Shard::tails`] of each shard. `None` if each must be read alone: one statement reads only the
/// newest keys of authors.
pub(crate) async fn joint_heads(
    parts: &Parts,
    direction: Direction,
    until: Deadline,
) -> Option<Vec<Vec<PostKey>>> {
    #[cfg(feature = "mysql")]
    if direction == Direction::Older {
        return joint::heads(&databases(parts)?, until).await;
    }
    None
}

/// [`Shard::posts_until`] of each shard. `None` if each must be read alone.
pub(crate) async fn joint_posts_until(
    parts: &Parts,
    direction: Direction,
    cut: Cut,
    until: Deadline,
) -> Option<Vec<Option<SpanPosts>>> {
    #[cfg(feature = "mysql")]
    return joint::posts_until(&databases(parts)?, direction, cut, until).await;
    #[cfg(not(feature = "mysql"))]
    None
}

/// [`Shard::tail_posts`] of each shard. `None` if each must be read alone.
pub(crate) async fn joint_tail_posts(
    parts: &Parts,
    direction: Direction,
    until: Deadline,
) -> Option<Vec<Vec<Post>>> {
    #[cfg(feature = "mysql")]
    return joint::tail_posts(&databases(parts)?, direction, until).await;
    #[cfg(not(feature = "mysql"))]
    None
}

/// [`Shard::lists`], and the newest posts of the first users on the follow list. A user's posts are
/// on `shards[id % shards.len()]`. `None` if one statement cannot read that.
pub(crate) async fn joint_lists(
    own: &Shard,
    shards: &[Arc<Shard>],
    (owner, max): (UserId, usize),
    until: Deadline,
) -> Option<(UserLists, KnownHeads)> {
    #[cfg(feature = "mysql")]
    return lists_with_heads(
        own.store.database()?,
        &shards.iter().map(|shard| shard.store.database()).collect::<Option<Vec<_>>>()?,
        (owner, max),
        until,
    )
    .await;
    #[cfg(not(feature = "mysql"))]
    None
}

#[cfg(feature = "mysql")]
fn databases(parts: &Parts) -> Option<Vec<Part<'_>>> {
    parts.iter().map(|(shard, queries)| Some((shard.store.database()?, &**queries))).collect()
}
