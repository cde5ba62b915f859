//! The command line: its output, its exit codes and the files it creates.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::fleet::{Backend, Tables, TestFleet, every_backend};
use crate::support::{run, scratch};

pub(crate) fn tributary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.args(arguments).stdin(Stdio::null()).env(ADMIN, "127.0.0.1:0");
    command
}

/// The variable with the address for operators. Servers of tests choose a free port.
pub(crate) const ADMIN: &str = "TRIBUTARY_ADMIN__LISTEN";

/// Exit code, standard output and standard error.
pub(crate) fn output(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// The answer to a `GET` of this path on a new connection.
pub(crate) fn get(address: &str, path: &str) -> String {
    get_with(address, path, "")
}

/// The same with further headers, each with its line end.
pub(crate) fn get_with(address: &str, path: &str, headers: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
    write!(stream, "{head}\r\n{headers}\r\n").unwrap();
    std::io::read_to_string(stream).unwrap()
}

/// Posts JSON.
pub(crate) fn post(address: &str, path: &str, body: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    std::io::read_to_string(stream).unwrap()
}

/// A server process. Dropping it kills the process.
pub(crate) struct Serving {
    pub(crate) process: Child,
    pub(crate) address: String,
    /// The address for operators, once it is printed.
    admin: Receiver<String>,
    printed: String,
}

impl Serving {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with_errors(command, Stdio::null())
    }

    /// Starts the process with its log in this place.
    pub(crate) fn start_with_errors(command: &mut Command, errors: impl Into<Stdio>) -> Self {
        command.env(ADMIN, "127.0.0.1:0").stdout(Stdio::piped()).stderr(errors);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        let address = loop {
            let line = lines.next().expect("the process ended before it served").unwrap();
            printed += &format!("{line}\n");
            if let Some((_, address)) = line.split_once("http://") {
                break address.split(['/', ' ', '\'']).next().unwrap().to_owned();
            }
        };
        // Further output is read and dropped, so that the process never blocks on a full pipe.
        let (send, admin) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("administration on ") {
                    let _ = send.send(address.to_owned());
                }
            }
        });
        Self { process, address, admin, printed }
    }

    pub(crate) fn get(&self, path: &str) -> String {
        get(&self.address, path)
    }

    /// The address for operators, which only `serve` prints. To be called once.
    pub(crate) fn admin_address(&self) -> String {
        self.admin.recv_timeout(Duration::from_secs(30)).unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_demo_starts_quickly_and_reuses_its_data() {
    let dir = scratch();
    let data = dir.path().join("tributary-demo");
    let with_slash = format!("{}/", data.display());
    let demo = || tributary(&["demo", "--listen", "127.0.0.1:0", "--data", &with_slash]);
    let start = Instant::now();
    let first = Serving::start(&mut demo());
    println!("demo: first answer after {:.1} s", start.elapsed().as_secs_f64());
    // Twice the goal of 15 s, because the machine may be busy.
    assert!(start.elapsed() < Duration::from_secs(30));
    let answer = first.get("/v1/users/1/feed?limit=5");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(first.printed.contains("10000 users"));

    // A second process refuses to start, because one process owns the folder.
    let (code, _, error) = output(&mut demo());
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("another process owns the folder"), "{error}");
    // Another process may read the folder at the same time.
    let feed = ["feed", "1", "--data", data.to_str().unwrap()];
    let (code, text, _) = output(&mut tributary(&feed));
    assert!(code == 0 && text.contains("Home timeline of user 1"), "{text}");
    let explain = ["explain", "1", "--data", data.to_str().unwrap()];
    let (code, text, _) = output(&mut tributary(&explain));
    assert!(code == 0 && text.contains("1. follow list for 1 on shard-"), "{text}");
    let (code, text, _) = output(tributary(&explain).arg("--json"));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(code == 0 && json["from"] == "databases" && json["reader"] == "1", "{text}");
    drop(first);

    let start = Instant::now();
    let second = Serving::start(&mut demo());
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(
        second.get("/v1/users/1/feed?limit=5").split("\r\n\r\n").nth(1),
        answer.split("\r\n\r\n").nth(1)
    );
    drop(second);

    // Without a flag, a page is that of the folder that `serve` uses, or else of the demo.
    let mut feed = tributary(&["feed", "1"]);
    feed.current_dir(dir.path());
    let (code, text, error) = output(&mut feed);
    assert!(code == 0 && text.contains("Home timeline of user 1"), "{text}{error}");
    let served = dir.path().join("tributary-data");
    drop(Serving::start(&mut tributary(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        served.to_str().unwrap(),
    ])));
    let (code, served, error) = output(&mut feed);
    assert!(code == 0 && served != text, "{served}{error}");
}

