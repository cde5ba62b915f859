//! The write path: each write is one transaction on the one shard that owns the user.
//!
//! This module makes all decisions of a write; `shard` executes the statements. After any error
//! except [`WriteError::InDoubt`] nothing is stored.

mod counts;

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::time::sleep;
use tracing::{debug, warn};

use self::counts::Doubt;
pub(crate) use self::counts::{Operation, WriteCounts};
use crate::backoff::Backoff;
use crate::clock::now_ms;
use crate::config::Write;
use crate::freshness::Freshness;
use crate::model::{
    FOLLOWEES_MAX, Follow, IdempotencyKey, Post, PostAddress, PostId, PostKey, ReadMarker,
    References, UserId, UserList,
};
use crate::post_id::IdGenerator;
use crate::shard::{
    Access, Deadline, EarlierPost, Edit, Fleet, FollowOutcome, IdempotencyRecord, NewMarker,
    NewPost, Shard, ShardError, StoreOutcome, Written,
};

/// Upper bound for the follows of one call, which are one transaction and should stay short.
pub(crate) const FOLLOWS_MAX: usize = 1_000;
/// Ids that are tried for one post. A second one is needed if another writer generated the same
/// id; a third one points to some other fault.
const IDS_TRIED_MAX: usize = 8;
/// Attempts for one write; another write can make it fail (a deadlock or a lock wait).
const TRIES_MAX: usize = 3;
/// Pause before an attempt that follows a deadlock or a wait for a lock, before jitter.
const REPEAT_PAUSE: Duration = Duration::from_millis(10);

/// A committed post.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The post as it was stored. It may have been edited or deleted since.
    pub post: Post,
    /// True if an earlier call with the same key stored the post.
    pub replayed: bool,
    /// A page that requires it contains the post, unless the post was deleted since. It is empty
    /// without memory, and if the server that committed is not the one whose log is followed.
    pub freshness: Freshness,
}

/// A post with another text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edited {
    /// The post as timelines show it.
    pub post: Post,
    /// A page that requires it shows the new text; see [`Published::freshness`].
    pub freshness: Freshness,
}

/// A committed change of a follow list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// The number of new follows.
    pub added: usize,
    /// A page that requires it reflects the change; see [`Published::freshness`].
    pub freshness: Freshness,
}

/// A committed removal from a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfollowed {
    /// The number of removed entries. If the commit was in doubt and the write was repeated,
    /// entries that the first commit removed are not counted.
    pub removed: usize,
    /// A page that requires it reflects the change; see [`Published::freshness`].
    pub freshness: Freshness,
}

/// Why a write failed. Nothing was stored, except perhaps with [`WriteError::InDoubt`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// `write.enabled` is off, or the fleet was opened for reading.
    #[error("writes are not enabled on this server")]
    ReadOnly,
    /// The text is empty or too long.
    #[error("content must have 1 to {max} bytes in UTF-8, this has {len}")]
    ContentLength {
        /// Bytes of the text.
        len: usize,
        /// Upper bound in bytes: `write.content_bytes_max`.
        max: usize,
    },
    /// The database cannot store the text unaltered, or a constraint rejects it.
    #[error("the database cannot store this text unaltered")]
    Content,
    /// A constraint of the database rejects the write.
    #[error("a constraint of the database rejects this write")]
    Refused,
    /// The author used the key for a post with other content.
    #[error("this Idempotency-Key was used for a post with other content; use a new one")]
    KeyReused,
    /// The call names more than [`crate::Tributary::FOLLOWS_MAX`] users.
    #[error("at most {FOLLOWS_MAX} users can be followed or unfollowed in one request")]
    TooManyFollows,
    /// A list of the user would have more than [`crate::Tributary::FOLLOWEES_MAX`] users.
    #[error(
        "a user can follow, mute or block at most {FOLLOWEES_MAX} users each, or the home timeline \
         could not be read; nothing was stored; remove some users first"
    )]
    TooManyFollowees,
    /// The user's shard cannot take the write now: it is unreachable, overloaded, locked or faulty.
    #[error("the user's shard is not available; nothing was stored; try again")]
    Unavailable,
    /// The user's shard is out of space.
    #[error("the user's shard is out of space; nothing was stored")]
    Full,
    /// The connection was lost after COMMIT was sent, and the outcome could not be found out.
    #[error(
        "it is not known whether this write was committed; repeat it (a post with the same \
         Idempotency-Key)"
    )]
    InDoubt,
}

