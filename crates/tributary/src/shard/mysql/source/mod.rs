//! A MySQL or MariaDB server as a source of memory: its log, and snapshot reads whose position in
//! the log is known.

mod answers;
pub(crate) mod feed;
mod fill;
mod heads;
mod lines;
pub(crate) mod log;
pub(crate) mod wire;

use std::sync::{Arc, Mutex, PoisonError};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use sha2::{Digest, Sha256};

use self::lines::SourcePool;
use super::database::Database;
use super::server::Server;
use crate::changes::gtid::GtidSet;
use crate::changes::{LogIdentity, LogPosition};
use crate::model::ShardId;
use crate::shard::ShardError;

/// One server, with those of its databases that are shards.
#[derive(Debug)]
pub(crate) struct MySqlSource {
    server: Arc<Server>,
    shards: Vec<(ShardId, Arc<Database>)>,
    delivered: Mutex<Option<Delivered>>,
    pool: SourcePool,
    /// The number of the log file that was inspected last, and the offset of its first
    /// transaction.
    first_transaction: Mutex<Option<(u32, u64)>>,
}

/// How far the feed has delivered the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// The end of the last delivered transaction, or the position where reading started.
    pub(super) position: LogPosition,
    /// All transactions up to `position`, and none after it. Empty on MariaDB.
    pub(super) gtids: GtidSet,
}

impl MySqlSource {
    pub(in crate::shard) fn new(
        server: Arc<Server>,
        shards: Vec<(ShardId, Arc<Database>)>,
    ) -> Self {
        Self {
            server,
            shards,
            delivered: Mutex::new(None),
            pool: SourcePool::new(),
            first_transaction: Mutex::new(None),
        }
    }

    pub(in crate::shard) fn name(&self) -> &str {
        self.server.gate().server()
    }

    pub(in crate::shard) fn shards(&self) -> Vec<ShardId> {
        self.shards.iter().map(|(shard, _)| *shard).collect()
    }

    /// How far the feed has delivered the log, or `None` while there is no feed.
    pub(super) fn delivered(&self) -> Option<Delivered> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn first_transaction(&self, file: u32) -> Option<u64> {
        let known = *self.first_transaction.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(number, _)| *number == file).map(|(_, first)| first)
    }

    fn note_first_transaction(&self, file: u32, first: u64) {
        let mut known = self.first_transaction.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((file, first));
    }

    fn set_delivered(&self, delivered: Option<Delivered>) {
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner) = delivered;
    }
}

/// Whether the connection leads to a MariaDB server.
pub(super) async fn is_mariadb(connection: &mut Conn) -> Result<bool, ShardError> {
    // A proxy can answer `SELECT VERSION()` itself. Only MariaDB has this variable.
    let sql = "SHOW GLOBAL VARIABLES LIKE 'gtid_binlog_pos'";
    let found: Option<(String, String)> = connection.query_first(sql).await?;
    Ok(found.is_some())
}

/// The identity of the server's log. It does not depend on the address of the connection.
pub(super) async fn server_identity(connection: &mut Conn) -> Result<LogIdentity, ShardError> {
    // MySQL has `server_uuid`. MariaDB does not, and `server_uid` exists only in newer versions.
    let sql = "SHOW GLOBAL VARIABLES WHERE variable_name IN ('server_uuid', 'server_uid', 'hostname', \
               'port', 'server_id', 'datadir')";
    let mut variables: Vec<(String, String)> = connection.query(sql).await?;
    variables.sort_unstable();
    if let Some((_, uuid)) = variables.iter().find(|(name, _)| name == "server_uuid").cloned() {
        variables = vec![("server_uuid".into(), uuid)];
    }
    let mut digest = Sha256::new();
    for (name, value) in variables {
        digest.update(format!("{name}={value}\n"));
    }
    let bytes = digest.finalize();
    let first = bytes.first_chunk::<8>().expect("a digest has 32 bytes");
    Ok(LogIdentity(u64::from_be_bytes(*first)))
}
