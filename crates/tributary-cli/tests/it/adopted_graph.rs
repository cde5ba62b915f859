//! Adopted tables of follows, mutes, blocks and posts with reserved words as names, composite keys,
//! NULL values, and ids above 2^63, which no user and no post can have.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;

use tributary::graph::Count;
use tributary::posts::{PostAddress, References};
use tributary::{Limit, PageRequest, Post, PostKey, Tributary, UserId};

use crate::graph::{execute, followers};
use crate::support::database::{Database, mariadb, mysql};
use crate::support::fleet::TestFleet;
use crate::support::watch::{Watch, until_followed, until_warm};
use crate::support::{post_id, run, user_id};

const TABLES: &[u8] = b"
[tables.follows]
name = \"select\"
follower = \"from\"
followed = \"to\"
[tables.mutes]
name = \"key\"
muter = \"order\"
muted = \"group\"
[tables.blocks]
name = \"index\"
blocker = \"where\"
blocked = \"having\"
[tables.users]
name = \"user\"
id = \"rank\"
handle = \"rows\"
[tables.posts]
name = \"table\"
id = \"id\"
author = \"by\"
content = \"text\"
time = \"when\"
edited_at = \"update\"
visible = { column = \"delete\", value = \"NULL\" }
[tables.posts.references]
reply_author = \"in\"
reply_post = \"on\"
repost_author = \"as\"
repost_post = \"is\"
";
/// 2^63 + 8, on the shard of user 8.
const HUGE: u64 = 9_223_372_036_854_775_816;

async fn adopt(servers: &[Arc<Database>]) -> TestFleet {
    let fleet = TestFleet::on(servers);
    let file = fleet.config_file.as_ref().unwrap();
    OpenOptions::new().append(true).open(file).unwrap().write_all(TABLES).unwrap();
    let id = "BIGINT UNSIGNED NOT NULL";
    for (server, database) in &fleet.databases {
        let create = [
            format!(
                "`select` (`from` {id}, `to` {id}, KEY (`to`, `from`), PRIMARY KEY (`from`, `to`))"
            ),
            format!(
                "`key` (`group` {id}, `order` {id}, since DATETIME NULL, \
                 PRIMARY KEY (`group`, `order`), UNIQUE KEY `where` (`order`, `group`))"
            ),
            format!("`index` (`where` {id}, `having` {id}, PRIMARY KEY (`where`, `having`))"),
            format!("`user` (`rank` {id} PRIMARY KEY, `rows` VARCHAR(20) NULL, KEY (`rows`))"),
            format!(
                "`table` (id {id}, `by` {id}, `text` TEXT CHARACTER SET utf8mb4, `when` BIGINT \
                 NULL, `in` BIGINT UNSIGNED, `on` BIGINT UNSIGNED, `as` BIGINT UNSIGNED, \
                 `is` BIGINT UNSIGNED, `update` BIGINT UNSIGNED, `delete` DATETIME NULL, \
                 PRIMARY KEY (id, `by`), KEY `limit` (`by`, `when`, id), KEY (`in`, `on`), \
                 KEY (`as`, `is`))"
            ),
        ];
        let create = create.into_iter().map(|table| format!("CREATE TABLE {database}.{table}"));
        let all: Vec<String> =
            [format!("CREATE DATABASE {database}")].into_iter().chain(create).collect();
        server.execute(&all).await;
    }
    let rows = [
        format!("`select` VALUES (4, 8), (4, 5), (4, {HUGE}), ({HUGE}, 8)"),
        format!("`key` VALUES ({HUGE}, 4, NULL)"),
        format!("`index` VALUES (8, {HUGE}), (4, {HUGE})"),
        format!("`user` VALUES (8, 'ada'), ({HUGE}, 'adam'), (12, NULL)"),
        format!(
            "`table` VALUES (1, 8, 'plain', 10, NULL, NULL, NULL, NULL, NULL, NULL), \
             (2, 8, 'half', 20, 8, NULL, NULL, NULL, NULL, NULL), \
             (3, 8, 'reply', 30, 8, 1, {HUGE}, 1, {HUGE}, NULL), \
             (4, 8, 'deleted', 40, 8, 1, NULL, NULL, NULL, NOW()), \
             ({HUGE}, 8, 'huge', 50, NULL, NULL, NULL, NULL, NULL, NULL), \
             (5, {HUGE}, 'by no one', 60, NULL, NULL, NULL, NULL, NULL, NULL), \
             (6, 8, 'never', NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
        ),
    ];
    for row in rows {
        execute(&fleet, 8, &format!("INSERT INTO D.{row}")).await;
    }
    fleet
}

/// The posts that exist, newest first.
fn posts() -> Vec<Post> {
    let post =
        |time, id, text| Post::new(PostKey { time, post: post_id(id), author: user_id(8) }, text);
    let mut reply = post(30, 3, "reply");
    let first = PostAddress { author: user_id(8), post: post_id(1) };
    reply.references = References { reply_to: Some(first), repost_of: None };
    vec![reply, post(20, 2, "half"), post(10, 1, "plain")]
}

/// All users of a list, one at a time.
async fn following(node: &Tributary, user: UserId) -> Vec<UserId> {
    let (mut users, mut from) = (Vec::new(), Some(user_id(0)));
    while let Some(next) = from {
        let page = node.following(user, next, Limit::new(1).unwrap()).await.unwrap();
        assert!(page.missing.is_empty());
        users.extend(page.followees);
        from = page.next;
    }
    users
}

async fn check_lists(node: &Tributary) {
    let [reader, near, far] = [4, 5, 8].map(user_id);
    assert_eq!(following(node, reader).await, [near, far]);
    assert_eq!(followers(node, far).await, [reader]);
    for user in [reader, far] {
        let mutes = node.mutes(user, user_id(0), Limit::DEFAULT).await.unwrap();
        let blocks = node.blocks(user, user_id(0), Limit::DEFAULT).await.unwrap();
        assert_eq!((mutes.users, blocks.users), (vec![], vec![]));
    }
    let (of_reader, of_far) =
        (node.follow_counts(reader).await.unwrap(), node.follow_counts(far).await.unwrap());
    assert_eq!((of_reader.following, of_far.followers), (Count::Exact(2), Count::Exact(1)));
    let related = node.relationships(reader, &[far]).await.all[0];
    assert!(related.following && !related.muting && !related.blocking && !related.blocked_by);
    let found = node.find_users("ad").await.unwrap();
    let found: Vec<UserId> = found.users.iter().map(|found| found.id).collect();
    assert_eq!(found, [far]);
    let first = PostAddress { author: far, post: post_id(1) };
    let counts = &node.post_counts(&[first]).await.unwrap().posts[0];
    assert_eq!((counts.replies, counts.reposts), (Count::Exact(1), Count::Exact(0)));
}

#[test]
fn ids_that_no_user_has_are_on_no_list_and_on_no_page() {
    run(async {
        let mysql = mysql().map(|server| vec![Arc::clone(server)]);
        for servers in [Some(mariadb().to_vec()), mysql].into_iter().flatten() {
            let fleet = adopt(&servers).await;
            let node = Tributary::open(&fleet.config_with_memory(32 << 20)).await.unwrap();
            let bare = fleet.open().await;
            let reader = user_id(4);
            check_lists(&node).await;
            until_warm(&node, reader, 20).await;
            let token = node.freshness(reader).await;
            until_followed(&node, reader, &token).await;
            let statements = [
                format!("INSERT INTO D.`select` VALUES (4, {})", HUGE + 8),
                format!("DELETE FROM D.`select` WHERE `to` = {HUGE}"),
                format!("INSERT INTO D.`key` VALUES ({}, 4, NULL)", HUGE + 8),
                format!("DELETE FROM D.`index` WHERE `having` = {HUGE}"),
                "INSERT INTO D.`index` VALUES (8, 4)".to_owned(),
                "DELETE FROM D.`index`".to_owned(),
                "UPDATE D.`table` SET `update` = 9223372036854775807 WHERE id = 1".to_owned(),
            ];
            for (number, sql) in statements.iter().enumerate() {
                execute(&fleet, 8, sql).await;
                let is_blocked = number == 4;
                let expected = if is_blocked { Vec::new() } else { posts() };
                let request = PageRequest::default().at_least(node.freshness(reader).await);
                for node in [&node, &bare] {
                    let page = node.home_timeline(reader, &request).await.unwrap();
                    assert_eq!(page.posts, expected, "{sql}");
                    assert_eq!((page.missing, page.next), (BTreeSet::new(), None), "{sql}");
                }
            }
            check_lists(&node).await;
            let watch = Watch::start(&node).await;
            watch.until_audited(2).await;
            assert_eq!(watch.counters().await["mismatched"], 0);
        }
    });
}
