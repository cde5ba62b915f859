//! A page far below the newest one, from memory, by scanning the recent log. It knows no database.
//!
//! So far down, the heads of nearly all followees are above the cursor and exclude no one, so
//! `warm` would read almost every tail. Instead we scan the recent log down from the cursor and
//! read the tail of each followee it mentions. The scan ends when no remaining entry can make the
//! page.
//!
//! A followee may also have posts that the recent log does not list. None of these *unlisted*
//! posts is newer than `Memory::unlisted`. The tails of followees whose bound reaches the
//! page are read as well, so the page is the same as that of `warm`.

use super::explain::NotScanned;
use super::warm::{CANDIDATES, MemoryPage, MemoryPosts, Span};
use crate::cursor::Edge;
use crate::memory::{FollowList, Memory, NO_POSTS, Slot};
use crate::model::{Direction, PostKey};

/// Entries that the scan may read for each tail that it avoids. A tail costs several cache misses,
/// an entry costs one search in the follow list.
const ENTRIES_PER_TAIL: usize = 8;
/// At 1/8 of that limit the scan is abandoned if, at its rate so far, it would need twice the
/// limit.
const TRIAL_SHARE: usize = 8;
/// Tails that may be read for each post of the page. Deleted posts are still listed, so some tails
/// add nothing.
const TAILS_PER_POST: usize = 8;
/// If more than 1/4 of the followees may have unlisted posts at the cursor, the tails are read
/// directly.
const UNLISTED_SHARE: usize = 4;

/// The posts of a reader's followees that are older than the edge: the same as
/// [`super::warm::older`] finds.
///
/// # Errors
/// The reason, if `warm` is likely to be faster, or if the recent log ends before the page is
/// complete.
pub(super) fn older(
    memory: &Memory,
    follows: &FollowList,
    span: Span,
) -> Result<MemoryPosts, NotScanned> {
    let Edge::Beside { key, .. } = span.edge else { return Err(NotScanned::NewestPage) };
    if span.is_newest {
        return Err(NotScanned::NewestPage);
    }
    let is_above = |slot: &&Slot| memory.head(**slot) >= key.time;
    let above = follows.slots().iter().filter(is_above).count();
    if above < span.need {
        return Err(NotScanned::FewNewer);
    }
    CANDIDATES.with_borrow_mut(|candidates| {
        // The bounds must be read before the recent log: see `memory::recent`.
        collect_unlisted(memory, follows, key.time, candidates)?;
        let mut scan = LogScan {
            memory,
            follows,
            page: MemoryPage::new(memory, span, Direction::Older),
            need: span.need,
            tick: memory.tick(),
            tails_read: Vec::with_capacity(span.need),
        };
        scan.read_listed(key, above * ENTRIES_PER_TAIL)?;
        memory.recent().count_walk();
        Ok(scan.into_posts(candidates))
    })
}

/// Collects the followees that may have unlisted posts, with the bounds of these posts. An error if
/// there are too many at the cursor.
fn collect_unlisted(
    memory: &Memory,
    follows: &FollowList,
    top: i64,
    candidates: &mut Vec<(i64, Slot)>,
) -> Result<(), NotScanned> {
    let followees = follows.slots();
    let mut above = 0;
    candidates.clear();
    for &slot in followees {
        let unlisted = memory.unlisted(slot);
        if unlisted != NO_POSTS {
            candidates.push((unlisted.min(top), slot));
            above += usize::from(unlisted >= top);
        }
    }
    let are_few = above * UNLISTED_SHARE <= followees.len();
    are_few.then_some(()).ok_or(NotScanned::Unlisted)
}

/// A page while the recent log is scanned for it.
struct LogScan<'a> {
    memory: &'a Memory,
    follows: &'a FollowList,
    page: MemoryPage<'a>,
    need: usize,
    tick: u32,
    /// Followees whose tails were read.
    tails_read: Vec<Slot>,
}

