//! `GET .../feed/new`: clients that read a timeline once and then only what is new never miss a
//! change, whatever its time says, and whatever other programs write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::time::sleep;
use tributary::internal::now_ms;
use tributary::news::{NewsEvent, NewsRequest};
use tributary::{Freshness, Limit, PageRequest, Post, Tributary, UserId};

use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::http::TestServer;
use crate::support::watch::{Watch, until_followed};
use crate::support::{run, seed, size, user_id};

const AUTHORS: u64 = 12;
/// A reader with a fixed follow list, and one whose list changes.
pub(crate) const STEADY: UserId = user_id(100);
pub(crate) const CHANGING: UserId = user_id(101);
/// Older posts of a shard are deleted now and then.
const POSTS_MAX: u64 = 2_000;
/// Divided by the shards: followers that no other test data have, one for each shard.
const UNRELATED: u64 = 2_000;
/// Enough for the news of several seconds: an update moves many posts.
const MEMORY: usize = 256 << 20;
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A post that is dated further ahead is hidden until its time comes.
const AHEAD_MS: i64 = 60_000;
/// The hidden posts of the test are due within this time, or in the next century.
pub(crate) const DUE_MAX: Duration = Duration::from_secs(2);
const CENTURY_MS: i64 = 4_102_444_800_000;
/// The writers pause and a client is compared after one poll of this number on average.
const CHECKED_EVERY: u32 = 8;
/// Horizons of two nodes can differ by this time.
const STEP: Duration = Duration::from_millis(20);

/// Executes statements on one shard in a transaction, as another program would.
pub(crate) async fn execute(
    fleet: &TestFleet,
    shard: u64,
    statements: Vec<String>,
    pause: Duration,
) {
    let index = usize::try_from(shard).unwrap();
    let Some((server, database)) = fleet.databases.get(index) else {
        let file = fleet.dir.path().join(format!("data/shard-{shard}.sqlite"));
        let work = move || {
            let mut connection = rusqlite::Connection::open(file).unwrap();
            connection.busy_timeout(WAIT_MAX).unwrap();
            let kind = rusqlite::TransactionBehavior::Immediate;
            let transaction = connection.transaction_with_behavior(kind).unwrap();
            for sql in statements {
                transaction.execute_batch(&sql.replace("D.", "")).unwrap();
            }
            transaction.commit().unwrap();
        };
        return tokio::task::spawn_blocking(work).await.unwrap();
    };
    let mut connection = server.connect().await;
    let sql = |text: &str| text.replace("D.", &format!("{database}."));
    connection.query_drop("BEGIN").await.unwrap();
    for statement in statements {
        connection.query_drop(sql(&statement)).await.unwrap();
    }
    // Posts of other shards, with later times, become visible during this pause.
    sleep(pause).await;
    connection.query_drop("COMMIT").await.unwrap();
}

/// The end and the pauses of all writers.
#[derive(Default)]
pub(crate) struct Writers {
    ended: AtomicBool,
    /// Held by the writers while they write.
    turn: RwLock<()>,
}

impl Writers {
    /// The writers end after their current transactions.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(crate) fn have_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Waits until no writer writes. None does while the result exists.
    pub(crate) async fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.turn.write().await
    }
}

