//! Figures, read at one moment for `/metrics` and `/readyz`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Tributary;
use crate::changes::LogPosition;
use crate::memory::news::{News, Retained};
use crate::memory::{FollowedLog, Memory, NotFresh};
pub use crate::problems::Occurrences;
use crate::problems::ProblemCause;
pub use crate::shard::{ConnectionStats, QueueStats};

/// The size and the use of memory.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the metrics' help texts say what each is")]
pub struct MemoryStats {
    pub budget_bytes: usize,
    pub users: usize,
    pub index_bytes: usize,
    pub tails: usize,
    pub tail_posts: usize,
    pub tail_bytes: usize,
    pub follow_edges: usize,
    pub follow_bytes: usize,
    pub pages: usize,
    pub page_bytes: usize,
    pub recent_entries: usize,
    pub recent_bytes: usize,
    pub news_changes: usize,
    pub news_bytes: usize,
    pub subscribers: usize,
    pub subscriber_bytes: usize,
    pub walked_pages: u64,
    pub page_cache_hits: u64,
    pub logs: Vec<LogStats>,
}

/// One log that memory follows.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the metrics' help texts say what each is")]
pub struct LogStats {
    pub name: String,
    pub fresh: bool,
    /// A word for the reason, unless memory is fresh.
    pub not_fresh: Option<&'static str>,
    /// Since when memory may lack changes of the log, in milliseconds; `None` if it never had all.
    pub lag_ms: Option<i64>,
    /// The bytes of the log that memory has not applied; `None` if the log does not count bytes.
    pub lag_bytes: Option<u64>,
    /// The position that memory has reached; `None` while it starts.
    pub position: Option<LogPosition>,
    /// The same for people: the file and the offset in it, or a number.
    pub position_text: Option<String>,
    pub heads_known: bool,
    /// The changes that requests for news are answered from.
    pub news: NewsStats,
    /// Authors whose tails are being read ahead of any request, of this many.
    pub prefill_planned: usize,
    pub prefill_started: usize,
    pub prefill_done: bool,
    pub transactions: u64,
    pub changes: u64,
    pub log_identities: u64,
    pub fills: u64,
    pub fills_refused: u64,
    pub evictions: u64,
    pub audited: u64,
    pub mismatched: u64,
    pub audits_failed: u64,
    /// The number of problems of each cause that occurred.
    pub problems: Vec<(&'static str, u64)>,
}

impl MemoryStats {
    /// The figures of this moment; `None` without memory.
    pub fn of(tributary: &Tributary) -> Option<Self> {
        let mut stats = Self::of_memory(tributary.memory()?);
        for (log, source) in stats.logs.iter_mut().zip(super::fleet(tributary).sources()) {
            let counts =
                ProblemCause::ALL.map(|cause| (cause.name(), source.count_problems(cause)));
            log.problems = counts.into_iter().filter(|(_, count)| *count > 0).collect();
            let lag = log.position.zip(source.reported_end());
            log.position_text = log.position.map(|position| source.describe(position));
            log.lag_bytes = lag.map(|(position, end)| position.bytes_until(end));
        }
        Some(stats)
    }

    pub(super) fn of_memory(memory: &Memory) -> Self {
        let budget = memory.budget();
        let now_ms = memory.now_ms();
        Self {
            budget_bytes: budget.max(),
            users: memory.users(),
            index_bytes: budget.index(),
            tails: budget.tails.users(),
            tail_posts: budget.tails.items(),
            tail_bytes: budget.tails.bytes(),
            follow_edges: budget.follows.items(),
            follow_bytes: budget.follows.bytes(),
            pages: budget.pages.users(),
            page_bytes: budget.pages.bytes(),
            recent_entries: budget.recent.items(),
            recent_bytes: budget.recent.bytes(),
            news_changes: budget.news.items(),
            news_bytes: budget.news.bytes(),
            subscribers: budget.subscribers.users(),
            subscriber_bytes: budget.subscribers.bytes(),
            walked_pages: memory.recent().walks(),
            page_cache_hits: memory.page_cache_hits(),
            logs: memory.logs().iter().map(|log| LogStats::of(log, memory, now_ms)).collect(),
        }
    }
}

/// The changes of one log that requests for news are answered from.
#[expect(missing_docs, reason = "one comment is for both sizes")]
#[derive(Clone, Copy, Debug, Default)]
pub struct NewsStats {
    /// A request since a position before this one has a gap.
    pub from: LogPosition,
    /// Their number.
    pub changes: usize,
    /// Their size, and its limit.
    pub bytes: usize,
    pub bytes_max: usize,
    /// The age of the position `from`. A client that was away for less has no gap.
    pub age: Duration,
}

/// The outcomes of writes since the start.
#[derive(Clone, Debug)]
pub struct WriteStats {
    /// The number of writes for each pair of operation and outcome.
    pub writes: Vec<(&'static str, &'static str, u64)>,
    /// The number of commits in doubt, by their outcome.
    pub doubts: Vec<(&'static str, u64)>,
}

impl WriteStats {
    /// The figures of this moment.
    pub fn of(tributary: &Tributary) -> Self {
        let counts = tributary.0.publisher.counts();
        Self { writes: counts.writes(), doubts: counts.doubts() }
    }
}

impl NewsStats {
    fn of(news: &News, bytes_max: usize) -> Self {
        let Retained { floor, changes, bytes, since } = news.retained();
        Self { from: floor.after, changes, bytes, bytes_max, age: since.elapsed() }
    }
}

impl LogStats {
    fn of(log: &FollowedLog, memory: &Memory, now_ms: u64) -> Self {
        let (prefill, counters) = (&log.prefill, &log.counters);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            name: log.name().to_owned(),
            fresh: log.is_fresh(now_ms),
            not_fresh: log.not_fresh(now_ms).map(NotFresh::name),
            lag_ms: log.as_of_ms().map(|as_of| (crate::clock::now_ms() - as_of).max(0)),
            lag_bytes: None,
            position: log.position().map(|(_, position)| position),
            position_text: None,
            heads_known: log.heads_known(),
            news: NewsStats::of(&log.news, memory.news_bytes_max()),
            prefill_planned: prefill.planned(),
            prefill_started: prefill.started(),
            prefill_done: prefill.is_done(),
            transactions: count(&counters.transactions),
            changes: count(&counters.changes),
            log_identities: count(&counters.log_identities),
            fills: count(&counters.fills),
            fills_refused: count(&counters.fills_refused),
            evictions: count(&counters.evictions),
            audited: count(&counters.audited),
            mismatched: count(&counters.mismatched),
            audits_failed: count(&counters.audits_failed),
            problems: Vec::new(),
        }
    }
}
