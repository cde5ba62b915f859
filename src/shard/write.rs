//! What a shard is asked to store, and what it answers.

use crate::model::{IdempotencyKey, Post, PostId};

/// A post that is to be stored, with an id that was minted for it.
#[derive(Clone, Debug)]
pub(crate) struct NewPost {
    pub(crate) post: Post,
    /// Remembered in the same transaction.
    pub(crate) idempotency: Option<IdempotencyRecord>,
}

/// What makes a second wish for the same post known.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyRecord {
    pub(crate) key: IdempotencyKey,
    /// SHA-256 of the content, to tell the same wish from another under the same key.
    pub(crate) digest: [u8; 32],
    pub(crate) created_ms: i64,
}

/// How storing a post went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreOutcome {
    /// It is committed.
    Stored,
    /// The key was used before; nothing was stored.
    KeyUsed(EarlierPost),
    /// Another post has its id; nothing was stored.
    IdTaken,
}

/// The post that a key was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EarlierPost {
    pub(crate) post: PostId,
    /// In the column's unit.
    pub(crate) time: i64,
    pub(crate) digest: [u8; 32],
}

impl NewPost {
    /// What it means that its key was used for `earlier`: perhaps by this very wish.
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
