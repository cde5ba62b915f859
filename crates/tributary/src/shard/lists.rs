//! The lists of users on a shard: follows, mutes and blocks. Every function takes one of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fleet::{FolloweesError, JOINT_SHARDS_MAX};
use super::joint::joint_lists;
use super::{
    CostLog, Deadline, Fleet, FollowOutcome, KnownHeads, Shard, ShardError, Store, Turn, UserLists,
    Written,
};
use crate::model::{Follow, ShardId, UserId, UserList};

/// Runs a function of the database that a shard is.
macro_rules! on_store {
    ($self:ident, $shard:ident => $call:expr) => {
        match &$self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite($shard) => $call.await,
            #[cfg(feature = "mysql")]
            Store::MySql($shard) => $call.await,
        }
    };
}

impl Shard {
    /// At most `max` users on a list of `owner`, by rising id, from `from` (inclusive) on. Costs
    /// one statement.
    pub(crate) async fn listed(
        &self,
        list: UserList,
        owner: UserId,
        (from, max): (UserId, usize),
        until: Deadline,
    ) -> Result<Vec<UserId>, ShardError> {
        on_store!(self, shard => shard.listed(list, owner, (from, max), until))
    }

    /// All lists of `owner`, each cut to `max` users, as of one moment.
    pub(crate) async fn lists(
        &self,
        owner: UserId,
        max: usize,
        until: Deadline,
    ) -> Result<UserLists, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                let lists = shard.lists(owner, max, until).await;
                lists.inspect(|lists| self.count(UserList::ALL.len(), lists.len()))
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.lists(owner, max, until).await,
        }
    }

    /// Those of these entries that exist, in any order.
    pub(crate) async fn entries(
        &self,
        list: UserList,
        entries: &[Follow],
        until: Deadline,
    ) -> Result<Vec<Follow>, ShardError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                let found = shard.entries(list, entries, until).await;
                found.inspect(|found| self.count(entries.len(), found.len()))
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.entries(list, entries, until).await,
        }
    }

    /// At most `max` followers of `user` on this shard, by rising id, from `from` (inclusive) on.
    pub(crate) async fn followers(
        &self,
        user: UserId,
        (from, max): (UserId, usize),
        until: Deadline,
    ) -> Result<Vec<UserId>, ShardError> {
        on_store!(self, shard => shard.followers(user, (from, max), until))
    }

    /// The number of users that `user` follows, or of the user's followers on this shard; `max` if
    /// there are more.
    pub(crate) async fn count_follows(
        &self,
        user: UserId,
        (of_followers, max): (bool, usize),
        until: Deadline,
    ) -> Result<usize, ShardError> {
        on_store!(self, shard => shard.count(user, (of_followers, max), until))
    }

    /// The statement that creates the index for reading followers, if the shard does not have it.
    pub(crate) fn missing_followers_index(&self) -> Option<String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.missing_followers_index(),
        }
    }

    /// The statement that creates the table of a list, if the shard does not have it.
    pub(crate) fn missing_table(&self, list: UserList) -> Option<String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.missing_table(list),
        }
    }

    /// Adds entries of one owner in one transaction, and skips those that exist. Adds none if the
    /// list would have more than `max` users. Up to 32 transactions of one owner at the same time
    /// do not exceed the limit either.
    pub(crate) async fn add_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        max: usize,
        until: Deadline,
    ) -> Result<Written<FollowOutcome>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                Ok(shard.written(shard.add_entries(list, rows, max, until).await?, until).await)
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.add_entries(list, rows, max, until).await,
        }
    }

    /// Removes entries of one owner in one transaction. Returns the number of removed rows.
    pub(crate) async fn remove_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        until: Deadline,
    ) -> Result<Written<usize>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                Ok(shard.written(shard.remove_entries(list, rows, until).await?, until).await)
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.remove_entries(list, rows, until).await,
        }
    }
}

impl Fleet {
    /// All users whose posts `reader` sees, by rising id: the follow list without mutes and blocks.
    /// If a list is longer than `max`, that is an error; it is never cut.
    pub(crate) async fn followees(
        &self,
        reader: UserId,
        max: usize,
        deadline: Deadline,
        costs: Option<&CostLog>,
    ) -> Result<Vec<UserId>, FolloweesError> {
        let lists = self.query_owner(reader, deadline, costs, |shard, until| async move {
            shard.lists(reader, max + 1, until).await
        });
        match lists.await {
            Ok(lists) if lists.is_longer_than(max) => Err(FolloweesError::TooMany),
            Ok(lists) => Ok(lists.shown()),
            Err(shard) => Err(FolloweesError::Missing(shard)),
        }
    }

    /// As [`Fleet::followees`], with the newest posts of some of them if that takes no further
    /// statement.
    pub(crate) async fn followees_and_heads(
        &self,
        reader: UserId,
        max: usize,
        deadline: Deadline,
    ) -> Result<(Vec<UserId>, KnownHeads), FolloweesError> {
        let buckets = self.placement().buckets();
        let shards: Vec<Arc<Shard>> = match buckets.len() {
            ..=JOINT_SHARDS_MAX => {
                buckets.iter().map(|id| Arc::clone(&self.shards()[id.index()])).collect()
            }
            _ => Vec::new(),
        };
        let read = self.query_owner(reader, deadline, None, |own, until| {
            let shards = shards.clone();
            async move {
                if !shards.is_empty()
                    && let Some(read) =
                        joint_lists(&own, &shards, (reader, max + 1), until.half()).await
                {
                    return Ok(read);
                }
                Ok((own.lists(reader, max + 1, until).await?, KnownHeads::new()))
            }
        });
        match read.await {
            Ok((lists, _)) if lists.is_longer_than(max) => Err(FolloweesError::TooMany),
            Ok((lists, heads)) => Ok((lists.shown(), heads)),
            Err(shard) => Err(FolloweesError::Missing(shard)),
        }
    }

    /// At most `max` users on a list of `owner`, by rising id, from `from` (inclusive) on.
    ///
    /// # Errors
    /// The owner's shard, if it does not answer.
    pub(crate) async fn listed(
        &self,
        list: UserList,
        owner: UserId,
        page: (UserId, usize),
        deadline: Deadline,
    ) -> Result<Vec<UserId>, ShardId> {
        self.query_owner(owner, deadline, None, |shard, until| async move {
            shard.listed(list, owner, page, until).await
        })
        .await
    }

    /// The statement that creates the table of a list, if the shards do not have it.
    pub(crate) fn missing_table(&self, list: UserList) -> Option<String> {
        self.all().find_map(|(_, shard)| shard.missing_table(list))
    }

    /// The statement that creates the index for reading followers, if a shard does not have it.
    pub(crate) fn missing_followers_index(&self) -> Option<String> {
        self.all().find_map(|(_, shard)| shard.missing_followers_index())
    }

    /// Calls all shards at the same time.
    pub(crate) async fn scatter_to_all<T, F>(
        &self,
        deadline: Deadline,
        call: impl Fn(Arc<Shard>, (), Deadline) -> F,
    ) -> super::fleet::Gathered<T>
    where
        F: Future<Output = Result<T, ShardError>>,
    {
        let work: BTreeMap<ShardId, ()> = self.all().map(|(id, _)| (id, ())).collect();
        self.scatter(work, Turn::First, deadline, call).await
    }
}
