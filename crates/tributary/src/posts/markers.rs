//! Read markers: the place down to which a user has read, the same on all devices.
//!
//! A marker is the place of a post in the home timeline, and it stays there if the post is deleted.
//! It only moves towards newer posts, so a late request of another device does not move it back. It
//! never moves to a post that is dated more than 60 s ahead.
//! The table of markers is optional for shards on servers: see [`crate::graph::NotStored`].

use std::collections::BTreeSet;

use thiserror::Error;

pub use crate::model::ReadMarker;
use crate::model::ShardId;
use crate::publish::WriteError;
use crate::shard::NotStored;

/// The answer to a look-up of a marker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundMarker {
    /// The marker, if the user has one.
    pub marker: Option<ReadMarker>,
    /// The user's shard, if it did not answer: then it is not known whether there is a marker.
    pub missing: BTreeSet<ShardId>,
}

impl FoundMarker {
    pub(crate) fn of(answer: Result<Option<ReadMarker>, ShardId>) -> Self {
        match answer {
            Ok(marker) => Self { marker, missing: BTreeSet::new() },
            Err(shard) => Self { marker: None, missing: BTreeSet::from([shard]) },
        }
    }
}

/// Why a marker was not moved.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MarkError {
    /// The shards have no table of markers, or no index for reading a post by its address.
    #[error(transparent)]
    NotStored(#[from] NotStored),
    /// The shard of the post's author does not answer.
    #[error("the shard of the author is not available; try again")]
    Unavailable(ShardId),
    /// The post is dated more than 60 s ahead. The marker could not come back from there.
    #[error("the post is dated in the future, so no one has read down to it; mark another post")]
    FuturePost,
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}
