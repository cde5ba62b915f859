//! One entry for each decoder that gets bytes from a client, a server or a file. Fuzz targets and a
//! test call them with arbitrary bytes. A decoder fails the run by a panic, by a slow call or by
//! more memory than its input justifies.

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(feature = "mysql")]
use super::recorded_log::{RecordedLog, layout};
use crate::changes::binlog::{self, Query, kind};
use crate::changes::reach::{Definition, DefinitionKind, Reach};
use crate::changes::{columns, pending, rows, statement};
use crate::config::{Config, TimeUnit, Zone};
use crate::cursor::{Cursor, FollowingCursor};
use crate::freshness::Freshness;
use crate::mapping::Tables;
use crate::model::{PostId, PostKey, UserId};
use crate::moment::{CalendarTime, PostTimes};
use crate::post_json;

/// Both kinds of cursor. An accepted one must survive encoding and decoding.
pub fn cursor(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
    if let Ok(cursor) = text.parse::<FollowingCursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
}

/// A freshness token.
pub fn freshness(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = text.parse::<Freshness>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
}

/// A configuration file; after a NUL byte, lines of environment variables.
pub fn configuration(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (file, variables) = text.split_once('\0').unwrap_or((&text, ""));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let _ = Config::from_text(file, variables.map(|(name, value)| (name.into(), value.into())));
}

/// A log file of a MySQL or MariaDB server: events, table definitions and rows.
#[cfg(feature = "mysql")]
pub fn log_file(data: &[u8]) {
    let Ok(mut log) = RecordedLog::new(data, "social", 1) else { return };
    while log.batch().is_ok_and(|batch| !batch.is_empty()) {}
}

/// The body of an event that announces a table, and that of an event with rows of this table. The
/// first byte chooses the kind of rows and the table, two bytes state the length of the first body.
#[cfg(feature = "mysql")]
pub fn rows(data: &[u8]) {
    let Some(([choice, low, high], rest)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    let Some((announced, rows)) = rest.split_at_checked(length) else { return };
    let mut layout = layout("social");
    let mut tables = Tables::default();
    tables.posts.unit = TimeUnit::DateTime { digits: 3 };
    if choice & 0x40 != 0 {
        layout.tables = Arc::new(tables);
    }
    let served = &layout.served[usize::from(choice >> 7)];
    let Some(map) = columns::table_map(announced) else { return };
    let Some(plan) = rows::TablePlan::new(&layout.tables, served, map) else { return };
    const KINDS: [u8; 8] = [
        kind::WRITE,
        kind::UPDATE,
        kind::DELETE,
        kind::WRITE_V1,
        kind::UPDATE_V1,
        kind::PARTIAL_UPDATE,
        kind::WRITE_COMPRESSED,
        kind::UPDATE_COMPRESSED_V1,
    ];
    let mut pending = pending::Pending::default();
    let _ = plan.apply(KINDS[usize::from(choice & 7)], rows, &mut pending);
    pending.finish();
}

/// A statement in the log; after NUL bytes, the definitions of a trigger, a view and a routine.
#[cfg(feature = "mysql")]
pub fn statement(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let query =
        Query { database: b"social", text: Cow::Borrowed(parts.next().unwrap_or_default()) };
    let kinds = [DefinitionKind::Trigger, DefinitionKind::View, DefinitionKind::Routine];
    let define = |(kind, text): (DefinitionKind, &[u8])| Definition {
        kind,
        database: "social".to_owned(),
        name: format!("{kind:?}"),
        text: Some(text.to_vec()),
    };
    let mut layout = layout("social");
    layout.reach = Reach::new(&layout.served, kinds.into_iter().zip(parts).map(define).collect());
    let statement = statement::classify(&query);
    layout.effect(&query, &statement, false);
}

/// Data that MariaDB compressed.
pub fn unpacked(data: &[u8]) {
    binlog::unpacked(data);
}

/// A time in a column, as text and as the number that it is stored as.
pub fn time(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let number = data.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
    let zone: Zone = text.parse().unwrap_or_default();
    let units = [
        TimeUnit::Seconds,
        TimeUnit::Milliseconds,
        TimeUnit::Microseconds,
        TimeUnit::DateTime { digits: 3 },
    ];
    for unit in units {
        let times = PostTimes { unit, zone: zone.clone() };
        super::rfc3339_ms(times.epoch_ms(number));
        times.stored_from_micros(times.stored(number));
        CalendarTime::from_text(&text).map(|time| times.stored_from_calendar(time));
    }
}

/// The JSON of a post.
pub fn post(data: &[u8]) {
    let key = PostKey { time: 0, post: PostId(0), author: UserId(0) };
    post_json::decode(key, &String::from_utf8_lossy(data));
}
