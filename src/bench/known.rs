//! What is known of the rows behind the server: the world, and what was written since, with the
//! moments between which each write took place. Pure; `check` compares pages with it.

use std::collections::{BTreeMap, HashMap};

use super::world::{World, has_follow_churn};
use crate::model::{PostId, PostKey};

/// Microseconds since the benchmark began.
pub(super) type RunMicros = u64;

/// What is known of a post that was written while the benchmark ran.
#[derive(Debug)]
pub(super) struct WrittenPost {
    pub(super) key: PostKey,
    pub(super) content: String,
    /// When its 201 came.
    pub(super) stored: RunMicros,
    pub(super) deletion: Deletion,
}

/// Whether a post was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    None,
    /// Somebody was told to; it may be gone by now, or not.
    Possible,
    /// The delete was acknowledged then.
    Acknowledged(RunMicros),
}

/// The last thing that became of one follow.
#[derive(Clone, Copy, Debug)]
struct FollowState {
    follows: bool,
    /// When it was acknowledged; until then it is not known what holds.
    since: Option<RunMicros>,
}

/// A post of this benchmark, with a reader who would miss it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deletable {
    pub(super) author: u32,
    pub(super) post: PostId,
    pub(super) reader: u32,
}

/// The rows as far as they are known.
#[derive(Debug)]
pub(super) struct KnownRows {
    pub(super) world: World,
    written: HashMap<u32, Vec<WrittenPost>>,
    /// What became of follows, by reader and author.
    follow_states: HashMap<u32, BTreeMap<u32, FollowState>>,
    /// Follows that this benchmark made and may end.
    made: Vec<(u32, u32)>,
    /// Posts that this benchmark wrote and may delete.
    deletable: Vec<Deletable>,
    deletes_in_flight: usize,
    /// When a delete ended last.
    deleted: RunMicros,
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
            deleted: 0,
        }
    }

    /// The author's posts of this benchmark.
    pub(super) fn written(&self, author: u32) -> &[WrittenPost] {
        self.written.get(&author).map_or(&[], Vec::as_slice)
    }

    /// Whether `reader` has followed `author` ever since `moment`; `None` when that is not certain.
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

    /// All that `reader` has surely followed ever since `moment`.
    pub(super) fn followees(&self, reader: u32, moment: RunMicros) -> Vec<u32> {
        let changed = self.follow_states.get(&reader).into_iter().flat_map(BTreeMap::keys);
        let mut all: Vec<u32> =
            self.world.followees(reader).iter().chain(changed).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|author| self.follows(reader, *author, moment) == Some(true));
        all
    }

    /// Whether any post may have been deleted since `moment`.
    pub(super) fn deleted_since(&self, moment: RunMicros) -> bool {
        self.deletes_in_flight > 0 || self.deleted >= moment
    }

    /// A post was stored. With a `reader`, who follows the author, it may be deleted later.
    pub(super) fn posted(&mut self, author: u32, written: WrittenPost, reader: Option<u32>) {
        let post = written.key.post;
        self.deletable.extend(reader.map(|reader| Deletable { author, post, reader }));
        self.written.entry(author).or_default().push(written);
    }

    /// A post to be deleted, which nobody else will choose; `any` says which.
    pub(super) fn begin_delete(&mut self, any: usize) -> Option<Deletable> {
        let index = any.checked_rem(self.deletable.len())?;
        let chosen = self.deletable.swap_remove(index);
        self.set_deletion(chosen.author, chosen.post, Deletion::Possible);
        self.deletes_in_flight += 1;
        Some(chosen)
    }

    /// How a delete went. After a failure it is not known whether the post is there.
    pub(super) fn end_delete(&mut self, author: u32, post: PostId, now: RunMicros, done: bool) {
        self.deletes_in_flight -= 1;
        self.deleted = now;
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

    /// A follow that this benchmark made, to be ended; `any` says which.
    pub(super) fn begin_unfollow(&mut self, any: usize) -> Option<(u32, u32)> {
        let index = any.checked_rem(self.made.len())?;
        let pair = self.made.swap_remove(index);
        self.set_follow_state(pair, FollowState { follows: false, since: None });
        Some(pair)
    }

    /// Whether `reader` may be made to follow `author`; if so, nobody else does meanwhile.
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

    /// How a follow or unfollow went. After a failure nothing is known of the pair any more, and
    /// it is left alone.
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
