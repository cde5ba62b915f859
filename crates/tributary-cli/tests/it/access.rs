//! Access control: every route with every credential, cursors and tokens of others, and the checks
//! of a server without credentials.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hyper::{Method, Request};
use tributary::{Config, Cursor, Tributary};
use tributary_server::{Access, Scope};

use crate::commands::{Serving, output, tributary};
use crate::support::credentials::TestCredentials;
use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::http::{TestResponse, TestServer};
use crate::support::world::World;
use crate::support::{root, run, scratch};

/// The user whose objects the requests name. It has posts and a follow list.
const OWNER: u64 = 1;
/// A user that exists, and one that does not.
const STRANGERS: [u64; 2] = [2, 99];

/// Which credentials a route accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Open {
    /// Every request.
    Everybody,
    /// Users, and keys that read timelines or act as users.
    Readers,
    /// Users, and keys that act as users.
    Users,
    /// The owner, and keys that act as users.
    Owner,
    /// The owner, and keys that explain pages.
    Explain,
    /// Keys of administrators.
    Admin,
}

/// Every route: its path in the route table, and a valid request to it.
const ROUTES: &[(&str, Method, &str, &str, Open)] = &[
    ("/livez", Method::GET, "/livez", "", Open::Everybody),
    ("/healthz", Method::GET, "/healthz", "", Open::Everybody),
    ("/readyz", Method::GET, "/readyz", "", Open::Everybody),
    ("/openapi.json", Method::GET, "/openapi.json", "", Open::Everybody),
    ("/docs", Method::GET, "/docs", "", Open::Everybody),
    ("/metrics", Method::GET, "/metrics", "", Open::Admin),
    ("/shards", Method::GET, "/shards", "", Open::Admin),
    ("/keys", Method::GET, "/keys", "", Open::Admin),
    ("/reload", Method::POST, "/reload", "", Open::Admin),
    ("/user/feed/{user_id}", Method::GET, "/user/feed/1", "", Open::Owner),
    ("/v1/users/{user_id}/feed", Method::GET, "/v1/users/1/feed", "", Open::Owner),
    ("/v1/users/{user_id}/feed", Method::GET, "/v1/users/1/feed?explain=1", "", Open::Explain),
    ("/v1/users/{user_id}/posts", Method::GET, "/v1/users/1/posts", "", Open::Readers),
    (
        "/v1/users/{user_id}/posts",
        Method::POST,
        "/v1/users/1/posts",
        r#"{"content": "x"}"#,
        Open::Owner,
    ),
    ("/v1/users/{user_id}/posts/{post_id}", Method::GET, "/v1/users/1/posts/5", "", Open::Readers),
    (
        "/v1/users/{user_id}/posts/{post_id}",
        Method::PATCH,
        "/v1/users/1/posts/7",
        r#"{"content": "y"}"#,
        Open::Owner,
    ),
    ("/v1/users/{user_id}/posts/{post_id}", Method::DELETE, "/v1/users/1/posts/6", "", Open::Owner),
    ("/v1/users", Method::GET, "/v1/users?handle=a", "", Open::Users),
    ("/v1/posts", Method::GET, "/v1/posts?posts=1:5", "", Open::Readers),
    ("/v1/posts/counts", Method::GET, "/v1/posts/counts?posts=1:5", "", Open::Readers),
    ("/v1/users/{user_id}/feed/new", Method::GET, "/v1/users/1/feed/new", "", Open::Owner),
    ("/v1/users/{user_id}/feed/live", Method::GET, "/v1/users/1/feed/live", "", Open::Owner),
    ("/v1/users/{user_id}/feed/marker", Method::GET, "/v1/users/1/feed/marker", "", Open::Owner),
    (
        "/v1/users/{user_id}/feed/marker",
        Method::PUT,
        "/v1/users/1/feed/marker",
        r#"{"author_id": "2", "post_id": "50"}"#,
        Open::Owner,
    ),
    ("/v1/users/{user_id}/following", Method::GET, "/v1/users/1/following", "", Open::Owner),
    (
        "/v1/users/{user_id}/following",
        Method::POST,
        "/v1/users/1/following",
        r#"{"follow": ["3"]}"#,
        Open::Owner,
    ),
    (
        "/v1/users/{user_id}/following/{followee_id}",
        Method::PUT,
        "/v1/users/1/following/3",
        "",
        Open::Owner,
    ),
    (
        "/v1/users/{user_id}/following/{followee_id}",
        Method::DELETE,
        "/v1/users/1/following/3",
        "",
        Open::Owner,
    ),
    ("/v1/users/{user_id}/followers", Method::GET, "/v1/users/1/followers", "", Open::Owner),
    ("/v1/users/{user_id}/counts", Method::GET, "/v1/users/1/counts", "", Open::Owner),
    (
        "/v1/users/{user_id}/relationships",
        Method::GET,
        "/v1/users/1/relationships?users=2,3",
        "",
        Open::Owner,
    ),
    ("/v1/users/{user_id}/mutes", Method::GET, "/v1/users/1/mutes", "", Open::Owner),
    ("/v1/users/{user_id}/mutes/{muted_id}", Method::PUT, "/v1/users/1/mutes/4", "", Open::Owner),
    (
        "/v1/users/{user_id}/mutes/{muted_id}",
        Method::DELETE,
        "/v1/users/1/mutes/4",
        "",
        Open::Owner,
    ),
    ("/v1/users/{user_id}/blocks", Method::GET, "/v1/users/1/blocks", "", Open::Owner),
    (
        "/v1/users/{user_id}/blocks/{blocked_id}",
        Method::PUT,
        "/v1/users/1/blocks/4",
        "",
        Open::Owner,
    ),
    (
        "/v1/users/{user_id}/blocks/{blocked_id}",
        Method::DELETE,
        "/v1/users/1/blocks/4",
        "",
        Open::Owner,
    ),
];

