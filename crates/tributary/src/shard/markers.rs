//! Read markers, and the table that they need.

use std::sync::Arc;

use super::{Deadline, Fleet, NewMarker, NotStored, Shard, ShardError, Store, Written};
use crate::model::{ReadMarker, ShardId, UserId};

impl Shard {
    /// The marker of a user, if there is one.
    async fn read_marker(
        &self,
        user: UserId,
        until: Deadline,
    ) -> Result<Option<ReadMarker>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.read_marker(user, until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.read_marker(user, until).await,
        }
    }

    /// Moves the marker of a user to a post, unless it is at a newer one. Returns the marker as it
    /// then is.
    pub(crate) async fn move_marker(
        &self,
        new: NewMarker,
        until: Deadline,
    ) -> Result<Written<Option<ReadMarker>>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                Ok(Written { outcome: shard.move_marker(new, until).await?, at: None })
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.move_marker(new, until).await,
        }
    }

    /// The statement that creates the table of markers, if the shard does not have it.
    fn missing_markers(&self) -> Option<String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.missing_markers(),
        }
    }
}

impl Fleet {
    /// Checks that the shards store read markers.
    ///
    /// # Errors
    /// A shard has no table of markers, or no index for reading a post by its address.
    pub fn require_markers(&self) -> Result<(), NotStored> {
        let then = "; then add [tables.read_markers] to the configuration";
        match self.all().find_map(|(_, shard)| shard.missing_markers()) {
            Some(statement) => Err(NotStored { statement, then }),
            None => Ok(()),
        }
    }

    /// The marker of a user, if there is one.
    ///
    /// # Errors
    /// The user's shard does not answer.
    pub(crate) async fn read_marker(&self, user: UserId) -> Result<Option<ReadMarker>, ShardId> {
        let read = |shard: Arc<Shard>, until| async move { shard.read_marker(user, until).await };
        self.query_owner(user, self.read_deadline(), None, read).await
    }
}
