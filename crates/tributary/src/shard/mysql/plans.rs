//! Verifies the plans of the statements that leave the optimizer a choice.
//!
//! If a plan would read more than the rows that are needed, the statement is not used. The arms of
//! a `UNION ALL` then do its work, at a higher cost for each author.

use mysql_async::{Conn, Error, Row, Value};
use tracing::{debug, warn};

use super::execute;
use super::statements::{Spans, Statements, time_value};
use crate::moment::{CalendarTime, TimeUnit};
use crate::shard::ShardError;

/// One line of a plan that concerns the posts table.
#[derive(Debug, PartialEq, Eq)]
struct Access {
    kind: String,
    index: String,
    /// Bytes of the index key that the access compares.
    bytes: u32,
    extra: String,
}

impl Statements {
    /// Removes the statements whose plans are not bounded on this server.
    ///
    /// # Errors
    /// An error of the connection or of the server.
    pub(super) async fn verify_plans(
        &mut self,
        connection: &mut Conn,
        (database, index): (&str, &str),
    ) -> Result<(), ShardError> {
        let heads = match &self.heads {
            Some(heads) => explain(connection, &heads.statement, vec!["[1,2]".into()]).await?,
            None => None,
        };
        let author_bytes = heads.as_ref().filter(|head| is_head(head, index)).map(|h| h.bytes);
        let mut are_bounded = author_bytes.is_some();
        if let (Some(bytes), Some(spans)) = (author_bytes, &self.spans) {
            for (sql, values) in examples(spans, self.unit) {
                let plan = explain(connection, sql, values).await?;
                are_bounded &= plan.is_some_and(|plan| is_span(&plan, index, bytes));
            }
        }
        let newest = match &self.newest {
            Some(sql) => explain(connection, sql, vec!["[1,2]".into(), 1.into()]).await?,
            None => None,
        };
        if !newest.is_some_and(|newest| is_head(&newest, index)) {
            self.newest = None;
        }
        let with_heads = match (&self.lists.with_heads, &self.heads) {
            (Some(lists), Some(heads)) => {
                explain(connection, &lists.first(&[heads]), vec![1.into()]).await?
            }
            _ => None,
        };
        if !with_heads.is_some_and(|head| is_head(&head, index)) {
            self.lists.with_heads = None;
        }
        if author_bytes.is_none() {
            self.heads = None;
        }
        if !are_bounded {
            self.spans = None;
            warn!(
                database,
                plan = ?heads,
                "Database does not read heads or spans with bounded cost; its pages are read by \
                 slower statements"
            );
        }
        Ok(())
    }
}

/// The newest rows of one author are read from the end of its range in the index.
fn is_head(plan: &Access, index: &str) -> bool {
    plan.kind == "ref" && plan.index == index && !plan.extra.contains("filesort")
}

/// A range of each author is read that is limited by time too.
fn is_span(plan: &Access, index: &str, author_bytes: u32) -> bool {
    plan.kind == "range"
        && plan.index == index
        && plan.bytes > author_bytes
        && !plan.extra.contains("filesort")
}

fn examples(spans: &Spans, unit: TimeUnit) -> [(&str, Vec<Value>); 2] {
    // Different times, because a span has them (see `Spans::choose`).
    let [first, last] = [1, 2].map(|day| {
        let time = match unit {
            TimeUnit::DateTime { .. } => {
                CalendarTime { year: 2000, month: 1, day, ..CalendarTime::unpacked(0) }.packed()
            }
            TimeUnit::Seconds | TimeUnit::Milliseconds | TimeUnit::Microseconds => day.into(),
        };
        time_value(unit, time)
    });
    let ids = [Value::UInt(1), Value::UInt(2)];
    let with = |values: &[&Value]| ids.iter().chain(values.iter().copied()).cloned().collect();
    let limit = Value::UInt(1);
    [
        (spans.from.at_least(1).0, with(&[&first, &limit])),
        (spans.between.at_least(1).0, with(&[&first, &last, &limit])),
    ]
}

/// How the statement reads the posts table; `None` if the server cannot run or explain it.
async fn explain(
    connection: &mut Conn,
    sql: &str,
    values: Vec<Value>,
) -> Result<Option<Access>, ShardError> {
    let sql = format!("EXPLAIN FORMAT=TRADITIONAL {sql}");
    let lines: Result<Vec<Row>, Error> = execute::rows(connection, &sql, values).await;
    match lines {
        Ok(lines) => Ok(lines.last().map(access)),
        // The server has no JSON_TABLE, or the account may not explain a view.
        Err(Error::Server(error)) => {
            debug!(%error, "A statement cannot be explained");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn access(line: &Row) -> Access {
    let column = |name: &str| line.get_opt::<String, _>(name).and_then(Result::ok);
    let text = |name| column(name).unwrap_or_default();
    Access {
        kind: text("type"),
        index: text("key"),
        bytes: text("key_len").parse().unwrap_or_default(),
        extra: text("Extra"),
    }
}