async fn protected(credentials: &TestCredentials) -> (TestServer, TestFleet) {
    let (tributary, access, fleet) = protected_fleet(credentials).await;
    (TestServer::start_with(tributary, access).await, fleet)
}

/// Users with posts and follows, and access with these credentials.
pub(crate) async fn protected_fleet(
    credentials: &TestCredentials,
) -> (Tributary, Access, TestFleet) {
    let mut world = World::default();
    world.follow(OWNER, 2);
    world.follow(OWNER, 4);
    for n in 0..6 {
        world.post(OWNER, 1_650_000_000_000 + n, 5 + n.unsigned_abs());
        world.post(2, 1_650_000_000_000 + n, 50 + n.unsigned_abs());
    }
    let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
    fleet.load(&world).await;
    let mut config = fleet.config_with_memory(32 << 20);
    config.write.enabled = true;
    (Tributary::open(&config).await.unwrap(), credentials.access(), fleet)
}

/// Sends a request with a credential, if there is one.
async fn send(
    server: &TestServer,
    method: &Method,
    path: &str,
    body: &'static str,
    credential: Option<&str>,
) -> TestResponse {
    let mut request =
        Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(credential) = credential {
        request = request.header("authorization", format!("Bearer {credential}"));
    }
    server.send_with(request, body.into()).await
}

async fn get(server: &TestServer, path: &str, credential: &str) -> TestResponse {
    send(server, &Method::GET, path, "", Some(credential)).await
}

#[test]
fn every_route_answers_every_credential_by_its_rule() {
    let table = fs::read_to_string(root().join("crates/tributary-server/src/lib.rs")).unwrap();
    let paths: Vec<&str> =
        table.split(".route(").skip(1).filter_map(|r| r.split('"').nth(1)).collect();
    for path in &paths {
        assert!(ROUTES.iter().any(|(route, ..)| route == path), "{path} is not in this test");
    }
    assert!(ROUTES.iter().all(|(route, ..)| paths.contains(route)));
    let credentials = TestCredentials::new();
    let key = |scope: Scope| (scope.to_string(), credentials.key(&[scope]));
    let keys: Vec<(String, String)> = Scope::ALL.into_iter().map(key).collect();
    run(async {
        let (server, _fleet) = protected(&credentials).await;
        let owner = credentials.token(OWNER);
        for (_, method, path, body, open) in ROUTES {
            let at = |credential| send(&server, method, path, body, credential);
            let everybody = *open == Open::Everybody;
            let anonymous = at(None).await;
            assert_eq!(anonymous.status.is_success(), everybody, "{method} {path}");
            let wrong = at(Some("trib_000000000000_x")).await;
            assert_eq!(wrong.problem(), (401, "unauthenticated".into()), "{method} {path}");
            if !everybody {
                assert_eq!(anonymous.problem(), (401, "unauthenticated".into()));
                assert_eq!(anonymous.header("www-authenticate"), "Bearer");
            }
            let own = at(Some(&owner)).await;
            assert_eq!(own.status.is_success(), *open != Open::Admin, "{method} {path}: {own:?}");
            for (scope, key) in &keys {
                let allowed = match open {
                    Open::Everybody => true,
                    Open::Readers => ["timelines:read", "act-as-user"].contains(&scope.as_str()),
                    Open::Owner | Open::Users => scope == "act-as-user",
                    Open::Explain => scope == "explain",
                    Open::Admin => scope == "admin",
                };
                let answer = at(Some(key)).await;
                assert_eq!(answer.status.is_success(), allowed, "{method} {path} {scope}");
                if !allowed {
                    assert_eq!(answer.problem(), (403, "missing_scope".into()));
                }
            }
            strangers(&server, &credentials, (method, *path, *body, *open)).await;
        }
        let after = get(&server, "/v1/users/1/following", &owner).await.json();
        assert_eq!(after["following"][0]["user_id"], "2", "no stranger has changed anything");
    });
}

