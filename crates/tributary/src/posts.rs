//! Single posts, read by their addresses.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::graph::NotStored;
use crate::model::{Post, ShardId};
pub use crate::model::{PostAddress, References};
use crate::post_json::text_bytes;
use crate::shard::{Deadline, Fleet, Shard, Turn};
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

/// The posts with these addresses: one wave of queries on the shards of their authors.
pub(crate) async fn read(fleet: &Fleet, addresses: &[PostAddress]) -> Posts {
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
            return Posts { posts, rest, missing: gathered.missing };
        }
        posts.push(post);
    }
    Posts { posts, rest: rest.to_vec(), missing: gathered.missing }
}
