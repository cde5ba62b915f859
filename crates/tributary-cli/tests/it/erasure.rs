//! `tributary delete-user`: no column of any table names the user afterwards, on any shard, and all
//! other rows stay.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tributary::internal::Fleet;
use tributary::posts::{PostAddress, References};
use tributary::{Post, Tributary, UserId};

use crate::backup;
use crate::commands::{output, tributary};
use crate::support::database::{Database, mariadb, mysql};
use crate::support::fleet::{Backend, SHARDS, TestFleet, every_backend, load_into};
use crate::support::world::World;
use crate::support::{run, scratch, user_id};

const USER: u64 = 777;

/// Columns that hold other numbers than ids of users. A new column of our tables must be added
/// here, or `delete-user` must delete its rows.
const NO_USERS: [(&str, &str); 11] = [
    ("tweets", "tweet_id"),
    ("tweets", "timestamp"),
    ("tweets", "reply_to_tweet_id"),
    ("tweets", "repost_of_tweet_id"),
    ("tweets", "edited_at"),
    ("read_markers", "post_time"),
    ("read_markers", "post_id"),
    ("read_markers", "updated_at"),
    ("tributary_writes", "post_id"),
    ("tributary_writes", "post_time"),
    ("tributary_writes", "created_ms"),
];

fn delete_user(fleet: &TestFleet, user: u64, options: &[&str]) -> (i32, String, String) {
    let mut command = tributary(&["delete-user", &user.to_string()]);
    output(command.args(fleet.source_args()).args(options))
}

/// A column of a shard: table, name, type.
type TableColumn = (String, String, String);

/// The statements that add a row for each number column of our tables, with the user's id in it and
/// other values in all others.
fn rows_with_the_id_in_one_column(columns: &[TableColumn], table_of: &str) -> Vec<String> {
    let is_number = |kind: &str| kind.contains("int");
    let mut next = 1_000_000;
    let mut statements = Vec::new();
    for (table, column, kind) in columns {
        if !is_number(kind) {
            continue;
        }
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (_, name, kind) in columns.iter().filter(|(other, ..)| other == table) {
            next += 1;
            names.push(name.as_str());
            values.push(match kind.as_str() {
                _ if name == column => USER.to_string(),
                number if is_number(number) => next.to_string(),
                kind if kind.contains("bin") || kind == "blob" => format!("X'{next:064}'"),
                _ => format!("'{next}'"),
            });
        }
        let (names, values) = (names.join(", "), values.join(", "));
        statements.push(format!("INSERT INTO {table_of}{table} ({names}) VALUES ({values})"));
    }
    statements
}

/// Asserts that the user's id is nowhere, except in columns that hold no ids of users.
fn assert_gone(columns: &[TableColumn], mut count: impl FnMut(&str) -> u64, table_of: &str) {
    let (mut others, mut expected) = (0, 0);
    for (table, column, _) in columns {
        let sql = format!("SELECT COUNT(*) FROM {table_of}{table} WHERE {column} = {USER}");
        match NO_USERS.contains(&(table.as_str(), column.as_str())) {
            true => {
                others += count(&sql);
                expected += 1;
            }
            false => assert_eq!(count(&sql), 0, "{table}.{column} still names the user"),
        }
    }
    assert_eq!(others, expected, "rows that do not name the user stay");
}

async fn columns_of(connection: &mut Conn, database: &str) -> Vec<TableColumn> {
    let sql = "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR),
             LOWER(CAST(data_type AS CHAR))
         FROM information_schema.columns WHERE table_schema = ?
         ORDER BY table_name, ordinal_position";
    connection.exec(sql, (database,)).await.unwrap()
}

/// The optional tables and columns, for shards on servers.
const OPTIONAL: &str = "
[tables.posts]
edited_at = \"edited_at\"
[tables.posts.references]
[tables.mutes]
[tables.blocks]
[tables.read_markers]
[tables.users]
name = \"users\"
id = \"user_id\"
handle = \"handle\"
";

/// Shards with all tables and columns that Tributary can have.
async fn with_all_tables(fleet: &TestFleet) {
    let Some(file) = &fleet.config_file else { return };
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, text + OPTIONAL).unwrap();
    for (server, database) in &fleet.databases {
        let users = "(user_id BIGINT PRIMARY KEY, handle VARCHAR(64), KEY (handle))";
        server.execute(&[format!("CREATE TABLE {database}.users {users}")]).await;
    }
}

