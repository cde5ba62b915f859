//! The pages in a real browser: `tests/browser/pages.mjs` drives Chromium on servers over MariaDB
//! shards, and on the data of the demo for pictures of every state.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use tributary::internal::folders::FolderRows;
use tributary::internal::{mysql_tables, now_ms};
use tributary::{Config, Tributary, UserId};
use tributary_bench::demo::{NetworkSize, follows, names, posts};
use tributary_server::{RouterOptions, Scope, Web};

use crate::graph::configure_hides;
use crate::support::credentials::TestCredentials;
use crate::support::database::Database;
use crate::support::fleet::TestFleet;
use crate::support::http::TestServer;
use crate::support::watch::until_warm;
use crate::support::world::{Oracle, World};
use crate::support::{root, run, scratch, skip, user_id};

/// A reader on the second server. It follows authors on both.
const READER: UserId = user_id(1);
/// An author on the first server that the reader follows.
const AUTHOR: u64 = 2;
/// Ten pages of 20 posts.
const POSTS: u64 = 200;
const DEMO: NetworkSize = NetworkSize { users: 400, posts: 12_000, shards: 4 };
/// A reader of the demo's data with posts of many authors.
const DEMO_READER: &str = "7";

/// The programs of the test: the browser, and the folder with the modules of Node.
struct Browser {
    chromium: PathBuf,
    modules: PathBuf,
}

impl Browser {
    /// `None`, listed as a skip, if the environment says `none`.
    fn find() -> Option<Self> {
        let path = |name| env::var_os(name).map(PathBuf::from);
        let need = "is not set; run `./dev test`, which installs the browser";
        let chromium =
            path("TRIBUTARY_CHROMIUM").unwrap_or_else(|| panic!("TRIBUTARY_CHROMIUM {need}"));
        if chromium.as_os_str() == "none" {
            skip("browser: disabled by TRIBUTARY_CHROMIUM=none");
            return None;
        }
        let modules = path("TRIBUTARY_TEST_MODULES")
            .unwrap_or_else(|| panic!("TRIBUTARY_TEST_MODULES {need}"));
        Some(Self { chromium, modules })
    }

    /// Runs the script. It asks for what `act` does, and fails this test if a check fails.
    fn drive(&self, mut settings: serde_json::Value, act: impl Fn(&str)) {
        settings["chromium"] = self.chromium.display().to_string().into();
        settings["modules"] = self.modules.display().to_string().into();
        let script = root().join("crates/tributary-cli/tests/browser/pages.mjs");
        let mut node = Command::new("node");
        node.arg(script).arg(settings.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = node.spawn().expect("node runs");
        let mut answers = child.stdin.take().unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            println!("{line}");
            if let Some(what) = line.strip_prefix("ASK ") {
                act(what);
                writeln!(answers, "done").unwrap();
            }
        }
        assert!(child.wait().unwrap().success(), "a check in the browser failed; see above");
    }
}

/// Texts as people write them.
fn text(n: u64) -> String {
    match n % 5 {
        0 => format!("שלום עולם, פוסט {n}"),
        1 => format!("Post {n} with <b>markup</b> & \"quotes\"\n- and\n- lines"),
        2 => format!("Emoji {n} 👩‍💻🇳🇱 and a word of {}", "many letters".repeat(20).replace(' ', "")),
        _ => format!("A plain post, number {n}."),
    }
}

fn world() -> World {
    let mut world = World::default();
    let now = now_ms();
    for author in 2..=9 {
        world.follow(READER.get(), author);
    }
    for n in 0..POSTS {
        let age_ms = i64::try_from(n * n).unwrap() * 1_000 + 60_000;
        world.post(2 + n * 7 % 8, now - age_ms, 1_000 + n * 37 % POSTS);
        world.posts.last_mut().unwrap().content = text(n);
    }
    world
}

/// Shards 0 and 2 on the first server, 1 and 3 on the second.
async fn fleet(world: &World) -> (Vec<Arc<Database>>, TestFleet) {
    let servers = Database::start_mariadb(2);
    let fleet = TestFleet::on(&servers);
    for (server, database) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {database}")];
        statements.extend(mysql_tables(database));
        server.execute(&statements).await;
    }
    fleet.load(world).await;
    (servers, fleet)
}

fn options() -> RouterOptions {
    let mut options = RouterOptions::default();
    options.web = Some(Web::new(true).with_examples([7, 12, 30, 44].map(UserId::from).to_vec()));
    options
}

async fn serve(tributary: Tributary) -> TestServer {
    TestServer::start_as(tributary, options()).await
}

fn url(server: &TestServer) -> String {
    format!("http://{}", server.address)
}

/// A server on new data of the demo.
async fn demo() -> (TestServer, tempfile::TempDir) {
    let dir = scratch();
    let data = dir.path().join("data");
    let rows = || {
        let graph = follows(DEMO);
        let posts = posts(DEMO, &graph, now_ms());
        FolderRows { shards: DEMO.shards, follows: graph, posts, names: names(DEMO) }
    };
    FolderRows::build(&data, "demo", rows, |_| ()).unwrap();
    (serve(Tributary::open(&Config::embedded(&data)).await.unwrap()).await, dir)
}

#[test]
fn pages_work_in_a_browser() {
    let Some(browser) = Browser::find() else { return };
    run(async {
        let world = world();
        let oracle = Oracle::new(&world);
        let feed = oracle.feed(READER);
        let oracle: Vec<String> =
            feed.iter().map(|post| format!("{}-{}", post.key.author, post.key.post)).collect();
        let ((servers, fleet), (demo, _data)) = tokio::join!(fleet(&world), demo());
        // The server without memory stores no mutes and blocks.
        let config = fleet.config_for_writing().await;
        let cold = serve(Tributary::open(&config).await.unwrap()).await;
        configure_hides(&fleet);
        let mut config = fleet.config_for_writing().await;
        config.memory.budget = Some(64 << 20);
        let tributary = Tributary::open(&config).await.unwrap();
        until_warm(&tributary, READER, 20).await;
        let credentials = TestCredentials::new();
        let mut guarded = options();
        guarded.access = credentials.access();
        let (guarded, operators) =
            TestServer::start_pair(tributary.clone(), guarded, Some(config)).await;
        let warm = serve(tributary).await;
        let settings = json!({
            "guarded": url(&guarded), "operators": url(&operators),
            "token": credentials.token(READER.get()), "key": credentials.key(&[Scope::Admin]),
            "base": url(&warm), "cold": url(&cold), "demo": url(&demo), "shots": shots(),
            "reader": READER.to_string(), "author": AUTHOR.to_string(), "oracle": oracle,
            "demoReader": DEMO_READER,
        });
        let act = move |what: &str| match what {
            "kill" => servers[0].kill(),
            "start" => servers[0].launch(),
            other => panic!("unknown: {other}"),
        };
        tokio::task::spawn_blocking(move || browser.drive(settings, act)).await.unwrap();
    });
}

/// The folder of the pictures: in the folder of the build, so that people can look at them.
fn shots() -> String {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pages");
    println!("pictures: {}", dir.display());
    dir.display().to_string()
}
