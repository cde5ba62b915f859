//! Compares the rows of SQLite files with the log, for all kinds of statement, of this process and
//! of other programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::changes::{Bounds, Commit, FeedEvent};
use crate::model::{Post, ShardId};
use crate::shard::schema::SQLITE_SCHEMA;
use crate::shard::sqlite::{signed, unsigned};
use crate::shard::{
    Access, Deadline, FillAnswer, FillBatch, FillRequest, FillTarget, Fleet, HeadBatch, LogEnd,
    Source,
};
use crate::{Config, Tributary};

const SHARDS: u64 = 2;
const USERS: u64 = 6;
/// The posts table, for rows without references.
const TWEETS: &str = "tweets (tweet_id, user_id, content, timestamp)";

/// Memory is off, because it would follow the log too.
fn config(dir: &Path) -> Config {
    let variables = [
        ("TRIBUTARY_EMBEDDED__SHARDS".to_owned(), SHARDS.to_string()),
        ("TRIBUTARY_REQUEST__DEADLINE_MS".to_owned(), "60000".to_owned()),
        ("TRIBUTARY_MEMORY__BUDGET".to_owned(), "0".to_owned()),
    ];
    Config::from_folder(dir, variables).unwrap()
}

fn file(dir: &Path, shard: u64) -> PathBuf {
    dir.join(format!("shard-{shard}.sqlite"))
}

/// A connection as another program has it.
fn other_program(dir: &Path, shard: u64) -> Connection {
    let connection = Connection::open(file(dir, shard)).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// The rows of a file, or of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rows {
    posts: BTreeMap<PostKey, String>,
    follows: BTreeSet<Follow>,
}

impl Rows {
    fn of(connection: &Connection) -> Self {
        let mut rows = Self::default();
        let mut posts =
            connection.prepare("SELECT timestamp, tweet_id, user_id, content FROM tweets").unwrap();
        let mut posts = posts.query([]).unwrap();
        while let Some(row) = posts.next().unwrap() {
            let id = |column| unsigned(row, column).unwrap();
            let (post, author) = (PostId(id(1)), UserId(id(2)));
            let key = PostKey { time: row.get(0).unwrap(), post, author };
            rows.posts.insert(key, row.get(3).unwrap());
        }
        let mut follows = connection.prepare("SELECT * FROM followers").unwrap();
        let mut follows = follows.query([]).unwrap();
        while let Some(row) = follows.next().unwrap() {
            let id = |column| UserId(unsigned(row, column).unwrap());
            rows.follows.insert(Follow { follower: id(0), followee: id(1) });
        }
        rows
    }

    fn only_of(&self, user: UserId) -> Self {
        let mut rows = self.clone();
        rows.posts.retain(|key, _| key.author == user);
        rows.follows.retain(|follow| follow.follower == user);
        rows
    }

    fn take(&mut self, change: &Change) {
        match change {
            Change::Post(post) | Change::PostEdited(post) => {
                drop(self.posts.insert(post.key, post.content.clone()))
            }
            Change::PostGone(key) => drop(self.posts.remove(key)),
            Change::Follow(follow) => drop(self.follows.insert(*follow)),
            Change::Unfollow(follow) => drop(self.follows.remove(follow)),
            unknown => panic!("{unknown:?}"),
        }
    }

    /// The position and the rows of a fill with two answers: a tail and a follow list.
    fn filled(user: UserId, filled: &FillBatch) -> (LogPosition, Self) {
        let Bounds::Exact(at) = filled.bounds else { panic!("{filled:?}") };
        let [FillAnswer::Tail { posts, complete: true, .. }, FillAnswer::Follows(followees)] =
            filled.answers.as_slice()
        else {
            panic!("{filled:?}")
        };
        let followees = &followees.follows;
        assert!(posts.is_sorted_by(|a, b| a.key > b.key) && followees.is_sorted());
        let posts = posts.iter().map(|post| (post.key, post.content.clone())).collect();
        let follow = |followee: &UserId| Follow { follower: user, followee: *followee };
        (at, Self { posts, follows: followees.iter().map(follow).collect() })
    }
}

