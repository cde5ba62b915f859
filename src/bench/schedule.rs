//! When requests are due: as chance has it at a given rate, whatever the server does, or whenever a
//! connection is free.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::Exp1;
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::sleep;

/// The timer wakes up to a millisecond late, which is longer than an answer takes; what is due
/// sooner than this is waited for without it.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// The requests of all connections together.
#[derive(Debug)]
pub(super) struct Schedule {
    /// When the next request is due; taken by one connection at a time, in order.
    next: Mutex<NextArrival>,
    /// Requests a second; as many as there can be when absent.
    rate: Option<f64>,
    end: Instant,
}

#[derive(Debug)]
struct NextArrival {
    due: Instant,
    random: StdRng,
}

impl Schedule {
    pub(super) fn new(rate: Option<f64>, start: Instant, end: Instant, seed: u64) -> Self {
        let next = NextArrival { due: start, random: StdRng::seed_from_u64(seed) };
        Self { next: Mutex::new(next), rate, end }
    }

    /// Waits for the next request; `None` after the end. Latencies count from when it was due, so
    /// that a request that had to wait for a free connection counts its wait.
    pub(super) async fn due(&self) -> Option<Instant> {
        let Some(rate) = self.rate else {
            let now = Instant::now();
            return (now < self.end).then_some(now);
        };
        let mut next = self.next.lock().await;
        let due = next.due;
        let mut now = Instant::now();
        if due >= self.end || now >= self.end {
            return None;
        }
        let gap: f64 = next.random.sample(Exp1);
        next.due += Duration::from_secs_f64(gap / rate);
        // The lock is held, so that one connection waits for the clock and the others for it.
        while now < due {
            match due.duration_since(now).checked_sub(TIMER_SLACK) {
                Some(wait) => sleep(wait).await,
                None => yield_now().await,
            }
            now = Instant::now();
        }
        Some(due)
    }

    /// How many requests were due by the end and never sent, about.
    pub(super) async fn unsent(&self) -> u64 {
        let late = self.end.saturating_duration_since(self.next.lock().await.due);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        return (late.as_secs_f64() * self.rate.unwrap_or(0.0)) as u64;
    }
}
