//! The open streams: how many there are, and which of them ends to make room.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::warn;
use tributary::UserId;
use tributary::internal::stats::Occurrences;

use crate::error::ApiError;

/// Streams of one reader. Another one ends the oldest, whose client has perhaps gone without a
/// word.
const PER_READER_MAX: usize = 16;

/// All open streams.
#[derive(Debug)]
pub(crate) struct Streams {
    max: usize,
    open: AtomicUsize,
    /// The streams of each reader, the oldest first.
    readers: Mutex<HashMap<UserId, VecDeque<Arc<End>>>>,
    stopped: AtomicBool,
    refused: Occurrences,
    ended: [AtomicU64; EndReason::ALL.len()],
    pub(super) events: AtomicU64,
}

/// Why a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// Its client closed the connection or did not read.
    Client,
    /// Its credential expired or was revoked.
    Credential,
    /// Its reader has opened too many others.
    Replaced,
    /// Unread events of all streams held too many bytes.
    ByteLimit,
    /// The timeline cannot be read any more.
    Unreadable,
    /// The server stops.
    Stopped,
}

impl EndReason {
    const ALL: [Self; 6] = [
        Self::Client,
        Self::Credential,
        Self::Replaced,
        Self::ByteLimit,
        Self::Unreadable,
        Self::Stopped,
    ];

    /// The name in the metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Credential => "credential",
            Self::Replaced => "replaced",
            Self::ByteLimit => "byte_limit",
            Self::Unreadable => "unreadable",
            Self::Stopped => "stopped",
        }
    }
}

/// The numbers of streams and events.
#[derive(Clone, Debug)]
pub(crate) struct StreamStats {
    pub(crate) open: usize,
    pub(crate) refused: u64,
    pub(crate) events: u64,
    /// The streams that have ended, by reason.
    pub(crate) ended: Vec<(&'static str, u64)>,
}

/// The request to end a stream.
#[derive(Debug, Default)]
struct End(Notify);

/// An open stream. Dropping it makes room for another one.
#[derive(Debug)]
pub(super) struct OpenStream {
    all: Arc<Streams>,
    reader: UserId,
    end: Arc<End>,
    /// Why it ends, if the server ends it.
    pub(super) reason: EndReason,
}

impl Streams {
    /// At most `max` streams.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: AtomicUsize::new(0),
            readers: Mutex::default(),
            stopped: AtomicBool::new(false),
            refused: Occurrences::default(),
            ended: Default::default(),
            events: AtomicU64::new(0),
        })
    }

    /// Opens a stream of a reader.
    ///
    /// # Errors
    /// All are taken, or the server stops.
    pub(super) fn open(self: &Arc<Self>, reader: UserId) -> Result<OpenStream, ApiError> {
        let end = Arc::new(End::default());
        let mut readers = self.readers();
        if self.stopped.load(Ordering::Relaxed) {
            return Err(ApiError::TooManyStreams);
        }
        if self.open.load(Ordering::Relaxed) >= self.max {
            self.refuse();
            return Err(ApiError::TooManyStreams);
        }
        let own = readers.entry(reader).or_default();
        if own.len() >= PER_READER_MAX
            && let Some(oldest) = own.pop_front()
        {
            oldest.0.notify_one();
        }
        own.push_back(Arc::clone(&end));
        self.open.fetch_add(1, Ordering::Relaxed);
        drop(readers);
        Ok(OpenStream { all: Arc::clone(self), reader, end, reason: EndReason::Client })
    }

    /// Counts a refused stream; the log has it at most once an hour.
    pub(super) fn refuse(&self) {
        if self.refused.note() {
            let streams = self.open.load(Ordering::Relaxed);
            warn!(streams, "Streams are all taken; another one is refused. See http.streams_max");
        }
    }

    /// Ends all streams and opens none any more.
    pub(crate) fn stop(&self) {
        let readers = self.readers();
        self.stopped.store(true, Ordering::Relaxed);
        readers.values().flatten().for_each(|end| end.0.notify_one());
    }

    pub(crate) fn stats(&self) -> StreamStats {
        let ended = EndReason::ALL.into_iter().zip(&self.ended);
        StreamStats {
            open: self.open.load(Ordering::Relaxed),
            refused: self.refused.count(),
            events: self.events.load(Ordering::Relaxed),
            ended: ended
                .map(|(reason, count)| (reason.name(), count.load(Ordering::Relaxed)))
                .collect(),
        }
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<UserId, VecDeque<Arc<End>>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenStream {
    /// Completes once the stream has to end, with the reason.
    pub(super) async fn ended(&self) -> EndReason {
        self.end.0.notified().await;
        match self.all.stopped.load(Ordering::Relaxed) {
            true => EndReason::Stopped,
            false => EndReason::Replaced,
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut readers = self.all.readers();
        if let Some(own) = readers.get_mut(&self.reader) {
            own.retain(|end| !Arc::ptr_eq(end, &self.end));
            if own.is_empty() {
                readers.remove(&self.reader);
            }
        }
        self.all.open.fetch_sub(1, Ordering::Relaxed);
        self.all.ended[self.reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_reader_that_opens_too_many_streams_loses_its_oldest() {
        let all = Streams::new(20);
        let (one, other) = (UserId::from(1), UserId::from(2));
        let mut open: Vec<_> = (0..PER_READER_MAX).map(|_| all.open(one).unwrap()).collect();
        let of_other = all.open(other).unwrap();
        open.push(all.open(one).unwrap());
        let ended = |stream: &OpenStream| stream.ended().now_or_never();
        assert_eq!(ended(&open[0]), Some(EndReason::Replaced));
        assert!(open[1..].iter().chain([&of_other]).all(|stream| ended(stream).is_none()));
        open[0].reason = EndReason::Replaced;
        open.remove(0);
        let more: Vec<_> = (0..3).map(|_| all.open(other).unwrap()).collect();
        assert!(matches!(all.open(other), Err(ApiError::TooManyStreams)));
        let stats = all.stats();
        assert_eq!((stats.open, stats.refused), (20, 1));
        drop(more);
        all.stop();
        assert_eq!(ended(&of_other), Some(EndReason::Stopped));
        assert!(matches!(all.open(other), Err(ApiError::TooManyStreams)));
        drop((open, of_other));
        assert!(all.readers().is_empty());
        assert_eq!(all.stats().ended[..3], [("client", 20), ("credential", 0), ("replaced", 1)]);
    }
}
