//! Reads whose place in the log is known.
//!
//! MariaDB tells the place of a snapshot exactly. MySQL does not: what it had carried out before
//! the snapshot was taken is in it, and what stands behind the log's end afterwards is not.

use mysql_async::Row;

use super::answers::Plan;
use super::lines::Dialect;
use super::{Delivered, MySqlSource};
use crate::changes::gtid::GtidSet;
use crate::changes::{Bounds, History, LogPosition, file_number};
use crate::shard::mysql::{field, text_of};
use crate::shard::source::{Filled, Wish};
use crate::shard::{Deadline, ShardError};

/// Begins a transaction that sees what is committed now, in all databases of the server.
const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

impl MySqlSource {
    pub(in crate::shard) async fn fill(
        &self,
        wishes: &[Wish],
        until: Deadline,
    ) -> Result<Filled, ShardError> {
        let plan = Plan::new(&self.shards, wishes)?;
        let delivered = self.delivered();
        let statements = |dialect| {
            let mut statements = begin(dialect);
            statements.extend_from_slice(plan.statements());
            statements.push("COMMIT".into());
            statements
        };
        let reply = self.ask(statements, until).await?;
        let (begun, rest) = begun(reply.dialect, &reply.rows)?;
        let bounds = begun.bounds(delivered.as_ref());
        Ok(Filled { history: reply.history, bounds, answers: plan.answers(rest, wishes)? })
    }

    pub(in crate::shard) async fn end_of_log(
        &self,
        until: Deadline,
    ) -> Result<(History, LogPosition), ShardError> {
        let reply = self.ask(|dialect| vec![log_status(dialect).into()], until).await?;
        let rows = reply.rows.first().map_or(&[][..], Vec::as_slice);
        Ok((reply.history, log_end(rows)?))
    }

    /// As of an empty snapshot.
    pub(in crate::shard) async fn visible(
        &self,
        until: Deadline,
    ) -> Result<(History, LogPosition), ShardError> {
        let Filled { history, bounds, .. } = self.fill(&[], until).await?;
        match bounds {
            Bounds::Exact(low) | Bounds::Window { low, .. } => Ok((history, low)),
        }
    }
}

fn log_status(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::MariaDb => "SHOW MASTER STATUS",
        Dialect::MySql { log_status } => log_status,
    }
}

/// The statements that begin a snapshot and ask for its place.
pub(super) fn begin(dialect: Dialect) -> Vec<String> {
    match dialect {
        Dialect::MariaDb => vec![BEGIN.into(), "SHOW STATUS LIKE 'binlog_snapshot_%'".into()],
        // What is visible was written to the log before, so its end is asked for as soon as the
        // snapshot is there: the sooner, the less has to be waited for.
        Dialect::MySql { log_status } => {
            vec!["SELECT @@GLOBAL.gtid_executed".into(), BEGIN.into(), log_status.into()]
        }
    }
}

/// What a server said to [`begin`].
pub(super) enum Begun {
    At(LogPosition),
    Between { executed: GtidSet, end: LogPosition },
}

/// Reads it, and returns what was said to the statements behind.
pub(super) fn begun(
    dialect: Dialect,
    rows: &[Vec<Row>],
) -> Result<(Begun, &[Vec<Row>]), ShardError> {
    let short = || ShardError::Unavailable("it answered too few statements".into());
    match (dialect, rows) {
        (Dialect::MariaDb, [_, status, rest @ ..]) => Ok((Begun::At(snapshot(status)?), rest)),
        (Dialect::MySql { .. }, [executed, _, status, rest @ ..]) => {
            let text = executed.first().map(|row| text_of(row, 0)).unwrap_or_default();
            let executed = text.parse().map_err(ShardError::Unavailable)?;
            Ok((Begun::Between { executed, end: log_end(status)? }, rest))
        }
        _ => Err(short()),
    }
}

impl Begun {
    /// `delivered` was known before the server was asked.
    pub(super) fn bounds(&self, delivered: Option<&Delivered>) -> Bounds {
        match self {
            Self::At(position) => Bounds::Exact(*position),
            Self::Between { executed, end } => {
                // The log may run ahead of what is visible: what was delivered is seen only if it
                // was carried out. Otherwise nothing is known; whoever asked will ask again.
                let seen = delivered.filter(|d| executed.contains_set(&d.gtids));
                let low = seen.map_or(LogPosition(0), |delivered| delivered.position);
                Bounds::Window { low, high: (*end).max(low) }
            }
        }
    }
}

/// The place of a snapshot, as MariaDB tells it.
fn snapshot(status: &[Row]) -> Result<LogPosition, ShardError> {
    let value = |wanted: &str| {
        let row = status.iter().find(|row| text_of(row, 0).eq_ignore_ascii_case(wanted));
        row.map(|row| text_of(row, 1)).unwrap_or_default()
    };
    position(&value("binlog_snapshot_file"), value("binlog_snapshot_position").parse().ok())
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
        let bounds = |executed, delivered| Begun::Between { executed, end }.bounds(delivered);
        let window = |low| Bounds::Window { low: LogPosition(low), high: end };
        assert_eq!(bounds(set(7), Some(&delivered)), window(70));
        assert_eq!(bounds(set(9), Some(&delivered)), window(70));
        // Delivered before it was visible.
        assert_eq!(bounds(set(6), Some(&delivered)), window(0));
        assert_eq!(bounds(set(7), None), window(0));
        let exact = Begun::At(LogPosition(80)).bounds(Some(&delivered));
        assert_eq!(exact, Bounds::Exact(LogPosition(80)));
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
