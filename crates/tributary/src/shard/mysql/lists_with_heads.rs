//! Reads the lists of a user together with the newest posts of the users that it follows.
//!
//! A page then needs one round trip less, and its server one statement less. The statement reads
//! heads of [`HEADS_MAX`] users at most, because it cannot know how long the list is.

use std::sync::Arc;

use mysql_async::{Row, Value};

use super::check::Indexes;
use super::joint::{Sql, read};
use super::lists::from;
use super::statements::{Heads, Statements};
use super::tails::head_of;
use super::{MySqlShard, field};
use crate::mapping::{FollowsTable, Tables};
use crate::model::{ID_MAX, PostKey, UserId, UserList};
use crate::shard::schema::quoted;
use crate::shard::{Deadline, KnownHeads, UserLists};

/// Users whose heads are read. With more, statements that run at the same time are faster.
const HEADS_MAX: usize = 200;

/// (owner), then (owner, max) for each list -> the index of the list, user, newest key as text. The
/// key is an empty text for users whose heads are not read.
#[derive(Debug)]
pub(super) struct WithHeads {
    /// The first users of the follow list: the SQL before and after the key.
    first: [String; 2],
    /// The users after them, and those on the other lists.
    rest: String,
    /// The user, as the key names it.
    user: String,
    lists: usize,
}

impl WithHeads {
    /// `None` if a list has no index.
    pub(super) fn new(database: &str, tables: &Tables, indexes: &Indexes) -> Option<Self> {
        let FollowsTable { name, follower, followed, .. } = &tables.follows;
        let index = indexes.lists.get(&UserList::Follows)?;
        let (_, visible) = from(database, &tables.follows, index);
        let (name, owner, user, index) =
            (quoted(name), quoted(follower), quoted(followed), quoted(index));
        let first = [
            format!("(SELECT {}, {user}, ", number(UserList::Follows)),
            format!(
                " FROM {database}.{name} AS listed FORCE INDEX ({index})
                  WHERE {owner} = ? AND {user} BETWEEN 0 AND {ID_MAX}{visible}
                  ORDER BY {user} LIMIT {HEADS_MAX})"
            ),
        ];
        let rest = tables.lists().map(|(list, table)| {
            let (from, visible) = from(database, &table, indexes.lists.get(&list)?);
            let (owner, user) = (quoted(&table.follower), quoted(&table.followed));
            let skipped = if list == UserList::Follows { HEADS_MAX } else { 0 };
            Some(format!(
                "(SELECT {}, {user}, '' FROM {from}
                  WHERE {owner} = ? AND {user} BETWEEN 0 AND {ID_MAX}{visible}
                  ORDER BY {user} LIMIT {skipped}, ?)",
                number(list)
            ))
        });
        let rest: Vec<String> = rest.collect::<Option<_>>()?;
        let (lists, rest) = (rest.len(), rest.join(" UNION ALL "));
        Some(Self { first, rest, user: format!("listed.{user}"), lists })
    }

    /// The users of the follow list. `databases[id % databases.len()]` has the posts of a user.
    pub(super) fn first(&self, databases: &[&Heads]) -> String {
        let place = format!("{} % {}", self.user, databases.len());
        self.first.join(&Heads::choose(databases, &place, &self.user))
    }

    fn statement(&self, databases: &[&Heads]) -> String {
        format!("{} UNION ALL {}", self.first(databases), self.rest)
    }

    fn values(&self, owner: UserId, max: usize) -> Vec<Value> {
        let of_list = [Value::from(owner.0), max.into()];
        let of_lists = std::iter::repeat_n(of_list, self.lists).flatten();
        std::iter::once(owner.0.into()).chain(of_lists).collect()
    }
}

fn number(list: UserList) -> usize {
    UserList::ALL.iter().position(|known| *known == list).unwrap_or(0)
}

/// See [`crate::shard::joint::joint_lists`].
pub(in crate::shard) async fn lists_with_heads(
    own: &MySqlShard,
    databases: &[&MySqlShard],
    (owner, max): (UserId, usize),
    until: Deadline,
) -> Option<(UserLists, KnownHeads)> {
    if !databases.iter().all(|shard| Arc::ptr_eq(&shard.server, &own.server)) {
        return None;
    }
    let of_owner = own.statements().ok()?;
    let (unit, with_heads) = (of_owner.unit, of_owner.lists.with_heads.as_ref()?);
    let statements: Option<Vec<Arc<Statements>>> =
        databases.iter().map(|shard| shard.statements().ok()).collect();
    let statements = statements?;
    let heads: Option<Vec<&Heads>> = statements.iter().map(|of| of.heads.as_ref()).collect();
    let sql = Sql::Prepared(with_heads.statement(&heads?), with_heads.values(owner, max));
    let decode = |row: &Row| {
        let (list, user): (usize, u64) = (field(row, 0)?, field(row, 1)?);
        let is_read = row.as_ref(2) != Some(&Value::Bytes(Vec::new()));
        let head = if is_read { Some(head_of(unit, row, (UserId(user), 2))?) } else { None };
        Ok((list, UserId(user), head))
    };
    let rows = read(&own.server, sql, until, decode).await?;
    let (mut lists, mut heads) = (UserLists::default(), KnownHeads::new());
    for (list, user, head) in rows {
        lists.of(*UserList::ALL.get(list)?).push(user);
        heads.extend(head.map(|head: Option<PostKey>| (user, head)));
    }
    // Without a unique key, users can be listed twice. Then the limit was not one of users.
    if lists.is_longer_than(max - 1) {
        return None;
    }
    for list in UserList::ALL {
        lists.of(list).sort_unstable();
        lists.of(list).dedup();
    }
    Some((lists, heads))
}
