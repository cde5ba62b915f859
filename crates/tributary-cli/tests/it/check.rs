//! `tributary check`: from addresses to a served fleet; and more than twelve broken fleets, each
//! reported with the code of its fault.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use serde_json::Value;
use tributary::internal::mysql_tables;

use crate::support::database::{Database, Kind, PASSWORD, USER, mariadb, mysql};
use crate::support::{run, scratch, size};

/// A fleet as a user gives it to `check`: servers and databases, without a configuration.
pub(crate) struct Given {
    pub(crate) servers: Vec<Arc<Database>>,
    pub(crate) databases: Vec<String>,
}

impl Given {
    /// Empty databases, spread over these servers in turn.
    pub(crate) async fn new(servers: &[Arc<Database>], shards: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let servers: Vec<_> = servers.iter().cycle().take(shards).cloned().collect();
        let databases: Vec<String> = (0..shards).map(|n| format!("given{number}_{n}")).collect();
        let given = Self { servers, databases };
        given.create().await;
        given
    }

    pub(crate) async fn create(&self) {
        self.each(|_, database| vec![format!("CREATE DATABASE {database}")]).await;
    }

    /// Runs statements on the server of every shard.
    pub(crate) async fn each(&self, statements: impl Fn(usize, &str) -> Vec<String>) {
        for (index, (server, database)) in self.servers.iter().zip(&self.databases).enumerate() {
            let mut all = vec!["SET time_zone = '+00:00'".to_owned()];
            all.extend(statements(index, database));
            server.execute(&all).await;
        }
    }

    /// Our tables, with rows of a few users in each shard.
    pub(crate) async fn with_rows(servers: &[Arc<Database>], shards: usize) -> Self {
        let given = Self::new(servers, shards).await;
        given.fill().await;
        given
    }

    /// Makes our tables, with rows of a few users in each shard.
    pub(crate) async fn fill(&self) {
        let shards = self.databases.len();
        self.each(|index, database| {
            let mut statements = mysql_tables(database).to_vec();
            for user in (0..60).map(|n| n * shards + index) {
                let ms = 1_690_000_000_000 + user;
                let followee = user + 1;
                statements
                    .push(format!("INSERT INTO {database}.followers VALUES ({user}, {followee})"));
                statements.push(format!(
                    "INSERT INTO {database}.tweets VALUES ({user}, {user}, 'hello', {ms})"
                ));
            }
            statements
        })
        .await;
    }

    fn dsn(&self, shard: usize) -> String {
        let password = PASSWORD.replace(' ', "%20").replace(',', "%2C");
        let (server, database) = (&self.servers[shard], &self.databases[shard]);
        format!("mysql://{USER}:{password}@{}/{database}", server.address())
    }

    pub(crate) fn dsns(&self) -> Vec<String> {
        (0..self.databases.len()).map(|shard| self.dsn(shard)).collect()
    }
}

