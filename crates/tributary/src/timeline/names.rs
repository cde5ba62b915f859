//! The handles and display names of users.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::view::View;
use crate::memory::Memory;
use crate::model::{UserId, UserNames};
use crate::shard::{Shard, Turn};

/// The names that were found.
type Names = BTreeMap<UserId, UserNames>;

/// The names of these users: from memory, or else by one wave of queries. The second value says
/// whether there was one. Users without a row, and those of a shard that does not answer, are
/// skipped.
pub(crate) async fn names(view: &View<'_>, users: &[UserId], turn: Turn) -> (Names, bool) {
    let fleet = view.fleet();
    if !fleet.stores_names() {
        return (Names::new(), false);
    }
    let (mut known, unknown) = match view.memory() {
        Some(memory) => in_memory(memory, users),
        None => (Names::new(), users.to_vec()),
    };
    if unknown.is_empty() {
        return (known, false);
    }
    let work = fleet.placement().group(unknown, |user| *user);
    let call = |shard: Arc<Shard>, users: Vec<UserId>, until| async move {
        shard.names(users, until).await
    };
    let found = fleet.scatter(work, turn, view.deadline(), call).await;
    let found = found.answers.into_iter().flatten();
    known.extend(found);
    (known, true)
}

/// The names in memory, and the users that memory does not have.
fn in_memory(memory: &Memory, users: &[UserId]) -> (Names, Vec<UserId>) {
    let (tick, frees) = (memory.tick(), memory.frees());
    let (mut known, mut unknown) = (Names::new(), Vec::new());
    for user in users {
        match memory.find(*user).and_then(|slot| memory.tail(slot, tick)) {
            Some(tail) => known.extend(tail.names().map(|names| (*user, names.clone()))),
            None => unknown.push(*user),
        }
    }
    // A slot that was freed during this may have another user's names.
    if memory.frees() != frees {
        return (Names::new(), users.to_vec());
    }
    (known, unknown)
}
