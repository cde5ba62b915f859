//! Faults of embedded shards: a full disk, and a process that is killed while it writes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{BUSY_FACTOR, COMPLETE_WITHIN};
use crate::commands::ADMIN;
use crate::support::{scratch, skip};

/// Serves a folder on a 2 MiB file system. It is mounted in a namespace of this shell alone, so it
/// disappears with the process.
const SCRIPT: &str = r#"mount -t tmpfs -o size=2m tmpfs "$1" &&
head -c 700000 /dev/zero >"$1/ballast" &&
exec "$2" serve --data "$1/data" --listen 127.0.0.1:0"#;

/// A server process, killed on drop.
struct Serving {
    process: Child,
    address: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Serving {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
        Self::run(
            command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.join("data")),
        )
    }

    /// Starts on a file system of its own, part of which another file takes. `None` if no file
    /// system can be mounted.
    fn on_small_disk(dir: &Path) -> Option<Self> {
        let mount = ["--mount", "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs"];
        let mut tried = Command::new("unshare");
        let tried = tried.args(mount).arg(dir).stderr(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = Command::new("unshare");
        let script = command.args(["--mount", "sh", "-c", SCRIPT, "sh"]);
        Some(Self::run(script.arg(dir).arg(env!("CARGO_BIN_EXE_tributary"))))
    }

    fn run(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let command = command.env(ADMIN, "127.0.0.1:0");
        let mut process = command.spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(
                output.read_line(&mut line).unwrap(),
                0,
                "the process ended before it served"
            );
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split(['/', ' ', '\'', '\n']).next().unwrap().to_owned();
            }
        };
        // Later output is read and dropped, so that the process never blocks on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { process, address }
    }

    /// Returns status and body; `None` if the connection ends before the reply is complete.
    fn send(&self, head: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let length = body.len();
        write!(
            stream,
            "{head}\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head[9..12].parse().unwrap(), body.to_owned()))
    }

    /// The status of each shard in `/readyz`, and the status of the whole.
    fn ready(&self) -> (Vec<String>, String) {
        let (_, body) = self.send("GET /readyz HTTP/1.1", "").unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        let text = |value: &Value| value["status"].as_str().unwrap().to_owned();
        (body["shards"].as_array().unwrap().iter().map(text).collect(), text(&body))
    }

    /// Waits until `/readyz` reports exactly these shards as missing.
    fn until_missing(&self, missing: &[usize]) {
        let start = Instant::now();
        loop {
            let (shards, _) = self.ready();
            let found = (0..).zip(&shards).filter(|(_, status)| *status == "missing");
            let found: Vec<usize> = found.map(|(shard, _)| shard).collect();
            if found == missing {
                return println!("  {missing:?} missing after {:.1?}", start.elapsed());
            }
            let limit = Duration::from_secs(2) * BUSY_FACTOR;
            assert!(start.elapsed() < limit, "{found:?} instead of {missing:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the status and the id of the post; the id is empty if there is none.
    fn post(&self, author: u64, content: &str, key: Option<&str>) -> Option<(u16, String)> {
        let key = key.map(|key| format!("\r\nIdempotency-Key: {key}")).unwrap_or_default();
        let head = format!("POST /v1/users/{author}/posts HTTP/1.1{key}");
        let (status, body) = self.send(&head, &format!(r#"{{"content":"{content}"}}"#))?;
        let body: Value = serde_json::from_str(&body).ok()?;
        Some((status, body["post_id"].as_str().unwrap_or_default().to_owned()))
    }

    /// Waits until the author's timeline is `expected`. A request without a freshness token may
    /// be answered a moment too early.
    fn until_posts(&self, author: u64, expected: &[(String, String)]) {
        let start = Instant::now();
        loop {
            let found = self.posts(author);
            if found == expected {
                return;
            }
            let ids = |posts: &[(String, String)]| -> Vec<String> {
                posts.iter().map(|(id, _)| id.clone()).collect()
            };
            let (found, expected) = (ids(&found), ids(expected));
            assert!(start.elapsed() < COMPLETE_WITHIN, "{found:?} instead of {expected:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Id and text of all posts on an author's timeline, newest first.
    fn posts(&self, author: u64) -> Vec<(String, String)> {
        let (mut posts, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/users/{author}/posts?limit=100{cursor}");
            let (status, body) = self.send(&format!("GET {path} HTTP/1.1"), "").unwrap();
            assert_eq!(status, 200, "{body}");
            let page: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(page["complete"], true);
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let found = page["posts"].as_array().unwrap().iter();
            posts.extend(found.map(|post| (text(&post["post_id"]), text(&post["content"]))));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return posts,
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_still_serves_stored_posts() {
    let dir = scratch();
    let Some(serving) = Serving::on_small_disk(dir.path()) else {
        skip("full disk: a file system cannot be mounted here (needs root and unshare)");
        return;
    };
    let text = "x".repeat(9_000);
    let post = || serving.post(4, &text, None).unwrap();
    let mut stored = Vec::new();
    let refused = loop {
        match post() {
            (201, id) => stored.push((id, text.clone())),
            (status, _) => break status,
        }
        assert!(stored.len() < 1_000, "the disk is never full");
    };
    println!("  {} posts, then {refused}", stored.len());
    assert_eq!(refused, 507);
    for _ in 0..20 {
        assert_eq!(post().0, 507);
    }
    let read_only = ["read_only", "ok", "ok", "ok"].map(String::from).to_vec();
    assert_eq!(serving.ready(), (read_only, "degraded".into()));
    stored.reverse();
    serving.until_posts(4, &stored);

    // The file system is visible only through the process that mounted it.
    let inside = format!("/proc/{}/root{}", serving.process.id(), dir.path().display());
    fs::remove_file(Path::new(&inside).join("ballast")).unwrap();
    let start = Instant::now();
    loop {
        match post() {
            (201, id) => break stored.insert(0, (id, text.clone())),
            (status, _) => assert!(start.elapsed() < COMPLETE_WITHIN * BUSY_FACTOR, "{status}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("  written again after {:.1?}", start.elapsed());
    assert_eq!(serving.ready().1, "ok");
    serving.until_posts(4, &stored);
}

/// The shards of the test below. Each fault has a shard of its own.
const REMOVED: usize = 0;
const REPLACED: usize = 1;
const TRUNCATED: usize = 2;
const EMPTY: usize = 3;
const SWAPPED: usize = 4;
const HEALTHY: usize = 5;
const OLDER: usize = 6;
const GARBAGE: usize = 7;
const LOG_REMOVED: usize = 8;
const MOVED: usize = 9;
const FAULTY: [usize; 9] =
    [REMOVED, REPLACED, TRUNCATED, EMPTY, SWAPPED, OLDER, GARBAGE, LOG_REMOVED, MOVED];

/// Stores 5 MB as another program, which moves all of it from the log to the file.
fn fill_file(file: &Path, author: usize) {
    let connection = rusqlite::Connection::open(file).unwrap();
    let rows = format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
         INSERT INTO tweets (tweet_id, user_id, content, timestamp)
         SELECT n, {author}, printf('%.5000c', 'x'), n FROM n"
    );
    connection.execute(&rows, []).unwrap();
}

/// Damages the file of each shard in [`FAULTY`] in its own way.
fn damage(file: impl Fn(usize) -> PathBuf) {
    fs::remove_file(file(REMOVED)).unwrap();
    let copy = file(REPLACED).with_extension("copy");
    fs::copy(file(REPLACED), &copy).unwrap();
    fs::rename(copy, file(REPLACED)).unwrap();
    let open = |shard| fs::File::options().write(true).open(file(shard)).unwrap();
    open(TRUNCATED).set_len(fs::metadata(file(TRUNCATED)).unwrap().len() / 2).unwrap();
    open(EMPTY).set_len(0).unwrap();
    fs::copy(file(HEALTHY), file(SWAPPED)).unwrap();
    fs::copy(file(OLDER).with_extension("older"), file(OLDER)).unwrap();
    fs::write(file(GARBAGE), "garbage".repeat(10_000)).unwrap();
    fs::remove_file(file(LOG_REMOVED).with_extension("sqlite-wal")).unwrap();
    fs::rename(file(MOVED), file(MOVED).with_extension("moved")).unwrap();
}

#[test]
fn a_lost_or_replaced_shard_file_is_excluded_within_two_seconds_and_refused_at_the_start() {
    let dir = scratch();
    let file = |shard: usize| dir.path().join(format!("data/shard-{shard}.sqlite"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path().join("data"));
    command.env("TRIBUTARY_EMBEDDED__SHARDS", "10");
    let serving = Serving::run(&mut command);
    for shard in 0..10 {
        assert_eq!(serving.post(shard, "before", None).unwrap().0, 201);
    }
    fs::copy(file(OLDER), file(OLDER).with_extension("older")).unwrap();
    [TRUNCATED, OLDER].into_iter().for_each(|shard| fill_file(&file(shard), shard));
    // A restore through SQLite is no fault.
    let backup = |shard: usize| file(shard).with_extension("backup");
    for shard in 0..10 {
        let connection = rusqlite::Connection::open(file(shard)).unwrap();
        connection.execute("VACUUM INTO ?", [backup(shard).to_str().unwrap()]).unwrap();
        connection.execute_batch("VACUUM").unwrap();
    }
    std::thread::sleep(Duration::from_millis(1_200));
    serving.until_missing(&[]);

    damage(file);
    serving.until_missing(&FAULTY);
    assert_eq!(serving.ready().1, "degraded");
    for shard in (0..10).filter(|shard| *shard != HEALTHY) {
        let (status, _) = serving.post(shard as u64, "lost", None).unwrap();
        assert_eq!(status, 503, "shard {shard}");
    }
    assert_eq!(serving.post(HEALTHY as u64, "after", None).unwrap().0, 201);
    assert_eq!(serving.posts(HEALTHY as u64).len(), 2);
    fs::rename(file(MOVED).with_extension("moved"), file(MOVED)).unwrap();
    serving.until_missing(&FAULTY[..8]);
    assert_eq!(serving.post(MOVED as u64, "after", None).unwrap().0, 201);
    drop(serving);

    for (shard, text) in [
        (REMOVED, "No such file"),
        (TRUNCATED, "truncated"),
        (EMPTY, "is empty"),
        (SWAPPED, "holds shard 5, not shard 4"),
        (GARBAGE, "not a SQLite database"),
    ] {
        // The process was killed, so the logs of all files are still there.
        if shard == TRUNCATED {
            fs::remove_file(file(shard).with_extension("sqlite-wal")).unwrap();
        }
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let expected = format!("shard-{shard}.sqlite cannot be used: ");
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains(&expected) && error.contains(text), "{text}: {error}");
        for end in ["sqlite-wal", "sqlite-shm"] {
            let _ = fs::remove_file(file(shard).with_extension(end));
        }
        fs::rename(backup(shard), file(shard)).unwrap();
    }
    // Pages in the middle of a file. No request reads them.
    let damaged = fs::File::options().write(true).open(file(TRUNCATED)).unwrap();
    damaged.write_all_at(&[0xa5; 200_000], 1_000_000).unwrap();
    let serving = Serving::run(&mut command);
    serving.until_missing(&[TRUNCATED]);
    assert_eq!(serving.posts(SWAPPED as u64).len(), 1);
    // Without the lock another process could own the folder too.
    fs::remove_file(dir.path().join("data/lock")).unwrap();
    serving.until_missing(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(serving.ready().1, "unavailable");
}

/// Clients repeat posts that were not acknowledged, with the same key, also at the next process.
#[test]
fn a_process_that_is_killed_while_it_writes_loses_and_duplicates_nothing() {
    const CLIENTS: u64 = 8;
    let dir = scratch();
    let serving = RwLock::new(Serving::start(dir.path()));
    let ended = AtomicBool::new(false);
    let client = |author: u64| {
        let (mut stored, mut repeated) = (Vec::new(), 0);
        while !ended.load(Ordering::Relaxed) {
            let text = format!("{} of {author}", stored.len());
            let key = format!("{author}-{}", stored.len());
            loop {
                match serving.read().unwrap().post(author, &text, Some(&key)) {
                    Some((201, id)) => break stored.push((id, text)),
                    Some((status, _)) => panic!("{status}"),
                    None => repeated += 1,
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        stored.reverse();
        (stored, repeated)
    };
    let mut acknowledged = std::thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> =
            (0..CLIENTS).map(|author| scope.spawn(move || client(author))).collect();
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(400));
            let pid = serving.read().unwrap().process.id().to_string();
            assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
            let mut serving = serving.write().unwrap();
            serving.process.wait().unwrap();
            *serving = Serving::start(dir.path());
        }
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let serving = serving.into_inner().unwrap();
    let posts: usize = acknowledged.iter().map(|(stored, _)| stored.len()).sum();
    let repeated: usize = acknowledged.iter().map(|(_, repeated)| repeated).sum();
    println!("  {posts} posts, {repeated} repeated");
    assert!(posts > 100 && repeated > 0);
    for (author, (stored, _)) in (0..).zip(&mut acknowledged) {
        let mut found = serving.posts(author);
        found.sort_unstable();
        stored.sort_unstable();
        assert_eq!(&found, stored, "author {author}");
    }
}