/// Runs the program. Returns its exit code, standard output and standard error.
fn tributary(arguments: &[String]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    let file = arguments.iter().skip_while(|argument| *argument != "--config").nth(1);
    let configuration = file.map(|file| fs::read_to_string(file).unwrap()).unwrap_or_default();
    for server in 0..configuration.matches("[servers.").count() {
        command.env(format!("TRIBUTARY_SERVERS__DB{server}__PASSWORD"), PASSWORD);
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub(crate) fn check(arguments: &[String]) -> (i32, Value) {
    let mut all = vec!["check".to_owned(), "--json".to_owned()];
    all.extend_from_slice(arguments);
    let (code, out, error) = tributary(&all);
    assert!(!out.contains("a secret") && !error.contains("a secret"), "{out}{error}");
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}")))
}

pub(crate) fn codes(report: &Value, level: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    let findings = findings.filter(|finding| finding["level"] == level);
    let mut codes: Vec<String> =
        findings.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect();
    codes.dedup();
    codes
}

fn kinds() -> Vec<Vec<Arc<Database>>> {
    let mysql = mysql().map(|server| vec![Arc::clone(server)]);
    [Some(mariadb().to_vec()), mysql].into_iter().flatten().collect()
}

/// Adopted tables with other names, DSNs in the wrong order, and no configuration file: `check`
/// prints a configuration that serves them.
#[test]
fn from_addresses_to_the_first_page() {
    run(async {
        for servers in kinds() {
            let given = Given::new(&servers, 3).await;
            given
                .each(|index, database| {
                    let mut statements = vec![
                        format!(
                            "CREATE TABLE {database}.follows (id INT AUTO_INCREMENT PRIMARY KEY, \
                             followerId INT UNSIGNED NOT NULL, followeeId INT UNSIGNED NOT NULL, \
                             UNIQUE KEY pair (followerId, followeeId))"
                        ),
                        format!(
                            "CREATE TABLE {database}.posts (id BIGINT AUTO_INCREMENT PRIMARY KEY, \
                             author_id INT UNSIGNED NOT NULL, body TEXT, created_at DATETIME(3), \
                             deleted_at DATETIME, KEY wall (author_id, created_at))"
                        ),
                        format!("CREATE TABLE {database}.users (id INT PRIMARY KEY, username VARCHAR(30))"),
                        format!("CREATE TABLE {database}.sessions (id INT PRIMARY KEY, user_id INT)"),
                    ];
                    for user in (0..30).map(|n| n * 3 + index) {
                        let hour = user % 24;
                        statements.extend([
                            format!("INSERT INTO {database}.follows (followerId, followeeId) VALUES ({user}, {})", (user + 1) % 90),
                            format!("INSERT INTO {database}.posts (author_id, body, created_at) VALUES ({user}, 'I am {user}', '2024-03-01 {hour:02}:00:00.5')"),
                            format!("INSERT INTO {database}.posts (author_id, body, created_at, deleted_at) VALUES ({user}, 'gone', '2024-03-02 {hour:02}:00:00', '2024-03-03')"),
                            format!("INSERT INTO {database}.users VALUES ({user}, 'user{user}')"),
                        ]);
                    }
                    statements
                })
                .await;
            let start = Instant::now();
            let dir = scratch();
            let arguments = [
                "check".to_owned(),
                given.dsn(2),
                given.dsn(0),
                given.dsn(1),
                "--zone".into(),
                "+01:00".into(),
            ];
            let (code, configuration, report) = tributary(&arguments);
            assert_eq!(code, 0, "{report}");
            assert!(report.contains("The shards can be served."), "{report}");
            a_zone_that_sets_its_clocks_is_reported(&arguments[1..5], &report);
            let file = dir.path().join("tributary.toml");
            fs::write(&file, &configuration).unwrap();
            let feed =
                ["feed", "1", "--json", "--config", file.to_str().unwrap()].map(str::to_owned);
            let (code, page, error) = tributary(&feed);
            assert_eq!(code, 0, "{error}\n{configuration}");
            let (kind, took) = (given.servers[0].kind, start.elapsed());
            println!("{kind:?}: from check to the first page: {took:?}");
            let page: Value = serde_json::from_str(&page).unwrap();
            assert_eq!(page["posts"].as_array().unwrap().len(), 1, "{page}");
            let post = &page["posts"][0];
            assert_eq!(
                (&post["content"], &post["author_handle"], &post["created_at"]),
                (
                    &Value::from("I am 2"),
                    &Value::from("user2"),
                    &Value::from("2024-03-01T01:00:00.500Z")
                )
            );
            // `check` accepts the file too, and reports in JSON.
            let (code, report) = check(&["--config".into(), file.display().to_string()]);
            assert_eq!((code, &report["ready"]), (0, &Value::from(true)), "{report}");
        }
    });
}

/// SQL for a table of the numbers `n` from 0 on, at least `count`, at most ten times as many.
fn numbers(count: usize) -> String {
    let digits: Vec<String> = (0..10).map(|digit| format!("SELECT {digit} AS d")).collect();
    let digits = digits.join(" UNION ALL ");
    let places = count.saturating_sub(1).to_string().len();
    let tables: Vec<String> = (0..places).map(|place| format!("({digits}) t{place}")).collect();
    let sum: Vec<String> =
        (0..places).map(|place| format!("t{place}.d * 1{}", "0".repeat(place))).collect();
    format!("(SELECT {} AS n FROM {}) AS numbers", sum.join(" + "), tables.join(", "))
}

/// `report` is that of the zone +01:00.
fn a_zone_that_sets_its_clocks_is_reported(arguments: &[String], report: &str) {
    assert!(!report.contains("clocks in the zone"), "{report}");
    let (code, report) = check(&[arguments, &["Europe/Berlin".into()]].concat());
    assert_eq!(code, 0, "{report:#}");
    assert!(codes(&report, "warning").contains(&"zone_changes".to_owned()), "{report:#}");
}

/// `check` finds the placement for any number of shards, given in any order.
#[test]
fn a_million_ids_on_two_to_ten_shards() {
    let few = size(100_000, 1_000_000);
    run(async {
        for servers in kinds() {
            for (shards, ids) in [2, 3, 4, 7].map(|n| (n, few)).into_iter().chain([(10, 1_000_000)])
            {
                let given = Given::new(&servers, shards).await;
                given
                    .each(|index, database| {
                        let [follows, posts] = mysql_tables(database);
                        vec![
                            follows,
                            posts,
                            format!(
                                "ALTER TABLE {database}.followers DROP KEY followers_by_followed"
                            ),
                            format!(
                                "INSERT INTO {database}.followers SELECT n * {shards} + {index}, 1 \
                                 FROM {} WHERE n < {}",
                                numbers(ids / shards),
                                ids / shards
                            ),
                        ]
                    })
                    .await;
                let mut dsns = given.dsns();
                dsns.reverse();
                let (code, report) = check(&dsns);
                assert_eq!(code, 0, "{report}");
                let configuration = report["configuration"].as_str().unwrap();
                let found: Vec<&str> =
                    configuration.lines().filter(|line| line.starts_with("database")).collect();
                let expected: Vec<String> =
                    given.databases.iter().map(|name| format!("database = \"{name}\"")).collect();
                assert_eq!(found, expected, "{configuration}");
                assert!(!configuration.contains("[placement]"));
                given.each(|_, database| vec![format!("DROP DATABASE {database}")]).await;
            }
        }
    });
}

/// A way to break a fleet, and the code of the fault. `{db}` is the database of the last shard.
struct Broken {
    statements: &'static [&'static str],
    code: &'static str,
    /// Text that the cure must contain.
    cure: &'static str,
}

