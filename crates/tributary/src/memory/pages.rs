//! The page cache: rendered pages for readers who return before anything has changed. It holds a
//! reader's newest page, and the empty page above it that clients poll.
//!
//! Every change that readers can see gets the next *version*. The version is stored at the
//! changed user after the change is visible. A cached page carries the version as of which it was
//! built. It is valid as long as neither the reader nor any followee has a later version.
//! Checking that costs one load per followee from one array and reads no post.
//!
//! Only a page that would have been a hit is cached: it was requested before, and nothing it
//! depends on has changed since. A page that is requested once is not worth the copy.
//!
//! No change is missed: a page's version is read before its data. A change that the page may lack
//! therefore has a later version.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;

use super::budget::Budget;
use super::follow_list::Slot;
use crate::model::PostKey;

/// The page cache can take this fraction of the budget (1/8). The data that pages are built from
/// needs the rest.
const PAGES_SHARE: usize = 8;
/// Assumed average size of a page, which gives the number of cells; every other page is empty. If
/// pages are longer, the byte limit is reached first and some cells stay empty.
const PAGE_BYTES: usize = 2 << 10;
/// Longer pages are not cached.
const PAGE_BYTES_MAX: usize = 64 << 10;

/// Bits of a version that the record of the last request keeps; the others hold a part of the hash
/// of its key. After 2^40 changes no page is recognized as requested before.
const VERSION_BITS: u32 = 40;

/// Counts the changes that readers can see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(super) u64);

/// A page of posts as it is sent.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct SentPage {
    /// Identifies the body: equal bodies have equal tags.
    pub tag: u64,
    /// The JSON.
    pub body: Bytes,
    /// The value of the `Link` header.
    pub links: Bytes,
}

/// The part of a request for a home timeline that selects the page.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct PageQuery<'a> {
    /// The cursor as it was sent; empty for the newest page.
    pub(crate) cursor: &'a str,
    /// The requested number of posts.
    pub(crate) limit: usize,
    /// Whether the page has the reader's own posts.
    pub(crate) include_self: bool,
}

/// A cached page of a home timeline. The fields that a request without a cursor compares are in one
/// cache line.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CachedPage {
    /// The reader.
    pub(crate) reader: Slot,
    /// The tick of the last use.
    used: AtomicU32,
    limit: usize,
    include_self: bool,
    has_cursor: bool,
    /// The version that was read before the page was built.
    pub(super) as_of: Version,
    /// The page has other posts once the horizon reaches this time of the time column.
    until: i64,
    pub(crate) sent: SentPage,
    cursor: Bytes,
    /// The authors of the posts on the page.
    pub(super) authors: Box<[Slot]>,
}

impl CachedPage {
    /// The page that was sent for `query`, built from data as of a version, and valid until the
    /// horizon reaches a time. Cursor, links and body are in one allocation: on a hit none of it is
    /// in the processor's caches.
    pub(crate) fn new(
        (reader, PageQuery { cursor, limit, include_self }): (Slot, PageQuery<'_>),
        (as_of, until): (Version, i64),
        authors: Box<[Slot]>,
        sent: &SentPage,
    ) -> Self {
        let all: Bytes = [cursor.as_bytes(), &sent.links, &sent.body].concat().into();
        let (cursor, links) = (cursor.len(), cursor.len() + sent.links.len());
        let sent =
            SentPage { links: all.slice(cursor..links), body: all.slice(links..), tag: sent.tag };
        let (used, has_cursor) = (AtomicU32::new(0), cursor > 0);
        let cursor = all.slice(..cursor);
        Self { reader, used, limit, include_self, has_cursor, as_of, until, sent, cursor, authors }
    }

    /// Whether this is the page of this reader for this query.
    fn answers(&self, reader: Slot, query: PageQuery<'_>) -> bool {
        self.reader == reader
            && self.limit == query.limit
            && self.include_self == query.include_self
            && self.has_cursor != query.cursor.is_empty()
            && (!self.has_cursor || self.cursor == query.cursor)
    }

    fn query(&self) -> PageQuery<'_> {
        PageQuery {
            cursor: std::str::from_utf8(&self.cursor).unwrap_or_default(),
            limit: self.limit,
            include_self: self.include_self,
        }
    }

