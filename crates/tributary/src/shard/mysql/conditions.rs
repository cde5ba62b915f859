//! The conditions of visible rows as SQL, and the columns that make a new row visible.

use mysql_async::Value;

use super::statements::time_value;
use crate::clock::now_ms;
use crate::mapping::{Condition, Mark, Removal};
use crate::moment::{PostTimes, TimeUnit, Zone};
use crate::shard::schema::quoted;

/// The conditions, each with a leading `AND`; empty if there are none.
pub(super) fn all(conditions: &[Condition]) -> String {
    conditions.iter().map(|Condition { column, value, .. }| equals(column, value)).collect()
}

/// The condition that a column holds a mark, with a leading `AND`. A time mark stands for any time.
fn equals(column: &str, mark: &Mark) -> String {
    let column = quoted(column);
    match mark {
        Mark::Null => format!(" AND {column} IS NULL"),
        Mark::NotNull | Mark::Now => format!(" AND {column} IS NOT NULL"),
        mark => format!(" AND {column} = {}", literal(mark)),
    }
}

/// A mark as an SQL literal; `?` for a time, which is a parameter. A text is written in hexadecimal
/// digits, so it cannot end the literal.
fn literal(mark: &Mark) -> String {
    match mark {
        Mark::Now | Mark::NotNull => "?".into(),
        // `Delete` is no value: it occurs for hidden rows only, which are deleted.
        Mark::Null | Mark::Delete => "NULL".into(),
        Mark::Number(number) => number.to_string(),
        Mark::Text(text) => {
            let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            format!("_utf8mb4 X'{digits}'")
        }
    }
}

/// The condition columns of a new row.
#[derive(Clone, Debug)]
pub(super) struct NewColumns {
    /// The columns, each with a leading comma.
    pub(super) columns: String,
    /// Their values, each with a leading comma. A column that must not be NULL gets a parameter.
    pub(super) values: String,
    /// The number of parameters, which are the time of the write.
    pub(super) times: usize,
}

impl NewColumns {
    pub(super) fn new(conditions: &[Condition]) -> Self {
        let columns = conditions.iter().map(|condition| format!(", {}", quoted(&condition.column)));
        let values = conditions.iter().map(|condition| format!(", {}", literal(&condition.value)));
        let times = conditions.iter().filter(|condition| condition.value == Mark::NotNull).count();
        Self { columns: columns.collect(), values: values.collect(), times }
    }
}

/// The current time for a DATETIME or TIMESTAMP column with values of this zone.
pub(super) fn now(zone: &Zone) -> Value {
    let times = PostTimes { unit: TimeUnit::DateTime { digits: 6 }, zone: zone.clone() };
    time_value(times.unit, times.stored(now_ms()))
}

/// A statement that removes rows, without its WHERE clause.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remove {
    pub(super) sql: String,
    /// Whether the first parameter is the time of the write.
    pub(super) timed: bool,
}

/// The statement that removes rows of `table` as configured.
pub(super) fn remove(table: &str, removal: &Removal<'_>) -> Remove {
    match removal {
        Removal::Hide(condition, hidden) => {
            let column = quoted(&condition.column);
            let sql = format!("UPDATE {table} SET {column} = {}", literal(hidden));
            Remove { sql, timed: *hidden == Mark::Now }
        }
        // The write check rejects an unknown removal, so the statement is never run.
        Removal::Delete | Removal::Unknown => {
            Remove { sql: format!("DELETE FROM {table}"), timed: false }
        }
    }
}

/// The statement that shows rows again that [`remove`] has hidden, without a condition on their
/// key. `None` if no row may be shown again: removed rows are deleted, or look like a request, as
/// with `accepted = 0`. A row that is hidden for another reason as well does not match.
pub(super) fn restore(
    table: &str,
    conditions: &[Condition],
    removal: &Removal<'_>,
) -> Option<String> {
    let Removal::Hide(hiding, hidden) = removal else { return None };
    let is_safe = match (&hiding.value, hidden) {
        (Mark::Null | Mark::Number(0), _) => true,
        (Mark::Text(_), Mark::Text(hidden)) => !names_request(hidden),
        _ => false,
    };
    if !is_safe {
        return None;
    }
    let column = quoted(&hiding.column);
    let others: String = conditions
        .iter()
        .filter(|condition| condition != hiding)
        .map(|Condition { column, value, .. }| equals(column, value))
        .collect();
    Some(format!(
        "UPDATE {table} SET {column} = {} WHERE TRUE{}{others}",
        literal(&hiding.value),
        equals(&hiding.column, hidden)
    ))
}

/// Whether a label names a request, which only the followee may accept.
fn names_request(label: &str) -> bool {
    let label = label.to_lowercase();
    ["pend", "request", "wait"].iter().any(|part| label.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(column: &str, value: Mark) -> Condition {
        Condition { column: column.into(), value, hidden: None }
    }

    #[test]
    fn a_text_cannot_end_its_literal() {
        let sql = all(&[condition("a`b", Mark::Text("x' OR '".into()))]);
        assert_eq!(sql, " AND `a``b` = _utf8mb4 X'7827204f522027'");
    }

    #[test]
    fn only_rows_hidden_by_a_removal_are_restored() {
        let status = condition("status", Mark::Text("a".into()));
        let gone = condition("gone", Mark::Null);
        let conditions = [status, gone.clone()];
        let removal = Removal::Hide(&gone, Mark::Now);
        let sql = "UPDATE t SET `gone` = ?".to_owned();
        assert_eq!(remove("t", &removal), Remove { sql, timed: true });
        let sql = "UPDATE t SET `gone` = NULL WHERE TRUE AND `gone` IS NOT NULL \
                   AND `status` = _utf8mb4 X'61'";
        assert_eq!(restore("t", &conditions, &removal).as_deref(), Some(sql));
        assert_eq!(restore("t", &conditions, &Removal::Delete), None);
        let accepted = condition("accepted", Mark::Number(1));
        let removal = Removal::Hide(&accepted, Mark::Number(0));
        assert_eq!(
            restore("t", std::slice::from_ref(&accepted), &removal),
            None,
            "a request looks the same"
        );
        let text = |text: &str| Mark::Text(text.into());
        let status = condition("status", text("accepted"));
        let restored = |hidden: &str| {
            restore("t", std::slice::from_ref(&status), &Removal::Hide(&status, text(hidden)))
                .is_some()
        };
        assert_eq!(["removed", "Pending", "requested"].map(restored), [true, false, false]);
        let new = NewColumns::new(&[condition("seen_at", Mark::NotNull), gone]);
        assert_eq!(
            (new.columns.as_str(), new.values.as_str(), new.times),
            (", `seen_at`, `gone`", ", ?, NULL", 1)
        );
    }
}
