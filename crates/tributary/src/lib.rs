//! Tributary is a home-timeline server and library over sharded databases. It answers one
//! question: *what have the people I follow posted, newest first?*
//!
//! It reads `followers` and `tweets` tables that are hash-sharded over MySQL or MariaDB servers, or
//! over SQLite files in one folder.
//!
//! # Read a timeline
//!
//! Open the fleet once, then read any number of pages from any number of tasks:
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
//! # Write, and read your own write
//!
//! [`Tributary::freshness`] names the log position that a write has reached. A page that requires
//! it contains the write. A page's `next` cursor leads to the older posts:
//!
//! ```no_run
//! # async fn run(tributary: tributary::Tributary) -> Result<(), Box<dyn std::error::Error>> {
//! use tributary::{IdempotencyKey, PageRequest, UserId};
//!
//! let (author, reader) = (UserId(7), UserId(42));
//! let key = IdempotencyKey::new("8e03978e-40d5-43e8-bc93-6894a57f9324");
//! tributary.publish(author, "hello", key).await?;
//!
//! let at_least = tributary.freshness(author).await;
//! let newest = PageRequest { at_least, ..PageRequest::default() };
//! let page = tributary.home_timeline(reader, &newest).await?;
//! if let Some(cursor) = page.next {
//!     let older = PageRequest { cursor, ..PageRequest::default() };
//!     let page = tributary.home_timeline(reader, &older).await?;
//!     println!("{} older posts", page.posts.len());
//! }
//! # Ok(()) }
//! ```
//!
//! # Terms
//!
//! - A *shard* is a database that owns some users: their posts and their follow lists. A *server*
//!   is a process with one log; it can hold many shards. [`placement`] maps a user to its shard.
//! - The *order* of posts is (time, post id, author id), newest first: [`PostKey`]. Pages are
//!   addressed by [`cursor`]s in this order and never by an offset.
//! - A shard that does not answer is no error. A page names such shards: *missing* if their posts
//!   are not on the page, *stale* if they come from memory ([`Page::missing`], [`Page::stale`]).
//!   The next page that can read a missing shard starts with its posts.
//! - *Memory* is a copy of recent posts and follow lists that follows the log of each server. It
//!   decides how fast a page is, never which posts are on it. With `memory.budget = 0` all pages
//!   are read from the databases.
//! - A [`freshness`] token is a set of log positions. A page that requires a token reflects at
//!   least these positions. Without a token, a page may miss the writes of the last milliseconds.
//!
//! # How a page is read
//!
//! 1. The HTTP server sends the cached page again if nothing on it has changed. Otherwise it calls
//!    [`Tributary::home_timeline`]; the module [`timeline`] makes all decisions of a read.
//! 2. Memory provides the reader's follow list and the posts that it has. If they make a complete
//!    page, no database is queried.
//! 3. Otherwise the databases are queried, once for all requests for the same page. The follow
//!    list costs one query, on the shard that owns the reader.
//! 4. The first wave reads one post of every followee that memory cannot answer for. Later waves
//!    read more posts of the few authors whose known posts are all on the page; `timeline::merge`
//!    chooses them. A wave queries the owning shards at the same time: [`shard::Fleet::scatter`].
//! 5. One more wave reads the texts of the posts that were not in memory. The [`Page`] then gets
//!    its cursors, which keep the start of each shard that did not answer.
//!
//! # How a post is written
//!
//! 1. The HTTP server calls [`Tributary::publish`]; the module [`publish`] makes all decisions of
//!    a write.
//! 2. The post gets a time and a generated id. One transaction on the shard that owns the author
//!    stores the post and its idempotency key. If the id is already used, another one is
//!    generated.
//! 3. If the connection is lost during COMMIT, a new connection finds out whether the commit took
//!    effect. Only a post that was certainly not stored is stored again, under the same id and
//!    key.
//! 4. Memory gets the post from the server's log, like the writes of any other program: the module
//!    [`changes`] decodes the log, and `apply` applies it.
//!
//! # Modules
//!
//! [`model`], [`cursor`], [`placement`], [`moment`], [`mapping`] and [`fit`] are pure: they know
//! no runtime, no SQL and no HTTP. Only [`shard`] has SQL. [`timeline`] reads and [`publish`]
//! writes. [`config`] holds every setting with its default.

mod apply;
pub mod changes;
pub mod clock;
pub mod config;
pub mod cursor;
pub mod fit;
pub mod freshness;
#[doc(hidden)]
pub mod internal;
pub mod mapping;
mod memory;
pub mod model;
pub mod moment;
pub mod placement;
mod post_id;
mod post_json;
pub mod publish;
pub mod shard;
pub mod timeline;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use config::Config;
pub use cursor::{BadCursor, Cursor};
pub use freshness::Freshness;
use memory::{LogName, Memory};
pub use model::{IdempotencyKey, Post, PostId, PostKey, ShardId, UserId};
use publish::Publisher;
pub use publish::{Followed, Published, WriteError};
pub use shard::{Access, Fleet, OpenError};
use timeline::{Draft, TimelineFlights, View};
pub use timeline::{Limit, Page, PageRequest, ReadError};
use tokio::task::JoinSet;

/// A fleet of shards, opened for reading and writing, and its memory. Cheap to clone; all clones
/// share connections and memory. Background tasks end when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Tributary(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    fleet: Fleet,
    publisher: Publisher,
    memory: Option<Arc<Memory>>,
    flights: TimelineFlights,
    /// The tasks that write into memory; dropping the set ends them.
    _writers: JoinSet<()>,
}

