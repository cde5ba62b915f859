//! Reads of the databases that several requests share (single flight). Generic over the read.
//!
//! After a start, or for a popular reader, many requests want the same page at the same time, and
//! memory does not have it. One of them reads it for every request that arrived before the read
//! began. A request that arrives during the read must not use its result: the result may miss a
//! post that was acknowledged after the read began. Such a request waits for the next read. So for
//! each page at most one read is in flight and one is waiting, for any number of requests. If a
//! read takes more than half of the waiting requests' time, the next one starts without waiting
//! for it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Turn, OnceCell};

use crate::shard::Deadline;

/// The reads in flight, by key. Has an entry only for keys with a request.
pub(crate) struct Flights<K, T> {
    queues: Mutex<HashMap<K, KeyQueue<T>>>,
}

/// The requests for one key.
struct KeyQueue<T> {
    /// The result of the read that has not begun; new requests share it.
    next: Option<Arc<OnceCell<T>>>,
    /// Held by the request that reads.
    turn: Arc<Turn<()>>,
    requests: usize,
}

/// A request in the queue of its key; dropping it removes it from the queue.
struct QueuedRequest<'a, K: Eq + Hash, T> {
    flights: &'a Flights<K, T>,
    key: K,
    answer: Arc<OnceCell<T>>,
    turn: Arc<Turn<()>>,
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    pub(crate) fn new() -> Self {
        Self { queues: Mutex::new(HashMap::new()) }
    }

    /// The output of `read`, or of another request's read that began after this call. `None` if
    /// there is no output by the deadline. If a request is dropped while it reads for others, one
    /// of the others restarts the read.
    pub(crate) async fn share<F: Future<Output = T>>(
        &self,
        key: &K,
        until: Deadline,
        read: impl FnOnce() -> F,
    ) -> Option<T> {
        let request = self.join(key);
        let lead = async {
            // A read that hangs delays the next one by at most half of the time left.
            let turn = until.half().limit(request.turn.lock()).await;
            request.begin();
            // Boxed, so that a waiting request does not carry the size of this future.
            let answer = Box::pin(read()).await;
            drop(turn);
            answer
        };
        until.limit(request.answer.get_or_init(|| lead)).await.cloned()
    }

    fn join(&self, key: &K) -> QueuedRequest<'_, K, T> {
        let mut queues = self.queues();
        let queue = queues.entry(key.clone()).or_insert_with(|| KeyQueue {
            next: None,
            turn: Arc::default(),
            requests: 0,
        });
        queue.requests += 1;
        let answer = Arc::clone(queue.next.get_or_insert_default());
        QueuedRequest { flights: self, key: key.clone(), answer, turn: Arc::clone(&queue.turn) }
    }
}

