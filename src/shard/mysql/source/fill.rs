//! Reads whose place in the log is known.
//!
//! A server tells, before a snapshot is taken, what is visible, and after it where its log ends:
//! the snapshot lies between. MySQL says the first in names of transactions, which are compared with
//! those that were delivered, MariaDB as a place.

use mysql_async::{Row, Value};

use super::answers::FillPlan;
use super::lines::Dialect;
use super::{Delivered, MySqlSource};
use crate::changes::gtid::GtidSet;
use crate::changes::{Bounds, LogIdentity, LogPosition, file_number};
use crate::shard::mysql::{field, text_of};
use crate::shard::source::{FillBatch, FillRequest};
use crate::shard::{Deadline, ShardError};

/// Begins a transaction that sees what is committed now, in all databases of the server.
const START_SNAPSHOT: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// Events at the start of a file of MariaDB's log, the first transaction's among them: what comes
/// before are its format, perhaps its key, what the files before it held, and a few checkpoints.
const FIRST_EVENTS: u32 = 32;

impl MySqlSource {
    pub(in crate::shard) async fn fill(
        &self,
        requests: &[FillRequest],
        until: Deadline,
    ) -> Result<FillBatch, ShardError> {
        let plan = FillPlan::new(&self.shards, requests)?;
        let delivered = self.delivered();
        let statements = |dialect| {
            let mut statements = snapshot_statements(dialect);
            statements.extend_from_slice(plan.statements());
            statements.push("COMMIT".into());
            statements
        };
        let reply = self.query(statements, until).await?;
        let (start, rest) = snapshot_start(reply.dialect, &reply.rows)?;
        let bounds = self.bounds(&start, delivered.as_ref(), until).await?;
        Ok(FillBatch { identity: reply.identity, bounds, answers: plan.answers(rest, requests)? })
    }

    pub(in crate::shard) async fn end_of_log(
        &self,
        until: Deadline,
    ) -> Result<(LogIdentity, LogPosition), ShardError> {
        let reply = self.query(|dialect| vec![log_status(dialect).into()], until).await?;
        let rows = reply.rows.first().map_or(&[][..], Vec::as_slice);
        Ok((reply.identity, log_end(rows)?))
    }

    /// As of an empty snapshot.
    pub(in crate::shard) async fn visible(
        &self,
        until: Deadline,
    ) -> Result<(LogIdentity, LogPosition), ShardError> {
        let FillBatch { identity, bounds, .. } = self.fill(&[], until).await?;
        match bounds {
            Bounds::Exact(low) | Bounds::Window { low, .. } => Ok((identity, low)),
        }
    }

    /// Where a snapshot is. `delivered` was known before the server was asked. Where nothing is
    /// known of what was seen, whoever asked will ask again.
    pub(super) async fn bounds(
        &self,
        start: &SnapshotStart,
        delivered: Option<&Delivered>,
        until: Deadline,
    ) -> Result<Bounds, ShardError> {
        match start {
            SnapshotStart::At(server) => {
                let seen = self.is_visible(server, until).await?;
                let low = if seen { server.position } else { LogPosition(0) };
                Ok(Bounds::Window { low, high: server.end.max(low) })
            }
            SnapshotStart::Gtids { executed, end } => Ok(window(executed, *end, delivered)),
        }
    }

    /// Whether a place that MariaDB told can be believed.
    ///
    /// Inside a snapshot it should be the snapshot's own place. But sessions that ask at the same
    /// time overwrite each other's answers (`binlog_snapshot_position` is one variable of the whole
    /// server; seen with 10.11). So it is asked for before: whoever the answer was meant for, it was
    /// visible by then.
    ///
    /// When the log goes on in another file, a group of transactions may have been written to the
    /// old one and not be visible yet. Until then the place told is the start of the new file, as
    /// if they were; and from then until the next commit it may be the new file with the offset of
    /// their end in the old one (`last_commit_pos_offset` in the sources). So a place is believed
    /// once something was committed in its file, and when it is in the log. Not found out is an
    /// offset that the new file has already reached with its first group.
    async fn is_visible(
        &self,
        server: &ServerPosition,
        until: Deadline,
    ) -> Result<bool, ShardError> {
        let (number, offset) = server.position.file_and_offset();
        if server.position > server.end {
            return Ok(false);
        }
        // Before a server's first commit nothing was pending since it started.
        if server.commits == 0 {
            return Ok(true);
        }
        let first = match self.first_transaction(number) {
            Some(first) => Some(first),
            None => self.find_first_transaction(number, &server.file, until).await?,
        };
        Ok(first.is_some_and(|first| offset > first))
    }

    /// Looks where the first transaction begins in a file of the log, if there is one.
    async fn find_first_transaction(
        &self,
        number: u32,
        file: &str,
        until: Deadline,
    ) -> Result<Option<u64>, ShardError> {
        let file = Value::from(file).as_sql(false);
        let events = |_| vec![format!("SHOW BINLOG EVENTS IN {file} LIMIT {FIRST_EVENTS}")];
        let reply = self.query(events, until).await?;
        let mut events = reply.rows.iter().flatten();
        let first = events.find(|row| text_of(row, 2).eq_ignore_ascii_case("gtid"));
        let first: Option<u64> = first.and_then(|row| field(row, 1).ok());
        if let Some(first) = first {
            self.note_first_transaction(number, first);
        }
        Ok(first)
    }
}

