//! Samples of the last minutes, for the charts of the page for operators.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::http::Uri;
use tokio::time::{MissedTickBehavior, interval};
use tributary::Tributary;
use tributary::internal::fleet;
use tributary::internal::stats::MemoryStats;
use tributary::internal::tasks::{TaskStats, Tasks};

use super::traffic::{PageAuthors, Traffic};

/// The time between two samples.
pub(super) const PAUSE: Duration = Duration::from_secs(2);
/// The samples of five minutes.
const SAMPLES_MAX: usize = 150;
/// Latencies are counted by their powers of two of a microsecond, up to 16 s.
const BUCKETS: usize = 25;

/// Counts the answers of this process by their latency.
#[derive(Debug, Default)]
pub(super) struct Latencies([AtomicU64; BUCKETS]);

impl Latencies {
    pub(super) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.0[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|bucket| self.0[bucket].load(Ordering::Relaxed))
    }
}

/// The counters of one moment.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    answers: [u64; BUCKETS],
    /// The statements of each server, in the order of `Fleet::queues`.
    statements: Vec<u64>,
    page_cache_hits: u64,
    cold_pages: u64,
    changes: u64,
}

impl Sample {
    fn take(tributary: &Tributary, latencies: &Latencies) -> Self {
        let (fleet, memory) = (fleet(tributary), MemoryStats::of(tributary).unwrap_or_default());
        Self {
            at: Instant::now(),
            answers: latencies.counts(),
            statements: fleet.queues().iter().map(|queue| queue.read_statements).collect(),
            page_cache_hits: memory.page_cache_hits,
            cold_pages: fleet.cold_pages().pages(),
            changes: memory.logs.iter().map(|log| log.changes).sum(),
        }
    }
}

/// The rates between two samples, per second, and the latencies in milliseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    /// Seconds before the newest sample.
    pub(super) age_s: f64,
    pub(super) answers: f64,
    pub(super) median_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) statements: Vec<f64>,
    pub(super) page_cache_hits: f64,
    pub(super) cold_pages: f64,
    pub(super) changes: f64,
}

/// Takes a sample every two seconds, until it is dropped.
#[derive(Debug)]
pub(super) struct History {
    latencies: Latencies,
    pub(super) traffic: Traffic,
    samples: Mutex<VecDeque<Sample>>,
    tasks: Tasks,
}

impl History {
    /// Starts on the current tokio runtime.
    pub(super) fn start(tributary: Tributary) -> Arc<Self> {
        let history = Arc::new(Self {
            latencies: Latencies::default(),
            traffic: Traffic::default(),
            samples: Mutex::default(),
            tasks: Tasks::default(),
        });
        let weak = Arc::downgrade(&history);
        history.tasks.spawn("samples", "", move || watch(Weak::clone(&weak), tributary.clone()));
        history
    }

    /// Counts an answer, and its authors if it has a page.
    pub(super) fn answered(
        &self,
        uri: &Uri,
        took: Duration,
        page: Option<impl FnOnce() -> PageAuthors>,
    ) {
        self.latencies.record(took);
        if let Some(authors) = page {
            self.traffic.answered(uri, took, authors);
        }
    }

    pub(super) fn tasks(&self) -> Vec<TaskStats> {
        self.tasks.stats()
    }

    pub(super) async fn close(&self) {
        self.tasks.close().await;
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The rates between each two samples, oldest first.
    pub(super) fn rates(&self) -> Vec<Rates> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(newest) = samples.back().map(|sample| sample.at) else { return Vec::new() };
        let pairs = samples.iter().zip(samples.iter().skip(1));
        pairs.map(|(from, to)| rates(from, to, newest)).collect()
    }
}

async fn watch(history: Weak<History>, tributary: Tributary) {
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(history) = history.upgrade() else { return };
        history.add(Sample::take(&tributary, &history.latencies));
        let answers = history.rates().last().map_or(0.0, |rates| rates.answers);
        history.traffic.tick(answers);
    }
}

fn rates(from: &Sample, to: &Sample, newest: Instant) -> Rates {
    let seconds = to.at.duration_since(from.at).as_secs_f64().max(0.001);
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
    let answers: Vec<u64> =
        from.answers.iter().zip(&to.answers).map(|(from, to)| to.saturating_sub(*from)).collect();
    let statements = from.statements.iter().zip(&to.statements);
    Rates {
        age_s: newest.duration_since(to.at).as_secs_f64(),
        answers: answers.iter().sum::<u64>() as f64 / seconds,
        median_ms: quantile_ms(&answers, 0.5),
        p99_ms: quantile_ms(&answers, 0.99),
        statements: statements.map(|(from, to)| rate(*from, *to)).collect(),
        page_cache_hits: rate(from.page_cache_hits, to.page_cache_hits),
        cold_pages: rate(from.cold_pages, to.cold_pages),
        changes: rate(from.changes, to.changes),
    }
}

/// An upper bound of the latency that this share of the answers does not exceed; 0 without answers.
/// It is at most twice the latency.
fn quantile_ms(counts: &[u64], share: f64) -> f64 {
    let total: u64 = counts.iter().sum();
    let mut left = (total as f64 * share).ceil();
    for (bucket, count) in (0..).zip(counts) {
        left -= *count as f64;
        if total > 0 && left <= 0.0 {
            return 2_f64.powi(bucket) / 1_000.0;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_upper_bounds() {
        let latencies = Latencies::default();
        for micros in (0..90).map(|_| 700).chain((0..10).map(|_| 30_000)) {
            latencies.record(Duration::from_micros(micros));
        }
        let counts = latencies.counts();
        assert_eq!((quantile_ms(&counts, 0.5), quantile_ms(&counts, 0.99)), (1.024, 32.768));
        assert_eq!(quantile_ms(&[0; BUCKETS], 0.5), 0.0);
        latencies.record(Duration::from_secs(60));
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.counts().iter().sum::<u64>(), 102);
    }
}
