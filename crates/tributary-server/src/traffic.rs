//! The busiest readers and authors, and the slowest pages of the last minutes, for the page for
//! operators. All of it is bounded, and a page that is not counted costs some loads of atomics. No
//! page waits for another one: while a lock is held, further pages are not counted.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::Uri;
use tributary::UserId;
use tributary::internal::Draft;

use super::space_saving::SpaceSaving;

/// Pages that are counted in each second, at most about. One of 20 posts takes a few microseconds,
/// so that is a thousandth of a processor.
const COUNTED_PER_SECOND: u32 = 200;
/// Pages that are counted between two calls of [`Traffic::tick`], at most.
const COUNTED_MAX: u32 = 800;
/// The slowest pages that are kept.
const SLOWEST: usize = 10;
/// Faster pages are not slow, however few there are.
const SLOW_US: u64 = 1_000;
/// For how long they are kept.
const SLOW_AGE_MAX: Duration = Duration::from_secs(300);
/// The pause between two halvings of all counts, so that they are those of the last minutes.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// How each post of a page in JSON names its author, after its id. A text has no such quotes
/// unescaped, and the address of another post begins with its author.
const AUTHOR: &str = "\",\"author_id\":\"";
/// Parameters of pages that the links to explanations cannot repeat.
const NOT_EXPLAINED: [&str; 3] = ["explain=", "memory=", "around="];

thread_local! {
    /// Pages of this thread until one is counted.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

/// A page of a home timeline that was slow.
#[derive(Clone, Debug)]
pub(super) struct SlowPage {
    pub(super) at: Instant,
    pub(super) took: Duration,
    pub(super) reader: UserId,
    /// The parameters that select the page, as they were sent.
    pub(super) query: String,
}

/// The authors of the posts of a page, in the extensions of its answer.
#[derive(Clone, Debug, Default)]
pub(super) struct PageAuthors(Vec<UserId>);

impl PageAuthors {
    pub(super) fn of(page: &Draft) -> Self {
        Self(page.posts.iter().map(|post| post.key().author).collect())
    }

    /// The authors of the posts in the JSON of a page.
    pub(super) fn in_json(body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let ids = text.split(AUTHOR).skip(1);
        Self(ids.filter_map(|rest| rest.split('"').next()?.parse().ok()).collect())
    }
}

/// Users with their share of the counted pages, at least, from 0 to 1.
pub(super) type Shares = Vec<(UserId, f64)>;

/// Counts of the pages of the last minutes, and the slowest of them.
#[derive(Debug)]
pub(super) struct Traffic {
    /// One of this many pages is counted.
    period: AtomicU32,
    /// Pages that may still be counted before the next tick.
    left: AtomicU32,
    counts: Mutex<Counts>,
    /// Pages that took less, in microseconds, are not among the slowest.
    threshold_us: AtomicU64,
    slowest: Mutex<Vec<SlowPage>>,
}

#[derive(Debug, Default)]
struct Counts {
    readers: SpaceSaving,
    authors: SpaceSaving,
    pages: u64,
    halved: Option<Instant>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            period: AtomicU32::new(1),
            left: AtomicU32::new(COUNTED_MAX),
            counts: Mutex::default(),
            threshold_us: AtomicU64::new(SLOW_US),
            slowest: Mutex::default(),
        }
    }
}

