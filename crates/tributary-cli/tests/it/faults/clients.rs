//! Clients that hold resources: they do not read, they stay idle, they send slowly. Other clients
//! are still served, and memory stays bounded.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::commands::{Serving, get};
use crate::support::scratch;

const MIB: u64 = 1 << 20;

/// A folder with 100 posts of author 4. Each has 10,000 control characters, so it takes 60,000
/// bytes of JSON.
fn large_posts(data: &Path) {
    let migrated = Command::new(env!("CARGO_BIN_EXE_tributary"))
        .args(["migrate", "--data"])
        .arg(data)
        .output()
        .unwrap();
    assert!(migrated.status.success());
    let file = rusqlite::Connection::open(data.join("shard-0.sqlite")).unwrap();
    let rows = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100)
         INSERT INTO tweets (tweet_id, user_id, content, timestamp)
         SELECT n, 4, replace(printf('%.10000c', 'x'), 'x', char(1)), n FROM n";
    assert_eq!(file.execute(rows, []).unwrap(), 100);
}

/// Serves with at most this many open files.
fn serve(data: &Path, files: u32) -> Serving {
    let script = format!(r#"ulimit -n {files}; exec "$0" "$@""#);
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_tributary"), "serve", "--listen"]);
    command.args(["127.0.0.1:0", "--data"]).arg(data).env("TRIBUTARY_MEMORY__BUDGET", "64MiB");
    Serving::start(&mut command)
}

fn connect(serving: &Serving, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&serving.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The memory of a process in bytes, now or at its highest.
fn memory(serving: &Serving, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn open_files(serving: &Serving) -> usize {
    fs::read_dir(format!("/proc/{}/fd", serving.process.id())).unwrap().count()
}

/// Asserts that a new client is served. On a busy machine, the pages of the others come first.
fn assert_served(serving: &Serving, path: &str) {
    let start = Instant::now();
    let answer = serving.get(path);
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", answer.split("\r\n\r\n").next().unwrap());
    assert!(start.elapsed() < Duration::from_secs(8), "{path} took {:?}", start.elapsed());
}

/// The connections that were closed for this reason.
fn closed(serving: &Serving, reason: &str) -> u64 {
    let metrics = get(&serving.admin_address(), "/metrics");
    let name = format!("tributary_client_connections_closed_total{{reason=\"{reason}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

#[test]
fn clients_that_do_not_read_are_disconnected_and_hold_few_bytes() {
    let dir = scratch();
    large_posts(dir.path());
    let serving = serve(dir.path(), 1_000);
    let files = open_files(&serving);
    let before = memory(&serving, "VmRSS");
    let get = "GET /v1/users/4/posts?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let start = Instant::now();
    let clients: Vec<TcpStream> = (0..300).map(|_| connect(&serving, get)).collect();
    while start.elapsed() < Duration::from_secs(4) {
        assert_served(&serving, "/livez");
        assert_served(&serving, "/v1/users/5/feed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let peak = memory(&serving, "VmHWM");
    println!("  300 clients that do not read: {} MiB, then {} MiB", before / MIB, peak / MIB);
    assert!(peak <= 128 * MIB, "{} MiB", peak / MIB);
    // Each is closed 10 s after its last progress, whether or not its room is needed.
    while open_files(&serving) > files + 5 {
        assert!(start.elapsed() < Duration::from_secs(30), "{} files", open_files(&serving));
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("  disconnected after {:.1?}", start.elapsed());
    assert!(closed(&serving, "not_reading") > 0);
    drop(clients);
    assert_served(&serving, "/v1/users/4/posts?limit=10");
}

#[test]
fn a_new_client_is_served_while_idle_clients_take_all_connections() {
    let dir = scratch();
    let serving = serve(dir.path(), 300);
    let livez = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let post = "POST /v1/users/1/posts HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    let mut clients = Vec::new();
    // Idle after an answer, before any request, within a head, and within a body.
    for request in [livez, "", "GET /livez HT", post] {
        clients.extend((0..120).map(|_| connect(&serving, request)));
        assert_served(&serving, "/livez");
        assert_served(&serving, "/readyz?strict");
        assert_served(&serving, "/v1/users/1/feed");
    }
    assert!(closed(&serving, "connection_limit") > 0);
    // The newest idle connections are still open.
    let last = clients.last_mut().unwrap();
    last.write_all(format!(r#""content":"x"}}{}"#, " ".repeat(985)).as_bytes()).unwrap();
    let mut answer = [0; 12];
    last.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201");
}
