//! Counts what pages cost the databases, for `/metrics`, and learns how many authors fill a page.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One place for each power of two of the number of followees.
const SIZES: usize = 18;
/// A learned part of 1.
const WHOLE: u32 = 1 << 16;
/// The part of the average that a page replaces.
const WEIGHT: u32 = 16;

/// The pages that were read from the databases, since the start.
#[derive(Debug)]
pub struct ColdPages {
    pages: AtomicU64,
    waves: AtomicU64,
    rows: AtomicU64,
    /// The authors on a page for each of its posts, by the number of followees: moving averages.
    authors: [AtomicU32; SIZES],
}

impl Default for ColdPages {
    fn default() -> Self {
        let authors = std::array::from_fn(|_| AtomicU32::new(WHOLE));
        Self { pages: 0.into(), waves: 0.into(), rows: 0.into(), authors }
    }
}

impl ColdPages {
    /// Counts a page, its waves without the one for the follow list, and the rows that the
    /// databases returned for it.
    pub(crate) fn count(&self, waves: u32, rows: u64) {
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.waves.fetch_add(waves.into(), Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// How many of the authors with the newest posts are likely to fill a page: half more than
    /// earlier pages had on average. One too few takes another wave; too many cost rows.
    pub(crate) fn authors_of_page(&self, followees: usize, posts: usize) -> usize {
        let part = self.part(followees).load(Ordering::Relaxed) as usize;
        (posts * part * 3).div_ceil(WHOLE as usize * 2)
    }

    /// Learns from a full page.
    pub(crate) fn note_authors(&self, followees: usize, (authors, posts): (usize, usize)) {
        let part = self.part(followees);
        let of_page = authors * WHOLE as usize / posts.max(1);
        let of_page = u32::try_from(of_page).unwrap_or(WHOLE).min(WHOLE);
        // A page of another reader that is lost here does not matter.
        let before = part.load(Ordering::Relaxed);
        part.store(before - before / WEIGHT + of_page / WEIGHT, Ordering::Relaxed);
    }

    fn part(&self, followees: usize) -> &AtomicU32 {
        let size = followees.checked_ilog2().unwrap_or_default() as usize;
        &self.authors[size.min(SIZES - 1)]
    }

    /// The number of pages.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// The waves of all these pages.
    pub fn waves(&self) -> u64 {
        self.waves.load(Ordering::Relaxed)
    }

    /// The rows of all these pages.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_authors_follow_the_pages_of_readers_with_as_many_followees() {
        let pages = ColdPages::default();
        assert_eq!(pages.authors_of_page(40, 21), 32);
        for _ in 0..200 {
            pages.note_authors(40, (7, 21));
            pages.note_authors(1_000, (21, 21));
        }
        assert!((10..=12).contains(&pages.authors_of_page(40, 21)));
        assert!((31..=32).contains(&pages.authors_of_page(1_000, 21)));
        assert_eq!(pages.authors_of_page(0, 21), 32);
        assert_eq!(pages.authors_of_page(usize::MAX, 1), 2);
    }
}
