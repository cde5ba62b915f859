//! Checks the conditions of visible rows against the tables: that a server and its log compare a
//! column in the same way, and that no column marks rows without a condition.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::check::same;
use super::execute;
use super::source::labels;
use super::write_check::EXACT_TEXTS;
use crate::changes::rows::set_bits;
use crate::mapping::{self, Condition, Mark, Tables};
use crate::shard::infer::{ColumnShape, INTEGERS, TableShape};
use crate::shard::marks::{Marks, marks, sampled};
use crate::shard::schema::quoted;
use crate::shard::{Finding, ShardError};

/// Ends of the names of collations in which different letters of ASCII differ, except for their
/// case. Collations of some languages find I and J, or V and W, equal.
const COLLATIONS: [&str; 14] = [
    "_bin",
    "_general_ci",
    "_general_cs",
    "_unicode_ci",
    "_unicode_520_ci",
    "_0900_ai_ci",
    "_0900_as_ci",
    "_0900_as_cs",
    "_0900_bin",
    "_uca1400_ai_ci",
    "_uca1400_ai_cs",
    "_uca1400_as_ci",
    "_uca1400_as_cs",
    "latin1_swedish_ci",
];

/// Rows that are sampled for the values of text columns, and values that are read of them.
const SAMPLED_ROWS: usize = 5_000;
const SAMPLED_VALUES: usize = 20;

/// The declaration of a condition's column.
struct ConditionColumn {
    kind: String,
    labels: Vec<String>,
    collation: Option<String>,
}

/// Faults of conditions that a server and its log would not compare in the same way.
pub(super) async fn unusable(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    let of_both = [
        (&tables.follows.name, tables.follows.conditions()),
        (&tables.posts.name, tables.posts.conditions()),
    ];
    let mut faults = Vec::new();
    for (table, conditions) in of_both {
        if conditions.is_empty() {
            continue;
        }
        let sql = "SELECT CAST(column_name AS CHAR), LOWER(CAST(data_type AS CHAR)),
                 CAST(column_type AS CHAR), CAST(collation_name AS CHAR)
             FROM information_schema.columns WHERE table_schema = ? AND table_name = ?";
        let columns: Vec<(String, String, String, Option<String>)> =
            execute::rows(connection, sql, (database, table)).await?;
        for (name, kind, column_type, collation) in columns {
            let Some(condition) = conditions.iter().find(|c| same(&c.column, &name)) else {
                continue;
            };
            let column = ConditionColumn { labels: labels(&kind, &column_type), kind, collation };
            let values = [Some(&condition.value), condition.hidden.as_ref()];
            for (why, cure) in values.into_iter().flatten().filter_map(|mark| unfit(&column, mark))
            {
                let (database, table) = (quoted(database), quoted(table));
                let text = format!("column {} of {database}.{table} {why}", quoted(&name));
                faults.push(Finding::error("wrong_condition", text).cure(cure));
            }
        }
    }
    Ok(faults)
}

/// Why a mark cannot be compared with a column, and the cure.
fn unfit(column: &ConditionColumn, mark: &Mark) -> Option<(String, String)> {
    let ConditionColumn { kind, labels, collation } = column;
    let number = INTEGERS.contains(&kind.as_str()) || kind == "bit";
    let listed = || format!("'{}'", labels.join("', '"));
    match mark {
        Mark::Null | Mark::NotNull | Mark::Now | Mark::Delete => None,
        Mark::Number(_) if number => None,
        Mark::Text(text) if kind == "enum" && !labels.contains(text) => Some((
            format!("has no label '{text}'"),
            format!("use a label exactly as it is declared: {}", listed()),
        )),
        Mark::Text(text) if kind == "set" && set_bits(text, labels).is_none() => Some((
            format!("cannot hold '{text}'"),
            format!("use labels in this order, with commas between them: {}", listed()),
        )),
        Mark::Text(_) if kind == "enum" || kind == "set" => None,
        // The log contains these values, and those of CHAR, as a query returns them.
        Mark::Text(_) if kind == "char" || EXACT_TEXTS.contains(&kind.as_str()) => {
            let collation = collation.as_deref().filter(|name| !is_usual(name))?;
            Some((
                format!("has the collation {collation}, in which different letters are equal"),
                "change the collation of the column, for example to utf8mb4_bin".into(),
            ))
        }
        mark => Some((
            format!("is of type {kind}, which is not compared with {mark}"),
            "use a number for an integer column, a text for a text column, and \"NULL\" or \
             \"NOT NULL\" for other types"
                .into(),
        )),
    }
}

fn is_usual(collation: &str) -> bool {
    let name = collation.to_lowercase().replace("_nopad", "");
    let is = |end: &&str| {
        name == **end || name.strip_suffix(*end).is_some_and(|charset| !charset.contains('_'))
    };
    COLLATIONS.iter().any(is)
}

