//! The measurements of a run: latencies by kind, answers, failures. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::mix::RequestKind;

/// Longer latencies are recorded as 60 s. The client waits only 10 s for a reply.
const LATENCY_MAX_US: u64 = 60_000_000;
/// Distinct failures that are counted separately; the rest is counted as "others".
const FAILURES_MAX: usize = 20;

/// The measured part of a run.
#[derive(Debug)]
pub(super) struct Record {
    from: Instant,
    to: Instant,
    /// Latencies in microseconds: from when a request was due until its reply was read.
    pub(super) all: Histogram<u64>,
    pub(super) kinds: Vec<(RequestKind, Histogram<u64>)>,
    /// Microseconds from a post's 201 until a follower's newest page showed it.
    pub(super) visible: Histogram<u64>,
    /// Successful replies in the measured time, and the bytes of their bodies.
    pub(super) answers: u64,
    pub(super) bytes: u64,
    /// Replies to the probe in the measured time; their latencies are not recorded.
    pub(super) probe_answers: u64,
    pub(super) failures: BTreeMap<String, u64>,
    /// Pages that were compared with the known rows.
    pub(super) checked: u64,
    /// Pages chosen for a check but not compared, because they or their cursors name missing or
    /// stale shards.
    pub(super) incomplete: u64,
}

/// A histogram of microseconds with three significant digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are valid")
}

impl Record {
    pub(super) fn new(from: Instant, to: Instant) -> Self {
        Self {
            from,
            to,
            all: histogram(),
            kinds: RequestKind::ALL.map(|kind| (kind, histogram())).into(),
            visible: histogram(),
            answers: 0,
            bytes: 0,
            probe_answers: 0,
            failures: BTreeMap::new(),
            checked: 0,
            incomplete: 0,
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }

    /// Records a successful reply that was read just now.
    pub(super) fn answered(&mut self, kind: RequestKind, due: Instant, bytes: usize) {
        let now = Instant::now();
        if (self.from..self.to).contains(&now) {
            self.answers += 1;
            self.bytes += bytes as u64;
        }
        if due >= self.from {
            let taken = micros(now - due);
            self.all.saturating_record(taken);
            if let Some((_, histogram)) = self.kinds.iter_mut().find(|(of, _)| *of == kind) {
                histogram.saturating_record(taken);
            }
        }
    }

    /// Counts a reply to the probe.
    pub(super) fn probe_answered(&mut self) {
        if (self.from..self.to).contains(&Instant::now()) {
            self.probe_answers += 1;
        }
    }

    /// Records a request without a successful reply. Its latency counts too: a client waited for
    /// it.
    pub(super) fn failed(&mut self, kind: RequestKind, due: Instant, why: &str) {
        if due < self.from {
            return;
        }
        self.all.saturating_record(micros(due.elapsed()));
        let why = format!("{}: {why}", kind.name());
        if self.failures.len() < FAILURES_MAX || self.failures.contains_key(&why) {
            *self.failures.entry(why).or_default() += 1;
        } else {
            *self.failures.entry("others".to_owned()).or_default() += 1;
        }
    }

    /// Records that a follower now sees a post whose 201 was received at `stored`.
    pub(super) fn became_visible(&mut self, stored: Instant) {
        if stored >= self.from {
            self.visible.saturating_record(micros(stored.elapsed()));
        }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
