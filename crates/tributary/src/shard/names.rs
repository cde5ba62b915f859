//! The handles and display names of users on a shard.

use super::{Deadline, Fleet, NotStored, Shard, ShardError, Store};
use crate::model::{UserId, UserNames};

impl Shard {
    /// The names of these users. Users without a row are skipped.
    pub async fn names(
        &self,
        mut users: Vec<UserId>,
        until: Deadline,
    ) -> Result<Vec<(UserId, UserNames)>, ShardError> {
        users.sort_unstable();
        users.dedup();
        if users.is_empty() {
            return Ok(Vec::new());
        }
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                let names = shard.names(&users, until).await;
                names.inspect(|names| self.count(users.len(), names.len()))
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.names(&users, until).await,
        }
    }

    /// At most `max` users whose handle begins with `prefix`, by handle.
    pub(crate) async fn find_handles(
        &self,
        prefix: &str,
        max: usize,
        until: Deadline,
    ) -> Result<Vec<(UserId, UserNames)>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.find_handles(prefix, max, until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.find_handles(prefix, max, until).await,
        }
    }

    /// The statement that creates what is missing for finding handles, and whether it is a table.
    fn missing_handles(&self) -> Option<(String, bool)> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.missing_handles(),
        }
    }
}

impl Fleet {
    /// Checks that users can be found by their handles.
    ///
    /// # Errors
    /// A shard has no table of users, or no index of their handles.
    pub fn require_handles(&self) -> Result<(), NotStored> {
        match self.all().find_map(|(_, shard)| shard.missing_handles()) {
            None => Ok(()),
            Some((statement, is_table)) => {
                let then = if is_table {
                    "; then add [tables.users] to the configuration"
                } else {
                    "; a TEXT column must become a VARCHAR before"
                };
                Err(NotStored { statement, then })
            }
        }
    }
}
