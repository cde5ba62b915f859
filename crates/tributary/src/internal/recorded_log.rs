//! Decodes a log file event by event, with the code that decodes the stream of a server. The
//! benchmark measures its cost.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mysql_async::binlog::BinlogVersion;
use mysql_async::binlog::events::{Event as RawEvent, FormatDescriptionEvent, TableMapEvent};

use crate::changes::assemble::{Assembler, Step};
use crate::changes::binlog::kind;
use crate::changes::reach::Reach;
use crate::changes::rows::{DeclaredColumn, Role, ServedTable};
use crate::changes::tables::Layout;
use crate::changes::{FeedEvent, LogPosition};
use crate::mapping::Tables;
use crate::model::{ShardId, UserList};
use crate::shard::mysql::source::feed::{BATCH_BYTES, BATCH_EVENTS, text_bytes};
use crate::shard::mysql::source::log::FeedError;
use crate::shard::mysql::source::wire::checked;

/// The first bytes of every log file.
const MAGIC: &[u8] = b"\xfebin";

/// A log file of one database that has the default tables and owns all users.
#[derive(Debug)]
pub struct RecordedLog<'a> {
    rest: &'a [u8],
    format: FormatDescriptionEvent<'static>,
    /// Table maps, kept as the client library keeps them, so that the measured cost includes it.
    maps: HashMap<u64, TableMapEvent<'static>>,
    assembler: Assembler,
    /// Events read so far.
    events: u64,
}

impl<'a> RecordedLog<'a> {
    /// Decodes the bytes of a log file. Its positions are those of the file with this number.
    pub fn new(bytes: &'a [u8], database: &str, number: u32) -> Result<Self, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("this is not a MySQL or MariaDB log file")?;
        let mut assembler = Assembler::new(layout(database));
        assembler.restart(LogPosition::in_file(number, 0));
        let format = FormatDescriptionEvent::new(BinlogVersion::Version4);
        Ok(Self { rest, format, maps: HashMap::new(), assembler, events: 0 })
    }

    /// The number of events read so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The next batch of transactions, within the limits of the feed's batches. Empty at the end
    /// of the file.
    pub fn batch(&mut self) -> Result<Vec<FeedEvent>, String> {
        let (mut batch, mut bytes, mut steps) = (Vec::new(), 0, Vec::new());
        while batch.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
            let Some(raw) = self.next()? else { break };
            let event = checked(&raw, self.assembler.is_in_payload()).map_err(reason)?;
            self.assembler.take(&event, &mut steps).map_err(|broken| broken.0)?;
            for step in steps.drain(..) {
                if let Step::Commit { commit, .. } = step {
                    bytes += text_bytes(&commit);
                    batch.push(FeedEvent::Commit(commit));
                }
            }
        }
        match self.assembler.take_problem() {
            Some((_, problem)) => Err(problem),
            None => Ok(batch),
        }
    }

    /// The next event, decoded as the client library decodes it from a packet.
    fn next(&mut self) -> Result<Option<RawEvent>, String> {
        // The client library panics at a truncated event, and the file may still be written to. It
        // also panics at some damaged events.
        let length = self.rest.get(9..13).and_then(|bytes| bytes.first_chunk());
        let length = length.map(|bytes| u32::from_le_bytes(*bytes));
        let length = length.and_then(|length| usize::try_from(length).ok());
        let Some(one) = length.and_then(|length| self.rest.get(..length)) else { return Ok(None) };
        self.rest = &self.rest[one.len()..];
        let wrong = |error: std::io::Error| format!("an event cannot be decoded: {error}");
        let read = catch_unwind(AssertUnwindSafe(|| RawEvent::read(&self.format, one)));
        let event = read.map_err(|_| "an event is damaged")?.map_err(wrong)?;
        match event.header().event_type_raw() {
            kind::FORMAT => {
                let format = event.read_event::<FormatDescriptionEvent<'_>>().map_err(wrong)?;
                self.format = format.into_owned().with_footer(event.footer());
            }
            kind::TABLE_MAP => {
                let map = event.read_event::<TableMapEvent<'_>>().map_err(wrong)?;
                self.maps.insert(map.table_id(), map.into_owned());
            }
            _ => {}
        }
        self.events += 1;
        Ok(Some(event))
    }
}

fn reason(error: FeedError) -> String {
    match error {
        FeedError::NeedsOperator(reason)
        | FeedError::LogRefused(reason)
        | FeedError::Temporary(reason)
        | FeedError::PositionLost(reason) => reason,
        FeedError::TooLarge | FeedError::Skipped => "an event is too large".into(),
    }
}

/// The default tables of one database, which owns all users.
pub(super) fn layout(database: &str) -> Layout {
    let tables = Tables::default();
    let (posts, follows) = (&tables.posts, &tables.follows);
    let served = |role, table: &String, columns: &[&String]| ServedTable {
        shard: ShardId(0),
        database: database.to_owned(),
        table: table.clone(),
        role,
        single: true,
        altered: String::new(),
        unfollowable: None,
        columns: columns.iter().map(|name| declared(name, **name == posts.content)).collect(),
    };
    let of_posts = [&posts.id, &posts.author, &posts.content, &posts.time];
    let served = vec![
        served(Role::Posts, &posts.name, &of_posts),
        served(
            Role::List(UserList::Follows),
            &follows.name,
            &[&follows.follower, &follows.followed],
        ),
    ];
    Layout { tables: Arc::new(tables), served, ignore_case: false, reach: Reach::default() }
}

fn declared(name: &str, readable: bool) -> DeclaredColumn {
    DeclaredColumn {
        name: name.to_owned(),
        unsigned: name.ends_with("_id"),
        readable,
        ..DeclaredColumn::default()
    }
}
