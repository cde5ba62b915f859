//! The stream of a server's log: the request that starts it, and its events with their checksums.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use flate2::Crc;
use futures_util::{FutureExt, StreamExt};
use mysql_async::binlog::BinlogChecksumAlg;
use mysql_async::binlog::events::Event as RawEvent;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, DriverError, Error, Sid};
use rand::RngExt;

use super::log::{Executed, FeedError, log_end, missing_right};
use crate::changes::LogPosition;
use crate::changes::binlog::{Event, kind};
use crate::shard::mysql::check::account;

/// After this long without an event the connection is lost: the server sends a heartbeat every
/// second.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The limit for the first event. The server may have to search for the position in a large file.
const FIRST_SILENCE_MAX: Duration = Duration::from_secs(15);
/// The requested heartbeat period in nanoseconds.
const HEARTBEAT_NS: u64 = 1_000_000_000;
/// The client library's text for a packet above the limit of the connection.
const PACKET_TOO_LARGE: &str = "larger than max_allowed_packet";
/// Errors of proxies and of hosted servers that send no log: unknown command, syntax, unknown
/// error, not supported yet, not in this protocol.
const REFUSALS: [u16; 5] = [1047, 1064, 1105, 1235, 1295];
/// The reason for a new connection after an event that cannot be decoded.
const DAMAGED: &str = "an event arrived damaged";
/// The size of an event's checksum.
const CHECKSUM_BYTES: usize = 4;

/// The position where the stream starts.
#[derive(Debug)]
pub(super) enum StartAt<'a> {
    /// After these transactions.
    AfterTransactions(&'a Executed),
    /// At an offset in a log file, given by its name.
    Offset(&'a str, LogPosition),
}

/// The events of a log as the server sends them.
pub(super) struct Stream {
    stream: BinlogStream,
    has_received: bool,
}

impl Stream {
    /// Starts the stream.
    pub(super) async fn open(mut connection: Conn, start: StartAt<'_>) -> Result<Self, FeedError> {
        let account = account(&mut connection).await?;
        let id = rand::rng().random_range(1 << 20..u32::MAX >> 1);
        let mut request = BinlogStreamRequest::new(id);
        // The server's limit on statement time must not end the stream.
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
            Err(error) => Err(refusal(error, &account)),
        }
    }

    /// The next event. Fails if none arrives within the time in which a live server sends one.
    pub(super) async fn next(&mut self) -> Result<RawEvent, FeedError> {
        let patience = if self.has_received { SILENCE_MAX } else { FIRST_SILENCE_MAX };
        match tokio::time::timeout(patience, self.receive()).await {
            Ok(event) => event,
            Err(_) => Err(FeedError::Temporary(format!(
                "the server sent nothing for {} s",
                patience.as_secs()
            ))),
        }
    }

    /// The next event, if it has already arrived.
    pub(super) fn ready(&mut self) -> Option<Result<RawEvent, FeedError>> {
        self.receive().now_or_never()
    }

    /// The client library panics at some damaged events, before their checksum can be verified.
    async fn receive(&mut self) -> Result<RawEvent, FeedError> {
        match AssertUnwindSafe(self.stream.next()).catch_unwind().await {
            Ok(event) => self.read(event),
            Err(_) => Err(FeedError::Temporary(DAMAGED.into())),
        }
    }

    fn read(&mut self, event: Option<Result<RawEvent, Error>>) -> Result<RawEvent, FeedError> {
        let is_first = !std::mem::replace(&mut self.has_received, true);
        match event {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) if is_first => Err(refusal(error, "the account")),
            Some(Err(error)) => Err(feed_error(error, "the account")),
            None => Err(FeedError::Temporary("the server ended the stream of its log".into())),
        }
    }
}

/// Requests the log from its end, and waits for the first event.
pub(in crate::shard::mysql) async fn try_stream(mut connection: Conn) -> Result<(), FeedError> {
    let (file, end, executed) = log_end(&mut connection).await?;
    let start = match &executed {
        Executed::MySql(_) => StartAt::AfterTransactions(&executed),
        Executed::MariaDb(_) => StartAt::Offset(&file, end),
    };
    Stream::open(connection, start).await?.next().await.map(drop)
}

/// The error of a request for the log, before the first event.
fn refusal(error: Error, account: &str) -> FeedError {
    match &error {
        Error::Server(server) if REFUSALS.contains(&server.code) => FeedError::LogRefused(format!(
            "the request for the log is refused: {}; if a proxy is at this address, set \
                 address to the host and port of the server itself",
            server.message
        )),
        _ => feed_error(error, account),
    }
}

fn feed_error(error: Error, account: &str) -> FeedError {
    match &error {
        // Servers report a missing replication privilege as access denied, or as a wrong password.
        Error::Server(server) if matches!(server.code, 1045 | 1227) => {
            missing_right("REPLICATION SLAVE", account)
        }
        // Error 1236 means that the position cannot be read. A replica with the same id causes it
        // too.
        Error::Server(server) if server.code == 1236 && !server.message.contains("same server") => {
            FeedError::PositionLost(server.message.clone())
        }
        Error::Driver(DriverError::PacketTooLarge) => FeedError::TooLarge,
        // The client library reports it in two forms.
        error if error.to_string().contains(PACKET_TOO_LARGE) => FeedError::TooLarge,
        _ => error.into(),
    }
}

/// Converts an event for decoding, after its checksum was verified. Events within a compressed
/// event have no checksum.
pub(crate) fn checked(raw: &RawEvent, in_payload: bool) -> Result<Event<'_>, FeedError> {
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
            let mismatch = format!("{DAMAGED}: its checksum does not match");
            return Err(FeedError::Temporary(mismatch));
        }
    } else if event.kind == kind::ROTATE
        && let Some((body, sum)) = data.split_last_chunk::<CHECKSUM_BYTES>()
        && u32::from_le_bytes(*sum) == checksum(&event, header.event_size(), body)
    {
        // The first event precedes the format event, which states whether events have checksums.
        event.data = body;
    }
    Ok(event)
}

/// The CRC32 of the header and the body.
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
    for (target, byte) in header.iter_mut().zip(parts.into_iter().flatten()) {
        *target = *byte;
    }
    crc.update(&header);
    crc.update(body);
    crc.sum()
}
