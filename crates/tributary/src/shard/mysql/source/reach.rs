//! Reads the definitions of triggers, routines, views and foreign keys, to find out through which
//! objects of a server a statement can change served tables.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

use super::log::FeedError;
use crate::changes::reach::{Definition, DefinitionKind, Reach};
use crate::changes::rows::ServedTable;
use crate::shard::mysql::{field, text_of};
use crate::shard::schema::quoted;

/// Most definitions that are read. If a server has more, its reach is unknown.
const DEFINITIONS_MAX: usize = 20_000;
/// Most bytes of all texts together.
const TEXT_BYTES_MAX: usize = 32 << 20;
/// A longer text is not read; its object can reach every table.
const TEXT_BYTES_EACH_MAX: usize = 1 << 20;

/// The kinds of definitions, each with the statement that reads them: database, name, text. The
/// servers' own databases hold nothing that changes served tables.
const STATEMENTS: [(DefinitionKind, &str); 4] = [
    (
        DefinitionKind::Trigger,
        "SELECT CAST(event_object_schema AS CHAR), CAST(event_object_table AS CHAR), \
             action_statement \
         FROM information_schema.triggers \
         WHERE trigger_schema NOT IN ('mysql', 'sys', 'performance_schema')",
    ),
    (
        DefinitionKind::Routine,
        // The name of a table can be computed in a routine of another language.
        "SELECT CAST(routine_schema AS CHAR), CAST(routine_name AS CHAR), \
             IF(routine_body = 'SQL', routine_definition, NULL) \
         FROM information_schema.routines \
         WHERE routine_schema NOT IN ('mysql', 'sys', 'performance_schema')",
    ),
    (
        DefinitionKind::View,
        "SELECT CAST(table_schema AS CHAR), CAST(table_name AS CHAR), NULLIF(view_definition, '') \
         FROM information_schema.views \
         WHERE table_schema NOT IN ('mysql', 'sys', 'performance_schema')",
    ),
    (
        DefinitionKind::Parent,
        "SELECT CAST(unique_constraint_schema AS CHAR), CAST(referenced_table_name AS CHAR), \
             CAST(constraint_schema AS CHAR), CAST(table_name AS CHAR) \
         FROM information_schema.referential_constraints \
         WHERE delete_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT') \
             OR update_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT')",
    ),
];

/// The reach of the served tables.
pub(super) async fn reach(
    connection: &mut Conn,
    served: &[ServedTable],
) -> Result<Reach, FeedError> {
    match definitions(connection).await {
        Ok(Some(definitions)) => Ok(Reach::new(served, definitions)),
        // The account may not read them, or there are too many.
        Ok(None) | Err(Error::Server(_)) => Ok(Reach::default()),
        Err(error) => Err(error.into()),
    }
}

/// All definitions of the server; `None` if some cannot be read.
async fn definitions(connection: &mut Conn) -> Result<Option<Vec<Definition>>, Error> {
    if !may_read_definitions(connection).await? {
        return Ok(None);
    }
    let (mut definitions, mut bytes) = (Vec::new(), 0);
    for (kind, sql) in STATEMENTS {
        let mut result = connection.query_iter(sql).await?;
        while let Some(row) = result.next().await? {
            let definition = definition(kind, &row)?;
            bytes += definition.text.as_ref().map_or(0, Vec::len);
            if definitions.len() >= DEFINITIONS_MAX || bytes > TEXT_BYTES_MAX {
                result.drop_result().await?;
                return Ok(None);
            }
            definitions.push(definition);
        }
    }
    Ok(Some(definitions))
}

fn definition(kind: DefinitionKind, row: &Row) -> Result<Definition, Error> {
    let text: Option<Vec<u8>> = match kind {
        DefinitionKind::Parent => {
            let child = format!("{}.{}", quoted(&text_of(row, 2)), quoted(&text_of(row, 3)));
            Some(child.into_bytes())
        }
        _ => field(row, 2)?,
    };
    let text = text.filter(|text| text.len() <= TEXT_BYTES_EACH_MAX);
    Ok(Definition { kind, database: text_of(row, 0), name: text_of(row, 1), text })
}

/// Whether the account may read the definitions of all databases. Without these rights the server
/// silently skips triggers, and the texts of routines and views.
async fn may_read_definitions(connection: &mut Conn) -> Result<bool, Error> {
    let grants: Vec<String> = connection.query("SHOW GRANTS").await?;
    Ok(reads_definitions(&grants))
}

pub(in crate::shard::mysql) fn reads_definitions(grants: &[String]) -> bool {
    let global = grants.iter().filter_map(|grant| {
        let (rights, _) = grant.strip_prefix("GRANT ")?.split_once(" ON *.* ")?;
        Some(rights.split(',').map(str::trim))
    });
    let rights: Vec<&str> = global.flatten().collect();
    let has = |right: &str| rights.contains(&"ALL PRIVILEGES") || rights.contains(&right);
    // MySQL can revoke rights to single databases from a global grant.
    let revoked = grants.iter().any(|grant| grant.starts_with("REVOKE "));
    !revoked && ["SELECT", "SHOW VIEW", "TRIGGER"].into_iter().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_read_only_with_all_global_rights() {
        let reads = |grants: &[&str]| {
            let grants: Vec<String> = grants.iter().map(|grant| (*grant).to_owned()).collect();
            reads_definitions(&grants)
        };
        assert!(reads(&["GRANT ALL PRIVILEGES ON *.* TO `a`@`%` WITH GRANT OPTION"]));
        assert!(reads(&["GRANT SELECT, TRIGGER ON *.* TO a", "GRANT SHOW VIEW ON *.* TO a"]));
        assert!(!reads(&["GRANT SELECT, SHOW VIEW ON *.* TO a", "GRANT TRIGGER ON `s0`.* TO a"]));
        assert!(!reads(&["GRANT ALL PRIVILEGES ON *.* TO a", "REVOKE SELECT ON `s0`.* FROM a"]));
        assert!(!reads(&["GRANT ALL PRIVILEGES ON `s0`.* TO a"]));
        assert!(!reads(&[]));
    }
}