/// Writes random changes until the end: late, equal and future times, edits, moves, deletions,
/// follows, and transactions that are larger than an answer.
pub(crate) async fn write(fleet: &TestFleet, shard: u64, writers: &Writers) {
    let mut rng = StdRng::seed_from_u64(seed(900 + shard));
    let mut next = (shard + 1) * 1_000_000;
    while !writers.have_ended() {
        let author = rng.random_range(0..AUTHORS / SHARDS) * SHARDS + shard;
        // Many posts have the same time, and some an old one.
        let time = 1_000 * (100 + next % 1_000_000 / 20) - rng.random_range(0..3) * 7_000;
        let time = i64::try_from(time).unwrap();
        // A bounded number of posts, or the changes of a second would not fit into memory.
        let old = format!("user_id = {author} AND tweet_id < {}", next - POSTS_MAX);
        let newest = format!("user_id = {author} AND tweet_id > {}", next - 40);
        let some = format!(
            "user_id = {author} AND tweet_id > {} AND tweet_id % 7 = {}",
            next - 400,
            rng.random_range(0..7)
        );
        let mut insert = |text: &str, time: i64| {
            next += 1;
            format!(
                "INSERT INTO D.tweets (tweet_id, user_id, content, timestamp) \
                 VALUES ({next}, {author}, '{text} {next}', {time})"
            )
        };
        // The time of these posts comes while the test runs.
        let due_max = i64::try_from(DUE_MAX.as_millis()).unwrap();
        let soon = now_ms() + AHEAD_MS + rng.random_range(-500..due_max);
        let statements = match rng.random_range(0..13) {
            0 => (0..rng.random_range(2..40)).map(|_| insert("one of many", time)).collect(),
            1 => vec![format!("UPDATE D.tweets SET content = 'edit {next}' WHERE {some}")],
            2 => vec![format!("UPDATE D.tweets SET timestamp = timestamp + 1 WHERE {some}")],
            3 => vec![format!("DELETE FROM D.tweets WHERE {some}")],
            4 => {
                let first = insert("replaced", time);
                let same = format!("UPDATE D.tweets SET content = 'twice' WHERE tweet_id = {next}");
                vec![first, same]
            }
            5 if CHANGING.get() % SHARDS == shard && rng.random_range(0..3) == 0 => {
                change_lists(&mut rng, fleet.databases.is_empty())
            }
            // A client reads the whole timeline after a follow, so it is bounded.
            7 => vec![format!("DELETE FROM D.tweets WHERE {old}")],
            10 => vec![insert("soon", soon)],
            11 => vec![format!("UPDATE D.tweets SET timestamp = {soon} WHERE {newest}")],
            12 => vec![insert("late", CENTURY_MS)],
            _ => vec![insert("post", time)],
        };
        let pause = Duration::from_millis(rng.random_range(0..20));
        let turn = writers.turn.read().await;
        execute(fleet, shard, statements, pause).await;
        drop(turn);
        sleep(pause / 4).await;
    }
}

/// Changes the follow list, or the mutes if the fleet has the table: embedded shards do.
fn change_lists(rng: &mut StdRng, has_mutes: bool) -> Vec<String> {
    if has_mutes && rng.random_bool(0.3) {
        return vec![change_mutes(rng)];
    }
    let user = rng.random_range(0..AUTHORS);
    let leave = format!(
        "DELETE FROM D.followers WHERE follower_user_id = {CHANGING} AND followed_user_id = {user}"
    );
    let follow = format!("INSERT INTO D.followers VALUES ({CHANGING}, {user})");
    match rng.random_range(0..3) {
        0 => vec![leave],
        1 => vec![leave, follow],
        _ => vec![leave.clone(), follow, leave],
    }
}

fn change_mutes(rng: &mut StdRng) -> String {
    let user = rng.random_range(0..AUTHORS);
    match rng.random_bool(0.5) {
        true => format!("INSERT OR IGNORE INTO D.mutes VALUES ({CHANGING}, {user})"),
        false => format!(
            "DELETE FROM D.mutes WHERE muter_user_id = {CHANGING} AND muted_user_id = {user}"
        ),
    }
}

/// A timeline by (author, post): time and text.
pub(crate) type Timeline = BTreeMap<(UserId, u64), (i64, String)>;

fn entry(post: &Post) -> ((UserId, u64), (i64, String)) {
    ((post.key.author, post.key.post.get()), (post.key.time, post.content.clone()))
}

/// The whole timeline, at least as fresh as `token`.
pub(crate) async fn whole(tributary: &Tributary, reader: UserId, token: &Freshness) -> Timeline {
    let mut timeline = Timeline::new();
    let limit = Limit::new(Limit::MAX).unwrap();
    let mut request = PageRequest::default().limit(limit).at_least(token.clone());
    loop {
        let page = tributary.home_timeline(reader, &request).await.unwrap();
        assert!(page.is_complete() && page.fresh_enough, "{:?}", page.missing);
        timeline.extend(page.posts.iter().map(entry));
        let Some(next) = page.next else { return timeline };
        request = request.from(next);
    }
}

