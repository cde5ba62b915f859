//! Tables whose rows a log cannot describe, definitions that change without a trace in the log,
//! and transactions that are too large: pages from memory always equal those from the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tributary::{Limit, Page, Tributary, UserId};

use crate::support::database::{Database, Kind};
use crate::support::fleet::TestFleet;
use crate::support::watch::{Watch, at_least, until_warm};
use crate::support::world::World;
use crate::support::{run, user_id};

/// Limit on each wait. It is reached only if memory does not recover.
const PATIENCE: Duration = Duration::from_secs(30);
/// Readers on shards 0 and 3 whose followees are on shard 0 and others, and a reader without any
/// followee on shard 0.
const READERS: [UserId; 3] = [user_id(0), user_id(3), user_id(1)];
const ELSEWHERE: UserId = READERS[2];
const LIMIT: u8 = 100;

/// A fleet on one server, read with memory and without. In statements, `D.` is replaced by the
/// name of the database of shard 0.
struct Site {
    server: Arc<Database>,
    fleet: TestFleet,
    memory: Tributary,
    plain: Tributary,
    watch: Watch,
    /// The last post id.
    post: u64,
}

impl Site {
    async fn new(kind: Kind) -> Option<Self> {
        let server = Arc::new(Database::start(kind)?);
        let fleet = TestFleet::on(std::slice::from_ref(&server));
        for (_, database) in &fleet.databases {
            let mut statements = vec![format!("CREATE DATABASE {database}")];
            statements.extend(tributary::internal::mysql_tables(database));
            server.execute(&statements).await;
        }
        let mut world = World::default();
        for (reader, followees) in [(0, &[4, 8, 1, 2][..]), (3, &[4, 8]), (1, &[1, 2])] {
            followees.iter().for_each(|followee| world.follow(reader, *followee));
        }
        for author in [1, 2, 4, 8] {
            (0..20).for_each(|n| world.post(author, n * 10, author * 100 + n.unsigned_abs()));
        }
        fleet.load_by_sql(&world).await;
        let plain = fleet.open().await;
        let memory = Tributary::open(&fleet.config_with_memory(64 << 20)).await.unwrap();
        let watch = Watch::start(&memory).await;
        watch.until_heads_known().await;
        let site = Self { server, fleet, memory, plain, watch, post: 10_000 };
        site.until_followed().await;
        Some(site)
    }

    async fn execute(&self, statements: &[&str]) {
        let name = format!("{}.", self.fleet.databases[0].1);
        let statements: Vec<String> =
            statements.iter().map(|sql| sql.replace("D.", &name)).collect();
        self.server.execute(&statements).await;
    }

    /// Inserts a post of an author on shard 0.
    async fn post(&mut self, author: u64) {
        self.post += 1;
        let id = self.post;
        let sql = format!(
            "INSERT INTO D.tweets (tweet_id, user_id, content, timestamp) \
             VALUES ({id}, {author}, 'text {id} of {author}', {id})"
        );
        self.execute(&[&sql]).await;
    }

    async fn page(tributary: &Tributary, reader: UserId, token: &tributary::Freshness) -> Page {
        let request = at_least(token, Limit::new(LIMIT).unwrap());
        tributary.home_timeline(reader, &request).await.unwrap()
    }

    /// Whether every page from memory equals the page from the database.
    async fn difference(&self) -> Option<String> {
        let token = self.memory.freshness(READERS[0]).await;
        for reader in READERS {
            let shown = Self::page(&self.memory, reader, &token).await;
            let stored = Self::page(&self.plain, reader, &tributary::Freshness::default()).await;
            assert!(shown.is_complete() && stored.is_complete());
            if shown.posts != stored.posts {
                return Some(format!("{reader}: {:?}, not {:?}", shown.posts, stored.posts));
            }
        }
        None
    }

    /// Runs statements, and compares all pages right after each of them.
    async fn check(&self, statements: &[&str]) {
        for sql in statements {
            self.execute(&[sql]).await;
            if let Some(difference) = self.difference().await {
                panic!("{:?}: after {sql}: {difference}", self.server.kind);
            }
        }
    }

