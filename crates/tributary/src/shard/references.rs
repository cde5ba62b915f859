//! The addresses of posts, and the references between them: what is missing, and how many a post
//! has.

use super::{Deadline, Fleet, NotStored, Shard, ShardError, Store};
use crate::model::PostAddress;

/// The numbers of replies to a post and of its reposts.
pub(crate) type ReferenceCounts = [usize; 2];

impl Shard {
    /// The statement that adds the columns of references, if the shard does not have them.
    fn missing_references(&self) -> Option<String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.missing_references(),
        }
    }

    /// The statement that creates an index for counting references, if the shard does not have it.
    fn missing_reference_index(&self) -> Option<String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.missing_reference_index(),
        }
    }

    /// The statement that creates the index for reading posts by their addresses, if the shard does
    /// not have it.
    fn missing_address_index(&self) -> Option<String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.missing_address_index(),
        }
    }

    /// The numbers of replies and reposts on this shard for each of these posts, each at most
    /// `max`.
    pub(crate) async fn count_references(
        &self,
        posts: &[PostAddress],
        max: usize,
        until: Deadline,
    ) -> Result<Vec<ReferenceCounts>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.count_references(posts, max, until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.count_references(posts, max, until).await,
        }
    }
}

impl Fleet {
    /// Whether posts can be replies and reposts.
    pub fn stores_references(&self) -> bool {
        self.missing_references().is_none()
    }

    /// The statement that adds the columns of references, if the shards do not have them.
    pub(crate) fn missing_references(&self) -> Option<String> {
        self.all().find_map(|(_, shard)| shard.missing_references())
    }

    /// The statement that creates an index for counting references, if a shard does not have it.
    pub(crate) fn missing_reference_index(&self) -> Option<String> {
        self.all().find_map(|(_, shard)| shard.missing_reference_index())
    }

    /// Checks that reading a post by its address does not read all posts of the author.
    pub(crate) fn require_address_index(&self) -> Result<(), NotStored> {
        match self.all().find_map(|(_, shard)| shard.missing_address_index()) {
            Some(statement) => Err(NotStored { statement, then: "" }),
            None => Ok(()),
        }
    }
}
