//! Tables that hold other rows than follows and posts: requests, blocks, deleted rows, rows about
//! other things than users. Only rows that meet the conditions of `visible` are shown, by every
//! read, from memory and from the databases; writes never make another row visible.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tributary::internal::Follow;
use tributary::{Limit, Tributary, WriteError};

use crate::check::{Given, check, codes};
use crate::support::database::{Database, mariadb, mysql};
use crate::support::fleet::{SHARDS, TestFleet};
use crate::support::watch::{Watch, at_least};
use crate::support::{post_id, run, scratch, user_id};

/// One server of each installed kind.
fn servers() -> Vec<Arc<Database>> {
    mariadb().first().into_iter().chain(mysql()).map(Arc::clone).collect()
}

const CONFIG: &str = r#"
[tables.follows]
name = "follows"
follower = "follower_id"
followed = "followable_id"
visible = [
    { column = "followable_type", value = "User" },
    { column = "Status", value = "accepted" },
    { column = "blocked", value = false },
    { column = "muted", value = "" },
    { column = "deleted_at", value = "NULL" },
]

[tables.posts]
name = "posts"
id = "id"
author = "author_id"
content = "body"
time = "created"
visible = [
    { column = "state", value = "public" },
    { column = "approved_at", value = "NOT NULL" },
    { column = "hidden", value = 0, hidden = 1 },
]
"#;

const FOLLOWS: &str = "CREATE TABLE D.follows (id BIGINT AUTO_INCREMENT PRIMARY KEY, \
    followable_type VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL, \
    follower_id BIGINT NOT NULL, followable_id BIGINT NOT NULL, \
    status ENUM('pending','accepted','rejected') NOT NULL DEFAULT 'pending', \
    blocked TINYINT(1) NOT NULL DEFAULT 0, muted SET('posts','replies') NOT NULL DEFAULT '', \
    deleted_at DATETIME NULL, UNIQUE KEY pair (follower_id, followable_id))";

const POSTS: &str = "CREATE TABLE D.posts (id BIGINT PRIMARY KEY, author_id BIGINT NOT NULL, \
    body VARCHAR(100) CHARACTER SET utf8mb4, created BIGINT NOT NULL, \
    state VARCHAR(20) CHARACTER SET latin1 NOT NULL DEFAULT 'draft', approved_at DATETIME(3) NULL, \
    hidden BIT(1) NOT NULL DEFAULT b'0', KEY wall (author_id, created, id))";

async fn fleet(server: &Arc<Database>, more: &str) -> TestFleet {
    let fleet = TestFleet::on(std::slice::from_ref(server));
    let file = fleet.config_file.clone().unwrap();
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{config}{CONFIG}{more}")).unwrap();
    for (server, database) in &fleet.databases {
        let here = |sql: &str| sql.replace("D.", &format!("{database}."));
        let statements = [format!("CREATE DATABASE {database}"), here(FOLLOWS), here(POSTS)];
        server.execute(&statements).await;
    }
    fleet
}

/// The values of the condition columns, as SQL literals. The first one of each is visible.
const OF_FOLLOWS: [(&str, &[&str]); 5] = [
    ("followable_type", &["'User'", "'Tag'", "'user'", "'User '", "'Users'"]),
    ("status", &["'accepted'", "'pending'", "'rejected'"]),
    ("blocked", &["0", "1", "2"]),
    ("muted", &["''", "'posts'", "'posts,replies'"]),
    ("deleted_at", &["NULL", "NOW()"]),
];
const OF_POSTS: [(&str, &[&str]); 3] = [
    ("state", &["'public'", "'draft'", "'Public'", "'publi\u{e7}'"]),
    ("approved_at", &["NOW(3)", "NULL"]),
    ("hidden", &["b'0'", "b'1'"]),
];

/// A row that another program writes: an index of a value for each condition column.
type Marks = Vec<usize>;

