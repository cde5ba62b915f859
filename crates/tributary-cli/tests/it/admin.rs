//! The routes for operators, on a listener of their own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tributary_server::Scope;

use crate::commands::tributary;
use crate::support::credentials::TestCredentials;
use crate::support::scratch;

const ROUTES: [(&str, &str); 4] =
    [("GET", "/metrics"), ("GET", "/shards"), ("GET", "/keys"), ("POST", "/reload")];

/// A server process, its two addresses, and its log.
pub(crate) struct Server {
    process: std::process::Child,
    public: String,
    pub(crate) admin: String,
    log: std::sync::mpsc::Receiver<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        Self::spawn(tributary(arguments))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (sender, log) = std::sync::mpsc::channel();
        let errors = BufReader::new(process.stderr.take().unwrap());
        std::thread::spawn(move || {
            errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut address = || {
            let line = lines.next().expect("the process ended before it served").unwrap();
            line.rsplit([' ', '/']).next().unwrap().to_owned()
        };
        let (public, admin) = (address(), address());
        Self { process, public, admin, log }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for a line of the log that contains all of these texts.
    pub(crate) fn until_logged(&self, texts: &[&str]) -> String {
        let mut all = String::new();
        loop {
            let line = self.log.recv_timeout(Duration::from_secs(20));
            let line = line.unwrap_or_else(|_| panic!("{texts:?} not in {all}"));
            if texts.iter().all(|text| line.contains(text)) {
                return line;
            }
            all += &format!("{line}\n");
        }
    }
}

/// The status, and the body.
pub(crate) fn send(address: &str, request: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

pub(crate) fn with(credential: &str) -> String {
    format!("Authorization: Bearer {credential}\r\n")
}

#[test]
fn routes_for_operators_are_on_their_own_listener_and_audited() {
    let credentials = TestCredentials::new();
    let folder = credentials.folder();
    let config = folder.join("tributary.toml");
    let data = folder.join("data");
    fs::write(
        &config,
        format!(
            "[embedded]\ndir = {data:?}\n[http]\nlisten = \"127.0.0.1:0\"\n{}",
            credentials.section()
        ),
    )
    .unwrap();
    let (admin, user) = (credentials.key(&[Scope::Admin]), credentials.key(&[Scope::ActAsUser]));
    let server = Server::start(&["serve", "--config", config.to_str().unwrap()]);
    for (method, path) in ROUTES {
        let request = format!("{method} {path}");
        assert_eq!(send(&server.public, &request, &with(&admin)).0, 404, "{request}");
        assert_eq!(send(&server.admin, &request, &with(&admin)).0, 200, "{request}");
        assert_eq!(send(&server.admin, &request, &with(&user)).0, 403, "{request}");
        assert_eq!(send(&server.admin, &request, "").0, 401, "{request}");
    }
    for path in ["GET /v1/users/1/feed", "GET /user/feed/1", "POST /v1/users/1/posts"] {
        assert_eq!(send(&server.admin, path, &with(&user)).0, 404, "{path}");
    }
    let explain = credentials.key(&[Scope::Explain]);
    assert_eq!(send(&server.admin, "POST /reload", &with(&admin)).0, 200);
    for listener in [&server.admin, &server.public] {
        let feed = "GET /v1/users/1/feed?explain=1";
        let (status, page) = send(listener, feed, &with(&explain));
        assert!(status == 200 && page.contains(r#""explain":{"#), "{page}");
        assert_eq!(send(listener, feed, &with(&user)).0, 403);
    }
    for health in ["GET /livez", "GET /readyz"] {
        assert_eq!(send(&server.admin, health, "").0, 200);
        assert_eq!(send(&server.public, health, "").0, 200);
    }

    let shards: Value =
        serde_json::from_str(&send(&server.admin, "GET /shards", &with(&admin)).1).unwrap();
    assert_eq!(shards["shards"].as_array().unwrap().len(), 4);
    assert_eq!(shards["shards"][0]["status"], "ok");
    let keys = send(&server.admin, "GET /keys", &with(&admin)).1;
    let shown: Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(shown["service_keys"].as_array().unwrap().len(), 3);
    assert_eq!(shown["token_keys"], serde_json::json!(["k"]));
    let file = fs::read_to_string(credentials.keys_file()).unwrap();
    for hash in file.split("sha256 = \"").skip(1).map(|rest| &rest[..64]) {
        assert!(!keys.contains(hash), "a hash is shown");
    }

    // The reload takes effect at once, and the audit log names the key, but no secret.
    let id = |key: &str| key.split('_').nth(1).unwrap().to_owned();
    let third = credentials.key(&[Scope::Admin]);
    assert_eq!(send(&server.admin, "POST /reload", &with(&admin)).0, 200);
    assert_eq!(send(&server.admin, "GET /shards", &with(&third)).0, 200);
    let added = server.until_logged(&["Audit", &id(&third), "was added"]);
    assert!(!added.contains(third.rsplit('_').next().unwrap()), "{added}");
    server.until_logged(&["Audit", "reload", &id(&admin), "done"]);
    fs::write(credentials.keys_file(), "[damaged").unwrap();
    let (status, body) = send(&server.admin, "POST /reload", &with(&admin));
    assert!(status == 409 && body.contains("keys.toml: line 1"), "{body}");
    server.until_logged(&["Audit", "reload", "failed"]);
}

#[test]
fn without_credentials_the_routes_for_operators_serve_this_machine_only() {
    let dir = scratch();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let start = Instant::now();
    let insecure = ["serve", "--data", data, "--listen", "0.0.0.0:0", "--insecure"];
    let server = Server::start(&insecure);
    for (method, path) in ROUTES {
        let request = format!("{method} {path}");
        assert_eq!(send(&server.public, &request, "").0, 404, "{request}");
        assert_eq!(send(&server.admin, &request, "").0, 200, "{request}");
        for foreign in ["Origin: https://evil.example\r\n", "X-Forwarded-For: 10.0.0.1\r\n"] {
            assert_eq!(send(&server.admin, &request, foreign).0, 403, "{request} {foreign}");
        }
    }
    assert_eq!(
        send(&server.public, "GET /v1/users/1/feed", "X-Forwarded-For: 10.0.0.1\r\n").0,
        200
    );
    drop(server);
    let mut refused = tributary(&["serve", "--data", data, "--listen", "127.0.0.1:0"]);
    let (code, _, error) =
        crate::commands::output(refused.env(crate::commands::ADMIN, "0.0.0.0:0"));
    assert!(code == 3 && error.contains("admin.listen"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(60));
}
