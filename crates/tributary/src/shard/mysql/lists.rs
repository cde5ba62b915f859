//! The lists of users in a database on a server: follows, mutes and blocks.

use std::collections::BTreeMap;

use mysql_async::{Conn, Row, Value};

use super::check::{self, Indexes};
use super::conditions::{self, NewColumns};
use super::lists_with_heads::WithHeads;
use super::statements::{AUTHORS_PER_STATEMENT, Chunked, UNION_ARMS, insert};
use super::{MySqlShard, execute, field, run_padded};
use crate::mapping::{FollowsTable, Tables};
use crate::model::{Follow, ID_MAX, UserId, UserList};
use crate::shard::gate::Progress;
use crate::shard::schema::{mysql_list_table, quoted};
use crate::shard::{Deadline, Finding, ShardError, UserLists};

/// The statements for all lists of one database.
#[derive(Debug)]
pub(super) struct ListStatements {
    by_list: BTreeMap<UserList, OneList>,
    /// (owner, max) for each list -> the index of the list, user.
    all: String,
    /// `None` if the plan is not bounded.
    pub(super) with_heads: Option<WithHeads>,
    /// `None` if the index is missing.
    followers: Option<Followers>,
}

/// The statements for one list.
#[derive(Debug)]
pub(super) struct OneList {
    /// (owner, from, max) -> user, rising.
    listed: String,
    /// (owner, 0, max) -> the number of users, or `max` if there are more.
    pub(super) count: String,
    /// (owner, user) for each -> owner, user.
    entries: Chunked,
    /// (owner, user, times of [`NewColumns`]) for each.
    pub(super) insert: Chunked,
}

/// The statements for the followers of a user.
#[derive(Debug)]
struct Followers {
    /// (user, from, max) -> follower, rising.
    listed: String,
    /// (user, 0, max) -> the number of followers, or `max` if there are more.
    count: String,
}

impl ListStatements {
    /// `database` is quoted.
    pub(super) fn new(database: &str, tables: &Tables, indexes: &Indexes) -> Self {
        let of = |list: UserList| indexes.lists.get(&list).map(String::as_str);
        let lists = tables.lists().filter_map(|(list, table)| Some((list, table, of(list)?)));
        let (mut by_list, mut arms) = (BTreeMap::new(), Vec::new());
        for (list, table, key) in lists {
            let number = UserList::ALL.iter().position(|known| *known == list).unwrap_or(0);
            arms.push(all_arm(database, (number, &table), key));
            by_list.insert(list, OneList::new(database, &table, key));
        }
        let followers = indexes.followers.as_deref();
        let followers = followers.map(|key| Followers::new(database, &tables.follows, key));
        let with_heads = WithHeads::new(database, tables, indexes);
        Self { by_list, all: arms.join(" UNION ALL "), with_heads, followers }
    }

    pub(super) fn of(&self, list: UserList) -> Result<&OneList, ShardError> {
        let missing = || ShardError::Faulty("the shards have no table of this list".into());
        self.by_list.get(&list).ok_or_else(missing)
    }

    /// The statements that insert an entry of each list.
    pub(super) fn inserts(&self) -> impl Iterator<Item = &str> {
        self.by_list.values().map(|list| list.insert.at_most(1).0)
    }

    /// One statement of each kind of read, with values for which it returns no rows or next to
    /// none.
    pub(super) fn reads(&self) -> Vec<(&str, Vec<Value>)> {
        let none = |values: usize| vec![Value::UInt(0); values];
        let mut reads = vec![(self.all.as_str(), none(2 * self.by_list.len()))];
        for list in self.by_list.values() {
            reads.push((&list.listed, none(3)));
            reads.push((list.entries.at_least(1).0, none(2)));
        }
        reads.extend(self.followers.iter().map(|followers| (followers.listed.as_str(), none(3))));
        reads
    }
}

/// The table with a forced index, and the condition of its visible rows.
pub(super) fn from(database: &str, table: &FollowsTable, index: &str) -> (String, String) {
    let name = quoted(&table.name);
    let from = format!("{database}.{name} FORCE INDEX ({})", quoted(index));
    (from, conditions::all(table.conditions()))
}

