//! PageCache as they were sent, kept for readers who come again before anything has changed: their newest
//! page, and the empty one above it that they poll.
//!
//! Every change to what is shown of a user gets the next *version*, which is noted at the user after
//! the change is shown. A page says as of which version it was made. It is still right exactly if
//! neither the reader's follow list nor anything shown of a followee has a later one: that is one
//! load for each followee from one array, and no post is looked at. Changes are never missed: the
//! version of a page was read before what stands on it, so a change that it may lack is later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::budget::Usage;
use super::follow_list::Slot;

/// PageCache may take so much of the budget: what they are made of needs the rest.
const PAGES_SHARE: usize = 8;
/// What a page takes, about: every other one is empty. With longer ones, cells stay empty.
const PAGE_BYTES: usize = 2 << 10;
/// Longer pages are not kept.
const PAGE_BYTES_MAX: usize = 64 << 10;

/// Counts changes to all that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(super) u64);

/// A page of posts as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct SentPage {
    pub(crate) body: Bytes,
    /// Where to go on from it: the `Link` header.
    pub(crate) links: Bytes,
}

/// A page of a home timeline, as it was sent.
#[derive(Debug)]
pub(crate) struct CachedPage {
    /// Whose it is.
    pub(crate) reader: Slot,
    /// What was asked for, as it was written.
    query: Bytes,
    /// What it was made from is what was shown then.
    pub(super) as_of: Version,
    /// Whose posts stand on it.
    pub(super) authors: Box<[Slot]>,
    pub(crate) sent: SentPage,
    /// When it was last used, in ticks.
    used: AtomicU32,
}

impl CachedPage {
    /// What was sent for `query`, made from what was shown as of a version. All of it lies in one
    /// piece: it is looked at when nothing of it is in the processor's caches any more.
    pub(crate) fn new(
        (reader, query): (Slot, &str),
        as_of: Version,
        authors: Box<[Slot]>,
        sent: &SentPage,
    ) -> Self {
        let all: Bytes = [query.as_bytes(), &sent.links, &sent.body].concat().into();
        let (query, links) = (query.len(), query.len() + sent.links.len());
        let sent = SentPage { links: all.slice(query..links), body: all.slice(links..) };
        let used = AtomicU32::new(0);
        Self { reader, query: all.slice(..query), as_of, authors, sent, used }
    }

    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        let authors = self.authors.len() * size_of::<Slot>();
        let sent = self.sent.body.len() + self.sent.links.len();
        size_of::<Self>() + self.query.len() + authors + sent
    }

    /// Whether this is the first use in this tick.
    pub(super) fn is_first_use(&self, tick: u32) -> bool {
        self.used.load(Ordering::Relaxed) != tick && self.used.swap(tick, Ordering::Relaxed) != tick
    }
}

/// At most one page with a cursor and one without of each reader. Readers share cells; who comes
/// later has it.
#[derive(Debug)]
pub(super) struct PageCache {
    cells: Box<[ArcSwapOption<CachedPage>]>,
    bytes_max: usize,
}

impl PageCache {
    /// Places for a share of `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        let bytes_max = budget / PAGES_SHARE;
        let cells = (0..bytes_max / PAGE_BYTES).map(|_| ArcSwapOption::empty()).collect();
        Self { cells, bytes_max }
    }

    /// What the cells take.
    pub(super) fn index_bytes(&self) -> usize {
        self.cells.len() * size_of::<ArcSwapOption<CachedPage>>()
    }

    fn cell(&self, reader: Slot, query: &[u8]) -> Option<&ArcSwapOption<CachedPage>> {
        const CURSOR: &[u8] = b"cursor=";
        let has_cursor = query.windows(CURSOR.len()).any(|part| part == CURSOR);
        let cell = 2 * reader as usize + usize::from(has_cursor);
        self.cells.get(cell.checked_rem(self.cells.len())?)
    }

    /// The page that is kept of this reader for this query.
    pub(super) fn get(&self, reader: Slot, query: &str) -> Option<Arc<CachedPage>> {
        let page = self.cell(reader, query.as_bytes())?.load();
        let page = page.as_ref().filter(|page| page.reader == reader && page.query == query)?;
        Some(Arc::clone(page))
    }

    /// Keeps a page, in cell of another one. Without room for it both are gone.
    pub(super) fn put(&self, page: CachedPage, used: &Usage) {
        let Some(cell) = self.cell(page.reader, &page.query) else { return };
        let bytes = page.bytes();
        let fits = bytes <= PAGE_BYTES_MAX && used.bytes() + bytes <= self.bytes_max;
        let bytes = if fits { bytes } else { 0 };
        let before = cell.swap(fits.then(|| Arc::new(page)));
        let bytes_before = before.map_or(0, |page| page.bytes());
        used.change((bytes_before, usize::from(bytes_before > 0)), (bytes, usize::from(fits)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(reader: Slot, query: &str, bytes: usize) -> CachedPage {
        let sent =
            SentPage { body: Bytes::from(vec![b'x'; bytes]), links: Bytes::from_static(b"l") };
        let page = CachedPage::new((reader, query), Version(0), Box::default(), &sent);
        assert_eq!((&page.sent.body, &page.sent.links), (&sent.body, &sent.links));
        page
    }

    #[test]
    fn pages_share_places_and_never_take_more_than_their_share() {
        let pages = PageCache::new(32 * PAGES_SHARE * PAGE_BYTES);
        let used = Usage::default();
        for reader in 0..1_000 {
            let query = ["", "cursor=x"][reader as usize / 3 % 2];
            pages.put(page(reader, query, (reader as usize * 37) % (10 << 10)), &used);
            assert!(used.bytes() <= 32 * PAGE_BYTES);
        }
        let kept: Vec<usize> = (0..1_000)
            .flat_map(|reader| ["", "cursor=x"].map(|query| pages.get(reader, query)))
            .flatten()
            .map(|page| page.bytes())
            .collect();
        assert!((5..=32).contains(&kept.len()), "{}", kept.len());
        assert_eq!((kept.len(), kept.iter().sum::<usize>()), (used.users(), used.bytes()));
        pages.put(page(7, "", PAGE_BYTES_MAX), &used);
        assert!(pages.get(7, "").is_none(), "a page that is too long");
        pages.put(page(7, "limit=9", 10), &used);
        assert!(pages.get(7, "limit=9").is_some() && pages.get(7, "").is_none());
        pages.put(page(7, "cursor=a", 10), &used);
        assert!(pages.get(7, "limit=9").is_some() && pages.get(7, "cursor=a").is_some());
        assert!(pages.get(7 + 16, "limit=9").is_none(), "at the same cell");
    }

    #[test]
    fn a_small_budget_keeps_no_pages() {
        let (pages, used) = (PageCache::new(15 << 10), Usage::default());
        pages.put(page(7, "", 10), &used);
        assert!(pages.get(7, "").is_none());
    }
}
