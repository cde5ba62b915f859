//! The write path: one transaction on the one shard that owns the user. All decisions of a write
//! stand here; how rows are stored stands in `shard`.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;
use tracing::{debug, warn};

use crate::clock::now_ms;
use crate::config::Write;
use crate::model::{Follow, ID_MAX, IdempotencyKey, Post, PostId, PostKey, UserId};
use crate::post_id::IdGenerator;
use crate::shard::{Access, Deadline, Earlier, Fleet, NewPost, Once, Shard, ShardError, Stored};

/// Follows of one call. They are one transaction, which should be short.
pub const FOLLOWS_MAX: usize = 1_000;
/// Ids that are tried for one post. A second one is needed when another writer minted the same; a
/// third one is a sign of something else.
const IDS_TRIED_MAX: usize = 8;
/// How often a write is begun, since another one may stand in its way (a deadlock).
const TRIES_MAX: usize = 3;

/// A post that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// As it stands in timelines, unless it was deleted since.
    pub post: Post,
    /// It was posted by an earlier call with the same key.
    pub replayed: bool,
}

/// Why a write was not done. Nothing was stored, but for [`WriteError::InDoubt`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WriteError {
    /// The fleet is not to be written.
    #[error("this fleet is read-only here: writing is not enabled")]
    ReadOnly,
    /// An id is larger than ids can be.
    #[error("an id must be from 0 to {ID_MAX}")]
    Id,
    /// The text is too short or too long.
    #[error("content must have 1 to {max} bytes in UTF-8, this has {len}")]
    ContentLength {
        /// Bytes of the text.
        len: usize,
        /// Bytes that it may have.
        max: usize,
    },
    /// The database cannot store the text unaltered, or refuses it by a rule of its own.
    #[error("the database cannot store this text as it is")]
    Content,
    /// The database refuses the follow by a rule of its own.
    #[error("the database refuses this by a rule of its own")]
    Refused,
    /// The key was used for a post with other content.
    #[error("this Idempotency-Key was used for a post with other content; use a new one")]
    KeyReused,
    /// Too many at once.
    #[error("at most {FOLLOWS_MAX} users can be followed in one request")]
    TooManyFollows,
    /// The user's shard does not take it now.
    #[error("the user's shard does not take it now; nothing was stored; try again")]
    Unavailable,
    /// The user's shard has no room.
    #[error("the user's shard has no room for more; nothing was stored")]
    Full,
    /// The shard was told to commit and nothing more was heard of it.
    #[error(
        "it is not known whether this took place; repeat it, a post under the same \
         Idempotency-Key"
    )]
    InDoubt,
}

/// Writes, within limits.
#[derive(Debug)]
pub(crate) struct Publisher {
    enabled: bool,
    content_bytes_max: usize,
    ids: IdGenerator,
}

impl Publisher {
    pub(crate) fn new(limits: &Write, access: Access, shards: usize) -> Self {
        Self {
            enabled: limits.enabled && access == Access::Own,
            content_bytes_max: limits.content_bytes_max,
            ids: IdGenerator::new(shards),
        }
    }

    /// Longest text of a post, in bytes.
    pub(crate) fn content_bytes_max(&self) -> usize {
        self.content_bytes_max
    }

    /// Whether these users may be written for at all.
    pub(crate) fn permit(&self, users: &[UserId]) -> Result<(), WriteError> {
        if !self.enabled {
            return Err(WriteError::ReadOnly);
        }
        if users.iter().any(|user| user.0 > ID_MAX) {
            return Err(WriteError::Id);
        }
        Ok(())
    }

    pub(crate) async fn publish(
        &self,
        fleet: &Fleet,
        author: UserId,
        content: &str,
        key: Option<IdempotencyKey>,
    ) -> Result<Published, WriteError> {
        self.permit(&[author])?;
        let (len, max) = (content.len(), self.content_bytes_max);
        if !(1..=max).contains(&len) {
            return Err(WriteError::ContentLength { len, max });
        }
        let deadline = fleet.write_deadline();
        let shard = fleet.owner(author);
        let mut new = self.draft(fleet, author, content, key);
        for _ in 0..IDS_TRIED_MAX {
            match store(&shard, &new, deadline).await? {
                Stored::Now => return Ok(Published { post: new.post, replayed: false }),
                Stored::Before(earlier) => return replay(new, &earlier),
                Stored::IdTaken => {
                    debug!(shard = shard.name(), post = %new.post.key.post, "this id is taken");
                    new.post.key.post = self.next_id(fleet, author, now_ms());
                }
            }
        }
        warn!(shard = shard.name(), "no free post id is found");
        Err(WriteError::Unavailable)
    }

