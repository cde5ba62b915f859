//! The graph of users: followers, counts, relationships, mutes and blocks; and users by handle.
//!
//! A mute or a block hides the posts of a user from the home timeline of its owner, at once. A
//! block also hides the owner's posts from the blocked user, as soon as memory has applied it.
//! Tables of mutes and blocks are optional for shards on servers: see [`NotStored`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use thiserror::Error;

pub use crate::model::UserNames;
use crate::model::{Follow, ShardId, UserId, UserList};
pub use crate::publish::Unfollowed;
use crate::publish::WriteError;
pub use crate::shard::NotStored;
use crate::shard::{Deadline, Fleet, Shard, Turn};
use crate::timeline::Limit;
pub use crate::users::{FoundUsers, NamedUser, Names, USERS_FOUND_MAX};

/// The most users of one call of [`crate::Tributary::relationships`].
pub const RELATIONSHIPS_MAX: usize = 100;
/// Counts up to this number are exact.
pub const COUNT_MAX: usize = 10_000;

/// Why a request that needs an optional table or column failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum GraphError {
    /// See [`NotStored`].
    #[error(transparent)]
    NotStored(#[from] NotStored),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A part of a follow list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowingPage {
    /// The followees, by rising id.
    pub followees: Vec<UserId>,
    /// The id to continue from; `None` at the end of the list. If the shard did not answer, the id
    /// that this part was to start from.
    pub next: Option<UserId>,
    /// The reader's shard, if it did not answer.
    pub missing: BTreeSet<ShardId>,
}

/// A part of another list of users, by rising id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListPage {
    /// The users.
    pub users: Vec<UserId>,
    /// The id to continue from; `None` at the end of the list. If a shard did not answer, the id
    /// that this part was to start from.
    pub next: Option<UserId>,
    /// The shards that did not answer. Then there are no users.
    pub missing: BTreeSet<ShardId>,
}

/// A number of users or posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Exactly this many.
    Exact(usize),
    /// This many or more.
    AtLeast(usize),
}

impl Count {
    /// A number that was counted up to [`COUNT_MAX`] and one more, on all shards if it is whole.
    pub(crate) fn of(number: usize, is_whole: bool) -> Self {
        match number {
            0..=COUNT_MAX if is_whole => Self::Exact(number),
            number => Self::AtLeast(number.min(COUNT_MAX)),
        }
    }
}

/// The numbers of followees and followers of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The users that the user follows.
    pub following: Count,
    /// The followers of the user. A follower with rows on two shards, as a move can leave them, is
    /// counted twice.
    pub followers: Count,
    /// The shards that did not answer; they are not counted.
    pub missing: BTreeSet<ShardId>,
}

/// How a user and another user are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relationship {
    /// The other user.
    pub user: UserId,
    /// The user follows the other one.
    pub following: bool,
    /// The other one follows the user.
    pub followed_by: bool,
    /// The user mutes the other one.
    pub muting: bool,
    /// The user blocks the other one.
    pub blocking: bool,
    /// The other one blocks the user.
    pub blocked_by: bool,
}

/// The relationships of a user with other users.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relationships {
    /// One for each requested user whose shard answered, in the order of the request.
    pub all: Vec<Relationship>,
    /// The shards that did not answer.
    pub missing: BTreeSet<ShardId>,
}

/// The table of a list, if the shards have it.
pub(crate) fn require(fleet: &Fleet, list: UserList) -> Result<(), NotStored> {
    let then = match list {
        UserList::Follows => "",
        UserList::Mutes => "; then add [tables.mutes] to the configuration",
        UserList::Blocks => "; then add [tables.blocks] to the configuration",
    };
    match fleet.missing_table(list) {
        Some(statement) => Err(NotStored { statement, then }),
        None => Ok(()),
    }
}

fn require_followers(fleet: &Fleet) -> Result<(), NotStored> {
    match fleet.missing_followers_index() {
        Some(statement) => Err(NotStored { statement, then: "" }),
        None => Ok(()),
    }
}

/// A part of a list of `owner`. One query on one shard.
pub(crate) async fn listed(
    fleet: &Fleet,
    (list, owner): (UserList, UserId),
    from: UserId,
    limit: Limit,
) -> ListPage {
    let page = (from, limit.get() + 1);
    let answer = fleet.listed(list, owner, page, fleet.read_deadline()).await;
    page_of(answer.map_err(|shard| BTreeSet::from([shard])), from, limit)
}