impl<K: Eq + Hash, T> Flights<K, T> {
    fn queues(&self) -> MutexGuard<'_, HashMap<K, KeyQueue<T>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, T> QueuedRequest<'_, K, T> {
    /// From now on, new requests share the next read and not this one.
    fn begin(&self) {
        if let Some(queue) = self.flights.queues().get_mut(&self.key) {
            queue.next.take_if(|next| Arc::ptr_eq(next, &self.answer));
        }
    }
}

impl<K: Eq + Hash, T> Drop for QueuedRequest<'_, K, T> {
    fn drop(&mut self) {
        let mut queues = self.flights.queues();
        let Some(queue) = queues.get_mut(&self.key) else { return };
        queue.requests -= 1;
        if queue.requests == 0 {
            queues.remove(&self.key);
        }
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    type Numbers = Flights<u8, usize>;

    /// Counts reads and lets the test decide when they end.
    struct Reads {
        flights: Numbers,
        begun: AtomicUsize,
        ends: Semaphore,
    }

    impl Reads {
        fn new() -> Arc<Self> {
            let (begun, ends) = (AtomicUsize::new(0), Semaphore::new(0));
            Arc::new(Self { flights: Flights::new(), begun, ends })
        }

        /// The number of the read that answers this request.
        async fn request(self: Arc<Self>, key: u8, span: Duration) -> Option<usize> {
            let read = async || {
                let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
                self.ends.acquire().await.unwrap().forget();
                number
            };
            self.flights.share(&key, Deadline::after(span), read).await
        }

        fn spawn(self: &Arc<Self>, key: u8) -> tokio::task::JoinHandle<Option<usize>> {
            tokio::spawn(Arc::clone(self).request(key, LONG))
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    /// Lets every task run until it blocks, on this one thread.
    async fn settle() {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn requests_during_a_read_share_the_next_read() {
        let reads = Reads::new();
        let first = reads.spawn(1);
        settle().await;
        let others: Vec<_> = (0..100).map(|_| reads.spawn(1)).collect();
        settle().await;
        assert_eq!(reads.begun(), 1, "two reads at once");
        let elsewhere = reads.spawn(2);
        settle().await;
        assert_eq!(reads.begun(), 2, "another key does not wait");
        reads.ends.add_permits(3);
        assert_eq!((first.await.unwrap(), elsewhere.await.unwrap()), (Some(1), Some(2)));
        for answer in join_all(others).await {
            assert_eq!(answer.unwrap(), Some(3));
        }
        assert!(reads.flights.queues().is_empty());
    }

    #[tokio::test]
    async fn the_request_that_reads_may_be_dropped_at_any_moment() {
        let reads = Reads::new();
        let first = reads.spawn(1);
        settle().await;
        let others: Vec<_> = (0..10).map(|_| reads.spawn(1)).collect();
        settle().await;
        // The request that reads is dropped.
        first.abort();
        settle().await;
        assert_eq!(reads.begun(), 2, "no other request took its turn");
        // One of these reads and the others wait; drop each of them.
        for other in &others[..9] {
            other.abort();
            settle().await;
        }
        assert_eq!(reads.begun(), 11);
        // It arrived during a read, so it starts the next one.
        let last = reads.spawn(1);
        settle().await;
        reads.ends.add_permits(2);
        let answers: Vec<_> = join_all(others).await.into_iter().flatten().collect();
        assert_eq!((answers, last.await.unwrap()), (vec![Some(11)], Some(12)));
        assert!(reads.flights.queues().is_empty());
    }

    #[tokio::test]
    async fn no_request_waits_beyond_its_deadline_and_a_hanging_read_lets_others_read() {
        let (reads, start) = (Reads::new(), Instant::now());
        let hanging = reads.spawn(1);
        settle().await;
        let short = Duration::from_millis(100);
        let requests = (0..5).map(|_| Arc::clone(&reads).request(1, short));
        assert_eq!(join_all(requests).await, [None; 5]);
        assert!(start.elapsed() < Duration::from_secs(30));
        // One of the five stopped waiting for its turn after half of its time.
        assert!(reads.begun() >= 2, "{}", reads.begun());
        reads.ends.add_permits(1);
        assert_eq!(hanging.await.unwrap(), Some(1));
        assert!(reads.flights.queues().is_empty());
    }

    /// Every answer comes from a read that began after the request for it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_answer_is_older_than_its_request() {
        let (flights, clock) = (Arc::new(Numbers::new()), Arc::new(AtomicUsize::new(0)));
        let reads = Arc::new(AtomicUsize::new(0));
        let tasks = (0..32).map(|number| {
            let (flights, clock, reads) = (flights.clone(), clock.clone(), reads.clone());
            tokio::spawn(async move {
                for _ in 0..200 {
                    let arrived = clock.fetch_add(1, Ordering::SeqCst);
                    let read = async || {
                        reads.fetch_add(1, Ordering::SeqCst);
                        let began = clock.load(Ordering::SeqCst);
                        for _ in 0..number % 5 {
                            tokio::task::yield_now().await;
                        }
                        began
                    };
                    let request = flights.share(&1, Deadline::after(LONG), read);
                    // Some requests are dropped before they have their answer.
                    let span = if number % 8 == 0 { Duration::from_micros(50) } else { LONG };
                    if let Ok(began) = tokio::time::timeout(span, request).await {
                        assert!(began.unwrap() > arrived);
                    }
                }
            })
        });
        for task in join_all(tasks.collect::<Vec<_>>()).await {
            task.unwrap();
        }
        let reads = reads.load(Ordering::SeqCst);
        assert!(reads < 32 * 200 / 2, "{reads} reads: hardly any read is shared");
        assert!(flights.queues().is_empty());
    }
}