/// Whether the server finds the row visible. Its collations ignore case, accents and
/// trailing blanks.
fn is_visible(columns: &[(&str, &[&str])], marks: &[usize]) -> bool {
    let of = |((_, values), mark): (&(&str, &[&str]), &usize)| {
        let plain =
            |value: &str| value.trim_matches('\'').trim_end().to_lowercase().replace('\u{e7}', "c");
        plain(values[*mark]) == plain(values[0])
    };
    columns.iter().zip(marks).all(of)
}

/// The rows that another program has stored.
struct Rows {
    random: StdRng,
    /// (follower, followee).
    follows: BTreeMap<(u64, u64), Marks>,
    /// Id of the post -> author.
    posts: BTreeMap<u64, (u64, Marks)>,
}

const READERS: u64 = 6;
const AUTHORS: u64 = 10;

impl Rows {
    /// Marks that are visible in about half of the rows.
    fn marks(&mut self, columns: &[(&str, &[&str])]) -> Marks {
        let mut marks = vec![0; columns.len()];
        for _ in 0..self.random.random_range(0..3) {
            let column = self.random.random_range(0..columns.len());
            marks[column] = self.random.random_range(0..columns[column].1.len());
        }
        marks
    }

    /// Changes one row of a user of this shard. Returns the statement.
    fn change(&mut self) -> (u64, String) {
        if self.random.random_bool(0.5) { self.change_follow() } else { self.change_post() }
    }

    fn change_follow(&mut self) -> (u64, String) {
        let key = (self.random.random_range(0..READERS), self.random.random_range(0..AUTHORS));
        let at = format!("follower_id = {} AND followable_id = {}", key.0, key.1);
        let marks = self.marks(&OF_FOLLOWS);
        let values = values(&OF_FOLLOWS, &marks);
        let sql = match (self.follows.remove(&key), self.random.random_range(0..4)) {
            (Some(_), 0) => format!("DELETE FROM D.follows WHERE {at}"),
            (Some(_), _) => {
                self.follows.insert(key, marks);
                format!("UPDATE D.follows SET {} WHERE {at}", assigned(&OF_FOLLOWS, &values))
            }
            (None, _) => {
                self.follows.insert(key, marks);
                format!(
                    "INSERT INTO D.follows (follower_id, followable_id, {}) VALUES ({}, {}, {})",
                    names(&OF_FOLLOWS),
                    key.0,
                    key.1,
                    values.join(", ")
                )
            }
        };
        (key.0, sql)
    }

    fn change_post(&mut self) -> (u64, String) {
        let id = self.random.random_range(1..80);
        let author = id % AUTHORS;
        let marks = self.marks(&OF_POSTS);
        let values = values(&OF_POSTS, &marks);
        let sql = match (self.posts.remove(&id), self.random.random_range(0..4)) {
            (Some(_), 0) => format!("DELETE FROM D.posts WHERE id = {id}"),
            (Some(_), _) => {
                self.posts.insert(id, (author, marks));
                let assigned = assigned(&OF_POSTS, &values);
                format!("UPDATE D.posts SET {assigned} WHERE id = {id}")
            }
            (None, _) => {
                self.posts.insert(id, (author, marks));
                format!(
                    "INSERT INTO D.posts (id, author_id, body, created, {}) \
                     VALUES ({id}, {author}, 'post {id}', {}, {})",
                    names(&OF_POSTS),
                    1_700_000_000_000 + id % 7,
                    values.join(", ")
                )
            }
        };
        (author, sql)
    }

    fn followees(&self, reader: u64) -> Vec<u64> {
        let visible = |(key, marks): (&(u64, u64), &Marks)| {
            (key.0 == reader && is_visible(&OF_FOLLOWS, marks)).then_some(key.1)
        };
        self.follows.iter().filter_map(visible).collect()
    }

    /// The visible posts of these authors, newest first.
    fn timeline(&self, authors: &[u64]) -> Vec<u64> {
        let posts = self.posts.iter().filter(|(_, (author, marks))| {
            authors.contains(author) && is_visible(&OF_POSTS, marks)
        });
        let mut ids: Vec<(u64, u64)> = posts.map(|(id, _)| (id % 7, *id)).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().map(|(_, id)| id).collect()
    }
}

