//! Checks that the tables of a database can be read with bounded cost. Every fault has a cure.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

use super::statements::Statements;
use super::{edits, execute, lists, markers, references, visibility};
use crate::mapping::{Condition, PostsTable, ReadMarkersTable, Tables};
use crate::model::UserList;
use crate::moment::TimeUnit;
use crate::shard::infer::INTEGERS;
use crate::shard::schema::{
    MARKER_COLUMNS, mysql_list_table, mysql_markers_table, mysql_tables, quoted,
};
use crate::shard::{Finding, ShardError};

/// The indexes that reads use, and whether rows can be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Indexes {
    /// The index for reading an author's posts.
    pub(super) posts: String,
    /// The index for reading each list.
    pub(super) lists: BTreeMap<UserList, String>,
    /// The index for reading the followers of a user, if there is one.
    pub(super) followers: Option<String>,
    /// The indexes for counting replies and reposts, if there are any.
    pub(super) references: [Option<String>; 2],
    /// The index for reading posts by author and id, if there is one.
    pub(super) addresses: Option<String>,
    /// The index for finding users by their handles, if there is one.
    pub(super) handles: Option<String>,
    /// `Ok` if inserting a row twice stores it once, else the unique key that is missing.
    pub(super) loadable: Result<(), String>,
}

/// Checks that the tables can be read as pages need. Returns the statements, or the faults that
/// must be fixed first.
///
/// # Errors
/// An error of the connection or of the server.
pub(super) async fn tables(
    connection: &mut Conn,
    name: &str,
    tables: &Tables,
) -> Result<Result<Statements, Vec<Finding>>, ShardError> {
    let mut faults = unreadable(connection, name, tables).await?;
    if !faults.is_empty() {
        return Ok(Err(faults));
    }
    faults.extend(wrong_types(connection, name, tables).await?);
    faults.extend(visibility::unusable(connection, name, tables).await?);
    let posts = declared_table(connection, name, &tables.posts.name).await?;
    let follows = declared_table(connection, name, &tables.follows.name).await?;
    let mut indexes = match (choose(&quoted(name), tables, &posts, &follows), faults.is_empty()) {
        (Ok(indexes), true) => indexes,
        (chosen, _) => {
            faults.extend(chosen.err().unwrap_or_default());
            return Ok(Err(faults));
        }
    };
    if let Some(users) = &tables.users {
        let declared = declared_table(connection, name, &users.name).await?;
        indexes.handles = starting_with(&declared, &[&users.handle]);
    }
    let mut faults = lists::choose_indexes(connection, name, tables, &mut indexes).await?;
    faults.extend(markers::wrong_keys(connection, name, tables).await?);
    if !faults.is_empty() {
        return Ok(Err(faults));
    }
    let index = indexes.posts.clone();
    let mut statements = Statements::new(name, tables, indexes);
    // Running each kind of read finds further faults, such as rights on some columns only.
    for (sql, values) in statements.reads() {
        let proof: Result<Vec<Row>, Error> = execute::rows(connection, sql, values).await;
        match proof.map_err(ShardError::from) {
            Ok(_) => {}
            Err(ShardError::Faulty(text)) => {
                let text = format!(
                    "{text}; this account must be able to use the indexes and columns of all tables"
                );
                return Ok(Err(vec![Finding::error("cannot_read", text)]));
            }
            Err(other) => return Err(other),
        }
    }
    statements.verify_plans(connection, (name, &index)).await?;
    Ok(Ok(statements))
}

