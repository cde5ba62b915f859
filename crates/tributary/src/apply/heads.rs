//! The heads of a log: the newest post time of every author. Those of a shard are loaded whole from
//! one snapshot and then raised by the log.
//!
//! Heads are upper bounds, so the protocol is short. Times that the log delivers during the load
//! are recorded, and the larger time counts. The snapshot must not be older than the start of the
//! load: it could lack posts that the log delivered before anyone recorded them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Applier;
use crate::backoff::Backoff;
use crate::changes::{Bounds, LogPosition};
use crate::memory::{Memory, NO_POSTS, Slot, UNKNOWN};
use crate::model::{ShardId, UserId};
use crate::problems::ProblemCause;
use crate::shard::{HeadBatch, HeadsRead, ShardError, Source};
use crate::tasks::caught;

/// Batches that can wait.
const BATCHES_MAX: usize = 8;
/// First pause after a snapshot that was too old. The databases show what the log delivered within
/// milliseconds.
const RETRY_STALE: Duration = Duration::from_millis(50);
/// First pause after an error, or after the heads became unknown again.
const RETRY: Duration = Duration::from_secs(1);
/// Longest pause, before jitter.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// If heads stay known for this long, the next pause is the first one again.
const CALM: Duration = Duration::from_secs(600);

/// State of the loads of the heads, by shard. At most one load runs; it reads all shards that are
/// due from one snapshot.
#[derive(Debug)]
pub(super) struct HeadLoads {
    shards: BTreeMap<ShardId, ShardHeads>,
    loading: Option<Box<Loading>>,
    /// The number of registered users when the heads were given up, since they had no room.
    given_up: Option<usize>,
    /// At most one task.
    tasks: JoinSet<Outcome>,
}

type Outcome = Result<HeadsRead, ShardError>;

#[derive(Debug)]
struct ShardHeads {
    state: HeadsState,
    /// The pauses after loads that failed, or whose result became unknown, one soon after the
    /// other.
    backoff: Backoff,
}

#[derive(Debug, Default)]
enum HeadsState {
    /// The load starts at this time, or at once.
    Due(Option<Instant>),
    Loading,
    /// Known since this time.
    Known(Instant),
    /// Not loaded, because they do not fit into the budget or before the log has begun. Authors
    /// are queried by SQL.
    #[default]
    Unavailable,
}

#[derive(Debug)]
struct Loading {
    /// The shards whose result is still wanted.
    shards: BTreeSet<ShardId>,
    /// The high-water mark at the start. Later times go into `raised`.
    registered: LogPosition,
    epoch: u64,
    batches: mpsc::Receiver<HeadBatch>,
    staged: Vec<(ShardId, Slot, i64)>,
    raised: HashMap<Slot, i64>,
}

/// A result of the load.
pub(super) enum Loaded {
    Batch(HeadBatch),
    End(Outcome),
}

impl Default for ShardHeads {
    fn default() -> Self {
        Self { state: HeadsState::default(), backoff: Backoff::new(RETRY, RETRY_MAX) }
    }
}

impl ShardHeads {
    /// Plans a load after a pause: `first`, doubled for each recent failure.
    fn retry(&mut self, first: Duration) {
        let pause = self.backoff.pause_from(first);
        self.state = HeadsState::Due(Some(Instant::now() + pause));
    }

    /// Plans a load because known or half-loaded heads became unknown. The first one starts at
    /// once.
    fn reload(&mut self) {
        let is_first = self.backoff.failures() == 0;
        self.retry(RETRY);
        if is_first {
            self.state = HeadsState::Due(None);
        }
    }
}

impl HeadLoads {
    pub(super) fn new(shards: Vec<ShardId>) -> Self {
        let shards = shards.into_iter().map(|shard| (shard, ShardHeads::default())).collect();
        Self { shards, loading: None, given_up: None, tasks: JoinSet::new() }
    }