/// Posts of other users on every shard that refer to a post of the user: replies, reposts with a
/// text, and reposts without one.
async fn posts_that_refer_to_the_user(fleet: &TestFleet) -> [Vec<Post>; 3] {
    let node = fleet.open_for_writing().await;
    let of_user = node.publish(user_id(USER), "of the user", None).await.unwrap().post.key;
    let at = Some(PostAddress { author: of_user.author, post: of_user.post });
    let reply = References { reply_to: at, ..References::default() };
    let repost = References { repost_of: at, ..References::default() };
    let mut posts = [Vec::new(), Vec::new(), Vec::new()];
    for author in (1..=SHARDS).map(user_id) {
        for (n, (text, references)) in
            [("reply", reply), (" ", repost), ("", repost)].into_iter().enumerate()
        {
            let stored = node.publish_with(author, text, references, None).await.unwrap();
            posts[n].push(stored.post);
        }
    }
    node.close().await;
    posts
}

/// Asserts that posts of other users stay as they were, except for their references.
async fn assert_only_plain_reposts_are_gone(
    fleet: &TestFleet,
    [replies, quotes, _]: [Vec<Post>; 3],
) {
    let node = fleet.open().await;
    for author in (1..=SHARDS).map(user_id) {
        let page = node.author_timeline(author, &Default::default()).await.unwrap();
        let of_author = replies.iter().chain(&quotes).filter(|post| post.key.author == author);
        let mut expected: Vec<Post> = of_author.cloned().collect();
        expected.sort_by_key(|post| std::cmp::Reverse(post.key));
        for post in &mut expected {
            post.references = References::default();
        }
        assert_eq!(page.posts, expected);
    }
    node.close().await;
}

#[test]
fn no_column_of_our_tables_names_a_deleted_user() {
    for (backend, fleet) in run(every_backend()) {
        run(with_all_tables(&fleet));
        if backend == Backend::Sqlite {
            deleted_from_files(&fleet);
            continue;
        }
        run(async {
            let referring = posts_that_refer_to_the_user(&fleet).await;
            let mut shards = Vec::new();
            for (server, database) in &fleet.databases {
                let mut connection = server.connect().await;
                let columns = columns_of(&mut connection, database).await;
                let of = format!("{database}.");
                server.execute(&rows_with_the_id_in_one_column(&columns, &of)).await;
                shards.push((connection, columns, of));
            }
            let (code, text, error) = delete_user(&fleet, USER, &[]);
            assert_eq!(code, 0, "{backend:?}: {text}{error}");
            for (mut connection, columns, of) in shards {
                let mut rows = Vec::new();
                for (table, column, _) in &columns {
                    let sql = format!("SELECT COUNT(*) FROM {of}{table} WHERE {column} = {USER}");
                    let count: Option<u64> = connection.query_first(&sql).await.unwrap();
                    rows.push((sql, count.unwrap()));
                }
                let count = |sql: &str| rows.iter().find(|(known, _)| known == sql).unwrap().1;
                assert_gone(&columns, count, &of);
            }
            assert_only_plain_reposts_are_gone(&fleet, referring).await;
        });
    }
}

