//! Counts of answers: a histogram of durations for each route and status, and the pages by kind.
//!
//! All counters are atomics, so that a request only adds to two or three of them. A route gets its
//! counters with its first request, up to a bound. The router has made its pattern, so no label
//! comes from a client.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use tributary::internal::Draft;

/// Routes that are counted apart. Further ones count as no route.
const ROUTES_MAX: usize = 128;
/// The route that memory answers before the router.
const HOME_FEED: (&str, &str) = ("GET", "/v1/users/{user_id}/feed");
/// The label of methods that HTTP does not define.
const OTHER: &str = "_OTHER";

/// The statuses that are counted apart. Another one counts as the last.
pub(super) const STATUSES: [u16; 25] = [
    200, 201, 204, 303, 304, 400, 401, 403, 404, 405, 406, 408, 409, 413, 414, 415, 421, 422, 429,
    431, 500, 501, 503, 507, 0,
];

/// The upper bounds of the buckets of durations, in microseconds. A warm page takes less than 100.
pub(super) const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000,
];

/// Durations of one kind of request.
#[derive(Debug, Default)]
pub(super) struct Durations {
    /// The number of durations up to each bound and above the one before; the last is above all.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// A copy of [`Durations`].
#[derive(Debug)]
pub(super) struct CountedDurations {
    /// The number of durations in each bucket, with its upper bound in seconds.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) count: u64,
    pub(super) sum_seconds: f64,
}

impl Durations {
    fn add(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The durations until now; `None` if there are none.
    pub(super) fn read(&self) -> Option<CountedDurations> {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::MAX]);
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum_seconds = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        (count > 0).then_some(CountedDurations { buckets, count, sum_seconds })
    }
}

/// Where a page was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageSource {
    Memory,
    Database,
}

/// The completeness of a page. A page with missing and stale shards is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageResult {
    Complete,
    Stale,
    Incomplete,
}

pub(super) const PAGE_SOURCES: [(PageSource, &str); 2] =
    [(PageSource::Memory, "memory"), (PageSource::Database, "database")];
pub(super) const PAGE_RESULTS: [(PageResult, &str); 3] = [
    (PageResult::Complete, "complete"),
    (PageResult::Stale, "stale"),
    (PageResult::Incomplete, "incomplete"),
];

/// The kind of a page, which a route adds to the extensions of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageKind {
    pub(super) source: PageSource,
    pub(super) result: PageResult,
    /// Whether the request had a freshness token, and then whether the page has reached it.
    pub(super) token: Option<bool>,
}

impl PageKind {
    /// The kind of this page, and whether its request had a freshness token.
    pub(super) fn of(page: &Draft, has_token: bool) -> Self {
        let from_memory = page.queried.is_empty();
        Self {
            source: if from_memory { PageSource::Memory } else { PageSource::Database },
            result: match (page.is_complete(), page.stale.is_empty()) {
                (false, _) => PageResult::Incomplete,
                (true, false) => PageResult::Stale,
                (true, true) => PageResult::Complete,
            },
            token: has_token.then_some(page.fresh_enough),
        }
    }

    pub(super) fn source_name(self) -> &'static str {
        PAGE_SOURCES[self.source as usize].1
    }
}

/// The counters of one server.
#[derive(Debug)]
pub(super) struct Observed {
    /// By rising index; those after the first empty one are empty.
    routes: [OnceLock<Box<Route>>; ROUTES_MAX],
    /// Requests that no route has answered.
    no_route: Box<Route>,
    pages: [[AtomicU64; PAGE_RESULTS.len()]; PAGE_SOURCES.len()],
    /// Freshness tokens that pages have reached, and those that they have not.
    tokens: [AtomicU64; 2],
}

/// The requests of one route.
#[derive(Debug)]
struct Route {
    method: &'static str,
    pattern: String,
    statuses: [Durations; STATUSES.len()],
}

impl Route {
    fn new(method: &'static str, pattern: &str) -> Box<Self> {
        let statuses = std::array::from_fn(|_| Durations::default());
        Box::new(Self { method, pattern: pattern.to_owned(), statuses })
    }

    fn add(&self, status: StatusCode, duration: Duration) {
        let status = STATUSES.iter().position(|known| *known == status.as_u16());
        self.statuses[status.unwrap_or(STATUSES.len() - 1)].add(duration);
    }
}

