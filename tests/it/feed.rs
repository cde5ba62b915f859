//! The change feed: what a server's row log tells, on MariaDB and on MySQL, through every kind of
//! change and every kind of break.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Row;
use mysql_async::prelude::Queryable;
use tributary::changes::{Change, FeedEvent, LogIdentity, LogPosition};
use tributary::moment::CalendarTime;
use tributary::shard::{Changes, mysql_tables};
use tributary::{Access, Fleet, ShardId};

use crate::support::database::{Database, Kind, PASSWORD, mariadb, mysql};
use crate::support::fleet::TestFleet;
use crate::support::link::Link;
use crate::support::run;

/// Nothing here takes longer, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// One server's log as it is followed. `D` in a statement stands for the first shard's database.
struct Story {
    server: Arc<Database>,
    fleet: TestFleet,
    changes: Changes,
    opened: Fleet,
    database: String,
    /// Where markers are written.
    marks: &'static str,
    began: Vec<(LogIdentity, LogPosition)>,
    last: LogPosition,
    lost: Vec<String>,
    alive: u32,
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
        Self::begin_with(server, &[], |config| config).await
    }

    /// With statements that make other tables, and a configuration of its own.
    async fn begin_with(
        server: &Arc<Database>,
        create: &[&str],
        edit: impl Fn(String) -> String,
    ) -> Self {
        let mut story = Self::open(server, create, edit).await;
        story.until(|story| !story.began.is_empty()).await;
        story
    }

    async fn open(
        server: &Arc<Database>,
        create: &[&str],
        edit: impl Fn(String) -> String,
    ) -> Self {
        let fleet = TestFleet::on(std::slice::from_ref(server));
        let file = fleet.config_file.clone().unwrap();
        let config = edit(fs::read_to_string(&file).unwrap());
        fs::write(&file, &config).unwrap();
        make_databases(server, &fleet, create).await;
        let opened = Fleet::open(&fleet.config(), Access::Own).await.unwrap();
        Self {
            server: Arc::clone(server),
            changes: opened.follow_changes(),
            opened,
            database: fleet.databases[0].1.clone(),
            marks: if create.is_empty() {
                "followers (follower_user_id, followed_user_id)"
            } else {
                "graph (from_id, to_id)"
            },
            fleet,
            began: Vec::new(),
            last: LogPosition(0),
            lost: Vec::new(),
            alive: 0,
            markers: 0,
        }
    }

    /// Behind a link that can be broken.
    async fn linked(server: &Arc<Database>) -> (Self, Link) {
        let link = Link::start(server.port).await;
        let (direct, linked) = (server.address(), format!("127.0.0.1:{}", link.port));
        let story = Self::begin_with(server, &[], |config| config.replace(&direct, &linked)).await;
        (story, link)
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
            FeedEvent::Began { identity, at } => {
                self.began.push((identity, at));
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
            FeedEvent::Alive => self.alive += 1,
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
        let mark = format!("INSERT INTO {database}.{} VALUES (3, {marker})", self.marks);
        self.server.execute(&[mark]).await;
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

    /// Runs the statements on one connection; this is what the log must tell of them.
    async fn check(&mut self, statements: &[&str], expected: &[&str]) {
        self.execute(statements).await;
        let told = self.told().await;
        assert_eq!(told, expected, "{:?}: {statements:?}", self.server.kind);
    }
}

async fn make_databases(server: &Arc<Database>, fleet: &TestFleet, create: &[&str]) {
    for (_, database) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {database}")];
        let place = format!("{database}.");
        match create {
            [] => statements.extend(mysql_tables(database)),
            create => statements.extend(create.iter().map(|sql| sql.replace("D.", &place))),
        }
        server.execute(&statements).await;
    }
}

