//! The units that a request costs. One unit is about the work for a page from the page cache: 10 us
//! of a processor.

use tributary::explain::MemoryUse;
use tributary::graph::Count;
use tributary::internal::Draft;
use tributary::news::News;

/// Further units of an answer, beside the one that every request takes at its start. The handler
/// adds it to the extensions of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost(u32);

/// A query on one shard, or the waves of queries for a page. A page from the databases takes about
/// 1.4 ms of a processor, most of it in the database server.
const QUERY: u32 = 20;
/// A transaction.
const WRITE: u32 = 10;
/// Followees that cost a unit, if memory has the page.
const FOLLOWEES_IN_MEMORY: usize = 1_000;
/// Followees that cost a unit, if the databases are queried; 50 are in one statement.
const FOLLOWEES_QUERIED: usize = 50;
/// Rows of an index that cost a unit, if they are counted.
const ROWS_COUNTED: usize = 100;
/// Follows that cost a unit, if they are written in one request.
const FOLLOWS_WRITTEN: usize = 20;

impl Cost {
    /// Of a request that queries one shard.
    pub(crate) const QUERY: Self = Self(QUERY);

    /// Of a transaction.
    pub(crate) const WRITE: Self = Self(WRITE);

    /// Of a request that counts rows on all shards.
    pub(crate) fn of_counts(counts: impl Iterator<Item = Count>) -> Self {
        let rows = counts.map(|count| match count {
            Count::Exact(rows) | Count::AtLeast(rows) => rows,
        });
        Self(QUERY + units(rows.sum::<usize>() / ROWS_COUNTED))
    }

    /// Of a page, by the number of its authors, by whether memory had it, and by the number of
    /// plain pages that were read for it.
    pub(crate) fn of_page(page: &Draft) -> Self {
        let Self(one) = Self::of_authors(page.authors, page.queried.is_empty() && page.waves == 0);
        Self(one.saturating_mul(u32::try_from(page.reads).unwrap_or(u32::MAX)))
    }

    /// Of a page that was explained, or of the error. Without memory it is a page from the
    /// databases.
    pub(crate) fn of_explained(page: Option<&Draft>, memory: MemoryUse) -> Self {
        match page {
            Some(page) if memory == MemoryUse::AsUsual => Self::of_page(page),
            page => Self::of_authors(page.map_or(0, |page| page.authors), false),
        }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Of an answer with what is new.
    pub(crate) fn of_news(news: &News) -> Self {
        Self::of_authors(news.authors, !news.queried)
    }

    fn of_authors(authors: usize, in_memory: bool) -> Self {
        match in_memory {
            true => Self(units(authors / FOLLOWEES_IN_MEMORY)),
            false => Self(QUERY + units(authors / FOLLOWEES_QUERIED)),
        }
    }

    /// Of a write of several rows.
    pub(crate) fn of_follows(follows: usize) -> Self {
        Self(WRITE + units(follows / FOLLOWS_WRITTEN))
    }

    /// Of an answer whose handler has not stated it: errors cost what they may have needed.
    pub(crate) fn by_default(is_write: bool, is_late_error: bool) -> Self {
        match (is_write, is_late_error) {
            (true, _) => Self(WRITE),
            (false, true) => Self::QUERY,
            (false, false) => Self(0),
        }
    }

    pub(super) fn units(self) -> u32 {
        self.0
    }
}

fn units(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cost_by_followees_and_by_where_they_come_from() {
        let cost = |authors, in_memory| Cost::of_authors(authors, in_memory).units();
        assert_eq!([cost(999, true), cost(10_000, true)], [0, 10]);
        assert_eq!([cost(1, false), cost(10_000, false)], [20, 220]);
        assert_eq!(Cost::of_follows(1_000).units(), 60);
        assert_eq!(Cost::by_default(false, false).units(), 0);
        assert!(Cost::by_default(true, false).units() > 1);
    }
}
