//! Limits repeated log lines to one a minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Minimum time between two log lines of one kind.
const PAUSE: Duration = Duration::from_secs(60);

/// The last moment at which a kind of line was logged.
#[derive(Debug, Default)]
pub(super) struct LogPause(Mutex<Option<Instant>>);

impl LogPause {
    /// Whether the line may be logged now. If so, the next pause begins.
    pub(super) fn is_over(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = last.is_none_or(|at| at.elapsed() > PAUSE);
        if is_over {
            *last = Some(Instant::now());
        }
        is_over
    }
}