fn all_arm(database: &str, (list, table): (usize, &FollowsTable), index: &str) -> String {
    let (from, visible) = from(database, table, index);
    let (owner, user) = (quoted(&table.follower), quoted(&table.followed));
    format!(
        "(SELECT DISTINCT {list}, {user} FROM {from}
          WHERE {owner} = ? AND {user} BETWEEN 0 AND {ID_MAX}{visible}
          ORDER BY {user} LIMIT ?)"
    )
}

impl OneList {
    fn new(database: &str, table: &FollowsTable, index: &str) -> Self {
        let (from, visible) = from(database, table, index);
        let (owner, user) = (quoted(&table.follower), quoted(&table.followed));
        let listed = format!(
            "SELECT DISTINCT {user} FROM {from}
             WHERE {owner} = ? AND {user} BETWEEN ? AND {ID_MAX}{visible}
             ORDER BY {user} LIMIT ?"
        );
        let NewColumns { columns, values, .. } = NewColumns::new(table.conditions());
        Self {
            count: format!("SELECT COUNT(*) FROM ({listed}) AS listed"),
            listed,
            entries: Chunked::new(UNION_ARMS, |entries| {
                let values = vec!["(?, ?)"; entries].join(", ");
                format!(
                    "SELECT DISTINCT {owner}, {user} FROM {from}
                     WHERE ({owner}, {user}) IN ({values}){visible}"
                )
            }),
            insert: insert(
                &format!("{database}.{} ({owner}, {user}{columns})", quoted(&table.name)),
                &format!("(?, ?{values})"),
                &format!("{owner} = {owner}"),
            ),
        }
    }
}

impl Followers {
    fn new(database: &str, table: &FollowsTable, index: &str) -> Self {
        let (from, visible) = from(database, table, index);
        let (follower, followed) = (quoted(&table.follower), quoted(&table.followed));
        let listed = format!(
            "SELECT DISTINCT {follower} FROM {from}
             WHERE {followed} = ? AND {follower} BETWEEN ? AND {ID_MAX}{visible}
             ORDER BY {follower} LIMIT ?"
        );
        Self { count: format!("SELECT COUNT(*) FROM ({listed}) AS listed"), listed }
    }
}

impl MySqlShard {
    pub(in crate::shard) async fn listed(
        &self,
        list: UserList,
        owner: UserId,
        (from, max): (UserId, usize),
        until: Deadline,
    ) -> Result<Vec<UserId>, ShardError> {
        let statements = self.statements()?;
        let rows = self.rows(&statements.lists.of(list)?.listed, (owner.0, from.0, max), until);
        users(&rows.await?)
    }

    pub(in crate::shard) async fn lists(
        &self,
        owner: UserId,
        max: usize,
        until: Deadline,
    ) -> Result<UserLists, ShardError> {
        let statements = self.statements()?;
        let lists = &statements.lists;
        let values: Vec<Value> =
            lists.by_list.keys().flat_map(|_| [owner.0.into(), max.into()]).collect();
        let mut found = UserLists::default();
        for row in self.rows(&lists.all, values, until).await? {
            let list: usize = field(&row, 0)?;
            if let Some(list) = UserList::ALL.get(list) {
                found.of(*list).push(UserId(field(&row, 1)?));
            }
        }
        // A server may return the parts of a `UNION ALL` in any order.
        UserList::ALL.into_iter().for_each(|list| found.of(list).sort_unstable());
        Ok(found)
    }

