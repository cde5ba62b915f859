//! A MySQL or MariaDB server as a source of memory: its log, and snapshot reads whose position in
//! the log is known.

mod answers;
mod definitions;
mod end;
mod evidence;
pub(crate) mod feed;
mod fill;
mod heads;
mod identity;
mod large;
pub(crate) mod log;
mod reach;
mod round_trip;
pub(crate) mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

pub(super) use self::definitions::{labels, show_generated_keys};
use self::end::EndQuestion;
pub(super) use self::identity::{Dialect, KnownLog, ServerId};
pub(super) use self::large::EVENT_BYTES_MAX;
pub(super) use self::log::served_tables;
pub(super) use self::reach::reads_definitions;
use super::database::Database;
use super::server::Server;
use crate::changes::LogPosition;
use crate::changes::gtid::GtidSet;
use crate::model::ShardId;
use crate::problems::{ProblemCause, Problems};
use crate::shard::ShardError;
use crate::shard::queue::ConnectionStats;

/// One server, with those of its databases that are shards.
#[derive(Debug)]
pub(crate) struct MySqlSource {
    server: Arc<Server>,
    shards: Vec<(ShardId, Arc<Database>)>,
    question: EndQuestion,
    /// The number of the log file that was inspected last, and the offset of its first
    /// transaction.
    first_transaction: Mutex<Option<(u32, u64)>>,
    /// Shards whose table definitions the feed must query again.
    doubted: Mutex<BTreeSet<ShardId>>,
}

/// How far the feed has delivered the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) server: ServerId,
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
            question: EndQuestion::default(),
            first_transaction: Mutex::new(None),
            doubted: Mutex::new(BTreeSet::new()),
        }
    }

    pub(in crate::shard) fn name(&self) -> &str {
        self.server.gate().server()
    }

    /// The connections to this server, by class.
    pub(in crate::shard) fn connections(&self) -> Vec<ConnectionStats> {
        self.server.connections().stats()
    }

    /// The problems of this server and its log.
    pub(in crate::shard) fn problems(&self) -> &Problems {
        self.server.problems()
    }

    /// The problems of the server, its log and its databases with this cause.
    pub(in crate::shard) fn count_problems(&self, cause: ProblemCause) -> u64 {
        let of_shards = self.shards.iter().map(|(_, database)| database.problems().count(cause));
        let of_queue = self.server.gate().queue().problems().count(cause);
        of_shards.sum::<u64>() + self.server.problems().count(cause) + of_queue
    }

    pub(in crate::shard) fn shards(&self) -> Vec<ShardId> {
        self.shards.iter().map(|(shard, _)| *shard).collect()
    }

    pub(in crate::shard) fn issue_tokens(&self) {
        self.server.known_log().issue_tokens();
    }

    /// How far the feed has delivered the log, or `None` while there is no feed.
    pub(super) fn delivered(&self) -> Option<Delivered> {
        self.server.known_log().delivered()
    }

    /// Makes the feed query the table definitions of a shard again, because a cached value was
    /// found wrong.
    pub(in crate::shard) fn doubt(&self, shard: ShardId) {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
    }

    fn take_doubted(&self) -> BTreeSet<ShardId> {
        std::mem::take(&mut *self.doubted.lock().unwrap_or_else(PoisonError::into_inner))
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
        self.server.known_log().set_delivered(delivered);
    }
}

/// Whether the connection leads to a MariaDB server.
pub(super) async fn is_mariadb(connection: &mut Conn) -> Result<bool, ShardError> {
    // A proxy can answer `SELECT VERSION()` itself. Only MariaDB has this variable.
    let sql = "SHOW GLOBAL VARIABLES LIKE 'gtid_binlog_pos'";
    let found: Option<(String, String)> = connection.query_first(sql).await?;
    Ok(found.is_some())
}