    /// Forgets all heads, because another log identity begins.
    pub(super) fn restart(&mut self) {
        self.given_up = None;
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            self.invalidate(shard);
            let heads = self.shards.entry(shard).or_default();
            if matches!(heads.state, HeadsState::Unavailable) {
                heads.state = HeadsState::Due(None);
            }
        }
    }

    /// The heads of this shard became unknown. They are loaded again after a pause, so that
    /// frequent doubts cause no endless series of loads.
    pub(super) fn invalidate(&mut self, shard: ShardId) {
        let Some(heads) = self.shards.get_mut(&shard) else { return };
        match heads.state {
            HeadsState::Due(_) | HeadsState::Unavailable => return,
            HeadsState::Known(since) if since.elapsed() >= CALM => heads.backoff.reset(),
            HeadsState::Known(_) | HeadsState::Loading => {}
        }
        heads.reload();
        if let Some(loading) = &mut self.loading {
            loading.shards.remove(&shard);
            if loading.shards.is_empty() {
                self.stop();
            }
        }
    }

    /// Drops the running load. Its task would count as the end of the next one.
    fn stop(&mut self) {
        (self.loading, self.tasks) = (None, JoinSet::new());
    }

    /// The next result of the load; `None` if none is running. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Loaded> {
        if let Some(loading) = &mut self.loading
            && let Some(batch) = loading.batches.recv().await
        {
            return Some(Loaded::Batch(batch));
        }
        // Panics of a load are caught, so an error means that the runtime is shutting down.
        self.tasks.join_next().await?.ok().map(Loaded::End)
    }

    /// Whether all heads are known or will not be loaded.
    pub(super) fn are_settled(&self) -> bool {
        let settled = |state| matches!(state, &HeadsState::Known(_) | &HeadsState::Unavailable);
        self.shards.values().all(|heads| settled(&heads.state))
    }

    pub(super) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Plans a load of the heads that were given up, if an eighth of the users has been removed
    /// from the index since.
    fn retry_given_up(&mut self, users: usize) {
        let Some(_) = self.given_up.take_if(|before| users < *before - *before / 8) else { return };
        let unavailable = |heads: &&mut ShardHeads| matches!(heads.state, HeadsState::Unavailable);
        self.shards.values_mut().filter(unavailable).for_each(|heads| heads.retry(RETRY));
    }

    fn is_known(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(|heads| matches!(heads.state, HeadsState::Known(_)))
    }

    /// The running load, if it reads this shard and its result is still wanted.
    fn loading(&mut self, shard: ShardId) -> Option<&mut Loading> {
        self.loading.as_deref_mut().filter(|loading| loading.shards.contains(&shard))
    }

    fn due(&self) -> BTreeSet<ShardId> {
        let now = Instant::now();
        let is_due = |heads: &ShardHeads| match heads.state {
            HeadsState::Due(not_before) => not_before.is_none_or(|time| time <= now),
            _ => false,
        };
        self.shards.iter().filter(|(_, heads)| is_due(heads)).map(|(shard, _)| *shard).collect()
    }

    fn set_state(&mut self, shards: &BTreeSet<ShardId>, state: impl Fn() -> HeadsState) {
        for shard in shards {
            self.shards.entry(*shard).or_default().state = state();
        }
    }

    fn retry(&mut self, shards: &BTreeSet<ShardId>, first: Duration) {
        shards.iter().for_each(|shard| self.shards.entry(*shard).or_default().retry(first));
    }
}

impl Applier {
    /// Starts a load of the shards that are due if none is running and the log is fresh.
    pub(super) fn start_heads(&mut self) {
        let idle = self.heads.loading.is_none() && self.identity.is_some();
        if !idle || !self.log().is_fresh(self.memory.now_ms()) {
            return;
        }
        self.heads.retry_given_up(self.memory.users());
        let shards = self.heads.due();
        let Some(runtime) = self.runtime.as_ref().filter(|_| !shards.is_empty()) else { return };
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        self.heads.set_state(&shards, || HeadsState::Loading);
        let source: Arc<Source> = Arc::clone(&self.source);
        let wanted: Vec<ShardId> = shards.iter().copied().collect();
        let failed = |panic| Err(ShardError::Unavailable(panic));
        let load =
            async move { caught(source.heads(&wanted, sender)).await.unwrap_or_else(failed) };
        self.heads.tasks.spawn_on(load, runtime);
        self.heads.loading = Some(Box::new(Loading {
            shards,
            registered: self.keeper.high_water(),
            epoch: self.keeper.epoch(),
            batches,
            staged: Vec::new(),
            raised: HashMap::new(),
        }));
    }

    /// Raises the author's head to the time of a post. Returns the author's slot if the heads of
    /// its shard are loaded or being loaded.
    pub(super) fn raise_head(&mut self, author: UserId, time: i64) -> Option<Slot> {
        let slot = self.register_author(author)?;
        self.memory.raise_head(slot, time);
        let shard = self.memory.placement().shard_of(author);
        if let Some(loading) = self.heads.loading(shard) {
            let raised = loading.raised.entry(slot).or_insert(NO_POSTS);
            *raised = time.max(*raised);
        }
        Some(slot)
    }

    /// Marks the author's head as unknown.
    pub(super) fn forget_head(&mut self, author: UserId) {
        let Some(slot) = self.register_author(author) else { return };
        self.memory.set_head(slot, UNKNOWN);
        let shard = self.memory.placement().shard_of(author);
        if let Some(loading) = self.heads.loading(shard) {
            loading.raised.insert(slot, UNKNOWN);
        }
    }

