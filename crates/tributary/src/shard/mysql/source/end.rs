//! The question for the end of a server's log, on a connection of its own.
//!
//! The feed asks it every second to renew the lease of memory, and requests ask it for tokens. One
//! question is in flight at a time. Its answer serves all that arrived before it was sent; a later
//! request waits for the next question.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, Stream};
use mysql_async::Row;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::fill::{SnapshotStart, visible_statement};
use super::identity::ServerId;
use super::round_trip::round_trip;
use super::{Delivered, MySqlSource};
use crate::changes::LogPosition;
use crate::shard::mysql::connections::{Class, Lease};
use crate::shard::mysql::{field, text_of};
use crate::shard::source::{LogEnd, ReadCheck};
use crate::shard::{Deadline, ShardError};

/// Pause between two questions of the feed.
const INTERVAL: Duration = Duration::from_secs(1);
/// Limit on the answer to a question of the feed.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// The turn to ask, with the last answer.
#[derive(Debug, Default)]
pub(super) struct EndQuestion {
    last: Mutex<Option<EndAnswer>>,
    /// The end of the log in the last answer, for metrics; 0 before it.
    reported: AtomicU64,
}

/// The answer of a server about its log.
#[derive(Clone, Debug)]
pub(super) struct EndAnswer {
    /// Read before the question was sent.
    pub(super) asked: Instant,
    pub(super) server: ServerId,
    /// The name of the file of `end`.
    pub(super) file: String,
    pub(super) end: LogPosition,
    /// Every later query sees all transactions up to here; 0 if that is unknown.
    pub(super) visible: LogPosition,
    /// How far the feed had delivered the log before the question was sent.
    pub(super) delivered: Option<Delivered>,
}

impl EndAnswer {
    /// Whether the log went back: it ends before a position that was read from it earlier. The log
    /// was reset, or the server was restored from a back-up.
    pub(super) fn went_back(&self) -> bool {
        let before = self.delivered.as_ref();
        before.is_some_and(|before| before.server == self.server && self.end < before.position)
    }
}

impl MySqlSource {
    /// The end of the log of the followed server.
    pub(in crate::shard) async fn log_end(&self, until: Deadline) -> Result<LogEnd, ShardError> {
        let answer = self.ask(until).await?;
        if answer.went_back() {
            return Err(ShardError::Unavailable("the server's log was reset or restored".into()));
        }
        let identity = self.server.log_identity(answer.server, &answer.file);
        let identity = until.in_time(identity).await?;
        Ok(LogEnd { identity, end: answer.end, visible: answer.visible })
    }

    pub(in crate::shard) fn check_reads(&self) -> ReadCheck {
        self.server.known_log().check_reads()
    }

    /// An answer every second.
    pub(super) fn answers(&self) -> impl Stream<Item = Result<EndAnswer, ShardError>> + '_ {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        stream::unfold(ticks, move |mut ticks| async move {
            ticks.tick().await;
            Some((self.ask(Deadline::after(ANSWER_DEADLINE)).await, ticks))
        })
    }

    /// The answer to a question that is sent after this call.
    pub(super) async fn ask(&self, until: Deadline) -> Result<EndAnswer, ShardError> {
        let arrived = Instant::now();
        let turn = until.limit(self.question.last.lock()).await;
        let mut last = turn.ok_or_else(|| {
            ShardError::Unavailable("the server did not report the end of its log in time".into())
        })?;
        if let Some(answer) = last.as_ref().filter(|answer| answer.asked >= arrived) {
            return Ok(answer.clone());
        }
        let ask = async {
            loop {
                let mut lease = self.server.connections().lease(Class::Token).await?;
                let answer = self.ask_on(&mut lease).await;
                if let Some(answer) = lease.finish(answer).await {
                    return answer;
                }
            }
        };
        let answer = until.in_time(ask).await?;
        self.question.reported.store(answer.end.0, Ordering::Relaxed);
        *last = Some(answer.clone());
        Ok(answer)
    }

    /// The end of the log when the server reported it last.
    pub(in crate::shard) fn reported_end(&self) -> Option<LogPosition> {
        let end = self.question.reported.load(Ordering::Relaxed);
        (end != 0).then_some(LogPosition(end))
    }

    async fn ask_on(&self, connection: &mut Lease) -> Result<EndAnswer, ShardError> {
        let (server, dialect) = connection.server().await?;
        let (delivered, asked) = (self.delivered(), Instant::now());
        // The end is queried last, so every visible transaction is before it.
        let statements = [visible_statement(dialect), dialect.log_status()].map(Into::into);
        let rows = round_trip(connection, &statements).await?;
        let [visible, status] = rows.as_slice() else {
            return Err(ShardError::Unavailable("the server answered too few statements".into()));
        };
        let start = SnapshotStart::of(dialect, visible, status)?;
        if let Some(events) = self.first_events_query(&start) {
            let events = round_trip(connection, &[events]).await?;
            self.note_first_events(&start, &events);
        }
        let file = status.first().map(|row| text_of(row, 0)).unwrap_or_default();
        let end = position_of(status)?;
        let visible = self.low_bound(&start, delivered.as_ref());
        Ok(EndAnswer { asked, server, file, end, visible, delivered })
    }
}

/// The end of the log, from the row of `SHOW MASTER STATUS` or `SHOW BINARY LOG STATUS`.
pub(super) fn position_of(status: &[Row]) -> Result<LogPosition, ShardError> {
    let Some(row) = status.first() else { return position("", None) };
    position(&text_of(row, 0), field(row, 1).ok())
}

/// The position of an offset in a file.
pub(super) fn position(file: &str, offset: Option<u64>) -> Result<LogPosition, ShardError> {
    match (LogPosition::file_number(file), offset) {
        (Some(number), Some(offset)) => Ok(LogPosition::in_file(number, offset)),
        _ if file.is_empty() => Err(ShardError::Faulty(
            "the server writes no log of changes; fix it with: log_bin in its configuration, and \
             a restart"
                .into(),
        )),
        _ => Err(ShardError::Faulty(format!("log file `{file}` has no number or no end offset"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_file_numbers_and_offsets() {
        let at = position("binlog.000012", Some(345)).unwrap();
        assert_eq!(at, LogPosition::in_file(12, 345));
        for (file, offset, text) in [
            ("", None, "log_bin"),
            ("binlog", Some(4), "no number"),
            ("b.000001", None, "b.000001"),
        ] {
            let error = position(file, offset).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
