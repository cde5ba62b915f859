//! Faulty accounts, tables and rows under a running fleet: only the faulty server, shard or row is
//! excluded, and it is in service again once it is repaired.

use std::fs;
use std::time::{Duration, Instant};

use tributary::internal::{fleet, mysql_tables, mysql_writes_table};
use tributary::{
    Cursor, IdempotencyKey, Limit, Page, PageRequest, PostKey, Tributary, UserId, WriteError,
};

use super::{
    ANSWERED_WITHIN, BUSY_FACTOR, COMPLETE_WITHIN, Durations, FLAGGED_WITHIN, READER, Site, alone,
    missing, newest, until_complete,
};
use crate::support::database::PASSWORD;
use crate::support::fleet::{SHARDS, load_into};
use crate::support::user_id;
use crate::support::world::World;

/// The author of the faulty rows, on shard 1.
const AUTHOR: UserId = user_id(9);
/// Another author on the same shard.
const NEIGHBOUR: UserId = user_id(13);

async fn full_timeline(tributary: &Tributary, author: UserId) -> Page {
    let mut request = PageRequest::default().limit(Limit::new(100).unwrap());
    let mut full = tributary.author_timeline(author, &request).await.unwrap();
    // A page ends early at a number of bytes.
    while let Some(next) = full.next.take().filter(|_| full.is_complete()) {
        request = request.from(next);
        let page = tributary.author_timeline(author, &request).await.unwrap();
        full.posts.extend(page.posts);
        (full.next, full.missing) = (page.next, page.missing);
    }
    full
}

#[test]
fn a_changed_password_takes_the_server_out_of_service_until_it_is_restored() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        let tasks = site.tasks();
        let set = |password: &str| {
            vec![format!("ALTER USER 'writer'@'127.0.0.1' IDENTIFIED BY '{password}'")]
        };
        let (mut flagged, mut recovery) =
            (Durations::of("password: flagged"), Durations::of("password: complete again"));
        for _ in 0..2 {
            site.servers[1].execute(&set("another")).await;
            // Open connections keep working.
            assert!(newest(&tributary).await.is_complete());
            site.links[1].cut();
            flagged.add(until_complete(&tributary, false).await);
            assert_eq!(missing(&newest(&tributary).await), [1, 3]);
            let refused = tributary.publish(AUTHOR, "no", None).await;
            assert_eq!(refused, Err(WriteError::Unavailable));
            site.servers[1].execute(&set(PASSWORD)).await;
            recovery.add(until_complete(&tributary, true).await);
        }
        flagged.assert_within(FLAGGED_WITHIN);
        recovery.assert_within(COMPLETE_WITHIN);
        site.assert_no_leaks(tasks).await;
    });
}

/// Pairs of a statement that breaks a table or index and one that repairs it.
fn faults_and_repairs(database: &str) -> [[String; 2]; 5] {
    let index = format!("DROP INDEX tail ON {database}.tweets");
    [
        [
            format!("DROP TABLE {database}.tweets"),
            format!("RENAME TABLE {database}.kept TO {database}.tweets"),
        ],
        [
            index.clone(),
            format!("CREATE INDEX tail ON {database}.tweets (user_id, timestamp, tweet_id)"),
        ],
        // The repair differs from the original index.
        [index, format!("CREATE INDEX newest ON {database}.tweets (user_id, timestamp)")],
        [
            format!("ALTER TABLE {database}.tweets RENAME COLUMN content TO body"),
            format!("ALTER TABLE {database}.tweets RENAME COLUMN body TO content"),
        ],
        [
            format!("RENAME TABLE {database}.tributary_writes TO {database}.away"),
            format!("RENAME TABLE {database}.away TO {database}.tributary_writes"),
        ],
    ]
}