impl LogScan<'_> {
    /// Scans from the key down until no remaining entry can be on the page. An error if that takes
    /// too many entries or tails, or if the recent log ends before the page is complete.
    fn read_listed(&mut self, key: PostKey, entries_max: usize) -> Result<(), NotScanned> {
        let listed = self.memory.recent().load();
        let mut followed = 0;
        for (looked_at, entry) in listed.walk((key.time, key.post.0)).enumerate() {
            let worst = self.page.worst().filter(|_| self.page.is_full());
            if worst.is_some_and(|worst| entry.key < (worst.time, worst.post.0)) {
                return Ok(());
            }
            if entry.key.0 <= listed.floor() {
                break;
            }
            let is_slow = followed * TRIAL_SHARE * 2 < self.need;
            if self.tails_read.len() > TAILS_PER_POST * self.need {
                return Err(NotScanned::Slow);
            }
            if looked_at >= entries_max || (looked_at == entries_max / TRIAL_SHARE && is_slow) {
                return Err(NotScanned::Slow);
            }
            if self.follows.contains(entry.slot) {
                followed += 1;
                if !self.tails_read.contains(&entry.slot) {
                    self.read_tail(entry.slot, key.time);
                }
            }
        }
        // The scan reached the end of the list: is the page complete?
        let worst = self.page.worst().filter(|_| self.page.is_full());
        let all = listed.floor() == i64::MIN;
        let is_complete = all || worst.is_some_and(|worst| worst.time > listed.floor());
        is_complete.then_some(()).ok_or(NotScanned::TooShort)
    }

    fn read_tail(&mut self, slot: Slot, top: i64) {
        self.tails_read.push(slot);
        self.page.looked_at += 1;
        let tail = self.memory.tail(slot, self.tick);
        // The tail may be evicted by now; then the head is the only bound for the author's posts.
        let time = self.memory.head(slot).min(top);
        self.page.add_older(slot, self.memory.user(slot), (time, tail));
    }

    /// Reads the tails of followees whose unlisted posts could be on the page.
    fn into_posts(self, candidates: &mut Vec<(i64, Slot)>) -> MemoryPosts {
        let worst = self.page.worst().filter(|_| self.page.is_full());
        let bottom = worst.map_or(i64::MIN, |worst| worst.time);
        candidates.retain(|(time, slot)| *time >= bottom && !self.tails_read.contains(slot));
        self.page.add_newest(candidates)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::warm;
    use super::*;
    use crate::memory::{LogName, RecentEntry, Tail, TailChange, TailLimits, TailPost, UNKNOWN};
    use crate::model::{PostId, ShardId, UserId};
    use crate::moment::PostTimes;
    use crate::placement::Placement;

    type TailKey = (i64, u64);

    const AUTHORS: u64 = 40;
    const TIMES: i64 = 40;

    /// The posts that a database holds, and memory as its writers maintain it.
    struct World {
        posts: BTreeMap<Slot, BTreeSet<TailKey>>,
        tails: BTreeMap<Slot, Arc<Tail>>,
        to_list: BTreeSet<Slot>,
        memory: Arc<Memory>,
    }

    impl World {
        /// A world with a recent log of at most `entries_max` entries.
        fn new(entries_max: usize) -> Self {
            let name = |shard| LogName { name: "log".into(), shards: vec![ShardId(shard)] };
            let (unit, zone) = ("ms".parse().unwrap(), "UTC".parse().unwrap());
            let (placement, times) = (Placement::modulo(2).unwrap(), PostTimes { unit, zone });
            let (names, budget) = (vec![name(0), name(1)], entries_max * 16 * 24);
            let (memory, _queues) = Memory::new(budget, names, placement, times);
            let mut posts = BTreeMap::new();
            for author in 0..AUTHORS {
                let slot = memory.register_user(UserId(author * 7 % AUTHORS)).unwrap();
                memory.set_head(slot, NO_POSTS);
                posts.insert(slot, BTreeSet::new());
            }
            Self { posts, tails: BTreeMap::new(), to_list: BTreeSet::new(), memory }
        }

        fn show(&mut self, slot: Slot, tail: Option<Tail>) {
            let tail = tail.map(Arc::new);
            match &tail {
                Some(tail) => drop(self.tails.insert(slot, Arc::clone(tail))),
                None => drop(self.tails.remove(&slot)),
            }
            if self.memory.show_tail(slot, tail) {
                self.to_list.insert(slot);
            }
        }

        fn change(&mut self, slot: Slot, change: &TailChange) {
            if let Some(tail) = self.tails.get(&slot) {
                let mut tail = (**tail).clone();
                assert!(tail.apply(change));
                self.show(slot, Some(tail));
            }
        }

        fn post(&mut self, slot: Slot, place: TailKey) {
            self.posts.get_mut(&slot).unwrap().insert(place);
            self.memory.raise_head(slot, place.0);
            let listed = self.memory.is_listed(slot).then_some(RecentEntry { key: place, slot });
            self.change(slot, &TailChange::Put(TailPost { key: place, body: "".into() }));
            self.memory.list_posts(listed.into_iter().collect());
        }

        fn delete(&mut self, slot: Slot, place: TailKey) {
            self.posts.get_mut(&slot).unwrap().remove(&place);
            self.change(slot, &TailChange::Remove(place));
        }

        fn fill(&mut self, slot: Slot, depth: usize) {
            let posts = &self.posts[&slot];
            let row = |place: &TailKey| TailPost { key: *place, body: "".into() };
            let rows: Vec<TailPost> = posts.iter().rev().take(depth).map(row).collect();
            let (complete, head) = (posts.len() <= depth, posts.last().map_or(NO_POSTS, |p| p.0));
            self.show(slot, None);
            let limits = TailLimits { depth, bytes: usize::MAX };
            self.show(slot, Some(Tail::new(rows, complete, limits, None)));
            self.memory.set_head(slot, head);
        }

        fn restart_log(&mut self, shard: usize) {
            let memory = Arc::clone(&self.memory);
            let shards = memory.logs()[shard].shards();
            memory.for_each_of(shards, |slot| self.show(slot, None));
            memory.forget_heads(shards);
        }

        /// Depending on the seed, tails are shallow or heads and tails are forgotten.
        fn step(&mut self, chance: &mut StdRng, seed: u64) {
            let slot = chance.random_range(0..40u32);
            let place = (chance.random_range(0..TIMES), chance.random_range(0..4u64));
            let depth = if seed.is_multiple_of(4) { chance.random_range(1..50) } else { 200 };
            match chance.random_range(0..if seed % 4 == 3 { 90 } else { 100 }) {
                0..40 => self.post(slot, place),
                40..55 => self.delete(slot, place),
                55..80 => self.fill(slot, depth),
                80..90 => self.list_tails(chance.random_range(1..999)),
                90..92 => self.show(slot, None),
                92..93 => self.memory.set_head(slot, UNKNOWN),
                93..94 => self.restart_log(slot as usize % 2),
                _ => (0..40).for_each(|slot| self.fill(slot, depth)),
            }
        }

        fn list_tails(&mut self, posts_max: usize) {
            self.memory.list_tails(&mut self.to_list, posts_max);
        }

        fn page(&self, follows: &FollowList, span: Span) -> Vec<PostKey> {
            let of = |slot: &Slot| {
                let author = self.memory.user(*slot);
                let key =
                    move |&(time, post): &TailKey| PostKey { time, post: PostId(post), author };
                self.posts[slot].iter().map(key)
            };
            let mut keys: Vec<PostKey> = follows.slots().iter().flat_map(of).collect();
            keys.retain(|key| Edge::below(*key) < span.edge);
            keys.sort_unstable_by(|a, b| b.cmp(a));
            keys.truncate(span.need);
            keys
        }
    }

    fn keys(in_memory: &MemoryPosts) -> Vec<PostKey> {
        in_memory.posts.iter().map(|found| found.key).collect()
    }

    fn random_page(chance: &mut StdRng) -> (FollowList, Span) {
        let share = chance.random_range(0.5..1.0);
        let follows = (0..40).filter(|_| chance.random_bool(share)).collect();
        let (time, post) = (chance.random_range(0..TIMES), PostId(chance.random_range(0..4)));
        let key = PostKey { time, post, author: UserId(chance.random_range(0..AUTHORS)) };
        let edge = Edge::Beside { key, above: chance.random_bool(0.5) };
        let need = chance.random_range(1..8);
        (FollowList::new(follows, 100, 0), Span { edge, need, is_newest: false, reader: None })
    }

    #[test]
    fn a_scanned_page_equals_the_page_from_the_tails() {
        let (mut scanned, mut incomplete, mut pages) = (0, 0, 0);
        for (seed, entries_max) in (0..160).zip([30, 100, 10_000].into_iter().cycle()) {
            let mut chance = StdRng::seed_from_u64(seed);
            let mut world = World::new(entries_max);
            for step in 0..300 {
                world.step(&mut chance, seed);
                let (follows, span) = random_page(&mut chance);
                pages += 1;
                let Ok(in_memory) = older(&world.memory, &follows, span) else { continue };
                scanned += 1;
                let tails = warm::older(&world.memory, follows.slots(), span);
                assert_eq!(
                    keys(&in_memory),
                    keys(&tails),
                    "seed {seed}, step {step}, {:?}",
                    span.edge
                );
                let authors = |in_memory: &MemoryPosts| -> BTreeSet<UserId> {
                    in_memory.incomplete.iter().map(|unread| unread.author).collect()
                };
                assert_eq!(authors(&in_memory), authors(&tails), "seed {seed}, step {step}");
                if in_memory.incomplete.is_empty() {
                    assert_eq!(keys(&in_memory), world.page(&follows, span), "seed {seed}");
                } else {
                    incomplete += 1;
                }
            }
        }
        println!("{pages} pages, {scanned} of them scanned, {incomplete} of these incomplete");
        assert!(incomplete > 1_000 && scanned - incomplete > 3_000, "{scanned}, {incomplete}");
    }

    /// Old posts never change, while tails are evicted and filled and newer posts move the list. A
    /// page that needs no query is complete at every moment.
    #[test]
    fn a_page_is_complete_while_tails_are_evicted_and_filled() {
        let mut world = World::new(4_000);
        let mut chance = StdRng::seed_from_u64(1);
        for slot in 0..40 {
            for _ in 0..10 {
                world.post(slot, (chance.random_range(0..TIMES), chance.random_range(0..99)));
            }
            world.fill(slot, 64);
        }
        world.list_tails(usize::MAX);
        let pages: Vec<(FollowList, Span, Vec<PostKey>)> = (0..50)
            .map(|_| random_page(&mut chance))
            .map(|(follows, span)| (world.page(&follows, span), follows, span))
            .map(|(page, follows, span)| (follows, span, page))
            .collect();
        let (memory, stop) = (Arc::clone(&world.memory), AtomicBool::new(false));
        let (scanned, incomplete) = std::thread::scope(|scope| {
            let read = || {
                let (mut scanned, mut incomplete) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    for (follows, span, page) in &pages {
                        let Ok(in_memory) = older(&memory, follows, *span) else { continue };
                        scanned += 1;
                        if !in_memory.incomplete.is_empty() {
                            incomplete += 1;
                        } else {
                            assert_eq!(&keys(&in_memory), page, "{:?}", span.edge);
                        }
                    }
                }
                (scanned, incomplete)
            };
            let reader = scope.spawn(read);
            for newer in 0..20_000 {
                let slot = chance.random_range(0..40);
                world.show(slot, None);
                world.post(chance.random_range(0..40), (TIMES + newer / 9, newer.unsigned_abs()));
                world.fill(slot, 1_000);
                world.list_tails(usize::MAX);
            }
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        println!("{scanned} pages were scanned, {incomplete} of them incomplete");
        assert!(scanned > 1_000, "{scanned}");
    }

    /// While tails are listed for the first time, a reader either finds all of their posts in the
    /// list or reads the tails: a bound is lowered only after the tail's posts are listed.
    #[test]
    fn a_page_is_complete_while_tails_are_listed() {
        let mut scanned = 0;
        for seed in 0..150 {
            let (mut world, mut chance) = (World::new(4_000), StdRng::seed_from_u64(seed));
            for slot in 0..40 {
                for _ in 0..20 {
                    world.post(slot, (chance.random_range(0..TIMES), chance.random_range(0..99)));
                }
                world.fill(slot, 64);
            }
            let (follows, span) = random_page(&mut chance);
            let (page, memory) = (world.page(&follows, span), Arc::clone(&world.memory));
            let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(in_memory) = older(&memory, &follows, span) {
                            assert_eq!(keys(&in_memory), page, "seed {seed}, {:?}", span.edge);
                        }
                        begun.store(true, Ordering::Relaxed);
                    }
                });
                while !begun.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                world.list_tails(usize::MAX);
                stop.store(true, Ordering::Relaxed);
            });
            scanned += usize::from(older(&world.memory, &follows, span).is_ok());
        }
        assert!(scanned > 50, "{scanned}");
    }
}