/// A part of a follow list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowingPage {
    /// The followees, by rising id.
    pub followees: Vec<UserId>,
    /// The id to continue from; `None` at the end of the list. If the shard did not answer, the id
    /// that this part was to start from.
    pub next: Option<UserId>,
    /// The reader's shard, if it did not answer.
    pub missing: BTreeSet<ShardId>,
}

impl Tributary {
    /// Opens the folder of shards as its only owner, or connects to all servers at the same time.
    ///
    /// # Errors Faults that an operator must fix: a wrong password, a missing table, index or
    /// privilege, a folder that another process owns. An unreachable server is not an error: its
    /// shards are missing from pages until the server answers.
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        Self::open_with(config, Access::Own).await
    }

    /// Like [`Tributary::open`]. With [`Access::Read`], reads a folder that another process owns;
    /// then there is no memory, and writes fail with [`WriteError::ReadOnly`].
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
        let (memory, queues) = Memory::new(budget, names.collect(), placement, times);
        let writers = apply::start(&memory, fleet.sources(), queues);
        let parts = Parts { fleet, publisher, memory: Some(memory), flights, _writers: writers };
        Ok(Self(Arc::new(parts)))
    }

    /// A page of posts by everyone `reader` follows. An unknown reader has an empty timeline.
    ///
    /// Cost: microseconds from memory. Without memory, one query for the follow list and at most
    /// six waves of simultaneous queries, for any number of followees. The call returns within
    /// `request.deadline_ms`; shards that have not answered by then are missing from the page.
    ///
    /// # Errors [`ReadError::TooManyFollowees`] if the reader follows more than
    /// [`timeline::FOLLOWEES_MAX`] users.
    pub async fn home_timeline(
        &self,
        reader: UserId,
        request: &PageRequest,
    ) -> Result<Page, ReadError> {
        internal::home_draft(self, reader, request).await.map(Draft::into_page)
    }

    /// A page of one author's posts; it costs what a home timeline with one followee costs.
    pub async fn author_timeline(&self, author: UserId, request: &PageRequest) -> Page {
        internal::author_draft(self, author, request).await.into_page()
    }

    fn view(&self) -> View<'_> {
        View::new(&self.0.fleet, self.0.memory.as_deref(), &self.0.flights)
    }

    /// The current end of the log of `user`'s shard. A page that requires it reflects every
    /// earlier write for the user, also those of other programs. The writes of this library return
    /// a token themselves. Empty without memory, where every page reflects all writes, and if the
    /// shard does not answer. One query.
    pub async fn freshness(&self, user: UserId) -> Freshness {
        let mut freshness = Freshness::default();
        if let Some(memory) = &self.0.memory {
            let source = self.0.fleet.sources().get(memory.log_index(user));
            if let Some(source) = source
                && let Ok(end) = source.log_end(self.0.fleet.read_deadline()).await
            {
                freshness.add(end.identity, end.end);
            }
        }
        freshness
    }

    /// At most `limit` users that `reader` follows, by rising id, starting with `from`. One query
    /// on one shard.
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

    /// One post, `None` if there is none; an error names the author's shard if it does not answer.
    /// One query.
    pub async fn post(&self, author: UserId, post: PostId) -> Result<Option<Post>, ShardId> {
        self.0.fleet.post(author, post, self.0.fleet.read_deadline()).await
    }

    /// Stores a post and returns when it is committed. Every page that requires
    /// [`Published::freshness`] contains the post; other pages contain it some milliseconds later.
    /// With a key, repeating the call stores the post once; keys are remembered for at least a day.
    ///
    /// # Errors After any [`WriteError`] except [`WriteError::InDoubt`] nothing is stored. After
    /// `InDoubt`, repeat the call with the same key.
    pub async fn publish(
        &self,
        author: UserId,
        content: &str,
        key: Option<IdempotencyKey>,
    ) -> Result<Published, WriteError> {
        self.0.publisher.publish(&self.0.fleet, author, content, key).await
    }

    /// Deletes a post; succeeds if there is no such post. One transaction. Returns the freshness of
    /// the change.
    pub async fn delete_post(&self, author: UserId, post: PostId) -> Result<Freshness, WriteError> {
        self.0.publisher.delete_post(&self.0.fleet, author, post).await
    }

    /// Makes `follower` follow `followee`; succeeds if it does already. One transaction.
    pub async fn follow(&self, follower: UserId, followee: UserId) -> Result<Followed, WriteError> {
        self.follow_all(follower, &[followee]).await
    }

    /// Makes `follower` follow all of `followees`, at most [`publish::FOLLOWS_MAX`], in one
    /// transaction. Returns the number of new follows. If the commit was in doubt and the write
    /// was repeated, follows that the first commit stored are not counted.
    pub async fn follow_all(
        &self,
        follower: UserId,
        followees: &[UserId],
    ) -> Result<Followed, WriteError> {
        self.0.publisher.follow_all(&self.0.fleet, follower, followees).await
    }

    /// Makes `follower` no longer follow `followee`; succeeds if it does not. One transaction.
    /// Returns the freshness of the change.
    pub async fn unfollow(
        &self,
        follower: UserId,
        followee: UserId,
    ) -> Result<Freshness, WriteError> {
        self.0.publisher.unfollow(&self.0.fleet, follower, followee).await
    }

    /// The memory, if `memory.budget` is above 0 and the fleet is not opened for reading.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        self.0.memory.as_deref()
    }

    /// The limits of writes.
    pub(crate) fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// The shards and their placement.
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }
}
