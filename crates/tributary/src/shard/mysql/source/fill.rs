//! Snapshot reads whose position in the log is known.
//!
//! Before the snapshot is taken, the server is queried for the transactions that are visible.
//! After it, the server is queried for the end of its log. The snapshot lies between the two.
//! MariaDB returns the visible transactions as a position. MySQL returns a set of GTIDs, which is
//! compared with the set that the feed has delivered.

use mysql_async::{Row, Value};

use super::answers::FillPlan;
use super::lines::Dialect;
use super::{Delivered, MySqlSource};
use crate::changes::gtid::GtidSet;
use crate::changes::{Bounds, LogIdentity, LogPosition};
use crate::shard::mysql::{field, text_of};
use crate::shard::source::{FillBatch, FillRequest};
use crate::shard::{Deadline, ShardError};

/// Takes a snapshot of the committed rows in all databases of the server.
const START_SNAPSHOT: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// Events that are searched for the first transaction of a MariaDB log file. Before it come the
/// format, possibly the encryption key, the GTID list of earlier files, and a few checkpoints.
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

    /// The low bound of a snapshot that reads nothing.
    pub(in crate::shard) async fn visible(
        &self,
        until: Deadline,
    ) -> Result<(LogIdentity, LogPosition), ShardError> {
        let FillBatch { identity, bounds, .. } = self.fill(&[], until).await?;
        match bounds {
            Bounds::Exact(low) | Bounds::Window { low, .. } => Ok((identity, low)),
        }
    }

    /// The bounds of a snapshot. `delivered` must have been taken before the server was queried.
    /// If the low bound is unknown it is 0, and the caller has to read again.
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

    /// Whether every transaction up to the position that MariaDB reported is visible.
    ///
    /// Within a snapshot, `binlog_snapshot_position` should be the position of that snapshot. But
    /// it is one variable of the whole server, so sessions that query it at the same time
    /// overwrite each other's values (seen with 10.11). It is therefore queried before the
    /// snapshot: whichever session the value belongs to, its transactions were visible by then.
    ///
    /// The position can be wrong around a rotation of the log. Then a group of transactions may be
    /// in the old file and not be visible yet. Until the group is visible, the server reports the
    /// start of the new file, as if the group were visible. From then until the next commit, it may
    /// report the new file with a wrong offset: that where the group ended in the old file
    /// (`last_commit_pos_offset` in the server's sources).
    ///
    /// So the position is trusted only if it is not after the end of the log. It must also be after
    /// the start of the first transaction of its file. One case remains undetected: the offset from
    /// the old file is one that the first group of the new file has already reached.
    async fn is_visible(
        &self,
        server: &ServerPosition,
        until: Deadline,
    ) -> Result<bool, ShardError> {
        let (number, offset) = server.position.file_and_offset();
        if server.position > server.end {
            return Ok(false);
        }
        // No transaction was committed since the server started, so none can be invisible.
        if server.commits == 0 {
            return Ok(true);
        }
        let first = match self.first_transaction(number) {
            Some(first) => Some(first),
            None => self.find_first_transaction(number, &server.file, until).await?,
        };
        Ok(first.is_some_and(|first| offset > first))
    }

    /// Queries the offset of the first transaction in a log file, if the file has one.
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

/// The bounds of a MySQL snapshot. A delivered transaction may not be visible yet, since the
/// server logs it first. So the low bound is known only if all delivered transactions were
/// executed.
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

/// The statements that take a snapshot and query its bounds.
///
/// Every visible transaction is in the log already, so the end of the log is an upper bound. It is
/// queried directly after the snapshot: an earlier end shortens the wait for the feed to reach it.
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

/// The result of [`snapshot_statements`].
#[derive(Debug)]
pub(super) enum SnapshotStart {
    /// MariaDB: the snapshot contains every transaction up to a position.
    At(ServerPosition),
    /// MySQL: the snapshot contains at least these transactions, and none after `end`.
    Gtids { executed: GtidSet, end: LogPosition },
}

/// The position that MariaDB reported before the snapshot was taken.
#[derive(Debug)]
pub(super) struct ServerPosition {
    position: LogPosition,
    /// The name of the file of `position`.
    file: String,
    /// The number of transactions that the server has committed since it started.
    commits: u64,
    /// The end of the log after the snapshot was taken.
    end: LogPosition,
}

/// Decodes the result of [`snapshot_statements`], and returns the rows of the statements after
/// them.
pub(super) fn snapshot_start(
    dialect: Dialect,
    rows: &[Vec<Row>],
) -> Result<(SnapshotStart, &[Vec<Row>]), ShardError> {
    let short = || ShardError::Unavailable("the server answered too few statements".into());
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
    // A server without this counter may have committed any number.
    let commits = value("binlog_commits").parse().unwrap_or(u64::MAX);
    Ok(ServerPosition { position, file, commits, end })
}

/// The end of the log, from the row of `SHOW MASTER STATUS` or `SHOW BINARY LOG STATUS`.
fn log_end(status: &[Row]) -> Result<LogPosition, ShardError> {
    let Some(row) = status.first() else { return position("", None) };
    position(&text_of(row, 0), field(row, 1).ok())
}

fn position(file: &str, offset: Option<u64>) -> Result<LogPosition, ShardError> {
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
