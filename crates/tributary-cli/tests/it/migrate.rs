//! `tributary migrate`, and what a start checks before anything is written.

use std::sync::Arc;

use mysql_async::prelude::Queryable;
use tributary::Tributary;

use crate::commands::{output, tributary};
use crate::support::database::{Database, mariadb, mysql};
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet};
use crate::support::{run, scratch, user_id};

fn migrate(fleet: &TestFleet) -> (i32, String, String) {
    output(tributary(&["migrate"]).args(fleet.source_args()))
}

/// Empty databases on one server of each kind.
async fn empty_fleets() -> Vec<(Arc<Database>, TestFleet)> {
    let mut fleets = Vec::new();
    for server in mariadb().iter().take(1).chain(mysql()) {
        let fleet = TestFleet::on(&[Arc::clone(server)]);
        for (server, database) in &fleet.databases {
            server.execute(&[format!("CREATE DATABASE {database}")]).await;
        }
        fleets.push((Arc::clone(server), fleet));
    }
    fleets
}

async fn created(server: &Database, database: &str, table: &str) -> String {
    let mut connection = server.connect().await;
    let sql = format!("SHOW CREATE TABLE {database}.{table}");
    let row: (String, String) = connection.query_first(sql).await.unwrap().unwrap();
    row.1
}

#[test]
fn migrate_makes_missing_tables_reports_them_and_changes_nothing_else() {
    run(async {
        for (_, fleet) in empty_fleets().await {
            let lines = |what: &str| -> String {
                let table = |n| {
                    ["followers", "tweets", "tributary_writes"]
                        .map(|table| format!("s{n}: {table} {what}\n"))
                        .concat()
                };
                (0..SHARDS).map(table).collect()
            };
            let (code, text, error) = migrate(&fleet);
            assert_eq!((code, text), (0, lines("made")), "{error}");
            let (code, text, error) = migrate(&fleet);
            assert_eq!((code, text), (0, lines("was there")), "{error}");
            fleet.open_for_writing().await.publish(user_id(1), "x", None).await.unwrap();
        }
        for backend in [Backend::MariaDb, Backend::MySql] {
            let Some(fleet) = TestFleet::new(backend, Tables::Old).await else { continue };
            let (server, database) = &fleet.databases[0];
            let before = created(server, database, "tweets").await;
            let (code, text, error) = migrate(&fleet);
            assert_eq!(code, 0, "{error}");
            assert!(text.starts_with(
                "s0: followers was there\ns0: tweets was there\ns0: tributary_writes made\n"
            ));
            assert_eq!(created(server, database, "tweets").await, before);
        }
    });
}

#[test]
fn migrate_of_a_folder_brings_an_older_one_up_to_date() {
    let dir = scratch();
    let data = dir.path().join("data").display().to_string();
    let migrate = || output(&mut tributary(&["migrate", "--data", &data]));
    let (code, text, error) = migrate();
    assert_eq!((code, text.lines().count()), (0, 36), "{error}");
    assert!(text.lines().all(|line| line.ends_with(" made")), "{text}");
    let file = dir.path().join("data/shard-2.sqlite");
    rusqlite::Connection::open(file).unwrap().execute("DROP TABLE tributary_writes", []).unwrap();
    let (code, text, _) = migrate();
    assert_eq!(code, 0);
    let made: Vec<&str> = text.lines().filter(|line| line.ends_with(" made")).collect();
    assert_eq!(made, ["shard-2: tributary_writes made"]);
}

#[test]
fn tables_that_migrate_may_not_make_are_reported_with_a_cure() {
    run(async {
        for (server, fleet) in empty_fleets().await {
            let (_, database) = &fleet.databases[0];
            // `migrate` does not guess the role of tables with other names.
            server.execute(&[format!("CREATE TABLE {database}.posts (id BIGINT)")]).await;
            let (code, _, error) = migrate(&fleet);
            assert_eq!(code, 3, "{error}");
            assert!(
                error.contains("holds other tables; create it by hand: CREATE TABLE"),
                "{error}"
            );
            server.execute(&[format!("DROP TABLE {database}.posts")]).await;

            let account = format!("'m{database}'@'127.0.0.1'");
            server
                .execute(&[
                    format!("CREATE USER {account} IDENTIFIED BY 'm'"),
                    format!("GRANT SELECT ON {database}.* TO {account}"),
                ])
                .await;
            let file = fleet.config_file.clone().unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            let other = text.replace("user = \"tributary\"", &format!("user = \"m{database}\""));
            std::fs::write(&file, other).unwrap();
            let password = fleet.dir.path().join("password");
            std::fs::write(&password, "m").unwrap();
            let (code, _, error) = migrate(&fleet);
            assert_eq!(code, 3, "{error}");
            assert!(error.contains("GRANT CREATE ON"), "{error}");
            assert!(error.contains("CREATE TABLE"), "{error}");

            std::fs::write(&file, text.replace(&server.address(), "127.0.0.1:1")).unwrap();
            let (code, _, error) = migrate(&fleet);
            assert!(code == 1 && error.contains("run the command again"), "{error}");

            server.execute(&[format!("DROP DATABASE {database}")]).await;
            std::fs::write(&file, text).unwrap();
            std::fs::write(&password, crate::support::database::PASSWORD).unwrap();
            let (code, _, error) = migrate(&fleet);
            assert!(code == 3 && error.contains("CREATE DATABASE"), "{error}");
        }
    });
}