fn deleted_from_files(fleet: &TestFleet) {
    let referring = run(posts_that_refer_to_the_user(fleet));
    let file = |shard: u64| fleet.dir.path().join(format!("data/shard-{shard}.sqlite"));
    let columns: Vec<TableColumn> = {
        let connection = rusqlite::Connection::open(file(0)).unwrap();
        let sql = "SELECT t.name, c.name, lower(c.type)
             FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
             WHERE t.type = 'table' AND t.name NOT IN ('tributary_log', 'tributary_history')";
        let mut columns = connection.prepare(sql).unwrap();
        let rows = columns.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().map(Result::unwrap).collect()
    };
    for shard in 0..4 {
        let connection = rusqlite::Connection::open(file(shard)).unwrap();
        for statement in rows_with_the_id_in_one_column(&columns, "") {
            connection.execute(&statement, []).unwrap();
        }
        let text = "INSERT INTO tweets (tweet_id, user_id, content, timestamp)
                    VALUES (5, 777, 'a secret text', 5)";
        connection.execute(text, []).unwrap();
    }
    let (code, text, error) = delete_user(fleet, USER, &[]);
    assert_eq!(code, 0, "{text}{error}");
    for shard in 0..4 {
        let bytes = fs::read(file(shard)).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!has(b"a secret text"), "the text is overwritten");
        let log = file(shard).with_extension("sqlite-wal");
        assert_eq!(fs::metadata(log).map_or(0, |log| log.len()), 0);
        let connection = rusqlite::Connection::open(file(shard)).unwrap();
        let count = |sql: &str| -> u64 {
            let count: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
            count.unsigned_abs()
        };
        assert_gone(&columns, count, "");
        let log = "SELECT COUNT(*) FROM tributary_log
             WHERE user_id = 777 OR (other_id = 777 AND kind NOT IN (1, 2, 5))";
        assert_eq!(count(log), 0, "the log names the user");
        let gaps = "SELECT max(seq) - min(seq) + 1 - count(*) FROM tributary_log";
        assert_eq!(count(gaps), 0, "the numbers of the log have no gaps");
    }
    run(assert_only_plain_reposts_are_gone(fleet, referring));
}

#[test]
fn a_folder_in_use_is_refused_and_another_user_keeps_all_rows() {
    run(async {
        let dir = scratch();
        let data = dir.path().join("data");
        let delete = |options: &[&str]| {
            let mut command = tributary(&["delete-user", "9", "--data"]);
            output(command.arg(&data).args(options))
        };
        let (code, _, error) = delete(&[]);
        assert!(code == 3 && error.contains("has no shards"), "{error}");
        assert!(!data.exists());
        let config = backup::config(&data);
        let fleet = Fleet::open_to_load(&config).await.unwrap();
        load_into(&fleet, &World::followed_by(user_id(4))).await;
        drop(fleet);
        let serving = Tributary::open(&config).await.unwrap();
        let (code, text, _) = delete(&["--dry-run"]);
        assert!(code == 0 && text.contains("Dry run: 22 rows of user 9"), "{text}");
        let (code, _, error) = delete(&[]);
        assert!(code == 3 && error.contains("another process owns the folder"), "{error}");
        serving.close().await;
        let (code, text, error) = delete(&[]);
        assert_eq!(code, 0, "{text}{error}");
        for line in ["  followers.followed_user_id: 1", "  tweets.user_id: 10"] {
            assert!(text.contains(line), "{text}");
        }
        let served = Tributary::open(&config).await.unwrap();
        let page = served.home_timeline(user_id(4), &Default::default()).await.unwrap();
        let authors: BTreeSet<UserId> = page.posts.iter().map(|post| post.key.author).collect();
        assert!(authors.len() > 1 && !authors.contains(&user_id(9)), "{authors:?}");
        served.close().await;
        let (code, text, _) = delete(&[]);
        assert!(code == 0 && text.contains("Deleted 0 rows"), "{text}");
    });
}