/// Receives the feed of one source.
struct Listener {
    source: Arc<Source>,
    events: mpsc::Receiver<Vec<FeedEvent>>,
    identity: LogIdentity,
    at: LogPosition,
    commits: Vec<Commit>,
    _task: JoinSet<()>,
}

impl Listener {
    /// Returns after the feed has begun. At most `capacity` batches wait for the listener.
    async fn with_capacity(fleet: &Fleet, shard: usize, capacity: usize) -> Self {
        let source = Arc::clone(&fleet.sources()[shard]);
        let (sender, events) = mpsc::channel(capacity);
        let mut task = JoinSet::new();
        task.spawn(Arc::clone(&source).follow(sender));
        let (identity, at) = (LogIdentity(0), LogPosition(0));
        let mut listener = Self { source, events, identity, at, commits: Vec::new(), _task: task };
        assert!(listener.receive().await, "Began comes first");
        listener
    }

    async fn new(fleet: &Fleet, shard: usize) -> Self {
        Self::with_capacity(fleet, shard, 2_000).await
    }

    /// Receives the next batch. Returns whether the feed began or restarted.
    async fn receive(&mut self) -> bool {
        let batch =
            soon().limit(self.events.recv()).await.expect("a batch arrives in time").unwrap();
        let mut began = false;
        for event in batch {
            match event {
                FeedEvent::Began { identity, at } => {
                    (self.identity, self.at, began) = (identity, at, true);
                    self.commits.clear();
                }
                FeedEvent::Commit(commit) => {
                    assert!(commit.at > self.at, "{commit:?} is not after {:?}", self.at);
                    self.at = commit.at;
                    self.commits.push(commit);
                }
                FeedEvent::Excluded(_) | FeedEvent::ShardUnknown(_) => unreachable!(),
                FeedEvent::Alive { .. } | FeedEvent::Late(_) => {}
                FeedEvent::Renamed { .. } => panic!("a file is never renamed"),
                FeedEvent::Lost(why) => panic!("{why}"),
            }
        }
        began
    }

    /// Receives everything up to the present end of the log.
    async fn catch_up(&mut self) {
        let LogEnd { identity, end, .. } = self.source.log_end(soon()).await.unwrap();
        assert_eq!(identity, self.identity);
        while self.at < end {
            assert!(!self.receive().await, "the feed restarted");
        }
    }

    /// The next commit.
    async fn next_commit(&mut self) -> Commit {
        let received = self.commits.len();
        while self.commits.len() == received {
            self.receive().await;
        }
        self.commits[received].clone()
    }

    async fn wait_for_restart(&mut self) {
        while !self.receive().await {}
    }

    async fn fill(&self, user: UserId) -> (LogPosition, Rows) {
        let request = |target| FillRequest { shard: self.source.shards()[0], user, target };
        let requests = [
            request(FillTarget::Tail { depth: 100_000 }),
            request(FillTarget::Follows { max: 1_000 }),
        ];
        let filled = self.source.fill(&requests, usize::MAX, soon()).await.unwrap();
        assert_eq!(filled.identity, self.identity);
        Rows::filled(user, &filled)
    }

    /// The rows of a fill, changed by all later commits that were received.
    fn replayed(&self, user: UserId, (at, mut rows): (LogPosition, Rows)) -> Rows {
        let later = self.commits.iter().filter(|commit| commit.at > at);
        for (_, change) in later.flat_map(|commit| &commit.changes) {
            rows.take(change);
        }
        rows.only_of(user)
    }
}