/// The columns of a table with another role than to mark rows.
fn known<'a>(mapped: &[&'a String], conditions: &'a [Condition]) -> Vec<&'a str> {
    let conditions = conditions.iter().map(|condition| condition.column.as_str());
    mapped.iter().map(|name| name.as_str()).chain(conditions).collect()
}

/// The columns of the follows table and of the posts table that are in the mapping.
fn known_columns(tables: &Tables) -> [Vec<&str>; 2] {
    let (follows, posts) = (&tables.follows, &tables.posts);
    [
        known(&[&follows.follower, &follows.followed], follows.conditions()),
        known(&[&posts.id, &posts.author, &posts.content, &posts.time], posts.conditions()),
    ]
}

/// Adds conditions with a clear meaning to inferred tables. Returns warnings that name them.
pub(super) async fn propose(
    connection: &mut Conn,
    database: &str,
    shapes: &[TableShape],
    tables: &mut Tables,
) -> Result<Vec<Finding>, ShardError> {
    let [of_follows, of_posts] = known_columns(tables);
    let follows = with_samples(connection, database, shapes, &tables.follows.name, &of_follows);
    let follows = follows.await?;
    let posts = with_samples(connection, database, shapes, &tables.posts.name, &of_posts).await?;
    let found = marks(&follows, &of_follows);
    let mut notes = Vec::new();
    // A table of follows with an unclear column must be configured, which is an error later.
    let of_follows = if found.unclear.is_empty() { found.clear } else { Vec::new() };
    let of_posts = marks(&posts, &of_posts).clear;
    let chosen = [
        ("visible_assumed", "follows", &follows, &of_follows),
        ("soft_delete", "posts", &posts, &of_posts),
    ];
    for (code, section, shape, conditions) in chosen {
        if !conditions.is_empty() {
            let text = format!(
                "rows of `{}` are read only if {}",
                shape.name,
                conditions.iter().map(in_words).collect::<Vec<_>>().join(" and ")
            );
            let cure = format!("correct visible under [tables.{section}] if other rows count");
            notes.push(Finding::warning(code, text).cure(cure));
        }
    }
    tables.follows.visible = Some(of_follows).filter(|conditions| !conditions.is_empty());
    tables.posts.visible = Some(of_posts).filter(|conditions| !conditions.is_empty());
    Ok(notes)
}

fn in_words(condition: &Condition) -> String {
    let column = quoted(&condition.column);
    match &condition.value {
        Mark::Null => format!("{column} IS NULL"),
        Mark::NotNull => format!("{column} IS NOT NULL"),
        value => format!("{column} = {value}"),
    }
}

/// Findings for columns that may mark rows and have no condition. For follows without a stated
/// `visible` this is an error: the posts of users who have blocked the reader would be shown.
pub(super) async fn unmapped(
    connection: &mut Conn,
    database: &str,
    shapes: &[TableShape],
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    let [of_follows, of_posts] = known_columns(tables);
    let of_both = [
        ("follows", &tables.follows.name, &tables.follows.visible, of_follows),
        ("posts", &tables.posts.name, &tables.posts.visible, of_posts),
    ];
    let mut findings = Vec::new();
    for (section, table, visible, known) in of_both {
        if visible.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        let shape = with_samples(connection, database, shapes, table, &known).await?;
        let marks = marks(&shape, &known);
        if !marks.is_empty() {
            let stated = visible.as_deref();
            findings.push(unmapped_marks(section, &shape.name, stated, &marks));
        }
    }
    Ok(findings)
}

fn unmapped_marks(
    section: &str,
    table: &str,
    stated: Option<&[Condition]>,
    marks: &Marks<'_>,
) -> Finding {
    let columns = marks.columns().join("`, `");
    let all = [stated.unwrap_or_default(), marks.clear.as_slice()].concat();
    let line = line(&all, &marks.unclear);
    let none = format!("; or, if every row counts, set visible = [] under [tables.{section}]");
    if section == "follows" && stated.is_none() {
        let text = format!(
            "`{columns}` of `{table}` may mark rows that are no follows, such as requests, blocks \
             or deleted rows; the configuration does not say which rows count"
        );
        let cure = format!("add this line under [tables.follows]: {line}{none}");
        return Finding::error("visible_missing", text).cure(cure);
    }
    let text = format!(
        "`{columns}` of `{table}` may mark rows that not every reader may see, and has no condition"
    );
    let none = if stated.is_none() { none.as_str() } else { "" };
    let cure = format!("if it does, use this line under [tables.{section}]: {line}{none}");
    Finding::warning("unused_mark", text).cure(cure)
}

