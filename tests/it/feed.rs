//! The change feed: what a server's row log tells, on MariaDB and on MySQL, through every kind of
//! change and every kind of break.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tributary::changes::{Change, FeedEvent, History, LogPosition};
use tributary::shard::{Changes, mysql_tables};
use tributary::{Access, Fleet, ShardId};

use crate::support::database::{Database, Kind, mariadb, mysql};
use crate::support::fleet::TestFleet;
use crate::support::run;

/// Nothing here takes longer, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// One server's log as it is followed. `D` in a statement stands for the first shard's database.
struct Story {
    server: Arc<Database>,
    fleet: TestFleet,
    changes: Changes,
    /// Ends with the story.
    _opened: Fleet,
    database: String,
    began: Vec<(History, LogPosition)>,
    last: LogPosition,
    lost: Vec<String>,
    markers: u64,
}

/// A server of each kind that can be had; shared ones, or ones that may be killed.
fn servers(own: bool) -> Vec<Arc<Database>> {
    match own {
        true => [Kind::MariaDb, Kind::MySql]
            .into_iter()
            .filter_map(Database::start)
            .map(Arc::new)
            .collect(),
        false => mariadb().first().into_iter().chain(mysql()).map(Arc::clone).collect(),
    }
}

impl Story {
    async fn begin(server: &Arc<Database>) -> Self {
        Self::begin_with(server, "", &[]).await
    }

    /// With `[tables]` of its own, and statements that make the tables.
    async fn begin_with(server: &Arc<Database>, tables: &str, create: &[&str]) -> Self {
        let fleet = TestFleet::on(std::slice::from_ref(server));
        let file = fleet.config_file.clone().unwrap();
        let config = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{config}\n{tables}")).unwrap();
        for (server, database) in &fleet.databases {
            let mut statements = vec![format!("CREATE DATABASE {database}")];
            match create {
                [] => statements.extend(mysql_tables(database)),
                create => statements
                    .extend(create.iter().map(|sql| sql.replace("D.", &format!("{database}.")))),
            }
            server.execute(&statements).await;
        }
        let opened = Fleet::open(&fleet.config(), Access::Own).await.unwrap();
        let mut story = Self {
            server: Arc::clone(server),
            changes: opened.follow_changes(),
            _opened: opened,
            database: fleet.databases[0].1.clone(),
            fleet,
            began: Vec::new(),
            last: LogPosition(0),
            lost: Vec::new(),
            markers: 0,
        };
        story.until(|story| !story.began.is_empty()).await;
        story
    }

    /// Takes events until `done`; returns what the commits changed, in words.
    async fn until(&mut self, done: impl Fn(&Self) -> bool) -> Vec<String> {
        let mut told = Vec::new();
        while !done(self) {
            told.extend(self.next().await);
        }
        told
    }

    async fn next(&mut self) -> Vec<String> {
        let next = tokio::time::timeout(PATIENCE, self.changes.next()).await;
        let (_, events) = next.expect("the feed is silent").unwrap();
        events.into_iter().filter_map(|event| self.take(event)).collect()
    }

    fn take(&mut self, event: FeedEvent) -> Option<String> {
        match event {
            FeedEvent::Began { history, at } => {
                self.began.push((history, at));
                self.last = at;
            }
            FeedEvent::Commit(commit) => {
                // After a break some may come again, and are known by their places.
                assert!(commit.at > self.last, "{:?} after {:?}", commit.at, self.last);
                self.last = commit.at;
                let words: Vec<String> = commit.changes.iter().map(word).collect();
                return (!words.is_empty()).then(|| words.join(", "));
            }
            FeedEvent::Lost(reason) => self.lost.push(reason),
            FeedEvent::Alive => {}
        }
        None
    }

    async fn execute(&self, statements: &[&str]) {
        let here = statements.iter().map(|sql| sql.replace("D.", &format!("{}.", self.database)));
        self.server.execute(&here.collect::<Vec<_>>()).await;
    }