/// Another user gets the same answer whether or not either of the two users exists.
async fn strangers(
    server: &TestServer,
    credentials: &TestCredentials,
    (method, path, body, open): (&Method, &str, &'static str, Open),
) {
    let unknown_owner = path.replace("/1", "/77");
    let mut hidden = Vec::new();
    for stranger in STRANGERS {
        let token = credentials.token(stranger);
        for path in [path, &unknown_owner] {
            let answer = send(server, method, path, body, Some(&token)).await;
            match open {
                Open::Everybody | Open::Users => assert!(answer.status.is_success()),
                Open::Readers => assert!(path == unknown_owner || answer.status.is_success()),
                Open::Admin => assert_eq!(answer.problem().0, 403),
                Open::Owner | Open::Explain => {
                    assert_eq!(answer.problem(), (404, "not_found".into()), "{method} {path}");
                    hidden.push(answer.json()["detail"].clone());
                }
            }
        }
    }
    hidden.dedup();
    assert!(hidden.len() <= 1, "{hidden:?}");
}

#[test]
fn the_state_of_shards_and_cached_pages_need_a_credential() {
    let credentials = TestCredentials::new();
    let (admin, act) = (credentials.key(&[Scope::Admin]), credentials.key(&[Scope::ActAsUser]));
    run(async {
        let (server, _fleet) = protected(&credentials).await;
        let ready = server.get("/readyz").await.json();
        assert_eq!(ready, serde_json::json!({"status": "ok"}));
        assert!(get(&server, "/readyz", &admin).await.json()["shards"].is_array());
        assert!(get(&server, "/readyz", &act).await.json()["shards"].is_null());

        let path = "/v1/users/1/feed?limit=3";
        let hits = async || {
            let metrics = get(&server, "/metrics", &admin).await.body;
            metrics.contains("page_cache_hits_total")
                && !metrics.contains("page_cache_hits_total 0")
        };
        let start = Instant::now();
        while !hits().await {
            assert!(start.elapsed() < Duration::from_secs(20), "no page was cached");
            assert_eq!(get(&server, path, &credentials.token(OWNER)).await.status, 200);
            // Many reads at once exceed the limit of a user.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(get(&server, path, &act).await.status, 200);
        assert_eq!(server.get(path).await.status, 401);
        assert_eq!(get(&server, path, &credentials.token(2)).await.status, 404);
        assert_eq!(get(&server, path, &admin).await.status, 403);
        assert_eq!(get(&server, path, "x").await.status, 401);
    });
}

#[test]
fn cursors_belong_to_their_reader_and_list_but_tokens_to_all() {
    let credentials = TestCredentials::new();
    let key = credentials.key(&[Scope::ActAsUser]);
    run(async {
        let (server, _fleet) = protected(&credentials).await;
        let (one, two) = (credentials.token(OWNER), credentials.token(2));
        let cursor = async |path: &str, credential: &str| {
            let page = get(&server, path, credential).await.json();
            page["next"].as_str().unwrap_or_else(|| panic!("{path}: {page}")).to_owned()
        };
        let home = cursor("/v1/users/1/feed?limit=2", &one).await;
        let list = cursor("/v1/users/1/following?limit=1", &one).await;
        let author = cursor("/v1/users/1/posts?limit=2", &two).await;
        let by_key = cursor("/v1/users/1/posts?limit=2", &key).await;
        let status = async |path: String, credential: &str| {
            let answer = get(&server, &path, credential).await;
            if answer.status != 200 {
                assert_eq!(answer.problem(), (400, "invalid_cursor".into()));
                assert!(answer.body.contains("start at the newest page"), "{}", answer.body);
            }
            answer.status.as_u16()
        };
        let plain = Cursor::newest().to_string();
        let mut changed = home.clone();
        changed.replace_range(5..6, if &home[5..6] == "A" { "B" } else { "A" });
        for (path, text, credential, expected) in [
            ("/v1/users/1/feed", &home, &one, 200),
            ("/v1/users/1/feed?limit=5", &home, &key, 200),
            ("/user/feed/1", &home, &one, 200),
            ("/v1/users/2/feed", &home, &two, 400),
            ("/v1/users/2/feed", &home, &key, 400),
            ("/v1/users/1/posts", &home, &one, 400),
            ("/v1/users/1/following", &home, &one, 400),
            ("/v1/users/1/following", &list, &one, 200),
            ("/v1/users/2/following", &list, &two, 400),
            ("/v1/users/1/posts", &author, &two, 200),
            ("/v1/users/1/posts", &author, &one, 400),
            ("/v1/users/1/posts", &author, &key, 400),
            ("/v1/users/2/posts", &author, &two, 400),
            ("/v1/users/1/posts", &by_key, &key, 200),
            ("/v1/users/1/posts", &by_key, &two, 400),
            ("/v1/users/1/feed", &plain, &one, 400),
            ("/v1/users/1/feed", &changed, &one, 400),
        ] {
            let sign = if path.contains('?') { '&' } else { '?' };
            let answered = status(format!("{path}{sign}cursor={text}"), credential).await;
            assert_eq!(answered, expected, "{path} with {text}");
        }

        let body = r#"{"content": "hello"}"#;
        let written = send(&server, &Method::POST, "/v1/users/2/posts", body, Some(&two)).await;
        let token = written.header("tributary-freshness").to_owned();
        let with = async |token: &str| {
            let request = Request::get("/v1/users/1/feed?limit=1")
                .header("authorization", format!("Bearer {one}"))
                .header("tributary-freshness", token);
            server.send(request).await
        };
        let page = with(&token).await;
        assert_eq!(page.json()["posts"][0]["content"], "hello", "the token of another reader");
        assert_eq!(with(&format!("{token}, {token}")).await.status, 200);
        let unsealed = &token[..token.len() - 24];
        for bad in [unsealed, "AQ", &token[1..], &format!("{token}A"), &home] {
            assert_eq!(with(bad).await.problem(), (400, "invalid_freshness".into()), "{bad}");
        }
    });
}

#[test]
fn without_credentials_only_this_machine_is_served() {
    run(async {
        let dir = scratch();
        let tributary = Tributary::open(&Config::embedded(&dir.path().join("data"))).await.unwrap();
        let server = TestServer::start(tributary.clone()).await;
        let status = async |headers: &[(&str, &str)]| {
            let mut request = Request::get("/v1/users/1/feed");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = server.send(request).await;
            if answer.status == 200 { (200, String::new()) } else { answer.problem() }
        };
        assert_eq!(status(&[]).await.0, 200);
        assert_eq!(status(&[("host", "feeds.example.org")]).await.0, 200);
        assert_eq!(status(&[("origin", "http://localhost")]).await.0, 200);
        for host in ["10.0.0.1", "evil.example"] {
            assert_eq!(status(&[("host", host)]).await, (421, "unknown_host".into()));
        }
        for header in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "localhost"),
        ] {
            assert_eq!(status(&[header]).await, (403, "local_only".into()), "{header:?}");
        }
        let any = "0.0.0.0:0".parse().unwrap();
        let refused = tributary_server::bind(any, &[]).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    });
}