    /// Deleting twice does no harm, nor does following or ending to: what is in doubt is done
    /// again. Its statement waits for a first commit that is still under way.
    pub(crate) async fn delete_post(
        &self,
        fleet: &Fleet,
        author: UserId,
        post: PostId,
    ) -> Result<(), WriteError> {
        self.permit(&[author])?;
        let delete =
            |shard: Arc<Shard>, until| async move { shard.delete_post(author, post, until).await };
        repeat(&fleet.owner(author), fleet.write_deadline(), delete).await.map(drop)
    }

    pub(crate) async fn follow_all(
        &self,
        fleet: &Fleet,
        follower: UserId,
        followees: &[UserId],
    ) -> Result<usize, WriteError> {
        self.permit(&[follower])?;
        self.permit(followees)?;
        if followees.len() > FOLLOWS_MAX {
            return Err(WriteError::TooManyFollows);
        }
        let mut rows: Vec<Follow> =
            followees.iter().map(|&followee| Follow { follower, followee }).collect();
        // In one order, so that two calls do not wait for each other in a ring.
        rows.sort_unstable();
        rows.dedup();
        if rows.is_empty() {
            return Ok(0);
        }
        let rows: Arc<[Follow]> = rows.into();
        let insert = |shard: Arc<Shard>, until| {
            let rows = Arc::clone(&rows);
            async move {
                shard.writable()?;
                shard.insert_follows(&rows, until).await
            }
        };
        repeat(&fleet.owner(follower), fleet.write_deadline(), insert).await
    }

    pub(crate) async fn unfollow(
        &self,
        fleet: &Fleet,
        follower: UserId,
        followee: UserId,
    ) -> Result<(), WriteError> {
        self.permit(&[follower, followee])?;
        let follow = Follow { follower, followee };
        let delete =
            |shard: Arc<Shard>, until| async move { shard.delete_follow(follow, until).await };
        repeat(&fleet.owner(follower), fleet.write_deadline(), delete).await.map(drop)
    }

    fn draft(
        &self,
        fleet: &Fleet,
        author: UserId,
        content: &str,
        key: Option<IdempotencyKey>,
    ) -> NewPost {
        let now = now_ms();
        let key_of_post = PostKey {
            time: fleet.times().stored(now),
            post: self.next_id(fleet, author, now),
            author,
        };
        let digest = || Sha256::digest(content).into();
        NewPost {
            post: Post { key: key_of_post, content: content.to_owned() },
            once: key.map(|key| Once { key, digest: digest(), created_ms: now }),
        }
    }

    fn next_id(&self, fleet: &Fleet, author: UserId, now_ms: i64) -> PostId {
        self.ids.next(fleet.placement().shard_of(author), now_ms, rand::random())
    }
}

/// Stores a post, and finds out whether it did.
async fn store(shard: &Shard, new: &NewPost, deadline: Deadline) -> Result<Stored, WriteError> {
    for _ in 0..TRIES_MAX {
        match shard.store_post(new, deadline.half()).await {
            Ok(stored) => return Ok(stored),
            Err(ShardError::Slow(reason)) => {
                debug!(shard = shard.name(), reason, "a post is tried again");
            }
            Err(ShardError::InDoubt(reason)) => {
                warn!(
                    shard = shard.name(),
                    reason, "a commit is in doubt; looking what became of it"
                );
                return resolve_in_doubt(shard, new, deadline).await;
            }
            Err(ShardError::Refused(reason)) => {
                debug!(shard = shard.name(), reason, "a post is refused");
                return Err(WriteError::Content);
            }
            Err(error) => return Err(not_stored(shard, &error)),
        }
    }
    Err(WriteError::Unavailable)
}