/// Executes writes within the configured limits.
#[derive(Debug)]
pub(crate) struct Publisher {
    enabled: bool,
    content_bytes_max: usize,
    ids: IdGenerator,
    counts: WriteCounts,
}

impl Publisher {
    pub(crate) fn new(limits: &Write, access: Access, shards: usize) -> Self {
        Self {
            enabled: limits.enabled && access == Access::Own,
            content_bytes_max: limits.content_bytes_max,
            ids: IdGenerator::new(shards),
            counts: WriteCounts::default(),
        }
    }

    /// Upper bound for the text of a post, in bytes.
    pub(crate) fn content_bytes_max(&self) -> usize {
        self.content_bytes_max
    }

    /// The outcomes of writes since the start.
    pub(crate) fn counts(&self) -> &WriteCounts {
        &self.counts
    }

    /// Checks that writes are enabled.
    pub(crate) fn permit(&self) -> Result<(), WriteError> {
        if self.enabled { Ok(()) } else { Err(WriteError::ReadOnly) }
    }

    pub(crate) async fn publish(
        &self,
        fleet: &Fleet,
        author: UserId,
        (content, references): (&str, References),
        key: Option<IdempotencyKey>,
    ) -> Result<Published, WriteError> {
        self.permit()?;
        // A repost needs no text of its own.
        self.check_length(content, usize::from(references.repost_of.is_none()))?;
        let deadline = fleet.write_deadline();
        let shard = fleet.owner(author);
        let mut new = self.draft(fleet, author, (content, references), key);
        for _ in 0..IDS_TRIED_MAX {
            let written = store(&shard, &new, deadline, &self.counts).await?;
            let freshness = freshness(fleet, &written);
            match written.outcome {
                StoreOutcome::Stored => {
                    return Ok(Published { post: new.post, replayed: false, freshness });
                }
                StoreOutcome::KeyUsed(earlier) => return replay(new, &earlier, freshness),
                StoreOutcome::IdTaken => {
                    let id = new.post.key.post;
                    debug!(shard = shard.name(), %id, "Post id is already used; trying another");
                    new.post.key.post = self.next_id(fleet, author, now_ms());
                }
            }
        }
        warn!(
            shard = shard.name(),
            attempts = IDS_TRIED_MAX,
            "Found no free post id; the post is not stored"
        );
        Err(WriteError::Unavailable)
    }

    fn check_length(&self, content: &str, min: usize) -> Result<(), WriteError> {
        let (len, max) = (content.len(), self.content_bytes_max);
        match (min..=max).contains(&len) {
            true => Ok(()),
            false => Err(WriteError::ContentLength { len, max }),
        }
    }

    /// Replaces the text of a post. `None` if there is no such post. If the commit is in doubt the
    /// edit is repeated: a post that has the text already, or another later text, stays as it is.
    pub(crate) async fn edit(
        &self,
        fleet: &Fleet,
        post: PostAddress,
        content: &str,
    ) -> Result<Option<Edited>, WriteError> {
        self.permit()?;
        self.check_length(content, 1)?;
        let (at, before) = (now_ms(), Arc::default());
        let run = |shard: Arc<Shard>, until, in_doubt| {
            let (content, before) = (content.to_owned(), Arc::clone(&before));
            let edit = Edit { post, content, at, in_doubt, before };
            async move {
                shard.writable()?;
                shard.edit_post(&edit, until).await
            }
        };
        let written = repeat(&fleet.owner(post.author), fleet.write_deadline(), run).await;
        let written = written.map_err(|error| match error {
            WriteError::Refused => WriteError::Content,
            other => other,
        })?;
        let freshness = freshness(fleet, &written);
        Ok(written.outcome.map(|post| Edited { post, freshness }))
    }

