//! The real follows and posts of 629 accounts: all are loaded, and pages are compared with the
//! oracle.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

use flate2::read::GzDecoder;
use tributary::internal::Follow;
use tributary::{Post, Tributary, UserId};
use tributary_server::Scope;

use crate::support::credentials::TestCredentials;
use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::http::TestServer;
use crate::support::watch::Watch;
use crate::support::world::{Oracle, Walk, World, check_walk};
use crate::support::{post_id, run, shared_data, size, user_id};

/// Readers whose timelines are walked at the same time; enough to keep the servers busy.
const READERS_AT_ONCE: usize = 4;

fn congress() -> Option<&'static (World, Oracle)> {
    static WORLD: LazyLock<Option<(World, Oracle)>> = LazyLock::new(|| {
        let dir = shared_data()?;
        let world = World { follows: follows(&dir), posts: posts(&dir), ..World::default() };
        assert_eq!((world.follows.len(), world.posts.len()), (93_989, 157_817));
        let oracle = Oracle::new(&world);
        Some((world, oracle))
    });
    WORLD.as_ref()
}

fn csv(dir: &Path, name: &str) -> csv::Reader<impl Read> {
    csv::Reader::from_reader(GzDecoder::new(File::open(dir.join(name)).unwrap()))
}

fn follows(dir: &Path) -> Vec<Follow> {
    let mut reader = csv(dir, "follows.csv.gz");
    let rows = reader.deserialize::<(u64, u64)>().map(Result::unwrap);
    let follow = |(a, b)| Follow { follower: user_id(a), followee: user_id(b) };
    rows.map(follow).collect()
}

fn posts(dir: &Path) -> Vec<Post> {
    let mut reader = csv(dir, "tweets.csv.gz");
    let rows = reader.deserialize::<(u64, u64, String, i64)>().map(Result::unwrap);
    let post = |(post, author, content, time)| {
        let key = tributary::PostKey { time, post: post_id(post), author: user_id(author) };
        Post::new(key, content)
    };
    rows.map(post).collect()
}

#[test]
fn congress_on_sqlite() {
    imported(Backend::Sqlite);
}

#[test]
fn congress_on_mariadb() {
    imported(Backend::MariaDb);
}

#[test]
fn congress_on_mysql() {
    imported(Backend::MySql);
}

/// A few readers are enough: only the index differs from our own tables.
#[test]
fn congress_in_old_tables() {
    by_plain_sql(Backend::MariaDb);
    by_plain_sql(Backend::MySql);
}

/// A memory budget that holds all data.
const MEMORY: usize = 1 << 30;

/// The readers whose timelines are walked: one in this many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// With memory, which is filled during the walks.
    InMemory(usize),
    /// Without memory, so each page queries the databases.
    Cold(usize),
}

