//! A disk that is full: nothing is stored, reads go on, and when there is room again so do writes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::WHOLE;
use crate::support::{scratch, skip};

/// Serves a folder on a small file system that only this process and its children see, so that
/// it goes with them.
const SCRIPT: &str = r#"mount -t tmpfs -o size=2m tmpfs "$1" && head -c 700000 /dev/zero >"$1/ballast" &&
exec "$2" serve --data "$1/data" --listen 127.0.0.1:0"#;

struct Serving {
    process: Child,
    address: String,
    /// The file that takes the room.
    ballast: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Serving {
    /// None where no file system can be mounted.
    fn start(dir: &Path) -> Option<Self> {
        let mount = ["--mount", "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs"];
        let mut tried = Command::new("unshare");
        let tried = tried.args(mount).arg(dir).stderr(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut process = Command::new("unshare")
            .args(["--mount", "sh", "-c", SCRIPT, "sh"])
            .arg(dir)
            .arg(env!("CARGO_BIN_EXE_tributary"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(told.read_line(&mut line).unwrap(), 0, "it ended before it served");
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split(['/', ' ', '\'', '\n']).next().unwrap().to_owned();
            }
        };
        // What it prints later is read, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
        let inside = format!("/proc/{}/root{}", process.id(), dir.display());
        Some(Self { process, address, ballast: PathBuf::from(inside).join("ballast") })
    }

    /// Status and body.
    fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    fn post(&self, author: u64) -> (u16, String) {
        let content = "x".repeat(9_000);
        self.send(
            "POST",
            &format!("/v1/users/{author}/posts"),
            &format!(r#"{{"content":"{content}"}}"#),
        )
    }

    /// The ids on an author's timeline.
    fn posts(&self, author: u64) -> Vec<String> {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/users/{author}/posts?limit=100{cursor}");
            let (status, body) = self.send("GET", &path, "");
            assert_eq!(status, 200, "{body}");
            let page: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(page["complete"], true);
            let posts = page["posts"].as_array().unwrap();
            ids.extend(posts.iter().map(|post| post["post_id"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return ids,
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_reads_and_what_was_stored() {
    let dir = scratch();
    let Some(serving) = Serving::start(dir.path()) else {
        skip("full disk: a file system cannot be mounted here (needs root and unshare)");
        return;
    };
    let mut stored = Vec::new();
    let refused = loop {
        let (status, body) = serving.post(4);
        if status != 201 {
            break (status, body);
        }
        let post: serde_json::Value = serde_json::from_str(&body).unwrap();
        stored.push(post["post_id"].as_str().unwrap().to_owned());
        assert!(stored.len() < 1_000, "the disk is never full");
    };
    println!("  {} posts, then {}", stored.len(), refused.0);
    assert_eq!(refused.0, 507, "{}", refused.1);
    for _ in 0..20 {
        assert_eq!(serving.post(4).0, 507);
    }
    stored.reverse();
    assert_eq!(serving.posts(4), stored);

    fs::remove_file(&serving.ballast).unwrap();
    let start = Instant::now();
    loop {
        let (status, body) = serving.post(4);
        if status == 201 {
            let post: serde_json::Value = serde_json::from_str(&body).unwrap();
            stored.insert(0, post["post_id"].as_str().unwrap().to_owned());
            break;
        }
        assert!(start.elapsed() < WHOLE, "{status} {body}");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("  written again after {:.0?}", start.elapsed());
    assert_eq!(serving.posts(4), stored);
}
