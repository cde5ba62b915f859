//! Copies a folder of shards while another process may own it: back-up and restore.
//!
//! All snapshots begin before the first file is copied, so the copies differ by milliseconds. A
//! copy has no log identity: its owner makes a new one when it opens the file. So a freshness token
//! of the original, or of an earlier copy, never names a position of this copy's log.

use std::ffi::c_int;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::file::{Header, Identity};
use super::folder::{LOCK_FILE, lock, shard_file, unusable, write_folder_file};
use super::{Folder, failed, open_reader};
use crate::shard::{Access, OpenError, ShardError};

/// Pages that are copied at a time. This bounds the memory of a copy.
const PAGES_PER_STEP: c_int = 1_024;
/// Files beside the shards that belong to a folder: the keys of its cursors, and the mark of the
/// demo's data.
const OTHER_FILES: [&str; 2] = ["cursor-keys", "demo"];

/// A shard that was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedShard {
    /// The configured name.
    pub name: String,
    /// The size of the copy.
    pub bytes: u64,
    /// The number of rows of each table, by name.
    pub rows: Vec<(String, u64)>,
}

/// A shard at one moment.
struct Snapshot {
    name: String,
    path: PathBuf,
    identity: Identity,
    /// In a transaction that reads.
    connection: Connection,
}

/// Copies the folder `from` to `to`, which must not exist. It has another name until it is
/// complete. Blocks.
///
/// # Errors
/// [`ShardError::Faulty`] if an operator must act first. Nothing is left at `to` then.
pub fn back_up(from: &Path, to: &Path) -> Result<Vec<CopiedShard>, ShardError> {
    if to.symlink_metadata().is_ok() {
        return Err(refused(to, &"it exists already; name a new folder for the back-up"));
    }
    // Built from its components, because a path may end with a slash.
    let mut making = to.components().collect::<PathBuf>().into_os_string();
    making.push(".making");
    let making = PathBuf::from(making);
    if making.symlink_metadata().is_ok() {
        if !making.join(LOCK_FILE).exists() {
            return Err(refused(&making, &"it is not an interrupted back-up; move it away"));
        }
        // An interrupted back-up left it, unless another process holds its lock now.
        let _lock = lock(&making).map_err(prerequisite)?;
        fs::remove_dir_all(&making).map_err(|error| io_failed(&making, &error))?;
    }
    let folder = Folder::open(from, 0, Access::Read).map_err(prerequisite)?;
    let lock = lock(&making).map_err(prerequisite)?;
    let copied = copy_all(&folder, from, &making).and_then(|copied| {
        fs::remove_file(making.join(LOCK_FILE)).map_err(|error| io_failed(&making, &error))?;
        fs::rename(&making, to).map_err(|error| io_failed(to, &error))?;
        sync_dir(to.parent().unwrap_or(Path::new(""))).map_err(|error| io_failed(to, &error))?;
        Ok(copied)
    });
    if copied.is_err() {
        // The error that is returned is the cause; a folder that stays is removed by the next run.
        drop(fs::remove_dir_all(&making));
    }
    drop(lock);
    copied
}

/// Copies a back-up to the folder `to`, which must not exist or be empty, and which no process may
/// own. Blocks.
///
/// # Errors
/// As [`back_up`].
pub fn restore(backup: &Path, to: &Path) -> Result<Vec<CopiedShard>, ShardError> {
    let folder = Folder::open(backup, 0, Access::Read).map_err(prerequisite)?;
    let existed = to.exists();
    // A folder of something else gets no lock.
    if existed && !to.join(LOCK_FILE).exists() {
        must_be_empty(to)?;
    }
    let _lock = lock(to).map_err(prerequisite)?;
    must_be_empty(to)?;
    let copied = copy_all(&folder, backup, to);
    if copied.is_err() {
        drop(remove_copies(to, existed));
    }
    copied
}

/// Copies all files. The file of the folder is the last one, so that it implies complete shards.
fn copy_all(folder: &Folder, from: &Path, to: &Path) -> Result<Vec<CopiedShard>, ShardError> {
    let snapshots = Snapshot::of_all(folder)?;
    let permissions = fs::metadata(from).and_then(|found| set_permissions(to, &found));
    permissions.map_err(|error| io_failed(to, &error))?;
    let mut copied = Vec::new();
    for snapshot in &snapshots {
        copied.push(snapshot.copy(&shard_file(to, snapshot.identity.number))?);
    }
    for name in OTHER_FILES {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            let written = fs::copy(&from, &to).and_then(|_| sync(&to));
            written.map_err(|error| io_failed(&to, &error))?;
        }
    }
    let (shards, id) = folder.identity().ok_or_else(|| {
        refused(
            from,
            &"an earlier version made it; start this version with it once, which adds an id",
        )
    })?;
    write_folder_file(to, shards, id).map_err(prerequisite)?;
    sync_dir(to).map_err(|error| io_failed(to, &error))?;
    Ok(copied)
}

impl Snapshot {
    fn of_all(folder: &Folder) -> Result<Vec<Self>, ShardError> {
        let (shards, id) = folder.identity().unwrap_or_default();
        let open = |(number, name, path): (u16, String, PathBuf)| -> Result<Self, ShardError> {
            let wrong = |error: rusqlite::Error| prerequisite(unusable(&path, &error));
            let connection = open_reader(&path).map_err(wrong)?;
            folder.check_reader(number, &connection).map_err(prerequisite)?;
            let identity = Identity { folder: id, shards, number };
            Ok(Self { name, path, identity, connection })
        };
        let snapshots: Vec<Self> =
            folder.shard_files().into_iter().map(open).collect::<Result<_, _>>()?;
        for Self { connection, path, .. } in &snapshots {
            let begun = connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema");
            begun.map_err(|error| prerequisite(unusable(path, &error)))?;
        }
        Ok(snapshots)
    }

