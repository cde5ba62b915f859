//! Transactions of a log that are too large to receive: an event of more bytes than this process
//! accepts, or a compressed transaction that unpacks to more. They are skipped. The server lists
//! their events, and the served tables among them become unknown.
//!
//! The client library unpacks a compressed transaction as soon as it receives it. So the server is
//! queried for its unpacked size before, if its logged size permits a size above the limit.

use std::convert::Infallible;
use std::time::Duration;

use mysql_async::{Row, Value};
use tracing::warn;

use super::MySqlSource;
use super::feed::FeedTask;
use super::log::FeedError;
use crate::changes::rows::ServedTable;
use crate::changes::{Change, Commit, LogPosition};
use crate::model::ShardId;
use crate::shard::Deadline;
use crate::shard::mysql::{field, text_of};

/// The largest accepted event, and the largest accepted unpacked size of a transaction, in bytes.
pub(in crate::shard::mysql) const EVENT_BYTES_MAX: usize = 64 << 20;
/// The largest logged size of a transaction that cannot unpack to more than [`EVENT_BYTES_MAX`].
/// A zstd block of four bytes unpacks to 128 KiB at most.
pub(super) const PACKED_BYTES_SAFE: u64 = 2_048;
/// Events that one query lists: to find large transactions ahead, and to find the tables of one.
const AHEAD_EVENTS: u32 = 512;
const TABLES_EVENTS: u32 = 50_000;
/// Limit on each of these queries.
const EVENTS_DEADLINE: Duration = Duration::from_secs(10);

/// An event as the server lists it.
struct ListedEvent {
    kind: String,
    start: u64,
    end: u64,
    info: String,
}

/// The transactions after a position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// The transaction at the position can be received, and all others that begin before this
    /// offset.
    SmallUntil(u64),
    /// The transaction at the position is too large.
    Large,
}

/// The effect of a transaction that was not received.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    /// The offset where it ends, if that is known.
    pub(super) end: Option<u64>,
    /// The shards that it may have changed.
    pub(super) shards: Vec<ShardId>,
}

impl MySqlSource {
    /// Looks for large transactions from this offset on, which must be inside of a transaction.
    pub(super) async fn ahead(&self, file: &str, offset: u64) -> Result<Ahead, FeedError> {
        Ok(ahead(&self.events(file, offset, AHEAD_EVENTS).await?))
    }

    /// The effect of the transaction whose events start before this offset and end after it.
    /// If the server does not list its events, it may have changed all shards.
    pub(super) async fn skipped(&self, file: &str, offset: u64, served: &[ServedTable]) -> Skipped {
        let events = self.events(file, offset, TABLES_EVENTS).await;
        skipped(&events.unwrap_or_default(), served)
    }

    async fn events(
        &self,
        file: &str,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<ListedEvent>, FeedError> {
        let file = Value::from(file).as_sql(false);
        let sql = format!("SHOW BINLOG EVENTS IN {file} FROM {offset} LIMIT {limit}");
        let reply = self.query(|_| vec![sql.clone()], Deadline::after(EVENTS_DEADLINE)).await?;
        Ok(reply.rows.iter().flatten().map(listed).collect())
    }
}

impl FeedTask<'_> {
    /// If the open transaction may be too large, queries its size before it is received.
    pub(super) async fn look_ahead(&mut self) -> Result<(), FeedError> {
        let Some(at) = self.suspect.take() else { return Ok(()) };
        let (number, offset) = at.file_and_offset();
        match self.source.ahead(&self.file_name(number), offset).await? {
            Ahead::Large => Err(FeedError::TooLarge),
            Ahead::SmallUntil(end) => {
                self.small_until = LogPosition::in_file(number, end);
                Ok(())
            }
        }
    }

    /// Continues after the open transaction, which cannot be received.
    pub(super) async fn skip_transaction(&mut self) -> Result<Infallible, FeedError> {
        let assembler = self.assembler.as_ref().expect("it is made before the connection");
        let Some((gtid, at)) = assembler.open_transaction() else {
            return Err(FeedError::PositionLost("an event of the log is too large".into()));
        };
        let (number, offset) = at.file_and_offset();
        let name = self.file_name(number);
        let skipped = self.source.skipped(&name, offset, assembler.served()).await;
        warn!(
            server = self.source.name(),
            file = name,
            offset,
            shards = ?skipped.shards,
            "Skipped a transaction with more than 64 MiB in one event; copies of the shards that it \
             changed are read again"
        );
        let end = skipped.end.map_or(at, |end| LogPosition::in_file(number, end).max(at));
        let unknown = skipped.shards.into_iter().map(|shard| (shard, Change::ShardUnknown));
        self.commit(Commit { at: end, changes: unknown.collect() }, Some(gtid))?;
        Err(FeedError::Skipped)
    }

    /// The name of a log file, from the name of another one.
    fn file_name(&self, number: u32) -> String {
        let base =
            self.file_name.rsplit_once('.').map_or(self.file_name.as_str(), |(base, _)| base);
        format!("{base}.{number:06}")
    }
}

