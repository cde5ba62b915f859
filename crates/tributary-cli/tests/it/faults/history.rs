//! Thousands of writes under faults. No acknowledged post is lost or duplicated, and every complete
//! page has all acknowledged posts.
//!
//! The test records the outcome of each write. At the end it compares the record with the rows and
//! with the timelines. The servers flush their logs once a second
//! (`innodb_flush_log_at_trx_commit=2`, `sync_binlog=0`). Committed writes then survive the death
//! of the process, which this test covers; they would not survive a crash of the machine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;
use tributary::internal::fleet;
use tributary::{
    Cursor, IdempotencyKey, Limit, Page, PageRequest, PostKey, Tributary, UserId, WriteError,
};

use super::{ANSWERED_WITHIN, READER, Site, alone, kill, launch, until_complete};
use crate::support::{post_id, seed, size, user_id};

const WRITERS: u64 = 20;
/// The interval between two writes of one writer. It makes the run long enough for all faults.
const PACE: Duration = Duration::from_millis(90);
/// The most attempts to store a post with an idempotency key.
const REPEATS: u32 = 4;
/// Writer n posts as the four users from `AUTHORS_FROM + 4 * n` on. The reader follows all of
/// them.
const AUTHORS_FROM: u64 = 100;
/// Writer n follows as user `FOLLOWERS_FROM + n`.
const FOLLOWERS_FROM: u64 = 1_000;

/// Writes of each writer: 3,000 in all, 10,000 in a soak run. The shortest run sees each fault.
fn writes_per_writer() -> u64 {
    size(150, 500)
}

/// The outcomes of all writes.
#[derive(Default)]
struct WriteRecord {
    /// Acknowledged posts without a delete.
    stored: BTreeMap<PostKey, String>,
    /// Posts whose delete was acknowledged.
    deleted: BTreeSet<PostKey>,
    /// Posts whose delete is in flight or in doubt.
    deletes_in_doubt: BTreeMap<PostKey, String>,
    /// Authors and texts of posts that were refused, so nothing may be stored.
    refused: Vec<(UserId, String)>,
    /// Authors and texts of posts in doubt; each may be stored at most once.
    in_doubt: Vec<(UserId, String)>,
    /// By follow: whether it exists; `None` if that is in doubt.
    follows: HashMap<(UserId, UserId), Option<bool>>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    acknowledged: usize,
    refused: usize,
    in_doubt: usize,
    repeated: usize,
    replayed: usize,
}

type Shared = Arc<Mutex<WriteRecord>>;

fn locked(record: &Shared) -> MutexGuard<'_, WriteRecord> {
    record.lock().unwrap()
}