/// The line of the configuration, with `?` for values that are not known.
fn line(clear: &[Condition], unclear: &[&ColumnShape]) -> String {
    let mut conditions: Vec<String> = clear.iter().map(Condition::to_string).collect();
    let unknown = |column: &&ColumnShape| {
        format!("{{ column = {}, value = ? }}", mapping::quoted(&column.name))
    };
    conditions.extend(unclear.iter().map(unknown));
    let values = unclear
        .iter()
        .filter(|column| !column.labels.is_empty())
        .map(|column| format!("`{}` has '{}'", column.name, column.labels.join("', '")));
    let values: Vec<String> = values.collect();
    let mut line = format!("visible = [{}]", conditions.join(", "));
    if !unclear.is_empty() {
        line += ", with the value of a visible row for each ?";
    }
    if !values.is_empty() {
        line += &format!(" ({})", values.join("; "));
    }
    line
}

/// The declaration of a table, with sampled values as the labels of text columns that may mark
/// rows. Columns with many values are no marks and are dropped.
async fn with_samples(
    connection: &mut Conn,
    database: &str,
    shapes: &[TableShape],
    table: &str,
    known: &[&str],
) -> Result<TableShape, ShardError> {
    let found = shapes.iter().find(|shape| same(&shape.name, table));
    let mut shape = found
        .cloned()
        .unwrap_or_else(|| TableShape { name: table.to_owned(), columns: Vec::new() });
    let names: Vec<String> = sampled(&shape, known).into_iter().map(str::to_owned).collect();
    for name in names {
        let column = quoted(&name);
        let sql = format!(
            "SELECT DISTINCT LEFT(CAST({column} AS CHAR), 100) FROM
             (SELECT {column} FROM {}.{} WHERE {column} IS NOT NULL LIMIT {SAMPLED_ROWS}) AS some
             LIMIT {}",
            quoted(database),
            quoted(table),
            SAMPLED_VALUES + 1
        );
        let mut values: Vec<String> = connection.query(sql).await?;
        if values.len() > SAMPLED_VALUES {
            shape.columns.retain(|column| column.name != name);
            continue;
        }
        values.sort_unstable();
        if let Some(column) = shape.columns.iter_mut().find(|column| column.name == name) {
            column.labels = values;
        }
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(kind: &str, labels: &[&str], collation: Option<&str>) -> ConditionColumn {
        ConditionColumn {
            kind: kind.into(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            collation: collation.map(str::to_owned),
        }
    }

    #[test]
    fn a_condition_fits_the_type_of_its_column() {
        let text = |text: &str| Mark::Text(text.into());
        let general = Some("utf8mb4_general_ci");
        let labels = ["pending", "accepted"];
        for (column, mark, fits) in [
            (column("tinyint", &[], None), Mark::Number(1), true),
            (column("bit", &[], None), Mark::Number(1), true),
            (column("bigint", &[], None), text("1"), false),
            (column("decimal", &[], None), Mark::Number(1), false),
            (column("datetime", &[], None), Mark::Number(0), false),
            (column("datetime", &[], None), text("x"), false),
            (column("json", &[], None), text("x"), false),
            (column("json", &[], None), Mark::Null, true),
            (column("datetime", &[], None), Mark::NotNull, true),
            (column("varchar", &[], general), text("x"), true),
            (column("varchar", &[], general), Mark::Number(1), false),
            (column("varbinary", &[], None), text("x"), true),
            (column("binary", &[], None), text("x"), false),
            (column("enum", &labels, general), text("accepted"), true),
            (column("enum", &labels, general), text("Accepted"), false),
            (column("enum", &labels, general), Mark::Number(2), false),
            (column("set", &labels, general), text("pending,accepted"), true),
            (column("set", &labels, general), text("accepted,pending"), false),
            (column("set", &labels, general), text(""), true),
        ] {
            let found = unfit(&column, &mark);
            assert_eq!(found.is_none(), fits, "{} {mark}: {found:?}", column.kind);
        }
    }

    #[test]
    fn collations_of_single_languages_are_refused() {
        for (collation, fits) in [
            ("utf8mb4_bin", true),
            ("utf8mb4_general_ci", true),
            ("utf8mb4_0900_ai_ci", true),
            ("utf8mb4_uca1400_ai_ci", true),
            ("utf8mb4_uca1400_nopad_as_cs", true),
            ("utf8mb4_general_nopad_ci", true),
            ("utf8mb4_unicode_520_nopad_ci", true),
            ("latin1_swedish_ci", true),
            ("latin1_swedish_nopad_ci", true),
            ("utf8mb4_swedish_ci", false),
            ("utf8mb4_roman_ci", false),
            ("utf8mb4_lithuanian_ci", false),
            ("utf8mb4_de_pb_0900_ai_ci", false),
            ("utf8mb4_uca1400_roman_ai_ci", false),
            ("utf8mb4_0900_bin", true),
        ] {
            assert_eq!(is_usual(collation), fits, "{collation}");
        }
    }
}