    /// The slot of an author whose head is known or being loaded.
    fn register_author(&mut self, author: UserId) -> Option<Slot> {
        let shard = self.memory.placement().shard_of(author);
        if !self.heads.is_known(shard) && self.heads.loading(shard).is_none() {
            return None;
        }
        let slot = self.memory.register_author(author);
        if slot.is_none() {
            self.give_up_heads();
        }
        slot
    }

    /// Sets the author's head from a filled tail.
    pub(super) fn set_head_from_tail(&mut self, slot: Slot, newest: Option<i64>) {
        let shard = self.memory.placement().shard_of(self.memory.user(slot));
        if self.heads.is_known(shard) {
            self.memory.set_head(slot, newest.unwrap_or(NO_POSTS));
        }
    }

    /// Gives up the heads: the budget has no room for all authors.
    fn give_up_heads(&mut self) {
        if self.source.problems().note(ProblemCause::HeadsTooMany) {
            warn!(
                server = self.source.name(),
                users = self.memory.users(),
                "Newest post times of all authors do not fit into memory.budget; pages query the \
                 databases for authors that are not cached. Raise memory.budget"
            );
        }
        self.heads.stop();
        let all: BTreeSet<ShardId> = self.heads.shards.keys().copied().collect();
        self.heads.set_state(&all, || HeadsState::Unavailable);
        self.heads.given_up = Some(self.memory.users());
        self.memory.forget_heads(self.log().shards());
    }

    /// Handles a result of the load.
    pub(super) fn load_heads(&mut self, loaded: Loaded) {
        let memory = Arc::clone(&self.memory);
        let _slots = memory.hold_slots();
        match loaded {
            Loaded::Batch(batch) => self.stage_heads(&batch),
            Loaded::End(Ok(read)) => self.end_heads(&read),
            Loaded::End(Err(error)) => {
                let Some(loading) = self.heads.loading.take() else { return };
                self.note_failed_heads(&error.to_string());
                self.heads.retry(&loading.shards, RETRY);
            }
        }
    }

    fn note_failed_heads(&self, reason: &str) {
        if self.source.problems().note(ProblemCause::HeadsFailed) {
            let server = self.source.name();
            warn!(
                server,
                reason,
                "Newest post times cannot be read; pages query the databases for authors that \
                 are not cached. Retrying with a growing pause of up to 5 min"
            );
        }
    }

    fn stage_heads(&mut self, batch: &HeadBatch) {
        let memory = Arc::clone(&self.memory);
        for (author, time) in &batch.heads {
            if memory.placement().shard_of(*author) != batch.shard || memory.excludes(batch.shard) {
                continue;
            }
            if self.heads.loading(batch.shard).is_none() {
                return;
            }
            let Some(slot) = memory.register_author(*author) else { return self.give_up_heads() };
            if let Some(loading) = self.heads.loading(batch.shard) {
                loading.staged.push((batch.shard, slot, *time));
            }
        }
    }

    fn end_heads(&mut self, read: &HeadsRead) {
        let Some(loading) = self.heads.loading.take() else { return };
        let Loading { mut shards, registered, epoch, staged, raised, .. } = *loading;
        let (Bounds::Exact(low) | Bounds::Window { low, .. }) = read.bounds;
        let is_this = Some(read.identity) == self.identity && epoch == self.keeper.epoch();
        if !is_this || low < registered {
            return self.heads.retry(&shards, RETRY_STALE);
        }
        for (shard, reason) in &read.failed {
            if shards.remove(shard) {
                self.note_failed_heads(reason);
                self.heads.retry(&BTreeSet::from([*shard]), RETRY);
            }
        }
        let staged = staged.into_iter().filter(|(shard, ..)| shards.contains(shard));
        let staged: Vec<(Slot, i64)> = staged.map(|(_, slot, time)| (slot, time)).collect();
        let wanted: Vec<ShardId> = shards.iter().copied().collect();
        self.load_news(&wanted, low, &staged);
        set_heads(&self.memory, &wanted, &staged, &raised);
        self.heads.set_state(&shards, || HeadsState::Known(Instant::now()));
        let (server, authors, shards) = (self.source.name(), staged.len(), wanted.len());
        info!(server, shards, authors, "Newest post times of all authors are in memory");
        self.fills.extend_prefill(staged);
    }

    /// Sets the heads of all authors that have posts. All others have none.
    pub(crate) fn install_heads(&mut self, heads: Vec<(Slot, i64)>) {
        let shards: BTreeSet<ShardId> = self.heads.shards.keys().copied().collect();
        self.load_news(self.log().shards(), self.keeper.high_water(), &heads);
        set_heads(&self.memory, self.log().shards(), &heads, &HashMap::new());
        self.heads.set_state(&shards, || HeadsState::Known(Instant::now()));
    }
}