    /// Copies the shard to a new file, and verifies the copy.
    fn copy(&self, to: &Path) -> Result<CopiedShard, ShardError> {
        // Made with its permissions, so that no other user can read the rows at any time.
        let made =
            File::create_new(to).and_then(|_| set_permissions(to, &fs::metadata(&self.path)?));
        made.map_err(|error| io_failed(to, &error))?;
        let copied = self.copy_pages(to).and_then(|()| row_counts(&self.connection));
        let rows = copied.map_err(|error| annotated(&self.path, failed(error)))?;
        sync(to).map_err(|error| io_failed(to, &error))?;
        self.verify(to, &rows)?;
        let bytes = fs::metadata(to).map_err(|error| io_failed(to, &error))?.len();
        Ok(CopiedShard { name: self.name.clone(), bytes, rows })
    }

    fn copy_pages(&self, to: &Path) -> rusqlite::Result<()> {
        let mut copy = Connection::open(to)?;
        let pages = Backup::new(&self.connection, &mut copy)?;
        // Only this process uses the snapshot and the new file, so no step has to wait.
        while pages.step(PAGES_PER_STEP)? == StepResult::More {}
        drop(pages);
        copy.execute("DELETE FROM tributary_history", [])?;
        // One file without a write-ahead log can be copied, and read from a read-only disk.
        copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
        copy.close().map_err(|(_, error)| error)
    }

    /// Reads the whole copy: its header, all pages and indexes, and the number of rows.
    fn verify(&self, to: &Path, rows: &[(String, u64)]) -> Result<(), ShardError> {
        let wrong = |text: &str| {
            let from = self.path.display();
            ShardError::Faulty(format!("the copy of {from} is not usable: {text}"))
        };
        let header = File::open(to).map_err(|error| error.to_string());
        let (header, _) = header.and_then(|file| Header::of(&file)).map_err(|text| wrong(&text))?;
        if let Some(text) = header.identity.differs_from(self.identity) {
            return Err(wrong(&text));
        }
        let checked = (|| {
            let copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let check = "PRAGMA integrity_check(1)";
            let check: String = copy.query_row(check, [], |row| row.get(0))?;
            Ok((check, row_counts(&copy)?))
        })();
        let (check, found) = checked.map_err(|error: rusqlite::Error| wrong(&error.to_string()))?;
        if check != "ok" {
            return Err(wrong(&format!("{check}; restore this shard from an earlier back-up")));
        }
        match rows.iter().zip(&found).find(|(rows, found)| rows != found) {
            Some(((table, rows), (_, found))) => {
                Err(wrong(&format!("table {table} has {found} rows, not {rows}")))
            }
            None if rows.len() != found.len() => Err(wrong("it has other tables")),
            None => Ok(()),
        }
    }
}

/// The number of rows of each table, by name. The identity of the log is not copied.
fn row_counts(connection: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    let mut tables = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
           AND name <> 'tributary_history' ORDER BY name",
    )?;
    let tables: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let count = |table: String| {
        let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
        let rows: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
        Ok((table, rows.unsigned_abs()))
    };
    tables.into_iter().map(count).collect()
}

/// Refuses a folder with other files than the lock.
fn must_be_empty(dir: &Path) -> Result<(), ShardError> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|error| io_failed(dir, &error))?;
    match entries.iter().any(|entry| entry.file_name() != LOCK_FILE) {
        false => Ok(()),
        true => Err(refused(dir, &"it is not empty; move its files away, or name another folder")),
    }
}

/// Removes an incomplete copy. The folder stays if it existed before.
fn remove_copies(dir: &Path, existed: bool) -> io::Result<()> {
    if !existed {
        return fs::remove_dir_all(dir);
    }
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Gives a copy the permissions of its original. The owner can always write it.
#[cfg(unix)]
fn set_permissions(to: &Path, original: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(to, Permissions::from_mode(original.permissions().mode() | 0o600))
}

#[cfg(not(unix))]
fn set_permissions(_to: &Path, _original: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Opened for writing, because some systems do not flush through a read-only handle.
fn sync(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.sync_all()
}

/// Makes the names in a folder durable.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

fn prerequisite(OpenError::Prerequisite(text): OpenError) -> ShardError {
    ShardError::Faulty(text)
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> ShardError {
    ShardError::Faulty(format!("{}: {why}", path.display()))
}

fn io_failed(path: &Path, error: &io::Error) -> ShardError {
    annotated(
        path,
        match error.kind() {
            io::ErrorKind::StorageFull => ShardError::Full(error.to_string()),
            _ => ShardError::Faulty(error.to_string()),
        },
    )
}

/// Adds the path to the text of an error of a file.
fn annotated(path: &Path, error: ShardError) -> ShardError {
    let text = |text: String| format!("{}: {text}", path.display());
    match error {
        ShardError::Full(why) => ShardError::Full(text(why)),
        ShardError::Unavailable(why) => ShardError::Unavailable(text(why)),
        other => ShardError::Faulty(text(other.to_string())),
    }
}