    /// Moves the read marker of a user to a post, unless it is at a newer one. Returns the marker.
    pub(crate) async fn mark_read(
        &self,
        fleet: &Fleet,
        user: UserId,
        post: PostKey,
    ) -> Result<ReadMarker, WriteError> {
        self.permit()?;
        let new = NewMarker { user, post, at: now_ms() };
        let run = |shard: Arc<Shard>, until, _| async move {
            shard.writable()?;
            shard.move_marker(new, until).await
        };
        let written = repeat(&fleet.owner(user), fleet.write_deadline(), run).await?;
        // Another program may delete the row in between.
        written.outcome.ok_or(WriteError::Unavailable)
    }

    /// Deletes a post. If the commit is in doubt the delete is repeated, which does no harm. The
    /// repeated statement waits for a first commit that is still in progress.
    pub(crate) async fn delete_post(
        &self,
        fleet: &Fleet,
        author: UserId,
        post: PostId,
    ) -> Result<Freshness, WriteError> {
        self.permit()?;
        let delete = |shard: Arc<Shard>, until, _| async move {
            shard.delete_post(author, post, until).await
        };
        let written = repeat(&fleet.owner(author), fleet.write_deadline(), delete).await?;
        Ok(freshness(fleet, &written))
    }

    /// Adds users to a list of `owner`, in one transaction.
    pub(crate) async fn list(
        &self,
        fleet: &Fleet,
        (list, owner): (UserList, UserId),
        users: &[UserId],
    ) -> Result<Followed, WriteError> {
        self.permit()?;
        let Some(rows) = rows_of(owner, users)? else { return Ok(Followed::default()) };
        let insert = |shard: Arc<Shard>, until, _| {
            let rows = Arc::clone(&rows);
            async move {
                shard.writable()?;
                shard.add_entries(list, &rows, FOLLOWEES_MAX, until).await
            }
        };
        let written = repeat(&fleet.owner(owner), fleet.write_deadline(), insert).await?;
        match written.outcome {
            FollowOutcome::Added(added) => {
                Ok(Followed { added, freshness: freshness(fleet, &written) })
            }
            FollowOutcome::TooLong => Err(WriteError::TooManyFollowees),
        }
    }

    /// Removes users from a list of `owner`, in one transaction.
    pub(crate) async fn unlist(
        &self,
        fleet: &Fleet,
        (list, owner): (UserList, UserId),
        users: &[UserId],
    ) -> Result<Unfollowed, WriteError> {
        self.permit()?;
        let Some(rows) = rows_of(owner, users)? else { return Ok(Unfollowed::default()) };
        let remove = |shard: Arc<Shard>, until, _| {
            let rows = Arc::clone(&rows);
            async move { shard.remove_entries(list, &rows, until).await }
        };
        let written = repeat(&fleet.owner(owner), fleet.write_deadline(), remove).await?;
        Ok(Unfollowed { removed: written.outcome, freshness: freshness(fleet, &written) })
    }

    fn draft(
        &self,
        fleet: &Fleet,
        author: UserId,
        (content, references): (&str, References),
        key: Option<IdempotencyKey>,
    ) -> NewPost {
        let now = now_ms();
        let key_of_post = PostKey {
            time: fleet.times().stored(now),
            post: self.next_id(fleet, author, now),
            author,
        };
        let digest = || digest(content, references);
        NewPost {
            post: Post { references, ..Post::new(key_of_post, content) },
            idempotency: key.map(|key| IdempotencyRecord {
                key,
                digest: digest(),
                created_ms: now,
            }),
        }
    }

    fn next_id(&self, fleet: &Fleet, author: UserId, now_ms: i64) -> PostId {
        self.ids.next(fleet.placement().shard_of(author), now_ms, rand::random())
    }
}