/// Faults for tables and columns that do not exist or that this account may not read.
async fn unreadable(
    connection: &mut Conn,
    name: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    let posts = &tables.posts;
    let post_columns = [&posts.id, &posts.author, &posts.content, &posts.time];
    // The definition is known for our own tables only.
    let [create_follows, create_posts] = match tables.are_ours() {
        true => mysql_tables(name).map(Some),
        false => [None, None],
    };
    let mut faults = Vec::new();
    for (list, table) in tables.lists() {
        let columns = with_conditions(&[&table.follower, &table.followed], table.conditions());
        let create = match list {
            UserList::Follows => create_follows.clone(),
            UserList::Mutes | UserList::Blocks => Some(mysql_list_table(Some(name), &table)),
        };
        let table = (table.name.as_str(), columns.as_slice());
        faults.extend(unreadable_table(connection, name, table, create.as_deref()).await?);
    }
    let columns = with_conditions(&post_columns, posts.conditions());
    let table = (posts.name.as_str(), columns.as_slice());
    let of_posts = unreadable_table(connection, name, table, create_posts.as_deref()).await?;
    match of_posts {
        None => faults.extend(unreadable_optional(connection, name, posts).await?),
        of_posts => faults.extend(of_posts),
    }
    if let Some(ReadMarkersTable { name: table }) = &tables.read_markers {
        let columns = MARKER_COLUMNS.map(str::to_owned);
        let columns: Vec<&String> = columns.iter().collect();
        let create = mysql_markers_table(Some(name), table);
        let table = (table.as_str(), columns.as_slice());
        faults.extend(unreadable_table(connection, name, table, Some(&create)).await?);
    }
    if let Some(users) = &tables.users {
        let columns: Vec<&String> = users.columns().collect();
        let table = (users.name.as_str(), columns.as_slice());
        faults.extend(unreadable_table(connection, name, table, None).await?);
    }
    Ok(faults)
}

/// Faults for the optional columns of posts. `migrate` adds the missing ones.
async fn unreadable_optional(
    connection: &mut Conn,
    name: &str,
    posts: &PostsTable,
) -> Result<Vec<Finding>, ShardError> {
    let mut faults = Vec::new();
    let mut add = |finding: Finding, missing: Option<String>| {
        faults.push(match missing.filter(|_| finding.code == "no_column") {
            Some(statement) => finding.cure(statement),
            None => finding,
        });
    };
    if let Some(references) = &posts.references {
        let table = (posts.name.as_str(), &references.columns()[..]);
        if let Some(finding) = unreadable_table(connection, name, table, None).await? {
            add(finding, references::missing(connection, name, posts, references).await?);
        }
    }
    if let Some(column) = &posts.edited_at {
        let table = (posts.name.as_str(), &[column][..]);
        if let Some(finding) = unreadable_table(connection, name, table, None).await? {
            add(finding, edits::missing(connection, name, posts, column).await?);
        }
    }
    Ok(faults)
}

/// The names of the columns of a table.
pub(super) async fn column_names(
    connection: &mut Conn,
    database: &str,
    table: &str,
) -> Result<Vec<String>, Error> {
    let sql = "SELECT CAST(column_name AS CHAR) FROM information_schema.columns
         WHERE table_schema = ? AND table_name = ?";
    execute::rows(connection, sql, (database, table)).await
}

/// The columns, and those of the conditions.
fn with_conditions<'a>(columns: &[&'a String], conditions: &'a [Condition]) -> Vec<&'a String> {
    columns.iter().copied().chain(conditions.iter().map(|condition| &condition.column)).collect()
}

async fn unreadable_table(
    connection: &mut Conn,
    database: &str,
    (table, columns): (&str, &[&String]),
    create: Option<&str>,
) -> Result<Option<Finding>, ShardError> {
    let (database, table) = (quoted(database), quoted(table));
    let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    let columns = columns.join(", ");
    let probe = format!("SELECT {columns} FROM {database}.{table} LIMIT 0");
    let Err(error) = connection.query_drop(probe).await else { return Ok(None) };
    let Error::Server(server) = &error else { return Err(error.into()) };
    let text = server.message.clone();
    let finding = match server.code {
        // A missing database can return either code.
        1049 | 1146 => {
            let cure = match create {
                Some(create) => format!("CREATE DATABASE IF NOT EXISTS {database}; {create}"),
                None => "correct the names under [tables] in the configuration".to_owned(),
            };
            Finding::error("no_table", text).cure(cure)
        }
        1054 => Finding::error("no_column", format!("{text}: {table} must have {columns}"))
            .cure("correct the names under [tables] in the configuration"),
        1044 | 1142 | 1143 => Finding::error("no_right", text)
            .cure(format!("GRANT SELECT ON {database}.* TO {}", account(connection).await?)),
        _ => return Err(error.into()),
    };
    Ok(Some(finding))
}

