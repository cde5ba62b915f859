//! The handles and display names of users in a database on a server.

use mysql_async::{Row, Value};

use super::statements::{AUTHORS_PER_STATEMENT, Chunked, UNION_ARMS};
use super::{MySqlShard, field, run_padded, text_of};
use crate::mapping::{Tables, UsersTable};
use crate::model::{ID_MAX, UserId, UserNames};
use crate::shard::gate::Progress;
use crate::shard::schema::{DISPLAY_NAME_CHARS_MAX, HANDLE_CHARS_MAX, quoted};
use crate::shard::{Deadline, ShardError};

/// The statements for names.
#[derive(Debug)]
pub(super) struct NameStatements {
    /// (user) for each -> user, handle, display name.
    of_users: Chunked,
    /// (pattern, max) -> user, handle, display name; by handle. `None` if the index is missing.
    find: Option<String>,
}

impl NameStatements {
    /// `database` is quoted. `None` if the mapping has no users table.
    pub(super) fn new(database: &str, tables: &Tables, index: Option<&str>) -> Option<Self> {
        let table = tables.users.as_ref()?;
        let (id, handle, columns) = (quoted(&table.id), quoted(&table.handle), columns(table));
        let from = format!("{database}.{}", quoted(&table.name));
        let find = |index: &str| {
            format!(
                "SELECT {columns} FROM {from} FORCE INDEX ({})
                 WHERE {handle} LIKE ? ESCAPE '|' AND {id} BETWEEN 0 AND {ID_MAX}
                 ORDER BY {handle} LIMIT ?",
                quoted(index)
            )
        };
        Some(Self {
            of_users: Chunked::new(UNION_ARMS, |users| {
                let values = vec!["?"; users].join(", ");
                format!("SELECT {columns} FROM {from} WHERE {id} IN ({values})")
            }),
            find: index.map(find),
        })
    }

    /// One statement of each kind, with values for which it returns no rows or next to none.
    pub(super) fn reads(&self) -> impl Iterator<Item = (&str, Vec<Value>)> {
        let of_user = (self.of_users.at_least(1).0, vec![Value::UInt(0)]);
        let find = self.find.iter().map(|sql| (sql.as_str(), vec!["?".into(), Value::UInt(1)]));
        std::iter::once(of_user).chain(find)
    }
}

impl MySqlShard {
    /// The names of these users. Users without a row are skipped.
    pub(in crate::shard) async fn names(
        &self,
        users: &[UserId],
        until: Deadline,
    ) -> Result<Vec<(UserId, UserNames)>, ShardError> {
        let statements = self.statements()?;
        let Some(NameStatements { of_users, .. }) = &statements.names else {
            return Ok(Vec::new());
        };
        let progress = Progress::default();
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let counter = self.count_rows(&mut connection).await?;
            let mut names = Vec::with_capacity(users.len());
            for chunk in users.chunks(AUTHORS_PER_STATEMENT) {
                let parameters = |user: &UserId| vec![user.0.into()];
                let padding = parameters(&chunk[0]);
                let rows =
                    run_padded(&mut connection, of_users, chunk, parameters, padding).await?;
                progress.note_rows(rows.len());
                for row in &rows {
                    names.push(named(row)?);
                }
            }
            self.end_count(counter, &mut connection).await?;
            Ok(names)
        };
        self.pass(until, &progress, run).await
    }

    /// At most `max` users whose handle begins with `prefix`, by handle. The collation of the
    /// column decides which letters are equal.
    pub(in crate::shard) async fn find_handles(
        &self,
        prefix: &str,
        max: usize,
        until: Deadline,
    ) -> Result<Vec<(UserId, UserNames)>, ShardError> {
        let statements = self.statements()?;
        let no_index = || ShardError::Faulty("the table of users has no index of handles".into());
        let find = statements.names.as_ref().and_then(|names| names.find.as_ref());
        match self.rows(find.ok_or_else(no_index)?, (pattern(prefix), max), until).await {
            // The character set of the column has no such letter, so no handle has it.
            Err(ShardError::Refused(_)) => Ok(Vec::new()),
            rows => rows?.iter().map(|row| Ok(named(row)?)).collect(),
        }
    }

    /// The statement that creates the table of users or the index for finding handles, if there is
    /// none, and whether it is the table.
    pub(in crate::shard) fn missing_handles(&self) -> Option<(String, bool)> {
        let Some(UsersTable { name, handle, .. }) = &self.database.tables().users else {
            let UsersTable { name, id, handle, .. } = UsersTable::default();
            let [name, id, handle] = [name, id, handle].map(|name| quoted(&name));
            let create = format!(
                "CREATE TABLE {name} (
    {id} BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    {handle} VARCHAR(64) NOT NULL,
    KEY ({handle})
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
            );
            return Some((create, true));
        };
        // A database that is out of service is reported as missing.
        let statements = self.database.statements().ok()?;
        let has_index = statements.names.as_ref().is_some_and(|names| names.find.is_some());
        let [name, handle] = [name, handle].map(|name| quoted(name));
        (!has_index)
            .then(|| (format!("CREATE INDEX tributary_handles ON {name} ({handle})"), false))
    }
}

/// The columns of a user: id, handle, and display name or NULL. The texts are bounded.
pub(super) fn columns(table: &UsersTable) -> String {
    let text = |column: &String, max: usize| format!("LEFT({}, {max})", quoted(column));
    let name = table.display_name.as_ref();
    let name = name.map_or("NULL".to_owned(), |column| text(column, DISPLAY_NAME_CHARS_MAX));
    format!("{}, {}, {name}", quoted(&table.id), text(&table.handle, HANDLE_CHARS_MAX))
}

/// The user of a row with these [`columns`].
pub(super) fn named(row: &Row) -> Result<(UserId, UserNames), mysql_async::Error> {
    let names = UserNames::new(&text_of(row, 1), Some(&text_of(row, 2)));
    Ok((UserId(field(row, 0)?), names))
}

/// The pattern of `LIKE` for texts that begin with `prefix`; `|` escapes.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for letter in prefix.chars() {
        if ['%', '_', '|'].contains(&letter) {
            pattern.push('|');
        }
        pattern.push(letter);
    }
    pattern + "%"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_patterns_are_letters_of_a_prefix() {
        assert_eq!(pattern("a_b%|"), "a|_b|%||%");
    }
}
