//! What a shard is asked to store, and what it answers.

use crate::model::{IdempotencyKey, Post, PostId};

/// A post that is to be stored, with an id that was minted for it.
#[derive(Clone, Debug)]
pub(crate) struct NewPost {
    pub(crate) post: Post,
    /// Remembered in the same transaction.
    pub(crate) once: Option<Once>,
}

/// What makes a second wish for the same post known.
#[derive(Clone, Debug)]
pub(crate) struct Once {
    pub(crate) key: IdempotencyKey,
    /// SHA-256 of the content, to tell the same wish from another under the same key.
    pub(crate) digest: [u8; 32],
    pub(crate) created_ms: i64,
}

/// How storing a post went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is committed.
    Now,
    /// The key was used before; nothing was stored.
    Before(Earlier),
    /// Another post has its id; nothing was stored.
    IdTaken,
}

/// The post that a key was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub(crate) post: PostId,
    /// In the column's unit.
    pub(crate) time: i64,
    pub(crate) digest: [u8; 32],
}

impl NewPost {
    /// What it means that its key was used for `earlier`: perhaps by this very wish.
    pub(crate) fn met(&self, earlier: Earlier) -> Stored {
        let same_text = self.once.as_ref().is_some_and(|once| once.digest == earlier.digest);
        if earlier.post == self.post.key.post && same_text {
            Stored::Now
        } else {
            Stored::Before(earlier)
        }
    }
}