/// A statement that inserts one post.
fn post(id: u64, author: u64, text: &str, time: i64) -> String {
    format!(
        "INSERT INTO D.tweets (tweet_id, user_id, content, timestamp) \
         VALUES ({id}, {author}, '{text}', {time})"
    )
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

#[test]
fn what_the_log_tells_only_as_text_makes_shards_unknown() {
    run(async {
        for server in servers(false) {
            let mut story = Story::begin(&server).await;
            let (first, second) = (post(1, 7, "x", 5), post(2, 7, "y", 6));
            story
                .check(
                    &[
                        "ALTER TABLE D.tweets ADD COLUMN lead_in VARCHAR(10) NOT NULL DEFAULT 'no' FIRST",
                        &first,
                        "CREATE TABLE D.other (x INT PRIMARY KEY, user_id INT)",
                        "INSERT INTO D.other VALUES (1, 7)",
                        "ALTER TABLE D.tweets MODIFY lead_in VARCHAR(300) AFTER content",
                        &second,
                        "FLUSH BINARY LOGS",
                        "DROP TABLE D.other",
                        "TRUNCATE D.followers",
                    ],
                    &["s0 ?", "s0 7/1@5 \"x\"", "s0 ?", "s0 7/2@6 \"y\"", "s0 ?"],
                )
                .await;
            let (other, minimal) = (post(4, 9, "a", 8), "SET SESSION binlog_row_image = 'MINIMAL'");
            story
                .check(
                    &[
                        minimal,
                        &other,
                        "UPDATE D.tweets SET content = 'b' WHERE tweet_id = 4",
                        "UPDATE D.tweets SET timestamp = 9 WHERE tweet_id = 4",
                        "DELETE FROM D.tweets WHERE tweet_id = 4",
                    ],
                    &[
                        "s0 9/4@8 \"a\"",
                        "s0 9/4@8 \"b\"",
                        "s0 9/4@8 gone, s0 author 9?",
                        "s0 9/4@9 gone",
                    ],
                )
                .await;
            assert_eq!((story.began.len(), story.lost.len()), (1, 0), "{:?}", story.lost);
        }
    });
}

#[test]
fn transactions_in_two_steps_are_told_when_they_are_committed() {
    run(async {
        for server in servers(false) {
            let mut story = Story::begin(&server).await;
            let (first, second, third) =
                (post(1, 7, "x", 5), post(2, 8, "y", 6), post(3, 9, "z", 7));
            let prepare =
                ["XA START 'a'", &first, "INSERT INTO D.followers VALUES (1, 7)", "XA END 'a'"];
            story
                .check(
                    &[&prepare[..], &["XA PREPARE 'a'", "XA COMMIT 'a'"]].concat(),
                    &["s0 author 7?, s0 reader 1?"],
                )
                .await;
            let undone =
                ["XA START 'a'", &second, "XA END 'a'", "XA PREPARE 'a'", "XA ROLLBACK 'a'"];
            story.check(&undone, &[]).await;
            let one_phase = ["XA START 'a'", &third, "XA END 'a'", "XA COMMIT 'a' ONE PHASE"];
            story.check(&one_phase, &["s0 9/3@7 \"z\""]).await;
        }
    });
}

#[test]
fn compressed_logs_tell_the_same() {
    run(async {
        for server in servers(true) {
            let mut story = Story::begin(&server).await;
            let long = "ab".repeat(5_000);
            let mut statements: Vec<&str> = match server.kind {
                Kind::MariaDb => vec![
                    "SET GLOBAL log_bin_compress = ON",
                    "SET GLOBAL log_bin_compress_min_len = 10",
                ],
                Kind::MySql => vec!["SET SESSION binlog_transaction_compression = ON"],
            };
            let before = story.last;
            let (first, alter) = (
                post(1, 7, &long, 5),
                format!("ALTER TABLE D.tweets COMMENT '{}'", "ab".repeat(500)),
            );
            statements.extend([
                first.as_str(),
                "UPDATE D.tweets SET timestamp = 6",
                "DELETE FROM D.tweets",
                &alter,
                "INSERT INTO D.followers VALUES (1, 7)",
            ]);
            let (told, moved) =
                (format!("s0 7/1@5 \"{long}\""), format!("s0 7/1@5 gone, s0 7/1@6 \"{long}\""));
            let expected = [&told, &moved, "s0 7/1@6 gone", "s0 ?", "s0 1 follows 7"];
            story.check(&statements, &expected).await;
            let logged = story.last.0 - before.0;
            assert!(logged < 20_000, "{logged} bytes for texts of 40,000, and one as a comment");
            // A change that is logged as text, on a server of its own: it concerns all who listen.
            let text = post(3, 7, &long, 7);
            let statement = "SET SESSION binlog_format = 'STATEMENT'";
            story.check(&[statement, &text], &["s0 ?, s1 ?, s2 ?, s3 ?"]).await;
        }
    });
}

#[test]
fn a_server_that_is_killed_goes_on_where_it_was() {
    run(async {
        for server in servers(true) {
            let mut story = Story::begin(&server).await;
            let rows: Vec<String> =
                (0..20).map(|n| format!("INSERT INTO D.followers VALUES (1, {n})")).collect();
            let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
            story.execute(&rows[..10]).await;
            server.kill();
            let mut told = story.until(|story| !story.lost.is_empty()).await;
            server.launch();
            story.execute(&rows[10..]).await;
            told.extend(story.told().await);
            let expected: Vec<String> = (0..20).map(|n| format!("s0 1 follows {n}")).collect();
            assert_eq!((told, story.began.len()), (expected, 1), "{:?}", story.lost);
            story.check(&["INSERT INTO D.followers VALUES (2, 1)"], &["s0 2 follows 1"]).await;
        }
    });
}

#[test]
fn a_log_that_is_no_longer_there_begins_anew() {
    run(async {
        for server in servers(true) {
            let (mut story, link) = Story::linked(&server).await;
            let insert = "INSERT INTO D.followers VALUES (1, 1)";
            story.check(&[insert], &["s0 1 follows 1"]).await;
            // A silent link is given up, and then the log goes on.
            link.stall();
            story.until(|story| !story.lost.is_empty()).await;
            link.restore();
            story.check(&["INSERT INTO D.followers VALUES (1, 2)"], &["s0 1 follows 2"]).await;
            assert_eq!(story.began.len(), 1);
            link.refuse();
            story.until(|story| story.lost.len() > 1).await;
            purge(&server, &story).await;
            link.restore();
            story.until(|story| story.began.len() == 2).await;
            assert_eq!(story.began[0].0, story.began[1].0, "the server is the same");
            story.check(&["INSERT INTO D.followers VALUES (1, 5)"], &["s0 1 follows 5"]).await;
            // Another server at the same address, with databases of the same names.
            let other = servers(false).into_iter().find(|other| other.kind == server.kind).unwrap();
            make_databases(&other, &story.fleet, &[]).await;
            link.redirect_to(other.port);
            link.cut();
            story.until(|story| story.began.len() == 3).await;
            assert_ne!(story.began[1].0, story.began[2].0, "it is another log");
            story.server = other;
            story.check(&["INSERT INTO D.followers VALUES (1, 6)"], &["s0 1 follows 6"]).await;
        }
    });
}

/// Writes, and leaves nothing of the log but its last file.
async fn purge(server: &Database, story: &Story) {
    let insert = "INSERT INTO D.followers VALUES (1, 3)";
    story
        .execute(&[insert, "FLUSH BINARY LOGS", "DELETE FROM D.followers", "FLUSH BINARY LOGS"])
        .await;
    let give_up = Instant::now() + PATIENCE;
    loop {
        let mut connection = server.connect().await;
        let files: Vec<Row> = connection.query("SHOW BINARY LOGS").await.unwrap();
        let last: String = files.last().unwrap().get(0).unwrap();
        connection.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await.unwrap();
        let files: Vec<Row> = connection.query("SHOW BINARY LOGS").await.unwrap();
        connection.disconnect().await.unwrap();
        if files.len() == 1 {
            return;
        }
        // A reader that is gone is noticed at the next heartbeat.
        assert!(Instant::now() < give_up, "{files:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn readers_do_not_disturb_each_other_and_hear_every_second_that_all_is_well() {
    run(async {
        for server in servers(false) {
            let mut story = Story::begin(&server).await;
            let first = std::mem::replace(&mut story.changes, story.opened.follow_changes());
            story.until(|story| story.began.len() == 2).await;
            story.check(&["INSERT INTO D.followers VALUES (1, 1)"], &["s0 1 follows 1"]).await;
            let began = Instant::now();
            let alive = story.alive;
            story.until(|story| story.alive >= alive + 3).await;
            assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
            story.changes = first;
            (story.last, story.markers) = (story.began[0].1, 10);
            let told = story.told().await;
            assert_eq!(told, ["s0 1 follows 1", "s3 3 follows 1"], "{:?}", server.kind);
            assert!(story.lost.is_empty(), "{:?}", story.lost);
        }
    });
}

const GRAPH: &str = "CREATE TABLE D.graph (since DATE, from_id INT UNSIGNED NOT NULL, \
                     to_id BIGINT UNSIGNED NOT NULL, PRIMARY KEY (from_id, to_id))";

fn mapped(unit: &str, visible: &str) -> String {
    format!(
        "\n[tables.follows]\nname = \"graph\"\nfollower = \"from_id\"\nfollowed = \"to_id\"\n\
         [tables.posts]\nname = \"Sta`tus\"\nid = \"id\"\nauthor = \"account\"\ncontent = \"body\"\n\
         time = \"made\"\nunit = \"{unit}\"\nvisible = {{ {visible} }}\n\
         [tables.users]\nname = \"accounts\"\nid = \"id\"\nhandle = \"name\"\n"
    )
}

fn packed(date: (u16, u8, u8), time: (u8, u8, u8), micros: u32) -> i64 {
    let ((year, month, day), (hour, minute, second)) = (date, time);
    CalendarTime { year, month, day, hour, minute, second, micros }.packed()
}

#[test]
fn a_teams_own_tables_are_told_as_they_are_read() {
    run(async {
        for server in servers(false) {
            let create = [
                GRAPH,
                "CREATE TABLE D.`Sta``tus` (note VARCHAR(300) CHARACTER SET latin1, price DECIMAL(20,4), \
                 flags BIT(10), mood ENUM('x','y'), tags SET('a','b'), j JSON, f FLOAT, d DOUBLE, y YEAR, \
                 t TIME(2), dd DATE, id BIGINT UNSIGNED NOT NULL PRIMARY KEY, account BIGINT UNSIGNED NOT NULL, \
                 small SMALLINT, medium MEDIUMINT, body MEDIUMTEXT CHARACTER SET utf8mb4, \
                 made DATETIME(3) NOT NULL, deleted_at TIMESTAMP NULL, fixed CHAR(200) CHARACTER SET utf8mb4, \
                 KEY tail (account, made, id))",
                "CREATE TABLE D.accounts (id INT PRIMARY KEY, name VARCHAR(50))",
            ];
            let config = mapped("datetime(3)", "column = \"deleted_at\", value = \"NULL\"");
            let mut story = Story::begin_with(&server, &create, |c| c + &config).await;
            let insert = |id: &str, made: &str| {
                format!(
                    "INSERT INTO D.`Sta``tus` (note, price, flags, mood, tags, j, f, d, y, t, dd, id, \
                     account, small, medium, body, made, fixed) VALUES ('\u{e9}', -12345.6789, b'1', \
                     'y', 'a,b', '{{\"a\":1}}', 1.5, 2.5, 2024, '-11:12:13.14', '2024-02-29', {id}, 7, -2, -3, \
                     'text', '{made}', 'fixed')"
                )
            };
            let first = insert("1", "2024-02-29 23:59:58.125");
            let second = insert("9223372036854775808", "2024-02-29 23:59:58.125");
            let at = packed((2024, 2, 29), (23, 59, 58), 125_000);
            let later = packed((2025, 1, 1), (0, 0, 0), 0);
            story
                .check(
                    &[
                        &first,
                        &second,
                        "UPDATE D.`Sta``tus` SET made = '2025-01-01' WHERE id = 1",
                        "UPDATE D.`Sta``tus` SET deleted_at = NOW() WHERE id = 1",
                        "UPDATE D.`Sta``tus` SET body = NULL, deleted_at = NULL WHERE id = 1",
                        "INSERT INTO D.accounts VALUES (7, 'who')",
                        "UPDATE D.accounts SET name = 'she'",
                        "INSERT INTO D.graph VALUES (NOW(), 4294967295, 9223372036854775807)",
                        "INSERT INTO D.graph VALUES (NOW(), 1, 18446744073709551615)",
                    ],
                    &[
                        &format!("s0 7/1@{at} \"text\""),
                        &format!("s0 7/1@{at} gone, s0 7/1@{later} \"text\""),
                        &format!("s0 7/1@{later} gone"),
                        &format!("s0 7/1@{later} \"\""),
                        "s0 author 7?",
                        "s0 author 7?, s0 author 7?",
                        "s0 4294967295 follows 9223372036854775807",
                    ],
                )
                .await;
        }
    });
}

#[test]
fn marks_of_deleted_posts_and_texts_in_other_alphabets_are_told_apart() {
    run(async {
        for server in servers(false) {
            let create = [
                GRAPH,
                "CREATE TABLE D.`Sta``tus` (id INT NOT NULL, account INT, \
                 body VARCHAR(100) CHARACTER SET latin1, made TIMESTAMP(6) NULL, \
                 state ENUM('it''s gone','it''s public'), KEY (id), KEY tail (account, made, id))",
                "CREATE TABLE D.accounts (id INT PRIMARY KEY, name VARCHAR(50))",
            ];
            let config = mapped(
                "datetime(6)",
                "column = \"state\", value = \"it's public\", hidden = \"it's gone\"",
            );
            let mut story = Story::begin_with(&server, &create, |c| c + &config).await;
            let insert = |id, made: &str, state: &str| {
                format!("INSERT INTO D.`Sta``tus` VALUES ({id}, 7, NULL, {made}, '{state}')")
            };
            let seen = insert(1, "'2024-02-29 23:59:58.000125'", "it''s public");
            let hidden = insert(2, "'2024-02-29 23:59:58'", "it''s gone");
            let timeless = insert(3, "NULL", "it''s public");
            let at = packed((2024, 2, 29), (23, 59, 58), 125);
            story
                .check(
                    &[
                        "SET time_zone = '+00:00'",
                        &seen,
                        &hidden,
                        &timeless,
                        "UPDATE D.`Sta``tus` SET body = '\u{fc}' WHERE id = 1",
                        "DELETE FROM D.`Sta``tus` WHERE id = 1",
                    ],
                    // Nothing keeps a row single, so that what is gone may still be there.
                    &[&format!("s0 7/1@{at} \"\""), "s0 author 7?, s0 author 7?", "s0 author 7?"],
                )
                .await;
        }
    });
}

#[test]
fn a_server_whose_log_cannot_be_followed_is_told_with_the_cure() {
    run(async {
        for server in servers(true) {
            let reader = "'reader'@'127.0.0.1'";
            server
                .execute(&[
                    "SET GLOBAL binlog_format = 'MIXED'".into(),
                    format!("CREATE USER {reader} IDENTIFIED BY '{PASSWORD}'"),
                    format!("GRANT SELECT ON *.* TO {reader}"),
                ])
                .await;
            let config = |text: String| text.replace("user = \"tributary\"", "user = \"reader\"");
            let mut story = Story::open(&server, &[], config).await;
            story.until(|story| !story.lost.is_empty()).await;
            assert!(story.lost[0].contains("SET GLOBAL binlog_format = ROW"), "{:?}", story.lost);
            server.execute(&["SET GLOBAL binlog_format = 'ROW'".into()]).await;
            story.until(|story| story.lost.len() > 1).await;
            let rights = match server.kind {
                Kind::MariaDb => "GRANT REPLICATION SLAVE ON *.* TO 'reader'@'127.0.0.1'",
                Kind::MySql => {
                    "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'reader'@'127.0.0.1'"
                }
            };
            assert!(story.lost[1].contains(rights), "{:?}", story.lost);
            server.execute(&[rights.into()]).await;
            story.until(|story| !story.began.is_empty()).await;
            assert_eq!(story.lost.len(), 2, "each is told once: {:?}", story.lost);
            story.check(&["INSERT INTO D.followers VALUES (1, 1)"], &["s0 1 follows 1"]).await;
        }
    });
}