/// A client that follows the rules of the documentation.
struct Client {
    reader: UserId,
    timeline: Timeline,
    token: Freshness,
    /// Texts that were received, to tell a missed change from a late one.
    received: usize,
    /// The posts that came, by their time too: each comes once.
    seen: BTreeSet<(UserId, u64, i64)>,
    twice: usize,
    rereads: usize,
    gaps: usize,
}

impl Client {
    async fn start(node: &Tributary, reader: UserId) -> Self {
        let first = node.news(reader, &NewsRequest::default()).await.unwrap();
        assert!(first.events.is_empty() && !first.gap && !first.freshness.is_empty());
        let timeline = whole(node, reader, &first.freshness).await;
        Self::with(reader, timeline, first.freshness)
    }

    /// Starts with a page and its own token, as clients do that know no other.
    async fn start_with_page(node: &Tributary, reader: UserId) -> Self {
        let page = node.home_timeline(reader, &PageRequest::default()).await.unwrap();
        let timeline = whole(node, reader, &page.freshness).await;
        let token = page.freshness.to_string().parse().unwrap();
        Self::with(reader, timeline, token)
    }

    fn with(reader: UserId, timeline: Timeline, token: Freshness) -> Self {
        let seen = BTreeSet::new();
        Self { reader, timeline, token, received: 0, seen, twice: 0, rereads: 0, gaps: 0 }
    }

    /// Asks once. Returns whether more is known already.
    async fn poll(&mut self, node: &Tributary, limit: u8) -> bool {
        let limit = Limit::new(limit).unwrap();
        let request = NewsRequest::since(self.token.clone()).limit(limit);
        let news = node.news(self.reader, &request).await.unwrap();
        assert!(news.events.len() <= limit.get());
        if news.gap {
            assert!(news.events.is_empty());
            self.gaps += 1;
            self.timeline = whole(node, self.reader, &news.freshness).await;
        }
        for event in news.events {
            self.received += 1;
            if let NewsEvent::Post(post) = &event {
                let ((author, id), (time, _)) = entry(&post.to_post());
                self.twice += usize::from(!self.seen.insert((author, id, time)));
            }
            match event {
                NewsEvent::Post(post) | NewsEvent::Update(post) => {
                    self.timeline.extend([entry(&post.to_post())]);
                }
                NewsEvent::Delete { author, post } => {
                    self.timeline.remove(&(author, post.get()));
                }
                NewsEvent::Follow { freshness, .. }
                | NewsEvent::Unmute { freshness, .. }
                | NewsEvent::Unblock { freshness, .. } => {
                    self.rereads += 1;
                    self.timeline = whole(node, self.reader, &freshness).await;
                }
                NewsEvent::Unfollow { user, .. }
                | NewsEvent::Mute { user, .. }
                | NewsEvent::Block { user, .. } => {
                    self.timeline.retain(|(author, _), _| *author != user);
                }
            }
        }
        self.token = news.freshness;
        news.more
    }