/// What became of a post whose commit is in doubt. If it was undone it is stored again, once, under
/// the same id and key.
async fn resolve_in_doubt(
    shard: &Shard,
    new: &NewPost,
    deadline: Deadline,
) -> Result<Stored, WriteError> {
    let find = async || match shard.find_stored(new, deadline).await {
        Ok(found) => Ok(found),
        Err(error) => {
            warn!(shard = shard.name(), %error, "a commit stays in doubt");
            Err(WriteError::InDoubt)
        }
    };
    if let Some(stored) = find().await? {
        return Ok(stored);
    }
    match shard.store_post(new, deadline).await {
        // By its own row, should the first commit have come through after all.
        Ok(Stored::IdTaken) => Ok(find().await?.unwrap_or(Stored::IdTaken)),
        Ok(stored) => Ok(stored),
        Err(error) => Err(not_stored(shard, &error)),
    }
}

/// The post that an earlier call with the same key made.
fn replay(new: NewPost, earlier: &Earlier) -> Result<Published, WriteError> {
    if new.once.is_none_or(|once| once.digest != earlier.digest) {
        return Err(WriteError::KeyReused);
    }
    let Post { key: PostKey { author, .. }, content } = new.post;
    let key = PostKey { time: earlier.time, post: earlier.post, author };
    Ok(Published { post: Post { key, content }, replayed: true })
}

/// Does what can be done twice, again if it is in doubt or if another write stood in its way.
async fn repeat<T, F>(
    shard: &Arc<Shard>,
    deadline: Deadline,
    call: impl Fn(Arc<Shard>, Deadline) -> F,
) -> Result<T, WriteError>
where
    F: Future<Output = Result<T, ShardError>>,
{
    let mut in_doubt = false;
    for _ in 0..TRIES_MAX {
        match call(Arc::clone(shard), deadline.half()).await {
            Ok(done) => return Ok(done),
            Err(ShardError::Slow(_)) => {}
            Err(ShardError::InDoubt(reason)) => {
                debug!(shard = shard.name(), reason, "a commit is in doubt; it is done again");
                in_doubt = true;
            }
            Err(_) if in_doubt => break,
            Err(error) => return Err(not_stored(shard, &error)),
        }
    }
    Err(if in_doubt { WriteError::InDoubt } else { WriteError::Unavailable })
}

fn not_stored(shard: &Shard, error: &ShardError) -> WriteError {
    if matches!(error, ShardError::Refused(_)) {
        debug!(shard = shard.name(), %error, "a write is refused");
    } else {
        warn!(shard = shard.name(), %error, "a write is not done");
    }
    match error {
        ShardError::Refused(_) => WriteError::Refused,
        ShardError::Full(_) => WriteError::Full,
        ShardError::InDoubt(_) => WriteError::InDoubt,
        ShardError::Unavailable(_)
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

    /// The mint's clock is put ahead, so that the next ids are known.
    #[tokio::test]
    async fn a_taken_id_is_replaced_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::from_folder(dir.path(), []).unwrap();
        let tributary = Tributary::open(&config).await.unwrap();
        let (author, soon) = (UserId(4), || Deadline::after(std::time::Duration::from_secs(20)));
        let shard = tributary.fleet().placement().shard_of(author);
        let PostId(last) = tributary.publisher().ids.next(shard, now_ms() + 3_600_000, 0);
        let take = async |id: u64| {
            let key = PostKey { time: 1, post: PostId(id), author: UserId(8) };
            let theirs = Post { key, content: "theirs".into() };
            tributary.fleet().load_posts(vec![theirs], soon()).await.unwrap();
        };
        take(last + 1).await;
        take(last + 2).await;
        let posted = tributary.publish(author, "ours", None).await.unwrap();
        assert_eq!(posted.post.key.post, PostId(last + 3));
        for id in 0..IDS_TRIED_MAX as u64 {
            take(last + 4 + id).await;
        }
        let refused = tributary.publish(author, "ours", None).await;
        assert_eq!(refused, Err(WriteError::Unavailable));
        assert!(tributary.publish(author, "ours", None).await.is_ok());
        let theirs = tributary.post(UserId(8), PostId(last + 1)).await.unwrap().unwrap();
        assert_eq!(theirs.content, "theirs");
    }
}