/// What was delivered is seen only if it was carried out: the log may run ahead of what is visible.
fn window(executed: &GtidSet, end: LogPosition, delivered: Option<&Delivered>) -> Bounds {
    let seen = delivered.filter(|delivered| executed.contains_set(&delivered.gtids));
    let low = seen.map_or(LogPosition(0), |delivered| delivered.position);
    Bounds::Window { low, high: end.max(low) }
}

fn log_status(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::MariaDb => "SHOW MASTER STATUS",
        Dialect::MySql { log_status } => log_status,
    }
}

/// The statements that begin a snapshot and ask for its place. What is visible was written to the
/// log before, so the log's end is asked for as soon as the snapshot is there: the sooner, the less
/// has to be waited for.
pub(super) fn snapshot_statements(dialect: Dialect) -> Vec<String> {
    match dialect {
        Dialect::MariaDb => {
            let status = "SHOW STATUS WHERE variable_name IN ('binlog_commits', \
                 'binlog_snapshot_file', 'binlog_snapshot_position')";
            vec![status.into(), START_SNAPSHOT.into(), log_status(dialect).into()]
        }
        Dialect::MySql { log_status } => {
            vec!["SELECT @@GLOBAL.gtid_executed".into(), START_SNAPSHOT.into(), log_status.into()]
        }
    }
}

/// What a server said to [`begin`].
#[derive(Debug)]
pub(super) enum SnapshotStart {
    /// It has seen all up to a place.
    At(ServerPosition),
    /// It has seen these transactions.
    Gtids { executed: GtidSet, end: LogPosition },
}

/// What was visible before, as MariaDB tells it.
#[derive(Debug)]
pub(super) struct ServerPosition {
    position: LogPosition,
    /// The name of its file.
    file: String,
    /// How many transactions the server has committed since it started.
    commits: u64,
    /// The end of the log afterwards.
    end: LogPosition,
}

/// Reads it, and returns what was said to the statements behind.
pub(super) fn snapshot_start(
    dialect: Dialect,
    rows: &[Vec<Row>],
) -> Result<(SnapshotStart, &[Vec<Row>]), ShardError> {
    let short = || ShardError::Unavailable("it answered too few statements".into());
    match (dialect, rows) {
        (Dialect::MariaDb, [status, _, end, rest @ ..]) => {
            Ok((SnapshotStart::At(server_position(status, log_end(end)?)?), rest))
        }
        (Dialect::MySql { .. }, [executed, _, status, rest @ ..]) => {
            let text = executed.first().map(|row| text_of(row, 0)).unwrap_or_default();
            let executed = text.parse().map_err(ShardError::Unavailable)?;
            Ok((SnapshotStart::Gtids { executed, end: log_end(status)? }, rest))
        }
        _ => Err(short()),
    }
}

fn server_position(status: &[Row], end: LogPosition) -> Result<ServerPosition, ShardError> {
    let value = |wanted: &str| {
        let row = status.iter().find(|row| text_of(row, 0).eq_ignore_ascii_case(wanted));
        row.map(|row| text_of(row, 1)).unwrap_or_default()
    };
    let file = value("binlog_snapshot_file");
    let position = position(&file, value("binlog_snapshot_position").parse().ok())?;
    // One that does not count may have committed anything.
    let commits = value("binlog_commits").parse().unwrap_or(u64::MAX);
    Ok(ServerPosition { position, file, commits, end })
}

/// The end of the log, as `SHOW MASTER STATUS` and its successors tell it.
fn log_end(status: &[Row]) -> Result<LogPosition, ShardError> {
    let Some(row) = status.first() else { return position("", None) };
    position(&text_of(row, 0), field(row, 1).ok())
}

fn position(file: &str, offset: Option<u64>) -> Result<LogPosition, ShardError> {
    match (file_number(file), offset) {
        (Some(number), Some(offset)) => Ok(LogPosition::in_file(number, offset)),
        _ if file.is_empty() => Err(ShardError::Faulty(
            "the server writes no log of changes; mend it with: log_bin in its configuration, and \
             a restart"
                .into(),
        )),
        _ => Err(ShardError::Faulty(format!("its log file `{file}` has no number or no end"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_is_seen_only_where_it_was_carried_out() {
        let set = |last: u64| -> GtidSet {
            format!("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-{last}").parse().unwrap()
        };
        let delivered = Delivered { position: LogPosition(70), gtids: set(7) };
        let end = LogPosition(90);
        let bounds = |executed: GtidSet, delivered| super::window(&executed, end, delivered);
        let window = |low| Bounds::Window { low: LogPosition(low), high: end };
        assert_eq!(bounds(set(7), Some(&delivered)), window(70));
        assert_eq!(bounds(set(9), Some(&delivered)), window(70));
        // Delivered before it was visible.
        assert_eq!(bounds(set(6), Some(&delivered)), window(0));
        assert_eq!(bounds(set(7), None), window(0));
    }

    #[test]
    fn places_are_numbers_of_files_and_offsets() {
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
