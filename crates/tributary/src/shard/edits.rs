//! Edits of posts, and the column that they need.

use super::{Deadline, Edit, Fleet, NotStored, Shard, ShardError, Store, Written};
use crate::model::Post;

impl Shard {
    /// Replaces the text of a post, if it has another one. Returns the post as it then is; `None`
    /// if there is no such post.
    pub(crate) async fn edit_post(
        &self,
        edit: &Edit,
        until: Deadline,
    ) -> Result<Written<Option<Post>>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                Ok(shard.written(shard.edit_post(edit, until).await?, until).await)
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.edit_post(edit, until).await,
        }
    }

    /// The statement that adds the column of edits, if the shard does not have it.
    fn missing_edits(&self) -> Option<String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.missing_edits(),
        }
    }
}

impl Fleet {
    /// Checks that the shards store when a post was edited, and that an edit reads one post.
    ///
    /// # Errors
    /// A shard has no column for it, or no index for reading a post by its address.
    pub fn require_edits(&self) -> Result<(), NotStored> {
        let then = "; then set edited_at under [tables.posts] in the configuration";
        match self.all().find_map(|(_, shard)| shard.missing_edits()) {
            Some(statement) => Err(NotStored { statement, then }),
            None => self.require_address_index(),
        }
    }
}
