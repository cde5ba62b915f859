//! The recent log: the newest posts of all authors in one list, ordered by time. A page far below
//! the newest scans it to find the followees with posts there, instead of reading every
//! followee's tail. Pure.
//!
//! The list is an *upper bound*, as heads are. An entry means that the author may have a post
//! with this key; the author's tail decides. Deletes and evictions therefore remove no entry. The
//! list only loses its oldest end: it holds nothing at or below its *floor*.
//!
//! `Memory::unlisted` bounds, for each author, the times of the posts that are not listed. The
//! writer of each log keeps that bound true by this order:
//!
//! - A post of a listed author is added before the log advances past it.
//! - A new tail is added first; *then* its author's bound is lowered to the tail's floor.
//! - If a tail is evicted or cut, its author's bound is raised at once, before any post is
//!   skipped.
//!
//! A reader loads the bounds first and the list afterwards. Every post that a bound promises was
//! in the list when the reader loaded the bound. It stays there or falls below the list's floor,
//! which is swapped together with the list. A reader therefore misses no post that was added
//! before it began, whatever is raised, evicted or rebuilt while it reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::budget::Budget;
use super::follow_list::Slot;
use super::tail::TailKey;

/// The list can take this fraction of the budget (1/16).
const BUDGET_SHARE: usize = 16;
/// Maximum number of entries, 24 MB. Page 100 (of 20 posts each) is within it even for a reader
/// who follows one author in 500. A longer scan costs more than reading tails.
const ENTRIES_MAX: usize = 1 << 20;
/// Maximum number of entries per chunk. A new post copies one or two chunks, not the list.
const CHUNK_MAX: usize = 512;
/// The newest entries are separate, so that a new post copies only these and not the list of
/// chunks.
const YOUNG_MAX: usize = 512;

/// A post that is, or once was, in a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecentEntry {
    pub(crate) key: TailKey,
    pub(crate) slot: Slot,
}

/// The recent log: the list that readers load, and the lock of its writers.
#[derive(Debug)]
pub(crate) struct Recent {
    listed: ArcSwap<Listed>,
    /// Held while entries are added. Each log has a writer of its own.
    writing: Mutex<()>,
    entries_max: usize,
    /// Number of pages found by a scan of the list.
    walks: AtomicU64,
}

/// The list at one moment.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Newest first; not in chunks yet. Can repeat entries that are in a chunk.
    young: Vec<RecentEntry>,
    chunks: Arc<[Chunk]>,
    /// Number of entries in chunks.
    chunked: usize,
    floor: i64,
}

/// Newest first, never empty. The chunks are in the same order.
type Chunk = Arc<[RecentEntry]>;

impl Recent {
    /// An empty recent log, for a memory with a budget of `budget` bytes.
    pub(crate) fn new(budget: usize) -> Self {
        let entries_max = (budget / BUDGET_SHARE / size_of::<RecentEntry>()).min(ENTRIES_MAX);
        let (listed, writing) = (ArcSwap::from_pointee(Listed::new()), Mutex::new(()));
        Self { listed, writing, entries_max, walks: AtomicU64::new(0) }
    }

    /// Adds entries, in any order, in one swap.
    pub(crate) fn put(&self, entries: Vec<RecentEntry>, budget: &Budget) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.listed.load();
        let now = before.with(entries, self.entries_max);
        budget.recent.change(before.size(), now.size());
        self.listed.store(Arc::new(now));
    }

    /// The list as it is now.
    pub(crate) fn load(&self) -> Guard<Arc<Listed>> {
        self.listed.load()
    }

    /// Counts a page that a scan of the list found.
    pub(crate) fn count_walk(&self) {
        self.walks.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of pages found by a scan of the list.
    pub(crate) fn walks(&self) -> u64 {
        self.walks.load(Ordering::Relaxed)
    }
}

impl Listed {
    fn new() -> Self {
        Self { young: Vec::new(), chunks: Arc::new([]), chunked: 0, floor: i64::MIN }
    }

    /// The list holds no posts of this time or older.
    pub(crate) fn floor(&self) -> i64 {
        self.floor
    }

    /// All entries from this key down, newest first. An entry can come twice.
    pub(crate) fn walk(&self, from: TailKey) -> Walk<'_> {
        let young = self.young.partition_point(|entry| entry.key > from);
        let is_above = |chunk: &Chunk| chunk.last().is_some_and(|entry| entry.key > from);
        let (_, chunks) = self.chunks.split_at(self.chunks.partition_point(is_above));
        let (chunk, chunks) = split_first(chunks);
        let first = chunk.partition_point(|entry| entry.key > from);
        Walk { young: &self.young[young..], chunk: &chunk[first..], chunks }
    }

    /// The size in bytes and the number of entries, as the budget counts them.
    fn size(&self) -> (usize, usize) {
        let entries = self.chunked + self.young.len();
        // A chunk costs a pointer with its length, and two counters.
        (entries * size_of::<RecentEntry>() + self.chunks.len() * 32, entries)
    }

    fn with(&self, mut entries: Vec<RecentEntry>, entries_max: usize) -> Self {
        entries.extend_from_slice(&self.young);
        entries.retain(|entry| entry.key.0 > self.floor);
        newest_first(&mut entries);
        if entries.len() <= YOUNG_MAX && entries.len() + self.chunked <= entries_max {
            let (chunks, chunked) = (Arc::clone(&self.chunks), self.chunked);
            return Self { young: entries, chunks, chunked, floor: self.floor };
        }
        let mut chunks = merge(&self.chunks, &entries);
        let mut chunked = chunks.iter().map(|chunk| chunk.len()).sum();
        let mut floor = self.floor;
        while chunked > entries_max {
            let Some(oldest) = chunks.pop() else { break };
            chunked -= oldest.len();
            floor = oldest.first().map_or(floor, |entry| floor.max(entry.key.0));
        }
        Self { young: Vec::new(), chunks: chunks.into(), chunked, floor }
    }
}

