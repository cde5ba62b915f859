//! Writing into existing tables of teams: their delete marks, keys and constraints.

use std::fs;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use tributary::{Tributary, WriteError};

use crate::support::database::{Database, mariadb, mysql};
use crate::support::fleet::TestFleet;
use crate::support::{run, user_id};

const TABLES: &str = "
[write]
enabled = true

[tables.posts]
name = \"posts\"
id = \"id\"
author = \"author\"
content = \"body\"
time = \"created_at\"
unit = \"datetime(3)\"
zone = \"Europe/Berlin\"
visible = { column = \"deleted_at\", value = \"NULL\" }
";

/// A fleet whose posts are deleted by setting a time. `more` is appended to the definition of the
/// posts table.
async fn fleet(servers: &[Arc<Database>], more: &str) -> TestFleet {
    let fleet = TestFleet::on(servers);
    let file = fleet.config_file.clone().unwrap();
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{config}{TABLES}")).unwrap();
    for (server, database) in &fleet.databases {
        let follows = tributary::internal::mysql_tables(database)[0].clone();
        let posts = format!(
            "CREATE TABLE {database}.posts (id BIGINT PRIMARY KEY, author BIGINT NOT NULL, \
             body VARCHAR(1000) CHARACTER SET utf8mb4, created_at DATETIME(3) NOT NULL, \
             deleted_at DATETIME NULL, KEY wall (author, created_at, id) {more})"
        );
        server.execute(&[format!("CREATE DATABASE {database}"), follows, posts]).await;
    }
    let mut config = fleet.config();
    config.write.content_bytes_max = 1_000;
    tributary::internal::migrate(&config, drop).await.unwrap();
    fleet
}

async fn open(fleet: &TestFleet) -> Result<Tributary, String> {
    let mut config = fleet.config();
    config.write.content_bytes_max = 1_000;
    Tributary::open(&config).await.map_err(|error| error.to_string())
}

fn kinds() -> Vec<Vec<Arc<Database>>> {
    let mysql = mysql().map(|server| vec![Arc::clone(server)]);
    [Some(mariadb().to_vec()), mysql].into_iter().flatten().collect()
}

#[test]
fn a_deleted_post_is_marked_with_the_time_in_the_teams_zone() {
    run(async {
        for servers in kinds() {
            let fleet = fleet(&servers, "").await;
            let tributary = open(&fleet).await.unwrap();
            let post = tributary.publish(user_id(4), "now", None).await.unwrap().post;
            tributary.delete_post(user_id(4), post.key.post).await.unwrap();
            assert_eq!(tributary.post(user_id(4), post.key.post).await.unwrap().post, None);
            let (server, database) = &fleet.databases[0];
            let mut connection = server.connect().await;
            let sql = format!(
                "SELECT TIMESTAMPDIFF(SECOND, created_at, deleted_at) FROM {database}.posts"
            );
            let seconds: Option<i64> = connection.query_first(sql).await.unwrap();
            assert!(seconds.is_some_and(|seconds| (0..30).contains(&seconds)), "{seconds:?}");
        }
    });
}

/// The team's constraints refuse one post with an error of its own; the shard stays in service.
#[test]
fn a_teams_own_keys_refuse_a_post_and_nothing_else() {
    run(async {
        for servers in kinds() {
            let fleet = fleet(&servers, ", UNIQUE KEY once (author, body(100))").await;
            let tributary = open(&fleet).await.unwrap();
            let post = tributary.publish(user_id(4), "once", None).await.unwrap().post;
            for _ in 0..5 {
                let again = tributary.publish(user_id(4), "once", None).await;
                assert_eq!(again.unwrap_err(), WriteError::Content);
            }
            tributary.publish(user_id(4), "twice", None).await.unwrap();

            // A post that others refer to cannot be deleted in a table without a mark.
            let (server, database) = &fleet.databases[0];
            let id = post.key.post;
            server
                .execute(&[
                    format!(
                        "CREATE TABLE {database}.likes (post BIGINT NOT NULL, \
                         FOREIGN KEY (post) REFERENCES {database}.posts (id))"
                    ),
                    format!("INSERT INTO {database}.likes VALUES ({id})"),
                ])
                .await;
            let file = fleet.config_file.clone().unwrap();
            let config = fs::read_to_string(&file).unwrap();
            let config: Vec<&str> =
                config.lines().filter(|line| !line.starts_with("visible")).collect();
            fs::write(&file, config.join("\n")).unwrap();
            let tributary = open(&fleet).await.unwrap();
            let refused = tributary.delete_post(user_id(4), id).await;
            assert_eq!(refused, Err(WriteError::Refused));
            tributary.publish(user_id(4), "still writable", None).await.unwrap();
        }
    });
}

/// If posts could not be written correctly into a table, the start fails with the cure.
#[test]
fn tables_that_cannot_be_written_correctly_refuse_the_start() {
    run(async {
        for servers in kinds() {
            for (more, change, cure) in [
                ("", "ENGINE = MyISAM", "ENGINE = InnoDB"),
                ("", "MODIFY deleted_at BIGINT NULL", "add its value for a deleted post"),
                ("", "MODIFY id INT", "make it BIGINT and keep its other attributes"),
                (
                    ", mood VARCHAR(9) NOT NULL DEFAULT ''",
                    "ALTER mood DROP DEFAULT",
                    "ALTER `mood` SET DEFAULT",
                ),
                (
                    ", flag TINYINT",
                    "DROP COLUMN deleted_at, ADD deleted_at DATETIME AS (NULLIF(created_at, created_at))",
                    "is generated",
                ),
            ] {
                let fleet = fleet(&servers, more).await;
                drop(open(&fleet).await.unwrap());
                for (server, database) in &fleet.databases {
                    server.execute(&[format!("ALTER TABLE {database}.posts {change}")]).await;
                }
                let Err(text) = open(&fleet).await else { panic!("it started after {change}") };
                assert!(text.contains(cure), "{change}: {text}");
            }
        }
    });
}
