//! The arguments and the outcomes of storing a post.

use crate::changes::{LogIdentity, LogPosition};
use crate::model::{IdempotencyKey, Post, PostAddress, PostId, PostKey, UserId};

/// The outcome of a write, and a position of the log after its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written<T> {
    pub(crate) outcome: T,
    /// `None` if memory does not follow the log, or if the connection that committed leads to
    /// another server than the feed.
    pub(crate) at: Option<(LogIdentity, LogPosition)>,
}

impl<T> Written<T> {
    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> Written<U> {
        Written { outcome: map(self.outcome), at: self.at }
    }
}

/// The outcome of new follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FollowOutcome {
    /// The number of new follows; the others existed.
    Added(usize),
    /// The follow list would be too long. Nothing was stored.
    TooLong,
}

/// A post to store, with its generated id.
#[derive(Clone, Debug)]
pub(crate) struct NewPost {
    pub(crate) post: Post,
    /// Stored in the same transaction as the post. `None` if the client sent no idempotency key.
    pub(crate) idempotency: Option<IdempotencyRecord>,
}

/// A place down to which a user has read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewMarker {
    pub(crate) user: UserId,
    pub(crate) post: PostKey,
    /// The time of the change, in milliseconds since 1970 (UTC).
    pub(crate) at: i64,
}

/// Another text for a post.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) post: PostAddress,
    pub(crate) content: String,
    /// The time of the edit, in milliseconds since 1970 (UTC).
    pub(crate) at: i64,
    /// An earlier attempt may have stored the text already.
    pub(crate) in_doubt: bool,
}

impl Edit {
    /// The post after the edit. `None` if it stays as it is: it has the text already, or a later
    /// edit came after an attempt in doubt.
    pub(crate) fn apply(&self, post: &Post) -> Option<Post> {
        let is_outdated = self.in_doubt && post.edited_at.is_some_and(|at| at >= self.at);
        let (content, edited_at) = (self.content.clone(), Some(self.at));
        let applies = post.content != content && !is_outdated;
        applies.then(|| Post { content, edited_at, ..post.clone() })
    }
}

/// Lets a repeated request for the same post be recognized.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyRecord {
    pub(crate) key: IdempotencyKey,
    /// SHA-256 of the content. It differs if the client reuses the key for another text.
    pub(crate) digest: [u8; 32],
    pub(crate) created_ms: i64,
}

/// The outcome of storing a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreOutcome {
    /// The post is committed.
    Stored,
    /// The idempotency key was used before. Nothing was stored.
    KeyUsed(EarlierPost),
    /// Another post has this id. Nothing was stored.
    IdTaken,
}

/// The post that an idempotency key was used for before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EarlierPost {
    pub(crate) post: PostId,
    /// In the unit of the time column.
    pub(crate) time: i64,
    pub(crate) digest: [u8; 32],
}

impl NewPost {
    /// The outcome if the idempotency key was already used for `earlier`. If `earlier` is this
    /// very post, an earlier attempt of the same request has stored it.
    pub(crate) fn outcome_if_key_used(&self, earlier: EarlierPost) -> StoreOutcome {
        let same_text =
            self.idempotency.as_ref().is_some_and(|record| record.digest == earlier.digest);
        if earlier.post == self.post.key.post && same_text {
            StoreOutcome::Stored
        } else {
            StoreOutcome::KeyUsed(earlier)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_in_doubt_does_not_replace_a_later_one() {
        let key = PostKey { time: 1, post: PostId(71), author: UserId(7) };
        let post = PostAddress { author: key.author, post: key.post };
        let stored = |edited_at| Post { edited_at, ..Post::new(key, "stored") };
        for (edited_at, in_doubt, applies) in [
            (None, true, true),
            (Some(9), true, true),
            (Some(10), true, false),
            (Some(11), true, false),
            (Some(11), false, true),
        ] {
            let edit = Edit { post, content: "new".into(), at: 10, in_doubt };
            let edited = edit.apply(&stored(edited_at));
            assert_eq!(edited.is_some(), applies, "{edited_at:?}, {in_doubt}");
            assert!(edited.is_none_or(|post| post.edited_at == Some(10)));
        }
    }
}
