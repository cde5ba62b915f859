//! The file of a shard: which shard it holds, and whether it is still the file that was opened.
//!
//! SQLite still uses an open file that was deleted, replaced or overwritten. Such writes are lost
//! at the next start, so the owner of a folder looks at its files twice a second and at each
//! commit. A file with a fault is excluded: its shard is missing from pages and refuses writes.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use rusqlite::{Connection, ErrorCode, InterruptHandle};
use tracing::{error, info};

use super::folder::{self, Folder};
use super::open_reader;
use crate::shard::{OpenError, ShardError};

/// Bytes of the header of a SQLite file.
const HEADER_BYTES: u64 = 100;
/// Larger files are not read as a whole at the start, which takes about a second for each GB.
const CHECKED_BYTES_MAX: u64 = 1 << 30;
const MAGIC: &[u8] = b"SQLite format 3\0";

/// The shard that a file holds. SQLite's header stores it as `application_id` (the folder) and
/// `user_version` (the number of shards and the number of this one), so copies have it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) folder: i32,
    pub(super) shards: u16,
    pub(super) number: u16,
}

/// The fields of a header that are used here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) identity: Identity,
    /// The size of the file in bytes that the header states.
    bytes: u64,
    /// Grows with each commit that adds or removes pages.
    changes: u32,
}

/// A file that was checked before SQLite opened it. The handle stays open while SQLite uses the
/// file, because closing any handle of a file would release SQLite's locks on it.
#[derive(Debug)]
pub(crate) struct CheckedFile {
    path: PathBuf,
    file: Mutex<File>,
    identity: Identity,
}

/// The file of an open shard.
#[derive(Debug)]
pub(super) struct ShardFile {
    path: PathBuf,
    /// `None` for [`crate::shard::Access::Read`].
    watched: Option<Watched>,
    fault: ArcSwapOption<Fault>,
    /// Why the last write that had something to store failed.
    failed_write: ArcSwapOption<String>,
    /// Why the folder cannot be written, as found by the last look.
    read_only: ArcSwapOption<String>,
}

/// The things that the owner of a file looks at.
#[derive(Debug)]
struct Watched {
    checked: CheckedFile,
    folder: Arc<Folder>,
    /// The files of the shard, and the lock of the folder.
    places: Vec<Place>,
    /// The size of the file and its count of changes at the last look.
    seen: Mutex<(u64, u32)>,
    /// Ends the check of all pages.
    check: Mutex<Option<RunningCheck>>,
    /// Reads the header as SQLite sees it, with commits that are not in the file yet.
    connection: Mutex<Connection>,
}

/// A path, and the file that must stay there.
#[derive(Debug)]
struct Place(PathBuf, FileId);

/// Ends a statement that is running.
struct RunningCheck(InterruptHandle);

impl fmt::Debug for RunningCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunningCheck")
    }
}

/// Distinguishes the files of a machine.
type FileId = (u64, u64);

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// A file is not in its place. The shard is used again once the same file is back.
    Away(String),
    /// The content is wrong. The shard stays excluded until a restart, because SQLite may have
    /// cached parts of it.
    Damaged(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Away(text) | Self::Damaged(text)) = self;
        f.write_str(text)
    }
}

impl Identity {
    /// The value of `user_version`.
    pub(super) fn version(self) -> i32 {
        (u32::from(self.shards) << 16 | u32::from(self.number)).cast_signed()
    }

    fn of(folder: i32, version: i32) -> Self {
        let [a, b, c, d] = version.to_be_bytes();
        let (shards, number) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Self { folder, shards, number }
    }

    /// The identity in the header of a file, as this connection sees it.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let value = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get(0));
        Ok(Self::of(value("application_id")?, value("user_version")?))
    }

    /// The difference to the expected identity, with the cure.
    pub(super) fn differs_from(self, expected: Self) -> Option<String> {
        let Self { folder, shards, number } = expected;
        if self == expected {
            return None;
        }
        let is_ours = self.folder == folder && self.shards == shards;
        Some(if is_ours {
            format!(
                "it holds shard {}, not shard {number}; give the files their names back",
                self.number
            )
        } else if self.folder == folder {
            format!(
                "it is one of {} shards, but {} says {shards}; correct that file",
                self.shards,
                Folder::FILE
            )
        } else if self.folder == 0 {
            format!(
                "it does not say which shard it holds; if it is this shard, run sqlite3 FILE \
                 'PRAGMA application_id = {folder}; PRAGMA user_version = {}'",
                expected.version()
            )
        } else {
            "it belongs to another folder; restore this shard from a back-up".to_owned()
        })
    }
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        if !bytes.starts_with(MAGIC) || bytes.len() < usize::try_from(HEADER_BYTES).ok()? {
            return None;
        }
        // The size 65,536 is stored as 1.
        let page = match u16::from_be_bytes(bytes.get(16..18)?.try_into().ok()?) {
            1 => 65_536,
            size => u64::from(size),
        };
        let identity = Identity::of(field(68)?.cast_signed(), field(60)?.cast_signed());
        Some(Self { identity, bytes: page * u64::from(field(28)?), changes: field(24)? })
    }

    /// The header and the size of an open file, or the reason why it has none.
    pub(super) fn of(mut file: &File) -> Result<(Self, u64), String> {
        let mut bytes = Vec::new();
        let read = file.rewind().and_then(|()| file.take(HEADER_BYTES).read_to_end(&mut bytes));
        let len = read.and_then(|_| file.metadata()).map_err(|error| error.to_string())?.len();
        if len == 0 {
            return Err("it is empty; restore this shard from a back-up".to_owned());
        }
        let header = Self::parse(&bytes).ok_or(
            "it is not a SQLite database; restore this shard \
                                                from a back-up",
        )?;
        Ok((header, len))
    }
}