impl WriteRecord {
    fn note(&mut self, outcome: Result<(), WriteError>) {
        match outcome {
            Ok(()) => self.counts.acknowledged += 1,
            Err(WriteError::Unavailable) => self.counts.refused += 1,
            Err(WriteError::InDoubt) => self.counts.in_doubt += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

struct Writer {
    number: u64,
    tributary: Tributary,
    record: Shared,
    random: StdRng,
    mine: Vec<PostKey>,
}

impl Writer {
    async fn write_all(mut self) {
        for write in 0..writes_per_writer() {
            let start = Instant::now();
            match self.random.random_range(0..100) {
                0..55 => self.post(write).await,
                55..80 => self.post_under_a_key(write).await,
                80..90 if !self.mine.is_empty() => self.delete().await,
                _ => self.follow().await,
            }
            assert!(start.elapsed() < ANSWERED_WITHIN * 2 * REPEATS, "{:?}", start.elapsed());
            sleep(PACE.saturating_sub(start.elapsed())).await;
        }
    }

    fn author(&mut self) -> UserId {
        user_id(AUTHORS_FROM + self.number * 4 + self.random.random_range(0..4))
    }

    fn acknowledged(&mut self, key: PostKey, content: String) {
        self.mine.push(key);
        let previous = locked(&self.record).stored.insert(key, content);
        assert!(previous.is_none(), "two posts have the same key");
    }

    async fn post(&mut self, write: u64) {
        let (author, content) = (self.author(), format!("{write} of {} ✓", self.number));
        let outcome = self.tributary.publish(author, &content, None).await;
        locked(&self.record).note(outcome.as_ref().map(drop).map_err(|error| *error));
        match outcome {
            Ok(published) => self.acknowledged(published.post.key, content),
            Err(WriteError::InDoubt) => locked(&self.record).in_doubt.push((author, content)),
            Err(_) => locked(&self.record).refused.push((author, content)),
        }
    }

    /// Posts with an idempotency key and repeats until the post is acknowledged, as a client does.
    /// Also repeats some acknowledged posts.
    async fn post_under_a_key(&mut self, write: u64) {
        let (author, content) = (self.author(), format!("{write} of {}, once", self.number));
        let key = IdempotencyKey::new(&format!("{}-{write}", self.number)).unwrap();
        let mut in_doubt = false;
        for attempt in 0..REPEATS {
            let outcome = self.tributary.publish(author, &content, Some(key.clone())).await;
            if attempt > 0 {
                locked(&self.record).counts.repeated += 1;
            }
            match outcome {
                Ok(published) => {
                    locked(&self.record).counts.replayed += usize::from(published.replayed);
                    assert!(
                        !published.replayed || in_doubt,
                        "replayed, but no earlier attempt can have stored it"
                    );
                    locked(&self.record).note(Ok(()));
                    self.acknowledged(published.post.key, content.clone());
                    if self.random.random_bool(0.3) {
                        self.replay(author, &content, key, published.post.key).await;
                    }
                    return;
                }
                Err(WriteError::InDoubt) => in_doubt = true,
                Err(WriteError::Unavailable) => {}
                Err(error) => panic!("{error}"),
            }
            sleep(Duration::from_millis(60)).await;
        }
        let mut record = locked(&self.record);
        if in_doubt {
            record.note(Err(WriteError::InDoubt));
            record.in_doubt.push((author, content));
        } else {
            record.note(Err(WriteError::Unavailable));
            record.refused.push((author, content));
        }
    }

    async fn replay(&self, author: UserId, content: &str, key: IdempotencyKey, first: PostKey) {
        match self.tributary.publish(author, content, Some(key)).await {
            Ok(again) => {
                assert_eq!((again.replayed, again.post.key), (true, first));
                locked(&self.record).counts.replayed += 1;
            }
            Err(error) => {
                assert!(matches!(error, WriteError::Unavailable | WriteError::InDoubt), "{error}");
            }
        }
    }

    async fn delete(&mut self) {
        let key = self.mine.swap_remove(self.random.random_range(0..self.mine.len()));
        let content = locked(&self.record).stored.remove(&key).unwrap();
        locked(&self.record).deletes_in_doubt.insert(key, content);
        let outcome = self.tributary.delete_post(key.author, key.post).await;
        let mut record = locked(&self.record);
        let outcome = outcome.map(drop);
        record.note(outcome);
        match outcome {
            Ok(()) => {
                record.deletes_in_doubt.remove(&key);
                record.deleted.insert(key);
            }
            // The delete was not applied, so the post is still stored.
            Err(WriteError::Unavailable) => {
                let content = record.deletes_in_doubt.remove(&key).unwrap();
                record.stored.insert(key, content);
            }
            Err(_) => {}
        }
    }

    async fn follow(&mut self) {
        let follower = user_id(FOLLOWERS_FROM + self.number);
        let followee = user_id(self.random.random_range(0..20));
        let make = self.random.random_bool(0.7);
        let outcome = match make {
            true => self.tributary.follow(follower, followee).await.map(drop),
            false => self.tributary.unfollow(follower, followee).await.map(drop),
        };
        let mut record = locked(&self.record);
        record.note(outcome);
        match outcome {
            Ok(()) => drop(record.follows.insert((follower, followee), Some(make))),
            Err(WriteError::Unavailable) => {}
            Err(_) => drop(record.follows.insert((follower, followee), None)),
        }
    }
}

/// Reads the newest page repeatedly. It must have every post that was acknowledged before the
/// read, except those on shards that the page names as missing.
async fn read_continuously(
    tributary: Tributary,
    record: Shared,
    ended: Arc<AtomicBool>,
) -> (usize, usize) {
    let (mut complete, mut incomplete) = (0, 0);
    let limit = Limit::new(60).unwrap();
    while !ended.load(Ordering::Relaxed) {
        let (stored, deleted): (BTreeMap<PostKey, String>, BTreeSet<PostKey>) = {
            let record = locked(&record);
            let newest = record.stored.iter().rev().take(200);
            (newest.map(|(key, text)| (*key, text.clone())).collect(), record.deleted.clone())
        };
        let request = PageRequest::default().limit(limit);
        let start = Instant::now();
        let page = tributary.home_timeline(READER, &request).await.unwrap();
        assert!(start.elapsed() < ANSWERED_WITHIN, "a page took {:?}", start.elapsed());
        match page.is_complete() {
            true => complete += 1,
            false => incomplete += 1,
        }
        check_page(&tributary, &page, &stored, &deleted, &locked(&record));
        sleep(Duration::from_millis(10)).await;
    }
    (complete, incomplete)
}

fn check_page(
    tributary: &Tributary,
    page: &Page,
    stored: &BTreeMap<PostKey, String>,
    deleted: &BTreeSet<PostKey>,
    after: &WriteRecord,
) {
    assert!(page.posts.is_sorted_by(|a, b| a.key > b.key));
    let shown: BTreeMap<PostKey, &str> =
        page.posts.iter().map(|post| (post.key, post.content.as_str())).collect();
    for key in shown.keys() {
        assert!(!deleted.contains(key), "{key:?} was deleted, but is on the page");
    }
    let Some(last) = page.posts.last() else {
        assert!(!page.is_complete() || stored.is_empty(), "an empty page claims to be complete");
        return;
    };
    let is_on_missing_shard =
        |key: &PostKey| page.missing.contains(&fleet(tributary).placement().shard_of(key.author));
    for (key, content) in stored.range(last.key..) {
        // The post was deleted in the meantime, or its delete is in doubt.
        if !after.stored.contains_key(key) || is_on_missing_shard(key) {
            continue;
        }
        assert_eq!(shown.get(key), Some(&content.as_str()), "{key:?}, missing {:?}", page.missing);
    }
}

/// Injects one fault after the other until the writers have finished.
async fn inject_faults(site: &Site, ended: &AtomicBool, faults: &AtomicUsize) {
    let pause = async || sleep(Duration::from_millis(1_200)).await;
    let mut turn = 0;
    while !ended.load(Ordering::Relaxed) {
        let (server, link) = (&site.servers[turn % 2], &site.links[turn % 2]);
        match turn % 5 {
            0 | 3 => {
                kill(server).await;
                sleep(Duration::from_millis(300)).await;
                launch(server).await;
            }
            1 => {
                for _ in 0..10 {
                    link.cut();
                    sleep(Duration::from_millis(70)).await;
                }
            }
            2 => {
                server.signal("STOP");
                sleep(Duration::from_millis(1_600)).await;
                server.signal("CONT");
            }
            _ => {
                link.stall();
                sleep(Duration::from_millis(1_500)).await;
                link.refuse();
                sleep(Duration::from_millis(500)).await;
                link.restore();
            }
        }
        faults.fetch_add(1, Ordering::Relaxed);
        turn += 1;
        pause().await;
    }
}

#[test]
fn thousands_of_writes_under_faults_lose_and_duplicate_nothing() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        let authors: Vec<UserId> =
            (AUTHORS_FROM..AUTHORS_FROM + WRITERS * 4).map(user_id).collect();
        tributary.follow_all(READER, &authors).await.unwrap();
        let tasks = site.tasks();

        let record: Shared = Arc::default();
        let (ended, faults) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (record, ended) = (Arc::clone(&record), Arc::clone(&ended));
                tokio::spawn(read_continuously(tributary.clone(), record, ended))
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (tributary, record) = (tributary.clone(), Arc::clone(&record));
                let random = StdRng::seed_from_u64(seed(number));
                let writer = Writer { number, tributary, record, random, mine: Vec::new() };
                tokio::spawn(writer.write_all())
            })
            .collect();
        let written = async {
            for writer in join_all(writers).await {
                writer.unwrap();
            }
            ended.store(true, Ordering::Relaxed);
        };
        tokio::join!(written, inject_faults(&site, &ended, &faults));
        for reader in readers {
            let (complete, incomplete) = reader.await.unwrap();
            println!("  {complete} complete pages, {incomplete} incomplete");
            assert!(complete > 50 && incomplete > 50);
        }
        let recovery = until_complete(&tributary, true).await;
        let faults = faults.load(Ordering::Relaxed);
        println!("  {faults} faults, complete again after {recovery:.1?}");
        assert!(faults >= 5, "only {faults} faults");