const TABLES: &str = "
[tables.follows]
name = \"follows\"
follower = \"follower_id\"
followed = \"followable_id\"
visible = [
    { column = \"followable_type\", value = \"User\" },
    { column = \"state\", value = 1, hidden = 0 },
]

[tables.posts]
name = \"posts\"
id = \"id\"
author = \"author\"
content = \"body\"
time = \"created_at\"
unit = \"datetime(3)\"
visible = { column = \"deleted_at\", value = \"NULL\" }

[tables.users]
name = \"people\"
id = \"id\"
handle = \"name\"
";

/// Tables of a team. The followees have no index, and comments refer to posts.
fn adopted_tables(database: &str) -> Vec<String> {
    [
        "CREATE TABLE {db}.follows (follower_id BIGINT NOT NULL, followable_id BIGINT NOT NULL, \
         followable_type VARCHAR(20) NOT NULL, state TINYINT NOT NULL, \
         PRIMARY KEY (follower_id, followable_type, followable_id))",
        "CREATE TABLE {db}.posts (id BIGINT PRIMARY KEY, author BIGINT NOT NULL, body TEXT, \
         created_at DATETIME(3) NOT NULL, deleted_at DATETIME NULL, \
         KEY wall (author, created_at, id))",
        "CREATE TABLE {db}.people (id BIGINT PRIMARY KEY, name VARCHAR(30))",
        "CREATE TABLE {db}.comments (post BIGINT NOT NULL, \
         FOREIGN KEY (post) REFERENCES {db}.posts (id))",
        "INSERT INTO {db}.people VALUES (777, 'gone'), (778, 'stays')",
        // The user and another one: a visible post, a deleted one, a draft.
        "INSERT INTO {db}.posts VALUES (1, 777, 'a', NOW(), NULL), (2, 777, 'b', NOW(), NOW()), \
         (3, 778, 'c', NOW(), NULL)",
        "INSERT INTO {db}.comments VALUES (1)",
        // 1,300 followers, more than a transaction has; one waits for an answer.
        "INSERT INTO {db}.follows SELECT n.n + 1000 * m.n, 777, 'User', n.n MOD 2 FROM \
         (SELECT a.n + 10 * b.n + 100 * c.n AS n FROM {digits} a, {digits} b, {digits} c) n, \
         (SELECT 1 AS n UNION ALL SELECT 2) m",
        // The user follows a page with its own id, and so does another user.
        "INSERT INTO {db}.follows VALUES (777, 777, 'Page', 1), (778, 777, 'Page', 1), \
         (777, 778, 'User', 0), (778, 779, 'User', 1)",
    ]
    .map(|sql| {
        let digits: Vec<String> = (0..10).map(|n| format!("SELECT {n} AS n")).collect();
        sql.replace("{db}", database)
            .replace("{digits}", &format!("({})", digits.join(" UNION ALL ")))
    })
    .into()
}

async fn rows(connection: &mut Conn, sql: String) -> Vec<String> {
    let rows: Vec<Row> = connection.query(sql).await.unwrap();
    rows.into_iter().map(|row| format!("{:?}", row.unwrap())).collect()
}

#[test]
fn hidden_rows_of_adopted_tables_are_deleted_and_other_things_with_the_same_id_are_kept() {
    run(async {
        let kinds = [Some(vec![Arc::clone(&mariadb()[0])]), mysql().map(|s| vec![Arc::clone(s)])];
        for servers in kinds.into_iter().flatten() {
            let fleet = adopted(&servers).await;
            let (code, text, error) = delete_user(&fleet, USER, &["--dry-run"]);
            assert_eq!(code, 0, "{text}{error}");
            assert!(text.contains("Dry run: 8020 rows"), "{text}");
            assert!(text.contains("follows.followable_id: 2000 (without an index"), "{text}");
            assert!(text.contains("people.id: 1\n"), "an index helps: {text}");

            // The comment refers to a post of the user.
            let (code, text, error) = delete_user(&fleet, USER, &[]);
            assert!(code == 3 && error.contains("refer to the user"), "{text}{error}");
            let (code, text, _) = delete_user(&fleet, USER, &["--dry-run"]);
            assert!(code == 0 && !text.contains("Dry run: 8020"), "a part is deleted: {text}");
            for (server, database) in &fleet.databases {
                server.execute(&[format!("DELETE FROM {database}.comments")]).await;
            }
            let (code, text, error) = delete_user(&fleet, USER, &[]);
            assert_eq!(code, 0, "{text}{error}");
            for (server, database) in &fleet.databases {
                let mut connection = server.connect().await;
                let mut found = async |sql: &str| {
                    rows(&mut connection, sql.replace("{db}", database)).await.len()
                };
                assert_eq!(found("SELECT 1 FROM {db}.posts").await, 1);
                assert_eq!(found("SELECT 1 FROM {db}.people").await, 1);
                assert_eq!(found("SELECT 1 FROM {db}.follows").await, 2);
                let kept = "SELECT 1 FROM {db}.follows WHERE follower_id = 778";
                assert_eq!(found(kept).await, 2, "the follow of a page is kept");
            }
            let (code, text, _) = delete_user(&fleet, USER, &[]);
            assert!(code == 0 && text.contains("Deleted 0 rows"), "{text}");
        }
    });
}

async fn adopted(servers: &[Arc<Database>]) -> TestFleet {
    let fleet = TestFleet::on(servers);
    let file = fleet.config_file.clone().unwrap();
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{config}{TABLES}")).unwrap();
    for (server, database) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {database}")];
        statements.extend(adopted_tables(database));
        server.execute(&statements).await;
    }
    fleet
}
