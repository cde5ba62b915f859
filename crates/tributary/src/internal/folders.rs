//! Whole folders of SQLite shards: back-up and restore, and the demo's data, filled at once.

use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use crate::OpenError;
use crate::model::{Follow, Post, ShardId, UserId, UserNames};
use crate::placement::Placement;
use crate::shard::{Access, Folder, OpenedFile, insert_follows, insert_names, insert_posts, lock};
pub use crate::shard::{CopiedShard, back_up, restore};

/// Rows of one transaction. Large ones are faster, and nothing else writes to the folder.
const ROWS_PER_COMMIT: usize = 20_000;

/// The rows of a new folder.
#[derive(Debug)]
pub struct FolderRows {
    /// The number of shards; `user_id % shards` owns a user.
    pub shards: u16,
    /// All follows, each once.
    pub follows: Vec<Follow>,
    /// All posts, each id once per shard.
    pub posts: Vec<Post>,
    /// The handles and display names of users.
    pub names: Vec<(UserId, UserNames)>,
}

impl FolderRows {
    /// Builds a folder of shards beside `dir` and renames it to `dir` once it is complete. An
    /// interrupted build therefore leaves nothing half-made at `dir`. The file `mark` is added to
    /// it. `rows` generates the rows once the folder is locked. `added` is called with the number
    /// of rows of each transaction. Blocks until all rows are on disk.
    ///
    /// # Errors
    /// The folder cannot be made, or another process is making it.
    pub fn build(
        dir: &Path,
        mark: &str,
        rows: impl FnOnce() -> Self,
        added: impl Fn(usize) + Sync,
    ) -> Result<(), OpenError> {
        // Built from its components, because a path may end with a slash.
        let mut building = dir.components().collect::<PathBuf>().into_os_string();
        building.push(".making");
        let building = PathBuf::from(building);
        if building.exists() {
            // An interrupted build left it, unless another process holds its lock now.
            let _lock = lock(&building)?;
            fs::remove_dir_all(&building).map_err(|error| failed(&building, error))?;
        }
        let Self { shards, follows, posts, names } = rows();
        let folder = Folder::open(&building, shards, Access::Own)?;
        let placement = Placement::modulo(shards.into()).map_err(|error| failed(dir, error))?;
        let mut follows_of = placement.group(follows, |follow| follow.follower);
        let mut posts_of = placement.group(posts, |post| post.key.author);
        let mut names_of = placement.group(names, |(user, _)| *user);
        thread::scope(|scope| {
            let threads: Vec<_> = folder
                .shard_files()
                .into_iter()
                .map(|(number, _, path)| {
                    let shard = ShardId(number);
                    let rows = Self {
                        shards,
                        follows: follows_of.remove(&shard).unwrap_or_default(),
                        posts: posts_of.remove(&shard).unwrap_or_default(),
                        names: names_of.remove(&shard).unwrap_or_default(),
                    };
                    let (added, folder) = (&added, &folder);
                    scope.spawn(move || fill(folder.open_shard(number)?, &path, &rows, added))
                })
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(filled) => filled,
                Err(_) => Err(failed(dir, "a thread failed while its rows were stored")),
            })
        })?;
        fs::write(building.join(mark), "made by tributary demo\n")
            .map_err(|error| failed(&building, error))?;
        if cfg!(windows) {
            // Windows cannot rename a folder with an open file in it; elsewhere the lock is kept.
            drop(folder);
        }
        fs::rename(&building, dir).map_err(|error| {
            let text = format!(
                "cannot create {}: {error}; name another folder with --data",
                dir.display()
            );
            OpenError::Prerequisite(text)
        })
    }
}

/// Fills one shard in primary-key order, and writes all of it to disk.
fn fill(
    opened: OpenedFile,
    path: &Path,
    FolderRows { follows, posts, names, .. }: &FolderRows,
    added: &impl Fn(usize),
) -> Result<(), OpenError> {
    let OpenedFile { mut connection, file } = opened;
    let stored = (|| {
        // An interrupted build is rebuilt from nothing, so no transaction has to be durable.
        connection.pragma_update(None, "synchronous", "off")?;
        for rows in follows.chunks(ROWS_PER_COMMIT) {
            insert_follows(&mut connection, rows)?;
            added(rows.len());
        }
        for rows in posts.chunks(ROWS_PER_COMMIT) {
            insert_posts(&mut connection, rows)?;
            added(rows.len());
        }
        for rows in names.chunks(ROWS_PER_COMMIT) {
            insert_names(&mut connection, rows)?;
            added(rows.len());
        }
        Ok::<(), rusqlite::Error>(())
    })();
    stored.map_err(|error| failed(path, error))?;
    // Closing the last connection moves the write-ahead log into the file.
    connection.close().map_err(|(_, error)| failed(path, error))?;
    drop(file);
    // Opened for writing, because some systems do not flush through a read-only handle.
    let synced = File::options().write(true).open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: impl Display) -> OpenError {
    OpenError::Prerequisite(format!("cannot create {}: {error}", path.display()))
}
