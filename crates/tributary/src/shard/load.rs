//! Bulk loading: rows go to their owning shards in batches.
//!
//! A load can be repeated: it neither loses nor duplicates a row. A row that cannot be stored is
//! returned with the reason, never dropped silently.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::{Deadline, Fleet, Shard, ShardError, Written};
use crate::model::{Follow, Post, PostKey, UserList};

/// The outcome of a batch.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The number of new rows.
    pub added: usize,
    /// The number of rows that existed, equal in every field.
    pub present: usize,
    /// The rows that are not stored, by rising index.
    pub refused: Vec<RefusedRow>,
}

/// A row that is not stored.
#[derive(Debug)]
pub struct RefusedRow {
    /// The index of the row in the batch.
    pub index: usize,
    /// Why the row is not stored.
    pub reason: String,
}

impl Fleet {
    /// Stores follows, each on its follower's shard. All shards work at the same time.
    ///
    /// # Errors
    /// The first error of a shard that is not about single rows. Other rows may be stored by then.
    pub async fn load_follows(
        &self,
        rows: Vec<Follow>,
        within: Duration,
    ) -> Result<Loaded, ShardError> {
        self.load_entries(UserList::Follows, rows, within).await
    }

    /// Stores mutes, each on its owner's shard.
    ///
    /// # Errors
    /// As for [`Fleet::load_follows`].
    pub async fn load_mutes(
        &self,
        rows: Vec<Follow>,
        within: Duration,
    ) -> Result<Loaded, ShardError> {
        self.load_entries(UserList::Mutes, rows, within).await
    }

    /// Stores blocks, each on its owner's shard.
    ///
    /// # Errors
    /// As for [`Fleet::load_follows`].
    pub async fn load_blocks(
        &self,
        rows: Vec<Follow>,
        within: Duration,
    ) -> Result<Loaded, ShardError> {
        self.load_entries(UserList::Blocks, rows, within).await
    }

    async fn load_entries(
        &self,
        list: UserList,
        rows: Vec<Follow>,
        within: Duration,
    ) -> Result<Loaded, ShardError> {
        let until = Deadline::after(within);
        let rows = rows.into_iter().enumerate();
        let groups = self.placement().group(rows, |(_, entry)| entry.follower);
        let load = |(id, rows)| load_entries(self.shard(id), list, rows, until);
        Ok(sum(try_join_all(groups.into_iter().map(load)).await?))
    }

    /// Stores posts, each on its author's shard. All shards work at the same time. A post is
    /// refused if another post has the same id or key.
    ///
    /// # Errors
    /// As for [`Fleet::load_follows`].
    pub async fn load_posts(
        &self,
        rows: Vec<Post>,
        within: Duration,
    ) -> Result<Loaded, ShardError> {
        let until = Deadline::after(within);
        let rows = rows.into_iter().enumerate();
        let groups = self.placement().group(rows, |(_, post)| post.key.author);
        let loads = groups.into_iter().map(|(id, rows)| load_posts(self.shard(id), rows, until));
        Ok(sum(try_join_all(loads).await?))
    }
}

/// Rows with their indexes in the batch.
type Part<T> = Vec<(usize, T)>;

async fn load_entries(
    shard: &Shard,
    list: UserList,
    rows: Part<Follow>,
    until: Deadline,
) -> Result<Loaded, ShardError> {
    let mut loaded = Loaded::default();
    let mut waiting = vec![rows];
    while let Some(part) = waiting.pop() {
        let rows: Vec<Follow> = part.iter().map(|(_, row)| *row).collect();
        match shard.insert_entries(list, &rows, until).await {
            // An entry has no fields beside its key, so existing rows are equal.
            Ok(Written { outcome: added, .. }) => {
                loaded.added += added;
                loaded.present += part.len() - added;
            }
            Err(error) => refuse_or_halve(error, part, &mut waiting, &mut loaded)?,
        }
    }
    Ok(loaded)
}

async fn load_posts(
    shard: &Shard,
    rows: Part<Post>,
    until: Deadline,
) -> Result<Loaded, ShardError> {
    let mut loaded = Loaded::default();
    let mut waiting = vec![rows];
    while let Some(part) = waiting.pop() {
        let rows: Vec<Post> = part.iter().map(|(_, row)| row.clone()).collect();
        match shard.insert_posts(&rows, until).await {
            Ok(added) => {
                let all_new = added == part.len();
                let conflicts =
                    if all_new { Vec::new() } else { conflicts(shard, &part, until).await? };
                loaded.added += added;
                loaded.present += part.len().saturating_sub(added + conflicts.len());
                loaded.refused.extend(conflicts);
            }
            Err(error) => refuse_or_halve(error, part, &mut waiting, &mut loaded)?,
        }
    }
    Ok(loaded)
}

/// Handles a part that was not inserted. If the database rejects some of its rows, the part is
/// halved until each rejected row is alone. Any other error ends the load.
fn refuse_or_halve<T>(
    error: ShardError,
    mut part: Part<T>,
    waiting: &mut Vec<Part<T>>,
    loaded: &mut Loaded,
) -> Result<(), ShardError> {
    let ShardError::Refused(reason) = error else { return Err(error) };
    if let [(index, _)] = part.as_slice() {
        loaded.refused.push(RefusedRow { index: *index, reason });
    } else {
        // The front half is next: of two conflicting rows the first one must be stored.
        let back = part.split_off(part.len() / 2);
        waiting.push(back);
        waiting.push(part);
    }
    Ok(())
}

/// The rows of `part` that are not stored, because another post has the same id or key.
async fn conflicts(
    shard: &Shard,
    part: &Part<Post>,
    until: Deadline,
) -> Result<Vec<RefusedRow>, ShardError> {
    let keys: Vec<PostKey> = part.iter().map(|(_, post)| post.key).collect();
    let stored = shard.posts(&keys, until).await?;
    let stored: HashMap<PostKey, Post> = stored.into_iter().map(|post| (post.key, post)).collect();
    let conflict = |(index, post): &(usize, Post)| {
        let reason = match stored.get(&post.key) {
            Some(stored) if is_stored_as(stored, post) => return None,
            Some(_) => format!(
                "post {} is already stored with another text, reference or edit; remove the row or the stored post",
                post.key.post
            ),
            None => format!(
                "post id {} already belongs to another post; give one of them another id",
                post.key.post
            ),
        };
        Some(RefusedRow { index: *index, reason })
    };
    Ok(part.iter().filter_map(conflict).collect())
}

/// Whether a row is stored. A file without the optional columns does not say that there is nothing
/// in them.
fn is_stored_as(stored: &Post, row: &Post) -> bool {
    stored.content == row.content
        && (row.references.is_empty() || row.references == stored.references)
        && (row.edited_at.is_none() || row.edited_at == stored.edited_at)
}

fn sum(parts: Vec<Loaded>) -> Loaded {
    let mut whole = Loaded::default();
    for part in parts {
        whole.added += part.added;
        whole.present += part.present;
        whole.refused.extend(part.refused);
    }
    whole.refused.sort_by_key(|refused| refused.index);
    whole
}
