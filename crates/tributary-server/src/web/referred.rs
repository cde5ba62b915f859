//! The posts that the posts of a page refer to: the texts of reposted posts, and all names.

use std::collections::{BTreeSet, HashMap, HashSet};

use tributary::internal::fleet;
use tributary::posts::PostAddress;
use tributary::{Post, ShardId, Tributary, UserId};

use super::names::Names;
use crate::limits::Cost;

/// The posts and names that a page shows beside its own posts.
pub(super) struct Referred {
    /// The reposted posts that were found, and that the reader may see.
    pub(super) posts: HashMap<PostAddress, Post>,
    pub(super) names: Names,
    /// The shards that did not answer for the reposted posts.
    pub(super) missing: BTreeSet<ShardId>,
    cost: Cost,
}

/// The answer to one of the waves of queries.
#[derive(Default)]
struct Answer<T> {
    found: T,
    missing: BTreeSet<ShardId>,
    cost: Cost,
}

impl Referred {
    /// Reads what these posts refer to, for this reader, and the names of some further users: three
    /// waves of queries at the same time. Posts by users that the reader mutes or blocks, or that
    /// block the reader, are skipped, as on a home timeline.
    pub(super) async fn read(
        tributary: &Tributary,
        reader: UserId,
        posts: &[Post],
        further: impl Iterator<Item = UserId>,
    ) -> Self {
        let references = posts.iter().map(|post| post.references);
        let reposted: Vec<PostAddress> = references.clone().filter_map(|of| of.repost_of).collect();
        let replied = references.filter_map(|of| of.reply_to);
        let authors = replied.chain(reposted.iter().copied()).map(|address| address.author);
        let users: BTreeSet<UserId> = authors.chain(further).chain([reader]).collect();
        let users: Vec<UserId> = users.into_iter().collect();
        let (names, texts, hidden) = tokio::join!(
            Names::of(tributary, &users),
            texts(tributary, &reposted),
            hidden(tributary, reader, &reposted),
        );
        let shown = texts.found.into_iter().filter(|post| !hidden.found.contains(&post.key.author));
        let posts = shown.map(|post| (PostAddress::of(&post.key), post)).collect();
        let missing = &texts.missing | &hidden.missing;
        let cost = texts.cost.plus(hidden.cost).plus(names.cost());
        Self { posts, names, missing, cost }
    }

    /// The cost of the queries.
    pub(super) fn cost(&self) -> Cost {
        self.cost
    }
}

/// The posts with these addresses. None if the shards have no index for reading them.
async fn texts(tributary: &Tributary, addresses: &[PostAddress]) -> Answer<Vec<Post>> {
    if addresses.is_empty() {
        return Answer::default();
    }
    match tributary.posts(addresses).await {
        Ok(read) => Answer { found: read.posts, missing: read.missing, cost: Cost::QUERY },
        Err(_) => Answer::default(),
    }
}

/// The authors of these posts whose posts the reader does not see.
async fn hidden(
    tributary: &Tributary,
    reader: UserId,
    addresses: &[PostAddress],
) -> Answer<HashSet<UserId>> {
    let fleet = fleet(tributary);
    let authors: BTreeSet<UserId> = addresses.iter().map(|address| address.author).collect();
    if authors.is_empty() || !fleet.stores_mutes() && !fleet.stores_blocks() {
        return Answer::default();
    }
    let authors: Vec<UserId> = authors.into_iter().collect();
    let relationships = tributary.relationships(reader, &authors).await;
    let is_hidden = |user: &UserId| {
        let of = relationships.all.iter().find(|of| of.user == *user);
        // A relation that is not known may be a block.
        of.is_none_or(|of| of.muting || of.blocking || of.blocked_by)
    };
    let found = authors.into_iter().filter(is_hidden).collect();
    Answer { found, missing: relationships.missing, cost: Cost::QUERY }
}