fn listed(row: &Row) -> ListedEvent {
    let number = |index| field(row, index).unwrap_or(0);
    ListedEvent { kind: text_of(row, 2), start: number(1), end: number(4), info: text_of(row, 5) }
}

impl ListedEvent {
    fn begins_transaction(&self) -> bool {
        self.kind.to_ascii_lowercase().starts_with("gtid") && !self.kind.ends_with("list")
    }

    fn ends_transaction(&self) -> bool {
        matches!(self.kind.as_str(), "Xid" | "XA_prepare") || self.is_statement(&["COMMIT"])
    }

    fn is_statement(&self, verbs: &[&str]) -> bool {
        self.kind.starts_with("Query") && verbs.iter().any(|verb| self.info.starts_with(verb))
    }

    fn is_large(&self) -> bool {
        let unpacked = self.info.split_once("decompressed_size=").and_then(|(_, rest)| {
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        });
        let packed = self.end.saturating_sub(self.start);
        unpacked.unwrap_or(0).max(packed) >= EVENT_BYTES_MAX as u64
    }
}

fn ahead(events: &[ListedEvent]) -> Ahead {
    let mut begun = None;
    for event in events {
        if event.begins_transaction() {
            begun = Some(event.start);
        } else if event.is_large() {
            return begun.map_or(Ahead::Large, Ahead::SmallUntil);
        }
    }
    // The last listed transaction may have further events.
    Ahead::SmallUntil(begun.unwrap_or(0))
}

fn skipped(events: &[ListedEvent], served: &[ServedTable]) -> Skipped {
    let mut shards: Vec<ShardId> = Vec::new();
    let all = || served.iter().map(|table| table.shard).collect();
    let mut known = true;
    for event in events {
        if event.begins_transaction() {
            break;
        }
        if event.kind == "Table_map" {
            let is = |table: &&ServedTable| {
                let name = format!("({}.{})", table.database, table.table);
                event.info.to_lowercase().ends_with(&name.to_lowercase())
            };
            shards.extend(served.iter().filter(is).map(|table| table.shard));
        }
        known &= !event.kind.starts_with("Query") || event.is_statement(&["BEGIN", "COMMIT"]);
        if event.ends_transaction() {
            shards = if known { shards } else { all() };
            shards.dedup();
            return Skipped { end: Some(event.end), shards };
        }
    }
    Skipped { end: None, shards: all() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::rows::Role;

    fn event(kind: &str, start: u64, end: u64, info: &str) -> ListedEvent {
        ListedEvent { kind: kind.into(), start, end, info: info.into() }
    }

    fn served() -> Vec<ServedTable> {
        let table = |shard, database: &str| {
            let name = (database.to_owned(), "tweets".to_owned());
            ServedTable::undefined(ShardId(shard), name, Role::Posts, true)
        };
        vec![table(0, "s0"), table(1, "s1")]
    }

    #[test]
    fn a_large_transaction_is_found_before_it_is_received() {
        let payload = |start, size| {
            let info = format!("compression='ZSTD', decompressed_size={size} bytes");
            event("Transaction_payload", start, start + 100, &info)
        };
        let gtid = |start| event("Gtid", start, start + 80, "SET ...");
        assert_eq!(ahead(&[payload(10, 3_000_279_094_u64)]), Ahead::Large);
        assert_eq!(ahead(&[event("Write_rows", 10, 80 << 20, "")]), Ahead::Large);
        let later = [payload(10, 9), gtid(110), payload(190, 9), gtid(290), payload(370, 1 << 30)];
        assert_eq!(ahead(&later), Ahead::SmallUntil(290));
        assert_eq!(ahead(&later[..3]), Ahead::SmallUntil(110));
        assert_eq!(ahead(&[]), Ahead::SmallUntil(0));
    }

    #[test]
    fn a_skipped_transaction_touches_the_shards_of_its_tables() {
        let (begin, end) = (event("Query", 9, 9, "BEGIN"), event("Xid", 9, 9, "COMMIT"));
        let map = |name: &str| event("Table_map", 9, 9, &format!("table_id: 7 ({name})"));
        let shards = |events: Vec<ListedEvent>| {
            let Skipped { end, shards } = skipped(&events, &served());
            (end, shards.into_iter().map(|shard| shard.0).collect::<Vec<_>>())
        };
        assert_eq!(shards(vec![begin, map("o.big"), map("S0.tweets"), end]), (Some(9), vec![0]));
        let text = event("Query", 9, 9, "use `o`; DELETE FROM o.t");
        let end = || event("Xid", 9, 9, "COMMIT");
        assert_eq!(shards(vec![text, end()]), (Some(9), vec![0, 1]));
        assert_eq!(shards(vec![map("o.big"), end(), map("s1.tweets")]), (Some(9), vec![]));
        assert_eq!(shards(vec![map("o.big")]), (None, vec![0, 1]));
    }
}
