//! The rows that the server must have: the generated world, and the writes of this run with the
//! time of each acknowledgement. Pure; `check` compares pages with it.

use std::collections::{BTreeMap, HashMap};
use tributary::{PostId, PostKey};

use super::world::{World, has_follow_churn};

/// Microseconds since the run began.
pub(super) type RunMicros = u64;

/// A post that this run has written.
#[derive(Debug)]
pub(super) struct WrittenPost {
    pub(super) key: PostKey,
    pub(super) content: String,
    /// When the 201 was received.
    pub(super) stored: RunMicros,
    pub(super) deletion: Deletion,
}

/// Whether a post was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    None,
    /// A delete was sent and not acknowledged: the post may exist or not.
    Possible,
    /// The delete was acknowledged at this time.
    Acknowledged(RunMicros),
}

/// The last change of one follow by this run.
#[derive(Clone, Copy, Debug)]
struct FollowState {
    follows: bool,
    /// When the change was acknowledged. While this is `None`, the follow may exist or not.
    since: Option<RunMicros>,
}

/// A post of this run that may be deleted, with a reader that follows its author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deletable {
    pub(super) author: u32,
    pub(super) post: PostId,
    pub(super) reader: u32,
}

/// The rows that the server must have, where this is certain.
#[derive(Debug)]
pub(super) struct KnownRows {
    pub(super) world: World,
    written: HashMap<u32, Vec<WrittenPost>>,
    /// Changed follows, by reader and author.
    follow_states: HashMap<u32, BTreeMap<u32, FollowState>>,
    /// Follows that this run made and may remove, as (reader, author).
    made: Vec<(u32, u32)>,
    /// Posts that this run wrote and may delete.
    deletable: Vec<Deletable>,
    deletes_in_flight: usize,
    /// When the last delete ended.
    last_delete: RunMicros,
}

impl KnownRows {
    pub(super) fn new(world: World) -> Self {
        Self {
            world,
            written: HashMap::new(),
            follow_states: HashMap::new(),
            made: Vec::new(),
            deletable: Vec::new(),
            deletes_in_flight: 0,
            last_delete: 0,
        }
    }

    /// The author's posts that this run has written.
    pub(super) fn written(&self, author: u32) -> &[WrittenPost] {
        self.written.get(&author).map_or(&[], Vec::as_slice)
    }

    /// Whether `reader` has followed `author` continuously since `moment`; `None` if uncertain.
    pub(super) fn follows(&self, reader: u32, author: u32, moment: RunMicros) -> Option<bool> {
        if let Some(state) = self.follow_state(reader, author) {
            return state.since.filter(|since| *since <= moment).map(|_| state.follows);
        }
        match self.world.followees(reader).binary_search(&author) {
            Ok(_) => Some(true),
            Err(_) if has_follow_churn(author) => None,
            Err(_) => Some(false),
        }
    }

    /// The authors that `reader` has certainly followed since `moment`, by ascending id.
    pub(super) fn followees(&self, reader: u32, moment: RunMicros) -> Vec<u32> {
        let changed = self.follow_states.get(&reader).into_iter().flat_map(BTreeMap::keys);
        let mut all: Vec<u32> =
            self.world.followees(reader).iter().chain(changed).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|author| self.follows(reader, *author, moment) == Some(true));
        all
    }

    /// Whether a post of any author may have been deleted since `moment`.
    pub(super) fn deleted_since(&self, moment: RunMicros) -> bool {
        self.deletes_in_flight > 0 || self.last_delete >= moment
    }

    /// Records a stored post. If `reader`, a follower of the author, is given, the post may be
    /// deleted later.
    pub(super) fn posted(&mut self, author: u32, written: WrittenPost, reader: Option<u32>) {
        let post = written.key.post;
        self.deletable.extend(reader.map(|reader| Deletable { author, post, reader }));
        self.written.entry(author).or_default().push(written);
    }

    /// Chooses a post to delete, by the random number `any`. No other caller gets the same post.
    /// `None` if no post may be deleted.
    pub(super) fn begin_delete(&mut self, any: usize) -> Option<Deletable> {
        let index = any.checked_rem(self.deletable.len())?;
        let chosen = self.deletable.swap_remove(index);
        self.set_deletion(chosen.author, chosen.post, Deletion::Possible);
        self.deletes_in_flight += 1;
        Some(chosen)
    }

    /// Records the outcome of a delete. After a failure the post may exist or not.
    pub(super) fn end_delete(&mut self, author: u32, post: PostId, now: RunMicros, done: bool) {
        self.deletes_in_flight -= 1;
        self.last_delete = now;
        if done {
            self.set_deletion(author, post, Deletion::Acknowledged(now));
        }
    }

    fn set_deletion(&mut self, author: u32, post: PostId, deletion: Deletion) {
        let all = self.written.entry(author).or_default();
        if let Some(written) = all.iter_mut().find(|written| written.key.post == post) {
            written.deletion = deletion;
        }
    }

    /// Chooses a follow of this run to remove, by the random number `any`; `None` if it has none.
    pub(super) fn begin_unfollow(&mut self, any: usize) -> Option<(u32, u32)> {
        let index = any.checked_rem(self.made.len())?;
        let pair = self.made.swap_remove(index);
        self.set_follow_state(pair, FollowState { follows: false, since: None });
        Some(pair)
    }

    /// Reserves a new follow. False if `author` has no follow churn, or if `reader` is or follows
    /// `author`. Also false if a change of this pair is in flight or has failed.
    pub(super) fn begin_follow(&mut self, reader: u32, author: u32) -> bool {
        let free = match self.follow_state(reader, author) {
            Some(state) => state.since.is_some() && !state.follows,
            None => self.world.followees(reader).binary_search(&author).is_err(),
        };
        let may = free && has_follow_churn(author) && reader != author;
        if may {
            self.set_follow_state((reader, author), FollowState { follows: true, since: None });
        }
        may
    }

    /// Records the outcome of a follow or unfollow. After a failure the state of the pair is
    /// unknown, and the run does not change it again.
    pub(super) fn end_follow_change(&mut self, pair: (u32, u32), now: RunMicros, done: bool) {
        let Some(state) = self.follow_state(pair.0, pair.1).filter(|_| done) else { return };
        self.set_follow_state(pair, FollowState { since: Some(now), ..state });
        if state.follows {
            self.made.push(pair);
        }
    }

    fn follow_state(&self, reader: u32, author: u32) -> Option<FollowState> {
        self.follow_states.get(&reader)?.get(&author).copied()
    }

    fn set_follow_state(&mut self, (reader, author): (u32, u32), state: FollowState) {
        self.follow_states.entry(reader).or_default().insert(author, state);
    }
}
