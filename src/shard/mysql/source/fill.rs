//! Reads whose place in the log is known.

use tokio::sync::mpsc;

use super::MySqlSource;
use crate::changes::{Bounds, History, LogPosition};
use crate::shard::source::{Filled, Heads, Wish};
use crate::shard::{Deadline, ShardError};

impl MySqlSource {
    pub(in crate::shard) async fn fill(
        &self,
        _wishes: &[Wish],
        _until: Deadline,
    ) -> Result<Filled, ShardError> {
        Err(ShardError::Unavailable("not yet".into()))
    }

    pub(in crate::shard) async fn heads(
        &self,
        _heads: mpsc::Sender<Heads>,
    ) -> Result<(History, Bounds), ShardError> {
        Err(ShardError::Unavailable("not yet".into()))
    }

    pub(in crate::shard) async fn end_of_log(
        &self,
        _until: Deadline,
    ) -> Result<(History, LogPosition), ShardError> {
        Err(ShardError::Unavailable("not yet".into()))
    }

    pub(in crate::shard) async fn visible(
        &self,
        _until: Deadline,
    ) -> Result<(History, LogPosition), ShardError> {
        Err(ShardError::Unavailable("not yet".into()))
    }
}
