//! Faults and log events on the servers while the writers write.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use super::{Site, WAIT_MAX, connect};
use crate::support::database::{Database, USER};

/// The shortest pause between two faults.
const BETWEEN_FAULTS: Duration = Duration::from_millis(1_000);
/// Writes and compared pages between two faults, times the number of servers. All pauses of a run
/// together make it longer than `PROGRESS_MIN`.
const PROGRESS_BETWEEN_FAULTS: usize = 80;

/// Waits a second, and until the writers have made progress. On a busy machine there would be
/// faults without writes otherwise.
async fn pause(site: &Site) {
    let enough = site.progress() + PROGRESS_BETWEEN_FAULTS / site.servers.len();
    let start = Instant::now();
    while start.elapsed() < BETWEEN_FAULTS || site.progress() < enough {
        assert!(start.elapsed() < WAIT_MAX, "{} of {enough}", site.progress());
        sleep(Duration::from_millis(20)).await;
    }
}

/// Rotates the log, alters the tables and kills the server, one server after the other.
/// The first two servers also lose the log position that the feed reads from.
pub(super) async fn break_servers(site: &Site) {
    for (number, server) in (0..).zip(&site.servers) {
        let shard = number % site.servers.len();
        let (_, database) = &site.fleet.databases[shard];
        pause(site).await;
        server.execute(&["FLUSH LOGS".into()]).await;
        pause(site).await;
        // A new first column moves all other columns by one.
        let tweets = format!("{database}.tweets");
        server
            .execute(&[
                format!("ALTER TABLE {tweets} ADD COLUMN more{number} INT NULL FIRST"),
                format!("ALTER TABLE {database}.followers ADD COLUMN more{number} VARCHAR(9) NULL"),
                format!("INSERT INTO {database}.scratch VALUES (1)"),
                format!("TRUNCATE {database}.scratch"),
                format!("OPTIMIZE TABLE {tweets}"),
            ])
            .await;
        pause(site).await;
        // Only twice, since a lost position costs seconds.
        if number < 2 {
            lose_log_position(server, database).await;
            pause(site).await;
        }
        server.kill();
        sleep(Duration::from_millis(200)).await;
        tokio::task::block_in_place(|| server.launch());
    }
    pause(site).await;
    pause(site).await;
}

/// Revokes the privilege to read the log, kills all readers of the log, purges the files they were
/// reading, and grants the privilege again: the readers can no longer resume from their position.
async fn lose_log_position(server: &Database, database: &str) {
    let mut connection = connect(server).await;
    let right = "REPLICATION SLAVE ON *.*";
    let account = format!("'{USER}'@'127.0.0.1'");
    connection.query_drop(format!("REVOKE {right} FROM {account}")).await.unwrap();
    let sql = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";
    let readers: Vec<u64> = connection.query(sql).await.unwrap();
    assert!(!readers.is_empty(), "{:?}: no connection reads the log", server.kind);
    for reader in readers {
        let _ = connection.query_drop(format!("KILL {reader}")).await;
    }
    let insert = format!("INSERT INTO {database}.scratch VALUES (2)");
    for sql in ["FLUSH BINARY LOGS", &insert, "FLUSH BINARY LOGS"] {
        connection.query_drop(sql).await.unwrap();
    }
    let start = Instant::now();
    loop {
        // The server reports an error if a file is purged while it lists the files.
        let listed = connection.query::<mysql_async::Row, _>("SHOW BINARY LOGS").await;
        let files = listed.unwrap_or_default();
        if let Some(last) = files.last().and_then(|file| file.get::<String, _>(0)) {
            let purged = connection.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await;
            if purged.is_ok() && files.len() == 1 {
                break;
            }
        }
        // The server keeps a file for a while: for its last transactions and for killed readers.
        assert!(start.elapsed() < WAIT_MAX, "{} files are left", files.len());
        sleep(Duration::from_millis(50)).await;
    }
    connection.query_drop(format!("GRANT {right} TO {account}")).await.unwrap();
    connection.disconnect().await.unwrap();
}
