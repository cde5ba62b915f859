//! The posts that the posts of a page refer to: the texts of reposted posts, and all names.

use std::collections::{BTreeSet, HashMap, HashSet};

use tributary::internal::fleet;
use tributary::posts::PostAddress;
use tributary::{Post, Tributary, UserId};

use super::names::Names;
use crate::limits::Cost;

/// The posts and names that a page shows beside its own posts.
pub(super) struct Referred {
    /// The reposted posts that were found, and that the reader may see.
    pub(super) posts: HashMap<PostAddress, Post>,
    pub(super) names: Names,
    has_queried: bool,
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
        let (names, posts, hidden) = tokio::join!(
            Names::of(tributary, &users),
            texts(tributary, &reposted),
            hidden(tributary, reader, &reposted),
        );
        let shown = posts.into_iter().filter(|post| !hidden.contains(&post.key.author));
        let posts = shown.map(|post| (PostAddress::of(&post.key), post)).collect();
        Self { posts, names, has_queried: !reposted.is_empty() }
    }

    /// The cost of the queries.
    pub(super) fn cost(&self) -> Cost {
        let of_posts = if self.has_queried { Cost::QUERY } else { Cost::default() };
        of_posts.plus(self.names.cost())
    }
}

/// The posts with these addresses. None if the shards have no index for reading them.
async fn texts(tributary: &Tributary, addresses: &[PostAddress]) -> Vec<Post> {
    if addresses.is_empty() {
        return Vec::new();
    }
    tributary.posts(addresses).await.map(|found| found.posts).unwrap_or_default()
}

/// The authors of these posts whose posts the reader does not see.
async fn hidden(
    tributary: &Tributary,
    reader: UserId,
    addresses: &[PostAddress],
) -> HashSet<UserId> {
    let fleet = fleet(tributary);
    let authors: BTreeSet<UserId> = addresses.iter().map(|address| address.author).collect();
    if authors.is_empty() || !fleet.stores_mutes() && !fleet.stores_blocks() {
        return HashSet::new();
    }
    let authors: Vec<UserId> = authors.into_iter().collect();
    let found = tributary.relationships(reader, &authors).await.all;
    let is_hidden = |user: &UserId| {
        let of = found.iter().find(|of| of.user == *user);
        // A relation that is not known may be a block.
        of.is_none_or(|of| of.muting || of.blocking || of.blocked_by)
    };
    authors.into_iter().filter(is_hidden).collect()
}