/// The account of this connection, quoted for GRANT.
pub(super) async fn account(connection: &mut Conn) -> Result<String, Error> {
    let account: Option<String> = connection.query_first("SELECT CURRENT_USER()").await?;
    let account = account.unwrap_or_default();
    let (user, host) = account.rsplit_once('@').unwrap_or((&account, "%"));
    Ok(format!("'{}'@'{}'", user.replace('\'', "''"), host.replace('\'', "''")))
}

/// Faults for columns whose type does not fit the mapping. This process compares ids and times in
/// the same order as the servers, which needs integers and the configured unit.
async fn wrong_types(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    let sql = "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR), CAST(data_type AS CHAR),
                datetime_precision
         FROM information_schema.columns WHERE table_schema = ?";
    type ColumnRow = (String, String, String, Option<u8>);
    let columns: Vec<ColumnRow> = execute::rows(connection, sql, (database,)).await?;
    let posts = &tables.posts;
    let lists: Vec<_> = tables.lists().map(|(_, table)| table).collect();
    let mut ids = vec![(&posts.name, &posts.id), (&posts.name, &posts.author)];
    ids.extend(
        lists
            .iter()
            .flat_map(|table| [(&table.name, &table.follower), (&table.name, &table.followed)]),
    );
    ids.extend(posts.optional_columns().map(|column| (&posts.name, column)));
    ids.extend(tables.users.iter().map(|users| (&users.name, &users.id)));
    let of_markers = MARKER_COLUMNS.map(str::to_owned);
    if let Some(markers) = &tables.read_markers {
        ids.extend(of_markers.iter().map(|column| (&markers.name, column)));
    }
    let mut faults = Vec::new();
    for (table, column, kind, digits) in columns {
        let kind = kind.to_lowercase();
        let is = |other: &(&String, &String)| same(other.0, &table) && same(other.1, &column);
        let subject = || format!("column {column} of {}.{}", quoted(database), quoted(&table));
        if ids.iter().any(is) && !INTEGERS.contains(&kind.as_str()) {
            let text = format!("{} is of type {kind}; it must be an integer", subject());
            let is_edit = posts.edited_at.as_ref().is_some_and(|edit| is(&(&posts.name, edit)));
            let cure = match is_edit {
                true => {
                    "name a BIGINT column for milliseconds since 1970 as tables.posts.edited_at; \
                     `tributary migrate` can add one"
                }
                false => "name an integer column under [tables]; other ids are not supported",
            };
            faults.push(Finding::error("wrong_type", text).cure(cure));
        } else if is(&(&posts.name, &posts.time))
            && let Some((why, cure)) = wrong_time(posts, &kind, digits)
        {
            let text = format!("{} is of type {kind}{why}", subject());
            faults.push(Finding::error("wrong_unit", text).cure(cure));
        }
    }
    Ok(faults)
}

/// The fault of a time column of this type and its cure, if the type does not fit the mapping.
fn wrong_time(posts: &PostsTable, kind: &str, digits: Option<u8>) -> Option<(String, String)> {
    let set = |unit: TimeUnit| format!("set unit = \"{unit}\" under [tables.posts]");
    let found = match kind {
        "datetime" | "timestamp" => TimeUnit::DateTime { digits: digits.unwrap_or(0) },
        integer if INTEGERS.contains(&integer) => match posts.unit {
            TimeUnit::DateTime { .. } => {
                let why = format!(", not {}", posts.unit);
                return Some((
                    why,
                    "set unit = \"s\", \"ms\" or \"us\" under [tables.posts]".into(),
                ));
            }
            integer => integer,
        },
        _ => {
            let why = "; it must be an integer, DATETIME or TIMESTAMP".to_owned();
            return Some((why, format!("change the type of column {}", posts.time)));
        }
    };
    if found != posts.unit {
        return Some((
            format!(", but the configuration says unit = \"{}\"", posts.unit),
            set(found),
        ));
    }
    if kind == "timestamp" && !posts.zone.is_utc() {
        let why = ", which the server returns in UTC".to_owned();
        return Some((why, "set zone = \"UTC\" under [tables.posts]".into()));
    }
    None
}

