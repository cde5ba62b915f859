//! Follows a server's row binlog.

use tokio::sync::mpsc;

use super::MySqlSource;
use crate::changes::FeedEvent;

impl MySqlSource {
    pub(in crate::shard) async fn follow(&self, events: mpsc::Sender<Vec<FeedEvent>>) {
        events.closed().await;
    }
}
