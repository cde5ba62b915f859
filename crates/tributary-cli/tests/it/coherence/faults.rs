//! Faults and log events on the servers while the writers write.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use super::{Site, WAIT_MAX, connect};
use crate::support::database::{Database, USER};

/// Pause between two faults.
const BETWEEN_FAULTS: Duration = Duration::from_millis(1_000);

/// Rotates the log, alters the tables and kills the server, one server after the other.
/// The first two servers also lose the log position that the feed reads from.
pub(super) async fn break_servers(site: &Site) {
    for (number, server) in (0..).zip(&site.servers) {
        let shard = number % site.servers.len();
        let (_, database) = &site.fleet.databases[shard];
        sleep(BETWEEN_FAULTS).await;
        server.execute(&["FLUSH LOGS".into()]).await;
        sleep(BETWEEN_FAULTS).await;
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
        sleep(BETWEEN_FAULTS).await;
        // Only twice, since a lost position costs seconds.
        if number < 2 {
            lose_log_position(server, database).await;
            sleep(BETWEEN_FAULTS).await;
        }
        server.kill();
        sleep(Duration::from_millis(200)).await;
        tokio::task::block_in_place(|| server.launch());
    }
    sleep(2 * BETWEEN_FAULTS).await;
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
