//! Records how one page is read, and explains it. A page that is not explained has no recorder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ReadError;
use super::draft::{Draft, DraftPost};
use super::explain::{
    Cost, Explanation, Failure, MemorySearch, PageSource, PartState, Reason, ShardPart,
    ShardQueries, Step, StepKind, Wave, WaveKind,
};
use super::view::View;
use crate::cursor::Cursor;
use crate::model::{ShardId, UserId};
use crate::shard::{CostLog, Fleet, ReadCounts, ShardCost, ShardError};

/// The steps of one page so far.
#[derive(Debug)]
pub(crate) struct Recorder(Mutex<Records>);

#[derive(Debug)]
struct Records {
    begun: Instant,
    /// The end of the last step.
    last: Instant,
    steps: Vec<Step>,
    waves: Vec<Wave>,
    /// By shard; `None` as long as the follow list is not known.
    authors: Option<BTreeMap<ShardId, Authors>>,
    search: Option<MemorySearch>,
}

/// The authors on one shard.
#[derive(Clone, Copy, Debug, Default)]
struct Authors {
    followees: usize,
    /// Those that memory does not know, or for which it is not used.
    unknown: usize,
    too_short: usize,
}

impl Recorder {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Records {
            begun: now,
            last: now,
            steps: Vec::new(),
            waves: Vec::new(),
            authors: None,
            search: None,
        }))
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a step: it took the time since the end of the one before.
    pub(super) fn end_step(&self, kind: StepKind) {
        self.records().end_step(kind);
    }

    /// Ends a wave.
    pub(super) fn end_wave(&self, kind: WaveKind, asked: usize, costs: CostLog) {
        let queries: Vec<ShardQueries> = costs.into_costs().into_iter().map(queries_of).collect();
        let time = queries.iter().map(|of| of.waited + of.time).max().unwrap_or_default();
        let mut records = self.records();
        let index = records.waves.len();
        records.waves.push(Wave { kind, asked, queries, time });
        records.end_step(StepKind::Wave(index));
    }

    /// Notes the authors of the page, and those of them that memory does not answer for.
    pub(super) fn note_authors(
        &self,
        fleet: &Fleet,
        all: impl IntoIterator<Item = UserId>,
        unknown: &[UserId],
    ) {
        let placement = fleet.placement();
        let mut authors: BTreeMap<ShardId, Authors> = BTreeMap::new();
        for user in all {
            authors.entry(placement.shard_of(user)).or_default().followees += 1;
        }
        for user in unknown {
            authors.entry(placement.shard_of(*user)).or_default().unknown += 1;
        }
        self.records().authors = Some(authors);
    }

    /// Notes what was found in memory, and the authors whose cached posts are too few.
    pub(super) fn note_search(
        &self,
        fleet: &Fleet,
        search: MemorySearch,
        too_short: impl Iterator<Item = UserId>,
    ) {
        let mut records = self.records();
        records.search = Some(search);
        if let Some(authors) = &mut records.authors {
            authors.values_mut().for_each(|of| of.too_short = 0);
            for user in too_short {
                authors.entry(fleet.placement().shard_of(user)).or_default().too_short += 1;
            }
        }
        records.end_step(StepKind::Memory);
    }

    /// Explains the page after it was read, or why there is none.
    pub(super) fn explain(
        &self,
        view: &View<'_>,
        (reader, cursor): (UserId, &Cursor),
        outcome: Result<&Draft, ReadError>,
    ) -> Explanation {
        let records = &*self.records();
        let (parts, fleet) = (Parts { view, records, cursor, outcome }, view.fleet());
        let shards: Vec<ShardPart> = fleet.shard_ids().map(|shard| parts.of(shard)).collect();
        let authors = records.authors.as_ref();
        Explanation {
            reader,
            reader_shard: fleet.placement().shard_of(reader),
            source: parts.source(&shards),
            search: records.search,
            followees: authors.map(|of| of.values().map(|authors| authors.followees).sum()),
            reached_token: view.has_token().then(|| outcome.is_ok_and(|draft| draft.fresh_enough)),
            shards,
            waves: records.waves.clone(),
            steps: records.steps.clone(),
            time: records.last - records.begun,
            error: outcome.err(),
        }
    }
}

impl Records {
    fn end_step(&mut self, kind: StepKind) {
        let now = Instant::now();
        self.steps.push(Step { kind, time: now - self.last });
        self.last = now;
    }
}

