//! Decides when requests are due.
//!
//! With a rate, arrivals are a Poisson process that does not depend on the server (open loop).
//! Without a rate, a request is due whenever a connection is free (closed loop).

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::Exp1;
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::sleep;

/// The timer wakes up to 1 ms late, which is longer than an answer takes. The last 2 ms before a
/// request is due are therefore spent in a loop of yields, without the timer.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// The arrival times of requests, shared by all connections.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The next request; connections take requests one at a time, in order.
    next: Mutex<NextArrival>,
    /// Requests per second; `None` means as many as the connections can send.
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

    /// Waits until the next request is due and returns that time; `None` after the end.
    ///
    /// Latencies count from the time returned here. A request that had to wait for a free
    /// connection therefore includes that wait.
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
        // The lock is held while waiting: one connection polls the clock, the others queue.
        while now < due {
            match due.duration_since(now).checked_sub(TIMER_SLACK) {
                Some(wait) => sleep(wait).await,
                None => yield_now().await,
            }
            now = Instant::now();
        }
        Some(due)
    }

    /// The approximate number of requests that were due before the end and were never sent.
    pub(super) async fn unsent(&self) -> u64 {
        let unsent_time = self.end.saturating_duration_since(self.next.lock().await.due);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        return (unsent_time.as_secs_f64() * self.rate.unwrap_or(0.0)) as u64;
    }
}
