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
    /// Checks that the shards can store the references of a post and the time of its last edit.
    ///
    /// # Errors
    /// The reason, for an import.
    pub fn storable(&self, post: &Post) -> Result<(), String> {
        let missing = match (post.references.is_empty(), post.edited_at) {
            (false, _) if self.missing_references().is_some() => "[tables.posts.references]",
            (_, Some(_)) if self.missing_edits().is_some() => "edited_at under [tables.posts]",
            _ => return Ok(()),
        };
        Err(format!(
            "the shards have no columns for its references or its edit; add {missing} to the \
             configuration and run `tributary migrate`, or leave them out of the file"
        ))
    }

    fn missing_edits(&self) -> Option<String> {
        self.all().find_map(|(_, shard)| shard.missing_edits())
    }

    /// Checks that the shards store when a post was edited, and that an edit reads one post.
    ///
    /// # Errors
    /// A shard has no column for it, or no index for reading a post by its address.
    pub fn require_edits(&self) -> Result<(), NotStored> {
        let then = "; then set edited_at under [tables.posts] in the configuration";
        match self.missing_edits() {
            Some(statement) => Err(NotStored { statement, then }),
            None => self.require_address_index(),
        }
    }
}
