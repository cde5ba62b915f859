//! The folder of a fleet of SQLite shards: its files, and the lock of the process that owns it.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde::Deserialize;

use super::file::{CheckedFile, Header, Identity};
use super::writer::{create_writer, open_writer};
use crate::shard::{Access, OpenError};

/// How long to wait for the lock. A process that has just ended, or a child that it was about to
/// start, may hold it a moment longer.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(500);
/// The version of the folder format. It is written to a new folder and checked in an existing one.
const FOLDER_VERSION: u32 = 2;
/// The version without an id: its files do not say which shard they hold.
const VERSION_WITHOUT_ID: u32 = 1;
pub(super) const LOCK_FILE: &str = "lock";

/// A folder with one SQLite file per shard, owned by at most one process.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    shards: u16,
    /// `None` for a folder of [`VERSION_WITHOUT_ID`], which only its owner upgrades.
    id: Option<i32>,
    /// The lock, held while any shard of the folder is open. `None` for [`Access::Read`].
    _lock: Option<File>,
}

/// The content of [`Folder::FILE`]. The number of shards decides the placement of rows, so it is
/// fixed when the folder is created.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FolderFile {
    version: u32,
    shards: u16,
    /// A random number that the files of the folder have too.
    id: Option<i32>,
}

/// A shard file that is open for writing.
#[derive(Debug)]
pub(crate) struct OpenedFile {
    // The connection is closed before the handle of the file; see [`CheckedFile`].
    pub(crate) connection: Connection,
    pub(crate) file: CheckedFile,
}

impl Folder {
    /// The file that describes the folder. A folder without it holds no shards.
    pub(crate) const FILE: &str = "folder.toml";

    /// Opens or creates the folder. `shards` is used only if the folder is created.
    ///
    /// # Errors
    /// Another process owns the folder, [`Access::Read`] finds no folder, or a file is unusable.
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
                    "{} has no shards; `tributary demo` or `tributary import` creates some",
                    dir.display()
                )));
            }
            // The placement of rows depends on the number of shards, so it must not be guessed.
            Err(error) if shard_file(dir, 0).exists() => {
                return Err(unusable(&path, &error));
            }
            Err(_) => make_folder(dir, shards)?,
        };
        let id = match file.id {
            None if access == Access::Own => Some(add_id(dir, file.shards)?),
            id => id,
        };
        Ok(Arc::new(Self { dir: dir.to_path_buf(), shards: file.shards, id, _lock: lock }))
    }

    /// The number, the name and the file of each shard.
    pub(crate) fn shard_files(&self) -> Vec<(u16, String, PathBuf)> {
        (0..self.shards).map(|n| (n, format!("shard-{n}"), shard_file(&self.dir, n))).collect()
    }

    /// Opens the file of a shard for writing, if it is the file of this shard, and creates missing
    /// tables. Only the owner of the folder may do so.
    pub(crate) fn open_shard(&self, number: u16) -> Result<OpenedFile, OpenError> {
        let path = shard_file(&self.dir, number);
        let id = self.id.ok_or_else(|| unusable(&path, &"the folder is open for reads only"))?;
        let file = CheckedFile::open(&path, Identity { folder: id, shards: self.shards, number })?;
        let connection = open_writer(&path).map_err(|error| unusable(&path, &error))?;
        file.check_opened(&connection)?;
        Ok(OpenedFile { connection, file })
    }

    /// Refuses a file of another shard, which a process that does not own the folder has opened.
    pub(super) fn check_reader(&self, number: u16, reader: &Connection) -> Result<(), OpenError> {
        let Some(folder) = self.id else { return Ok(()) };
        let path = shard_file(&self.dir, number);
        let found = Identity::read(reader).map_err(|error| unusable(&path, &error))?;
        match found.differs_from(Identity { folder, shards: self.shards, number }) {
            Some(text) => Err(unusable(&path, &text)),
            None => Ok(()),
        }
    }

    /// The number of shards, and the id that their files have too; `None` for a folder without id.
    pub(super) fn identity(&self) -> Option<(u16, i32)> {
        Some((self.shards, self.id?))
    }

    /// The file that the owner of the folder holds locked.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.dir.join(LOCK_FILE)
    }
}

pub(super) fn shard_file(dir: &Path, number: u16) -> PathBuf {
    dir.join(format!("shard-{number}.sqlite"))
}

/// Creates the shards first and the folder file last, so a folder file implies complete shards.
fn make_folder(dir: &Path, shards: u16) -> Result<FolderFile, OpenError> {
    let id = new_id();
    for number in 0..shards {
        let path = shard_file(dir, number);
        let identity = Identity { folder: id, shards, number };
        let made = create_writer(&path).and_then(|connection| sign(&connection, identity));
        made.map_err(|error| unusable(&path, &error))?;
    }
    write_folder_file(dir, shards, id)
}

fn new_id() -> i32 {
    rand::random_range(1..=i32::MAX)
}

/// Writes the identity of a file into its header, on disk.
fn sign(connection: &Connection, identity: Identity) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", identity.folder)?;
    connection.pragma_update(None, "user_version", identity.version())?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

pub(super) fn write_folder_file(dir: &Path, shards: u16, id: i32) -> Result<FolderFile, OpenError> {
    let (path, new) = (dir.join(Folder::FILE), dir.join("folder.new"));
    let text = format!("version = {FOLDER_VERSION}\nshards = {shards}\nid = {id}\n");
    let written = File::create(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| unusable(&path, &error))?;
    Ok(FolderFile { version: FOLDER_VERSION, shards, id: Some(id) })
}

/// Upgrades a folder without an id. If an earlier upgrade was interrupted, some files have the id
/// that it chose.
fn add_id(dir: &Path, shards: u16) -> Result<i32, OpenError> {
    let mut found = Vec::new();
    for number in 0..shards {
        let path = shard_file(dir, number);
        let file = File::open(&path).map_err(|error| unusable(&path, &error))?;
        let (header, _) = Header::of(&file).map_err(|error| unusable(&path, &error))?;
        found.push((path, number, header.identity));
    }
    let known = found.iter().map(|(_, _, identity)| identity.folder).find(|folder| *folder != 0);
    let folder = known.unwrap_or_else(new_id);
    for (path, number, identity) in found {
        let ours = Identity { folder, shards, number };
        if let Some(text) = identity.differs_from(ours)
            && identity.folder != 0
        {
            return Err(unusable(&path, &text));
        }
        let signed = open_writer(&path).and_then(|connection| sign(&connection, ours));
        signed.map_err(|error| unusable(&path, &error))?;
    }
    write_folder_file(dir, shards, folder)?;
    Ok(folder)
}

/// Locks the folder, and creates it if necessary. Closing the returned file releases the lock.
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
    let is_known = match file.version {
        VERSION_WITHOUT_ID => file.id.is_none(),
        FOLDER_VERSION => file.id.is_some(),
        _ => false,
    };
    if !is_known {
        let text = format!(
            "its version is {}, but this program supports version {FOLDER_VERSION} with an id",
            file.version
        );
        return Err(unusable(path, &text));
    }
    Ok(file)
}

pub(super) fn unusable(path: &Path, error: &dyn fmt::Display) -> OpenError {
    OpenError::Prerequisite(format!("{} cannot be used: {error}", path.display()))
}

/// The names of the tables in a SQLite file.
pub(in crate::shard) fn tables(path: &Path) -> rusqlite::Result<Vec<String>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut statement =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    statement.query_map([], |row| row.get(0))?.collect()
}
