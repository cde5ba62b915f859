//! Snapshot reads whose position in the log is known.
//!
//! Before the snapshot is taken, the server is queried for the transactions that are visible.
//! After it, the server is queried for the end of its log. The snapshot lies between the two.
//! MariaDB returns the visible transactions as a position. MySQL returns a set of GTIDs, which is
//! compared with the set that the feed has delivered.

use mysql_async::{Row, Value};

use super::answers::FillPlan;
use super::end::{position, position_of};
use super::identity::{Dialect, ServerId};
use super::{Delivered, MySqlSource};
use crate::changes::gtid::GtidSet;
use crate::changes::{Bounds, LogIdentity, LogPosition};
use crate::shard::mysql::{field, text_of};
use crate::shard::source::{FillBatch, FillRequest};
use crate::shard::{Deadline, ShardError};

/// Takes a snapshot of the committed rows in all databases of the server.
const START_SNAPSHOT: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// The number of [`snapshot_statements`].
const SNAPSHOT_STATEMENTS: usize = 3;

/// Events that are searched for the first transaction of a MariaDB log file. Before it come the
/// format, possibly the encryption key, the GTID list of earlier files, and a few checkpoints.
const FIRST_EVENTS: u32 = 32;

impl MySqlSource {
    pub(in crate::shard) async fn fill(
        &self,
        requests: &[FillRequest],
        bytes_max: usize,
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
        let rows = || plan.rows(bytes_max);
        let (reply, rows) = self.query_rows(statements, SNAPSHOT_STATEMENTS, rows, until).await?;
        let (start, _) = snapshot_start(reply.dialect, &reply.rows)?;
        let identity = until.in_time(self.identity_of(reply.server, &start)).await?;
        let bounds = self.bounds(&start, delivered.as_ref(), until).await?;
        Ok(FillBatch { identity, bounds, answers: rows.answers(requests) })
    }

    /// The identity of the log that the bounds of a snapshot refer to.
    pub(super) async fn identity_of(
        &self,
        server: ServerId,
        start: &SnapshotStart,
    ) -> Result<LogIdentity, ShardError> {
        let (SnapshotStart::At(ServerPosition { end_file, .. })
        | SnapshotStart::Gtids { end_file, .. }) = start;
        self.server.log_identity(server, end_file).await
    }

    /// The bounds of a snapshot. `delivered` must have been taken before the server was queried.
    /// If the low bound is unknown it is 0, and the caller has to read again.
    pub(super) async fn bounds(
        &self,
        start: &SnapshotStart,
        delivered: Option<&Delivered>,
        until: Deadline,
    ) -> Result<Bounds, ShardError> {
        if let Some(events) = self.first_events_query(start) {
            let reply = self.query(|_| vec![events.clone()], until).await?;
            self.note_first_events(start, &reply.rows);
        }
        let low = self.low_bound(start, delivered);
        let (SnapshotStart::At(ServerPosition { end, .. }) | SnapshotStart::Gtids { end, .. }) =
            start;
        Ok(Bounds::Window { low, high: low.max(*end) })
    }

    /// Every transaction up to here is visible; 0 if that is unknown.
    pub(super) fn low_bound(
        &self,
        start: &SnapshotStart,
        delivered: Option<&Delivered>,
    ) -> LogPosition {
        match start {
            SnapshotStart::At(server) if self.is_visible(server) => server.position,
            SnapshotStart::At(_) => LogPosition(0),
            SnapshotStart::Gtids { executed, .. } => low_bound(executed, delivered),
        }
    }

    /// Whether every transaction up to the position that MariaDB reported is visible.
    ///
    /// Within a snapshot, `binlog_snapshot_position` should be the position of that snapshot. But
    /// it is one variable of the whole server, so sessions that query it at the same time
    /// overwrite each other's values (seen with 10.11). It is therefore queried before the
    /// snapshot: whichever session the value belongs to, its transactions were visible by then.
    ///
    /// The position can be wrong just after the server starts a new log file. The last group of
    /// transactions of the old file may then be in the log and not yet be visible. Two wrong
    /// answers follow one another:
    ///
    /// - Until the group is visible, the server reports the start of the new file.
    /// - From then until the next commit, it may report the new file, but with the offset at which
    ///   the group ended in the old file (`last_commit_pos_offset` in the server's sources).
    ///
    /// So the position is trusted only if it is not after the end of the log. It must also be after
    /// the start of the first transaction of its file. One case remains undetected: the offset from
    /// the old file is one that the first group of the new file has already reached.
    fn is_visible(&self, server: &ServerPosition) -> bool {
        let (number, offset) = server.position.file_and_offset();
        // Without commits since the server started, no transaction can be invisible.
        let is_after_first = || self.first_transaction(number).is_some_and(|first| offset > first);
        server.position <= server.end && (server.commits == 0 || is_after_first())
    }

