//! Measures how fast a recorded log is decoded and applied to memory, on one core, without a
//! network.

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use tributary::internal::{Change, Commit, FeedEvent, Follow, LogPosition, RecordedLog};
use tributary::{PostKey, ShardId};

use super::filled::FilledMemory;
use super::report::LogTimings;

/// Changes in one of the transactions that undo the log.
const UNDO_BATCH: usize = 1_000;
/// The median of at least this many passes counts, because other load may disturb some.
const PASSES_MIN: u32 = 5;
/// The most passes, however short they are.
const PASSES_MAX: u32 = 1_000;

/// The content of a log that [`undo`] can revert.
#[derive(Default)]
struct LogContents {
    transactions: usize,
    posts: Vec<PostKey>,
    follows: Vec<Follow>,
}

/// Decodes the log, and decodes and applies it, in passes for about `seconds`. Each pass is undone
/// before the next.
///
/// # Errors
/// If the log cannot be decoded, or if it has no transaction in `database`. If it holds other
/// changes than new posts and follows. If a post is not in memory after a pass.
pub(super) fn measure(
    filled: &mut FilledMemory<'_>,
    bytes: &[u8],
    database: &str,
    seconds: f64,
) -> Result<LogTimings> {
    let (done, events) = read(bytes, database)?;
    if done.transactions == 0 {
        bail!("the log has no transaction in the database {database}");
    }
    let before = changes(filled);
    let (mut decode, mut both) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    for pass in 0..PASSES_MAX {
        if pass >= PASSES_MIN && begun.elapsed().as_secs_f64() > seconds {
            break;
        }
        decode.push(pass_over(bytes, database, 2 * pass + 2, drop)?);
        both.push(pass_over(bytes, database, 2 * pass + 2, |batch| filled.memory.take(batch))?);
        check(filled, &done)?;
        undo(filled, &done, 2 * pass + 3);
    }
    let changes = (changes(filled) - before) as f64 / both.len() as f64 / 2.0;
    let rate = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        done.transactions as f64 / seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Ok(LogTimings {
        transactions: done.transactions,
        events,
        bytes: bytes.len(),
        passes: both.len(),
        changes_per_transaction: changes / done.transactions as f64,
        decoded_per_second: rate(decode),
        applied_per_second: rate(both),
    })
}

/// The number of changes applied to cached values so far.
fn changes(filled: &FilledMemory<'_>) -> u64 {
    filled.memory.stats().logs.iter().map(|log| log.changes).sum()
}

/// Passes over the log once and returns the seconds it took.
fn pass_over(
    bytes: &[u8],
    database: &str,
    file: u32,
    mut take: impl FnMut(Vec<FeedEvent>),
) -> Result<f64> {
    let begun = Instant::now();
    let mut log = RecordedLog::new(bytes, database, file).map_err(|why| anyhow!(why))?;
    loop {
        let batch = log.batch().map_err(|why| anyhow!(why))?;
        if batch.is_empty() {
            return Ok(begun.elapsed().as_secs_f64());
        }
        take(batch);
    }
}

/// Reads the content of the log and the number of its events.
fn read(bytes: &[u8], database: &str) -> Result<(LogContents, u64)> {
    let mut log = RecordedLog::new(bytes, database, 1).map_err(|why| anyhow!(why))?;
    let mut done = LogContents::default();
    loop {
        let batch = log.batch().map_err(|why| anyhow!(why))?;
        if batch.is_empty() {
            return Ok((done, log.events()));
        }
        for event in batch {
            let FeedEvent::Commit(commit) = event else { continue };
            done.transactions += usize::from(!commit.changes.is_empty());
            for (_, change) in commit.changes {
                match change {
                    Change::Post(post) | Change::PostEdited(post) => done.posts.push(post.key),
                    Change::Follow(follow) => done.follows.push(follow),
                    _ => bail!("the log holds other changes than new posts and follows"),
                }
            }
        }
    }
}

/// Checks that memory holds every post of the log that is not below its author's floor.
fn check(filled: &FilledMemory<'_>, done: &LogContents) -> Result<()> {
    for key in &done.posts {
        if filled.memory.holds(key) == Some(false) {
            bail!("post {} of user {} is not in memory", key.post, key.author);
        }
    }
    Ok(())
}

/// Reverts all changes of the log, so that the next pass does the same work.
fn undo(filled: &mut FilledMemory<'_>, done: &LogContents, file: u32) {
    let posts = done.posts.iter().map(|key| Change::PostGone(*key));
    let changes: Vec<Change> =
        posts.chain(done.follows.iter().map(|follow| Change::Unfollow(*follow))).collect();
    for (number, changes) in (4..).zip(changes.chunks(UNDO_BATCH)) {
        let changes = changes.iter().map(|change| (ShardId::new(0), change.clone())).collect();
        let at = LogPosition::in_file(file, number);
        filled.memory.take(vec![FeedEvent::Commit(Commit { at, changes })]);
    }
}