/// Compares names without regard to ASCII case, as servers do for columns.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// The declaration of a table.
#[derive(Debug)]
pub(super) struct DeclaredTable {
    /// The table is a view.
    view: bool,
    /// Every index is ordered by its own columns and then by those of the primary key. True in
    /// InnoDB, except across several partitions.
    primary_key_appended: bool,
    /// The primary key first.
    indexes: Vec<Index>,
}

#[derive(Debug)]
struct Index {
    name: String,
    unique: bool,
    /// The optimizer may use the index: it is not INVISIBLE (MySQL) and not IGNORED (MariaDB).
    visible: bool,
    columns: Vec<IndexColumn>,
}

#[derive(Clone, Debug)]
struct IndexColumn {
    name: String,
    descending: bool,
    /// The index has only the first characters of each value.
    is_cut: bool,
}

pub(super) async fn declared_table(
    connection: &mut Conn,
    database: &str,
    table: &str,
) -> Result<DeclaredTable, ShardError> {
    let sql = "SELECT CAST(table_type AS CHAR), CAST(engine AS CHAR), CAST(create_options AS CHAR)
         FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
    type Kind = (Option<String>, Option<String>, Option<String>);
    let kind: Option<Kind> = execute::first(connection, sql, (database, table)).await?;
    let (kind, engine, options) = kind.unwrap_or_default();
    let view = kind.is_some_and(|kind| kind.to_uppercase().contains("VIEW"));
    let innodb = engine.is_some_and(|engine| engine.eq_ignore_ascii_case("InnoDB"));
    let partitioned = options.is_some_and(|options| options.contains("partitioned"));
    let indexes = declared_indexes(connection, database, table).await?;
    Ok(DeclaredTable { view, primary_key_appended: innodb && !partitioned, indexes })
}

async fn declared_indexes(
    connection: &mut Conn,
    database: &str,
    table: &str,
) -> Result<Vec<Index>, ShardError> {
    // `s.*`, because only MySQL has the column IS_VISIBLE and only MariaDB has IGNORED. Other
    // indexes, for example of full texts, have no order.
    let sql = "SELECT s.*, non_unique = 0 AS is_unique FROM information_schema.statistics AS s
         WHERE table_schema = ? AND table_name = ? AND index_type = 'BTREE'
         ORDER BY index_name = 'PRIMARY' DESC, index_name, seq_in_index";
    let rows: Vec<Row> = execute::rows(connection, sql, (database, table)).await?;
    let mut indexes: Vec<Index> = Vec::new();
    for row in rows {
        let text = |column: &str| -> String {
            let value: Option<Option<String>> = row.get_opt(column).and_then(Result::ok);
            value.flatten().unwrap_or_default()
        };
        let descending = text("COLLATION") == "D";
        let cut: Option<Option<u64>> = row.get_opt("SUB_PART").and_then(Result::ok);
        let is_cut = cut.flatten().is_some();
        let column = IndexColumn { name: text("COLUMN_NAME"), descending, is_cut };
        let name = text("INDEX_NAME");
        match indexes.last_mut().filter(|index| index.name == name) {
            Some(index) => index.columns.push(column),
            None => indexes.push(Index {
                name,
                unique: row.get("is_unique").unwrap_or(false),
                visible: text("IS_VISIBLE") != "NO" && text("IGNORED") != "YES",
                columns: vec![column],
            }),
        }
    }
    Ok(indexes)
}

