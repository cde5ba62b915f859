//! Runs statements with parameters.
//!
//! They are prepared, and each connection caches what it has prepared. A server limits the prepared
//! statements of all its connections together. Beyond that limit a statement is sent as text, and
//! so is one with many forms.

use std::fmt::Write;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Error, Params, Value};

/// `max_prepared_stmt_count` is reached.
const TOO_MANY_PREPARED: u16 = 1461;
/// The server could not prepare the statement again after its table was changed.
const MUST_BE_PREPARED_AGAIN: u16 = 1615;

/// The rows of a statement.
pub(super) async fn rows<T: FromRow + Send + 'static>(
    connection: &mut impl Queryable,
    sql: &str,
    values: impl Into<Params> + Send,
) -> Result<Vec<T>, Error> {
    let values = values.into();
    match connection.exec(sql, values.clone()).await {
        Err(error) if must_be_text(connection, sql, &error).await? => {
            connection.query(as_text(sql, &values)).await
        }
        outcome => outcome,
    }
}

/// The rows of a statement that exists in too many forms to be prepared.
pub(super) async fn rows_of_text<T: FromRow + Send + 'static>(
    connection: &mut impl Queryable,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<T>, Error> {
    connection.query(as_text(sql, &values.into())).await
}

/// The first row of a statement.
pub(super) async fn first<T: FromRow + Send + 'static>(
    connection: &mut impl Queryable,
    sql: &str,
    values: impl Into<Params> + Send,
) -> Result<Option<T>, Error> {
    Ok(rows(connection, sql, values).await?.into_iter().next())
}

/// Runs a statement without rows.
pub(super) async fn run(
    connection: &mut impl Queryable,
    sql: &str,
    values: impl Into<Params> + Send,
) -> Result<(), Error> {
    let values = values.into();
    match connection.exec_drop(sql, values.clone()).await {
        Err(error) if must_be_text(connection, sql, &error).await? => {
            connection.query_drop(as_text(sql, &values)).await
        }
        outcome => outcome,
    }
}

/// Whether the server rejects a statement with this code only because it is prepared.
pub(super) fn is_about_preparing(code: u16) -> bool {
    matches!(code, TOO_MANY_PREPARED | MUST_BE_PREPARED_AGAIN)
}

/// Whether the statement was rejected because of the way it was sent, so that nothing was executed.
async fn must_be_text(
    connection: &mut impl Queryable,
    sql: &str,
    error: &Error,
) -> Result<bool, Error> {
    match error {
        Error::Server(server) if server.code == TOO_MANY_PREPARED => Ok(true),
        Error::Server(server) if server.code == MUST_BE_PREPARED_AGAIN => {
            // Returns the rejected statement from the cache. The next call prepares a new one.
            let rejected = connection.prep(sql).await?;
            connection.close(rejected).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The statement with its values as literals.
fn as_text(sql: &str, values: &Params) -> String {
    let values = match values {
        Params::Positional(values) => values.as_slice(),
        Params::Empty | Params::Named(_) => &[],
    };
    let mut text = String::with_capacity(sql.len() + 16 * values.len());
    let (mut values, mut quote) = (values.iter(), None);
    for character in sql.chars() {
        match (quote, character) {
            (Some(open), _) => {
                if character == open {
                    quote = None;
                }
            }
            (None, '\'' | '"' | '`') => quote = Some(character),
            (None, '?') => {
                if let Some(value) = values.next() {
                    push_literal(&mut text, value);
                    continue;
                }
            }
            (None, _) => {}
        }
        text.push(character);
    }
    text
}

/// A text is written in hexadecimal digits, so that no `sql_mode` gives it another meaning.
fn push_literal(text: &mut String, value: &Value) {
    let Value::Bytes(bytes) = value else { return text.push_str(&value.as_sql(true)) };
    text.push_str(if str::from_utf8(bytes).is_ok() { "_utf8mb4 X'" } else { "X'" });
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02X}");
    }
    text.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_replace_only_placeholders() {
        let sql = "SELECT `a?``b` FROM `t` WHERE x = ? AND y = 'it''s ?' AND z IN (?, ?) LIMIT ?";
        let date = Value::Date(2024, 2, 3, 4, 5, 6, 7);
        let values = vec![Value::Int(-1), "a'?\\".into(), vec![255].into(), date];
        let expected = "SELECT `a?``b` FROM `t` WHERE x = -1 AND y = 'it''s ?' \
             AND z IN (_utf8mb4 X'61273F5C', X'FF') LIMIT '2024-02-03 04:05:06.000007'";
        assert_eq!(as_text(sql, &Params::Positional(values)), expected);
    }
}
