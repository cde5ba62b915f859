//! One request of the HTTP server, with the page as it is sent.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use crate::Tributary;
use crate::changes::{LogIdentity, LogPosition};
use crate::freshness::Freshness;
use crate::memory::{CachedPage, FollowedLog, PageQuery, SentPage, Slot};
use crate::model::{PostAddress, UserId};
use crate::shard::Fleet;
use crate::timeline::explain::{Explanation, MemoryUse};
use crate::timeline::{self, AroundError, Draft, PageRequest, ReadError};

impl Draft {
    /// [`Tributary::home_timeline`], with posts from memory as their JSON.
    ///
    /// # Errors
    /// As [`Tributary::home_timeline`].
    pub async fn home(
        tributary: &Tributary,
        reader: UserId,
        request: &PageRequest,
    ) -> Result<Self, ReadError> {
        timeline::home_timeline(&mut tributary.view(), reader, request).await
    }

    /// [`Tributary::home_timeline_around`], with posts from memory as their JSON.
    ///
    /// # Errors
    /// As [`Tributary::home_timeline_around`].
    pub async fn around(
        tributary: &Tributary,
        reader: UserId,
        post: PostAddress,
        request: &PageRequest,
    ) -> Result<Option<Self>, AroundError> {
        timeline::home_timeline_around(&mut tributary.view(), reader, post, request).await
    }

    /// [`Tributary::explain`], with posts from memory as their JSON.
    pub async fn explained(
        tributary: &Tributary,
        reader: UserId,
        request: &PageRequest,
        memory: MemoryUse,
    ) -> (Result<Self, ReadError>, Explanation) {
        timeline::explained_home_timeline(tributary.view(), reader, request, memory).await
    }

    /// The page of a home timeline, if all of it is in fresh memory. Does not wait for anything.
    pub fn home_from_memory(
        tributary: &Tributary,
        reader: UserId,
        request: &PageRequest,
    ) -> Option<Self> {
        timeline::warm_home_timeline(&mut tributary.view(), reader, request)
    }

    /// [`Tributary::author_timeline`], with posts from memory as their JSON.
    pub async fn author(tributary: &Tributary, author: UserId, request: &PageRequest) -> Self {
        timeline::author_timeline(&mut tributary.view(), author, request).await
    }
}

/// A page in the page cache.
struct Hit(Arc<CachedPage>);

impl Deref for Hit {
    type Target = SentPage;

    fn deref(&self) -> &SentPage {
        &self.0.sent
    }
}

impl SentPage {
    /// The reader's page that was cached for this cursor, as it was sent, and these parameters; and
    /// its freshness. `None` unless memory is fresh for all users that the page depends on, has
    /// reached `at_least`, and has applied no change to these users since. The request began `now`.
    pub fn cached(
        tributary: &Tributary,
        reader: UserId,
        (cursor, limit, include_self): (&str, usize, bool),
        (at_least, now): (&Freshness, Instant),
    ) -> Option<(impl Deref<Target = Self> + use<>, Freshness)> {
        let memory = tributary.memory()?;
        let own = fleet(tributary).horizon().at(now);
        let horizon = own.map(|own| at_least.horizon().map_or(own, |shown| own.max(shown)));
        let has = |(identity, at): &(LogIdentity, LogPosition)| {
            memory.logs().iter().any(|log| log.has_reached(*identity, *at))
        };
        if !at_least.positions().iter().all(has) {
            return None;
        }
        // Read before the page is compared with memory: it has all changes up to here.
        let mut freshness = Freshness::default();
        for (identity, seen) in memory.logs().iter().filter_map(FollowedLog::reached) {
            freshness.set(identity, Some(seen), seen.after);
        }
        let query = PageQuery { cursor, limit, include_self };
        let page = memory.cached_page(reader, query, (memory.ms_at(now), horizon))?;
        freshness.set_horizon(horizon);
        for (identity, at) in memory.logs().iter().filter_map(FollowedLog::announced) {
            freshness.widen(identity, at);
        }
        Some((Hit(page), freshness))
    }

    /// Caches the page as it is sent, if all of `page` came from memory and the reader has
    /// requested it before.
    pub fn cache(
        &self,
        tributary: &Tributary,
        reader: UserId,
        (cursor, limit, include_self): (&str, usize, bool),
        page: &Draft,
    ) {
        let Some((memory, as_of)) = tributary.memory().zip(page.as_of) else { return };
        let Some(reader) = memory.find(reader) else { return };
        let query = PageQuery { cursor, limit, include_self };
        if memory.note_request(reader, query, as_of) {
            let authors: BTreeSet<Slot> =
                page.posts.iter().filter_map(|post| memory.find(post.key().author)).collect();
            let authors = authors.into_iter().collect();
            memory.cache_page(CachedPage::new((reader, query), (as_of, page.until), authors, self));
        }
    }
}

/// The shards and their placement.
pub fn fleet(tributary: &Tributary) -> &Fleet {
    &tributary.0.fleet
}
