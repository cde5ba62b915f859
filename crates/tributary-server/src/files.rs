//! Files of credentials and certificates: their size is limited, and secrets are readable by few.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Reads a file that only its owner can read, if it has at most `bytes_max` bytes.
pub(crate) fn read_private(path: &Path, bytes_max: u64) -> io::Result<String> {
    let file = File::open(path)?;
    if !is_closed_to(&file, GROUP_AND_OTHERS)? {
        return Err(io::Error::other(
            "other users of this machine can read or change the file; run chmod 600 on it",
        ));
    }
    read_file(file, bytes_max)
}

/// Reads a file that only its owner and its group can read, if it has at most `bytes_max` bytes.
/// Private keys often belong to a group of services.
pub(crate) fn read_hidden(path: &Path, bytes_max: u64) -> io::Result<String> {
    let file = File::open(path)?;
    if !is_closed_to(&file, OTHERS)? {
        return Err(io::Error::other(
            "every user of this machine can read or change the file; run chmod 640 on it",
        ));
    }
    read_file(file, bytes_max)
}

/// Reads a file of at most `bytes_max` bytes, and says whether only its owner can read it.
pub(crate) fn read_any(path: &Path, bytes_max: u64) -> io::Result<(String, bool)> {
    let file = File::open(path)?;
    let private = is_closed_to(&file, GROUP_AND_OTHERS)?;
    Ok((read_file(file, bytes_max)?, private))
}

fn read_file(file: File, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    file.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("the file is larger than {bytes_max} bytes")));
    }
    Ok(text)
}

// Rights of a file.
const GROUP_AND_OTHERS: u32 = 0o077;
const OTHERS: u32 = 0o007;

/// Whether the file grants none of these rights. Always true where there are no such rights.
fn is_closed_to(file: &File, rights: u32) -> io::Result<bool> {
    let metadata = file.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        Ok(metadata.permissions().mode() & rights == 0)
    }
    #[cfg(not(unix))]
    {
        let _ = (metadata, rights);
        Ok(true)
    }
}

/// Creates a file that only its owner can read. Readers see the whole text or no file.
///
/// # Errors
/// The file exists already, or it cannot be written.
pub(crate) fn create_private(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_beside(path, text)?;
    let created = keep_owner(path, &temporary).and_then(|()| std::fs::hard_link(&temporary, path));
    let _ = std::fs::remove_file(&temporary);
    created
}

/// Replaces a file, readable by its owner only. Readers see the old or the new text, never a part.
pub(crate) fn replace_private(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_beside(path, text)?;
    let replaced = keep_owner(path, &temporary).and_then(|()| std::fs::rename(&temporary, path));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    replaced
}

/// Gives the new file the owner of the file that it replaces, or else of the folder. Only root can
/// make a file for another user, for example for the account of the service.
fn keep_owner(path: &Path, new: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, chown};
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let old = std::fs::metadata(path)
            .or_else(|_| std::fs::metadata(folder.unwrap_or(Path::new("."))))?;
        let made = std::fs::metadata(new)?;
        if made.uid() == 0 && old.uid() != 0 {
            chown(new, Some(old.uid()), Some(old.gid()))?;
        }
    }
    Ok(())
}

/// Writes a new file beside `path` that only its owner can read, and returns its path.
fn write_beside(path: &Path, text: &str) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", rand::random::<u64>()));
    let temporary = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a text of exactly `2 * N` hexadecimal digits.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