/// Sets the heads of all authors of these shards. An author outside `staged` has no posts, except
/// those that the log delivered during the load. Each head is set once: a reader can look at any
/// moment, and no head may ever be too low.
fn set_heads(
    memory: &Memory,
    shards: &[ShardId],
    staged: &[(Slot, i64)],
    raised: &HashMap<Slot, i64>,
) {
    for (slot, time) in staged {
        let delivered = raised.get(slot).copied().unwrap_or(NO_POSTS);
        memory.set_head(*slot, delivered.max(*time));
    }
    memory.for_each_of(shards, |slot| {
        let shard = memory.placement().shard_of(memory.user(slot));
        if memory.head(slot) == UNKNOWN && !memory.excludes(shard) {
            // An author that the log made unknown stays unknown.
            memory.set_head(slot, raised.get(&slot).copied().unwrap_or(NO_POSTS));
        }
    });
    memory.set_heads_known(shards, true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::LogName;
    use crate::moment::PostTimes;
    use crate::placement::Placement;

    const SHARDS: [ShardId; 2] = [ShardId(0), ShardId(1)];

    fn is_due(loads: &HeadLoads, shard: ShardId) -> Option<Duration> {
        match loads.shards[&shard].state {
            HeadsState::Due(None) => Some(Duration::ZERO),
            HeadsState::Due(Some(at)) => Some(at.saturating_duration_since(Instant::now())),
            _ => None,
        }
    }

    #[test]
    fn doubt_about_one_shard_leaves_the_others_known() {
        let mut loads = HeadLoads::new(SHARDS.to_vec());
        loads.invalidate(SHARDS[0]);
        assert!(loads.due().is_empty(), "before the log begins nothing is loaded");
        loads.restart();
        assert_eq!(loads.due(), BTreeSet::from(SHARDS));
        loads.set_state(&BTreeSet::from(SHARDS), || HeadsState::Known(Instant::now()));
        loads.invalidate(SHARDS[0]);
        assert!(loads.is_known(SHARDS[1]) && !loads.is_known(SHARDS[0]) && !loads.are_settled());
        assert_eq!(loads.due(), BTreeSet::from([SHARDS[0]]), "the first load starts at once");
    }

    #[test]
    fn pauses_between_loads_grow() {
        let mut loads = HeadLoads::new(SHARDS.to_vec());
        loads.restart();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            loads.set_state(&BTreeSet::from(SHARDS), || HeadsState::Known(Instant::now()));
            loads.invalidate(SHARDS[0]);
            // Further changes of the shard do not postpone the load.
            loads.invalidate(SHARDS[0]);
            pauses.push(is_due(&loads, SHARDS[0]).unwrap().as_secs());
        }
        let limits = [0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300];
        for (pause, limit) in pauses.iter().zip(limits) {
            assert!((limit * 7 / 10..=limit * 5 / 4).contains(pause), "{pauses:?}");
        }
        assert_eq!(is_due(&loads, SHARDS[1]), None);
    }

    #[test]
    fn heads_that_were_given_up_are_loaded_after_users_were_removed() {
        let mut loads = HeadLoads::new(SHARDS.to_vec());
        loads.given_up = Some(800);
        loads.retry_given_up(700);
        assert_eq!(is_due(&loads, SHARDS[0]), None);
        loads.retry_given_up(699);
        assert!(SHARDS.iter().all(|shard| is_due(&loads, *shard).is_some()));
        loads.set_state(&BTreeSet::from(SHARDS), || HeadsState::Unavailable);
        loads.retry_given_up(0);
        assert_eq!(is_due(&loads, SHARDS[0]), None, "once for each time");
    }

    #[test]
    fn times_delivered_during_the_load_count_too() {
        let name = LogName { name: "a".into(), shards: vec![ShardId(0)] };
        let (unit, zone) = ("ms".parse().unwrap(), "UTC".parse().unwrap());
        let (placement, times) = (Placement::modulo(1).unwrap(), PostTimes { unit, zone });
        let (memory, _queues) = Memory::new(1 << 20, vec![name], placement, times);
        let slots = [1, 2, 3, 4, 5].map(|user| memory.register_user(UserId(user)).unwrap());
        let [quiet, old, raised, unknown, new] = slots;
        let staged = [(old, 5), (raised, 5), (unknown, 5)];
        let delivered = HashMap::from([(raised, 7), (unknown, UNKNOWN), (new, 3), (old, 4)]);
        set_heads(&memory, &[ShardId(0)], &staged, &delivered);
        let heads = [quiet, old, raised, unknown, new].map(|slot| memory.head(slot));
        assert_eq!(heads, [NO_POSTS, 5, 7, UNKNOWN, 3]);
        assert_eq!(memory.head(memory.register_user(UserId(6)).unwrap()), NO_POSTS);
    }
}
