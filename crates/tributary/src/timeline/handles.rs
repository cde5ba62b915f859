//! The handles of users.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::view::View;
use crate::memory::Memory;
use crate::model::UserId;
use crate::shard::{Shard, Turn};

/// The handles that were found.
type Handles = BTreeMap<UserId, Arc<str>>;

/// The handles of these users: from memory, or else by one wave of queries. The second value says
/// whether there was one. Users without a handle, and those of a shard that does not answer, are
/// skipped.
pub(crate) async fn handles(view: &View<'_>, users: &[UserId], turn: Turn) -> (Handles, bool) {
    let fleet = view.fleet();
    if !fleet.stores_handles() {
        return (Handles::new(), false);
    }
    let (mut known, unknown) = match view.memory() {
        Some(memory) => in_memory(memory, users),
        None => (Handles::new(), users.to_vec()),
    };
    if unknown.is_empty() {
        return (known, false);
    }
    let work = fleet.placement().group(unknown, |user| *user);
    let call = |shard: Arc<Shard>, users: Vec<UserId>, until| async move {
        shard.handles(users, until).await
    };
    let found = fleet.scatter(work, turn, view.deadline(), call).await;
    let found = found.answers.into_iter().flatten();
    known.extend(found.map(|(user, handle)| (user, handle.into())));
    (known, true)
}

/// The handles in memory, and the users that memory does not have.
fn in_memory(memory: &Memory, users: &[UserId]) -> (Handles, Vec<UserId>) {
    let (tick, frees) = (memory.tick(), memory.frees());
    let (mut known, mut unknown) = (Handles::new(), Vec::new());
    for user in users {
        match memory.find(*user).and_then(|slot| memory.tail(slot, tick)) {
            Some(tail) => known.extend(tail.handle().map(|handle| (*user, Arc::clone(handle)))),
            None => unknown.push(*user),
        }
    }
    // A slot that was freed during this may have another user's handle.
    if memory.frees() != frees {
        return (Handles::new(), users.to_vec());
    }
    (known, unknown)
}