impl Traffic {
    /// Notes an answer with a page, if it is one of a home timeline.
    pub(super) fn answered(
        &self,
        uri: &Uri,
        took: Duration,
        authors: impl FnOnce() -> PageAuthors,
    ) {
        let Some(reader) = reader_of(uri.path()) else { return };
        self.note_slow(reader, uri.query().unwrap_or_default(), took);
        let period = self.period.load(Ordering::Relaxed);
        let is_due = LEFT.with(|left| {
            let due = left.get() == 0;
            left.set(if due { period - 1 } else { left.get().min(period) - 1 });
            due
        });
        let may = |left: u32| left.checked_sub(1);
        if is_due && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, may).is_ok() {
            let PageAuthors(mut authors) = authors();
            authors.sort_unstable();
            authors.dedup();
            self.count(reader, &authors, u64::from(period));
        }
    }

    fn count(&self, reader: UserId, authors: &[UserId], weight: u64) {
        let Ok(mut counts) = self.counts.try_lock() else { return };
        counts.pages += weight;
        counts.readers.add(reader, weight);
        for author in authors {
            counts.authors.add(*author, weight);
        }
    }

    fn note_slow(&self, reader: UserId, query: &str, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if us <= self.threshold_us.load(Ordering::Relaxed) {
            return;
        }
        if query.split('&').any(|pair| NOT_EXPLAINED.iter().any(|name| pair.starts_with(name))) {
            return;
        }
        let Ok(mut slowest) = self.slowest.try_lock() else { return };
        let query = query_of(query);
        // Another request for the same page replaces it, if it was slower.
        slowest.retain(|slow| slow.reader != reader || slow.query != query || slow.took > took);
        if slowest.iter().any(|slow| slow.reader == reader && slow.query == query) {
            return;
        }
        slowest.push(SlowPage { at: Instant::now(), took, reader, query });
        self.keep_slowest(&mut slowest);
    }

    fn keep_slowest(&self, slowest: &mut Vec<SlowPage>) {
        slowest.retain(|slow| slow.at.elapsed() < SLOW_AGE_MAX);
        slowest.sort_by_key(|slow| std::cmp::Reverse(slow.took));
        slowest.truncate(SLOWEST);
        let last = slowest.get(SLOWEST - 1).map(|slow| slow.took.as_micros());
        let threshold = last.map_or(0, |us| u64::try_from(us).unwrap_or(u64::MAX));
        self.threshold_us.store(threshold.max(SLOW_US), Ordering::Relaxed);
    }

    /// Adapts to this number of answers per second, and forgets what is old.
    pub(super) fn tick(&self, answers_per_second: f64) {
        let period = (answers_per_second / f64::from(COUNTED_PER_SECOND)).clamp(1.0, 1e6);
        #[expect(clippy::cast_possible_truncation, reason = "1 to 1e6")]
        let period = period as u32;
        self.period.store(period, Ordering::Relaxed);
        self.left.store(COUNTED_MAX, Ordering::Relaxed);
        self.keep_slowest(&mut locked(&self.slowest));
        let mut counts = locked(&self.counts);
        if counts.halved.get_or_insert_with(Instant::now).elapsed() >= HALF_LIFE {
            counts.halve();
        }
    }

    /// The readers with the most pages, and the authors on the most pages.
    pub(super) fn hottest(&self, number: usize) -> (Shares, Shares) {
        let counts = locked(&self.counts);
        let pages = counts.pages.max(1) as f64;
        let shares = |of: &SpaceSaving| -> Shares {
            of.top(number).into_iter().map(|(user, count)| (user, count as f64 / pages)).collect()
        };
        (shares(&counts.readers), shares(&counts.authors))
    }

    /// The slowest pages, slowest first.
    pub(super) fn slowest(&self) -> Vec<SlowPage> {
        locked(&self.slowest).clone()
    }
}

impl Counts {
    fn halve(&mut self) {
        self.readers.halve();
        self.authors.halve();
        self.pages /= 2;
        self.halved = Some(Instant::now());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reader, if this is the path of a home timeline.
fn reader_of(path: &str) -> Option<UserId> {
    let api = || path.strip_prefix("/v1/users/")?.strip_suffix("/feed");
    api().or_else(|| path.strip_prefix("/home/"))?.parse().ok()
}

/// The parameters that select a page.
fn query_of(query: &str) -> String {
    let selects = |pair: &&str| {
        ["limit=", "cursor=", "include_self=", "reposts="].iter().any(|name| pair.starts_with(name))
    };
    query.split('&').filter(selects).collect::<Vec<&str>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(traffic: &Traffic, uri: &str, ms: u64, body: Option<&str>) {
        let authors = || PageAuthors::in_json(body.unwrap_or_default().as_bytes());
        traffic.answered(&uri.parse().unwrap(), Duration::from_millis(ms), authors);
    }

    #[test]
    fn readers_authors_and_slow_pages_are_kept() {
        let traffic = Traffic::default();
        let body = r#"{"posts":[{"post_id":"1","author_id":"7","content":"\",\"author_id\":\"9"},
            {"post_id":"2","author_id":"7","reply_to":{"author_id":"8","post_id":"5"}}]}"#;
        for n in 1..=40_u64 {
            let path = format!("/v1/users/{}/feed?cursor=c{n}&x=1&limit=5", n % 4);
            answered(&traffic, &path, n, Some(body));
        }
        answered(&traffic, "/home/3", 41, None);
        answered(&traffic, "/v1/users/3/posts", 500, None);
        let (readers, authors) = traffic.hottest(2);
        assert_eq!((readers[0].0, authors.len()), (UserId::from(3), 1));
        assert_eq!((authors[0].0, (authors[0].1 * 41.0).round()), (UserId::from(7), 40.0));
        let slowest = traffic.slowest();
        let took: Vec<u128> = slowest.iter().map(|slow| slow.took.as_millis()).collect();
        assert_eq!(took, [41, 40, 39, 38, 37, 36, 35, 34, 33, 32]);
        assert_eq!(slowest[1].query, "cursor=c40&limit=5");
        assert_eq!(traffic.threshold_us.load(Ordering::Relaxed), 32_000);
        // Pages that no link can repeat are not kept, nor are fast ones.
        answered(&traffic, "/v1/users/3/feed?limit=5&memory=off&explain=1", 90, None);
        answered(&traffic, "/v1/users/3/feed?around=2:71", 90, None);
        // The same page again is one entry.
        answered(&traffic, "/home/3", 50, None);
        answered(&traffic, "/home/3", 45, None);
        let took: Vec<u128> = traffic.slowest().iter().map(|slow| slow.took.as_millis()).collect();
        assert_eq!(took[..2], [50, 40]);
    }

    #[test]
    fn busy_servers_count_a_part_of_their_pages() {
        let traffic = Traffic::default();
        traffic.tick(2_000.0);
        for _ in 0..1_000 {
            answered(&traffic, "/home/3", 1, None);
        }
        let counted = locked(&traffic.counts).pages;
        assert!((990..=1_010).contains(&counted), "{counted}");
    }
}
