//! The folder that holds a fleet of SQLite shards: which files, and which process owns them.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde::Deserialize;

use super::writer::open_writer;
use crate::shard::OpenError;

/// A process that has just ended, or a child that it was about to start, may hold the lock a moment
/// longer.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(500);
/// Written to a new folder and checked in an old one.
const FOLDER_VERSION: u32 = 1;
const LOCK_FILE: &str = "lock";

/// What a process does with a folder of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads beside a process that may own the folder. The folder must exist.
    Read,
    /// Owns the folder, alone, and makes it if it is not there.
    Own,
}

/// A folder with one SQLite file per shard, owned by at most one process.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    shards: u16,
    /// Held for as long as any shard of the folder is open.
    _lock: Option<File>,
}

/// What [`Folder::FILE`] says. The number of shards decides where rows lie, so it is fixed when the
/// folder is made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderFile {
    version: u32,
    shards: u16,
}

impl Folder {
    /// Says what the folder holds; a folder without it holds no shards.
    pub(crate) const FILE: &str = "folder.toml";

    /// Opens or makes the folder; `shards` counts only when it is made.
    pub(crate) fn open(dir: &Path, shards: u16, access: Access) -> Result<Arc<Self>, OpenError> {
        let lock = match access {
            Access::Own => Some(lock(dir)?),
            Access::Read => None,
        };
        let path = dir.join(Self::FILE);
        let file = match fs::read_to_string(&path) {
            Ok(text) => read_folder_file(&path, &text)?,
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(unusable(&path, &error));
            }
            Err(_) if access == Access::Read => {
                return Err(OpenError::Prerequisite(format!(
                    "there are no shards in {}; `tributary demo` or `tributary import` makes some",
                    dir.display()
                )));
            }
            // Where rows lie depends on the number of shards; guessing it would lose them.
            Err(error) if shard_file(dir, 0).exists() => {
                return Err(unusable(&path, &error));
            }
            Err(_) => make_folder(dir, shards)?,
        };
        Ok(Arc::new(Self { dir: dir.to_path_buf(), shards: file.shards, _lock: lock }))
    }

    /// Each shard's name and file.
    pub(crate) fn shard_files(&self) -> Vec<(String, PathBuf)> {
        (0..self.shards).map(|n| (format!("shard-{n}"), shard_file(&self.dir, n))).collect()
    }
}

fn shard_file(dir: &Path, number: u16) -> PathBuf {
    dir.join(format!("shard-{number}.sqlite"))
}

/// Makes the shards first: a folder that says it holds them does.
fn make_folder(dir: &Path, shards: u16) -> Result<FolderFile, OpenError> {
    for number in 0..shards {
        let path = shard_file(dir, number);
        open_writer(&path).map_err(|error| unusable(&path, &error))?;
    }
    let (path, new) = (dir.join(Folder::FILE), dir.join("folder.new"));
    let text = format!("version = {FOLDER_VERSION}\nshards = {shards}\n");
    let written = File::create(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| unusable(&path, &error))?;
    Ok(FolderFile { version: FOLDER_VERSION, shards })
}

/// Owns the folder for as long as the file is open.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    fs::create_dir_all(dir).map_err(|error| unusable(dir, &error))?;
    let path = dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| unusable(&path, &error))?;
    let give_up = Instant::now() + LOCK_WAIT_MAX;
    let locked = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                std::thread::sleep(LOCK_WAIT_MAX / 20);
            }
            outcome => break outcome,
        }
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Prerequisite(format!(
            "another process owns the folder {}; stop it, or give this one a folder of its own \
             with --data",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(unusable(&path, &error)),
    }
}

fn read_folder_file(path: &Path, text: &str) -> Result<FolderFile, OpenError> {
    let file: FolderFile = toml::from_str(text).map_err(|error| unusable(path, &error))?;
    if file.version != FOLDER_VERSION {
        let text = format!("it has version {}, this is {FOLDER_VERSION}", file.version);
        return Err(unusable(path, &text));
    }
    Ok(file)
}

pub(super) fn unusable(path: &Path, error: &dyn fmt::Display) -> OpenError {
    OpenError::Prerequisite(format!("{} cannot be used: {error}", path.display()))
}

/// The names of the tables in a file.
pub(in crate::shard) fn tables(path: &Path) -> rusqlite::Result<Vec<String>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut statement =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    statement.query_map([], |row| row.get(0))?.collect()
}