/// The entries from a key down.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    young: &'a [RecentEntry],
    chunk: &'a [RecentEntry],
    /// The chunks after `chunk`.
    chunks: &'a [Chunk],
}

impl Iterator for Walk<'_> {
    type Item = RecentEntry;

    #[inline]
    fn next(&mut self) -> Option<RecentEntry> {
        if self.chunk.is_empty() {
            (self.chunk, self.chunks) = split_first(self.chunks);
        }
        let (young, old) = (self.young.first(), self.chunk.first());
        // `None` sorts below every entry.
        let from = if young >= old { &mut self.young } else { &mut self.chunk };
        let (entry, rest) = from.split_first()?;
        *from = rest;
        Some(*entry)
    }
}

fn split_first(chunks: &[Chunk]) -> (&[RecentEntry], &[Chunk]) {
    chunks.split_first().map_or((&[], &[]), |(first, rest)| (&**first, rest))
}

fn newest_first(entries: &mut Vec<RecentEntry>) {
    // The input consists of a few sorted runs, which this sort handles quickly.
    entries.sort_by(|a, b| b.cmp(a));
    entries.dedup();
}

/// The chunks with these entries merged in. `entries` are newest first. Chunks without new
/// entries are shared, not copied.
fn merge(chunks: &[Chunk], entries: &[RecentEntry]) -> Vec<Chunk> {
    let mut merged = Vec::with_capacity(chunks.len() + entries.len() / CHUNK_MAX + 1);
    let (mut rest, mut both) = (entries, Vec::new());
    for (index, chunk) in chunks.iter().enumerate() {
        let is_last = index + 1 == chunks.len();
        let belongs =
            |entry: &RecentEntry| is_last || chunk.last().is_some_and(|last| entry >= last);
        let (here, below) = rest.split_at(rest.partition_point(belongs));
        rest = below;
        if here.is_empty() {
            merged.push(Arc::clone(chunk));
            continue;
        }
        both.clear();
        both.extend_from_slice(here);
        both.extend_from_slice(chunk);
        newest_first(&mut both);
        push_all(&mut merged, &both);
    }
    push_all(&mut merged, rest);
    merged
}

/// Adds the entries as chunks of about the same length.
fn push_all(chunks: &mut Vec<Chunk>, entries: &[RecentEntry]) {
    if !entries.is_empty() {
        let count = entries.len().div_ceil(CHUNK_MAX);
        chunks.extend(entries.chunks(entries.len().div_ceil(count)).map(Chunk::from));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn entry(time: i64, post: u64, slot: Slot) -> RecentEntry {
        RecentEntry { key: (time, post), slot }
    }

    fn entries() -> impl Strategy<Value = Vec<RecentEntry>> {
        let one = (0i64..300, 0u64..9, 0u32..9).prop_map(|(t, p, s)| entry(t, p, s));
        prop_oneof![prop::collection::vec(one.clone(), 1..3), prop::collection::vec(one, 1..2_000),]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
        /// A walk returns all entries above the floor, in order, however they were added. The
        /// list stays within its limit.
        #[test]
        fn a_walk_returns_all_entries_above_the_floor(
            puts in prop::collection::vec(entries(), 0..9),
            max in prop_oneof![0usize..40, 1_000usize..9_000],
            from in (0i64..300, 0u64..9),
        ) {
            let budget = Budget::new(max * BUDGET_SHARE * size_of::<RecentEntry>(), 0);
            let recent = Recent::new(budget.max());
            let mut all = BTreeSet::new();
            for entries in puts {
                all.extend(entries.iter().copied());
                let floor = recent.load().floor();
                recent.put(entries, &budget);
                let listed = recent.load();
                prop_assert!(listed.floor() >= floor, "the floor fell");
                prop_assert!(listed.size().1 <= max);
                prop_assert!(listed.chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len())));
                prop_assert_eq!((budget.recent.bytes(), budget.recent.items()), listed.size());
                for from in [from, (i64::MAX, 0)] {
                    let above = |entry: &RecentEntry| entry.key.0 > listed.floor();
                    let mut walked: Vec<RecentEntry> = listed.walk(from).filter(above).collect();
                    walked.dedup();
                    let added = all.iter().rev().filter(|entry| entry.key <= from);
                    let expected: Vec<RecentEntry> = added.copied().filter(above).collect();
                    prop_assert_eq!(&walked, &expected);
                }
            }
        }
    }

    #[test]
    fn a_new_post_copies_the_newest_entries_and_no_chunk() {
        let (recent, budget) = (Recent::new(64 << 20), Budget::new(64 << 20, 0));
        recent.put((0..100_000).map(|n| entry(n, 1, 1)).collect(), &budget);
        let before = recent.load();
        recent.put(vec![entry(100_000, 1, 1)], &budget);
        assert!(Arc::ptr_eq(&before.chunks, &recent.load().chunks));
        recent.put((0..600).map(|n| entry(100_001 + n, 1, 1)).collect(), &budget);
        let now = recent.load();
        assert_eq!((now.young.len(), now.size().1), (0, 100_601));
        let shared =
            now.chunks.iter().filter(|now| before.chunks.iter().any(|c| Arc::ptr_eq(c, now)));
        assert_eq!(
            shared.count(),
            before.chunks.len() - 1,
            "more chunks than the newest one were copied"
        );
    }
}