async fn refused(fleet: &TestFleet) -> String {
    let mut config = fleet.config();
    config.write.enabled = true;
    match Tributary::open(&config).await {
        Ok(_) => panic!("the start should have failed"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_start_refuses_tables_that_cannot_be_written_with_the_cure() {
    run(async {
        for backend in [Backend::MariaDb, Backend::MySql] {
            let Some(fleet) = TestFleet::new(backend, Tables::Ours).await else { continue };
            let (server, database) = &fleet.databases[1];
            let error = refused(&fleet).await;
            assert!(error.contains("tributary migrate"), "{error}");
            drop(fleet.open_for_writing().await);
            // The fault, its reported cure, and the statement that undoes the fault.
            let cases = [
                (
                    "tweets MODIFY tweet_id INT UNSIGNED NOT NULL",
                    "make it BIGINT and keep its other attributes",
                    "tweets MODIFY tweet_id BIGINT UNSIGNED NOT NULL",
                ),
                (
                    "tweets MODIFY timestamp INT NOT NULL",
                    "make it BIGINT and keep its other attributes",
                    "tweets MODIFY timestamp BIGINT NOT NULL",
                ),
                ("tweets MODIFY content CHAR(200)", "TEXT NOT NULL", "tweets MODIFY content TEXT"),
                (
                    "tweets MODIFY content TINYTEXT",
                    "set it to 255 at most",
                    "tweets MODIFY content TEXT",
                ),
                (
                    "tweets ADD lang CHAR(2) NOT NULL",
                    "ALTER `lang` SET DEFAULT",
                    "tweets ALTER lang SET DEFAULT 'en'",
                ),
                (
                    "followers ADD since BIGINT NOT NULL",
                    "ALTER `since` SET DEFAULT",
                    "followers DROP since",
                ),
                (
                    "followers DROP PRIMARY KEY, ADD KEY f (follower_user_id, followed_user_id)",
                    "tributary_follow",
                    "followers ADD PRIMARY KEY (follower_user_id, followed_user_id)",
                ),
            ];
            for (wrong, cure, undo) in cases {
                let alter = |change: &str| format!("ALTER TABLE {database}.{}", change);
                server.execute(&[alter(wrong)]).await;
                let error = refused(&fleet).await;
                assert!(error.contains(cure), "{wrong}: {error}");
                // Reads need less.
                drop(fleet.open().await);
                server.execute(&[alter(undo)]).await;
                drop(fleet.open_for_writing().await);
            }
        }
    });
}

#[test]
fn a_start_checks_the_rights_to_write_without_writing() {
    run(async {
        for (server, fleet) in empty_fleets().await {
            drop(fleet.open_for_writing().await);
            let name = format!("w{}", fleet.databases[0].1);
            let account = format!("'{name}'@'127.0.0.1'");
            server.execute(&[format!("CREATE USER {account} IDENTIFIED BY 'w'")]).await;
            let file = fleet.config_file.clone().unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            let other = text.replace("user = \"tributary\"", &format!("user = \"{name}\""));
            std::fs::write(&file, other).unwrap();
            std::fs::write(fleet.dir.path().join("password"), "w").unwrap();
            let grant = async |rights: &str| {
                for (server, database) in &fleet.databases {
                    let grant = format!("GRANT {rights} ON {database}.* TO {account}");
                    server.execute(&[grant]).await;
                }
            };
            for right in ["SELECT", "INSERT", "DELETE"] {
                grant(right).await;
                let error = refused(&fleet).await;
                assert!(
                    error.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON"),
                    "{right}: {error}"
                );
            }
            grant("UPDATE").await;
            let mut config = fleet.config();
            config.write.enabled = true;
            let tributary = Tributary::open(&config).await.unwrap();
            let post = tributary.publish(user_id(1), "x", None).await.unwrap().post;
            tributary.follow(user_id(1), user_id(2)).await.unwrap();
            tributary.delete_post(user_id(1), post.key.post).await.unwrap();
        }
    });
}