        let record = std::mem::take(&mut *locked(&record));
        println!("  {:?}", record.counts);
        let Counts { acknowledged, refused, in_doubt, .. } = record.counts;
        let writes = usize::try_from(WRITERS * writes_per_writer()).unwrap();
        assert_eq!(acknowledged + refused + in_doubt, writes);
        assert!(acknowledged > writes * 2 / 5, "{acknowledged}");
        assert_eq!(row_differences(&site, &record).await, Vec::<String>::new());
        check_timelines(&tributary, &record, &authors).await;
        site.assert_no_leaks(tasks).await;
    });
}

/// The differences between the tables and the record. Reads the tables by SQL, without our code.
async fn row_differences(site: &Site, record: &WriteRecord) -> Vec<String> {
    let mut rows: BTreeMap<(UserId, String), Vec<PostKey>> = BTreeMap::new();
    let mut follows = BTreeSet::new();
    for (server, database) in &site.fleet.databases {
        let mut connection = server.connect().await;
        let sql = format!(
            "SELECT user_id, timestamp, tweet_id, content FROM {database}.tweets \
             WHERE user_id >= {AUTHORS_FROM}"
        );
        let posts: Vec<(u64, i64, u64, String)> = connection.query(sql).await.unwrap();
        for (author, time, post, content) in posts {
            let author = user_id(author);
            let key = PostKey { time, post: post_id(post), author };
            rows.entry((author, content)).or_default().push(key);
        }
        let sql = format!("SELECT * FROM {database}.followers");
        let edges: Vec<(u64, u64)> = connection.query(sql).await.unwrap();
        follows.extend(edges.into_iter().map(|(from, to)| (user_id(from), user_id(to))));
    }
    let mut faults = Vec::new();
    for (key, content) in &record.stored {
        let found = rows.remove(&(key.author, content.clone())).unwrap_or_default();
        if found != [*key] {
            faults.push(format!("{content}, acknowledged as {key:?}, is stored as {found:?}"));
        }
    }
    for post in &record.refused {
        if let Some(found) = rows.remove(post) {
            faults.push(format!("{}, refused, is stored as {found:?}", post.1));
        }
    }
    let in_doubt = record.in_doubt.iter().cloned();
    let deletes_in_doubt =
        record.deletes_in_doubt.iter().map(|(key, text)| (key.author, text.clone()));
    for post in in_doubt.chain(deletes_in_doubt) {
        let found = rows.remove(&post).unwrap_or_default();
        if found.len() > 1 {
            faults.push(format!("{}, in doubt, is stored as {found:?}", post.1));
        }
    }
    // The remaining rows are unknown, or are posts that were deleted.
    faults.extend(
        rows.into_iter().map(|((_, content), keys)| format!("{content} is stored as {keys:?}")),
    );
    for ((from, to), made) in &record.follows {
        if made.is_some_and(|made| follows.contains(&(*from, *to)) != made) {
            faults.push(format!("{from} follows {to}: expected {made:?}, found the opposite"));
        }
    }
    faults
}