    /// The statement that returns the first events of a MariaDB log file, if
    /// [`MySqlSource::low_bound`] needs them.
    pub(super) fn first_events_query(&self, start: &SnapshotStart) -> Option<String> {
        let SnapshotStart::At(server) = start else { return None };
        let (number, _) = server.position.file_and_offset();
        let needed = server.position <= server.end
            && server.commits > 0
            && self.first_transaction(number).is_none();
        let file = Value::from(&server.file).as_sql(false);
        needed.then(|| format!("SHOW BINLOG EVENTS IN {file} LIMIT {FIRST_EVENTS}"))
    }

    /// Notes the offset of the first transaction, if the file has one.
    pub(super) fn note_first_events(&self, start: &SnapshotStart, events: &[Vec<Row>]) {
        let SnapshotStart::At(server) = start else { return };
        let mut events = events.iter().flatten();
        let first = events.find(|row| text_of(row, 2).eq_ignore_ascii_case("gtid"));
        if let Some(first) = first.and_then(|row| field(row, 1).ok()) {
            let (number, _) = server.position.file_and_offset();
            self.note_first_transaction(number, first);
        }
    }
}

/// The low bound of a MySQL snapshot. A delivered transaction may not be visible yet, since the
/// server logs it first. So the bound is known only if all delivered transactions were executed.
fn low_bound(executed: &GtidSet, delivered: Option<&Delivered>) -> LogPosition {
    let seen = delivered.filter(|delivered| executed.contains_set(&delivered.gtids));
    seen.map_or(LogPosition(0), |delivered| delivered.position)
}

/// The statement that returns the visible transactions.
pub(super) fn visible_statement(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::MariaDb { .. } => {
            "SHOW STATUS WHERE variable_name IN ('binlog_commits', 'binlog_snapshot_file', \
             'binlog_snapshot_position')"
        }
        Dialect::MySql { .. } => "SELECT @@GLOBAL.gtid_executed",
    }
}

/// The statements that take a snapshot and query its bounds.
///
/// Every visible transaction is in the log already, so the end of the log is an upper bound. It is
/// queried directly after the snapshot: an earlier end shortens the wait for the feed to reach it.
pub(super) fn snapshot_statements(dialect: Dialect) -> Vec<String> {
    [visible_statement(dialect), START_SNAPSHOT, dialect.log_status()].map(Into::into).to_vec()
}

/// The result of [`snapshot_statements`].
#[derive(Debug)]
pub(super) enum SnapshotStart {
    /// MariaDB: the snapshot contains every transaction up to a position.
    At(ServerPosition),
    /// MySQL: the snapshot contains at least these transactions, and none after `end`.
    Gtids { executed: GtidSet, end: LogPosition, end_file: String },
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
    end_file: String,
}

impl SnapshotStart {
    /// Decodes the visible transactions and the end of the log.
    pub(super) fn of(
        dialect: Dialect,
        visible: &[Row],
        status: &[Row],
    ) -> Result<Self, ShardError> {
        let end = position_of(status)?;
        let end_file = status.first().map(|row| text_of(row, 0)).unwrap_or_default();
        if let Dialect::MariaDb { .. } = dialect {
            return Ok(Self::At(server_position(visible, end, end_file)?));
        }
        let text = visible.first().map(|row| text_of(row, 0)).unwrap_or_default();
        let executed = text.parse().map_err(ShardError::Unavailable)?;
        Ok(Self::Gtids { executed, end, end_file })
    }
}

/// Decodes the result of [`snapshot_statements`], and returns the rows of the statements after
/// them.
pub(super) fn snapshot_start(
    dialect: Dialect,
    rows: &[Vec<Row>],
) -> Result<(SnapshotStart, &[Vec<Row>]), ShardError> {
    let [visible, _, status, rest @ ..] = rows else {
        return Err(ShardError::Unavailable("the server answered too few statements".into()));
    };
    Ok((SnapshotStart::of(dialect, visible, status)?, rest))
}

fn server_position(
    status: &[Row],
    end: LogPosition,
    end_file: String,
) -> Result<ServerPosition, ShardError> {
    let value = |wanted: &str| {
        let row = status.iter().find(|row| text_of(row, 0).eq_ignore_ascii_case(wanted));
        row.map(|row| text_of(row, 1)).unwrap_or_default()
    };
    let file = value("binlog_snapshot_file");
    let position = position(&file, value("binlog_snapshot_position").parse().ok())?;
    // A server without this counter may have committed any number.
    let commits = value("binlog_commits").parse().unwrap_or(u64::MAX);
    Ok(ServerPosition { position, file, commits, end, end_file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_is_seen_only_where_it_was_carried_out() {
        let set = |last: u64| -> GtidSet {
            format!("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-{last}").parse().unwrap()
        };
        let server = ServerId::of(&[]);
        let delivered = Delivered { server, position: LogPosition(70), gtids: set(7) };
        let low = |executed: GtidSet, delivered| low_bound(&executed, delivered).0;
        assert_eq!(low(set(7), Some(&delivered)), 70);
        assert_eq!(low(set(9), Some(&delivered)), 70);
        // Delivered before it was visible.
        assert_eq!(low(set(6), Some(&delivered)), 0);
        assert_eq!(low(set(7), None), 0);
    }
}
