//! Evidence that the feed has delivered everything that the log held at some moment. Pure.
//!
//! The server is asked for the end of its log. Once the feed has delivered the log up to there, it
//! has delivered everything that was committed before the question was sent. Only the monotonic
//! clock of this process is used, so no step of a clock can make late data count as fresh.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::changes::LogPosition;

/// Without evidence for a moment within this time, the feed is late. It is the lease of memory.
const LATE_AFTER: Duration = Duration::from_secs(3);
/// Ends of the log that the feed may not have reached yet. Older ones could not renew the lease.
const OPEN_MAX: usize = 4;

/// The evidence on one connection.
#[derive(Debug)]
pub(super) struct Evidence {
    /// When the server was asked, and the end of its log then. Both rise.
    open: VecDeque<(Instant, LogPosition)>,
    /// Everything that was committed before this moment is delivered; or the start.
    proven: Instant,
}

impl Evidence {
    pub(super) fn new(now: Instant) -> Self {
        Self { open: VecDeque::new(), proven: now }
    }

    /// Notes that the log ended at `end` when, or after, the server was asked.
    pub(super) fn note(&mut self, asked: Instant, end: LogPosition) {
        if self.open.len() == OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back((asked, end));
    }

    /// The latest moment such that everything committed before it is delivered, if the log is
    /// delivered up to `position`. `None` if it was returned before.
    pub(super) fn reached(&mut self, position: LogPosition) -> Option<Instant> {
        let mut latest = None;
        while let Some((asked, _)) = self.open.pop_front_if(|(_, end)| *end <= position) {
            latest = Some(asked);
        }
        self.proven = latest.unwrap_or(self.proven);
        latest
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.proven) >= LATE_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reached_end_of_the_log_is_evidence() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut evidence = Evidence::new(start);
        assert_eq!(evidence.reached(LogPosition(50)), None, "nothing was asked");
        evidence.note(at(1), LogPosition(60));
        assert_eq!(evidence.reached(LogPosition(59)), None);
        evidence.note(at(2), LogPosition(70));
        assert_eq!(evidence.reached(LogPosition(65)), Some(at(1)));
        assert!(!evidence.is_late(at(3)) && evidence.is_late(at(4)));
        assert_eq!(evidence.reached(LogPosition(70)), Some(at(2)));
        assert_eq!(evidence.reached(LogPosition(90)), None, "it was returned before");
        assert!(!evidence.is_late(at(4)) && evidence.is_late(at(5)));
    }

    /// A feed that always lags by two seconds still renews the lease, up to that moment.
    #[test]
    fn a_constant_lag_within_the_lease_is_not_late() {
        let start = Instant::now();
        let mut evidence = Evidence::new(start);
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            evidence.note(now, LogPosition(second));
            evidence.reached(LogPosition(second.saturating_sub(2)));
            assert!(!evidence.is_late(now), "{second}");
        }
        // The stream is held up: the log grows and nothing arrives.
        for second in 60..70 {
            let now = start + Duration::from_secs(second);
            evidence.note(now, LogPosition(second));
            assert_eq!(evidence.reached(LogPosition(57)), None);
            assert_eq!(evidence.is_late(now), second >= 60, "{second}");
        }
    }
}