/// The digest of a post, by which a repeated request is known.
fn digest(content: &str, references: References) -> [u8; 32] {
    let mut digest = Sha256::new_with_prefix(content);
    if !references.is_empty() {
        digest.update(format!("\0{:?}", references.ids()));
    }
    digest.finalize().into()
}

/// The entries of a list, or `None` if there are none. Sorted, so that two calls lock rows in the
/// same order and cannot deadlock.
fn rows_of(owner: UserId, users: &[UserId]) -> Result<Option<Arc<[Follow]>>, WriteError> {
    if users.len() > FOLLOWS_MAX {
        return Err(WriteError::TooManyFollows);
    }
    let entry = |user: &UserId| Follow { follower: owner, followee: *user };
    let mut rows: Vec<Follow> = users.iter().map(entry).collect();
    rows.sort_unstable();
    rows.dedup();
    Ok((!rows.is_empty()).then(|| rows.into()))
}

/// The token of a write.
fn freshness<T>(fleet: &Fleet, written: &Written<T>) -> Freshness {
    let mut freshness = Freshness::default();
    if let Some((identity, at)) = written.at {
        freshness.add(identity, at);
        freshness.set_horizon(fleet.horizon().now());
    }
    freshness
}

/// Stores a post. If the commit is in doubt, finds out whether it took effect.
async fn store(
    shard: &Shard,
    new: &NewPost,
    deadline: Deadline,
    counts: &WriteCounts,
) -> Result<Written<StoreOutcome>, WriteError> {
    for _ in 0..TRIES_MAX {
        match shard.store_post(new, deadline.half()).await {
            Ok(stored) => return Ok(stored),
            Err(ShardError::Slow(reason)) => {
                debug!(
                    shard = shard.name(),
                    reason, "Post is not stored because of a lock or a time limit; retrying"
                );
            }
            Err(ShardError::InDoubt(reason)) => {
                warn!(
                    shard = shard.name(),
                    reason, "Commit of a post is in doubt; checking whether it took effect"
                );
                return resolve_in_doubt(shard, new, deadline, counts).await;
            }
            Err(ShardError::Refused(reason)) => {
                debug!(shard = shard.name(), reason, "Database rejects a post");
                return Err(WriteError::Content);
            }
            Err(error) => return Err(not_stored(shard, &error)),
        }
    }
    warn!(shard = shard.name(), attempts = TRIES_MAX, "Write failed");
    Err(WriteError::Unavailable)
}

/// Finds out whether a commit in doubt took effect. If it was undone, stores the post once more,
/// under the same id and key.
async fn resolve_in_doubt(
    shard: &Shard,
    new: &NewPost,
    deadline: Deadline,
    counts: &WriteCounts,
) -> Result<Written<StoreOutcome>, WriteError> {
    let find = async || match shard.find_stored(new, deadline).await {
        Ok(found) => Ok(found),
        Err(error) => {
            warn!(shard = shard.name(), %error, "Commit of a post stays in doubt; the write fails");
            counts.note_doubt(Doubt::Unknown);
            Err(WriteError::InDoubt)
        }
    };
    let found = find().await?;
    if let Written { outcome: Some(stored), at } = found {
        counts.note_doubt(Doubt::Committed);
        return Ok(Written { outcome: stored, at });
    }
    counts.note_doubt(Doubt::Undone);
    match shard.store_post(new, deadline).await {
        // The row may be this very post, if the first commit took effect after all.
        Ok(Written { outcome: StoreOutcome::IdTaken, .. }) => {
            Ok(find().await?.map(|found| found.unwrap_or(StoreOutcome::IdTaken)))
        }
        Ok(stored) => Ok(stored),
        Err(error) => Err(not_stored(shard, &error)),
    }
}