#[test]
fn a_dropped_table_or_index_takes_one_shard_out_of_service_until_repaired() {
    alone(async {
        let site = Site::empty(1, |database| {
            let mut tables = mysql_tables(database).to_vec();
            tables[1] = format!(
                "CREATE TABLE {database}.tweets (tweet_id BIGINT UNSIGNED PRIMARY KEY, user_id \
                 BIGINT NOT NULL, content TEXT NOT NULL, timestamp BIGINT NOT NULL, \
                 KEY tail (user_id, timestamp, tweet_id))"
            );
            tables.push(mysql_writes_table(database));
            tables
        })
        .await;
        load_into(fleet(&site.open().await), &World::followed_by(READER)).await;
        let tributary = site.open().await;
        let (server, database) = &site.fleet.databases[1];
        let keep = [
            format!("CREATE TABLE {database}.kept LIKE {database}.tweets"),
            format!("INSERT INTO {database}.kept SELECT * FROM {database}.tweets"),
        ];
        server.execute(&keep).await;
        let (mut flagged, mut recovery) =
            (Durations::of("table: flagged"), Durations::of("table: complete again"));
        for [fault, repair] in faults_and_repairs(database) {
            let reads = !fault.contains("tributary_writes");
            server.execute(&[fault]).await;
            if reads {
                flagged.add(until_complete(&tributary, false).await);
                assert_eq!(missing(&newest(&tributary).await), [1]);
                assert_eq!(
                    tributary.publish(AUTHOR, "no", None).await,
                    Err(WriteError::Unavailable)
                );
                tributary.publish(user_id(8), "yes", None).await.unwrap();
            } else {
                let key = || IdempotencyKey::new("k");
                let refused = tributary.publish(AUTHOR, "no", key()).await;
                assert_eq!(refused, Err(WriteError::Unavailable));
                // A fault of writing does not affect reads.
                assert!(newest(&tributary).await.is_complete());
            }
            server.execute(&[repair]).await;
            recovery.add(until_complete(&tributary, true).await);
            let start = Instant::now();
            while tributary.publish(AUTHOR, "yes", None).await.is_err() {
                assert!(start.elapsed() < COMPLETE_WITHIN * BUSY_FACTOR);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        flagged.assert_within(FLAGGED_WITHIN);
        recovery.assert_within(COMPLETE_WITHIN);
        // The world's 10 posts, and one for each of the 5 repairs.
        assert_eq!(full_timeline(&tributary, AUTHOR).await.posts.len(), 15);
    });
}

/// Tables with columns that accept invalid values, as adopted tables may have.
fn permissive_tables(database: &str, content: &str, time: &str) -> Vec<String> {
    let mut tables = mysql_tables(database).to_vec();
    tables[1] = format!(
        "CREATE TABLE {database}.tweets (tweet_id BIGINT, user_id BIGINT, content {content}, \
         timestamp {time}, KEY tail (user_id, timestamp, tweet_id))"
    );
    tables
}

#[test]
fn an_invalid_row_hides_only_itself() {
    alone(async {
        for (content, time, unit) in [
            ("LONGBLOB NULL", "BIGINT NULL", "ms"),
            ("LONGTEXT CHARACTER SET latin1 NULL", "DATETIME NULL", "datetime"),
            ("LONGTEXT CHARACTER SET utf8mb4 NULL", "TIMESTAMP(6) NULL", "datetime(6)"),
        ] {
            check_invalid_rows(content, time, unit).await;
        }
    });
}

/// Inserts the world's rows by SQL.
async fn load_by_sql(site: &Site, is_date: bool) {
    for (shard, (server, database)) in (0u64..).zip(&site.fleet.databases) {
        let mut statements = vec!["SET time_zone = '+00:00'".to_owned()];
        for post in World::followed_by(READER)
            .posts
            .iter()
            .filter(|post| post.key.author.get() % SHARDS == shard)
        {
            let PostKey { time, post, author } = post.key;
            let time = match is_date {
                true => format!("FROM_UNIXTIME({})", 1_000_000 + time),
                false => time.to_string(),
            };
            let row = format!("({post}, {author}, 'post', {time})");
            statements.push(format!("INSERT INTO {database}.tweets VALUES {row}"));
        }
        for follow in World::followed_by(READER)
            .follows
            .iter()
            .filter(|follow| follow.follower.get() % SHARDS == shard)
        {
            let (from, to) = (follow.follower, follow.followee);
            statements.push(format!("INSERT INTO {database}.followers VALUES ({from}, {to})"));
        }
        server.execute(&statements).await;
    }
}

/// Statements that insert unusual rows of one author, and the number of rows that pages show.
fn unusual_rows(database: &str, unit: &str) -> (Vec<String>, usize) {
    let now = if unit == "ms" { "1000000" } else { "'2030-01-01 00:00:00'" };
    let insert = |id: &str, content: &str, time: &str| {
        format!("INSERT INTO {database}.tweets VALUES ({id}, {AUTHOR}, {content}, {time})")
    };
    let mut rows = vec![
        "SET sql_mode = '', time_zone = '+00:00'".to_owned(),
        // Shown as posts; invalid bytes are replaced.
        insert("1", "X'FF00C328'", now),
        insert("2", "NULL", now),
        insert("3", "REPEAT('x', 65536)", now),
        insert("4", "REPEAT('y', 1048576)", now),
        insert("0", "''", now),
        insert("9223372036854775807", "'last'", now),
        // Not shown.
        insert("5", "'no time'", "NULL"),
        insert("NULL", "'no id'", now),
        insert("-6", "'no id'", now),
        format!("INSERT INTO {database}.tweets VALUES (7, NULL, 'no author', {now})"),
        format!("INSERT INTO {database}.tweets VALUES (7, -9, 'no author', {now})"),
    ];
    let times: &[&str] = match unit {
        "ms" => &["-9223372036854775808", "9223372036854775807"],
        "datetime" => {
            &["'0000-00-00'", "'0000-05-06 01:02:03'", "'2030-00-31'", "'9999-12-31 23:59:59'"]
        }
        _ => &["'0000-00-00 00:00:00'"],
    };
    for (id, time) in (10..).zip(times) {
        rows.push(insert(&id.to_string(), "'strange'", time));
    }
    (rows, 6 + times.len())
}

async fn check_invalid_rows(content: &str, time: &str, unit: &str) {
    let site = Site::empty(1, |database| permissive_tables(database, content, time)).await;
    let file = site.fleet.config_file.clone().unwrap();
    let text = fs::read_to_string(&file).unwrap().replace("[write]\nenabled = true\n", "");
    fs::write(&file, format!("{text}\n[tables.posts]\nunit = \"{unit}\"\n")).unwrap();
    load_by_sql(&site, unit != "ms").await;
    let tributary = site.open().await;
    assert_eq!(newest(&tributary).await.posts.len(), 20);

    let (server, database) = &site.fleet.databases[1];
    let (rows, posts) = unusual_rows(database, unit);
    let posts = posts + 10;
    server.execute(&rows).await;
    let mut times = Durations::of("page with invalid rows");
    for _ in 0..5 {
        let start = Instant::now();
        let page = newest(&tributary).await;
        times.add(start.elapsed());
        assert!(page.is_complete(), "{content} {time}: {:?} missing", page.missing);
        let page = full_timeline(&tributary, AUTHOR).await;
        assert!(page.is_complete(), "{content} {time}");
        assert_eq!(page.posts.len(), posts, "{content} {time}");
        let text = |id: u64| {
            let post = page.posts.iter().find(|post| post.key.post.get() == id);
            post.unwrap_or_else(|| panic!("{id} is lost")).content.as_str()
        };
        assert_eq!((text(2), text(3).len(), text(4).len()), ("", 65_536, 1 << 20));
        if unit == "ms" {
            assert_eq!(text(1), "\u{fffd}\0\u{fffd}(");
        }
        let page = full_timeline(&tributary, NEIGHBOUR).await;
        assert!(page.is_complete() && page.posts.len() == 10);
    }
    times.assert_within(ANSWERED_WITHIN);
    // Pages of one post, so that a cursor is next to every post.
    let (mut cursor, mut walked) = (Cursor::newest(), 0);
    loop {
        let request = PageRequest::default().from(cursor).limit(Limit::new(1).unwrap());
        let page = tributary.author_timeline(AUTHOR, &request).await.unwrap();
        assert!(page.is_complete(), "{content} {time}");
        walked += page.posts.len();
        match page.next {
            Some(next) => cursor = next.to_string().parse().unwrap(),
            None => break,
        }
    }
    assert_eq!(walked, posts, "{content} {time}");
}
