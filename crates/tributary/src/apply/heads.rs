//! The heads of a log: the newest post time of every author. They are loaded whole from one
//! snapshot and then raised by the log.
//!
//! Heads are upper bounds, so the protocol is short. Times that the log delivers during the load
//! are recorded, and the larger time counts. The snapshot must not be older than the start of the
//! load: it could lack posts that the log delivered before anyone recorded them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Applier;
use crate::changes::{Bounds, LogIdentity, LogPosition};
use crate::memory::{FollowedLog, Memory, NO_POSTS, Slot, UNKNOWN};
use crate::model::UserId;
use crate::shard::{HeadBatch, ShardError, Source};

/// Batches that can wait.
const BATCHES_MAX: usize = 8;
/// Pause after a snapshot that was too old. The databases show what the log delivered within
/// milliseconds.
const RETRY_STALE: Duration = Duration::from_millis(50);
/// Pause after an error.
const RETRY_ERROR: Duration = Duration::from_secs(2);

/// State of the load of the heads.
#[derive(Debug, Default)]
pub(super) struct HeadLoads {
    state: HeadsState,
    /// At most one task.
    tasks: JoinSet<Outcome>,
}

type Outcome = Result<(LogIdentity, Bounds), ShardError>;

#[derive(Debug, Default)]
enum HeadsState {
    /// The load starts at this time, or at once.
    Due(Option<Instant>),
    Loading(Box<Loading>),
    Known,
    /// Not loaded, because they do not fit into the budget or before the log has begun. Authors
    /// are queried by SQL.
    #[default]
    Unavailable,
}

#[derive(Debug)]
struct Loading {
    /// The high-water mark at the start. Later times go into `raised`.
    registered: LogPosition,
    epoch: u64,
    batches: mpsc::Receiver<HeadBatch>,
    staged: Vec<(Slot, i64)>,
    raised: HashMap<Slot, i64>,
}

/// A result of the load.
pub(super) enum Loaded {
    Batch(HeadBatch),
    End(Outcome),
}

impl HeadLoads {
    /// Forgets the state; the heads must be loaded again.
    pub(super) fn invalidate(&mut self) {
        // This also drops a finished task's result, which would count as the end of the next
        // load.
        self.tasks = JoinSet::new();
        self.state = HeadsState::Due(None);
    }

    /// The next result of the load; `None` if none is running. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Loaded> {
        if let HeadsState::Loading(loading) = &mut self.state
            && let Some(batch) = loading.batches.recv().await
        {
            return Some(Loaded::Batch(batch));
        }
        let panicked = |_| Err(ShardError::Unavailable("heads could not be read".into()));
        Some(Loaded::End(self.tasks.join_next().await?.unwrap_or_else(panicked)))
    }

    /// Whether the heads are known or will not be loaded.
    pub(super) fn are_settled(&self) -> bool {
        matches!(self.state, HeadsState::Known | HeadsState::Unavailable)
    }

    fn retry_after(&mut self, pause: Duration) {
        self.state = HeadsState::Due(Some(Instant::now() + pause));
    }
}

impl Applier {
    /// Starts the load if it is due and the log is fresh.
    pub(super) fn start_heads(&mut self) {
        let HeadsState::Due(not_before) = &self.heads.state else { return };
        let due = not_before.is_none_or(|time| time <= Instant::now());
        if !due || self.identity.is_none() || !self.log().is_fresh(self.memory.now_ms()) {
            return;
        }
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        let (registered, epoch) = (self.keeper.high_water(), self.keeper.epoch());
        let (staged, raised) = (Vec::new(), HashMap::new());
        let loading = Loading { registered, epoch, batches, staged, raised };
        self.heads.state = HeadsState::Loading(Box::new(loading));
        let source: Arc<Source> = Arc::clone(&self.source);
        self.heads.tasks.spawn(async move { source.heads(sender).await });
    }

    /// Raises the author's head to the time of a post. Returns the author's slot if heads are
    /// loaded or being loaded.
    pub(super) fn raise_head(&mut self, author: UserId, time: i64) -> Option<Slot> {
        let loading = match &mut self.heads.state {
            HeadsState::Known => None,
            HeadsState::Loading(loading) => Some(loading),
            // No head is known, so there is nothing to raise.
            HeadsState::Due(_) | HeadsState::Unavailable => return None,
        };
        let Some(slot) = self.memory.register_user(author) else {
            self.give_up_heads();
            return None;
        };
        self.memory.raise_head(slot, time);
        if let Some(loading) = loading {
            let raised = loading.raised.entry(slot).or_insert(NO_POSTS);
            *raised = time.max(*raised);
        }
        Some(slot)
    }

