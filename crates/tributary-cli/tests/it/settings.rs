//! The settings of the command, and the form of its log.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::commands::{Serving, output, tributary};
use crate::support::{root, scratch};

/// A server process with JSON logs at the finest level. Posts, credentials and control characters
/// of requests are not in its log.
#[test]
fn logs_are_json_without_texts_secrets_and_control_characters() {
    let dir = scratch();
    let log = dir.path().join("log");
    let data = dir.path().join("data");
    let mut serve = tributary(&["serve", "--listen", "127.0.0.1:0", "--data"]);
    serve.arg(&data).env("TRIBUTARY_LOG", "trace").env("TRIBUTARY_LOG__FORMAT", "json");
    let serving = Serving::start_with_errors(&mut serve, File::create(&log).unwrap());
    let send = |head: &str, body: &str| {
        let mut stream = TcpStream::connect(&serving.address).unwrap();
        let length = body.len();
        let head = format!("{head}\r\nHost: localhost\r\nConnection: close");
        write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        std::io::read_to_string(stream).unwrap()
    };
    let post = "POST /v1/users/1/posts HTTP/1.1\r\nContent-Type: application/json\r\n\
                Authorization: Bearer trib_marker-credential";
    assert!(send(post, r#"{"content": "marker-text"}"#).starts_with("HTTP/1.1 201"));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let get = format!("GET /v1/users/1/feed?x=%0a%1b HTTP/1.1\r\ntraceparent: 00-{trace}-1-1");
    assert!(send(&get, "").starts_with("HTTP/1.1 200"));
    let start = Instant::now();
    while !fs::read_to_string(&log).unwrap().ends_with('\n') {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing is logged");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(serving);

    let text = fs::read_to_string(&log).unwrap();
    for line in text.lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(parsed["level"].is_string() && parsed["message"].is_string(), "{line}");
    }
    for secret in ["marker-text", "marker-credential"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn settings_completions_and_manual_pages_are_printed() {
    let dir = scratch();
    let file = dir.path().join("tributary.toml");
    fs::write(&file, "[embedded]\ndir = \"data\"\n").unwrap();
    let file = file.to_str().unwrap();
    let (code, shown, _) =
        output(&mut tributary(&["config", "show", "--origin", "--config", file]));
    assert_eq!(code, 0);
    assert!(shown.contains("http.listen = \"127.0.0.1:7878\"  # default\n"), "{shown}");
    assert!(shown.contains(&format!("embedded.dir = \"data\"  # {file}\n")), "{shown}");
    let (code, example, _) = output(&mut tributary(&["config", "default"]));
    let expected = fs::read_to_string(root().join("packaging/tributary.toml")).unwrap();
    assert_eq!((code, example), (0, expected));
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = output(&mut tributary(&["completions", shell]));
        assert!(code == 0 && script.contains("migrate"), "{shell}");
    }
    let pages = dir.path().join("man");
    let (code, ..) = output(&mut tributary(&["man", pages.to_str().unwrap()]));
    assert_eq!(code, 0);
    for page in ["tributary.1", "tributary-serve.1", "tributary-keys-rotate.1"] {
        assert!(fs::read_to_string(pages.join(page)).unwrap().contains(".TH"), "{page}");
    }
}