const BROKEN: [Broken; 12] = [
    Broken {
        statements: &["DROP TABLE {db}.followers"],
        code: "no_table",
        cure: "[tables.follows]",
    },
    Broken { statements: &["DROP DATABASE {db}"], code: "no_table", cure: "GRANT SELECT" },
    Broken {
        statements: &["ALTER TABLE {db}.tweets DROP PRIMARY KEY"],
        code: "no_index",
        cure: "CREATE INDEX tributary_tail ON",
    },
    Broken {
        statements: &["ALTER TABLE {db}.followers DROP PRIMARY KEY"],
        code: "no_index",
        cure: "CREATE INDEX tributary_follows ON",
    },
    Broken {
        statements: &["ALTER TABLE {db}.tweets MODIFY user_id VARCHAR(20) NOT NULL"],
        code: "no_table",
        cure: "[tables.posts]",
    },
    Broken {
        statements: &["ALTER TABLE {db}.tweets RENAME COLUMN timestamp TO posted_at"],
        code: "different_tables",
        cure: "s0",
    },
    Broken {
        statements: &[
            "RENAME TABLE {db}.tweets TO {db}.all_posts",
            "CREATE VIEW {db}.tweets AS SELECT * FROM {db}.all_posts",
        ],
        code: "view",
        cure: "the table itself",
    },
    Broken {
        statements: &[
            "UPDATE {db}.tweets SET user_id = user_id + 1 WHERE user_id < 12",
            "UPDATE {db}.followers SET follower_user_id = follower_user_id + 1 WHERE follower_user_id < 12",
        ],
        code: "wrong_shard",
        cure: "SELECT * FROM",
    },
    Broken {
        statements: &[
            "UPDATE {db}.tweets SET user_id = user_id + (user_id DIV 3) % 3",
            "UPDATE {db}.followers SET follower_user_id = follower_user_id + (follower_user_id DIV 3) % 3",
        ],
        code: "unknown_placement",
        cure: "all shards",
    },
    Broken {
        statements: &["UPDATE {db}.tweets SET timestamp = timestamp DIV 1000"],
        code: "wrong_unit",
        cure: "unit = \"s\"",
    },
    Broken {
        statements: &["ALTER TABLE {db}.tweets MODIFY timestamp VARCHAR(20) NOT NULL"],
        code: "no_table",
        cure: "[tables.posts]",
    },
    Broken { statements: &["LOCK TABLES {db}.tweets WRITE"], code: "too_slow", cure: "" },
];

