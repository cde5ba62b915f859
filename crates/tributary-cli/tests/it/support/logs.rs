//! The error logs of the running servers. If a test fails, their ends are printed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

/// At most this many lines of each log are printed; a crash report of MariaDB has about 90.
const LINES_MAX: usize = 120;

/// The folders of all servers in this process.
static SERVERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// True after the first panic.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Registers the folder of a server.
pub(super) fn add(dir: &Path) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print_panic = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            print_panic(info);
            FAILED.store(true, Ordering::Relaxed);
            print_ends();
        }));
    });
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner).push(dir.to_owned());
}

/// Unregisters the folder. Returns true if it must be kept: a test failed, and `TRIBUTARY_KEEP` is
/// set.
pub(super) fn remove(dir: &Path) -> bool {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other != dir);
    FAILED.load(Ordering::Relaxed) && std::env::var_os("TRIBUTARY_KEEP").is_some()
}

/// Opens the log of a server that starts, and appends this line.
pub(super) fn open(dir: &Path, line: &str) -> File {
    let mut log = OpenOptions::new().append(true).create(true).open(dir.join("log")).unwrap();
    writeln!(log, "{line}").unwrap();
    log
}

/// The last lines of a server's log, without notes and disconnected clients.
pub(super) fn end(dir: &Path) -> String {
    let log = fs::read(dir.join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines = log.lines().filter(|line| !line.contains("[Note]") && !line.contains("Aborted"));
    let lines: Vec<&str> = lines.collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

/// Prints the end of every log, because a test may use servers that it shares with others.
fn print_ends() {
    let servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for dir in servers {
        eprintln!("-- log of the server in {}:\n{}", dir.display(), end(&dir));
    }
}
