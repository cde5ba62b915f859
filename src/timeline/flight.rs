//! Reads of the databases that requests share. It knows nothing of what is read.
//!
//! After a start, or for a popular reader, many requests want one page at the same time, and memory
//! does not have it. One of them reads it for all who came before the read began. Whoever comes later
//! must not have that page, since it may lack a post that was acknowledged meanwhile: it waits for
//! the next read, with all others who do. So of one page one read is under way and one is to come,
//! however many want it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Turn, OnceCell};

use crate::shard::Deadline;

/// What is read now and next, by what is asked for. It holds no more than there are requests.
pub(crate) struct Flights<K, T> {
    queues: Mutex<HashMap<K, KeyQueue<T>>>,
}

/// The requests for one thing.
struct KeyQueue<T> {
    /// The read that has not begun: whoever comes now shares it.
    next: Option<Arc<OnceCell<T>>>,
    /// Held by whoever reads.
    turn: Arc<Turn<()>>,
    requests: usize,
}

/// A request in its line; it leaves the line when it is dropped.
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

    /// The output of `read`, or of another request's read that began after this call; `None` when
    /// there is none by the deadline. A request that is dropped while it reads for others is
    /// replaced by one of them, which begins anew.
    pub(crate) async fn share<F: Future<Output = T>>(
        &self,
        key: &K,
        until: Deadline,
        read: impl FnOnce() -> F,
    ) -> Option<T> {
        let request = self.join(key);
        let lead = async {
            // A read that hangs holds the next one up for so long at most: that one needs time too.
            let turn = until.half().limit(request.turn.lock()).await;
            request.begin();
            // Whoever waits has no need of the room that this takes.
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
    /// From here on whoever comes is told of the next read.
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

    /// Reads that are counted, and end when they are let.
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

        /// The number of the read that answers.
        async fn ask(self: Arc<Self>, key: u8, span: Duration) -> Option<usize> {
            let read = async || {
                let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
                self.ends.acquire().await.unwrap().forget();
                number
            };
            self.flights.share(&key, Deadline::after(span), read).await
        }

        fn spawn(self: &Arc<Self>, key: u8) -> tokio::task::JoinHandle<Option<usize>> {
            tokio::spawn(Arc::clone(self).ask(key, LONG))
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    /// Lets everything go on that can, on this one thread.
    async fn settle() {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn whoever_comes_during_a_read_shares_the_next_one() {
        let reads = Reads::new();
        let first = reads.spawn(1);
        settle().await;
        let others: Vec<_> = (0..100).map(|_| reads.spawn(1)).collect();
        settle().await;
        assert_eq!(reads.begun(), 1, "two reads at once");
        let elsewhere = reads.spawn(2);
        settle().await;
        assert_eq!(reads.begun(), 2, "what is asked for elsewhere waits for nobody");
        reads.ends.add_permits(3);
        assert_eq!((first.await.unwrap(), elsewhere.await.unwrap()), (Some(1), Some(2)));
        for answer in join_all(others).await {
            assert_eq!(answer.unwrap(), Some(3));
        }
        assert!(reads.flights.queues().is_empty());
    }

    #[tokio::test]
    async fn whoever_reads_may_go_at_any_moment() {
        let reads = Reads::new();
        let first = reads.spawn(1);
        settle().await;
        let others: Vec<_> = (0..10).map(|_| reads.spawn(1)).collect();
        settle().await;
        // It reads.
        first.abort();
        settle().await;
        assert_eq!(reads.begun(), 2, "nobody took its turn");
        // They wait, but for one that reads.
        for other in &others[..9] {
            other.abort();
            settle().await;
        }
        assert_eq!(reads.begun(), 11);
        // It came while others read: this is the next read.
        let last = reads.spawn(1);
        settle().await;
        reads.ends.add_permits(2);
        let answers: Vec<_> = join_all(others).await.into_iter().flatten().collect();
        assert_eq!((answers, last.await.unwrap()), (vec![Some(11)], Some(12)));
        assert!(reads.flights.queues().is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_beyond_its_deadline_and_a_read_that_hangs_lets_others_read() {
        let (reads, start) = (Reads::new(), Instant::now());
        let hanging = reads.spawn(1);
        settle().await;
        let short = Duration::from_millis(100);
        let asked = (0..5).map(|_| Arc::clone(&reads).ask(1, short));
        assert_eq!(join_all(asked).await, [None; 5]);
        assert!(start.elapsed() < Duration::from_secs(30));
        // One of the five stopped waiting for its turn half-way.
        assert!(reads.begun() >= 2, "{}", reads.begun());
        reads.ends.add_permits(1);
        assert_eq!(hanging.await.unwrap(), Some(1));
        assert!(reads.flights.queues().is_empty());
    }

    /// Each answer was begun after it was asked for, whatever else goes on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_answer_is_older_than_its_question() {
        let (flights, clock) = (Arc::new(Numbers::new()), Arc::new(AtomicUsize::new(0)));
        let reads = Arc::new(AtomicUsize::new(0));
        let tasks = (0..32).map(|number| {
            let (flights, clock, reads) = (flights.clone(), clock.clone(), reads.clone());
            tokio::spawn(async move {
                for _ in 0..200 {
                    let came = clock.fetch_add(1, Ordering::SeqCst);
                    let read = async || {
                        reads.fetch_add(1, Ordering::SeqCst);
                        let began = clock.load(Ordering::SeqCst);
                        for _ in 0..number % 5 {
                            tokio::task::yield_now().await;
                        }
                        began
                    };
                    let ask = flights.share(&1, Deadline::after(LONG), read);
                    // Some are gone before they have their answer.
                    let span = if number % 8 == 0 { Duration::from_micros(50) } else { LONG };
                    if let Ok(began) = tokio::time::timeout(span, ask).await {
                        assert!(began.unwrap() > came);
                    }
                }
            })
        });
        for task in join_all(tasks.collect::<Vec<_>>()).await {
            task.unwrap();
        }
        let reads = reads.load(Ordering::SeqCst);
        assert!(reads < 32 * 200 / 2, "{reads} reads: hardly any is shared");
        assert!(flights.queues().is_empty());
    }
}