impl CheckedFile {
    /// Checks a file before SQLite opens it, because SQLite would apply a write-ahead log to any
    /// file of this name.
    pub(super) fn open(path: &Path, identity: Identity) -> Result<Self, OpenError> {
        let wrong = |text: &dyn fmt::Display| folder::unusable(path, text);
        let file = File::open(path).map_err(|error| wrong(&error))?;
        let (header, len) = Header::of(&file).map_err(|text| wrong(&text))?;
        if let Some(text) = header.identity.differs_from(identity) {
            return Err(wrong(&text));
        }
        // After a crash the log may hold pages that are not in the file yet.
        if len < header.bytes && fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len()) == 0
        {
            return Err(wrong(&truncated(len, header.bytes)));
        }
        Ok(Self { path: path.to_path_buf(), file: Mutex::new(file), identity })
    }

    /// Checks the file once SQLite has opened it for writing.
    pub(super) fn check_opened(&self, connection: &Connection) -> Result<(), OpenError> {
        let wrong = |text: &dyn fmt::Display| folder::unusable(&self.path, text);
        if connection.is_readonly("main").map_err(|error| wrong(&error))? {
            return Err(wrong(&"it is read-only; make it writable for this user"));
        }
        if self.missing_pages()?.is_some() {
            // Moves the pages in the log to the file.
            let checkpoint = connection.query_row("PRAGMA wal_checkpoint", [], |_| Ok(()));
            checkpoint.map_err(|error| wrong(&error))?;
            if let Some(text) = self.missing_pages()? {
                return Err(wrong(&text));
            }
        }
        Ok(())
    }

    fn missing_pages(&self) -> Result<Option<String>, OpenError> {
        let (header, len) = self.header().map_err(|text| folder::unusable(&self.path, &text))?;
        Ok((len < header.bytes).then(|| truncated(len, header.bytes)))
    }

    fn header(&self) -> Result<(Header, u64), String> {
        Header::of(&self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn id(&self) -> std::io::Result<FileId> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).metadata().map(|file| id(&file))
    }
}

fn truncated(len: u64, expected: u64) -> String {
    format!("it was truncated from {expected} to {len} bytes; restore this shard from a back-up")
}

/// The path with this text added to the name of the file.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(unix)]
fn id(file: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino())
}

/// Elsewhere an open file cannot be replaced.
#[cfg(not(unix))]
fn id(_file: &Metadata) -> FileId {
    (0, 0)
}

impl Place {
    fn of(path: PathBuf) -> std::io::Result<Self> {
        let id = id(&fs::metadata(&path)?);
        Ok(Self(path, id))
    }

    fn check(&self) -> Result<(), Fault> {
        let Self(path, opened) = self;
        let away = |what: &dyn fmt::Display| Fault::Away(format!("{}: {what}", path.display()));
        match fs::metadata(path) {
            Ok(file) if id(&file) == *opened => Ok(()),
            Ok(_) => Err(away(&"the file was replaced by another one")),
            Err(error) => Err(away(&error)),
        }
    }
}

impl Watched {
    fn new(checked: CheckedFile, folder: Arc<Folder>) -> Result<Self, OpenError> {
        let path = checked.path.clone();
        let wrong = |error: &dyn fmt::Display| folder::unusable(&path, error);
        let main = Place(path.clone(), checked.id().map_err(|error| wrong(&error))?);
        let mut places = vec![main];
        for other in [beside(&path, "-wal"), beside(&path, "-shm"), folder.lock_path()] {
            places.push(Place::of(other).map_err(|error| wrong(&error))?);
        }
        let connection = open_reader(&path).map_err(|error| wrong(&error))?;
        let (header, len) = checked.header().map_err(|text| wrong(&text))?;
        let (seen, connection) = (Mutex::new((len, header.changes)), Mutex::new(connection));
        Ok(Self { checked, folder, places, seen, check: Mutex::default(), connection })
    }

    fn check_places(&self) -> Result<(), Fault> {
        self.places.iter().try_for_each(Place::check)
    }