    /// Marks the author's head as unknown.
    pub(super) fn forget_head(&mut self, author: UserId) {
        if matches!(self.heads.state, HeadsState::Due(_) | HeadsState::Unavailable) {
            return;
        }
        let Some(slot) = self.memory.register_user(author) else { return self.give_up_heads() };
        self.memory.set_head(slot, UNKNOWN);
        if let HeadsState::Loading(loading) = &mut self.heads.state {
            loading.raised.insert(slot, UNKNOWN);
        }
    }

    /// Sets the author's head from a filled tail.
    pub(super) fn set_head_from_tail(&mut self, slot: Slot, newest: Option<i64>) {
        if matches!(self.heads.state, HeadsState::Known) {
            self.memory.set_head(slot, newest.unwrap_or(NO_POSTS));
        }
    }

    /// Gives up the heads: the budget has no room for all authors.
    fn give_up_heads(&mut self) {
        warn!(
            server = self.source.name(),
            users = self.memory.users(),
            "Newest post times of all authors do not fit into memory.budget; pages query the databases \
             for authors that are not cached. Raise memory.budget"
        );
        self.heads.invalidate();
        self.heads.state = HeadsState::Unavailable;
        self.memory.forget_heads(self.log());
    }

    /// Handles a result of the load.
    pub(super) fn load_heads(&mut self, loaded: Loaded) {
        match loaded {
            Loaded::Batch(batch) => self.stage_heads(&batch),
            Loaded::End(Ok((identity, bounds))) => self.end_heads(identity, bounds),
            Loaded::End(Err(error)) => {
                let server = self.source.name();
                debug!(server, %error, "Newest post times cannot be loaded yet; will be retried");
                self.heads.retry_after(RETRY_ERROR);
            }
        }
    }

    fn stage_heads(&mut self, batch: &HeadBatch) {
        let memory = Arc::clone(&self.memory);
        for (author, time) in &batch.heads {
            if memory.placement().shard_of(*author) != batch.shard || memory.excludes(batch.shard) {
                continue;
            }
            let Some(slot) = memory.register_user(*author) else { return self.give_up_heads() };
            if let HeadsState::Loading(loading) = &mut self.heads.state {
                loading.staged.push((slot, *time));
            }
        }
    }

    fn end_heads(&mut self, identity: LogIdentity, bounds: Bounds) {
        let HeadsState::Loading(loading) = std::mem::take(&mut self.heads.state) else { return };
        let (Bounds::Exact(low) | Bounds::Window { low, .. }) = bounds;
        let is_this = Some(identity) == self.identity && loading.epoch == self.keeper.epoch();
        if !is_this || low < loading.registered {
            return self.heads.retry_after(RETRY_STALE);
        }
        let Loading { staged, raised, .. } = *loading;
        set_heads(&self.memory, self.log(), &staged, &raised);
        self.heads.state = HeadsState::Known;
        let (server, authors) = (self.source.name(), staged.len());
        info!(server, authors, "Newest post times of all authors are in memory");
        self.fills.plan_prefill(staged);
    }

    /// Sets the heads of all authors that have posts. All others have none.
    pub(crate) fn install_heads(&mut self, heads: Vec<(Slot, i64)>) {
        set_heads(&self.memory, self.log(), &heads, &HashMap::new());
        self.heads.state = HeadsState::Known;
    }
}

/// Sets the heads of all authors. An author outside `staged` has no posts, except those that the
/// log delivered during the load. Each head is set once: a reader can look at any moment, and no
/// head may ever be too low.
fn set_heads(
    memory: &Memory,
    log: &FollowedLog,
    staged: &[(Slot, i64)],
    raised: &HashMap<Slot, i64>,
) {
    for (slot, time) in staged {
        let delivered = raised.get(slot).copied().unwrap_or(NO_POSTS);
        memory.set_head(*slot, delivered.max(*time));
    }
    memory.for_each_of(log, |slot| {
        let shard = memory.placement().shard_of(memory.user(slot));
        if memory.head(slot) == UNKNOWN && !memory.excludes(shard) {
            // An author that the log made unknown stays unknown.
            memory.set_head(slot, raised.get(&slot).copied().unwrap_or(NO_POSTS));
        }
    });
    log.set_heads_known(true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::LogName;
    use crate::model::ShardId;
    use crate::moment::PostTimes;
    use crate::placement::Placement;

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
        set_heads(&memory, &memory.logs()[0], &staged, &delivered);
        let heads = [quiet, old, raised, unknown, new].map(|slot| memory.head(slot));
        assert_eq!(heads, [NO_POSTS, 5, 7, UNKNOWN, 3]);
        assert_eq!(memory.head(memory.register_user(UserId(6)).unwrap()), NO_POSTS);
    }
}
