//! Users by their handles. `graph` shows the types.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ShardId, UserId, UserNames};
use crate::shard::{Deadline, Fleet, NotStored, Shard, Turn};

/// The most users of one call of [`crate::Tributary::find_users`].
pub const USERS_FOUND_MAX: usize = 20;

/// A user with a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedUser {
    /// The user.
    pub id: UserId,
    /// The handle and the display name.
    pub names: UserNames,
}

/// Users whose handles begin alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundUsers {
    /// The first [`USERS_FOUND_MAX`] of them, by handle in lower case. If more match, and the
    /// collation of the column has another order, some of the first may be absent.
    pub users: Vec<NamedUser>,
    /// The shards that did not answer. Their users are not among `users`.
    pub missing: BTreeSet<ShardId>,
}

/// The handles and display names of users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Names {
    /// By user. Users without a row, and those of a shard that does not answer, are absent.
    pub by_user: BTreeMap<UserId, UserNames>,
    /// Whether a database was queried.
    pub queried: bool,
}

/// The users whose handles begin with `prefix`: one wave of queries on all shards. None for an
/// empty prefix. Rows of users that a shard does not own, left over from a move, are skipped.
pub(crate) async fn find(fleet: &Fleet, prefix: &str) -> Result<FoundUsers, NotStored> {
    fleet.require_handles()?;
    if prefix.is_empty() {
        return Ok(FoundUsers::default());
    }
    let prefix: Arc<str> = prefix.into();
    let of_shard = |shard: Arc<Shard>, id: ShardId, until: Deadline| {
        let prefix = Arc::clone(&prefix);
        async move {
            let mut found = shard.find_handles(&prefix, USERS_FOUND_MAX, until).await?;
            found.retain(|(user, _)| fleet.placement().shard_of(*user) == id);
            Ok(found)
        }
    };
    let work = fleet.shard_ids().map(|id| (id, id)).collect();
    let gathered = fleet.scatter(work, Turn::First, fleet.read_deadline(), of_shard).await;
    let found = gathered.answers.into_iter().flatten();
    let mut users: Vec<NamedUser> = found.map(|(id, names)| NamedUser { id, names }).collect();
    users.sort_by_cached_key(|user| (user.names.handle().to_lowercase(), user.id));
    users.truncate(USERS_FOUND_MAX);
    Ok(FoundUsers { users, missing: gathered.missing })
}