    /// Asks until the position of every shard in `end` is reached.
    async fn finish(&mut self, node: &Tributary, end: &Freshness) {
        let start = Instant::now();
        let positions = |token: &Freshness| -> BTreeMap<_, _> {
            token.positions().iter().map(|(identity, at)| (identity.0, at.0)).collect()
        };
        let end = positions(end);
        loop {
            let more = self.poll(node, 50).await;
            let token = positions(&self.token);
            if !more && end.iter().all(|(identity, at)| token.get(identity) >= Some(at)) {
                return;
            }
            assert!(start.elapsed() < WAIT_MAX, "{token:?} does not reach {end:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// While hidden posts become visible, the client has what the databases show at each moment.
    async fn check_until_due(&mut self, node: &Tributary, end: &Freshness, checked: &Tributary) {
        let last = Instant::now() + DUE_MAX + Duration::from_millis(500);
        let mut is_last = false;
        while !is_last {
            is_last = Instant::now() > last;
            self.check(node, end, checked).await;
            sleep(STEP * 5).await;
        }
    }

    /// At a moment without writers, the client has what the databases show.
    async fn check(&mut self, node: &Tributary, end: &Freshness, checked: &Tributary) {
        let before = whole(checked, self.reader, &Freshness::default()).await;
        sleep(STEP).await;
        self.finish(node, end).await;
        sleep(STEP).await;
        let after = whole(checked, self.reader, &Freshness::default()).await;
        let has = |all: &Timeline, some: &Timeline| {
            let missing = some.iter().find(|(key, value)| all.get(*key) != Some(*value));
            missing.map(|it| format!("{it:?}"))
        };
        let context = format!("reader {}, {} events", self.reader, self.received);
        assert_eq!(has(&self.timeline, &before), None, "a post is missing: {context}");
        assert_eq!(has(&after, &self.timeline), None, "a post is visible too early: {context}");
    }
}

fn assert_same(client: &Client, expected: &Timeline, context: &str) {
    let differs: BTreeSet<_> = client
        .timeline
        .iter()
        .filter(|(key, value)| expected.get(*key) != Some(*value))
        .chain(expected.iter().filter(|(key, value)| client.timeline.get(*key) != Some(*value)))
        .collect();
    let (gaps, received, rereads) = (client.gaps, client.received, client.rereads);
    assert!(
        differs.is_empty(),
        "{context}, reader {}, {received} events, {rereads} rereads, {gaps} gaps: {differs:?}",
        client.reader
    );
}

pub(crate) async fn prepare(fleet: &TestFleet, backend: Backend) -> Vec<Tributary> {
    let nodes = if backend == Backend::Sqlite { 1 } else { 2 };
    let mut opened = Vec::new();
    for _ in 0..nodes {
        let mut config = fleet.config_with_memory(MEMORY);
        config.memory.news = Some(MEMORY / 2);
        opened.push(Tributary::open(&config).await.unwrap());
    }
    for reader in [STEADY, CHANGING] {
        let rows: Vec<String> = (0..AUTHORS).map(|user| format!("({reader}, {user})")).collect();
        let sql = format!("INSERT INTO D.followers VALUES {}", rows.join(","));
        execute(fleet, reader.get() % SHARDS, vec![sql], Duration::ZERO).await;
    }
    // Tokens from before the start of a node are a gap, so each log gets a transaction after it.
    let mut started = Freshness::default();
    for shard in 0..SHARDS {
        let follower = UNRELATED * SHARDS + shard;
        let sql = format!("INSERT INTO D.followers VALUES ({follower}, {follower})");
        execute(fleet, shard, vec![sql], Duration::ZERO).await;
        started.merge(&opened[0].freshness(user_id(shard)).await);
    }
    for node in &opened {
        Watch::start(node).await.until_heads_known().await;
        until_followed(node, STEADY, &started).await;
    }
    opened
}

async fn end_of_logs(node: &Tributary) -> Freshness {
    let mut end = Freshness::default();
    for shard in 0..SHARDS {
        end.merge(&node.freshness(user_id(shard)).await);
    }
    end
}

#[test]
fn a_client_of_news_misses_nothing_that_anyone_writes() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let nodes = prepare(&fleet, backend).await;
            let checked = Tributary::open_read_only(&fleet.config()).await.unwrap();
            let writers = Writers::default();
            let write = join_all((0..SHARDS).map(|shard| write(&fleet, shard, &writers)));
            let read = async {
                let last = nodes.last().unwrap();
                let mut clients = [
                    Client::start(&nodes[0], STEADY).await,
                    Client::start_with_page(last, STEADY).await,
                    Client::start(last, CHANGING).await,
                ];
                let mut rng = StdRng::seed_from_u64(seed(950));
                let enough = size(400, 5_000);
                let start = Instant::now();
                let has_enough = |client: &Client| client.received >= enough;
                let mut checks = 0;
                while !clients.iter().all(has_enough) || clients[2].rereads == 0 {
                    assert!(start.elapsed() < WAIT_MAX * 4, "{}", clients[0].received);
                    let client = rng.random_range(0..clients.len());
                    // A token of one node is good on the other.
                    let node = &nodes[rng.random_range(0..nodes.len())];
                    clients[client].poll(node, rng.random_range(1..30)).await;
                    if rng.random_range(0..CHECKED_EVERY) == 0 {
                        let _pause = writers.pause().await;
                        let end = end_of_logs(node).await;
                        clients[client].check(node, &end, &checked).await;
                        checks += 1;
                    }
                    sleep(Duration::from_millis(rng.random_range(0..20))).await;
                }
                writers.end();
                println!("  {backend:?}: {checks} checks while others write");
                clients
            };
            let (_, mut clients) = futures_util::future::join(write, read).await;
            let end = end_of_logs(&nodes[0]).await;
            // The first page that is read from a database does not know which position it shows.
            let gaps_max = [0, usize::from(backend != Backend::Sqlite), 0];
            let (node, end, checked) = (&nodes[0], &end, &checked);
            let checks = clients.iter_mut().map(|it| it.check_until_due(node, end, checked));
            join_all(checks).await;
            for (client, gaps_max) in clients.iter_mut().zip(gaps_max) {
                let expected = whole(checked, client.reader, &Freshness::default()).await;
                assert_same(client, &expected, &format!("{backend:?}"));
                assert!(client.gaps <= gaps_max, "{backend:?}: {} gaps", client.gaps);
            }
            assert_eq!(clients[0].twice, 0, "{backend:?}");
            assert!(clients[2].rereads > 0, "{backend:?}: no follow was seen");
        }
    });
}