    /// What the log tells up to now: up to a change that is made for it.
    async fn told(&mut self) -> Vec<String> {
        self.markers += 1;
        let marker = self.markers;
        // On another shard, which nothing else touches.
        let (_, database) = &self.fleet.databases[3];
        self.server
            .execute(&[format!("INSERT INTO {database}.{} VALUES (3, {marker})", self.follows())])
            .await;
        let end = format!("s3 3 follows {marker}");
        let mut told = Vec::new();
        loop {
            told.extend(self.next().await);
            if let Some(at) = told.iter().position(|word| *word == end) {
                assert_eq!(at + 1, told.len(), "{told:?}");
                told.truncate(at);
                return told;
            }
        }
    }

    fn follows(&self) -> &'static str {
        let text = fs::read_to_string(self.fleet.config_file.as_ref().unwrap()).unwrap();
        if text.contains("graph") { "graph" } else { "followers" }
    }

    /// Runs the statements on one connection; this is what the log must tell of them.
    async fn check(&mut self, statements: &[&str], expected: &[&str]) {
        self.execute(statements).await;
        let told = self.told().await;
        assert_eq!(told, expected, "{:?}: {statements:?}", self.server.kind);
    }
}

/// A change in words.
fn word((ShardId(shard), change): &(ShardId, Change)) -> String {
    let key = |key: &tributary::PostKey| format!("{}/{}@{}", key.author, key.post, key.time);
    let what = match change {
        Change::Post(post) => format!("{} {:?}", key(&post.key), post.content),
        Change::PostGone(gone) => format!("{} gone", key(gone)),
        Change::Follow(follow) => format!("{} follows {}", follow.follower, follow.followee),
        Change::Unfollow(follow) => format!("{} leaves {}", follow.follower, follow.followee),
        Change::AuthorUnknown(author) => format!("author {author}?"),
        Change::ReaderUnknown(reader) => format!("reader {reader}?"),
        Change::ShardUnknown => "?".into(),
    };
    format!("s{shard} {what}")
}

#[test]
fn rows_are_told_as_whole_transactions() {
    run(async {
        for server in servers(false) {
            let mut story = Story::begin(&server).await;
            story
                .check(
                    &[
                        "INSERT INTO D.tweets (tweet_id, user_id, content, timestamp) VALUES (1, 7, 'a 🎉', 100)",
                        "UPDATE D.tweets SET content = 'b' WHERE tweet_id = 1",
                        "UPDATE D.tweets SET timestamp = 90 WHERE tweet_id = 1",
                        "DELETE FROM D.tweets WHERE tweet_id = 1",
                    ],
                    &[
                        "s0 7/1@100 \"a 🎉\"",
                        "s0 7/1@100 \"b\"",
                        "s0 7/1@100 gone, s0 7/1@90 \"b\"",
                        "s0 7/1@90 gone",
                    ],
                )
                .await;
            story
                .check(
                    &[
                        "BEGIN",
                        "INSERT INTO D.tweets (tweet_id, user_id, content, timestamp) VALUES (1, 7, 'x', -5), (2, 8, '', 0)",
                        "INSERT INTO D.followers VALUES (1, 7), (1, 8)",
                        "SAVEPOINT s",
                        "INSERT INTO D.followers VALUES (1, 9)",
                        "ROLLBACK TO s",
                        "DELETE FROM D.followers WHERE followed_user_id = 7",
                        "COMMIT",
                        "BEGIN",
                        "DELETE FROM D.tweets",
                        "ROLLBACK",
                        "UPDATE D.followers SET followed_user_id = 10",
                    ],
                    &[
                        "s0 7/1@-5 \"x\", s0 8/2@0 \"\", s0 1 follows 7, s0 1 follows 8, s0 1 leaves 7",
                        "s0 1 leaves 8, s0 1 follows 10",
                    ],
                )
                .await;
        }
    });
}
