//! Single posts, read by their addresses.

pub mod markers;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::graph::{COUNT_MAX, Count, NotStored};
use crate::model::{Post, ShardId};
pub use crate::model::{PostAddress, References};
use crate::post_json::text_bytes;
pub use crate::publish::Edited;
use crate::shard::{Deadline, Fleet, ReferenceCounts, Shard, Turn};
pub use crate::timeline::AroundError;

/// The most posts of one call of [`crate::Tributary::posts`].
pub const POSTS_MAX: usize = 100;
/// Upper bound for the texts of one answer, in bytes of JSON. The first post may exceed it.
const TEXTS_MAX: usize = 1 << 20;

/// Posts that were read by their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Posts {
    /// The posts, in the order of the addresses. Addresses without a post are skipped, and so are
    /// repeated ones.
    pub posts: Vec<Post>,
    /// The addresses that were not read, because there are more than [`POSTS_MAX`] of them, or
    /// about 1 MiB of texts. Call again with these.
    pub rest: Vec<PostAddress>,
    /// The shards that did not answer. Their posts are not among `posts`.
    pub missing: BTreeSet<ShardId>,
}

/// Checks that the shards store references.
pub(crate) fn require_references(fleet: &Fleet) -> Result<(), NotStored> {
    let then = "; then add [tables.posts.references] to the configuration";
    match fleet.missing_references() {
        Some(statement) => Err(NotStored { statement, then }),
        None => Ok(()),
    }
}

/// The numbers of replies and reposts of posts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counted {
    /// One for each address, in the same order.
    pub posts: Vec<PostCounts>,
    /// The addresses beyond [`POSTS_MAX`].
    pub rest: Vec<PostAddress>,
    /// The shards that did not answer. Their replies and reposts are not counted.
    pub missing: BTreeSet<ShardId>,
}

/// The numbers of replies to a post and of its reposts, exact up to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostCounts {
    /// The post, which may not exist.
    pub post: PostAddress,
    /// The replies.
    pub replies: Count,
    /// The reposts.
    pub reposts: Count,
}

/// Counts the replies to these posts and their reposts: one wave of queries on all shards.
pub(crate) async fn counts(fleet: &Fleet, addresses: &[PostAddress]) -> Result<Counted, NotStored> {
    require_references(fleet)?;
    if let Some(statement) = fleet.missing_reference_index() {
        return Err(NotStored { statement, then: "" });
    }
    let (addresses, rest) = addresses.split_at(addresses.len().min(POSTS_MAX));
    let asked: Arc<[PostAddress]> = addresses.into();
    let of_shard = |shard: Arc<Shard>, (), until: Deadline| {
        let asked = Arc::clone(&asked);
        async move { shard.count_references(&asked, COUNT_MAX + 1, until).await }
    };
    let gathered = fleet.scatter_to_all(fleet.read_deadline(), of_shard).await;
    let is_whole = gathered.missing.is_empty();
    let sum = |index: usize, kind: usize| {
        let of_shard = |counts: &Vec<ReferenceCounts>| counts.get(index).map_or(0, |of| of[kind]);
        Count::of(gathered.answers.iter().map(of_shard).sum(), is_whole)
    };
    let count = |(index, post): (usize, &PostAddress)| PostCounts {
        post: *post,
        replies: sum(index, 0),
        reposts: sum(index, 1),
    };
    let posts = addresses.iter().enumerate().map(count).collect();
    Ok(Counted { posts, rest: rest.to_vec(), missing: gathered.missing })
}

/// The posts with these addresses: one wave of queries on the shards of their authors.
pub(crate) async fn read(fleet: &Fleet, addresses: &[PostAddress]) -> Result<Posts, NotStored> {
    fleet.require_address_index()?;
    let count = addresses.len().min(POSTS_MAX);
    let (addresses, rest) = addresses.split_at(count);
    let distinct: BTreeSet<PostAddress> = addresses.iter().copied().collect();
    let work = fleet.placement().group(distinct, |address| address.author);
    let of_shard = |shard: Arc<Shard>, addresses: Vec<PostAddress>, until: Deadline| async move {
        shard.posts_at(&addresses, until).await
    };
    let gathered = fleet.scatter(work, Turn::First, fleet.read_deadline(), of_shard).await;
    let posts = gathered.answers.into_iter().flatten();
    let mut found: HashMap<PostAddress, Post> =
        posts.map(|post| (PostAddress::of(&post.key), post)).collect();
    let (mut posts, mut bytes) = (Vec::new(), 0);
    for (index, address) in addresses.iter().enumerate() {
        let Some(post) = found.remove(address) else { continue };
        bytes += text_bytes(&post.content);
        if bytes > TEXTS_MAX && !posts.is_empty() {
            let rest = addresses[index..].iter().chain(rest).copied().collect();
            return Ok(Posts { posts, rest, missing: gathered.missing });
        }
        posts.push(post);
    }
    Ok(Posts { posts, rest: rest.to_vec(), missing: gathered.missing })
}
