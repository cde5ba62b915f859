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
//! let page = tributary.home_timeline(UserId::from(42), &PageRequest::default()).await?;
//! for post in &page.posts {
//!     println!("{}: {}", post.key.author, post.content);
//! }
//! # Ok(()) }
//! ```
//!
//! # Write, and read your own write
//!
//! A write returns a token for the log position that it has reached. A page that requires the token
//! contains the write. A page's `next` cursor leads to the older posts:
//!
//! ```no_run
//! # async fn run(tributary: tributary::Tributary) -> Result<(), Box<dyn std::error::Error>> {
//! use tributary::{IdempotencyKey, PageRequest, UserId};
//!
//! let (author, reader) = (UserId::from(7), UserId::from(42));
//! let key = IdempotencyKey::new("8e03978e-40d5-43e8-bc93-6894a57f9324");
//! let published = tributary.publish(author, "hello", key).await?;
//!
//! let newest = PageRequest::default().at_least(published.freshness);
//! let page = tributary.home_timeline(reader, &newest).await?;
//! if let Some(cursor) = page.next {
//!     let older = PageRequest::default().from(cursor);
//!     let page = tributary.home_timeline(reader, &older).await?;
//!     println!("{} older posts", page.posts.len());
//! }
//! # Ok(()) }
//! ```
//!
//! # Terms
//!
//! - A *shard* is a database that owns some users: their posts and their follow lists. A *server*
//!   is a process with one log; it can hold many shards. The placement maps a user to its shard.
//! - The *order* of posts is (time, post id, author id), newest first: [`PostKey`]. Pages are
//!   addressed by [`Cursor`]s in this order and never by an offset.
//! - A shard that does not answer is no error. A page names such shards: *missing* if their posts
//!   are not on the page, *stale* if they come from memory ([`Page::missing`], [`Page::stale`]).
//!   The next page that can read a missing shard starts with its posts.
//! - *Memory* is a copy of recent posts and follow lists that follows the log of each server. It
//!   decides how fast a page is, never which posts are on it. With `memory.budget = 0` all pages
//!   are read from the databases.
//! - A [`Freshness`] token is a set of log positions. A page that requires a token reflects at
//!   least these positions. Without a token, a page may miss the writes of the last milliseconds.
//!
//! # Errors and missing shards
//!
//! Every call returns within `request.deadline_ms`. A read never fails because a shard does not
//! answer: [`Page`], [`FoundPost`] and the types of [`graph`] and [`posts`] have a set `missing` of
//! such shards. [`ReadError`] and [`WriteError`] say what the caller can do. After any write error
//! except [`WriteError::InDoubt`], nothing is stored.
//!
//! # Explanations
//!
//! [`Tributary::explain`] reads a page and says how: see [`explain`].
//!
//! # Background tasks
//!
//! [`Tributary::open`] starts tasks on the current tokio runtime, which should have several
//! workers: they follow the logs and check the servers. [`Tributary::close`] ends them.
//!
//! # Features
//!
//! `mysql` and `sqlite`, both on by default: the kinds of databases. `serde`: ids as strings.
//!
//! The routes of the HTTP API are in the crate `tributary-server`. ARCHITECTURE.md describes the
//! modules of this crate, and how a page is read and a post is written.

#![cfg_attr(
    not(all(feature = "mysql", feature = "sqlite")),
    allow(
        dead_code,
        unused_imports,
        unused_mut,
        unused_variables,
        reason = "each kind of database uses its own part"
    )
)]

#[cfg(not(any(feature = "mysql", feature = "sqlite")))]
compile_error!("enable the feature `mysql` or `sqlite`, or both");

mod apply;
mod backoff;
mod changes;
mod clock;
pub mod config;
mod cursor;
mod fit;
mod freshness;
pub mod graph;
mod horizon;
#[doc(hidden)]
pub mod internal;
mod mapping;
mod memory;
mod model;
mod moment;
mod operations;
mod placement;
mod post_id;
mod post_json;
pub mod posts;
mod problems;
mod publish;
mod shard;
mod tasks;
mod timeline;
mod users;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use config::Config;
pub use cursor::{BadCursor, Cursor};
pub use freshness::{BadFreshness, Freshness};
use graph::{Counts, FollowingPage, GraphError, ListPage, NotStored, Relationships, Unfollowed};
use memory::{LogName, Memory, MemorySizes};
use model::UserList;
pub use model::{IdError, IdempotencyKey, Post, PostId, PostKey, ShardId, UserId};
pub use publish::{Followed, Published, WriteError};
use publish::{Operation, Publisher};
use shard::{Access, Fleet, Turn};
pub use shard::{OpenError, ShardHealth};
use timeline::{Draft, TimelineFlights, View};
pub use timeline::{Limit, Page, PageRequest, ReadError, explain, news};

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
}