impl Default for Observed {
    fn default() -> Self {
        let (method, pattern) = HOME_FEED;
        let routes = [const { OnceLock::new() }; ROUTES_MAX];
        drop(routes[0].set(Route::new(method, pattern)));
        Self {
            routes,
            no_route: Route::new(OTHER, ""),
            pages: Default::default(),
            tokens: Default::default(),
        }
    }
}

impl Observed {
    /// Counts an answer of the route with this pattern; `None` if no route has matched.
    pub(super) fn add_request(
        &self,
        method: &'static str,
        pattern: Option<&str>,
        status: StatusCode,
        duration: Duration,
    ) {
        let route = pattern.and_then(|pattern| self.route(method, pattern));
        route.unwrap_or(&self.no_route).add(status, duration);
    }

    /// Counts a page that memory has answered before the router. It has no kind if it was cached.
    pub(super) fn add_from_memory(
        &self,
        page: Option<PageKind>,
        status: StatusCode,
        duration: Duration,
    ) {
        if let Some(page) = page {
            self.add_page(page);
        }
        if let Some(route) = self.routes[0].get() {
            route.add(status, duration);
        }
    }

    /// The counters of a route; `None` if there are too many routes.
    fn route(&self, method: &'static str, pattern: &str) -> Option<&Route> {
        // A slot that is empty becomes that of this route.
        let slots = self.routes.iter();
        let routes = slots.map(|slot| slot.get_or_init(|| Route::new(method, pattern)));
        routes.map(Box::as_ref).find(|route| route.method == method && route.pattern == pattern)
    }

    /// Counts a page.
    pub(super) fn add_page(&self, page: PageKind) {
        self.pages[page.source as usize][page.result as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(reached) = page.token {
            self.tokens[usize::from(!reached)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The durations of each route and status that has occurred: method, pattern, status.
    pub(super) fn requests(
        &self,
    ) -> impl Iterator<Item = ((&'static str, &str), u16, CountedDurations)> {
        let routes = self.routes.iter().map_while(OnceLock::get).chain([&self.no_route]);
        routes.flat_map(|route| {
            let statuses = STATUSES.iter().zip(&route.statuses);
            statuses.filter_map(|(status, durations)| {
                Some(((route.method, route.pattern.as_str()), *status, durations.read()?))
            })
        })
    }

    pub(super) fn pages(&self, source: PageSource, result: PageResult) -> u64 {
        self.pages[source as usize][result as usize].load(Ordering::Relaxed)
    }

    /// The number of tokens that pages have reached, or else of those that they have not.
    pub(super) fn tokens(&self, reached: bool) -> u64 {
        self.tokens[usize::from(!reached)].load(Ordering::Relaxed)
    }
}

/// The label of a method.
pub(super) fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_counted_apart_up_to_a_bound() {
        let observed = Observed::default();
        let add = |method, pattern: Option<&str>| {
            observed.add_request(method, pattern, StatusCode::OK, Duration::ZERO);
        };
        observed.add_from_memory(None, StatusCode::OK, Duration::ZERO);
        add(HOME_FEED.0, Some(HOME_FEED.1));
        add("PUT", Some(HOME_FEED.1));
        add("GET", None);
        let count = |method: &str, pattern: &str| {
            let all = observed.requests();
            let ours = all.filter(|(route, ..)| *route == (method, pattern));
            ours.map(|(.., durations)| durations.count).sum::<u64>()
        };
        assert_eq!(count(HOME_FEED.0, HOME_FEED.1), 2);
        assert_eq!([count("PUT", HOME_FEED.1), count(OTHER, "")], [1, 1]);
        for n in 0..2 * ROUTES_MAX {
            add("GET", Some(&format!("/{n}")));
        }
        assert_eq!(observed.requests().count(), ROUTES_MAX + 1);
        assert_eq!(count("GET", "/0"), 1);
        assert!(count(OTHER, "") > 100);
    }

    #[test]
    fn durations_are_counted_in_the_bucket_below_their_bound() {
        let observed = Observed::default();
        for us in [1, 100, 101, 9_999_999] {
            observed.add_from_memory(None, StatusCode::OK, Duration::from_micros(us));
        }
        let (method, pattern) = HOME_FEED;
        observed.add_request(method, Some(pattern), StatusCode::IM_A_TEAPOT, Duration::ZERO);
        let all: Vec<_> = observed.requests().collect();
        assert_eq!(all.len(), 2);
        let (route, status, durations) = &all[0];
        assert_eq!((*route, *status, durations.count), (HOME_FEED, 200, 4));
        let counts: Vec<u64> = durations.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!((counts[0], counts[1], counts[14]), (2, 1, 1));
        assert_eq!(all[1].1, 0);
    }
}