fn values<'a>(columns: &[(&str, &[&'a str])], marks: &[usize]) -> Vec<&'a str> {
    columns.iter().zip(marks).map(|((_, values), mark)| values[*mark]).collect()
}

fn names(columns: &[(&str, &[&str])]) -> String {
    columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn assigned(columns: &[(&str, &[&str])], values: &[&str]) -> String {
    let pairs = columns.iter().zip(values).map(|((name, _), value)| format!("{name} = {value}"));
    pairs.collect::<Vec<_>>().join(", ")
}

/// Random changes by another program. After each round every read of two nodes, one with memory,
/// shows exactly the visible rows.
#[test]
fn only_rows_that_meet_all_conditions_are_shown() {
    run(async {
        for server in servers() {
            let fleet = fleet(&server, "").await;
            let memory = Tributary::open(&fleet.config_with_memory(16 << 20)).await.unwrap();
            let plain = fleet.open().await;
            let watch = Watch::start(&memory).await;
            watch.until_heads_known().await;
            let random = StdRng::seed_from_u64(23);
            let mut rows = Rows { random, follows: BTreeMap::new(), posts: BTreeMap::new() };
            let mut shown = 0;
            for round in 0..12 {
                for _ in 0..25 {
                    let (user, sql) = rows.change();
                    let (server, database) =
                        &fleet.databases[usize::try_from(user % SHARDS).unwrap()];
                    server.execute(&[sql.replace("D.", &format!("{database}."))]).await;
                }
                let context = format!("{:?}, round {round}", server.kind);
                for node in [&memory, &plain] {
                    shown += compare(node, &rows, &context).await;
                }
            }
            assert!(shown > 500, "{shown} posts were shown: the test shows next to nothing");
            watch.until_audited(8).await;
            assert_eq!(watch.counters().await["mismatched"], 0, "{:?}", server.kind);
        }
    });
}

/// Compares every read of a node with the rows. Returns the number of posts shown.
async fn compare(node: &Tributary, rows: &Rows, context: &str) -> usize {
    let limit = Limit::new(100).unwrap();
    // All shards are on one server, so one token covers all writes.
    let request = at_least(&node.freshness(user_id(0)).await, limit);
    let mut shown = 0;
    for reader in 0..READERS {
        let followees = rows.followees(reader);
        let page = node.home_timeline(user_id(reader), &request).await.unwrap();
        assert!(page.is_complete(), "{context}: {:?}", page.missing);
        let ids: Vec<u64> = page.posts.iter().map(|post| post.key.post.get()).collect();
        assert_eq!(ids, rows.timeline(&followees), "{context}: reader {reader}");
        shown += ids.len();
        let listed = node.following(user_id(reader), user_id(0), limit).await.unwrap().followees;
        let listed: Vec<u64> = listed.iter().map(|user| user.get()).collect();
        assert_eq!(listed, followees, "{context}: reader {reader}");
    }
    for author in 0..AUTHORS {
        let page = node.author_timeline(user_id(author), &request).await.unwrap();
        let ids: Vec<u64> = page.posts.iter().map(|post| post.key.post.get()).collect();
        assert_eq!(ids, rows.timeline(&[author]), "{context}: author {author}");
    }
    for (id, (author, marks)) in rows.posts.iter().take(10) {
        let post = node.post(user_id(*author), post_id(*id)).await.unwrap().post;
        assert_eq!(post.is_some(), is_visible(&OF_POSTS, marks), "{context}: post {id}");
    }
    shown
}

/// Writes insert visible rows, remove visible rows only, and leave all other rows unchanged.
#[test]
#[expect(clippy::too_many_lines, reason = "one scenario on one fleet")]
fn writes_never_make_another_row_visible() {
    run(async {
        for server in servers() {
            let fleet =
                fleet(&server, "\n[write]\nenabled = true\ncontent_bytes_max = 400\n").await;
            tributary::internal::migrate(&fleet.config(), drop).await.unwrap();
            let tributary = fleet.open().await;
            let (server, database) = &fleet.databases[1];
            let limit = Limit::new(100).unwrap();
            let followees = async || -> Vec<u64> {
                let page = tributary.following(user_id(1), user_id(0), limit).await.unwrap();
                page.followees.iter().map(|user| user.get()).collect()
            };
            let insert = |followee: u64, more: &str| {
                format!(
                    "INSERT INTO {database}.follows SET follower_id = 1, followable_id = {followee}, \
                     followable_type = 'User', {more}"
                )
            };
            server
                .execute(&[
                    insert(10, "status = 'pending'"),
                    insert(11, "status = 'accepted', blocked = 1"),
                    insert(12, "status = 'accepted', deleted_at = NOW()"),
                    insert(13, "status = 'rejected', deleted_at = NOW()"),
                    insert(14, "status = 'accepted'").replace("'User'", "'Tag'"),
                ])
                .await;
            let rows = async || -> Vec<String> {
                let sql = format!(
                    "SELECT CONCAT_WS(' ', followable_id, followable_type, status, blocked, muted, \
                     IF(deleted_at IS NULL, '', 'gone')) FROM {database}.follows ORDER BY 1"
                );
                server.connect().await.query(sql).await.unwrap()
            };
            let before = rows().await;
            for hidden in [10, 11, 13, 14] {
                let refused = tributary.follow(user_id(1), user_id(hidden)).await;
                assert_eq!(refused, Err(WriteError::Refused), "{:?}: {hidden}", server.kind);
                tributary.unfollow(user_id(1), user_id(hidden)).await.unwrap();
            }
            // One hidden row refuses the whole request.
            let all = tributary.follow_all(user_id(1), &[20, 10, 21].map(user_id)).await;
            assert_eq!(all, Err(WriteError::Refused));
            assert_eq!(rows().await, before);

            // A follow that an unfollow has hidden is shown again; a new one has all values.
            for added in [2, 0] {
                let followed = tributary.follow_all(user_id(1), &[12, 15].map(user_id)).await;
                assert_eq!(followed.unwrap().added, added);
            }
            assert_eq!(followees().await, [12, 15]);
            assert!(
                rows().await.contains(&"15 User accepted 0  ".to_owned()),
                "{:?}",
                rows().await
            );
            tributary.unfollow(user_id(1), user_id(15)).await.unwrap();
            assert_eq!(followees().await, [12]);
            assert!(rows().await.contains(&"15 User accepted 0  gone".to_owned()));
            import_refuses_hidden_rows(&tributary).await;
            assert_eq!(followees().await, [12, 15, 22]);

            let post = tributary.publish(user_id(1), "new", None).await.unwrap().post;
            let id = post.key.post;
            assert_eq!(tributary.post(user_id(1), id).await.unwrap().post, Some(post));
            tributary.delete_post(user_id(1), id).await.unwrap();
            assert_eq!(tributary.post(user_id(1), id).await.unwrap().post, None);
            let sql = format!(
                "SELECT CONCAT_WS(' ', state, approved_at IS NULL, hidden + 0) FROM {database}.posts"
            );
            let found: Vec<String> = server.connect().await.query(sql).await.unwrap();
            assert_eq!(found, ["public 0 1"]);
            missing_values_refuse_the_start(&fleet).await;
        }
    });
}

async fn import_refuses_hidden_rows(tributary: &Tributary) {
    let rows = [10, 22, 11, 15, 12]
        .map(|followee| Follow { follower: user_id(1), followee: user_id(followee) })
        .to_vec();
    let until = std::time::Duration::from_secs(60);
    let loaded = tributary::internal::fleet(tributary).load_follows(rows, until).await.unwrap();
    let refused: Vec<usize> = loaded.refused.iter().map(|row| row.index).collect();
    assert_eq!((loaded.added, loaded.present, refused), (2, 1, vec![0, 2]), "{loaded:?}");
    assert!(loaded.refused[0].reason.contains("is not visible"), "{loaded:?}");
}

/// The start is refused if a removed row cannot be marked, or if a condition cannot be compared.
async fn missing_values_refuse_the_start(fleet: &TestFleet) {
    let file = fleet.config_file.clone().unwrap();
    let config = fs::read_to_string(&file).unwrap();
    for (from, to, expected) in [
        (", hidden = 1", "", "how a deleted post is marked in `posts` is unknown"),
        ("hidden = 1", "hidden = \"NOW\"", "cannot hold a date"),
        (
            "\"accepted\"",
            "\"Accepted\"",
            "use a label exactly as it is declared: 'pending', 'accepted'",
        ),
        ("value = false", "value = \"no\"", "which is not compared with \"no\""),
        ("\"approved_at\"", "\"created\"", "another role"),
        ("\"approved_at\"", "\"approved\"", "approved"),
    ] {
        assert!(config.contains(from), "{from}");
        fs::write(&file, config.replace(from, to)).unwrap();
        let variables = [("TRIBUTARY_MEMORY__BUDGET".to_owned(), "0".to_owned())];
        let error = match tributary::Config::from_file(&file, variables) {
            Err(error) => error.to_string(),
            Ok(config) => match Tributary::open(&config).await {
                Err(error) => error.to_string(),
                Ok(_) => panic!("it started with {to}"),
            },
        };
        assert!(error.contains(expected), "{to}: {error}");
    }
    fs::write(&file, config).unwrap();
}

/// A table of follows: its columns, the line that `check` proposes if the meaning is clear, and a
/// text of the finding.
type Case = (&'static str, &'static str, &'static str);

const CASES: [Case; 7] = [
    (
        "followable_type VARCHAR(20) NOT NULL, followable_id BIGINT NOT NULL, \
         follower_type VARCHAR(20) NOT NULL, follower_id BIGINT NOT NULL, \
         blocked TINYINT(1) NOT NULL DEFAULT 0, KEY (follower_id), \
         UNIQUE KEY once (follower_id, followable_id, followable_type, follower_type)",
        "visible = [{ column = \"followable_type\", value = \"User\" }, \
         { column = \"follower_type\", value = \"User\" }, { column = \"blocked\", value = 0 }]",
        "",
    ),
    (
        "follower_id BIGINT, followee_id BIGINT, status ENUM('pending','accepted','rejected') \
         NOT NULL DEFAULT 'accepted', PRIMARY KEY (follower_id, followee_id)",
        "visible = [{ column = \"status\", value = \"accepted\" }]",
        "",
    ),
    (
        "source_id BIGINT, target_id BIGINT, kind ENUM('follow','block','mute') NOT NULL DEFAULT \
         'follow', PRIMARY KEY (source_id, target_id)",
        "visible = [{ column = \"kind\", value = \"follow\" }]",
        "",
    ),
    (
        "follower_id BIGINT, followee_id BIGINT, accepted TINYINT NOT NULL DEFAULT 1, muted TINYINT \
         NOT NULL DEFAULT 0, deleted_at DATETIME, PRIMARY KEY (follower_id, followee_id)",
        "visible = [{ column = \"accepted\", value = 1 }, { column = \"muted\", value = 0 }, \
         { column = \"deleted_at\", value = \"NULL\" }]",
        "",
    ),
    (
        "follower_id BIGINT, followee_id BIGINT, state INT NOT NULL DEFAULT 1, PRIMARY KEY \
         (follower_id, followee_id)",
        "",
        "visible = [{ column = \"state\", value = ? }]",
    ),
    (
        "follower_id BIGINT, followee_id BIGINT, kind ENUM('follow','subscribe','block') NOT NULL, \
         PRIMARY KEY (follower_id, followee_id)",
        "",
        "`kind` has 'follow', 'subscribe', 'block'",
    ),
    (
        "follower_id BIGINT, followee_id BIGINT, created_at DATETIME, updated_at DATETIME, \
         PRIMARY KEY (follower_id, followee_id)",
        "",
        "",
    ),
];

/// `check` finds columns that mark rows, in both forms, and says which line to add.
#[test]
fn tables_with_other_rows_must_be_configured() {
    run(async {
        for server in servers() {
            for (columns, line, unclear) in CASES {
                check_case(&server, columns, line, unclear).await;
            }
        }
    });
}

async fn check_case(server: &Arc<Database>, columns: &str, line: &str, unclear: &str) {
    let given = Given::new(std::slice::from_ref(server), 2).await;
    let types = columns.contains("followable_type");
    given
        .each(|index, database| {
            let [_, posts] = tributary::internal::mysql_tables(database);
            let mut statements = vec![posts, format!("CREATE TABLE {database}.follows ({columns})")];
            let name = |column: &'static str| columns.contains(column).then_some(column);
            let follower = name("follower_id").unwrap_or("source_id");
            let followed = name("followable_id").or(name("followee_id")).unwrap_or("target_id");
            let (more, values) = match types {
                true => (", followable_type, follower_type", ", 'User', 'User'"),
                false => ("", ""),
            };
            for user in (0..40).map(|n| n * 2 + index) {
                statements.push(format!(
                    "INSERT INTO {database}.follows ({follower}, {followed}{more}) VALUES ({user}, {}{values})",
                    user + 1
                ));
                statements.push(format!(
                    "INSERT INTO {database}.tweets VALUES ({user}, {user}, 'hi', {})",
                    1_690_000_000_000 + user
                ));
            }
            statements
        })
        .await;
    let (code, report) = check(&given.dsns());
    let context = format!("{:?}, {columns}: {report:#}", server.kind);
    let configuration = report["configuration"].as_str().unwrap();
    let dir = scratch();
    let file = dir.path().join("tributary.toml");
    let check_with = |text: &str| {
        fs::write(&file, text).unwrap();
        check(&["--config".into(), file.display().to_string()])
    };
    if line.is_empty() && unclear.is_empty() {
        assert_eq!((code, configuration.contains("visible")), (0, false), "{context}");
        assert!(!codes(&report, "warning").contains(&"unused_mark".to_owned()), "{context}");
        return;
    }
    let without: Vec<&str> =
        configuration.lines().filter(|line| !line.starts_with("visible")).collect();
    let without = without.join("\n");
    if line.is_empty() {
        assert_eq!(
            (code, codes(&report, "error")),
            (3, vec!["visible_missing".into()]),
            "{context}"
        );
        assert!(finding(&report, "visible_missing").contains(unclear), "{context}");
    } else {
        assert_eq!(code, 0, "{context}");
        assert!(configuration.contains(line), "{context}");
        assert!(codes(&report, "warning").contains(&"visible_assumed".to_owned()), "{context}");
        assert!(!codes(&report, "warning").contains(&"not_unique".to_owned()), "{context}");
        // The printed configuration is accepted.
        let (code, report) = check_with(configuration);
        assert_eq!((code, codes(&report, "error").len()), (0, 0), "{report:#}");
    }
    // A configuration that does not mention the rows is refused, with the line to add.
    let (code, report) = check_with(&without);
    assert_eq!((code, codes(&report, "error")), (3, vec!["visible_missing".into()]), "{report:#}");
    let cure = finding(&report, "visible_missing");
    assert!(cure.contains(line) && cure.contains("visible = []"), "{cure}");
    let all = without.replace("[tables.follows]", "[tables.follows]\nvisible = []");
    let (code, report) = check_with(&all);
    assert_eq!((code, codes(&report, "error").len()), (0, 0), "{report:#}");
    assert!(!codes(&report, "warning").contains(&"unused_mark".to_owned()), "{report:#}");
}

fn finding(report: &Value, code: &str) -> String {
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["code"] == code).unwrap();
    finding["cure"].as_str().unwrap().to_owned()
}