#[test]
fn the_version_is_that_of_the_command() {
    let (code, text, _) = output(&mut tributary(&["--version"]));
    assert_eq!((code, text), (0, format!("tributary {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn an_interrupted_demo_leaves_no_incomplete_data() {
    let dir = scratch();
    let data = dir.path().join("demo");
    let arguments = ["demo", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let mut process =
        tributary(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let making = dir.path().join("demo.making/shard-0.sqlite");
    let give_up = Instant::now() + Duration::from_secs(30);
    while !making.exists() {
        assert!(
            Instant::now() < give_up && !data.exists(),
            "the demo finished before the test saw its unfinished data"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!data.exists());
    let serving = Serving::start(&mut tributary(&arguments));
    assert!(serving.get("/v1/users/1/feed").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_signal_stops_the_server_with_exit_code_0() {
    for signal in ["-TERM", "-INT"] {
        let dir = scratch();
        let data = dir.path().join("data");
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
        let mut serving = Serving::start(&mut tributary(&arguments));
        // An idle keep-alive connection must not delay the stop.
        let _idle = std::net::TcpStream::connect(&serving.address).unwrap();
        assert!(serving.get("/livez").ends_with("ok\n"));
        let start = Instant::now();
        serving.signal(signal);
        let status = serving.process.wait().unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

const FOLLOWS: &str =
    "followed_user_id,follower_user_id\n2,1\n3,1\nx,1\n3\n3,1\n9223372036854775808,1\n";

fn posts() -> Vec<u8> {
    let mut bytes = b"tweet_id,user_id,content,timestamp\n\
        10,2,\"two\nlines, \"\"quoted\"\"\",1650000000000\n\
        11,3,no time,\n\
        10,2,\"two\nlines, \"\"quoted\"\"\",1650000000000\n\
        10,6,\"the id of another, on the same shard\",1650000000001\n\
        10,3,the same id on another shard,1650000000002\n\
        12,2,"
        .to_vec();
    bytes.extend(b"\xff\xfe,1650000000003\n13,2,,1650000000004\n14,2,a,b,1650000000005\n");
    bytes
}

#[test]
fn an_import_reports_bad_rows_loads_all_others_and_can_be_repeated() {
    for (backend, fleet) in run(every_backend()) {
        let dir = fleet.dir.path();
        fs::write(dir.join("follows.csv"), FOLLOWS).unwrap();
        let mut gzip =
            GzEncoder::new(fs::File::create(dir.join("posts.gz")).unwrap(), Compression::fast());
        gzip.write_all(&posts()).unwrap();
        gzip.finish().unwrap();
        let import = || {
            let mut command = tributary(&["import"]);
            command.args(fleet.source_args());
            command.arg("--follows").arg(dir.join("follows.csv"));
            command.arg("--posts").arg(dir.join("posts.gz"));
            output(&mut command)
        };
        let (code, text, error) = import();
        assert_eq!(code, 4, "{backend:?}: {text}{error}");
        assert!(text.contains("follows: 2 added, 1 already there, 3 refused"), "{text}");
        assert!(text.contains("posts: 3 added, 1 already there, 4 refused"), "{text}");
        for message in [
            "follows.csv: line 4: followed_user_id is not an id",
            "follows.csv: line 5: 1 fields instead of 2",
            "follows.csv: line 7: followed_user_id is not an id",
            "posts.gz: line 4: timestamp",
            "posts.gz: line 7: post id 10 already belongs to another post",
            "posts.gz: line 9: content: invalid utf-8",
            "posts.gz: line 11: 5 fields instead of 4",
        ] {
            assert!(error.contains(message), "{backend:?}: {message}\n{error}");
        }
        let (code, text, _) = import();
        assert_eq!(code, 4);
        assert!(text.contains("follows: 0 added, 3 already there, 3 refused"), "{text}");
        assert!(text.contains("posts: 0 added, 4 already there, 4 refused"), "{text}");

        let mut feed = tributary(&["feed", "1", "--json"]);
        let (code, text, error) = output(feed.args(fleet.source_args()));
        assert_eq!(code, 0, "{error}");
        let page: Value = serde_json::from_str(&text).unwrap();
        let contents: Vec<&str> = page["posts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|post| post["content"].as_str().unwrap())
            .collect();
        assert_eq!(contents, ["", "the same id on another shard", "two\nlines, \"quoted\""]);
    }
}

/// Adopted tables may lack the unique key that prevents duplicate rows, and the SQL mode of a
/// server may truncate values that do not fit.
#[test]
fn an_import_refuses_tables_without_unique_keys_and_never_truncates_a_text() {
    run(async {
        let fleet = TestFleet::new(Backend::MariaDb, Tables::Old).await.unwrap();
        let dir = fleet.dir.path();
        fs::write(dir.join("f.csv"), "follower_user_id,followed_user_id\r\n4,8\r\nx,1\r\n")
            .unwrap();
        let posts = "tweet_id,user_id,content,timestamp\n1,8,short,1764000001\n2,8,much too long,1764000002\n3,8,🎉,1764000003\n";
        fs::write(dir.join("p.csv"), posts).unwrap();
        let import = || {
            let mut command = tributary(&["import"]);
            command.args(fleet.source_args());
            command.arg("--follows").arg(dir.join("f.csv"));
            output(command.arg("--posts").arg(dir.join("p.csv")))
        };
        let (code, _, error) = import();
        assert!(code == 3 && error.contains("CREATE UNIQUE INDEX tributary_follow"), "{error}");

        for (server, database) in &fleet.databases {
            let unique = "(follower_user_id, followed_user_id)";
            server
                .execute(&[
                    format!(
                        "CREATE UNIQUE INDEX tributary_follow ON {database}.followers {unique}"
                    ),
                    format!(
                        "ALTER TABLE {database}.tweets MODIFY content VARCHAR(5) \
                         CHARACTER SET latin1"
                    ),
                    "SET GLOBAL sql_mode = ''".into(),
                ])
                .await;
        }
        let (code, text, error) = import();
        for (server, _) in &fleet.databases {
            server.execute(&["SET GLOBAL sql_mode = DEFAULT".into()]).await;
        }
        assert_eq!(code, 4, "{error}");
        assert!(text.contains("follows: 1 added, 0 already there, 1 refused"), "{text}");
        assert!(text.contains("posts: 1 added, 0 already there, 2 refused"), "{text}");
        for message in ["f.csv: line 3:", "p.csv: line 3:", "p.csv: line 4:"] {
            assert!(error.contains(message), "{message}\n{error}");
        }
    });
}

#[test]
fn a_damaged_folder_is_refused() {
    let dir = scratch();
    let data = dir.path().join("data");
    let serve = || {
        let mut command = tributary(&["serve", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(&data);
        command
    };
    drop(Serving::start(serve().env("TRIBUTARY_EMBEDDED__SHARDS", "8")));
    let folder = data.join("folder.toml");
    let text = fs::read_to_string(&folder).unwrap();
    assert!(text.contains("shards = 8"));
    for damaged in [Some(b"shards = 8\n\xff".as_slice()), None] {
        match damaged {
            Some(bytes) => fs::write(&folder, bytes).unwrap(),
            None => fs::remove_file(&folder).unwrap(),
        }
        let (code, _, error) = output(&mut serve());
        assert!(code == 3 && error.contains("folder.toml cannot be used"), "{error}");
    }
    fs::write(&folder, text).unwrap();
    let shard = data.join("shard-3.sqlite");
    fs::rename(&shard, dir.path().join("elsewhere")).unwrap();
    let (code, _, error) = output(&mut serve());
    assert!(code == 3 && error.contains("shard-3.sqlite cannot be used"), "{error}");
    fs::rename(dir.path().join("elsewhere"), &shard).unwrap();
    drop(Serving::start(&mut serve()));
    let demo = ["demo", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let (code, _, error) = output(&mut tributary(&demo));
    assert!(code == 3 && error.contains("data that is not the demo's"), "{error}");
}

#[test]
fn an_import_into_sqlite_is_fast() {
    let dir = scratch();
    let mut text = String::from("tweet_id,user_id,content,timestamp\n");
    for n in 0..60_000u64 {
        let content = "word ".repeat(20);
        text +=
            &format!("{},{},{content},{}\n", n * 7_919 % 1_000_003, n % 997, 1_764_000_000_000 + n);
    }
    fs::write(dir.path().join("posts.csv"), text).unwrap();
    let mut command = tributary(&["import", "--data"]);
    let command =
        command.arg(dir.path().join("data")).arg("--posts").arg(dir.path().join("posts.csv"));
    let (code, text, error) = output(command);
    assert_eq!(code, 0, "{error}");
    println!("{text}");
    let rate = text.split('(').nth(1).unwrap().split(' ').next().unwrap();
    // The goal is 20,000 rows/s; the machine may be busy with other tests.
    assert!(rate.parse::<f64>().unwrap() > 7_000.0, "{text}");
}

#[test]
fn wrong_usage_exits_2_and_missing_prerequisites_exit_3_with_the_fix() {
    let dir = scratch();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown = file("a.toml", "[http]\nlistn = \"127.0.0.1:1\"\n");
    let broken = file("b.toml", "[http\n");
    let not_ours = file("not-a-folder", "");
    let nowhere = dir.path().join("nowhere").to_str().unwrap().to_owned();
    let no_header = file("no-header.csv", "1,2\n");
    let cases: [(&[&str], i32, &str); 14] = [
        (&[], 2, "Usage"),
        (&["sevre"], 2, "serve"),
        (&["feed"], 2, "USER"),
        (&["feed", "-5"], 2, "unexpected argument"),
        (&["explain"], 2, "USER"),
        (&["feed", "x"], 2, "an id must be a decimal number"),
        (&["feed", "1", "--limit", "101"], 2, "1..=100"),
        (&["feed", "1", "--cursor", "x"], 2, "not a cursor"),
        (&["import"], 2, "--follows"),
        (
            &["serve", "--config", &unknown],
            3,
            "line 2: unknown key `listn`; did you mean `listen`?",
        ),
        (&["serve", "--config", &broken], 3, "b.toml: line 1"),
        (&["serve", "--data", &not_ours], 3, "cannot be used"),
        (&["feed", "1", "--data", &nowhere], 3, "tributary import"),
        (&["serve", "--data", &nowhere, "--listen", "0.0.0.0:0"], 3, "--insecure"),
    ];
    for (arguments, expected, message) in cases {
        let (code, _, error) = output(&mut tributary(arguments));
        assert_eq!(code, expected, "{arguments:?}: {error}");
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
    let import = ["import", "--data", &nowhere, "--follows", &no_header];
    let (code, _, error) = output(&mut tributary(&import));
    assert!(code == 1 && error.contains("has no column `follower_user_id`"), "{error}");
    assert!(Path::new(&nowhere).exists());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let serve = ["serve", "--data", &nowhere, "--listen", &address];
    let (code, _, error) = output(&mut tributary(&serve));
    assert!(code == 3 && error.contains("choose another address with --listen"), "{error}");
}