    fn check(&self) -> Result<(), Fault> {
        self.check_places()?;
        let (header, len) = self.checked.header().map_err(Fault::Damaged)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // SQLite writes the first page before it adds pages, so a file that grows may be short.
        if len < header.bytes && len < seen.0 {
            return Err(Fault::Damaged(truncated(len, header.bytes)));
        }
        if header.changes.wrapping_sub(seen.1).cast_signed() < 0 {
            let text = "an older copy was written over it; restore this shard from a back-up";
            return Err(Fault::Damaged(text.to_owned()));
        }
        *seen = (len, header.changes);
        drop(seen);
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let current = Identity::read(&connection);
        let current = current.map_err(|error| Fault::Damaged(error.to_string()))?;
        match [header.identity, current].iter().find_map(|i| i.differs_from(self.checked.identity))
        {
            Some(text) => Err(Fault::Damaged(text)),
            None => Ok(()),
        }
    }
}

impl ShardFile {
    /// A file that another process owns.
    pub(super) fn of_other(path: &Path) -> Self {
        Self::new(path.to_path_buf(), None)
    }

    /// A file that this process owns. SQLite has it open.
    pub(super) fn owned(checked: CheckedFile, folder: Arc<Folder>) -> Result<Self, OpenError> {
        Ok(Self::new(checked.path.clone(), Some(Watched::new(checked, folder)?)))
    }

    fn new(path: PathBuf, watched: Option<Watched>) -> Self {
        let [failed_write, read_only] = Default::default();
        Self { path, watched, fault: ArcSwapOption::empty(), failed_write, read_only }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `Ok` if the file can be used, else the reason.
    pub(super) fn usable(&self) -> Result<(), ShardError> {
        match &*self.fault.load() {
            None => Ok(()),
            Some(fault) => Err(ShardError::Faulty(format!("{}: {fault}", self.path.display()))),
        }
    }

    /// Why writes fail, although reads may succeed.
    pub(super) fn write_fault(&self) -> Option<String> {
        let found = |fault: &ArcSwapOption<String>| fault.load().as_deref().cloned();
        found(&self.read_only).or_else(|| found(&self.failed_write))
    }

    /// Records the outcome of a write that had something to store.
    pub(super) fn wrote(&self, outcome: Result<(), &rusqlite::Error>) {
        if outcome.is_err() || self.failed_write.load().is_some() {
            self.failed_write.store(outcome.err().map(|error| Arc::new(error.to_string())));
        }
    }

    /// Excludes the shard if SQLite found damage.
    pub(super) fn note(&self, error: &rusqlite::Error) {
        let damage = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase];
        if error.sqlite_error_code().is_some_and(|code| damage.contains(&code)) {
            self.set(Err(Fault::Damaged(error.to_string())));
        }
    }

    /// Whether all files are in their places. A commit to a file elsewhere is lost.
    pub(super) fn is_in_place(&self) -> bool {
        let Some(watched) = &self.watched else { return true };
        let found = watched.check_places();
        let in_place = found.is_ok();
        if !in_place {
            self.set(found);
        }
        in_place
    }

    /// Looks at the file and its folder. Blocks for a moment.
    pub(super) fn look(&self) {
        let Some(watched) = &self.watched else { return };
        self.set(watched.check());
        let writable = File::options().write(true).open(watched.folder.lock_path());
        self.read_only.store(writable.err().map(|error| Arc::new(error.to_string())));
    }

    /// Reads all pages of a file that is not too large, and excludes the shard if one is damaged.
    /// Blocks until then, or until [`ShardFile::end_check`].
    pub(super) fn check_pages(&self) {
        let Some(watched) = &self.watched else { return };
        let len = fs::metadata(&self.path).map_or(0, |file| file.len());
        if len > CHECKED_BYTES_MAX || self.usable().is_err() {
            return;
        }
        let Ok(connection) = open_reader(&self.path) else { return };
        let running = || watched.check.lock().unwrap_or_else(PoisonError::into_inner);
        *running() = Some(RunningCheck(connection.get_interrupt_handle()));
        let check = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        *running() = None;
        let found: rusqlite::Result<String> = check;
        match found {
            Ok(text) if text == "ok" => {}
            Ok(text) => self.set(Err(Fault::Damaged(text))),
            Err(error) => self.note(&error),
        }
    }

    /// Ends a check of all pages that is running.
    pub(super) fn end_check(&self) {
        let Some(watched) = &self.watched else { return };
        if let Some(RunningCheck(check)) =
            &*watched.check.lock().unwrap_or_else(PoisonError::into_inner)
        {
            check.interrupt();
        }
    }

    /// Records what was found, and logs a change.
    fn set(&self, found: Result<(), Fault>) {
        let before = self.fault.load_full();
        if matches!(before.as_deref(), Some(Fault::Damaged(_)))
            || before.as_deref() == found.as_ref().err()
        {
            return;
        }
        let file = self.path.display();
        match &found {
            Ok(()) => info!(%file, "Shard file is in its place again; the shard is used again"),
            Err(fault @ Fault::Away(_)) => error!(
                %file, %fault,
                "Shard file is not in its place; its shard is excluded until the same file is back"
            ),
            Err(fault @ Fault::Damaged(_)) => error!(
                %file, %fault,
                "Shard file is damaged; its shard is excluded. Restore the file and restart"
            ),
        }
        self.fault.store(found.err().map(Arc::new));
    }
}