    pub(in crate::shard) async fn entries(
        &self,
        list: UserList,
        entries: &[Follow],
        until: Deadline,
    ) -> Result<Vec<Follow>, ShardError> {
        let (statements, progress) = (self.statements()?, Progress::default());
        let sql = &statements.lists.of(list)?.entries;
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let counter = self.count_rows(&mut connection).await?;
            let mut found = Vec::new();
            for chunk in entries.chunks(AUTHORS_PER_STATEMENT) {
                let values =
                    |entry: &Follow| vec![entry.follower.0.into(), entry.followee.0.into()];
                let padding = values(&chunk[0]);
                let rows = run_padded(&mut connection, sql, chunk, values, padding).await?;
                progress.note_rows(rows.len());
                for row in rows {
                    let (follower, followee) = (UserId(field(&row, 0)?), UserId(field(&row, 1)?));
                    found.push(Follow { follower, followee });
                }
            }
            self.end_count(counter, &mut connection).await?;
            Ok(found)
        };
        self.pass(until, &progress, run).await
    }

    pub(in crate::shard) async fn followers(
        &self,
        user: UserId,
        (from, max): (UserId, usize),
        until: Deadline,
    ) -> Result<Vec<UserId>, ShardError> {
        let statements = self.statements()?;
        let followers = statements.lists.followers.as_ref().ok_or_else(no_followers)?;
        users(&self.rows(&followers.listed, (user.0, from.0, max), until).await?)
    }

    pub(in crate::shard) async fn count(
        &self,
        user: UserId,
        (of_followers, max): (bool, usize),
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let statements = self.statements()?;
        let sql = match of_followers {
            true => &statements.lists.followers.as_ref().ok_or_else(no_followers)?.count,
            false => &statements.lists.of(UserList::Follows)?.count,
        };
        let rows = self.rows(sql, (user.0, 0u64, max), until).await?;
        Ok(rows.first().map_or(Ok(0), |row| field(row, 0))?)
    }

    pub(in crate::shard) fn missing_followers_index(&self) -> Option<String> {
        // A database that is out of service is reported as missing.
        let statements = self.database.statements().ok()?;
        statements.lists.followers.is_none().then(|| {
            let table = &self.database.tables().follows;
            let [name, follower, followed] =
                [&table.name, &table.follower, &table.followed].map(|name| quoted(name));
            format!("CREATE INDEX tributary_followers ON {name} ({followed}, {follower})")
        })
    }

    pub(in crate::shard) fn missing_table(&self, list: UserList) -> Option<String> {
        let tables = self.database.tables();
        if tables.list(list).is_some() {
            return None;
        }
        Some(mysql_list_table(None, &*Tables::with_all().list(list)?))
    }

    /// The rows of one statement.
    pub(super) async fn rows(
        &self,
        sql: &str,
        values: impl Into<mysql_async::Params> + Send,
        until: Deadline,
    ) -> Result<Vec<Row>, ShardError> {
        let progress = Progress::default();
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let counter = self.count_rows(&mut connection).await?;
            let rows: Vec<Row> = execute::rows(&mut connection, sql, values).await?;
            progress.note_rows(rows.len());
            self.end_count(counter, &mut connection).await?;
            Ok(rows)
        };
        self.pass(until, &progress, run).await
    }
}

fn users(rows: &[Row]) -> Result<Vec<UserId>, ShardError> {
    rows.iter().map(|row| Ok(UserId(field(row, 0)?))).collect()
}

fn no_followers() -> ShardError {
    ShardError::Faulty("the index for reading followers is missing".into())
}

/// Adds the indexes for reading mutes and blocks, or returns what is missing.
pub(super) async fn choose_indexes(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
    indexes: &mut Indexes,
) -> Result<Vec<Finding>, ShardError> {
    let mut faults = Vec::new();
    for (list, table) in tables.lists().filter(|(list, _)| *list != UserList::Follows) {
        let declared = check::declared_table(connection, database, &table.name).await?;
        let pair = [&table.follower, &table.followed];
        match check::starting_with(&declared, &pair) {
            Some(index) if check::unique_over(&declared, &pair, 2) => {
                indexes.lists.insert(list, index);
            }
            _ => {
                let name = format!("{}.{}", quoted(database), quoted(&table.name));
                let [owner, user] = pair.map(|name| quoted(name));
                let text = format!("table {name} has no unique key of {owner} and {user}");
                faults.push(Finding::error("no_index", text).cure(format!(
                    "CREATE UNIQUE INDEX tributary_list ON {name} ({owner}, {user})"
                )));
            }
        }
    }
    Ok(faults)
}
