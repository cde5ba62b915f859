//! Edits of posts in a database on a server, and the column that they need.

use mysql_async::{Conn, Row, Transaction, Value};

use super::statements::{Statements, time_value};
use super::write::{Attempt, WriteStatements};
use super::{MySqlShard, check, execute, post_of};
use crate::mapping::{EDITED_AT, PostsTable};
use crate::model::Post;
use crate::shard::schema::{mysql_edits, quoted};
use crate::shard::write::Edit;
use crate::shard::{Deadline, ShardError, Written};

/// The statement that edits a post: (text, time of the edit, author, time, post). It sets the time
/// of the post too, because a TIMESTAMP may change with every update of its row. `None` if the
/// table has no column of edits. `table` is quoted.
pub(super) fn statement(table: &str, posts: &PostsTable) -> Option<String> {
    let names = [&posts.content, posts.edited_at.as_ref()?, &posts.time, &posts.author, &posts.id];
    let [content, edited_at, time, author, id] = names.map(|name| quoted(name));
    Some(format!(
        "UPDATE {table} SET {content} = ?, {edited_at} = ?, {time} = {time}
         WHERE {author} = ? AND {time} = ? AND {id} = ?"
    ))
}

/// The statement that adds the column of edits. `None` if the posts table has it.
pub(super) async fn missing(
    connection: &mut Conn,
    database: &str,
    posts: &PostsTable,
    column: &str,
) -> Result<Option<String>, ShardError> {
    let names = check::column_names(connection, database, &posts.name).await?;
    let is_present = names.iter().any(|name| check::same(name, column));
    Ok((!is_present).then(|| mysql_edits(Some(database), posts, column)))
}

impl MySqlShard {
    pub(in crate::shard) fn missing_edits(&self) -> Option<String> {
        let posts = &self.database.tables().posts;
        posts.edited_at.is_none().then(|| mysql_edits(None, posts, EDITED_AT))
    }

    pub(in crate::shard) async fn edit_post(
        &self,
        edit: &Edit,
        until: Deadline,
    ) -> Result<Written<Option<Post>>, ShardError> {
        let (statements, attempt) = (self.statements()?, Attempt::default());
        let writes = self.database.write_statements();
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let mut transaction = attempt.begin(&mut connection).await?;
            let found = read_locked(&mut transaction, &statements, edit).await?;
            let post = match found.as_ref().and_then(|post| edit.apply(post)) {
                Some(edited) => {
                    store(&mut transaction, writes, &edited).await?;
                    attempt.commit(transaction).await?;
                    Some(edited)
                }
                None => {
                    transaction.rollback().await?;
                    found
                }
            };
            Ok(self.written(post, &mut connection, until).await)
        };
        self.attempt(until, &attempt, run).await
    }
}

/// The post to edit. Other writers wait until the transaction ends.
async fn read_locked(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    edit: &Edit,
) -> Result<Option<Post>, ShardError> {
    let values = (edit.post.author.0, edit.post.post.0);
    let row: Option<Row> = execute::first(transaction, &statements.post_to_edit, values).await?;
    Ok(row.map(|row| post_of(statements.unit, &row)).transpose()?)
}

async fn store(
    transaction: &mut Transaction<'_>,
    writes: &WriteStatements,
    post: &Post,
) -> Result<(), ShardError> {
    let missing = || ShardError::Faulty("the posts table has no column for edits".into());
    let sql = writes.edit_post.as_ref().ok_or_else(missing)?;
    let (key, time) = (post.key, time_value(writes.unit, post.key.time));
    let values: Vec<Value> = vec![
        post.content.as_str().into(),
        post.edited_at.into(),
        key.author.0.into(),
        time,
        key.post.0.into(),
    ];
    Ok(execute::run(transaction, sql, values).await?)
}