/// Chooses the indexes for reads, or returns the faults. `database` is quoted.
fn choose(
    database: &str,
    tables: &Tables,
    posts: &DeclaredTable,
    follows: &DeclaredTable,
) -> Result<Indexes, Vec<Finding>> {
    let (post, follow) = (&tables.posts, &tables.follows);
    let (posts_sql, follows_sql) = (quoted(&post.name), quoted(&follow.name));
    let missing = |table: &str, what: &str, name: &str, columns: String| {
        Finding::error(
            "no_index",
            format!("table {database}.{table} has no index for reading {what}"),
        )
        .cure(format!("CREATE INDEX {name} ON {database}.{table} ({columns})"))
    };
    let tail = [&post.author, &post.time, &post.id];
    let posts_index = starting_with(posts, &tail).ok_or_else(|| {
        missing(&posts_sql, "an author's newest posts", "tributary_tail", quoted_list(&tail))
    });
    let pair = [&follow.follower, &follow.followed];
    let follows_index = starting_with(follows, &pair[..1]).ok_or_else(|| {
        missing(&follows_sql, "a follow list", "tributary_follows", quoted_list(&pair))
    });
    let views = [(posts, &posts_sql), (follows, &follows_sql)].into_iter();
    let views = views.filter(|(table, _)| table.view).map(|(_, name)| {
        let text = format!("{database}.{name} is a view, so the cost of reads cannot be bounded");
        Finding::error("view", text).cure("name the table itself under [tables]")
    });
    let views: Vec<Finding> = views.collect();
    match (posts_index, follows_index) {
        _ if !views.is_empty() => Err(views),
        (Ok(posts_index), Ok(follows_index)) => {
            let loadable = loadable(database, tables, posts, follows);
            let lists = BTreeMap::from([(UserList::Follows, follows_index)]);
            let followers = starting_with(follows, &[&follow.followed, &follow.follower]);
            let references = match &post.references {
                Some(columns) => references::pairs(columns).map(|pair| starting_with(posts, &pair)),
                None => [None, None],
            };
            let addresses = starting_with(posts, &[&post.id])
                .or_else(|| starting_with(posts, &[&post.author, &post.id]));
            let posts = posts_index;
            let handles = None;
            Ok(Indexes { posts, lists, followers, references, addresses, handles, loadable })
        }
        (posts_index, follows_index) => {
            Err([posts_index.err(), follows_index.err()].into_iter().flatten().collect())
        }
    }
}

fn quoted_list(columns: &[&String]) -> String {
    columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
}

/// Whether rows can be loaded: no follow and no post may be stored twice. `database` is quoted.
fn loadable(
    database: &str,
    tables: &Tables,
    posts: &DeclaredTable,
    follows: &DeclaredTable,
) -> Result<(), String> {
    let (post, follow) = (&tables.posts, &tables.follows);
    let (posts_sql, follows_sql) = (quoted(&post.name), quoted(&follow.name));
    // Rows about other types than users may have the same ids.
    let of_type = follow.conditions().iter().filter(|condition| condition.is_type());
    let of_type = of_type.map(|condition| &condition.column);
    let unique: Vec<&String> =
        [&follow.follower, &follow.followed].into_iter().chain(of_type).collect();
    if !unique_over(follows, &unique, 2) {
        return Err(format!(
            "{follows_sql} could store a follow twice; create a unique key: \
             CREATE UNIQUE INDEX tributary_follow ON {database}.{follows_sql} ({})",
            quoted_list(&unique)
        ));
    }
    if !unique_over(posts, &[&post.id, &post.author, &post.time], 1) {
        return Err(format!(
            "{posts_sql} could store a post twice; create a unique key: \
             CREATE UNIQUE INDEX tributary_post ON {database}.{posts_sql} ({})",
            quoted(&post.id)
        ));
    }
    Ok(())
}

/// The name of an index that starts with `columns`. All columns after the first must have the same
/// direction, so that the index is read in order. (`user_id`, `timestamp`) is enough if `tweet_id`
/// is the appended primary key.
pub(super) fn starting_with(table: &DeclaredTable, columns: &[&String]) -> Option<String> {
    let primary = table.indexes.iter().find(|index| index.name == "PRIMARY");
    let appended: &[IndexColumn] = match primary {
        Some(primary) if table.primary_key_appended => &primary.columns,
        _ => &[],
    };
    let fits = |index: &&Index| {
        let appended = if index.name == "PRIMARY" { &[] } else { appended };
        let all: Vec<&IndexColumn> =
            index.columns.iter().chain(appended).take(columns.len()).collect();
        let named = all.len() == columns.len()
            && all
                .iter()
                .zip(columns)
                .all(|(column, wanted)| same(&column.name, wanted) && !column.is_cut);
        let ordered =
            all.iter().skip(1).map(|column| column.descending).all(|d| d == all[1].descending);
        index.visible && named && ordered
    };
    table.indexes.iter().find(fits).map(|index| index.name.clone())
}

