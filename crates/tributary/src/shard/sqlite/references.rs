//! Counts replies and reposts in a SQLite file.

use rusqlite::params;

use super::{SqliteShard, signed, unsigned};
use crate::model::PostAddress;
use crate::shard::{Deadline, ReferenceCounts, ShardError};

/// The partial index on the columns of the reference has its rows only.
const COUNTS: [&str; 2] = [
    "SELECT count(*) FROM (SELECT 1 FROM tweets
     WHERE reply_to_user_id = ? AND reply_to_tweet_id = ? LIMIT ?)",
    "SELECT count(*) FROM (SELECT 1 FROM tweets
     WHERE repost_of_user_id = ? AND repost_of_tweet_id = ? LIMIT ?)",
];

impl SqliteShard {
    pub(in crate::shard) async fn count_references(
        &self,
        posts: &[PostAddress],
        max: usize,
        until: Deadline,
    ) -> Result<Vec<ReferenceCounts>, ShardError> {
        let (posts, max) = (posts.to_vec(), i64::try_from(max).unwrap_or(i64::MAX));
        self.read(until, move |connection| {
            let [replies, reposts] = COUNTS;
            let mut replies = connection.prepare_cached(replies)?;
            let mut reposts = connection.prepare_cached(reposts)?;
            let mut counts = Vec::with_capacity(posts.len());
            for PostAddress { author, post } in posts {
                let post = params![signed(author.0), signed(post.0), max];
                let of_replies = replies.query_row(post, |row| unsigned(row, 0))?;
                let of_reposts = reposts.query_row(post, |row| unsigned(row, 0))?;
                let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
                counts.push([count(of_replies), count(of_reposts)]);
            }
            Ok(counts)
        })
        .await
    }
}
