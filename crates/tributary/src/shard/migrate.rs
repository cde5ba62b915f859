//! Creates the missing tables. An existing table gets the missing columns and indexes of
//! references, if they are configured; nothing else of it changes.

#[cfg(feature = "mysql")]
use super::mysql::make_tables;
use super::schema::{OUR_TABLES, SQLITE_LOG_TABLES, SQLITE_USERS};
#[cfg(feature = "sqlite")]
use super::sqlite::{Folder, tables};
use super::{Access, OpenError, ShardError};
use crate::config::{Config, Embedded, FleetConfig};

/// A table of a shard, found or created.
#[derive(Debug)]
pub struct Migrated {
    /// The shard's configured name.
    pub shard: String,
    /// The table's name.
    pub table: String,
    /// True if the table was created now, false if it existed.
    pub made: bool,
}

/// Creates the missing tables of all shards, in configured order, and calls `report` once per
/// table.
///
/// # Errors
/// Stops at the first shard that is unreachable or whose tables cannot be created. The shards
/// before it are complete.
pub async fn migrate(config: &Config, mut report: impl FnMut(Migrated)) -> Result<(), ShardError> {
    match &config.fleet {
        #[cfg(feature = "sqlite")]
        FleetConfig::Embedded(embedded) => migrate_folder(embedded, report)
            .map_err(|OpenError::Prerequisite(text)| ShardError::Faulty(text)),
        #[cfg(feature = "mysql")]
        FleetConfig::Servers(fleet) => {
            for shard in &fleet.shards {
                let server = &fleet.servers[&shard.server];
                let tables =
                    make_tables(&shard.server, server, (&shard.database, &fleet.tables)).await?;
                for (table, made) in tables {
                    report(Migrated { shard: shard.name.clone(), table, made });
                }
            }
            Ok(())
        }
        #[cfg(not(all(feature = "mysql", feature = "sqlite")))]
        _ => Err(ShardError::Faulty("this build has no support for this kind of database".into())),
    }
}

#[cfg(feature = "sqlite")]
fn migrate_folder(embedded: &Embedded, mut report: impl FnMut(Migrated)) -> Result<(), OpenError> {
    let is_new = !embedded.dir.join(Folder::FILE).exists();
    let folder = Folder::open(&embedded.dir, embedded.shards, Access::Own)?;
    for (number, shard, path) in folder.shard_files() {
        let wrong =
            |error| OpenError::Prerequisite(format!("{} cannot be used: {error}", path.display()));
        let before = if is_new { Vec::new() } else { tables(&path).map_err(wrong)? };
        drop(folder.open_shard(number)?);
        for table in OUR_TABLES.into_iter().chain([SQLITE_USERS]).chain(SQLITE_LOG_TABLES) {
            let made = !before.iter().any(|name| name == table);
            report(Migrated { shard: shard.clone(), table: table.to_owned(), made });
        }
    }
    Ok(())
}