/// The answer to a look-up of one post.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundPost {
    /// The post, if there is one.
    pub post: Option<Post>,
    /// The author's shard, if it did not answer: then it is not known whether there is a post.
    pub missing: BTreeSet<ShardId>,
}

impl Tributary {
    /// The longest follow list that a home timeline is read for. A longer list is an error
    /// ([`ReadError::TooManyFollowees`]), because a cut list would give incomplete timelines.
    pub const FOLLOWEES_MAX: usize = model::FOLLOWEES_MAX;
    /// The most follows of one call of [`Tributary::follow_all`].
    pub const FOLLOWS_MAX: usize = publish::FOLLOWS_MAX;

    /// Opens the folder of shards as its only owner, or connects to all servers at the same time.
    ///
    /// # Errors
    /// Faults that an operator must fix: a wrong password, a missing table, index or
    /// privilege, a folder that another process owns. An unreachable server is not an error: its
    /// shards are missing from pages until the server answers.
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        Self::open_with(config, Access::Own).await
    }

    /// Like [`Tributary::open`], for reading only: there is no memory, and writes fail with
    /// [`WriteError::ReadOnly`]. A folder may be owned by another process at the same time.
    ///
    /// # Errors
    /// As [`Tributary::open`]; a folder must exist.
    pub async fn open_read_only(config: &Config) -> Result<Self, OpenError> {
        Self::open_with(config, Access::Read).await
    }

    async fn open_with(config: &Config, access: Access) -> Result<Self, OpenError> {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let fleet = Fleet::open(config, access).await?;
        let publisher = Publisher::new(&config.write, access, fleet.health().len());
        let budget = if access == Access::Own { config.memory.bytes() } else { 0 };
        let flights = TimelineFlights::new();
        if budget == 0 {
            return Ok(Self(Arc::new(Parts { fleet, publisher, memory: None, flights })));
        }
        let names = fleet
            .sources()
            .iter()
            .map(|source| LogName { name: source.name().to_owned(), shards: source.shards() });
        let (placement, times) = (fleet.placement().clone(), fleet.times().clone());
        let sizes = MemorySizes { budget, news: config.memory.news_bytes() };
        let (memory, queues) = Memory::new(sizes, names.collect(), placement, times);
        apply::start(&memory, fleet.sources(), queues, fleet.tasks());
        Ok(Self(Arc::new(Parts { fleet, publisher, memory: Some(memory), flights })))
    }

    /// A page of posts by everyone `reader` follows. An unknown reader has an empty timeline.
    ///
    /// Cost: microseconds from memory. Without memory, one query for the follow list and at most
    /// seven waves of simultaneous queries, for any number of followees. The call returns within
    /// `request.deadline_ms`; shards that have not answered by then are missing from the page.
    ///
    /// # Errors
    /// [`ReadError::TooManyFollowees`] if the reader follows more than
    /// [`Tributary::FOLLOWEES_MAX`] users.
    pub async fn home_timeline(
        &self,
        reader: UserId,
        request: &PageRequest,
    ) -> Result<Page, ReadError> {
        Draft::home(self, reader, request).await.map(Draft::into_page)
    }

    /// The page of `reader`'s home timeline around a post, to open the timeline where the reader
    /// left it: up to half of the posts are newer than it, then it follows, if it is in the
    /// timeline, then older ones. `next` and `prev` lead on from both ends. `None` if there is no
    /// such post. Costs a query and two pages. The cursor of the request is not used.
    ///
    /// ```no_run
    /// # async fn run(tributary: tributary::Tributary) -> Result<(), Box<dyn std::error::Error>> {
    /// use tributary::posts::PostAddress;
    /// use tributary::{PageRequest, PostId, UserId};
    ///
    /// let place = PostAddress { author: UserId::from(7), post: PostId::from(71) };
    /// let request = PageRequest::default();
    /// match tributary.home_timeline_around(UserId::from(42), place, &request).await? {
    ///     Some(page) => println!("{} posts", page.posts.len()),
    ///     None => println!("the post was deleted"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Tributary::home_timeline`], and if the shard of the post's author does not answer, or a
    /// shard has no index for reading a post by its address.
    pub async fn home_timeline_around(
        &self,
        reader: UserId,
        post: posts::PostAddress,
        request: &PageRequest,
    ) -> Result<Option<Page>, posts::AroundError> {
        let page = Draft::around(self, reader, post, request).await?;
        Ok(page.map(Draft::into_page))
    }

    /// [`Tributary::home_timeline`], with an explanation of how the page was read: the plan, the
    /// part of each shard, the time of each step. It costs a few queries more on each server that
    /// is queried, and shares no query with other requests.
    pub async fn explain(
        &self,
        reader: UserId,
        request: &PageRequest,
        memory: explain::MemoryUse,
    ) -> (Result<Page, ReadError>, explain::Explanation) {
        let (draft, explanation) = Draft::explained(self, reader, request, memory).await;
        (draft.map(Draft::into_page), explanation)
    }

    /// A page of one author's posts; it costs what a home timeline with one followee costs.
    ///
    /// # Errors
    /// None at present.
    pub async fn author_timeline(
        &self,
        author: UserId,
        request: &PageRequest,
    ) -> Result<Page, ReadError> {
        Ok(Draft::author(self, author, request).await.into_page())
    }

    /// The changes of `reader`'s home timeline since a token. Without a token, the token to begin
    /// with: read a page that requires it, then ask for news since it.
    ///
    /// After [`news::News::gap`], read the page again. Cost: a look-up in memory for each followee.
    /// The call returns within `request.deadline_ms`.
    ///
    /// # Errors
    /// As [`Tributary::home_timeline`].
    pub async fn news(
        &self,
        reader: UserId,
        request: &news::NewsRequest,
    ) -> Result<news::News, ReadError> {
        news::news(&mut self.view(), reader, request).await
    }

    /// The number of posts that became visible in `reader`'s home timeline since a token and still
    /// are. The second value says whether they are all: see its `gap`, `missing` and `stale`.
    ///
    /// # Errors
    /// As [`Tributary::home_timeline`].
    pub async fn count_new_posts(
        &self,
        reader: UserId,
        request: &news::NewsRequest,
    ) -> Result<(usize, news::News), ReadError> {
        news::count(&mut self.view(), reader, request).await
    }

    /// Begins to wait for changes of `reader`'s home timeline since a token, or from now on.
    ///
    /// # Errors
    /// There is no memory, or the subscriptions have used up their share of it.
    pub fn subscribe(
        &self,
        reader: UserId,
        since: Option<Freshness>,
    ) -> Result<news::Subscription, news::SubscribeError> {
        news::Subscription::new(self.memory(), reader, since)
    }

    /// Waits for changes of a subscription. They are what [`Tributary::news`] returns, and it holds
    /// for them too. The first call returns at once with the token that the subscription begins
    /// with, and so does a call after `patience`: its answer can have no events, but a later token.
    /// A call that is dropped loses nothing.
    ///
    /// # Errors
    /// As [`Tributary::home_timeline`], and if the reader follows more users than memory has room
    /// for.
    pub async fn next_news(
        &self,
        subscription: &mut news::Subscription,
        patience: Duration,
    ) -> Result<news::News, news::SubscribeError> {
        subscription.next(|| self.view(), patience).await
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
                freshness.set_horizon(self.0.fleet.horizon().now());
            }
        }
        freshness
    }

    /// At most `limit` users that `reader` follows, by rising id, starting with `from`. One query
    /// on one shard.
    ///
    /// # Errors
    /// None at present.
    pub async fn following(
        &self,
        reader: UserId,
        from: UserId,
        limit: Limit,
    ) -> Result<FollowingPage, ReadError> {
        let list = (UserList::Follows, reader);
        let page = graph::listed(&self.0.fleet, list, from, limit).await;
        Ok(FollowingPage { followees: page.users, next: page.next, missing: page.missing })
    }

    /// One post. One query.
    ///
    /// # Errors
    /// None at present.
    pub async fn post(&self, author: UserId, post: PostId) -> Result<FoundPost, ReadError> {
        let found = self.0.fleet.post(author, post, self.0.fleet.read_deadline()).await;
        Ok(match found {
            Ok(post) => FoundPost { post, missing: BTreeSet::new() },
            Err(shard) => FoundPost { post: None, missing: BTreeSet::from([shard]) },
        })
    }

    /// The posts with these addresses, at most [`posts::POSTS_MAX`]. One wave of queries on the
    /// shards of their authors.
    ///
    /// ```no_run
    /// # async fn run(tributary: tributary::Tributary) -> Result<(), Box<dyn std::error::Error>> {
    /// use tributary::posts::PostAddress;
    /// use tributary::{PostId, UserId};
    ///
    /// let address = PostAddress { author: UserId::from(7), post: PostId::from(71) };
    /// let found = tributary.posts(&[address]).await?;
    /// for post in &found.posts {
    ///     println!("{}: {}", post.key.author, post.content);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`NotStored`] if a shard has no index for it.
    pub async fn posts(&self, addresses: &[posts::PostAddress]) -> Result<posts::Posts, NotStored> {
        posts::read(&self.0.fleet, addresses).await
    }

    /// The numbers of replies and reposts of these posts, at most [`posts::POSTS_MAX`]. One wave of
    /// queries on all shards.
    ///
    /// # Errors
    /// [`NotStored`] if the shards have no columns for references, or one has no index for them.
    pub async fn post_counts(
        &self,
        addresses: &[posts::PostAddress],
    ) -> Result<posts::Counted, NotStored> {
        posts::counts(&self.0.fleet, addresses).await
    }

    /// The first [`graph::USERS_FOUND_MAX`] users whose handles begin with `prefix`, by handle. One
    /// wave of queries on all shards.
    ///
    /// # Errors
    /// [`NotStored`] if the shards have no table of handles, or one has no index for them.
    pub async fn find_users(&self, prefix: &str) -> Result<graph::FoundUsers, NotStored> {
        users::find(&self.0.fleet, prefix).await
    }

    /// The handles and display names of these users: from memory, or else by one wave of queries.
    pub async fn names(&self, users: &[UserId]) -> graph::Names {
        let (by_user, queried) = timeline::names(&self.view(), users, Turn::First).await;
        graph::Names { by_user, queried }
    }

    /// Stores a post and returns when it is committed. Every page that requires
    /// [`Published::freshness`] contains the post; other pages contain it some milliseconds later.
    /// With a key, repeating the call stores the post once; keys are remembered for at least a day.
    ///
    /// # Errors
    /// After any [`WriteError`] except [`WriteError::InDoubt`] nothing is stored. After
    /// `InDoubt`, repeat the call with the same key.
    pub async fn publish(
        &self,
        author: UserId,
        content: &str,
        key: Option<IdempotencyKey>,
    ) -> Result<Published, WriteError> {
        self.store_post(author, (content, posts::References::default()), key).await
    }

    /// As [`Tributary::publish`], for a reply or a repost. A repost may have an empty text. Whether
    /// the posts that it refers to exist is not checked.
    ///
    /// ```no_run
    /// # async fn run(tributary: tributary::Tributary) -> Result<(), Box<dyn std::error::Error>> {
    /// use tributary::posts::{PostAddress, References};
    /// use tributary::{PostId, UserId};
    ///
    /// let first = PostAddress { author: UserId::from(7), post: PostId::from(71) };
    /// let references = References { reply_to: Some(first), ..References::default() };
    /// let reply = tributary.publish_with(UserId::from(9), "indeed", references, None).await?;
    /// assert_eq!(reply.post.references.reply_to, Some(first));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Tributary::publish`], and [`graph::NotStored`] if the posts table has no columns for
    /// references.
    pub async fn publish_with(
        &self,
        author: UserId,
        content: &str,
        references: posts::References,
        key: Option<IdempotencyKey>,
    ) -> Result<Published, GraphError> {
        if !references.is_empty() {
            posts::require_references(&self.0.fleet)?;
        }
        Ok(self.store_post(author, (content, references), key).await?)
    }

    async fn store_post(
        &self,
        author: UserId,
        post: (&str, posts::References),
        key: Option<IdempotencyKey>,
    ) -> Result<Published, WriteError> {
        let (publisher, fleet) = (&self.0.publisher, &self.0.fleet);
        let done = publisher.publish(fleet, author, post, key).await;
        let replayed = done.as_ref().is_ok_and(|published| published.replayed);
        publisher.counts().note(Operation::Post, &done, replayed);
        done
    }

    /// Deletes a post; succeeds if there is no such post. One transaction. Returns the freshness of
    /// the change.
    pub async fn delete_post(&self, author: UserId, post: PostId) -> Result<Freshness, WriteError> {
        let (publisher, fleet) = (&self.0.publisher, &self.0.fleet);
        let done = publisher.delete_post(fleet, author, post).await;
        publisher.counts().note(Operation::DeletePost, &done, false);
        done
    }

    /// Makes `follower` follow `followee`; succeeds if it does already. One transaction.
    pub async fn follow(&self, follower: UserId, followee: UserId) -> Result<Followed, WriteError> {
        self.follow_all(follower, &[followee]).await
    }

    /// Makes `follower` follow all of `followees`, at most [`Tributary::FOLLOWS_MAX`], in one
    /// transaction. Returns the number of new follows. If the commit was in doubt and the write
    /// was repeated, follows that the first commit stored are not counted.
    ///
    /// # Errors
    /// [`WriteError::TooManyFollowees`] if the list would have more than
    /// [`Tributary::FOLLOWEES_MAX`] users. Calls at the same time, also of other processes, do not
    /// exceed the limit as long as there are no more than 32 of them for one follower. Rows that
    /// other programs write are not limited.
    pub async fn follow_all(
        &self,
        follower: UserId,
        followees: &[UserId],
    ) -> Result<Followed, WriteError> {
        let (publisher, fleet) = (&self.0.publisher, &self.0.fleet);
        let done = publisher.list(fleet, (UserList::Follows, follower), followees).await;
        publisher.counts().note(Operation::Follow, &done, false);
        done
    }

    /// Makes `follower` no longer follow `followee`; succeeds if it does not. One transaction.
    /// Returns the freshness of the change.
    pub async fn unfollow(
        &self,
        follower: UserId,
        followee: UserId,
    ) -> Result<Freshness, WriteError> {
        self.unfollow_all(follower, &[followee]).await.map(|done| done.freshness)
    }

    /// Makes `follower` no longer follow any of `followees`, at most [`Tributary::FOLLOWS_MAX`], in
    /// one transaction. Returns the number of follows that existed.
    pub async fn unfollow_all(
        &self,
        follower: UserId,
        followees: &[UserId],
    ) -> Result<Unfollowed, WriteError> {
        let (publisher, fleet) = (&self.0.publisher, &self.0.fleet);
        let done = publisher.unlist(fleet, (UserList::Follows, follower), followees).await;
        publisher.counts().note(Operation::Unfollow, &done, false);
        done
    }

    /// At most `limit` followers of `user`, by rising id, starting with `from`. One query on each
    /// shard, at the same time.
    ///
    /// # Errors
    /// [`NotStored`] if a shard has no index for it.
    pub async fn followers(
        &self,
        user: UserId,
        from: UserId,
        limit: Limit,
    ) -> Result<ListPage, NotStored> {
        graph::followers(&self.0.fleet, user, from, limit).await
    }

    /// The numbers of followees and followers, exact up to [`graph::COUNT_MAX`]. One wave of
    /// queries.
    ///
    /// # Errors
    /// [`NotStored`] if a shard has no index for it.
    pub async fn follow_counts(&self, user: UserId) -> Result<Counts, NotStored> {
        graph::counts(&self.0.fleet, user).await
    }

    /// How `user` and each of `others` are related: follows, mutes and blocks. Of more than
    /// [`graph::RELATIONSHIPS_MAX`] users, the rest is skipped. One wave of queries.
    pub async fn relationships(&self, user: UserId, others: &[UserId]) -> Relationships {
        let others = others.get(..graph::RELATIONSHIPS_MAX).unwrap_or(others);
        graph::relationships(&self.0.fleet, user, others).await
    }

    /// Hides all posts of `muted` from the home timeline of `user`, whether or not the user follows
    /// `muted`. One transaction. A page that requires the result does not have these posts.
    ///
    /// # Errors
    /// [`GraphError::NotStored`] if the shards have no table of mutes.
    pub async fn mute(&self, user: UserId, muted: UserId) -> Result<Freshness, GraphError> {
        self.hide((UserList::Mutes, user), muted).await
    }

    /// Ends a mute; succeeds if there is none.
    ///
    /// # Errors
    /// As [`Tributary::mute`].
    pub async fn unmute(&self, user: UserId, muted: UserId) -> Result<Freshness, GraphError> {
        self.unhide((UserList::Mutes, user), muted).await
    }

    /// Hides the posts of both users from the home timeline of the other one. The follows stay. One
    /// transaction. A page that requires the result reflects the block, for both users.
    ///
    /// # Errors
    /// [`GraphError::NotStored`] if the shards have no table of blocks.
    pub async fn block(&self, user: UserId, blocked: UserId) -> Result<Freshness, GraphError> {
        self.hide((UserList::Blocks, user), blocked).await
    }

    /// Ends a block; succeeds if there is none.
    ///
    /// # Errors
    /// As [`Tributary::block`].
    pub async fn unblock(&self, user: UserId, blocked: UserId) -> Result<Freshness, GraphError> {
        self.unhide((UserList::Blocks, user), blocked).await
    }

    /// At most `limit` users that `user` mutes, by rising id, starting with `from`. One query.
    ///
    /// # Errors
    /// [`NotStored`] if the shards have no table of mutes.
    pub async fn mutes(
        &self,
        user: UserId,
        from: UserId,
        limit: Limit,
    ) -> Result<ListPage, NotStored> {
        graph::require(&self.0.fleet, UserList::Mutes)?;
        Ok(graph::listed(&self.0.fleet, (UserList::Mutes, user), from, limit).await)
    }

    /// At most `limit` users that `user` blocks, by rising id, starting with `from`. One query.
    ///
    /// # Errors
    /// [`NotStored`] if the shards have no table of blocks.
    pub async fn blocks(
        &self,
        user: UserId,
        from: UserId,
        limit: Limit,
    ) -> Result<ListPage, NotStored> {
        graph::require(&self.0.fleet, UserList::Blocks)?;
        Ok(graph::listed(&self.0.fleet, (UserList::Blocks, user), from, limit).await)
    }

    async fn hide(&self, list: (UserList, UserId), user: UserId) -> Result<Freshness, GraphError> {
        graph::require(&self.0.fleet, list.0)?;
        let done = self.0.publisher.list(&self.0.fleet, list, &[user]).await;
        self.0.publisher.counts().note(Operation::adds_to(list.0), &done, false);
        Ok(done?.freshness)
    }

    async fn unhide(
        &self,
        list: (UserList, UserId),
        user: UserId,
    ) -> Result<Freshness, GraphError> {
        graph::require(&self.0.fleet, list.0)?;
        let done = self.0.publisher.unlist(&self.0.fleet, list, &[user]).await;
        self.0.publisher.counts().note(Operation::removes_from(list.0), &done, false);
        Ok(done?.freshness)
    }

    /// Ends the background tasks, commits the writes that are queued, and closes the connections.
    /// Returns when all of them have ended. Other clones must not be used after that: their writes
    /// fail, and their reads have no memory.
    pub async fn close(self) {
        self.0.fleet.close().await;
    }

    /// The memory, if `memory.budget` is above 0 and the fleet is not opened for reading.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        self.0.memory.as_deref()
    }

    /// The most bytes that the text of a new post may have: `write.content_bytes_max`.
    pub fn content_bytes_max(&self) -> usize {
        self.0.publisher.content_bytes_max()
    }

    /// The name and the state of every shard, in configured order.
    pub fn health(&self) -> Vec<ShardHealth<'_>> {
        self.0.fleet.health()
    }

    /// The configured name of a shard.
    pub fn shard_name(&self, shard: ShardId) -> &str {
        self.0.fleet.shard_name(shard)
    }
}