/// Whether some unique index contains the first `needed` of `columns`, and no column outside
/// `columns`.
pub(super) fn unique_over(table: &DeclaredTable, columns: &[&String], needed: usize) -> bool {
    table.indexes.iter().any(|index| {
        let has = |name: &str| index.columns.iter().any(|column| same(&column.name, name));
        let is_wanted = |column: &IndexColumn| columns.iter().any(|name| same(&column.name, name));
        index.unique
            && index.columns.iter().all(is_wanted)
            && columns[..needed].iter().all(|column| has(column))
    })
}

/// The names of the unique indexes without this column.
pub(super) fn unique_without(table: &DeclaredTable, column: &str) -> Vec<String> {
    let has = |index: &&Index| index.columns.iter().any(|other| same(&other.name, column));
    let without = table.indexes.iter().filter(|index| index.unique && !has(index));
    without.map(|index| index.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A column name that ends in `-` is descending.
    fn declared_table(indexes: &[(&str, &[&str])]) -> DeclaredTable {
        let column = |name: &&str| IndexColumn {
            name: name.trim_end_matches('-').to_owned(),
            descending: name.ends_with('-'),
            is_cut: false,
        };
        let index = |(name, columns): &(&str, &[&str])| Index {
            name: (*name).to_owned(),
            unique: *name == "PRIMARY" || name.starts_with("unique"),
            visible: !name.starts_with("hidden"),
            columns: columns.iter().map(column).collect(),
        };
        DeclaredTable {
            view: false,
            primary_key_appended: true,
            indexes: indexes.iter().map(index).collect(),
        }
    }

    #[test]
    fn an_index_fits_if_it_starts_with_the_columns_counting_an_appended_primary_key() {
        let wanted = ["user_id", "timestamp", "tweet_id"];
        let names = wanted.map(str::to_owned);
        let names: Vec<&String> = names.iter().collect();
        let index = |indexes: &[(&str, &[&str])]| starting_with(&declared_table(indexes), &names);
        let primary: (&str, &[&str]) = ("PRIMARY", &["tweet_id"]);
        let short: (&str, &[&str]) = ("b", &["user_id", "timestamp"]);
        assert_eq!(index(&[("PRIMARY", &wanted)]).as_deref(), Some("PRIMARY"));
        assert_eq!(index(&[primary, ("a", &["user_id"])]), None);
        assert_eq!(index(&[primary, ("a", &["user_id"]), short]).as_deref(), Some("b"));
        assert_eq!(index(&[primary, ("c", &["user_id", "tweet_id", "timestamp"])]), None);
        assert_eq!(index(&[("PRIMARY", &["other"]), short]), None);
        assert_eq!(index(&[primary, ("hidden", &wanted)]), None);
        assert_eq!(index(&[primary, ("d", &["user_id", "timestamp-"])]), None, "not in order");
        let newest_first: (&str, &[&str]) = ("d", &["user_id", "timestamp-", "tweet_id-"]);
        assert_eq!(index(&[primary, newest_first]).as_deref(), Some("d"));
        let mut partitioned = declared_table(&[primary, short]);
        partitioned.primary_key_appended = false;
        assert_eq!(starting_with(&partitioned, &names), None);
    }

    #[test]
    fn rows_are_loaded_only_if_unique_keys_exist() {
        let posts: (&str, &[&str]) = ("PRIMARY", &["user_id", "timestamp", "tweet_id"]);
        let tail: (&str, &[&str]) = ("tail", &["user_id", "timestamp", "tweet_id"]);
        let follows: (&str, &[&str]) = ("PRIMARY", &["follower_user_id", "followed_user_id"]);
        let loadable = |posts: &[(&str, &[&str])], follows: &[(&str, &[&str])]| {
            let tables = Tables::default();
            choose("`d`", &tables, &declared_table(posts), &declared_table(follows))
                .unwrap()
                .loadable
        };
        assert_eq!(loadable(&[posts], &[follows]), Ok(()));
        assert_eq!(loadable(&[tail, ("unique_id", &["tweet_id"])], &[follows]), Ok(()));
        let error = loadable(&[tail], &[follows]).unwrap_err();
        assert!(error.contains("CREATE UNIQUE INDEX tributary_post"), "{error}");
        let error = loadable(&[posts], &[("f", &["follower_user_id"])]).unwrap_err();
        assert!(error.contains("CREATE UNIQUE INDEX tributary_follow"), "{error}");
    }
}
