//! What befalls the servers while others write.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use super::{PATIENCE, Site, connect};
use crate::support::database::{Database, USER};

/// Between two faults.
const CALM: Duration = Duration::from_millis(1_000);

/// What befalls servers, one after the other.
pub(super) async fn break_servers(site: &Site) {
    for (number, server) in (0..).zip(&site.servers) {
        let others = number % site.servers.len();
        let (_, database) = &site.fleet.databases[others];
        sleep(CALM).await;
        server.execute(&["FLUSH LOGS".into()]).await;
        sleep(CALM).await;
        // The columns behind it move.
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
        sleep(CALM).await;
        // It takes seconds.
        if number < 2 {
            lose_the_place(server, database).await;
            sleep(CALM).await;
        }
        server.kill();
        sleep(Duration::from_millis(200)).await;
        tokio::task::block_in_place(|| server.launch());
    }
    sleep(2 * CALM).await;
}

/// Whoever reads the log loses the link and the right to read it, and finds that the place is purged
/// when it has the right again.
async fn lose_the_place(server: &Database, database: &str) {
    let mut connection = connect(server).await;
    let right = "REPLICATION SLAVE ON *.*";
    let account = format!("'{USER}'@'127.0.0.1'");
    connection.query_drop(format!("REVOKE {right} FROM {account}")).await.unwrap();
    let sql = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";
    let readers: Vec<u64> = connection.query(sql).await.unwrap();
    assert!(!readers.is_empty(), "{:?}: nobody reads the log", server.kind);
    for reader in readers {
        let _ = connection.query_drop(format!("KILL {reader}")).await;
    }
    let insert = format!("INSERT INTO {database}.scratch VALUES (2)");
    for sql in ["FLUSH BINARY LOGS", &insert, "FLUSH BINARY LOGS"] {
        connection.query_drop(sql).await.unwrap();
    }
    let start = Instant::now();
    loop {
        // A file that goes while they are listed is an error.
        let listed = connection.query::<mysql_async::Row, _>("SHOW BINARY LOGS").await;
        let files = listed.unwrap_or_default();
        if let Some(last) = files.last().and_then(|file| file.get::<String, _>(0)) {
            let purged = connection.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await;
            if purged.is_ok() && files.len() == 1 {
                break;
            }
        }
        // A file is kept for a while for its last transactions, and for a link that was killed.
        assert!(start.elapsed() < PATIENCE, "{} files are left", files.len());
        sleep(Duration::from_millis(50)).await;
    }
    connection.query_drop(format!("GRANT {right} TO {account}")).await.unwrap();
    connection.disconnect().await.unwrap();
}
