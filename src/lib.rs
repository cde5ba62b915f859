//! Tributary answers "what have the people I follow posted, newest first?" from `followers` and
//! `tweets` tables that are hash-sharded over many databases: MySQL or MariaDB servers, or SQLite
//! files in one folder.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use tributary::config::environment;
//! use tributary::{Config, PageRequest, Tributary, UserId};
//!
//! let config = Config::from_file("tributary.toml".as_ref(), environment())?;
//! let tributary = Tributary::open(&config).await?;
//! let page = tributary.home_timeline(UserId(42), &PageRequest::default()).await?;
//! for post in &page.posts {
//!     println!("{}: {}", post.key.author, post.content);
//! }
//! # Ok(()) }
//! ```
//!
//! # How a page is read
//! 1. [`http`] answers a page that it sent before, if nothing on it has changed since. Else it takes
//!    user, cursor and limit from the request and calls `timeline::home_timeline`, which makes all
//!    decisions of a read.
//! 2. The reader's follow list, and the posts that can stand on the page, are taken from `memory` as
//!    far as it has them. The rest is asked for in the databases, once for all who want it at that
//!    time:
//! 3. The follow list on the one shard that owns the reader: [`placement`] knows which, [`shard`]
//!    asks it. One post of every followee from the cursor on, then more of those few authors whose
//!    whole known tail stands on the page: `timeline::merge` says which. Each time only the shards
//!    that own these authors are asked, all at once: [`shard::Fleet::scatter`].
//! 4. The texts of posts that were not in memory are fetched in one more wave, and the [`Page`]
//!    gets the [`cursor`]s that lead on from it. A shard that did not answer is named on the page,
//!    and its place is kept in the cursors.
//!
//! # How a post is written
//! 1. [`http`] takes author, text and perhaps an `Idempotency-Key` from the request and calls
//!    [`Tributary::publish`]; [`publish`] makes all decisions of a write.
//! 2. The post gets a time and an id of its own (`post_id`), and is stored with its key in one
//!    transaction on the one shard that owns the author. An id that is taken is minted anew.
//! 3. When the connection is lost at the commit, a new one is asked what became of it; only what
//!    was surely not stored is stored again, under the same id and key.
//! 4. Memory learns of it as of anybody's write: from the server's log, which `changes::apply`
//!    follows.
//!
//! # Which way the arrows point
//! [`model`], [`cursor`], [`placement`], `post_id` and the merge are pure: they know no runtime, no SQL and no
//! HTTP. SQL stands in [`shard`] alone. [`http`] and [`commands`] are the edges.

mod bench;
pub mod changes;
pub mod clock;
pub mod commands;
pub mod config;
pub mod cursor;
mod demo;
pub mod fit;
pub mod freshness;
pub mod http;
pub mod mapping;
mod memory;
pub mod model;
pub mod moment;
pub mod placement;
mod post_id;
pub mod publish;
pub mod shard;
pub mod timeline;

use std::collections::BTreeSet;
use std::sync::Arc;

use changes::{History, LogPosition};
pub use config::Config;
pub use cursor::Cursor;
pub use freshness::Freshness;
use memory::{KeptPage, LogName, Memory, Sent, Slot};
pub use model::{IdempotencyKey, Post, PostId, PostKey, ShardId, UserId};
use publish::Publisher;
pub use publish::{Published, WriteError};
pub use shard::{Access, Fleet, OpenError};
use timeline::{Draft, TimelineFlights, View};
pub use timeline::{Limit, Page, PageRequest, ReadError};
use tokio::task::JoinSet;

/// A fleet of shards, ready to be read and written. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Tributary(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    fleet: Fleet,
    publisher: Publisher,
    memory: Option<Arc<Memory>>,
    flights: TimelineFlights,
    /// The writers into memory; they end with the last clone.
    _writers: JoinSet<()>,
}

