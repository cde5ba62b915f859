//! The columns of references in a database on a server, and the counts of replies and reposts.

use mysql_async::{Row, Value};

use super::statements::{AUTHORS_PER_STATEMENT, Chunked, UNION_ARMS};
use super::{MySqlShard, conditions, field, run_padded};
use crate::mapping::{PostsTable, ReferenceColumns};
use crate::model::PostAddress;
use crate::shard::gate::Progress;
use crate::shard::schema::{mysql_references, quoted};
use crate::shard::{Deadline, ReferenceCounts, ShardError};

/// The number of the posts of padding.
const NO_POST: usize = usize::MAX >> 1;

/// The statements that count replies and reposts: (number, author, post, max) for each -> number,
/// the number of references or `max` if there are more.
pub(super) type ReferenceStatements = [Chunked; 2];

/// The statements, if the table has an index for both counts. `database` is quoted.
pub(super) fn statements(
    database: &str,
    table: &PostsTable,
    indexes: Option<&[String; 2]>,
) -> Option<ReferenceStatements> {
    let [replies, reposts] = pairs(table.references.as_ref()?);
    let [of_replies, of_reposts] = indexes?;
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
    Some([count(replies, of_replies), count(reposts, of_reposts)])
}

/// The columns of the author and of the post, for replies and for reposts.
pub(super) fn pairs(references: &ReferenceColumns) -> [[&String; 2]; 2] {
    let [reply_author, reply_post, repost_author, repost_post] = references.columns();
    [[reply_author, reply_post], [repost_author, repost_post]]
}

impl MySqlShard {
    pub(in crate::shard) fn missing_references(&self) -> Option<String> {
        let posts = &self.database.tables().posts;
        let missing = posts.references.is_none();
        missing.then(|| mysql_references(None, posts, &ReferenceColumns::default()))
    }

    pub(in crate::shard) fn missing_reference_index(&self) -> Option<String> {
        // A database that is out of service is reported as missing.
        let statements = self.database.statements().ok()?;
        let posts = &self.database.tables().posts;
        let pairs = pairs(posts.references.as_ref()?);
        statements.references.is_none().then(|| {
            let key = |(name, [author, post]): (&str, [&String; 2])| {
                format!("ADD KEY {name} ({}, {})", quoted(author), quoted(post))
            };
            let names = ["tributary_replies", "tributary_reposts"];
            let keys = names.into_iter().zip(pairs).map(key).collect::<Vec<_>>();
            format!("ALTER TABLE {} {}", quoted(&posts.name), keys.join(", "))
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
        let by_kind = statements.references.as_ref().ok_or_else(missing)?;
        let values = |(number, author, post): (usize, u64, u64)| -> Vec<Value> {
            vec![number.into(), author.into(), post.into(), max.into()]
        };
        let numbered: Vec<(usize, &PostAddress)> = posts.iter().enumerate().collect();
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let mut counts = vec![ReferenceCounts::default(); posts.len()];
            for (kind, sql) in by_kind.iter().enumerate() {
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