#[test]
fn insecure_serves_everything_and_is_logged() {
    let dir = scratch();
    let data = dir.path().join("data");
    let mut process = tributary(&[
        "serve",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "0.0.0.0:0",
        "--insecure",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let warned = log.any(|line| line.contains("WARN") && line.contains("without access control"));
    let mut printed = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut printed).unwrap();
    let address = printed.trim().rsplit("http://").next().unwrap().to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = "GET /v1/users/1/feed HTTP/1.1\r\nHost: feeds.example\r\nX-Forwarded-For: 10.0.0.1\r\n\
                Connection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(warned && answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The answer to a GET with a credential.
fn get_from(serving: &Serving, path: &str, credential: &str) -> String {
    let mut stream = TcpStream::connect(&serving.address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n\
         Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn keys_are_made_rotated_and_revoked_while_the_server_runs() {
    let credentials = TestCredentials::new();
    let (keys_file, folder) = (credentials.keys_file(), credentials.folder());
    fs::remove_file(&keys_file).unwrap();
    let config = folder.join("tributary.toml");
    let data = folder.join("data");
    fs::write(
        &config,
        format!(
            "[embedded]\ndir = {data:?}\n[http]\nlisten = \"0.0.0.0:0\"\n{}",
            credentials.section()
        ),
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let serve = || tributary(&["serve", "--config", config]);
    let (code, _, error) = output(&mut serve());
    assert!(code == 3 && error.contains("tributary keys create"), "{error}");

    let done = |arguments: &[&str]| {
        let mut keys = tributary(&["keys", "--config", config]);
        let (code, text, error) = output(keys.args(arguments));
        assert_eq!(code, 0, "{arguments:?}: {error}");
        text.trim_end().to_owned()
    };
    let first = done(&["create", "--name", "web", "--scope", "act-as-user", "--expires", "90d"]);
    let id = first.split('_').nth(1).unwrap();
    let serving = Serving::start(&mut serve());
    let until = |credential: &str, expected: &str| {
        let start = Instant::now();
        loop {
            let answer = get_from(&serving, "/v1/users/1/feed", credential);
            if answer.starts_with(&format!("HTTP/1.1 {expected}")) {
                return answer;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{answer}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    assert!(serving.get("/v1/users/1/feed").starts_with("HTTP/1.1 401"));
    assert!(serving.get("/livez").starts_with("HTTP/1.1 200"));
    let page = until(&first, "200");
    let second = done(&["rotate", id]);
    until(&second, "200");
    assert!(done(&["list"]).contains("web"));
    assert!(!done(&["list"]).contains(&first[first.len() - 20..]), "the list shows no secret");
    done(&["revoke", id, "--secret", "1"]);
    until(&first, "401");
    let token = credentials.token(1);
    until(&token, "200");
    done(&["revoke", "--user", "1"]);
    until(&token, "401");
    until(&second, "200");
    assert!(done(&["list"]).contains("user 1"));
    done(&["revoke", id]);
    until(&second, "401");

    // A restart keeps the keys that seal cursors.
    drop(serving);
    let third = done(&["create", "--name", "web", "--scope", "act-as-user"]);
    let prev = page.split("\"prev\":\"").nth(1).unwrap().split('"').next().unwrap();
    let serving = Serving::start(&mut serve());
    let answer = get_from(&serving, &format!("/v1/users/1/feed?cursor={prev}"), &third);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(folder.join("cursor-keys").exists());
}

#[test]
fn commands_for_keys_report_mistakes() {
    let credentials = TestCredentials::new();
    let config = credentials.folder().join("tributary.toml");
    let data = credentials.folder().join("data");
    fs::write(&config, format!("[embedded]\ndir = {data:?}\n{}", credentials.section())).unwrap();
    let config = config.to_str().unwrap();
    let id = "000000000000";
    let cases: [(&[&str], i32, &str); 6] = [
        (&["create", "--name", "x", "--scope", "root"], 2, "timelines:read"),
        (&["create", "--name", "x"], 2, "--scope"),
        (&["create", "--name", "x", "--scope", "admin", "--expires", "soon"], 2, "90d"),
        (&["rotate", id], 3, "there is no key"),
        (&["revoke"], 2, "--kid"),
        (&["revoke", id, "--user", "1"], 2, "cannot be used with"),
    ];
    for (arguments, expected, message) in cases {
        let mut keys = tributary(&["keys", "--config", config]);
        let (code, _, error) = output(keys.args(arguments));
        assert!(code == expected && error.contains(message), "{arguments:?}: {code} {error}");
    }
    let (code, _, error) = output(&mut tributary(&["serve", "--config", config, "--insecure"]));
    assert!(code == 3 && error.contains("auth.keys_file"), "{error}");
}