    /// Whether the page has all posts up to this horizon.
    pub(super) fn is_whole_at(&self, horizon: Option<PostKey>) -> bool {
        horizon.is_none_or(|horizon| horizon.time < self.until)
    }

    /// Approximate size in bytes.
    fn bytes(&self) -> usize {
        let authors = self.authors.len() * size_of::<Slot>();
        let sent = self.sent.body.len() + self.sent.links.len();
        size_of::<Self>() + self.cursor.len() + authors + sent
    }

    /// Whether this is the first use in this tick.
    pub(super) fn is_first_use(&self, tick: u32) -> bool {
        self.used.load(Ordering::Relaxed) != tick && self.used.swap(tick, Ordering::Relaxed) != tick
    }
}

/// A direct-mapped cache with two entries per reader (with and without a cursor). Readers can
/// collide; the last writer wins.
#[derive(Debug)]
pub(super) struct PageCache {
    cells: Box<[Cell]>,
    bytes_max: usize,
    hashes: RandomState,
}

type CachedOrNone = Option<Arc<CachedPage>>;

#[derive(Debug, Default)]
struct Cell {
    page: ArcSwapOption<CachedPage>,
    /// The last request that was not a hit: see [`VERSION_BITS`].
    requested: AtomicU64,
}

impl PageCache {
    /// An empty cache that takes a fraction of a budget of `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        let bytes_max = budget / PAGES_SHARE;
        let cells = (0..bytes_max / PAGE_BYTES).map(|_| Cell::default()).collect();
        Self { cells, bytes_max, hashes: RandomState::new() }
    }

    /// Size of the cells in bytes, without the pages.
    pub(super) fn index_bytes(&self) -> usize {
        self.cells.len() * size_of::<Cell>()
    }

    fn cell(&self, reader: Slot, query: PageQuery<'_>) -> Option<&Cell> {
        let cell = 2 * reader as usize + usize::from(!query.cursor.is_empty());
        self.cells.get(cell.checked_rem(self.cells.len())?)
    }

    /// Begins to load the cell of this query into the processor's cache.
    pub(super) fn prefetch(&self, reader: Slot, query: PageQuery<'_>) {
        black_box(self.cell(reader, query).map(|cell| cell.requested.load(Ordering::Relaxed)));
    }

    /// The cached page of this reader for this query.
    pub(super) fn get(&self, reader: Slot, query: PageQuery<'_>) -> Option<Guard<CachedOrNone>> {
        let page = self.cell(reader, query)?.page.load();
        let answers = page.as_ref().is_some_and(|page| page.answers(reader, query));
        answers.then_some(page)
    }

    /// Records a request that is answered with a page as of this version. Returns the version of
    /// the page that answered the last request in this cell, if that was the same request.
    pub(super) fn request(
        &self,
        reader: Slot,
        query: PageQuery<'_>,
        as_of: Version,
    ) -> Option<Version> {
        const VERSION_MASK: u64 = (1 << VERSION_BITS) - 1;
        let requested = &self.cell(reader, query)?.requested;
        let hash = self.hashes.hash_one((reader, query)) & !VERSION_MASK;
        let before = requested.swap(hash | (as_of.0 & VERSION_MASK), Ordering::Relaxed);
        (before & !VERSION_MASK == hash).then_some(Version(before & VERSION_MASK))
    }

    /// Caches a page and replaces the one in its cell. If the page does not fit, the cell becomes
    /// empty.
    pub(super) fn put(&self, page: CachedPage, budget: &Budget) {
        let Some(cell) = self.cell(page.reader, page.query()) else { return };
        let bytes = page.bytes();
        let used = &budget.pages;
        let within_share = bytes <= PAGE_BYTES_MAX && used.bytes() + bytes <= self.bytes_max;
        let fits = within_share && budget.has_room(bytes);
        let bytes = if fits { bytes } else { 0 };
        let before = cell.page.swap(fits.then(|| Arc::new(page)));
        let bytes_before = before.map_or(0, |page| page.bytes());
        used.change((bytes_before, usize::from(bytes_before > 0)), (bytes, usize::from(fits)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(limit: usize) -> PageQuery<'static> {
        PageQuery { cursor: "", limit, include_self: false }
    }

    fn page(reader: Slot, query: PageQuery<'_>, bytes: usize) -> CachedPage {
        let sent = SentPage {
            body: Bytes::from(vec![b'x'; bytes]),
            links: Bytes::from_static(b"l"),
            tag: 1,
        };
        let page = CachedPage::new((reader, query), (Version(0), i64::MAX), Box::default(), &sent);
        assert_eq!((&page.sent.body, &page.sent.links), (&sent.body, &sent.links));
        page
    }

    #[test]
    fn pages_share_cells_and_stay_within_their_limit() {
        let pages = PageCache::new(32 * PAGES_SHARE * PAGE_BYTES);
        let budget = Budget::new(32 * PAGES_SHARE * PAGE_BYTES, 0);
        let used = &budget.pages;
        let queries = [newest(20), PageQuery { cursor: "x", limit: 20, include_self: false }];
        for reader in 0..1_000 {
            let query = queries[reader as usize / 3 % 2];
            pages.put(page(reader, query, (reader as usize * 37) % (10 << 10)), &budget);
            assert!(used.bytes() <= 32 * PAGE_BYTES);
        }
        let cached: Vec<usize> = (0..1_000)
            .flat_map(|reader| queries.map(|query| pages.get(reader, query)))
            .flatten()
            .flat_map(|page| page.as_ref().map(|page| page.bytes()))
            .collect();
        assert!((5..=32).contains(&cached.len()), "{}", cached.len());
        assert_eq!((cached.len(), cached.iter().sum::<usize>()), (used.users(), used.bytes()));
        pages.put(page(7, newest(20), PAGE_BYTES_MAX), &budget);
        assert!(pages.get(7, newest(20)).is_none(), "the page is too long");
        pages.put(page(7, newest(9), 10), &budget);
        assert!(pages.get(7, newest(9)).is_some() && pages.get(7, newest(20)).is_none());
        let poll = PageQuery { cursor: "a", limit: 20, include_self: false };
        pages.put(page(7, poll, 10), &budget);
        assert!(pages.get(7, newest(9)).is_some() && pages.get(7, poll).is_some());
        assert!(pages.get(7 + 16, newest(9)).is_none(), "in the same cell");
    }

    #[test]
    fn a_repeated_request_is_recognized_with_the_version_of_the_first() {
        let pages = PageCache::new(32 * PAGES_SHARE * PAGE_BYTES);
        let request = |reader, query, version| pages.request(reader, query, Version(version));
        assert_eq!(request(7, newest(20), 5), None);
        assert_eq!(request(7, newest(20), 6), Some(Version(5)));
        assert_eq!(request(7, newest(21), 7), None, "another page");
        assert_eq!(request(7, newest(20), 8), None);
        assert_eq!(request(7 + 16, newest(20), 9), None, "another reader in the same cell");
        let poll = PageQuery { cursor: "a", limit: 20, include_self: false };
        assert_eq!(request(7, poll, 9), None);
        assert_eq!(request(7, poll, 9), Some(Version(9)));
    }

    #[test]
    fn a_small_budget_caches_no_pages() {
        let (pages, budget) = (PageCache::new(15 << 10), Budget::new(15 << 10, 0));
        pages.put(page(7, newest(20), 10), &budget);
        assert!(pages.get(7, newest(20)).is_none());
        assert_eq!(pages.request(7, newest(20), Version(1)), None);
    }
}