#[test]
fn broken_fleets_are_reported_with_the_code_of_the_fault() {
    run(async {
        for servers in kinds() {
            for broken in &BROKEN {
                let given = Given::with_rows(&servers, 3).await;
                let (server, database) = (&given.servers[2], &given.databases[2]);
                let mut connection = server.connect().await;
                for statement in broken.statements {
                    connection.query_drop(statement.replace("{db}", database)).await.unwrap();
                }
                let (code, report) = check(&given.dsns());
                let context = format!("{:?}, {:?}: {report:#}", server.kind, broken.statements);
                assert_eq!((code, &report["ready"]), (3, &Value::from(false)), "{context}");
                assert!(codes(&report, "error").contains(&broken.code.to_owned()), "{context}");
                let findings = report["findings"].as_array().unwrap();
                let finding = findings.iter().find(|f| f["code"] == broken.code).unwrap();
                let cure = finding["cure"].as_str().unwrap_or_default();
                assert!(cure.contains(broken.cure), "{context}");
            }
        }
    });
}

/// Faults of addresses, accounts, server settings and configurations, as opposed to tables.
#[test]
fn wrong_addresses_accounts_and_settings_are_reported() {
    run(async {
        for kind in [Kind::MariaDb, Kind::MySql] {
            let Some(server) = Database::start(kind).map(Arc::new) else { continue };
            let servers = [Arc::clone(&server)];
            let given = Given::with_rows(&servers, 2).await;
            let good = given.dsns();
            let first = |dsns: &[String]| {
                let (code, report) = check(dsns);
                (code, codes(&report, "error"), report.to_string())
            };
            let with = |dsn: String| vec![good[0].clone(), dsn];
            let guessed: Vec<String> =
                good.iter().map(|dsn| dsn.replace("secret", "guess")).collect();
            let (code, errors, report) = first(&guessed);
            assert!(code == 3 && errors == ["refused"], "{report}");
            let port = format!("{}", server.port);
            let (code, errors, report) = first(&with(good[1].replace(&port, "1")));
            assert!(code == 3 && errors == ["unreachable"], "{report}");
            // Mistakes in the arguments.
            for (dsns, text) in [
                (vec![good[0].clone(), good[0].clone()], "DSN 2 names the same database"),
                (vec!["db0.internal/social".into()], "DSN 1 has no scheme such as mysql://"),
                (vec![format!("{}?tls=preferred", good[0])], "DSN 1 has the parameter tls"),
                (with(good[1].replace("secret", "guess")), "DSN 2 has another password than DSN 1"),
                (with(format!("{}?tls=required", good[1])), "DSN 2 has another value of tls"),
                (vec!["mysql://a:p@a secret/x@h/s0".into()], "DSN 1 is ambiguous"),
            ] {
                let mut arguments = vec!["check".to_owned()];
                arguments.extend(dsns);
                let (code, _, error) = tributary(&arguments);
                assert!(code == 2 && error.contains(text), "{error}");
                assert!(!error.contains("secret") && !error.contains("guess"), "{error}");
            }

            // A read-only account, on a server whose log has partial rows.
            let account = "'reader'@'127.0.0.1'";
            server
                .execute(&[
                    format!("CREATE USER {account} IDENTIFIED BY 'r'"),
                    format!("GRANT SELECT ON {}.* TO {account}", given.databases[0]),
                    "SET GLOBAL binlog_row_image = MINIMAL".into(),
                ])
                .await;
            let reader: Vec<String> = given
                .databases
                .iter()
                .map(|database| format!("mysql://reader:r@{}/{database}", server.address()))
                .collect();
            let (_, report) = check(&reader);
            assert!(codes(&report, "error").contains(&"no_table".to_owned()), "{report:#}");
            assert!(report.to_string().contains("TO 'reader'@'127.0.0.1'"), "{report:#}");
            server
                .execute(&[format!("GRANT SELECT ON {}.* TO {account}", given.databases[1])])
                .await;
            let (code, report) = check(&reader);
            assert_eq!(code, 0, "{report:#}");
            let warnings = codes(&report, "warning");
            for code in ["server_setting", "no_replication_right"] {
                assert!(warnings.contains(&code.to_owned()), "{report:#}");
            }
            missing_log_settings_and_rights_are_reported(&server, account, &reader).await;

            // A wrong clock: new sessions of accounts without SUPER get another time.
            let then = "SET GLOBAL init_connect = 'SET timestamp = 1700000000'";
            server.execute(&[then.into()]).await;
            let (_, report) = check(&reader);
            assert!(codes(&report, "warning").contains(&"clock_skew".to_owned()), "{report:#}");
            server.execute(&["SET GLOBAL init_connect = ''".into()]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;

            wrong_files(&given);
        }
    });
}

/// Settings and rights, each with the statement that fixes it.
async fn missing_log_settings_and_rights_are_reported(
    server: &Database,
    account: &str,
    reader: &[String],
) {
    let (_, report) = check(reader);
    for cure in [
        "SET GLOBAL binlog_row_image = FULL",
        &format!("GRANT REPLICATION SLAVE ON *.* TO {account}"),
        &format!("GRANT REPLICATION CLIENT ON *.* TO {account}"),
    ] {
        assert!(report.to_string().contains(cure), "{report:#}");
    }
    let rights = "REPLICATION SLAVE, REPLICATION CLIENT";
    server.execute(&[format!("GRANT {rights} ON *.* TO {account}")]).await;
    let (_, report) = check(reader);
    let warnings = codes(&report, "warning");
    assert!(!warnings.contains(&"no_replication_right".to_owned()), "{report:#}");
}

/// With writes enabled, `check` requires more and warns about more.
#[test]
fn requirements_and_side_effects_of_writing_are_reported() {
    run(async {
        for servers in kinds() {
            let given = Given::with_rows(&servers, 2).await;
            let (_, report) = check(&given.dsns());
            let dir = scratch();
            let file = dir.path().join("tributary.toml");
            let configuration = report["configuration"].as_str().unwrap();
            fs::write(&file, format!("{configuration}\n[write]\nenabled = true\n")).unwrap();
            let config = ["--config".to_owned(), file.display().to_string()];
            let (code, report) = check(&config);
            assert_eq!((code, codes(&report, "error")), (3, vec!["cannot_write".to_owned()]));
            assert!(report.to_string().contains("tributary migrate"), "{report:#}");

            let migrate = ["migrate".to_owned(), config[0].clone(), config[1].clone()];
            let (code, made, error) = tributary(&migrate);
            assert_eq!(
                (code, made.matches("tributary_writes made").count()),
                (0, 2),
                "{made}{error}"
            );
            given
                .each(|_, database| {
                    vec![
                        format!(
                            "ALTER TABLE {database}.tweets MODIFY tweet_id BIGINT UNSIGNED NOT NULL \
                             AUTO_INCREMENT"
                        ),
                        format!(
                            "CREATE TRIGGER {database}.trim BEFORE INSERT ON {database}.tweets FOR \
                             EACH ROW SET NEW.content = TRIM(NEW.content)"
                        ),
                    ]
                })
                .await;
            let (code, report) = check(&config);
            assert_eq!(code, 0, "{report:#}");
            let warnings = codes(&report, "warning");
            for code in ["auto_increment", "triggers"] {
                assert!(warnings.contains(&code.to_owned()), "{report:#}");
            }
        }
    });
}

/// `check` reports foreign keys that delete posts exactly if the log does not contain the deletes.
#[test]
fn changes_missing_from_the_log_are_reported() {
    run(async {
        for servers in kinds() {
            let given = Given::with_rows(&servers, 2).await;
            let check_unlogged = || {
                let (code, report) = check(&given.dsns());
                assert_eq!(code, 0, "{report:#}");
                let reported = codes(&report, "warning").contains(&"untold_changes".to_owned());
                (reported, report)
            };
            assert!(!check_unlogged().0);
            let (server, database) = (&given.servers[1], &given.databases[1]);
            let key = "FOREIGN KEY (user_id) REFERENCES people (id)";
            let posts = format!("ALTER TABLE {database}.tweets");
            let drop = format!("{posts} DROP FOREIGN KEY by_person");
            server
                .execute(&[
                    format!("CREATE TABLE {database}.people (id BIGINT UNSIGNED PRIMARY KEY)"),
                    format!("INSERT INTO {database}.people SELECT user_id FROM {database}.tweets"),
                    format!("{posts} ADD CONSTRAINT by_person {key} ON DELETE RESTRICT"),
                ])
                .await;
            assert!(!check_unlogged().0, "this foreign key changes no posts");
            let cascading = format!("{posts} ADD CONSTRAINT by_person {key} ON DELETE CASCADE");
            server.execute(&[drop.clone(), cascading]).await;
            let (reported, report) = check_unlogged();
            let logged = logs_a_cascade(server, database).await;
            assert_eq!(reported, !logged, "{report:#}");
            let cure = format!("`{database}`.`tweets` DROP FOREIGN KEY `by_person`");
            assert_eq!(report.to_string().contains(&cure), reported, "{report:#}");
        }
    });
}

/// `check` reports the tables whose shards are read from the database, with the fix.
#[test]
fn tables_that_memory_cannot_follow_are_reported() {
    run(async {
        let servers = kinds().swap_remove(0);
        let given = Given::with_rows(&servers, 2).await;
        let (server, database) = (&given.servers[1], &given.databases[1]);
        let posts = format!("ALTER TABLE {database}.tweets");
        for (alter, undo, cure) in [
            ("COMMENT 'posts'", "COMMENT ''", None),
            ("ADD SYSTEM VERSIONING", "DROP SYSTEM VERSIONING", Some("DROP SYSTEM VERSIONING")),
            (
                "ADD UNIQUE KEY once (content, tweet_id)",
                "DROP KEY once",
                Some("SET GLOBAL binlog_row_metadata = FULL"),
            ),
        ] {
            server.execute(&[format!("{posts} {alter}")]).await;
            let (code, report) = check(&given.dsns());
            assert_eq!(code, 0, "{report:#}");
            let reported = codes(&report, "warning").contains(&"unfollowable_table".to_owned());
            assert_eq!(reported, cure.is_some(), "{alter}: {report:#}");
            assert!(report.to_string().contains(cure.unwrap_or_default()), "{report:#}");
            server.execute(&[format!("{posts} {undo}")]).await;
        }
    });
}

/// Deletes a person, which cascades to the posts. Returns whether the log contains the deleted
/// posts.
async fn logs_a_cascade(server: &Database, database: &str) -> bool {
    let mut connection = server.connect().await;
    let files: Vec<mysql_async::Row> = connection.query("SHOW BINARY LOGS").await.unwrap();
    let last = files.last().unwrap();
    let (file, end): (String, u64) = (last.get(0).unwrap(), last.get(1).unwrap());
    connection.query_drop(format!("DELETE FROM {database}.people WHERE id = 1")).await.unwrap();
    let posts: Option<u64> = connection
        .query_first(format!("SELECT COUNT(*) FROM {database}.tweets WHERE user_id = 1"))
        .await
        .unwrap();
    assert_eq!(posts, Some(0));
    let sql = format!("SHOW BINLOG EVENTS IN '{file}' FROM {end}");
    let events: Vec<(String, u64, String, u64, u64, String)> = connection.query(sql).await.unwrap();
    connection.disconnect().await.unwrap();
    let id = |info: &str| info.split([' ', ',']).nth(1).map(str::to_owned);
    let named = |table: &str| {
        let map = events.iter().find(|event| event.5.contains(&format!("({database}.{table})")));
        map.and_then(|event| id(&event.5))
    };
    let deleted = |table: Option<String>| {
        let of = |event: &&(String, u64, String, u64, u64, String)| event.2.starts_with("Delete");
        table.is_some() && events.iter().filter(of).any(|event| id(&event.5) == table)
    };
    assert!(deleted(named("people")), "{events:?}");
    deleted(named("tweets"))
}

/// Configurations that do not fit the tables and shards that they name.
fn wrong_files(given: &Given) {
    let (code, report) = check(&given.dsns());
    assert_eq!(code, 0, "{report:#}");
    let right = report["configuration"].as_str().unwrap();
    let dir = scratch();
    let file = dir.path().join("tributary.toml");
    let swapped = right
        .replace(&given.databases[0], "other")
        .replace(&given.databases[1], &given.databases[0]);
    let swapped = swapped.replace("other", &given.databases[1]);
    let map = format!("{right}\n[placement]\nmap = [\"s0\", \"s0\", \"s1\", \"s1\"]\n");
    for (text, code, cure) in [
        (swapped, "wrong_order", "s1, s0"),
        (map, "wrong_shard", "SELECT"),
        (right.replace("\"ms\"", "\"s\""), "wrong_unit", "unit = \"ms\""),
        (right.replace("\"ms\"", "\"datetime\""), "wrong_unit", "under [tables.posts]"),
        (right.replace("\"content\"", "\"words\""), "no_column", "[tables]"),
        (right.replace("\"tweets\"", "\"posts\""), "no_table", "[tables]"),
    ] {
        fs::write(&file, &text).unwrap();
        let (exit, report) = check(&["--config".into(), file.display().to_string()]);
        assert_eq!(exit, 3, "{report:#}");
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|f| f["code"] == code);
        let finding = finding.unwrap_or_else(|| panic!("no {code}: {report:#}"));
        assert!(finding["cure"].as_str().unwrap().contains(cure), "{report:#}");
    }
}
