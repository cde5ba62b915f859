//! The newest time of every author of a log: loaded whole from one snapshot, then raised by the log.
//!
//! They are upper bounds, so the protocol is short: whatever the log says while they are loaded is
//! remembered, and the larger time counts. The snapshot must not be older than the log's beginning:
//! it would not show what the log said before anybody listened.

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

/// Batches that may wait.
const BATCHES_MAX: usize = 8;
/// After a snapshot that was too old: the database shows what the log told within milliseconds.
const SOON: Duration = Duration::from_millis(50);
/// After an error.
const LATER: Duration = Duration::from_secs(2);

/// How far loading is.
#[derive(Debug, Default)]
pub(super) struct HeadLoads {
    state: HeadsState,
    /// At most one.
    tasks: JoinSet<Outcome>,
}

type Outcome = Result<(LogIdentity, Bounds), ShardError>;

#[derive(Debug, Default)]
enum HeadsState {
    /// To be loaded, not before this.
    Due(Option<Instant>),
    Loading(Box<Loading>),
    Known,
    /// The budget has no room for them, or cannot be had otherwise: authors are asked for in SQL.
    #[default]
    Unavailable,
}

#[derive(Debug)]
struct Loading {
    /// Whatever is told from here on is remembered in `raised`.
    registered: LogPosition,
    epoch: u64,
    batches: mpsc::Receiver<HeadBatch>,
    staged: Vec<(Slot, i64)>,
    raised: HashMap<Slot, i64>,
}

/// A part of what is loaded.
pub(super) enum Loaded {
    Batch(HeadBatch),
    End(Outcome),
}

impl HeadLoads {
    /// What is known is not true any more.
    pub(super) fn invalidate(&mut self) {
        // With the tasks goes what they may have ended with already: it would be taken for the end of
        // what is loaded next.
        self.tasks = JoinSet::new();
        self.state = HeadsState::Due(None);
    }

    /// The next part; none while nothing is loaded. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Loaded> {
        if let HeadsState::Loading(loading) = &mut self.state
            && let Some(batch) = loading.batches.recv().await
        {
            return Some(Loaded::Batch(batch));
        }
        let panicked = |_| Err(ShardError::Unavailable("newest times could not be read".into()));
        Some(Loaded::End(self.tasks.join_next().await?.unwrap_or_else(panicked)))
    }

    /// Whether they are known, or will not be.
    pub(super) fn are_settled(&self) -> bool {
        matches!(self.state, HeadsState::Known | HeadsState::Unavailable)
    }

    fn later(&mut self, pause: Duration) {
        self.state = HeadsState::Due(Some(Instant::now() + pause));
    }
}

impl Applier {
    /// Begins to load them when they are wanted and the log is heard.
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

    /// The author has a post of this time. Returns its slot, if anything is known of newest times.
    pub(super) fn raise_head(&mut self, author: UserId, time: i64) -> Option<Slot> {
        let loading = match &mut self.heads.state {
            HeadsState::Known => None,
            HeadsState::Loading(loading) => Some(loading),
            // Nothing is known of anybody.
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

    /// What the author's newest time is is not known any more.
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

    /// The newest posts of an author are all known now, and with them the newest time.
    pub(super) fn set_head_from_tail(&mut self, slot: Slot, newest: Option<i64>) {
        if matches!(self.heads.state, HeadsState::Known) {
            self.memory.set_head(slot, newest.unwrap_or(NO_POSTS));
        }
    }

    /// The budget has no room for all authors.
    fn give_up_heads(&mut self) {
        warn!(
            server = self.source.name(),
            users = self.memory.users(),
            "the newest times of all authors do not fit into memory.budget; who may have posts on a \
             page is asked of the databases"
        );
        self.heads.invalidate();
        self.heads.state = HeadsState::Unavailable;
        self.memory.forget_heads(self.log());
    }

    /// Takes a part of what is loaded.
    pub(super) fn load_heads(&mut self, loaded: Loaded) {
        match loaded {
            Loaded::Batch(batch) => self.stage_heads(&batch),
            Loaded::End(Ok((identity, bounds))) => self.end_heads(identity, bounds),
            Loaded::End(Err(error)) => {
                debug!(server = self.source.name(), %error, "newest times cannot be loaded yet");
                self.heads.later(LATER);
            }
        }
    }

    fn stage_heads(&mut self, batch: &HeadBatch) {
        let memory = Arc::clone(&self.memory);
        for (author, time) in &batch.heads {
            if memory.placement().shard_of(*author) != batch.shard {
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
            return self.heads.later(SOON);
        }
        let Loading { staged, raised, .. } = *loading;
        set_heads(&self.memory, self.log(), &staged, &raised);
        self.heads.state = HeadsState::Known;
        info!(server = self.source.name(), authors = staged.len(), "newest times are in memory");
        self.fills.plan_ahead(staged);
    }

    /// Takes the newest times of all who have posts.
    pub(super) fn install_heads(&mut self, heads: Vec<(Slot, i64)>) {
        set_heads(&self.memory, self.log(), &heads, &HashMap::new());
        self.heads.state = HeadsState::Known;
    }
}

/// Whoever is not among what was `staged` has no posts, but for what the log told meanwhile. Each is
/// set once: a reader may look between any two steps, and what it finds must never be too low.
fn set_heads(
    memory: &Memory,
    log: &FollowedLog,
    staged: &[(Slot, i64)],
    raised: &HashMap<Slot, i64>,
) {
    for (slot, time) in staged {
        let told = raised.get(slot).copied().unwrap_or(NO_POSTS);
        memory.set_head(*slot, told.max(*time));
    }
    memory.for_each_of(log, |slot| {
        if memory.head(slot) == UNKNOWN {
            // One that the log made unknown stays so.
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
    fn what_the_log_tells_while_they_are_loaded_counts_too() {
        let name = LogName { name: "a".into(), shards: vec![ShardId(0)] };
        let (unit, zone) = ("ms".parse().unwrap(), "UTC".parse().unwrap());
        let (placement, times) = (Placement::modulo(1).unwrap(), PostTimes { unit, zone });
        let (memory, _queues) =
            Memory::new(1 << 20, vec![name], placement, times, |_, _| "".into());
        let slots = [1, 2, 3, 4, 5].map(|user| memory.register_user(UserId(user)).unwrap());
        let [quiet, old, raised, unknown, new] = slots;
        let staged = [(old, 5), (raised, 5), (unknown, 5)];
        let told = HashMap::from([(raised, 7), (unknown, UNKNOWN), (new, 3), (old, 4)]);
        set_heads(&memory, &memory.logs()[0], &staged, &told);
        let heads = [quiet, old, raised, unknown, new].map(|slot| memory.head(slot));
        assert_eq!(heads, [NO_POSTS, 5, 7, UNKNOWN, 3]);
        assert_eq!(memory.head(memory.register_user(UserId(6)).unwrap()), NO_POSTS);
    }
}
