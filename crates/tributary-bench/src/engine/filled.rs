//! A memory filled from a world, and the pages that requests read from it.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use tributary::internal::{Draft, EngineMemory, Fleet};
use tributary::{Cursor, Limit, PageRequest, Post, UserId};

use super::report::{Footprint, PageTimings};
use crate::check::{CheckedRequest, ReceivedPage, check};
use crate::known::KnownRows;
use crate::process::usage;
use crate::world::{World, WorldSize};

/// The memory budget, 32 GiB: large enough that nothing is evicted.
const BUDGET: usize = 1 << 35;
/// Posts in a tail at first, and at most; the server's writer uses the same limits.
const DEPTH: u32 = 64;
const DEPTH_MAX: u32 = 4_096;
/// Rounds of deeper fills until a page must be complete.
const TRIES: usize = 8;
/// Longer times are recorded as 10 s.
const NANOS_MAX: u64 = 10_000_000_000;
/// Pages between two renewals of memory's lease.
const PAGES_PER_RENEWAL: usize = 64;
/// The most readers that are measured for one number of followees.
const READERS_MAX: usize = 1_000;

/// A request for one page.
#[derive(Clone, Debug)]
pub(super) struct EngineRequest {
    pub(super) reader: u32,
    pub(super) page: PageRequest,
}

impl EngineRequest {
    pub(super) fn newest(reader: u32) -> Self {
        Self { reader, page: PageRequest::default() }
    }

    fn at(&self, cursor: Cursor) -> Self {
        let page = PageRequest::default().from(cursor);
        Self { reader: self.reader, page }
    }
}

/// A memory and the rows it was filled from.
pub(super) struct FilledMemory<'a> {
    pub(super) memory: EngineMemory<'a>,
    known: KnownRows,
    room: Footprint,
}

impl<'a> FilledMemory<'a> {
    /// Fills a memory with the newest posts of every author and every follow list.
    ///
    /// # Errors
    /// If they do not fit into the budget.
    pub(super) fn new(world: World, fleet: &'a Fleet) -> Result<Self> {
        let memory = EngineMemory::new(fleet, BUDGET).context("the fleet has no log")?;
        let (known, footprint) = (KnownRows::new(world), Footprint::default());
        let mut filled = Self { memory, known, room: footprint };
        filled.fill().context("the memory is too small")?;
        Ok(filled)
    }

    pub(super) fn size(&self) -> WorldSize {
        self.known.world.size
    }

    pub(super) fn room(&self) -> Footprint {
        self.room
    }

    fn fill(&mut self) -> Option<()> {
        let users = 1..=self.size().users;
        let world = &self.known.world;
        let newest = |user: u32| {
            let key = world.posts(user).last()?;
            Some((UserId::from(user), key.time))
        };
        let heads: Vec<_> = users.clone().filter_map(newest).collect();
        let begun = resident();
        self.memory.load_heads(&heads)?;
        let with_index = resident();
        for reader in users.clone() {
            self.fill_follows(reader)?;
        }
        let with_follows = resident();
        for author in users {
            if !self.known.world.posts(author).is_empty() {
                self.fill_tail(author, DEPTH)?;
            }
        }
        let stats = self.memory.stats();
        self.room = Footprint {
            users: stats.users,
            index_bytes: stats.index_bytes,
            index_resident: with_index - begun,
            follows: stats.follow_edges,
            follow_bytes: stats.follow_bytes,
            follow_resident: with_follows - with_index,
            authors: stats.tails,
            posts: stats.tail_posts,
            tail_bytes: stats.tail_bytes,
            tail_resident: resident() - with_follows,
        };
        Some(())
    }

    fn fill_follows(&mut self, reader: u32) -> Option<()> {
        let followees = self.known.world.followees(reader).iter();
        let followees = followees.map(|followee| UserId::from(*followee)).collect();
        self.memory.fill_follows(UserId::from(reader), followees)
    }

    fn fill_tail(&mut self, author: u32, depth: u32) -> Option<()> {
        let world = &self.known.world;
        let keys = world.posts(author);
        let newest = keys.iter().rev().take(depth as usize);
        let posts = newest.map(|key| Post::new(*key, world.text(key.post))).collect();
        let complete = keys.len() <= depth as usize;
        self.memory.fill_tail(UserId::from(author), posts, complete)
    }