/// A statement of another program. It uses few ids, so that statements conflict.
fn foreign_statement(random: &mut StdRng) -> String {
    let mut id = || random.random_range(1..30);
    let (post, other, time) = (id(), id(), id() / 3);
    let user = id() % USERS;
    let friend = id() % USERS;
    let row = format!("({post}, {user}, 'text {other} of {post}', {time})");
    match id() {
        1..=3 => format!("INSERT INTO {TWEETS} VALUES {row}"),
        4 | 5 => format!("INSERT OR REPLACE INTO {TWEETS} VALUES {row}"),
        6 => format!("REPLACE INTO {TWEETS} VALUES {row}, ({other}, {friend}, 'second', {time})"),
        7 => format!("INSERT OR IGNORE INTO {TWEETS} VALUES {row}, ({other}, {user}, 'new', 1)"),
        8 => format!(
            "INSERT INTO {TWEETS} VALUES {row} ON CONFLICT (tweet_id) DO UPDATE \
             SET content = excluded.content, timestamp = excluded.timestamp"
        ),
        9 => format!("UPDATE tweets SET content = 'changed {time}' WHERE user_id = {user}"),
        10 => format!("UPDATE tweets SET timestamp = timestamp + 1 WHERE user_id = {user}"),
        11 => format!("UPDATE tweets SET user_id = {friend} WHERE user_id = {user}"),
        12 | 13 => {
            format!("UPDATE OR REPLACE tweets SET tweet_id = {other} WHERE tweet_id = {post}")
        }
        14 => format!("UPDATE OR FAIL tweets SET tweet_id = tweet_id + 1 WHERE user_id = {user}"),
        15 => format!("UPDATE OR IGNORE tweets SET tweet_id = {other}, user_id = {friend}"),
        16 => format!("DELETE FROM tweets WHERE user_id = {user} AND timestamp > {time}"),
        17 if post < 6 => "DELETE FROM tweets".into(),
        18 => format!("BEGIN; INSERT OR REPLACE INTO {TWEETS} VALUES {row}; ROLLBACK"),
        19 => format!(
            "BEGIN; DELETE FROM tweets WHERE tweet_id = {post}; INSERT INTO {TWEETS} VALUES {row}; \
             DELETE FROM followers WHERE follower_user_id = {user}; COMMIT"
        ),
        20..=22 => format!("INSERT OR IGNORE INTO followers VALUES ({user}, {friend})"),
        23 => format!("REPLACE INTO followers VALUES ({user}, {friend}), ({friend}, {user})"),
        24 => format!(
            "UPDATE OR REPLACE followers SET followed_user_id = {friend} \
             WHERE follower_user_id = {user}"
        ),
        25 => format!(
            "UPDATE OR IGNORE followers SET follower_user_id = {user} \
             WHERE follower_user_id = {friend}"
        ),
        26 if post < 8 => "DELETE FROM followers".into(),
        _ => format!("DELETE FROM followers WHERE followed_user_id = {friend}"),
    }
}

/// A write of this process.
async fn write_ourselves(tributary: &Tributary, random: &mut StdRng, published: &mut Vec<PostKey>) {
    let user = UserId(random.random_range(0..USERS));
    let friend = UserId(random.random_range(0..USERS));
    match random.random_range(0..6) {
        0 => published.push(tributary.publish(user, "own", None).await.unwrap().post.key),
        1 if !published.is_empty() => {
            let key = published.swap_remove(random.random_range(0..published.len()));
            tributary.delete_post(key.author, key.post).await.unwrap();
        }
        2 => drop(tributary.follow(user, friend).await.unwrap()),
        3 => drop(tributary.unfollow(user, friend).await.unwrap()),
        4 => {
            let all: Vec<UserId> = (0..USERS).map(UserId).collect();
            tributary.follow_all(user, &all).await.map(drop).unwrap();
        }
        _ => {
            let post = |post| {
                let key = PostKey { time: 7, post: PostId(post), author: user };
                Post::new(key, format!("imported {post}"))
            };
            let posts = (friend.0..friend.0 + 5).map(post).collect();
            tributary.0.fleet.load_posts(posts, std::time::Duration::from_secs(20)).await.unwrap();
        }
    }
}

