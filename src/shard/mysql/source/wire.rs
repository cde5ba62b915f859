//! The stream of a server's log: how it is asked for, and events with their checksums.

use std::time::Duration;

use flate2::Crc;
use futures_util::{FutureExt, StreamExt};
use mysql_async::binlog::BinlogChecksumAlg;
use mysql_async::binlog::events::Event as RawEvent;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Error, Sid};
use rand::RngExt;

use super::log::{Executed, FeedError, missing_right};
use crate::changes::LogPosition;
use crate::changes::binlog::{Event, kind};
use crate::shard::mysql::check::account;

/// A server that sends nothing for so long is gone: it sends a heartbeat every second.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// At first it may have to look for the place in a large file.
const FIRST_SILENCE_MAX: Duration = Duration::from_secs(15);
/// Where a heartbeat is wished for, in nanoseconds.
const HEARTBEAT_NS: u64 = 1_000_000_000;
/// The name of a log file cannot be longer.
const CHECKSUM_BYTES: usize = 4;

/// Where to read from.
#[derive(Debug)]
pub(super) enum StartAt<'a> {
    /// After these transactions.
    AfterTransactions(&'a Executed),
    /// After a place in a file.
    Offset(&'a str, LogPosition),
}

/// A log that is being sent.
pub(super) struct Stream {
    stream: BinlogStream,
    has_received: bool,
}

impl Stream {
    /// Asks for the log.
    pub(super) async fn open(mut connection: Conn, start: StartAt<'_>) -> Result<Self, FeedError> {
        let account = account(&mut connection).await?;
        let id = rand::rng().random_range(1 << 20..u32::MAX >> 1);
        let mut request = BinlogStreamRequest::new(id);
        // The limit on a statement's time must not end it.
        let mut session = format!(
            "SET @master_heartbeat_period = {HEARTBEAT_NS}, @source_heartbeat_period = {HEARTBEAT_NS} \
             /*M!100101 , @mariadb_slave_capability = 4, max_statement_time = 0 */"
        );
        match start {
            StartAt::AfterTransactions(Executed::MySql(gtids)) => {
                let sids: Result<Vec<Sid<'static>>, _> =
                    gtids.parts().map(|part| part.parse()).collect();
                let sids = sids.map_err(|error| FeedError::Temporary(error.to_string()))?;
                request = request.with_gtid().with_gtid_set(sids);
            }
            StartAt::AfterTransactions(Executed::MariaDb(gtid)) => {
                let gtid = gtid.map(|gtid| gtid.to_string()).unwrap_or_default();
                session +=
                    &format!(", @slave_connect_state = '{gtid}', @slave_gtid_strict_mode = 1");
            }
            StartAt::Offset(file, position) => {
                let (_, offset) = position.file_and_offset();
                request = request.with_filename(file.as_bytes()).with_pos(offset);
            }
        }
        connection.query_drop(session).await?;
        match connection.get_binlog_stream(request).await {
            Ok(stream) => Ok(Self { stream, has_received: false }),
            Err(error) => Err(feed_error(error, &account)),
        }
    }

    /// The next event. Waits no longer than a living server is silent.
    pub(super) async fn next(&mut self) -> Result<RawEvent, FeedError> {
        let patience = if self.has_received { SILENCE_MAX } else { FIRST_SILENCE_MAX };
        match tokio::time::timeout(patience, self.stream.next()).await {
            Ok(event) => self.read(event),
            Err(_) => Err(FeedError::Temporary(format!("silent for {} s", patience.as_secs()))),
        }
    }

    /// The next event, if it is here already.
    pub(super) fn ready(&mut self) -> Option<Result<RawEvent, FeedError>> {
        let event = self.stream.next().now_or_never()?;
        Some(self.read(event))
    }

    fn read(&mut self, event: Option<Result<RawEvent, Error>>) -> Result<RawEvent, FeedError> {
        self.has_received = true;
        match event {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(feed_error(error, "the account")),
            None => Err(FeedError::Temporary("the server ended the log".into())),
        }
    }
}

fn feed_error(error: Error, account: &str) -> FeedError {
    match &error {
        // The right to read a log is told as a missing right or a wrong password.
        Error::Server(server) if matches!(server.code, 1045 | 1227) => {
            missing_right("REPLICATION SLAVE", account)
        }
        // Whatever is wrong with the place in the log. A reader with the same id is another thing.
        Error::Server(server) if server.code == 1236 && !server.message.contains("same server") => {
            FeedError::PositionLost(server.message.clone())
        }
        _ => error.into(),
    }
}

/// The event as it is decoded, if it arrived as it was sent. Within a compressed one there is no
/// checksum.
pub(super) fn checked(raw: &RawEvent, in_payload: bool) -> Result<Event<'_>, FeedError> {
    let (header, data) = (raw.header(), raw.data());
    let mut event = Event {
        kind: header.event_type_raw(),
        time: header.timestamp(),
        server: header.server_id(),
        end: header.log_pos(),
        flags: header.flags_raw(),
        data,
    };
    if in_payload || event.kind == kind::FORMAT {
        return Ok(event);
    }
    let crc = BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32;
    if matches!(raw.footer().get_checksum_alg(), Ok(Some(known)) if known == crc) {
        let sent = raw.checksum().map(u32::from_le_bytes);
        if sent != Some(checksum(&event, header.event_size(), data)) {
            return Err(FeedError::Temporary(
                "an event arrived damaged; its checksum is wrong".into(),
            ));
        }
    } else if event.kind == kind::ROTATE
        && let Some((body, sum)) = data.split_last_chunk::<CHECKSUM_BYTES>()
        && u32::from_le_bytes(*sum) == checksum(&event, header.event_size(), body)
    {
        // The first event comes before the one that says whether there are checksums.
        event.data = body;
    }
    Ok(event)
}

/// CRC32 over the header and the body.
fn checksum(event: &Event<'_>, size: u32, body: &[u8]) -> u32 {
    let mut crc = Crc::new();
    let mut header = [0; 19];
    let parts: [&[u8]; 6] = [
        &event.time.to_le_bytes(),
        &[event.kind],
        &event.server.to_le_bytes(),
        &size.to_le_bytes(),
        &event.end.to_le_bytes(),
        &event.flags.to_le_bytes(),
    ];
    for (place, byte) in header.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    crc.update(&header);
    crc.update(body);
    crc.sum()
}