/// A part of the followers of `user`: one wave of queries on all shards. A shard may hold rows of
/// followers that it does not own, left over from a move. They are skipped, so the part may then
/// have fewer users than `limit` although there are more.
pub(crate) async fn followers(
    fleet: &Fleet,
    user: UserId,
    from: UserId,
    limit: Limit,
) -> Result<ListPage, NotStored> {
    require_followers(fleet)?;
    let max = limit.get() + 1;
    let followers = |shard: Arc<Shard>, id: ShardId, until: Deadline| async move {
        let mut users = shard.followers(user, (from, max), until).await?;
        // Users from here on may be unread.
        let end = users.get(max - 1).copied();
        users.retain(|follower| fleet.placement().shard_of(*follower) == id);
        Ok((users, end))
    };
    let work: BTreeMap<ShardId, ShardId> = fleet.shard_ids().map(|id| (id, id)).collect();
    let gathered = fleet.scatter(work, Turn::First, fleet.read_deadline(), followers).await;
    if !gathered.missing.is_empty() {
        return Ok(ListPage { users: Vec::new(), next: Some(from), missing: gathered.missing });
    }
    let end = gathered.answers.iter().filter_map(|(_, end)| *end).min();
    let all: BTreeSet<UserId> = gathered.answers.into_iter().flat_map(|(users, _)| users).collect();
    let mut users: Vec<UserId> =
        all.into_iter().take_while(|user| end.is_none_or(|end| *user < end)).collect();
    let next = users.get(limit.get()).copied().or(end);
    users.truncate(limit.get());
    Ok(ListPage { users, next, missing: BTreeSet::new() })
}

fn page_of(answer: Result<Vec<UserId>, BTreeSet<ShardId>>, from: UserId, limit: Limit) -> ListPage {
    match answer {
        Ok(mut users) => {
            let next = users.get(limit.get()).copied();
            users.truncate(limit.get());
            ListPage { users, next, missing: BTreeSet::new() }
        }
        Err(missing) => ListPage { users: Vec::new(), next: Some(from), missing },
    }
}

/// Counts followees on one shard, and followers on all shards. Rows that a move of a follower left
/// on another shard are counted too.
pub(crate) async fn counts(fleet: &Fleet, user: UserId) -> Result<Counts, NotStored> {
    require_followers(fleet)?;
    let own = fleet.placement().shard_of(user);
    let max = COUNT_MAX + 1;
    let of_shard = |shard: Arc<Shard>, is_own: bool, until: Deadline| async move {
        let following =
            if is_own { shard.count_follows(user, (false, max), until).await? } else { 0 };
        Ok((following, shard.count_follows(user, (true, max), until).await?))
    };
    let work: BTreeMap<ShardId, bool> = fleet.shard_ids().map(|id| (id, id == own)).collect();
    let gathered = fleet.scatter(work, Turn::First, fleet.read_deadline(), of_shard).await;
    let (mut following, mut followers) = (0, 0);
    for (of_user, of_others) in gathered.answers {
        following += of_user;
        followers += of_others;
    }
    let missing = gathered.missing;
    Ok(Counts {
        following: Count::of(following, !missing.contains(&own)),
        followers: Count::of(followers, missing.is_empty()),
        missing,
    })
}

/// The relationships of `user` with others: one wave of queries on the shards that own them.
pub(crate) async fn relationships(fleet: &Fleet, user: UserId, others: &[UserId]) -> Relationships {
    let own = fleet.placement().shard_of(user);
    let lists: Vec<UserList> =
        UserList::ALL.into_iter().filter(|list| fleet.has_table(*list)).collect();
    let entry = |follower: UserId, followee: UserId| Follow { follower, followee };
    let mut work: BTreeMap<ShardId, Vec<(UserList, Vec<Follow>)>> = BTreeMap::new();
    for list in &lists {
        let outgoing = others.iter().map(|other| entry(user, *other)).collect();
        work.entry(own).or_default().push((*list, outgoing));
        if *list != UserList::Mutes {
            let incoming = others.iter().map(|other| entry(*other, user));
            for (shard, entries) in fleet.placement().group(incoming, |entry| entry.follower) {
                work.entry(shard).or_default().push((*list, entries));
            }
        }
    }
    type Asked = Vec<(UserList, Vec<Follow>)>;
    let of_shard = |shard: Arc<Shard>, asked: Asked, until: Deadline| async move {
        let mut found = Vec::new();
        for (list, entries) in asked {
            let entries = shard.entries(list, &entries, until).await?;
            found.extend(entries.into_iter().map(|entry| (list, entry)));
        }
        Ok(found)
    };
    let gathered = fleet.scatter(work, Turn::First, fleet.read_deadline(), of_shard).await;
    let found: HashSet<(UserList, Follow)> = gathered.answers.into_iter().flatten().collect();
    let missing = gathered.missing;
    let is_known = |other: &&UserId| {
        !missing.contains(&own) && !missing.contains(&fleet.placement().shard_of(**other))
    };
    let relationship = |other: &UserId| {
        let has = |list, entry| found.contains(&(list, entry));
        let (outgoing, incoming) = (entry(user, *other), entry(*other, user));
        Relationship {
            user: *other,
            following: has(UserList::Follows, outgoing),
            followed_by: has(UserList::Follows, incoming),
            muting: has(UserList::Mutes, outgoing),
            blocking: has(UserList::Blocks, outgoing),
            blocked_by: has(UserList::Blocks, incoming),
        }
    };
    let all = others.iter().filter(is_known).map(relationship).collect();
    Relationships { all, missing }
}
