//! The columns of references in a database on a server, the counts of replies and reposts, and the
//! indexes that are missing.

use mysql_async::{Conn, Row, Value};

use super::statements::{AUTHORS_PER_STATEMENT, Chunked, UNION_ARMS};
use super::{MySqlShard, check, conditions, field, run_padded};
use crate::mapping::{PostsTable, ReferenceColumns};
use crate::model::{PostAddress, REFERENCE_COLUMNS};
use crate::shard::gate::Progress;
use crate::shard::schema::{PresentReferences, mysql_references, quoted};
use crate::shard::{Deadline, ReferenceCounts, ShardError};

/// The number of the posts of padding.
const NO_POST: usize = usize::MAX >> 1;

/// The statements that count replies and reposts: (number, author, post, max) for each -> number,
/// the number of references or `max` if there are more. `None` without an index.
pub(super) type ReferenceStatements = [Option<Chunked>; 2];

/// The statements. `database` is quoted.
pub(super) fn statements(
    database: &str,
    table: &PostsTable,
    indexes: &[Option<String>; 2],
) -> ReferenceStatements {
    let Some(references) = &table.references else { return [None, None] };
    let visible = conditions::all(table.conditions());
    let count = |[author, post]: [&String; 2], index: &String| {
        let [name, index, author, post] =
            [&table.name, index, author, post].map(|name| quoted(name));
        let arm = format!(
            "(SELECT ?, COUNT(*) FROM (SELECT 1 FROM {database}.{name} FORCE INDEX ({index})
               WHERE {author} = ? AND {post} = ?{visible} LIMIT ?) AS counted)"
        );
        Chunked::new(UNION_ARMS, |arms| vec![arm.clone(); arms].join(" UNION ALL "))
    };
    let [replies, reposts] = pairs(references);
    let [of_replies, of_reposts] = indexes;
    let of_replies = of_replies.as_ref().map(|index| count(replies, index));
    [of_replies, of_reposts.as_ref().map(|index| count(reposts, index))]
}

/// The statement that adds the columns and indexes of references that the posts table does not
/// have. `None` if it has them all.
pub(super) async fn missing(
    connection: &mut Conn,
    database: &str,
    posts: &PostsTable,
    references: &ReferenceColumns,
) -> Result<Option<String>, ShardError> {
    let names = check::column_names(connection, database, &posts.name).await?;
    let declared = check::declared_table(connection, database, &posts.name).await?;
    let has_column = |column: &String| names.iter().any(|name| check::same(name, column));
    let has_index = |pair: [&String; 2]| check::starting_with(&declared, &pair).is_some();
    let present = PresentReferences {
        columns: references.columns().map(has_column),
        indexes: pairs(references).map(has_index),
    };
    Ok(mysql_references(Some(database), posts, references, &present))
}

/// The columns of the author and of the post, for replies and for reposts.
pub(super) fn pairs(references: &ReferenceColumns) -> [[&String; 2]; 2] {
    let [reply_author, reply_post, repost_author, repost_post] = references.columns();
    [[reply_author, reply_post], [repost_author, repost_post]]
}

impl MySqlShard {
    pub(in crate::shard) fn missing_references(&self) -> Option<String> {
        let posts = &self.database.tables().posts;
        let (columns, none) = (ReferenceColumns::default(), PresentReferences::default());
        posts.references.is_none().then(|| mysql_references(None, posts, &columns, &none)).flatten()
    }

    pub(in crate::shard) fn missing_reference_index(&self) -> Option<String> {
        // A database that is out of service is reported as missing.
        let statements = self.database.statements().ok()?;
        let posts = &self.database.tables().posts;
        let indexes = statements.references.each_ref().map(Option::is_some);
        let present = PresentReferences { columns: [true; REFERENCE_COLUMNS], indexes };
        mysql_references(None, posts, posts.references.as_ref()?, &present)
    }

    pub(in crate::shard) fn missing_address_index(&self) -> Option<String> {
        // A database that is out of service is reported as missing.
        let statements = self.database.statements().ok()?;
        let posts = &self.database.tables().posts;
        (!statements.has_address_index).then(|| {
            let (table, id) = (quoted(&posts.name), quoted(&posts.id));
            format!("CREATE INDEX tributary_addresses ON {table} ({id})")
        })
    }

    pub(in crate::shard) async fn count_references(
        &self,
        posts: &[PostAddress],
        max: usize,
        until: Deadline,
    ) -> Result<Vec<ReferenceCounts>, ShardError> {
        let (statements, progress) = (self.statements()?, Progress::default());
        let missing = || ShardError::Faulty("the index for counting references is missing".into());
        let values = |(number, author, post): (usize, u64, u64)| -> Vec<Value> {
            vec![number.into(), author.into(), post.into(), max.into()]
        };
        let numbered: Vec<(usize, &PostAddress)> = posts.iter().enumerate().collect();
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let mut counts = vec![ReferenceCounts::default(); posts.len()];
            for (kind, sql) in statements.references.iter().enumerate() {
                let sql = sql.as_ref().ok_or_else(missing)?;
                for chunk in numbered.chunks(AUTHORS_PER_STATEMENT) {
                    let of = |(number, at): &(usize, &PostAddress)| {
                        values((*number, at.author.0, at.post.0))
                    };
                    let padding = values((NO_POST, 0, 0));
                    let rows: Vec<Row> =
                        run_padded(&mut connection, sql, chunk, of, padding).await?;
                    progress.note_rows(rows.len());
                    for row in rows {
                        let number: usize = field(&row, 0)?;
                        if let Some(count) = counts.get_mut(number).and_then(|of| of.get_mut(kind))
                        {
                            *count = field(&row, 1)?;
                        }
                    }
                }
            }
            Ok(counts)
        };
        self.pass(until, &progress, run).await
    }
}
