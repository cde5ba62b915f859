//! Background tasks that start again after a panic.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tracing::error;

/// Pause before a task that has panicked starts again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a task until it ends. If it panics, it starts again.
pub(super) async fn after_panic<F: Future<Output = ()>>(name: &str, task: impl Fn() -> F) {
    while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
        error!(task = name, "Background task panicked; it starts again in 1 s");
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_starts_again() {
        let starts = AtomicUsize::new(0);
        let task = async || assert!(starts.fetch_add(1, Ordering::Relaxed) == 1, "not yet");
        after_panic("a test", task).await;
        assert_eq!(starts.load(Ordering::Relaxed), 2);
    }
}
