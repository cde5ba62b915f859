//! Counts of writes by operation and outcome, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::WriteError;
use crate::model::UserList;

/// The kinds of writes, as labels.
const OPERATIONS: [&str; 10] = [
    "post",
    "edit_post",
    "delete_post",
    "follow",
    "unfollow",
    "mute",
    "unmute",
    "block",
    "unblock",
    "mark_read",
];

/// The kind of a write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Post,
    EditPost,
    DeletePost,
    Follow,
    Unfollow,
    Mute,
    Unmute,
    Block,
    Unblock,
    MarkRead,
}

impl Operation {
    /// Adds users to a list.
    pub(crate) fn adds_to(list: UserList) -> Self {
        match list {
            UserList::Follows => Self::Follow,
            UserList::Mutes => Self::Mute,
            UserList::Blocks => Self::Block,
        }
    }

    /// Removes users from a list.
    pub(crate) fn removes_from(list: UserList) -> Self {
        match list {
            UserList::Follows => Self::Unfollow,
            UserList::Mutes => Self::Unmute,
            UserList::Blocks => Self::Unblock,
        }
    }
}

/// The outcomes of writes, as labels.
const OUTCOMES: [&str; 6] = ["stored", "replayed", "rejected", "unavailable", "full", "in_doubt"];

/// The outcomes of commits in doubt, as labels.
const DOUBTS: [&str; 3] = ["committed", "undone", "unknown"];

/// The outcome of a commit in doubt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doubt {
    /// It had taken effect.
    Committed,
    /// It had not, so the write was repeated.
    Undone,
    /// This could not be found out in time.
    Unknown,
}

/// The counts since the start.
#[derive(Debug, Default)]
pub(crate) struct WriteCounts {
    writes: [[AtomicU64; OUTCOMES.len()]; OPERATIONS.len()],
    doubts: [AtomicU64; DOUBTS.len()],
}

impl WriteCounts {
    /// Counts a write. `replayed` says whether the answer is that of an earlier write.
    pub(crate) fn note<T>(
        &self,
        operation: Operation,
        result: &Result<T, WriteError>,
        replayed: bool,
    ) {
        let outcome = match result {
            Ok(_) => usize::from(replayed),
            Err(
                WriteError::ReadOnly
                | WriteError::ContentLength { .. }
                | WriteError::Content
                | WriteError::Refused
                | WriteError::KeyReused
                | WriteError::TooManyFollows
                | WriteError::TooManyFollowees,
            ) => 2,
            Err(WriteError::Unavailable) => 3,
            Err(WriteError::Full) => 4,
            Err(WriteError::InDoubt) => 5,
        };
        self.writes[operation as usize][outcome].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_doubt(&self, doubt: Doubt) {
        self.doubts[doubt as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of writes of each operation and outcome.
    pub(crate) fn writes(&self) -> Vec<(&'static str, &'static str, u64)> {
        let rows = OPERATIONS.iter().zip(&self.writes);
        let cells = rows.flat_map(|(operation, counts)| {
            let counts = OUTCOMES.iter().zip(counts);
            counts.map(|(outcome, count)| (*operation, *outcome, count.load(Ordering::Relaxed)))
        });
        cells.collect()
    }

    /// The number of commits in doubt by their outcome.
    pub(crate) fn doubts(&self) -> Vec<(&'static str, u64)> {
        let counts = DOUBTS.iter().zip(&self.doubts);
        counts.map(|(doubt, count)| (*doubt, count.load(Ordering::Relaxed))).collect()
    }
}