    /// Posts as both authors of shard 0, and compares all pages after each post.
    async fn check_posts(&mut self, what: &str) {
        for author in [4, 8, 4] {
            self.post(author).await;
            if let Some(difference) = self.difference().await {
                panic!("{:?}, {what}: {difference}", self.server.kind);
            }
        }
    }

    /// Waits until pages of all shards come from memory, and compares them.
    async fn until_followed(&self) {
        for reader in READERS {
            until_warm(&self.memory, reader, LIMIT).await;
        }
        assert_eq!(self.difference().await, None);
    }

    /// Waits until all pages are equal.
    async fn until_equal(&self, what: &str) {
        let start = Instant::now();
        while let Some(difference) = self.difference().await {
            assert!(start.elapsed() < PATIENCE, "{what}: {difference}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Checks that shard 0 stays out of memory, and that the others stay in memory.
    async fn check_excluded(&self) {
        until_warm(&self.memory, ELSEWHERE, LIMIT).await;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let token = tributary::Freshness::default();
            let page = Self::page(&self.memory, READERS[0], &token).await;
            assert!(page.waves > 0, "the shard is read from memory");
        }
    }
}

/// System versioning, time formats of MariaDB 5.3, hidden columns.
#[test]
fn shards_whose_tables_cannot_be_followed_are_read_from_the_database() {
    run(async {
        let mut site = Site::new(Kind::MariaDb).await.unwrap();
        let explicit = "ADD s TIMESTAMP(6) GENERATED ALWAYS AS ROW START, \
             ADD e TIMESTAMP(6) GENERATED ALWAYS AS ROW END, ADD PERIOD FOR SYSTEM_TIME (s, e), \
             ADD SYSTEM VERSIONING";
        for form in ["ADD SYSTEM VERSIONING", explicit] {
            for table in ["tweets", "followers"] {
                site.check(&[&format!("ALTER TABLE D.{table} {form}")]).await;
            }
            site.check_excluded().await;
            site.check(&[
                "UPDATE D.tweets SET content = 'second' WHERE tweet_id = 401",
                "UPDATE D.tweets SET timestamp = timestamp + 1 WHERE tweet_id = 402",
                "UPDATE D.tweets SET user_id = 8 WHERE tweet_id = 403",
                "DELETE FROM D.tweets WHERE tweet_id = 404",
                "DELETE FROM D.followers WHERE follower_user_id = 0 AND followed_user_id = 8",
                "INSERT INTO D.followers (follower_user_id, followed_user_id) VALUES (0, 8)",
                "DELETE HISTORY FROM D.tweets",
            ])
            .await;
            for table in ["tweets", "followers"] {
                let drop = match form == explicit {
                    true => {
                        "DROP SYSTEM VERSIONING, DROP COLUMN s, DROP COLUMN e, \
                             DROP PERIOD FOR SYSTEM_TIME"
                    }
                    false => "DROP SYSTEM VERSIONING",
                };
                let keep = "SET SESSION system_versioning_alter_history = KEEP";
                site.execute(&[keep, &format!("ALTER TABLE D.{table} {drop}")]).await;
            }
            site.until_followed().await;
        }
        site.execute(&[
            "SET GLOBAL mysql56_temporal_format = OFF",
            "ALTER TABLE D.tweets ADD COLUMN seen TIMESTAMP(6) NULL AFTER tweet_id",
            "SET GLOBAL mysql56_temporal_format = ON",
        ])
        .await;
        site.check_posts("an old time format").await;
        site.check_excluded().await;
        site.check(&["ALTER TABLE D.tweets FORCE"]).await;
        site.until_followed().await;
        site.check(&["ALTER TABLE D.tweets ADD UNIQUE KEY once (content)"]).await;
        site.check_posts("a hidden column").await;
        site.check_excluded().await;
        site.check(&["SET GLOBAL binlog_row_metadata = 'FULL'"]).await;
        site.check_posts("column names in the log").await;
        site.until_followed().await;
    });
}

/// Definitions that change in a session with `sql_log_bin = 0`.
#[test]
fn definitions_that_change_without_the_log_never_mix_up_authors() {
    run(async {
        for kind in [Kind::MariaDb, Kind::MySql] {
            let Some(mut site) = Site::new(kind).await else { continue };
            site.execute(&[
                "ALTER TABLE D.tweets ADD reply_to BIGINT UNSIGNED NOT NULL DEFAULT 8, \
                 ADD raw TEXT NULL, MODIFY content TEXT NULL",
            ])
            .await;
            for metadata in ["default", "FULL"] {
                if metadata == "FULL" {
                    site.execute(&["SET GLOBAL binlog_row_metadata = 'FULL'"]).await;
                }
                site.check_posts("a logged definition").await;
                site.until_followed().await;
                for alter in [
                    "MODIFY reply_to BIGINT UNSIGNED NOT NULL DEFAULT 8 AFTER tweet_id",
                    "MODIFY timestamp BIGINT NOT NULL FIRST",
                    "ADD COLUMN lang INT NULL FIRST",
                    "DROP COLUMN lang",
                    "MODIFY reply_to BIGINT UNSIGNED NOT NULL DEFAULT 8 AFTER content, \
                     MODIFY timestamp BIGINT NOT NULL AFTER content",
                ] {
                    let alter = format!("ALTER TABLE D.tweets {alter}");
                    site.execute(&["SET sql_log_bin = 0", &alter]).await;
                    site.check_posts(&alter).await;
                }
                site.until_followed().await;
                site.execute(&[
                    "SET sql_log_bin = 0",
                    "ALTER TABLE D.tweets RENAME COLUMN content TO raw, RENAME COLUMN raw TO content",
                ])
                .await;
                site.until_equal("an unlogged swap of columns").await;
                site.check_posts("swapped texts").await;
                site.until_followed().await;
                site.execute(&["UPDATE D.tweets SET content = CONCAT('again ', tweet_id)"]).await;
            }
        }
    });
}

/// Events and compressed transactions of more than 64 MiB.
#[test]
fn transactions_that_are_too_large_are_skipped() {
    run(async {
        for kind in [Kind::MariaDb, Kind::MySql] {
            let Some(mut site) = Site::new(kind).await else { continue };
            let large = "SET GLOBAL max_allowed_packet = 256 * 1024 * 1024";
            site.execute(&[
                large,
                "CREATE DATABASE other",
                "CREATE TABLE other.files (id INT PRIMARY KEY AUTO_INCREMENT, b LONGBLOB)",
                "ALTER TABLE D.tweets ADD attachment LONGBLOB NULL",
            ])
            .await;
            site.check_posts("a new column").await;
            site.until_followed().await;
            let fill = "INSERT INTO other.files (b) VALUES (REPEAT('x', 70 * 1024 * 1024))";
            site.check(&[fill]).await;
            site.check_posts("after a large row of another table").await;
            let attach = "UPDATE D.tweets SET content = 'attached', \
                          attachment = REPEAT('x', 70 * 1024 * 1024) WHERE tweet_id = 401";
            site.check(&[attach]).await;
            site.check_posts("after a large row").await;
            if kind == Kind::MySql {
                let compressed = "SET SESSION binlog_transaction_compression = ON";
                let rows = "INSERT INTO other.files (b) VALUES (REPEAT('a', 1000000))";
                let mut transaction = vec![compressed, "BEGIN"];
                transaction.extend([rows; 80]);
                transaction.push("UPDATE D.tweets SET content = 'packed' WHERE tweet_id = 402");
                transaction.push("COMMIT");
                site.execute(&transaction).await;
                assert_eq!(site.difference().await, None);
                site.check_posts("after a large compressed transaction").await;
            }
            site.until_followed().await;
            assert_eq!(site.watch.counters().await["log_identities"], 1);
        }
    });
}
