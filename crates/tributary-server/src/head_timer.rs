//! The time limit for the head of a request, as hyper wants it: a timer that starts for each head
//! and is dropped when the head has arrived.
//!
//! A timer of tokio takes a lock when it starts and when it is dropped. So a connection has one
//! such timer, which stays when a head has arrived. If it ends before the deadline of the
//! current head, it continues until then.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// The timer of one connection. Its deadlines only rise.
#[derive(Debug)]
pub(super) struct HeadTimer(Arc<Mutex<Pin<Box<tokio::time::Sleep>>>>);

/// The wait for one head.
#[derive(Debug)]
struct HeadWait {
    deadline: Instant,
    timer: Arc<Mutex<Pin<Box<tokio::time::Sleep>>>>,
}

impl HeadTimer {
    /// Must be called on a tokio runtime.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Box::pin(tokio::time::sleep(Duration::ZERO)))))
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeadWait { deadline, timer: Arc::clone(&self.0) })
    }
}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            ready!(timer.as_mut().poll(context));
            if timer.deadline().into_std() >= self.deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.deadline.into());
        }
    }
}

impl Sleep for HeadWait {}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_wait_ends_at_its_own_deadline() {
        let (timer, start) = (HeadTimer::new(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        for (begun, ms) in [(false, 20), (true, 20), (false, 30), (true, 60)] {
            let wait = timer.sleep_until(after(ms));
            if begun {
                wait.await;
                assert!(Instant::now() >= after(ms), "{ms}");
            } else {
                // The head has arrived before.
                drop(timeout(Duration::from_millis(1), wait).await);
            }
        }
    }
}