/// Proves that the check of rows can fail.
#[test]
fn the_check_finds_lost_duplicated_and_undeleted_rows() {
    alone(async {
        let site = Site::new(1).await;
        let tributary = site.open().await;
        let author = user_id(AUTHORS_FROM);
        let mut record = WriteRecord::default();
        for n in 0..3 {
            let post = tributary.publish(author, &n.to_string(), None).await.unwrap().post;
            record.stored.insert(post.key, post.content);
        }
        tributary.follow(author, READER).await.unwrap();
        record.follows.insert((author, READER), Some(true));
        assert_eq!(row_differences(&site, &record).await, Vec::<String>::new());
        let (server, database) = &site.fleet.databases[0];
        server
            .execute(&[
                format!("DELETE FROM {database}.tweets WHERE content = '0'"),
                format!("INSERT INTO {database}.tweets VALUES (1, {author}, '1', 1)"),
                format!("DELETE FROM {database}.followers WHERE follower_user_id = {author}"),
            ])
            .await;
        let (key, content) = record.stored.pop_last().unwrap();
        record.deleted.insert(key);
        assert_eq!(row_differences(&site, &record).await.len(), 4);
        record.refused.push((author, content));
        assert_eq!(row_differences(&site, &record).await.len(), 4);
    });
}

/// Checks every author's timeline and the reader's, to their ends: each has every acknowledged
/// post once.
async fn check_timelines(tributary: &Tributary, record: &WriteRecord, authors: &[UserId]) {
    let walk = async |author: Option<UserId>| {
        let (mut cursor, mut walked) = (Cursor::newest(), Vec::new());
        loop {
            let request =
                PageRequest::default().from(cursor).limit(Limit::new(Limit::MAX).unwrap());
            let page = match author {
                Some(author) => tributary.author_timeline(author, &request).await.unwrap(),
                None => tributary.home_timeline(READER, &request).await.unwrap(),
            };
            assert!(page.is_complete());
            walked.extend(page.posts);
            match page.next {
                Some(next) => cursor = next,
                None => return walked,
            }
        }
    };
    let feed = walk(None).await;
    assert!(feed.is_sorted_by(|a, b| a.key > b.key), "each post once, in order");
    let mut by_author = Vec::new();
    for author in authors {
        by_author.extend(walk(Some(*author)).await);
    }
    by_author.sort_by_key(|post| std::cmp::Reverse(post.key));
    let old = |key: &PostKey| key.author.get() < AUTHORS_FROM;
    assert!(feed.iter().filter(|post| !old(&post.key)).eq(&by_author));
    let found: BTreeMap<PostKey, &String> =
        feed.iter().map(|post| (post.key, &post.content)).collect();
    for (key, content) in &record.stored {
        assert_eq!(found.get(key), Some(&content), "{key:?}");
    }
    for key in &record.deleted {
        assert_eq!(found.get(key), None, "{key:?} was deleted, but is on the page");
    }
}