    /// The page; `None` if it needs a database.
    fn page(&self, request: &EngineRequest) -> Option<Draft> {
        self.memory.page(UserId::from(request.reader), &request.page)
    }

    /// The page. Tails that are too shallow for it are filled deeper, as the server's writer does.
    fn page_after_fills(&mut self, request: &EngineRequest) -> Result<Draft> {
        self.memory.renew();
        for _ in 0..TRIES {
            if let Some(draft) = self.page(request) {
                return Ok(draft);
            }
            let Some(tails) = self.memory.missing_tails() else {
                bail!("the follow list of {} is not in memory", request.reader);
            };
            for (author, depth) in tails {
                let author = u32::try_from(author.get())?;
                let depth = depth.clamp(DEPTH, DEPTH_MAX).next_power_of_two();
                self.fill_tail(author, depth).context("a tail does not fit")?;
            }
        }
        bail!("a page of reader {} needs deeper tails than memory can hold", request.reader)
    }

    /// The poll of a reader that has just read this page.
    pub(super) fn poll_after(&mut self, request: &EngineRequest) -> Result<EngineRequest> {
        let draft = self.page_after_fills(request)?;
        Ok(request.at(draft.prev))
    }

    /// The reader's page of this number; `None` if the timeline has no such full page.
    pub(super) fn page_number(
        &mut self,
        newest: &EngineRequest,
        number: usize,
    ) -> Result<Option<EngineRequest>> {
        let mut request = newest.clone();
        for _ in 1..number {
            let draft = self.page_after_fills(&request)?;
            let Some(next) = draft.next else { return Ok(None) };
            request = newest.at(next);
        }
        let draft = self.page_after_fills(&request)?;
        Ok((draft.posts.len() == Limit::DEFAULT.get()).then_some(request))
    }

    /// Readers whose number of followees differs by at most 10 % from `followees`.
    pub(super) fn readers_of(&self, followees: usize) -> Vec<u32> {
        let about = followees - followees / 10..=followees + followees / 10;
        let world = &self.known.world;
        let readers = 1..=self.size().users;
        readers
            .filter(|reader| about.contains(&world.followees(*reader).len()))
            .take(READERS_MAX)
            .collect()
    }

    /// Compares a page with the world.
    ///
    /// # Errors
    /// If the page is incomplete or wrong.
    pub(super) fn check(&mut self, request: &EngineRequest) -> Result<()> {
        let draft = self.page_after_fills(request)?;
        if !draft.is_whole() {
            bail!("a page of reader {} is not complete", request.reader);
        }
        let page = draft.into_page();
        let posts = page.posts.into_iter().map(|post| (post.key, post.content)).collect();
        let seen = ReceivedPage { posts, has_next: page.next.is_some() };
        let (reader, cursor) = (request.reader, request.page.cursor.clone());
        let asked = CheckedRequest { reader, cursor, limit: Limit::DEFAULT.get(), sent: 0 };
        let wrong = check(&self.known, &asked, &seen);
        wrong.map_err(|why| anyhow::anyhow!("a page of reader {reader} is wrong: {why}"))
    }

    /// Reads these pages, one after the other and repeatedly, until `seconds` were spent in reads.
    pub(super) fn time(
        &self,
        name: String,
        requests: &[EngineRequest],
        seconds: f64,
    ) -> Result<PageTimings> {
        let followees = |request: &EngineRequest| self.known.world.followees(request.reader).len();
        let mut nanos = Histogram::new_with_bounds(1, NANOS_MAX, 3)?;
        let mut timed =
            PageTimings { name, followees: 0, posts: 0, seconds: 0.0, nanos: nanos.clone() };
        let mut all = requests.iter().cycle();
        while timed.seconds < seconds {
            // The clock is read twice for each page, which adds about 50 ns.
            self.memory.renew();
            for request in all.by_ref().take(PAGES_PER_RENEWAL) {
                let begun = Instant::now();
                let posts = self.page(request).map(|draft| draft.posts.len());
                let took = begun.elapsed();
                let Some(posts) = posts else { bail!("a page is no longer in memory") };
                nanos.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                timed.seconds += took.as_secs_f64();
                timed.followees += followees(request);
                timed.posts += posts;
            }
        }
        timed.nanos = nanos;
        Ok(timed)
    }
}

/// Resident bytes of this process.
fn resident() -> f64 {
    usage(&[std::process::id()]).map_or(0.0, |usage| usage.resident_bytes as f64)
}
