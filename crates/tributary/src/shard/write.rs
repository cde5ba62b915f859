//! The arguments and the outcomes of storing a post.

use std::sync::{Arc, Mutex, PoisonError};

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
    /// The post before that attempt. All attempts of an edit share it.
    pub(crate) before: Arc<Mutex<Option<Post>>>,
}

impl Edit {
    /// The post after the edit. `None` if it stays as it is: it has the text already, or another
    /// writer has changed it since an attempt in doubt. No clocks are compared, because other nodes
    /// and programs have their own.
    pub(crate) fn apply(&self, post: &Post) -> Option<Post> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.in_doubt {
            *before = Some(post.clone());
        }
        let text = |post: &Post| (post.content.clone(), post.edited_at);
        let is_outdated = before.as_ref().is_some_and(|before| text(before) != text(post));
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
        let stored = |text, edited_at| Post { edited_at, ..Post::new(key, text) };
        let edit = |in_doubt, before: &Edit| Edit { in_doubt, ..before.clone() };
        let before = Arc::default();
        let first = Edit { post, content: "new".into(), at: 10, in_doubt: false, before };
        // Each attempt that is not in doubt takes the post as it finds it.
        for text in ["old", "older"] {
            assert!(first.apply(&stored(text, Some(5))).is_some());
        }
        let again = edit(true, &first);
        for (found, applies) in [
            (stored("older", Some(5)), true),
            (stored("new", Some(10)), false),
            // By a node whose clock lags, and by a program that stores no time.
            (stored("later", Some(3)), false),
            (stored("later", None), false),
            (stored("later", Some(5)), false),
            (stored("older", Some(11)), false),
        ] {
            let edited = again.apply(&found);
            assert_eq!(edited.is_some(), applies, "{found:?}");
            assert!(edited.is_none_or(|post| post.edited_at == Some(10)));
        }
    }
}
