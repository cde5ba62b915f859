//! A server as the source of memory: its log, and reads whose place in the log is known.

mod feed;
mod fill;

use std::sync::Arc;

use super::database::Database;
use super::server::Server;
use crate::model::ShardId;

/// One server, with those of its databases that are shards.
#[derive(Debug)]
pub(in crate::shard) struct MySqlSource {
    server: Arc<Server>,
    shards: Vec<(ShardId, Arc<Database>)>,
}

impl MySqlSource {
    pub(in crate::shard) fn new(
        server: Arc<Server>,
        shards: Vec<(ShardId, Arc<Database>)>,
    ) -> Self {
        Self { server, shards }
    }

    pub(in crate::shard) fn name(&self) -> &str {
        self.server.gate().server()
    }

    pub(in crate::shard) fn shards(&self) -> Vec<ShardId> {
        self.shards.iter().map(|(shard, _)| *shard).collect()
    }
}