/// The rows of a fill, changed by the commits after it, equal the rows of the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_records_every_statement_that_changes_rows() {
    for seed in 0..4 {
        let random = &mut StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let tributary = Tributary::open(&config(dir.path())).await.unwrap();
        let others: Vec<_> = (0..SHARDS).map(|shard| other_program(dir.path(), shard)).collect();
        let mut listeners = Vec::new();
        for shard in 0..others.len() {
            listeners.push(Listener::new(&tributary.0.fleet, shard).await);
        }
        let (mut published, mut fills, mut failed) = (Vec::new(), Vec::new(), 0);
        for _ in 0..250 {
            let shard = random.random_range(0..others.len());
            if random.random_bool(0.3) {
                write_ourselves(&tributary, random, &mut published).await;
            } else if others[shard].execute_batch(&foreign_statement(random)).is_err() {
                // A conflict: the statement was not executed, or only in part.
                failed += 1;
                drop(others[shard].execute_batch("ROLLBACK"));
            }
            if random.random_bool(0.2) {
                let user = UserId(random.random_range(0..USERS));
                fills.push((shard, user, listeners[shard].fill(user).await));
            }
        }
        let tables: Vec<Rows> = others.iter().map(Rows::of).collect();
        for listener in &mut listeners {
            listener.catch_up().await;
        }
        for (shard, user, fill) in fills {
            let replayed = listeners[shard].replayed(user, fill);
            assert_eq!(replayed, tables[shard].only_of(user), "seed {seed}, {user} on {shard}");
        }
        let commits: usize = listeners.iter().map(|listener| listener.commits.len()).sum();
        println!("seed {seed}: {commits} commits, {failed} statements failed");
        assert!(commits > 50 && failed > 5 && failed < 125);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_commits_are_delivered_at_once_and_others_soon() {
    let dir = tempfile::tempdir().unwrap();
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let mut listener = Listener::new(&tributary.0.fleet, 0).await;
    let mut waits = Vec::new();
    for _ in 0..20 {
        let post = tributary.publish(UserId(2), "x", None).await.unwrap().post;
        let start = Instant::now();
        let commit = listener.next_commit().await;
        waits.push(start.elapsed());
        assert_eq!(commit.changes, [(ShardId(0), Change::Post(post))]);
    }
    waits.sort_unstable();
    println!("median {:?}, longest {:?}", waits[10], waits[19]);
    assert!(waits[10] < Duration::from_millis(250), "a commit did not wake the feed");

    let other = other_program(dir.path(), 0);
    other.execute_batch("INSERT INTO followers VALUES (2, 5), (4, 2)").unwrap();
    let start = Instant::now();
    let follow = |a, b| Change::Follow(Follow { follower: UserId(a), followee: UserId(b) });
    let expected = [(ShardId(0), follow(2, 5)), (ShardId(0), follow(4, 2))];
    assert_eq!(listener.next_commit().await.changes, expected);
    println!("another program's commit after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_survive_a_restart_and_only_the_owner_of_the_folder_has_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let mut listener = Listener::new(&tributary.0.fleet, 1).await;
    tributary.publish(UserId(1), "x", None).await.unwrap();
    listener.catch_up().await;
    let before = (listener.identity, listener.at);
    assert!(before.1 > LogPosition(0));
    let of_other = Listener::new(&tributary.0.fleet, 0).await.identity;
    assert_ne!(before.0, of_other, "each file has a log of its own");

    let reading = Fleet::open(&config(dir.path()), Access::Read).await.unwrap();
    assert!(reading.sources().is_empty());
    drop((listener, tributary));
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let mut listener = Listener::new(&tributary.0.fleet, 1).await;
    assert_eq!((listener.identity, listener.at), before);
    let end = listener.source.log_end(soon()).await.unwrap();
    assert_eq!((end.identity, end.visible), before);
    tributary.follow(UserId(1), UserId(2)).await.unwrap();
    listener.catch_up().await;
    assert!(listener.at > before.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_folder_without_a_log_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("folder.toml"), "version = 1\nshards = 2\n").unwrap();
    for shard in 0..SHARDS {
        let old = other_program(dir.path(), shard);
        old.execute_batch(SQLITE_SCHEMA).unwrap();
        let (user, post) = (shard + 2, shard + 10);
        old.execute(
            "INSERT INTO tweets (tweet_id, user_id, content, timestamp) VALUES (?, ?, 'old', 1)",
            [post, user].map(signed),
        )
        .unwrap();
    }
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    for user in [2, 3].map(UserId) {
        let shard = if user.0 == 2 { 0 } else { 1 };
        let mut listener = Listener::new(&tributary.0.fleet, shard).await;
        assert_eq!(listener.at, LogPosition(0));
        let before = listener.fill(user).await;
        assert_eq!(before.1.posts.len(), 1);
        tributary.delete_post(user, PostId(user.0 + 8)).await.unwrap();
        let key = tributary.publish(user, "new", None).await.unwrap().post.key;
        listener.catch_up().await;
        let after = listener.replayed(user, before);
        assert_eq!(after.posts, BTreeMap::from([(key, "new".to_owned())]));
    }
}

/// Rows for many users in one transaction.
fn write_many(other: &Connection, from: u64, users: u64, rows: u64) {
    let sql = "WITH RECURSIVE n(n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM n LIMIT ?3)
               INSERT INTO tweets (tweet_id, user_id, content, timestamp)
               SELECT n, n % ?2, 'text', n FROM n";
    other.execute(sql, [from, users, rows].map(signed)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_is_delivered_row_by_row_and_a_huge_one_as_users() {
    let dir = tempfile::tempdir().unwrap();
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let mut listener = Listener::new(&tributary.0.fleet, 0).await;
    let other = other_program(dir.path(), 0);
    let changes = |commit: Commit| -> Vec<Change> {
        commit.changes.into_iter().map(|(_, change)| change).collect()
    };

    write_many(&other, 0, 3, 20_000);
    let delivered = changes(listener.next_commit().await);
    assert_eq!(delivered.iter().filter(|change| matches!(change, Change::Post(_))).count(), 20_000);

    write_many(&other, 100_000, 3, 20_001);
    let mut delivered = changes(listener.next_commit().await);
    delivered.sort_by_key(|change| format!("{change:?}"));
    assert_eq!(delivered, [0, 1, 2].map(|user| Change::AuthorUnknown(UserId(user))));

    write_many(&other, 200_000, 50_000, 20_001);
    assert_eq!(changes(listener.next_commit().await), [Change::ShardUnknown]);

    // The limit on text applies, and an invalid id makes the author unknown.
    let sql = "INSERT INTO tweets (tweet_id, user_id, content, timestamp)
               VALUES (1000000, 2, ?1, 9), (1000001, 4, ?1, 9),
               (-5, 8, 'x', 9), (6, -5, 'x', 9)";
    other.execute("DELETE FROM tweets", []).unwrap();
    listener.next_commit().await;
    other.execute(sql, ["x".repeat(5 << 20)]).unwrap();
    let delivered = changes(listener.next_commit().await);
    assert!(matches!(delivered[0], Change::Post(_)));
    assert_eq!(delivered[1..], [4, 8].map(|user| Change::AuthorUnknown(UserId(user))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_handle_makes_its_author_unknown_and_is_in_the_next_fill() {
    let dir = tempfile::tempdir().unwrap();
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let mut listener = Listener::new(&tributary.0.fleet, 0).await;
    let other = other_program(dir.path(), 0);
    for (sql, users, names) in [
        ("INSERT INTO users VALUES (2, 'ada', NULL)", &[2][..], Some(("ada", None))),
        ("INSERT OR REPLACE INTO users VALUES (2, 'eve', '')", &[2], Some(("eve", None))),
        ("UPDATE users SET name = 'Eve É'", &[2], Some(("eve", Some("Eve É")))),
        ("UPDATE users SET handle = 'bob'", &[2], Some(("bob", Some("Eve É")))),
        ("UPDATE users SET user_id = 4", &[2, 4], None),
        ("UPDATE users SET user_id = 2", &[4, 2], Some(("bob", Some("Eve É")))),
        ("DELETE FROM users", &[2], None),
    ] {
        other.execute(sql, []).unwrap();
        let commit = listener.next_commit().await;
        let author = |user: &u64| (ShardId(0), Change::AuthorUnknown(UserId(*user)));
        assert!(users.iter().map(author).all(|change| commit.changes.contains(&change)), "{sql}");
        let target = FillTarget::Tail { depth: 1 };
        let request = FillRequest { shard: ShardId(0), user: UserId(2), target };
        let filled = listener.source.fill(&[request], usize::MAX, soon()).await.unwrap();
        let [FillAnswer::Tail { names: found, .. }] = &filled.answers[..] else { panic!("{sql}") };
        let found = found.as_ref().map(|found| (found.handle(), found.name()));
        assert_eq!(found, names, "{sql}");
    }
}

/// The number of rows in the log.
fn logged(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM tributary_log", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_rows_that_were_read_are_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let other = other_program(dir.path(), 0);
    let mut listener = Listener::with_capacity(&tributary.0.fleet, 0, 1).await;
    // After one more batch the channel is full, so the feed stops reading.
    tributary.follow(UserId(2), UserId(3)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    write_many(&other, 0, 3, 130_000);
    for user in 0..5 {
        tributary.follow(UserId(2), UserId(user)).await.unwrap();
    }
    assert!(logged(&other) >= 130_000, "unread rows were pruned");
    listener.catch_up().await;
    assert!(listener.commits.iter().any(|commit| commit.changes.len() == 4), "delivered as users");

    // The writer prunes after it has answered, up to 10,000 rows at once.
    for user in 0..8 {
        tributary.unfollow(UserId(2), UserId(user)).await.unwrap();
        listener.catch_up().await;
    }
    tributary.unfollow(UserId(2), UserId(9)).await.unwrap();
    let kept = logged(&other);
    assert!((ROWS_KEPT..ROWS_KEPT + PRUNE_MIN).contains(&kept), "{kept} rows are kept");
    tributary.follow(UserId(2), UserId(4)).await.unwrap();
    let newest = listener.next_commit().await;
    assert_eq!(newest.changes.len(), 1);
}

#[test]
fn a_reader_whose_rows_were_pruned_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let connection = crate::shard::sqlite::writer::create_writer(&dir.path().join("x")).unwrap();
    let start = end_position(&connection).unwrap();
    write_many(&connection, 0, 3, 130_000);
    let middle = end_position(&connection).unwrap();
    while prune(&connection, LogPosition(u64::MAX)).unwrap() > 0 {}
    assert_eq!(since(&connection, &start).unwrap(), LogRead::Gap);
    assert_eq!(since(&connection, &middle).unwrap(), LogRead::Changes(middle.clone(), Vec::new()));
    renew_identity(&connection).unwrap();
    assert_eq!(since(&connection, &middle).unwrap(), LogRead::Gap);
    assert_ne!(end_position(&connection).unwrap().identity, middle.identity);
}

/// As if a backup was restored into the file, with and without new rows in the log since then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_file_gets_a_new_log_identity() {
    let dir = tempfile::tempdir().unwrap();
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let other = other_program(dir.path(), 0);
    let mut listener = Listener::new(&tributary.0.fleet, 0).await;
    for with_new_rows in [false, true] {
        tributary.follow(UserId(2), UserId(3)).await.unwrap();
        tributary.publish(UserId(2), "lost", None).await.unwrap();
        listener.catch_up().await;
        let before = (listener.identity, listener.at);
        let mut sql = format!(
            "BEGIN; DELETE FROM tweets; DELETE FROM tributary_log WHERE seq >= {};",
            before.1.0
        );
        if with_new_rows {
            sql += "INSERT INTO followers VALUES (4, 2), (4, 3), (4, 5); ";
        }
        other.execute_batch(&(sql + "COMMIT")).unwrap();
        listener.wait_for_restart().await;
        assert_ne!(listener.identity, before.0);
        assert_eq!(listener.source.log_end(soon()).await.unwrap().identity, listener.identity);
        let (_, rows) = listener.fill(UserId(2)).await;
        assert!(rows.posts.is_empty() && !rows.follows.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_the_newest_times_of_all_authors() {
    let dir = tempfile::tempdir().unwrap();
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let other = other_program(dir.path(), 0);
    write_many(&other, 0, 5_000, 20_000);
    other.execute(&format!("INSERT INTO {TWEETS} VALUES (50000, ?, 'x', -3)"), [i64::MAX]).unwrap();
    let source = Arc::clone(&tributary.0.fleet.sources()[0]);
    let (sender, mut heads) = mpsc::channel::<HeadBatch>(1);
    let listen = async {
        let mut received = BTreeMap::new();
        while let Some(some) = heads.recv().await {
            assert_eq!(some.shard, ShardId(0));
            received.extend(some.heads.into_iter().map(|(author, time)| (author.0, time)));
        }
        received
    };
    let (sent, received) = tokio::join!(source.heads(&[ShardId(0)], sender), listen);
    let LogEnd { identity, end, .. } = source.log_end(soon()).await.unwrap();
    let sent = sent.unwrap();
    assert_eq!((sent.identity, sent.bounds), (identity, Bounds::Exact(end)));
    let mut expected: BTreeMap<u64, i64> = (0..5_000).map(|n| (n, 15_000 + n as i64)).collect();
    expected.insert(i64::MAX as u64, -3);
    assert_eq!(received, expected);
    let no_receiver = mpsc::channel(1).0;
    assert!(source.heads(&[ShardId(0)], no_receiver).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fills_return_at_most_the_requested_depth() {
    let dir = tempfile::tempdir().unwrap();
    let tributary = Tributary::open(&config(dir.path())).await.unwrap();
    let other = other_program(dir.path(), 0);
    write_many(&other, 0, 2, 6);
    other.execute_batch("INSERT INTO followers VALUES (0, 9), (0, 7)").unwrap();
    let request = |target| FillRequest { shard: ShardId(0), user: UserId(0), target };
    let requests = [
        request(FillTarget::Tail { depth: 2 }),
        request(FillTarget::Tail { depth: 3 }),
        request(FillTarget::Follows { max: 1 }),
        request(FillTarget::Follows { max: 2 }),
    ];
    let post = |n: i64| {
        let key = PostKey { time: n, post: PostId(n.unsigned_abs()), author: UserId(0) };
        Post::new(key, "text")
    };
    let source = &tributary.0.fleet.sources()[0];
    let filled = source.fill(&requests, usize::MAX, soon()).await.unwrap();
    let tail =
        |posts, complete| FillAnswer::Tail { posts, complete, names: None, blocks: Vec::new() };
    let expected = [
        tail(vec![post(4), post(2)], false),
        tail(vec![post(4), post(2), post(0)], true),
        FillAnswer::TooLong,
        FillAnswer::Follows(vec![UserId(7), UserId(9)].into()),
    ];
    assert_eq!(filled.answers, expected);
    // Beyond the limit in bytes, one request gets one post, and several get nothing.
    let filled = source.fill(&requests[..1], 1, soon()).await.unwrap();
    assert_eq!(filled.answers, [tail(vec![post(4)], false)]);
    let filled = source.fill(&requests, 1, soon()).await.unwrap();
    assert_eq!(filled.answers, vec![FillAnswer::TooLarge; 4]);
}