async fn get(server: &TestServer, reader: UserId, query: &str) -> Value {
    let answer = server.get(&format!("/v1/users/{reader}/feed/new?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Asks until there is an event.
async fn events(server: &TestServer, reader: UserId, token: &str) -> Value {
    let start = Instant::now();
    loop {
        let answer = get(server, reader, &format!("since={token}")).await;
        if answer["events"] != json!([]) || answer["gap"] == true {
            return answer;
        }
        assert!(start.elapsed() < WAIT_MAX, "{answer}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn token(answer: &Value) -> String {
    answer["token"].as_str().unwrap().to_owned()
}

/// Requests news that must have what a token has. Returns also whether the answer says that it has
/// not.
async fn with(
    server: &TestServer,
    reader: UserId,
    query: &str,
    required: &Freshness,
) -> (Value, bool) {
    let request = hyper::Request::get(format!("/v1/users/{reader}/feed/new?{query}"))
        .header("tributary-freshness", server.cursor_keys.seal_freshness(required));
    let answer = server.send(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let is_lost = answer.headers.contains_key("tributary-freshness-lost");
    (answer.json(), is_lost)
}

async fn refuses_bad_queries(server: &TestServer) {
    for (query, code) in [
        ("since=x", "invalid_freshness"),
        ("limit=0", "invalid_limit"),
        ("count=1", "invalid_query"),
        ("count=2", "invalid_query"),
    ] {
        let answer = server.get(&format!("/v1/users/7/feed/new?{query}")).await;
        assert_eq!(answer.problem(), (400, code.to_owned()), "{query}");
        let parameter = query.split('=').next().unwrap();
        assert!(answer.body.contains(parameter), "{answer:?}");
    }
}

/// The first answer to a request with the token of a write has the write.
async fn has_what_is_required(
    server: &TestServer,
    tributary: &Tributary,
    (reader, author): (UserId, UserId),
) {
    for number in 0..10 {
        let begin = with(server, reader, "", &tributary.freshness(author).await).await.0;
        let written = tributary.follow(reader, user_id(20 + number)).await.unwrap().freshness;
        let query = format!("since={}", token(&begin));
        let (answer, is_lost) = with(server, reader, &query, &written).await;
        assert_eq!((&answer["events"][0]["type"], is_lost), (&json!("follow"), false));
    }
}

/// Tokens of positions that the log has not, or that this process has not followed.
async fn has_gaps(
    server: &TestServer,
    tributary: &Tributary,
    (reader, author): (UserId, UserId),
    left: &str,
) {
    let keys = &server.cursor_keys;
    // The log was restored from a backup and is shorter than the token.
    let mut beyond = tributary.freshness(author).await;
    let (identity, mut end) = beyond.positions()[0];
    end.0 += 1_000;
    beyond.add(identity, end);
    let shorter = get(server, reader, &format!("since={}", keys.seal_freshness(&beyond))).await;
    assert_eq!((&shorter["gap"], &shorter["complete"]), (&json!(true), &json!(true)));
    let page = hyper::Request::get("/v1/users/7/feed?require=complete")
        .header("tributary-freshness", keys.seal_freshness(&beyond));
    let page = server.send(page).await;
    assert_eq!(page.problem(), (503, "incomplete".to_owned()));
    assert_eq!(page.header("tributary-freshness-lost"), "true");
    let (answer, is_lost) = with(server, reader, &format!("since={left}"), &beyond).await;
    assert_eq!((&answer["gap"], is_lost), (&json!(false), true));
    let count = format!("count=1&since={left}");
    let (answer, is_lost) = with(server, reader, &count, &beyond).await;
    assert_eq!((&answer["posts"], is_lost), (&json!(0), true));
    // A position that this process has not followed is a gap, and its answer continues.
    let old = keys.seal_freshness(&Freshness::default());
    let gap = get(server, reader, &format!("since={old}")).await;
    assert_eq!((&gap["gap"], &gap["events"]), (&json!(true), &json!([])));
    let next = get(server, reader, &format!("since={}", token(&gap))).await;
    assert_eq!((&next["gap"], &next["events"]), (&json!(false), &json!([])));
}

#[test]
fn news_are_read_over_http() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let mut config = fleet.config_with_memory(MEMORY);
        config.write.enabled = true;
        let tributary = Tributary::open(&config).await.unwrap();
        let (reader, author) = (user_id(7), user_id(9));
        let server = TestServer::start(tributary.clone()).await;
        Watch::start(&tributary).await.until_heads_known().await;
        let start = get(&server, reader, "").await;
        assert_eq!(start["events"], json!([]));
        assert_eq!(
            (&start["gap"], &start["more"], &start["complete"]),
            (&json!(false), &json!(false), &json!(true))
        );

        tributary.follow(reader, author).await.unwrap();
        let followed = events(&server, reader, &token(&start)).await;
        assert_eq!(followed["events"][0]["type"], "follow");
        assert_eq!(followed["events"][0]["user_id"], "9");
        let request = hyper::Request::get("/v1/users/7/feed")
            .header("tributary-freshness", followed["events"][0]["token"].as_str().unwrap());
        assert_eq!(server.send(request).await.json()["posts"], json!([]));

        let published = tributary.publish(author, "a \"text\"", None).await.unwrap();
        let post = events(&server, reader, &token(&followed)).await;
        assert_eq!(post["events"][0]["type"], "post");
        let page = server.get("/v1/users/7/feed").await.json();
        assert_eq!(post["events"][0]["post"], page["posts"][0]);
        let count = get(&server, reader, &format!("count=1&since={}", token(&followed))).await;
        assert_eq!((&count["posts"], &count["gap"]), (&json!(1), &json!(false)));

        let deleted = tributary.delete_post(author, published.post.key.post).await.unwrap();
        let (deleted, is_lost) =
            with(&server, reader, &format!("since={}", token(&post)), &deleted).await;
        assert!(!is_lost);
        let id = published.post.key.post.to_string();
        let expected = json!([{"type": "delete", "author_id": "9", "post_id": id}]);
        assert_eq!(deleted["events"], expected);
        // The post is gone, so a client that has not seen it never does.
        let both = events(&server, reader, &token(&followed)).await;
        assert_eq!(both["events"], expected);

        tributary.unfollow(reader, author).await.unwrap();
        let left = events(&server, reader, &token(&deleted)).await;
        assert_eq!(left["events"][0]["type"], "unfollow");
        let nothing = get(&server, reader, &format!("since={}&limit=5", token(&left))).await;
        assert_eq!(nothing["events"], json!([]));

        refuses_bad_queries(&server).await;
        has_what_is_required(&server, &tributary, (reader, author)).await;
        has_gaps(&server, &tributary, (reader, author), &token(&left)).await;
    });
}