fn queries_of(cost: ShardCost) -> ShardQueries {
    let ReadCounts { statements, rows, examined } = cost.counts;
    ShardQueries {
        shard: cost.shard,
        cost: Cost { statements, rows, rows_examined: examined },
        waited: cost.waited,
        time: cost.took,
        failure: cost
            .error
            .map(|error| Failure { kind: kind_of(&error), reason: error.to_string() }),
    }
}

fn kind_of(error: &ShardError) -> &'static str {
    match error {
        ShardError::Unavailable(_) => "unavailable",
        ShardError::Overloaded(_) => "overloaded",
        ShardError::Slow(_) => "slow",
        ShardError::Faulty(_) => "faulty",
        ShardError::ReadOnly(_) => "read_only",
        ShardError::Unreadable(_) => "unreadable",
        ShardError::Refused(_) => "refused",
        ShardError::Full(_) => "full",
        ShardError::InDoubt(_) => "in_doubt",
    }
}

/// Finds the parts of the shards in a page.
struct Parts<'a> {
    view: &'a View<'a>,
    records: &'a Records,
    cursor: &'a Cursor,
    outcome: Result<&'a Draft, ReadError>,
}

impl Parts<'_> {
    fn source(&self, shards: &[ShardPart]) -> PageSource {
        let is_any_in_memory = shards.iter().any(|part| part.in_memory > 0);
        match (self.records.waves.is_empty(), is_any_in_memory) {
            (true, _) => PageSource::Memory,
            (false, true) => PageSource::Both,
            (false, false) => PageSource::Databases,
        }
    }

    fn of(&self, shard: ShardId) -> ShardPart {
        let of_shard = |authors: &BTreeMap<_, Authors>| authors.get(&shard).copied();
        let authors = self.records.authors.as_ref().and_then(of_shard).unwrap_or_default();
        let queries = || self.queries(shard).map(|(_, queries)| queries);
        let mut cost = Cost::default();
        queries().for_each(|of| cost.add(of.cost));
        let posts = || self.posts(shard);
        let is_from_memory = |post: &&DraftPost| matches!(post, DraftPost::FromMemory(_));
        ShardPart {
            shard,
            followees: authors.followees,
            in_memory: authors.followees - authors.unknown.min(authors.followees),
            too_short: authors.too_short,
            queried: queries().next().is_some(),
            reasons: self.reasons(shard, authors),
            cost,
            waited: queries().map(|of| of.waited).sum(),
            time: queries().map(|of| of.time).sum::<Duration>(),
            posts: posts().count(),
            posts_from_memory: posts().filter(is_from_memory).count(),
            state: self.state(shard),
            log: self.view.log_state(shard),
        }
    }

    /// The queries to a shard, each with the kind of its wave.
    fn queries(&self, shard: ShardId) -> impl Iterator<Item = (WaveKind, &ShardQueries)> {
        let waves = self.records.waves.iter();
        let all = waves.flat_map(|wave| wave.queries.iter().map(|of| (wave.kind, of)));
        all.filter(move |(_, of)| of.shard == shard)
    }

    fn posts(&self, shard: ShardId) -> impl Iterator<Item = &DraftPost> {
        let placement = self.view.fleet().placement();
        let posts = self.outcome.ok().into_iter().flat_map(|draft| &draft.posts);
        posts.filter(move |post| placement.shard_of(post.key().author) == shard)
    }

    fn state(&self, shard: ShardId) -> PartState {
        let Ok(draft) = self.outcome else { return PartState::Missing };
        match draft.stale.get(&shard) {
            _ if draft.missing.contains(&shard) => PartState::Missing,
            Some(as_of) => PartState::Stale(*as_of),
            None => PartState::Complete,
        }
    }

    fn reasons(&self, shard: ShardId, authors: Authors) -> Vec<Reason> {
        let kinds: BTreeSet<&str> = self.queries(shard).map(|(kind, _)| kind.name()).collect();
        let mut reasons = Vec::new();
        if kinds.contains(WaveKind::FollowList.name()) {
            reasons.push(Reason::FollowList);
        } else if self.records.authors.is_none() {
            return vec![match self.outcome {
                Err(ReadError::TooManyFollowees) => Reason::NotNeeded,
                Ok(_) => Reason::NoFollowList,
            }];
        }
        if authors.unknown > 0 {
            reasons.push(self.view.reason_to_query(shard, self.cursor, authors.unknown));
        }
        if authors.too_short > 0 && !kinds.is_empty() {
            reasons.push(Reason::TooShort(authors.too_short));
        }
        if reasons.is_empty() {
            reasons.push(match (authors.followees, kinds.is_empty()) {
                (0, _) => Reason::NoFollowees,
                (_, false) => Reason::OlderPosts,
                (_, true) => Reason::AllInMemory,
            });
        }
        reasons
    }
}