/// The result for a key that an earlier call used; an error if the content differs.
fn replay(
    new: NewPost,
    earlier: &EarlierPost,
    freshness: Freshness,
) -> Result<Published, WriteError> {
    if new.idempotency.is_none_or(|once| once.digest != earlier.digest) {
        return Err(WriteError::KeyReused);
    }
    let key = PostKey { time: earlier.time, post: earlier.post, author: new.post.key.author };
    Ok(Published { post: Post { key, ..new.post }, replayed: true, freshness })
}

/// Executes an idempotent write; repeats it if it is in doubt or if another write blocked it. The
/// last argument of `call` says whether an earlier attempt is in doubt.
async fn repeat<T, F>(
    shard: &Arc<Shard>,
    deadline: Deadline,
    call: impl Fn(Arc<Shard>, Deadline, bool) -> F,
) -> Result<T, WriteError>
where
    F: Future<Output = Result<T, ShardError>>,
{
    let mut in_doubt = false;
    let mut backoff = Backoff::steady(REPEAT_PAUSE);
    for _ in 0..TRIES_MAX {
        match call(Arc::clone(shard), deadline.half(), in_doubt).await {
            Ok(done) => return Ok(done),
            // Another write blocked this one, perhaps one that is repeated at the same moment.
            Err(ShardError::Slow(_)) => sleep(backoff.pause()).await,
            Err(ShardError::InDoubt(reason)) => {
                debug!(shard = shard.name(), reason, "Commit is in doubt; repeating the write");
                in_doubt = true;
            }
            Err(_) if in_doubt => break,
            Err(error) => return Err(not_stored(shard, &error)),
        }
    }
    warn!(shard = shard.name(), in_doubt, attempts = TRIES_MAX, "Write failed");
    Err(if in_doubt { WriteError::InDoubt } else { WriteError::Unavailable })
}

fn not_stored(shard: &Shard, error: &ShardError) -> WriteError {
    match error {
        ShardError::Refused(_) => {
            debug!(shard = shard.name(), %error, "Database rejects a write");
        }
        // The queue counts and logs these.
        ShardError::Overloaded(_) => {}
        _ => warn!(shard = shard.name(), %error, "Write failed"),
    }
    match error {
        ShardError::Refused(_) => WriteError::Refused,
        ShardError::Full(_) => WriteError::Full,
        ShardError::InDoubt(_) => WriteError::InDoubt,
        ShardError::Unavailable(_)
        | ShardError::Overloaded(_)
        | ShardError::Slow(_)
        | ShardError::Faulty(_)
        | ShardError::ReadOnly(_)
        | ShardError::Unreadable(_) => WriteError::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Tributary};

    /// Moves the generator's clock ahead, so that the test knows the next ids.
    #[tokio::test]
    async fn a_taken_id_is_replaced_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::from_folder(dir.path(), []).unwrap();
        let tributary = Tributary::open(&config).await.unwrap();
        let (author, soon) = (UserId(4), std::time::Duration::from_secs(20));
        let shard = tributary.0.fleet.placement().shard_of(author);
        let PostId(last) = tributary.0.publisher.ids.next(shard, now_ms() + 3_600_000, 0);
        let take = async |id: u64| {
            let key = PostKey { time: 1, post: PostId(id), author: UserId(8) };
            let theirs = Post::new(key, "theirs");
            tributary.0.fleet.load_posts(vec![theirs], soon).await.unwrap();
        };
        take(last + 1).await;
        take(last + 2).await;
        let posted = tributary.publish(author, "ours", None).await.unwrap();
        assert_eq!(posted.post.key.post, PostId(last + 3));
        for id in 0..IDS_TRIED_MAX as u64 {
            take(last + 4 + id).await;
        }
        let rejected = tributary.publish(author, "ours", None).await;
        assert_eq!(rejected, Err(WriteError::Unavailable));
        assert!(tributary.publish(author, "ours", None).await.is_ok());
        let theirs = tributary.post(UserId(8), PostId(last + 1)).await.unwrap();
        assert_eq!(theirs.post.unwrap().content, "theirs");
    }
}
