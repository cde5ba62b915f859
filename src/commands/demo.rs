//! `tributary demo`: generates a social graph once, then serves it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::ProgressBar;

use super::serve::{Listen, serve};
use super::{DEMO_FOLDER, DataSource, Outcome, progress, say};
use crate::Tributary;
use crate::clock::now_ms;
use crate::demo::{NetworkSize, follows, posts};
use crate::model::{Follow, Post, UserId};
use crate::placement::Placement;
use crate::shard::{Access, Folder, OpenError, insert_follows, insert_posts, lock, open_writer};

const SIZE: NetworkSize = NetworkSize { users: 10_000, posts: 300_000, shards: 4 };
/// A file that marks a folder as complete data of the demo.
const MARKER_FILE: &str = "demo";
/// Rows per transaction while the demo loads its data.
const ROWS_PER_COMMIT: usize = 20_000;

#[derive(Args, Debug)]
pub(super) struct Demo {
    /// Folder for the data
    #[arg(long, value_name = "DIR", default_value = DEMO_FOLDER)]
    data: PathBuf,
    #[command(flatten)]
    listen: Listen,
}

impl Demo {
    pub(super) async fn run(self) -> Result<Outcome> {
        let source = DataSource { config: None, data: Some(self.data.clone()) };
        let config = source.load(DEMO_FOLDER)?;
        let bound = self.listen.bind(&config).await?;
        if !self.data.join(MARKER_FILE).exists() {
            if fs::read_dir(&self.data).is_ok_and(|mut files| files.next().is_some()) {
                let text = format!(
                    "{} holds data that is not the demo's; name another folder with --data",
                    self.data.display()
                );
                return Err(OpenError::Prerequisite(text).into());
            }
            let data = self.data.clone();
            tokio::task::spawn_blocking(move || make(&data, SIZE)).await??;
        }
        let tributary = Tributary::open(&config).await?;
        let address = bound.address();
        let folder = fs::canonicalize(&self.data).unwrap_or(self.data);
        say(format_args!(
            "Tributary serves the home timelines of {} users on http://{address}\n\n  \
             curl 'http://{address}/v1/users/{}/feed?limit=5'\n\n\
             The data is in {}; delete the folder to start again with new data. Ctrl-C stops the \
             server.",
            SIZE.users,
            reader(&tributary).await,
            folder.display()
        ));
        serve(bound, tributary).await;
        Ok(Outcome::Done)
    }
}

/// The first user with more followees than one page of the follow list, for the printed example.
async fn reader(tributary: &Tributary) -> UserId {
    let limit = crate::timeline::Limit::DEFAULT;
    for id in 1..=u64::from(SIZE.users) {
        let page = tributary.following(UserId(id), UserId(0), limit).await;
        if page.next.is_some() {
            return UserId(id);
        }
    }
    UserId(1)
}

/// Builds the data in the folder `DATA.making` and renames it to `DATA` when it is complete. A
/// demo that is interrupted therefore never leaves an incomplete `DATA`.
fn make(data: &Path, size: NetworkSize) -> Result<()> {
    // Rebuilding the path from its components removes a trailing slash.
    let mut making = data.components().collect::<PathBuf>().into_os_string();
    making.push(".making");
    let making = PathBuf::from(making);
    if making.exists() {
        // Left by an interrupted demo. If a running demo still uses it, `lock` fails.
        let _lock = lock(&making)?;
        fs::remove_dir_all(&making).with_context(|| making.display().to_string())?;
    }
    let folder = Folder::open(&making, size.shards, Access::Own)?;
    let bar = progress(0, "rows", "generating a social graph");
    let graph = follows(size);
    let posts = posts(size, &graph, now_ms());
    bar.set_length((graph.len() + posts.len()) as u64);

    let placement = Placement::modulo(size.shards.into())?;
    let mut follows_of = placement.group(graph, |follow| follow.follower);
    let mut posts_of = placement.group(posts, |post| post.key.author);
    thread::scope(|scope| {
        let files = folder.shard_files().into_iter().zip(0u16..);
        let threads: Vec<_> = files
            .map(|((_, path), index)| {
                let shard = crate::model::ShardId(index);
                let follows = follows_of.remove(&shard).unwrap_or_default();
                let posts = posts_of.remove(&shard).unwrap_or_default();
                let bar = &bar;
                scope.spawn(move || fill(&path, &follows, &posts, bar))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(filled) => filled,
            Err(_) => anyhow::bail!("a thread failed while the demo generated its data"),
        })
    })?;
    bar.finish_and_clear();
    fs::write(making.join(MARKER_FILE), "made by tributary demo\n")?;
    if cfg!(windows) {
        // Windows cannot rename a folder with an open file, so the lock is released before.
        drop(folder);
    }
    fs::rename(&making, data).map_err(|error| {
        let text =
            format!("cannot create {}: {error}; name another folder with --data", data.display());
        OpenError::Prerequisite(text)
    })?;
    Ok(())
}

/// Loads one shard in primary-key order, and syncs it to disk.
fn fill(path: &Path, follows: &[Follow], posts: &[Post], bar: &ProgressBar) -> Result<()> {
    let name = || path.display().to_string();
    let mut connection = open_writer(path).with_context(name)?;
    // Safe without syncs: after a crash the next demo generates the data again.
    connection.pragma_update(None, "synchronous", "off")?;
    for rows in follows.chunks(ROWS_PER_COMMIT) {
        insert_follows(&mut connection, rows)?;
        bar.inc(rows.len() as u64);
    }
    for rows in posts.chunks(ROWS_PER_COMMIT) {
        insert_posts(&mut connection, rows)?;
        bar.inc(rows.len() as u64);
    }
    // Closing the last connection checkpoints SQLite's write-ahead log into the file.
    connection.close().map_err(|(_, error)| error).with_context(name)?;
    // Some systems can sync a file only through a handle that is open for writing.
    File::options().write(true).open(path).and_then(|file| file.sync_all()).with_context(name)
}
