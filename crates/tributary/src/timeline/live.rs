//! A subscription: what is new, as soon as it is.
//!
//! Correctness comes from the reader of news alone, which reads all changes since a position. The
//! subscriber in memory only says when to read. So a subscription first registers the users that it
//! waits for and then reads, and reads once more whenever they have changed.

use std::time::Duration;

use futures_util::FutureExt;
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::news::{self, News, NewsRequest};
use super::view::View;
use super::{Limit, ReadError};
use crate::freshness::Freshness;
use crate::horizon::Horizon;
use crate::memory::{Full, Memory, Subject, Subscriber};
use crate::model::UserId;

/// Events and bytes of JSON of one answer.
const EVENTS_MAX: u8 = 100;
const BYTES_MAX: usize = 64 << 10;
/// A subscription rests after a read for this many times as long as the read took, and for
/// [`REST_MAX`] at most. So one that follows many busy users takes a tenth of a processor at most.
const REST_FACTOR: u32 = 9;
const REST_MAX: Duration = Duration::from_secs(1);
/// A later due time counts as this one: a day.
const DUE_MAX_MS: u64 = 86_400_000;
/// The pause before a shard that could not be read is read again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A reader that waits for news. Dropping it ends that.
#[derive(Debug)]
pub struct Subscription {
    reader: UserId,
    /// The position up to which news were returned. `None` before the first read without a token.
    since: Option<Freshness>,
    subscriber: Subscriber,
    /// There may be more: read before waiting.
    reads_next: bool,
    is_first: bool,
    /// A shard was missing in the last read.
    retries: bool,
    /// When a hidden post becomes visible, which changes no log.
    due: Option<Instant>,
    /// When the next read after a wake-up may begin.
    rested: Instant,
}

/// Why there is no subscription, or no longer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The timeline cannot be read at all.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Without memory there is nothing that follows the logs.
    #[error("subscriptions need memory: memory.budget above 0, and a fleet opened for writing")]
    NoMemory,
    /// The subscriptions of this process follow as many users as its memory may hold.
    #[error("the subscriptions have used up their share of memory; raise memory.budget")]
    Full,
}

impl From<Full> for SubscribeError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl Subscription {
    pub(crate) fn new(
        memory: Option<&Memory>,
        reader: UserId,
        since: Option<Freshness>,
    ) -> Result<Self, SubscribeError> {
        let mut subscriber = memory.ok_or(SubscribeError::NoMemory)?.subscribers().add()?;
        subscriber.watch([Subject::Reader(reader)].into_iter())?;
        Ok(Self {
            reader,
            since,
            subscriber,
            reads_next: true,
            is_first: true,
            retries: false,
            due: None,
            rested: Instant::now(),
        })
    }

    /// See [`crate::Tributary::next_news`]. `view` makes a view of this moment. Cancel-safe.
    pub(crate) async fn next<'a>(
        &mut self,
        view: impl Fn() -> View<'a>,
        patience: Duration,
    ) -> Result<News, SubscribeError> {
        let end = Instant::now() + patience;
        loop {
            let is_last = !self.reads_next && !self.wait(end).await;
            self.reads_next = true;
            // In a box, so that a subscription that waits takes little memory.
            let news = self.read(view()).boxed().await?;
            let is_news = !news.events.is_empty() || news.gap;
            if is_news || is_last || std::mem::take(&mut self.is_first) {
                self.is_first = false;
                return Ok(news);
            }
        }
    }

    /// Whether it has something to read before it waits.
    #[cfg(test)]
    pub(crate) fn is_woken(&mut self) -> bool {
        self.reads_next |= self.subscriber.woken().now_or_never().is_some();
        self.reads_next
    }

    /// Reads before it waits, as it does when a post is due.
    #[cfg(test)]
    pub(crate) fn read_next(&mut self) {
        self.reads_next = true;
    }

    /// Waits until there may be something to read. False at the end of the time.
    async fn wait(&mut self, end: Instant) -> bool {
        let retry = self.retries.then(|| Instant::now() + RETRY_PAUSE);
        let again = retry.into_iter().chain(self.due).min().unwrap_or(end);
        if timeout_at(end.min(again), self.subscriber.woken()).await.is_err() {
            return again < end;
        }
        // Before the pause, which the caller may cancel.
        self.reads_next = true;
        sleep_until(self.rested).await;
        true
    }

    /// Reads what is new once.
    pub(crate) async fn read(&mut self, mut view: View<'_>) -> Result<News, SubscribeError> {
        let start = Instant::now();
        let limit = Limit::new(EVENTS_MAX).unwrap_or(Limit::DEFAULT);
        let request = NewsRequest { since: self.since.clone(), limit, ..NewsRequest::default() };
        if let Some(memory) = view.memory() {
            // Memory then fills the follow list, also an empty one.
            memory.register_user(self.reader);
        }
        let (news, authors) =
            news::with_authors(&mut view, self.reader, &request, BYTES_MAX).await?;
        let is_changed = match authors {
            Some(authors) => self.watch(&authors)?,
            // Without a token, the first read is only about the position.
            None => request.since.is_none(),
        };
        self.reads_next = news.more || is_changed;
        self.retries = !news.missing.is_empty();
        let in_ms = news.next_due_ms.map(Horizon::ms_until);
        self.due = in_ms.map(|ms| Instant::now() + Duration::from_millis(ms.min(DUE_MAX_MS)));
        self.rested = Instant::now() + (start.elapsed() * REST_FACTOR).min(REST_MAX);
        self.since = Some(news.freshness.clone());
        Ok(news)
    }

    /// Waits for changes of the reader's lists, of blocks and of these authors from now on. Returns
    /// whether they are others than before.
    fn watch(&mut self, authors: &[UserId]) -> Result<bool, Full> {
        let authors = authors.iter().map(|author| Subject::Author(*author));
        let own = [Subject::Reader(self.reader), Subject::Blocked(self.reader)];
        self.subscriber.watch(authors.chain(own))
    }
}
