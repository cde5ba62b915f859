//! A client that writes directly to the databases, and knows what the pages of its users must be
//! after each of its writes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{sleep, timeout};
use tributary::{Freshness, Limit, Page};

use super::{Rows, Site, USERS, WAIT_MAX, WRITERS, connect, found};
use crate::support::fleet::SHARDS;
use crate::support::watch::at_least;
use crate::support::{seed, user_id};

/// Rows in the largest transactions.
const BULK: u64 = 2_000;

/// A stored post: id, author, time, text.
type PostRow = (u64, u64, i64, String);

/// One of `WRITERS` concurrent writers; no two of them touch the same users or post ids.
pub(super) struct Writer<'a> {
    site: &'a Site,
    number: u64,
    rng: StdRng,
    rows: Rows,
    connections: BTreeMap<u64, Conn>,
    /// The freshness token that covers its last write on each server.
    token: Freshness,
    /// How many texts it has written.
    texts: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(site: &'a Site, number: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed(number));
        let (rows, connections, token) = Default::default();
        Self { site, number, rng, rows, connections, token, texts: 0 }
    }

    /// A random user of its own on this shard.
    fn user(&mut self, shard: u64) -> u64 {
        shard + SHARDS * (self.number + WRITERS * self.rng.random_range(0..3))
    }

    fn time(&mut self) -> i64 {
        self.rng.random_range(0..40)
    }

    /// A random post id of its own, whether used already or not.
    fn id(&mut self) -> u64 {
        self.rng.random_range(0..400) * WRITERS + self.number
    }

    /// A unique text that begins with the post's id.
    fn text(&mut self, id: u64) -> String {
        self.texts += 1;
        format!("{id}: {} ✓", self.texts)
    }

    /// Writes random transactions and checks pages until the test ends. Returns the expected rows.
    pub(super) async fn write_until_ended(mut self) -> Rows {
        while !self.site.has_ended() {
            let shard = self.rng.random_range(0..SHARDS);
            let mut rows = self.rows.clone();
            let kind = self.rng.random_range(0..100);
            let mut statements = self.statements(kind, shard, &mut rows);
            if !statements.is_empty() && self.rng.random_ratio(1, 40) {
                statements.insert(0, "SET SESSION binlog_format = 'STATEMENT'".into());
                statements.push("SET SESSION binlog_format = 'ROW'".into());
                self.site.as_statements.fetch_add(1, Ordering::Relaxed);
            }
            if !statements.is_empty() && self.execute(shard, &statements, rows).await {
                self.check().await;
            }
            sleep(Duration::from_millis(2)).await;
        }
        self.rows
    }

    /// The statements of a random transaction; changes `rows` to the expected result.
    fn statements(&mut self, kind: u32, shard: u64, rows: &mut Rows) -> Vec<String> {
        match kind {
            0..30 => self.insert(shard, rows),
            30..60 => self.change_one(kind, shard, rows),
            60..72 => self.delete(shard, rows),
            72..74 => self.bulk(shard, rows),
            74..76 => self.delete_bulk(shard, rows),
            76..80 => self.rolled_back(shard),
            80..84 => self.replace(shard, rows),
            84..86 => self.partly_rolled_back(shard, rows),
            _ => self.follow(shard, rows),
        }
    }

    fn tweets(&self, shard: u64) -> String {
        format!("{}.tweets", self.site.shard(shard).1)
    }

    fn put(&mut self, (shard, id): (u64, u64), rows: &mut Rows) -> String {
        let (author, time, text) = (self.user(shard), self.time(), self.text(id));
        let row = format!("({id}, {author}, '{text}', {time})");
        rows.posts.insert((shard, id), (author, time, text));
        row
    }

    fn insert(&mut self, shard: u64, rows: &mut Rows) -> Vec<String> {
        let mut put = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            let id = self.id();
            if !rows.posts.contains_key(&(shard, id)) {
                put.push(self.put((shard, id), rows));
            }
        }
        let into = format!("{} (tweet_id, user_id, content, timestamp)", self.tweets(shard));
        match put.is_empty() {
            true => Vec::new(),
            false => vec![format!("INSERT INTO {into} VALUES {}", put.join(", "))],
        }
    }

    /// The id of a random post of its own on the shard.
    fn any(&mut self, shard: u64, rows: &Rows) -> Option<u64> {
        let ids: Vec<u64> =
            rows.posts.range((shard, 0)..(shard + 1, 0)).map(|(k, _)| k.1).collect();
        (!ids.is_empty()).then(|| ids[self.rng.random_range(0..ids.len())])
    }

    /// Updates the text, time, author or id of a post.
    fn change_one(&mut self, kind: u32, shard: u64, rows: &mut Rows) -> Vec<String> {
        let Some(id) = self.any(shard, rows) else { return Vec::new() };
        let (author, time, _) = rows.posts[&(shard, id)].clone();
        let tweets = self.tweets(shard);
        let set = match kind {
            30..38 => {
                let text = self.text(id);
                let set = format!("content = '{text}'");
                rows.posts.insert((shard, id), (author, time, text));
                set
            }
            38..46 => {
                let (time, text) = (self.time(), self.text(id));
                let set = format!("timestamp = {time}, content = '{text}'");
                rows.posts.insert((shard, id), (author, time, text));
                set
            }
            46..52 => {
                let (author, text) = (self.user(shard), self.text(id));
                let set = format!("user_id = {author}, content = '{text}'");
                rows.posts.insert((shard, id), (author, time, text));
                set
            }
            _ => {
                let other = self.id();
                if rows.posts.contains_key(&(shard, other)) {
                    return Vec::new();
                }
                let text = self.text(other);
                let set = format!("tweet_id = {other}, content = '{text}'");
                rows.posts.remove(&(shard, id));
                rows.posts.insert((shard, other), (author, time, text));
                set
            }
        };
        vec![format!("UPDATE {tweets} SET {set} WHERE tweet_id = {id}")]
    }

    fn delete(&mut self, shard: u64, rows: &mut Rows) -> Vec<String> {
        let Some(id) = self.any(shard, rows) else { return Vec::new() };
        rows.posts.remove(&(shard, id));
        vec![format!("DELETE FROM {} WHERE tweet_id = {id}", self.tweets(shard))]
    }

    /// Inserts `BULK` posts in one transaction, with ids from 100,000 on, which only bulks use.
    fn bulk(&mut self, shard: u64, rows: &mut Rows) -> Vec<String> {
        // Any of them may have been deleted alone since.
        if rows.posts.range((shard, 100_000)..(shard + 1, 0)).next().is_some() {
            return Vec::new();
        }
        let all: Vec<String> = (0..BULK)
            .map(|n| self.put((shard, 100_000 + n * WRITERS + self.number), rows))
            .collect();
        let into = format!("{} (tweet_id, user_id, content, timestamp)", self.tweets(shard));
        let insert = |rows: &[String]| format!("INSERT INTO {into} VALUES {}", rows.join(", "));
        let mut statements = vec!["BEGIN".to_owned()];
        statements.extend(all.chunks(700).map(insert));
        statements.push("COMMIT".into());
        statements
    }

    fn delete_bulk(&mut self, shard: u64, rows: &mut Rows) -> Vec<String> {
        rows.posts.retain(|(on, id), _| *on != shard || *id < 100_000);
        let mine = format!("tweet_id % {WRITERS} = {}", self.number);
        vec![format!("DELETE FROM {} WHERE tweet_id >= 100000 AND {mine}", self.tweets(shard))]
    }

    /// A transaction that is rolled back and must have no effect.
    fn rolled_back(&mut self, shard: u64) -> Vec<String> {
        let mut never = Rows::default();
        let insert = self.insert(shard, &mut never).pop().unwrap();
        let tweets = self.tweets(shard);
        let ignoring = insert.replacen("INSERT", "INSERT IGNORE", 1);
        let delete = format!("DELETE FROM {tweets} WHERE tweet_id % {WRITERS} = {}", self.number);
        ["BEGIN".into(), delete, ignoring, "ROLLBACK".into()].into()
    }

    /// Replaces an existing post.
    fn replace(&mut self, shard: u64, rows: &mut Rows) -> Vec<String> {
        let Some(id) = self.any(shard, rows) else { return Vec::new() };
        let row = self.put((shard, id), rows);
        let into = format!("{} (tweet_id, user_id, content, timestamp)", self.tweets(shard));
        vec![format!("REPLACE INTO {into} VALUES {row}")]
    }

    /// A transaction that is rolled back to a savepoint and then continued, logged with MINIMAL row
    /// images.
    fn partly_rolled_back(&mut self, shard: u64, rows: &mut Rows) -> Vec<String> {
        let mut never = Rows::default();
        let rolled_back = self.insert(shard, &mut never).pop().unwrap();
        let mut statements =
            vec!["SET SESSION binlog_row_image = 'MINIMAL'".into(), "BEGIN".into()];
        statements.extend(self.delete(shard, rows));
        statements.push("SAVEPOINT half".into());
        statements.push(rolled_back.replacen("INSERT", "INSERT IGNORE", 1));
        statements.push("ROLLBACK TO SAVEPOINT half".into());
        statements.extend(self.change_one(46, shard, rows));
        statements.extend(self.insert(shard, rows));
        statements.extend(["COMMIT".into(), "SET SESSION binlog_row_image = 'FULL'".into()]);
        statements
    }

    /// Follows or unfollows up to three users.
    fn follow(&mut self, shard: u64, rows: &mut Rows) -> Vec<String> {
        let followers = format!("{}.followers", self.site.shard(shard).1);
        let reader = self.user(shard);
        let shards = [0; 3].map(|_| self.rng.random_range(0..SHARDS));
        let followees = shards.map(|shard| self.user(shard));
        let list = rows.follows.entry(reader).or_default();
        if self.rng.random_bool(0.6) {
            list.extend(&followees);
            let edges: Vec<String> = followees.iter().map(|f| format!("({reader}, {f})")).collect();
            let into = format!("{followers} (follower_user_id, followed_user_id)");
            return vec![format!("INSERT IGNORE INTO {into} VALUES {}", edges.join(", "))];
        }
        list.retain(|followee| !followees.contains(followee));
        let gone: Vec<String> = followees.iter().map(u64::to_string).collect();
        vec![format!(
            "DELETE FROM {followers} WHERE follower_user_id = {reader} AND \
             followed_user_id IN ({})",
            gone.join(", ")
        )]
    }

    /// Runs the statements; true if the server acknowledged all of them. After an error the
    /// transaction may have committed or not, so the writer reads its rows again.
    async fn execute(&mut self, shard: u64, statements: &[String], rows: Rows) -> bool {
        let (server, _) = self.site.shard(shard);
        let connection = match self.connections.entry(shard) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(entry) => entry.insert(connect(server).await),
        };
        for sql in statements {
            match timeout(Duration::from_secs(20), connection.query_drop(sql)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    // Broken connections and deadlocks are expected, mistakes of the test are not.
                    let text = error.to_string();
                    let mistake = ["syntax", "Unknown", "Duplicate", "doesn't exist", "denied"];
                    assert!(!mistake.iter().any(|word| text.contains(word)), "{text}: {sql}");
                    self.reread_rows().await;
                    return false;
                }
                Err(_) => panic!("no answer for 20 s: {}", &sql[..sql.len().min(300)]),
            }
        }
        self.rows = rows;
        self.site.writes.fetch_add(1, Ordering::Relaxed);
        self.take_token(shard).await;
        true
    }

    /// Adds the shard's current freshness token to its own. Without a token, a page need not show
    /// the write.
    async fn take_token(&mut self, shard: u64) {
        let start = Instant::now();
        loop {
            let token = self.site.nodes[0].freshness(user_id(shard)).await;
            if !token.is_empty() {
                return self.token.merge(&token);
            }
            assert!(start.elapsed() < WAIT_MAX, "the node does not report the end of the log");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads all of its rows from the databases, since the result of a write is in doubt.
    async fn reread_rows(&mut self) {
        self.site.in_doubt.fetch_add(1, Ordering::Relaxed);
        self.connections.clear();
        let mut rows = Rows::default();
        for shard in 0..SHARDS {
            let start = Instant::now();
            let (connection, posts, follows) = loop {
                // The server may be killed again during the read.
                match self.read_shard(shard).await {
                    Ok(read) => break read,
                    Err(error) => assert!(start.elapsed() < WAIT_MAX, "{error}"),
                }
                sleep(Duration::from_millis(20)).await;
            };
            for (id, author, time, text) in posts {
                rows.posts.insert((shard, id), (author, time, text));
            }
            for (reader, followee) in follows {
                rows.follows.entry(reader).or_default().insert(followee);
            }
            self.connections.insert(shard, connection);
            self.take_token(shard).await;
        }
        self.rows = rows;
    }

    /// Its rows on one shard. The locking reads wait for transactions that are still undecided.
    async fn read_shard(
        &self,
        shard: u64,
    ) -> mysql_async::Result<(Conn, Vec<PostRow>, Vec<(u64, u64)>)> {
        let number = self.number;
        let mine = |user: &str| {
            format!("({user} DIV {SHARDS}) % {WRITERS} = {number} AND {user} < {USERS}")
        };
        let (server, database) = self.site.shard(shard);
        let mut connection = connect(server).await;
        let sql = format!(
            "SELECT tweet_id, user_id, timestamp, content FROM {database}.tweets WHERE {} \
             FOR UPDATE",
            mine("user_id")
        );
        let posts = connection.query(sql).await?;
        let sql = format!(
            "SELECT follower_user_id, followed_user_id FROM {database}.followers WHERE {} \
             FOR UPDATE",
            mine("follower_user_id")
        );
        let follows = connection.query(sql).await?;
        Ok((connection, posts, follows))
    }

    /// Reads an author's page and a reader's pages and compares them. Only this writer changes what
    /// these pages show, so they must be exact.
    async fn check(&mut self) {
        let number = self.rng.random_range(0..2);
        let node = &self.site.nodes[number];
        let limit = Limit::new([1, 5, 20, 100][self.rng.random_range(0..4)]).unwrap();
        let shard = self.rng.random_range(0..SHARDS);
        let user = self.user(shard);
        let request = at_least(&self.token, limit);
        let page = node.author_timeline(user_id(user), &request).await.unwrap();
        self.check_page(&page, &BTreeSet::from([user]), 0, limit);
        let shard = self.rng.random_range(0..SHARDS);
        let reader = self.user(shard);
        let followees = self.rows.follows.get(&reader).cloned().unwrap_or_default();
        // Twice: the second page probably comes from the page cache.
        for _ in 0..2 {
            let watch = &self.site.watches[number];
            self.check_sent_posts(
                watch.promised_posts(user_id(reader), &self.token, limit).await,
                &followees,
                limit,
            );
        }
        let mut request = request;
        for number in 0..3 {
            let page = node.home_timeline(user_id(reader), &request).await.unwrap();
            // After an incomplete page, the next one starts with the posts that it skipped.
            if !self.check_page(&page, &followees, number * limit.get(), limit) {
                return;
            }
            let Some(next) = page.next else { return };
            request.cursor = next;
        }
    }

    /// Compares the posts of an HTTP answer, if it was complete and fresh enough.
    fn check_sent_posts(
        &self,
        sent: Option<Vec<[String; 3]>>,
        authors: &BTreeSet<u64>,
        limit: Limit,
    ) {
        let Some(sent) = sent else { return };
        let timeline = self.rows.timeline(authors);
        let expected = timeline
            .iter()
            .take(limit.get())
            .map(|(_, id, author, text)| [id.to_string(), author.to_string(), (*text).to_owned()]);
        assert_eq!(sent, expected.collect::<Vec<_>>(), "writer {}", self.number);
    }

    /// Compares a page with the expected posts from number `start` on. Returns false without a
    /// comparison if the page is incomplete, stale or not fresh enough.
    fn check_page(&self, page: &Page, authors: &BTreeSet<u64>, start: usize, limit: Limit) -> bool {
        if !page.fresh_enough || !page.is_complete() || !page.stale.is_empty() {
            self.site.degraded.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let timeline = self.rows.timeline(authors);
        let expected: Vec<_> = timeline.iter().skip(start).take(limit.get()).copied().collect();
        assert_eq!(
            found(page),
            expected,
            "writer {}, {} writes, from post {start}, {} waves",
            self.number,
            self.site.writes.load(Ordering::Relaxed),
            page.waves
        );
        assert_eq!(page.next.is_none(), timeline.len() <= start + limit.get());
        self.site.checked.fetch_add(1, Ordering::Relaxed);
        true
    }
}
