//! Pauses between attempts: each is twice the one before, up to a maximum, with a jitter of 25%, so
//! that nodes that failed at the same moment do not try again at the same moment. Pure.

use std::time::Duration;

use rand::RngExt;

/// The pauses of one series of attempts.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first pause is `first`, and no pause is longer than `max`, both before jitter.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// All pauses are the same, before jitter.
    pub const fn steady(pause: Duration) -> Self {
        Self::new(pause, pause)
    }

    /// The pause after another failed attempt.
    pub fn pause(&mut self) -> Duration {
        self.pause_from(self.first)
    }

    /// As [`Backoff::pause`], with another first pause: the cause of this failure is another one.
    pub fn pause_from(&mut self, first: Duration) -> Duration {
        let doubled = first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.max) * rand::rng().random_range(75..=125) / 100
    }

    /// The failed attempts since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts another series, because an attempt has succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_and_start_again() {
        let ms = Duration::from_millis;
        let near = |pause: Duration, expected: u64| {
            let (least, most) = (ms(expected) * 75 / 100, ms(expected) * 125 / 100);
            assert!((least..=most).contains(&pause), "{pause:?} instead of {expected} ms");
        };
        let mut backoff = Backoff::new(ms(100), ms(500));
        for _ in 0..2 {
            for expected in [100, 200, 400, 500, 500] {
                near(backoff.pause(), expected);
            }
            assert_eq!(backoff.failures(), 5);
            backoff.reset();
        }
        near(backoff.pause_from(ms(10)), 10);
        near(backoff.pause(), 200);
        let mut steady = Backoff::steady(ms(50));
        (0..1_000).for_each(|_| near(steady.pause(), 50));
    }

    #[test]
    fn pauses_of_two_nodes_differ() {
        let pauses = || {
            let mut backoff = Backoff::steady(Duration::from_secs(1));
            [(); 8].map(|()| backoff.pause())
        };
        assert_ne!(pauses(), pauses());
    }
}
