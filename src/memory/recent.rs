//! The recent log: the newest posts of all authors in one list, by time. Pages far below the newest
//! learn from it who has posts there, instead of looking into the tail of every followee. Pure.
//!
//! It is an *upper bound*, as heads are: it says who may have a post at a place, and the author's
//! tail says which. So nothing is ever taken out of it for being deleted, evicted or forgotten, and
//! it only loses its oldest end: it tells nothing at or below its *floor*.
//!
//! What it does not tell is known for each author: `Memory::unlisted` bounds the times of those of
//! its posts that are not listed. Each log's writer keeps that true in this order. A post of a
//! listed author is listed before the log advances over it. A tail that comes is listed, and *then*
//! its author's bound sinks to the tail's floor. The bound of an author whose tail goes or is cut
//! rises at once, before anything is passed over.
//!
//! A reader looks at the bounds first and at the list afterwards. Whatever a bound promises was in
//! the list when the bound was looked at, and it stays in it or falls below the list's floor, which
//! is swapped together with the list. So no post is missed that was told before the reader began,
//! whatever rises, goes or begins anew meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::budget::Budget;
use super::follow_list::Slot;
use super::tail::TailKey;

/// The list may take this part of the budget.
const BUDGET_SHARE: usize = 16;
/// And have so many entries, 24 MB. Page 100 of 20 reaches so deep even for who follows one author
/// of 500, and walking further costs more than looking into tails.
const ENTRIES_MAX: usize = 1 << 20;
/// Entries of a chunk: with a post a chunk or two are copied, not the list.
const CHUNK_MAX: usize = 512;
/// The newest changes stand apart, so that a post copies these and not the list of chunks.
const YOUNG_MAX: usize = 512;

/// A post that stands, or once stood, in a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecentEntry {
    pub(crate) key: TailKey,
    pub(crate) slot: Slot,
}

/// The recent log: what readers are shown of it, and who may change that.
#[derive(Debug)]
pub(crate) struct Recent {
    listed: ArcSwap<Listed>,
    /// Held by the one writer that puts entries in; each log has a writer.
    writing: Mutex<()>,
    entries_max: usize,
    /// Pages that were walked along it.
    walks: AtomicU64,
}

/// The list as it is at one moment.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Newest first, in no chunk yet. May repeat what stands in one.
    young: Vec<RecentEntry>,
    chunks: Arc<[Chunk]>,
    /// Entries in chunks.
    chunked: usize,
    floor: i64,
}

/// Newest first, never empty; chunks follow each other likewise.
type Chunk = Arc<[RecentEntry]>;

impl Recent {
    /// An empty one, for a memory of `budget` bytes.
    pub(crate) fn new(budget: usize) -> Self {
        let entries_max = (budget / BUDGET_SHARE / size_of::<RecentEntry>()).min(ENTRIES_MAX);
        let (listed, writing) = (ArcSwap::from_pointee(Listed::new()), Mutex::new(()));
        Self { listed, writing, entries_max, walks: AtomicU64::new(0) }
    }

    /// Puts these in, in any order, in one swap.
    pub(crate) fn put(&self, entries: Vec<RecentEntry>, budget: &Budget) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.listed.load();
        let now = before.with(entries, self.entries_max);
        budget.recent.change(before.size(), now.size());
        self.listed.store(Arc::new(now));
    }

    /// As it is now.
    pub(crate) fn load(&self) -> Guard<Arc<Listed>> {
        self.listed.load()
    }

    /// A page was walked along it.
    pub(crate) fn count_walk(&self) {
        self.walks.fetch_add(1, Ordering::Relaxed);
    }

    /// Pages that were walked along it.
    pub(crate) fn walks(&self) -> u64 {
        self.walks.load(Ordering::Relaxed)
    }
}

impl Listed {
    fn new() -> Self {
        Self { young: Vec::new(), chunks: Arc::new([]), chunked: 0, floor: i64::MIN }
    }

    /// Nothing is told of posts of this time or older.
    pub(crate) fn floor(&self) -> i64 {
        self.floor
    }

    /// All entries from this place down, newest first. Some may come twice.
    pub(crate) fn walk(&self, from: TailKey) -> Walk<'_> {
        let young = self.young.partition_point(|entry| entry.key > from);
        let is_above = |chunk: &Chunk| chunk.last().is_some_and(|entry| entry.key > from);
        let (_, chunks) = self.chunks.split_at(self.chunks.partition_point(is_above));
        let (chunk, chunks) = split_first(chunks);
        let first = chunk.partition_point(|entry| entry.key > from);
        Walk { young: &self.young[young..], chunk: &chunk[first..], chunks }
    }

    /// The bytes and the entries, as they are counted.
    fn size(&self) -> (usize, usize) {
        let entries = self.chunked + self.young.len();
        // A chunk is a pointer and its length, and two counters.
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

/// The entries from a place down.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    young: &'a [RecentEntry],
    chunk: &'a [RecentEntry],
    /// Those behind it.
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
        // None comes after any entry.
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
    // What is sorted already comes in a few runs, which this sort is quick with.
    entries.sort_by(|a, b| b.cmp(a));
    entries.dedup();
}

/// The chunks with these entries, newest first, among them. Chunks that get none are kept as they
/// are.
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

/// As chunks of about the same length.
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
        /// Whatever is put in, in whatever pieces: all that is newer than the floor is told, in
        /// order, and no more is kept than may be.
        #[test]
        fn a_walk_tells_all_that_is_newer_than_the_floor(
            puts in prop::collection::vec(entries(), 0..9),
            max in prop_oneof![0usize..40, 1_000usize..9_000],
            from in (0i64..300, 0u64..9),
        ) {
            let budget = Budget::new(max * BUDGET_SHARE * size_of::<RecentEntry>());
            let recent = Recent::new(budget.max());
            let mut all = BTreeSet::new();
            for entries in puts {
                all.extend(entries.iter().copied());
                let floor = recent.load().floor();
                recent.put(entries, &budget);
                let listed = recent.load();
                prop_assert!(listed.floor() >= floor, "the floor sank");
                prop_assert!(listed.size().1 <= max);
                prop_assert!(listed.chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len())));
                prop_assert_eq!((budget.recent.bytes(), budget.recent.items()), listed.size());
                for from in [from, (i64::MAX, 0)] {
                    let above = |entry: &RecentEntry| entry.key.0 > listed.floor();
                    let mut walked: Vec<RecentEntry> = listed.walk(from).filter(above).collect();
                    walked.dedup();
                    let told = all.iter().rev().filter(|entry| entry.key <= from);
                    let expected: Vec<RecentEntry> = told.copied().filter(above).collect();
                    prop_assert_eq!(&walked, &expected);
                }
            }
        }
    }

    #[test]
    fn a_post_copies_what_is_young_and_leaves_the_chunks_alone() {
        let (recent, budget) = (Recent::new(64 << 20), Budget::new(64 << 20));
        recent.put((0..100_000).map(|n| entry(n, 1, 1)).collect(), &budget);
        let before = recent.load();
        recent.put(vec![entry(100_000, 1, 1)], &budget);
        assert!(Arc::ptr_eq(&before.chunks, &recent.load().chunks));
        recent.put((0..600).map(|n| entry(100_001 + n, 1, 1)).collect(), &budget);
        let now = recent.load();
        assert_eq!((now.young.len(), now.size().1), (0, 100_601));
        let kept =
            now.chunks.iter().filter(|now| before.chunks.iter().any(|c| Arc::ptr_eq(c, now)));
        assert_eq!(
            kept.count(),
            before.chunks.len() - 1,
            "other chunks than the newest were copied"
        );
    }
}