/// A part of a follow list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowingPage {
    /// By rising id.
    pub followees: Vec<UserId>,
    /// Where the list goes on, if it does or if it could not be read.
    pub next: Option<UserId>,
    /// The reader's shard, if it did not answer.
    pub missing: BTreeSet<ShardId>,
}

impl Tributary {
    /// Opens the folder of shards, as its only owner, or connects to all servers at once.
    ///
    /// # Errors
    /// What an operator must mend: a wrong password, a missing table, index or right, a folder
    /// that another process owns. A server that cannot be reached is no error: its shards are
    /// missing until it can.
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        Self::open_with(config, Access::Own).await
    }

    /// Like [`Tributary::open`]; with [`Access::Read`] a folder is read beside its owner.
    pub async fn open_with(config: &Config, access: Access) -> Result<Self, OpenError> {
        let fleet = Fleet::open(config, access).await?;
        let publisher = Publisher::new(&config.write, access, fleet.health().len());
        let budget = if access == Access::Own { config.memory.bytes() } else { 0 };
        let flights = TimelineFlights::new();
        if budget == 0 {
            let parts = Parts { fleet, publisher, memory: None, flights, _writers: JoinSet::new() };
            return Ok(Self(Arc::new(parts)));
        }
        let names = fleet
            .sources()
            .iter()
            .map(|source| LogName { name: source.name().to_owned(), shards: source.shards() });
        let (placement, times) = (fleet.placement().clone(), fleet.times().clone());
        let (memory, queues) =
            Memory::new(budget, names.collect(), placement, times, http::encode_post);
        let writers = changes::apply::start(&memory, fleet.sources(), queues);
        let parts = Parts { fleet, publisher, memory: Some(memory), flights, _writers: writers };
        Ok(Self(Arc::new(parts)))
    }

    /// A page of posts by everyone `reader` follows.
    ///
    /// From memory it costs microseconds; what memory does not hold costs one query for the follow
    /// list and at most five rounds of simultaneous queries, whatever the number of followees.
    pub async fn home_timeline(
        &self,
        reader: UserId,
        request: &PageRequest,
    ) -> Result<Page, ReadError> {
        let draft = self.home_draft(reader, request).await?;
        Ok(draft.into_page(http::decode_content))
    }

    /// The same, as it is sent.
    pub(crate) async fn home_draft(
        &self,
        reader: UserId,
        request: &PageRequest,
    ) -> Result<Draft, ReadError> {
        timeline::home_timeline(&mut self.view(), reader, request).await
    }

    /// The reader's page for this query as it was sent last, if it is what memory shows now and memory
    /// is as fresh as is asked; and how fresh that is.
    pub(crate) fn cached_page(
        &self,
        reader: UserId,
        query: &str,
        at_least: &Freshness,
    ) -> Option<(Arc<KeptPage>, Freshness)> {
        let memory = self.memory()?;
        let now_ms = memory.now_ms();
        let has = |(history, at): &(History, LogPosition)| {
            memory.logs().iter().any(|log| log.has_reached(*history, *at))
        };
        if !memory.is_fresh(now_ms) || !at_least.positions().iter().all(has) {
            return None;
        }
        let page = memory.page(reader, query, now_ms)?;
        let mut freshness = Freshness::default();
        for log in memory.logs() {
            let (history, at) = log.announced()?;
            freshness.add(history, at);
        }
        Some((page, freshness))
    }

    /// Keeps a page of a reader as it is sent, if all of it comes from memory.
    pub(crate) fn keep_page(&self, reader: UserId, query: &str, page: &Draft, sent: &Sent) {
        let Some((memory, as_of)) = self.memory().zip(page.as_of) else { return };
        let Some(reader) = memory.find(reader) else { return };
        let authors: BTreeSet<Slot> =
            page.posts.iter().filter_map(|post| memory.find(post.key().author)).collect();
        let authors = authors.into_iter().collect();
        memory.keep_page(KeptPage::new((reader, query), as_of, authors, sent));
    }

    /// A page of one author's posts.
    pub async fn author_timeline(&self, author: UserId, request: &PageRequest) -> Page {
        self.author_draft(author, request).await.into_page(http::decode_content)
    }

    /// The same, as it is sent.
    pub(crate) async fn author_draft(&self, author: UserId, request: &PageRequest) -> Draft {
        timeline::author_timeline(&mut self.view(), author, request).await
    }

    fn view(&self) -> View<'_> {
        View::new(&self.0.fleet, self.0.memory.as_deref(), &self.0.flights)
    }

    /// How far the log that tells of `user` reaches now: a page that is asked to be at least as
    /// fresh shows whatever was written for the user before. Empty without memory, where every page
    /// does. One query.
    pub async fn freshness(&self, user: UserId) -> Freshness {
        let mut freshness = Freshness::default();
        if let Some(memory) = &self.0.memory {
            let source = self.0.fleet.sources().get(memory.log_index(user));
            if let Some(source) = source
                && let Ok((history, at)) = source.end_of_log(self.0.fleet.read_deadline()).await
            {
                freshness.add(history, at);
            }
        }
        freshness
    }

    /// Users that `reader` follows, by rising id, from `from` on. One query on one shard.
    pub async fn following(&self, reader: UserId, from: UserId, limit: Limit) -> FollowingPage {
        let (fleet, max) = (&self.0.fleet, limit.get());
        let answer = fleet.following(reader, from, max + 1, fleet.read_deadline()).await;
        match answer {
            Ok(mut followees) => {
                let next = followees.get(max).copied();
                followees.truncate(max);
                FollowingPage { followees, next, missing: BTreeSet::new() }
            }
            Err(shard) => FollowingPage {
                followees: Vec::new(),
                next: Some(from),
                missing: BTreeSet::from([shard]),
            },
        }
    }

    /// One post; or its author's shard, if it does not answer.
    pub async fn post(&self, author: UserId, post: PostId) -> Result<Option<Post>, ShardId> {
        self.0.fleet.post(author, post, self.0.fleet.read_deadline()).await
    }

    /// Posts. When this returns, the post is committed; it is on every page that is asked to be as
    /// fresh as [`Tributary::freshness`] says then, and on all others some milliseconds later. With
    /// a key, the same wish is carried out once however often it is repeated, for a day at least.
    pub async fn publish(
        &self,
        author: UserId,
        content: &str,
        key: Option<IdempotencyKey>,
    ) -> Result<Published, WriteError> {
        self.0.publisher.publish(&self.0.fleet, author, content, key).await
    }

    /// Deletes a post, if it is there.
    pub async fn delete_post(&self, author: UserId, post: PostId) -> Result<(), WriteError> {
        self.0.publisher.delete_post(&self.0.fleet, author, post).await
    }

    /// Makes `follower` follow `followee`, if it does not yet.
    pub async fn follow(&self, follower: UserId, followee: UserId) -> Result<(), WriteError> {
        self.follow_all(follower, &[followee]).await.map(drop)
    }

    /// Makes `follower` follow all of them, 1,000 at most, in one transaction. Returns how many it
    /// did not follow yet; fewer if the commit was in doubt and was done again.
    pub async fn follow_all(
        &self,
        follower: UserId,
        followees: &[UserId],
    ) -> Result<usize, WriteError> {
        self.0.publisher.follow_all(&self.0.fleet, follower, followees).await
    }

    /// Ends that `follower` follows `followee`, if it does.
    pub async fn unfollow(&self, follower: UserId, followee: UserId) -> Result<(), WriteError> {
        self.0.publisher.unfollow(&self.0.fleet, follower, followee).await
    }

    /// What is kept in memory, if anything is.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        self.0.memory.as_deref()
    }

    /// How writes are limited.
    pub(crate) fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// The shards and their placement.
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }
}