/// Loads the data by `tributary import`, twice: the second run finds every row stored already.
fn imported(backend: Backend) {
    let Some((_, oracle)) = congress() else { return };
    let Some(fleet) = run(TestFleet::new(backend, Tables::Ours)) else { return };
    let dir = shared_data().unwrap();
    let import = || {
        let output = Command::new(env!("CARGO_BIN_EXE_tributary"))
            .arg("import")
            .args(fleet.source_args())
            .arg("--follows")
            .arg(dir.join("follows.csv.gz"))
            .arg("--posts")
            .arg(dir.join("tweets.csv.gz"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = import();
    println!("{backend:?}: {first}");
    assert!(first.contains("follows: 93989 added, 0 already there, 0 refused"), "{first}");
    assert!(first.contains("posts: 157817 added, 0 already there, 0 refused"), "{first}");
    let second = import();
    assert!(second.contains("follows: 0 added, 93989 already there, 0 refused"), "{second}");
    assert!(second.contains("posts: 0 added, 157817 already there, 0 refused"), "{second}");
    let cold = if backend == Backend::Sqlite { size(40, 4) } else { size(100, 10) };
    run(async {
        for who in [Readers::InMemory(size(10, 1)), Readers::Cold(cold)] {
            check(&format!("{backend:?}, imported"), &fleet, oracle, who).await;
        }
    });
}

fn by_plain_sql(backend: Backend) {
    let Some((world, oracle)) = congress() else { return };
    let Some(fleet) = run(TestFleet::new(backend, Tables::Old)) else { return };
    run(fleet.load_by_sql(world));
    run(check(&format!("{backend:?}, old tables"), &fleet, oracle, Readers::Cold(size(100, 10))));
}

async fn check(name: &str, fleet: &TestFleet, oracle: &'static Oracle, who: Readers) {
    let (memory, step) = match who {
        Readers::InMemory(step) => (MEMORY, step),
        Readers::Cold(step) => (0, step),
    };
    let tributary = Tributary::open(&fleet.config_with_memory(memory)).await.unwrap();
    let start = Instant::now();
    let readers = oracle.readers();
    assert_eq!(readers.len(), 570);
    let mut by_length: Vec<(usize, UserId)> =
        readers.iter().map(|reader| (oracle.feed(*reader).len(), *reader)).collect();
    by_length.sort();

    let first_pages = [1, 7, 20, 100].map(|limit| Walk { limit, pages_max: 5, with_prev: true });
    let to_the_end = |limit| Walk { limit, pages_max: usize::MAX, with_prev: false };
    let mut walks: BTreeMap<UserId, Vec<Walk>> =
        readers.iter().map(|reader| (*reader, first_pages.to_vec())).collect();
    // To the end: 20 readers spread over all lengths, and the 5 shortest with the smallest pages.
    for n in 0..20 {
        let (_, reader) = by_length[n * (by_length.len() - 1) / 19];
        walks.entry(reader).or_default().push(to_the_end(100));
    }
    for (_, reader) in &by_length[..5] {
        walks.entry(*reader).or_default().extend([1, 7].map(to_the_end));
    }
    walks = walks.into_iter().step_by(step).collect();
    let pages = walk_all(&tributary, oracle, walks).await;
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {memory} bytes of memory, {pages} pages, 0 differences, {seconds:.0} s");
    if memory > 0 {
        let watch = Watch::start(&tributary).await;
        watch.until_audited(1).await;
        let counted = watch.counters().await;
        assert_eq!((counted["mismatched"], counted["evictions"]), (0, 0), "{counted:?}");
        println!("{counted:?}");
    }
}

/// Walks several readers at the same time, and each reader's walks one after the other. Returns
/// the number of pages.
async fn walk_all(
    tributary: &Tributary,
    oracle: &'static Oracle,
    walks: BTreeMap<UserId, Vec<Walk>>,
) -> usize {
    let walks = Arc::new(Mutex::new(walks));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..READERS_AT_ONCE {
        let (walks, tributary) = (Arc::clone(&walks), tributary.clone());
        tasks.spawn(async move {
            let take = || walks.lock().unwrap().pop_first();
            let mut pages = 0;
            while let Some((reader, walks)) = take() {
                let feed = oracle.feed(reader);
                for walk in walks {
                    pages += check_walk(&tributary, &feed, reader, walk).await;
                }
            }
            pages
        });
    }
    tasks.join_all().await.into_iter().sum()
}

/// Pages that are read with a credential.
const PAGES_WITH_CREDENTIAL: usize = 10;

/// HTTP preserves ids above 2^53, and emoji, newlines and quotes in texts, byte for byte. A reader
/// gets the same posts with a key, with a token, and without credentials.
#[test]
fn congress_over_http_is_byte_exact_with_and_without_credentials() {
    let Some((world, oracle)) = congress() else { return };
    let credentials = TestCredentials::new();
    let key = credentials.key(&[Scope::ActAsUser]);
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        fleet.load(world).await;
        let tributary = fleet.open().await;
        let server = TestServer::start(tributary.clone()).await;
        let protected = TestServer::start_with(tributary, credentials.access()).await;
        let contents: HashMap<String, &str> = world
            .posts
            .iter()
            .map(|post| (post.key.post.to_string(), post.content.as_str()))
            .collect();
        for reader in oracle.readers().iter().step_by(30) {
            let answer = server.get(&format!("/user/feed/{reader}?limit=100")).await.json();
            let feed = answer["feed"].as_array().unwrap();
            assert_eq!(feed.len(), oracle.feed(*reader).len().min(100));
            for tweet in feed {
                let id = tweet["tweet_id"].as_str().unwrap();
                assert_eq!(tweet["content"].as_str().unwrap(), contents[id]);
            }
            let token = credentials.token(reader.get());
            for credential in [&key, &token] {
                with_credential(&protected, credential, *reader, &oracle.feed(*reader)).await;
            }
        }
    });
}

/// Compares the first pages of a reader with the oracle.
async fn with_credential(
    server: &TestServer,
    credential: &str,
    reader: UserId,
    expected: &[&Post],
) {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    for _ in 0..PAGES_WITH_CREDENTIAL {
        let path = format!("/v1/users/{reader}/feed?limit=100{cursor}");
        let page = server.get_as(&path, credential).await;
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        for post in page["posts"].as_array().unwrap() {
            found.push((post["post_id"].to_string(), post["author_id"].to_string()));
        }
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let text =
        |post: &&Post| (format!("\"{}\"", post.key.post), format!("\"{}\"", post.key.author));
    let first: Vec<_> = expected.iter().take(100 * PAGES_WITH_CREDENTIAL).map(text).collect();
    assert!(found == first, "reader {reader}: {} posts, not {}", found.len(), first.len());
}
