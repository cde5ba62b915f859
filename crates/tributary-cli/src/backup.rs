//! `tributary backup` and `tributary restore`: copies of a folder of embedded shards.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use tributary::OpenError;
use tributary::config::FleetConfig;
use tributary::internal::ShardError;
use tributary::internal::folders::{CopiedShard, back_up, restore};

use crate::{DATA_FOLDER, DataSource, Outcome, say};

/// Copies a folder.
type CopyFolder = fn(&Path, &Path) -> Result<Vec<CopiedShard>, ShardError>;

#[derive(Args, Debug)]
#[command(
    after_help = "All shards are copied as they were at the start, within milliseconds. The copy \
    is verified, and has the name DIR only once it is complete. Back up shards on servers with \
    the tools of MySQL or MariaDB."
)]
pub(crate) struct BackUp {
    /// New folder for the copy
    #[arg(value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    source: DataSource,
}

#[derive(Args, Debug)]
#[command(
    after_help = "The folder that --data or --config names must be new or empty. Clients keep \
    their cursors. Their freshness tokens become void, because the restored data can be older."
)]
pub(crate) struct Restore {
    /// Folder that `tributary backup` made
    #[arg(value_name = "DIR")]
    from: PathBuf,
    #[command(flatten)]
    source: DataSource,
}

impl BackUp {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let data = embedded(&self.source)?;
        copy(back_up, data, self.to.clone()).await?;
        say(format_args!("Backed up to {}", self.to.display()));
        Ok(Outcome::Done)
    }
}

impl Restore {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let data = embedded(&self.source)?;
        copy(restore, self.from.clone(), data.clone()).await?;
        say(format_args!("Restored {} to {}", self.from.display(), data.display()));
        Ok(Outcome::Done)
    }
}

/// The folder of the configuration.
fn embedded(source: &DataSource) -> Result<PathBuf> {
    match source.load(DATA_FOLDER)?.fleet {
        FleetConfig::Embedded(embedded) => Ok(embedded.dir),
        _ => Err(OpenError::Prerequisite(
            "the shards are on servers, and this command copies folders of embedded shards only; \
             use mariadb-backup, mariadb-dump --single-transaction, mysqldump --single-transaction \
             or snapshots of the servers"
                .to_owned(),
        )
        .into()),
    }
}

async fn copy(copy: CopyFolder, from: PathBuf, to: PathBuf) -> Result<()> {
    let copied = tokio::task::spawn_blocking(move || copy(&from, &to)).await;
    match copied.context("the copy was stopped")? {
        Ok(shards) => shards.iter().for_each(|shard| say(described(shard))),
        Err(ShardError::Faulty(text)) => return Err(OpenError::Prerequisite(text).into()),
        Err(error) => bail!("{error}; nothing was copied"),
    }
    Ok(())
}

fn described(shard: &CopiedShard) -> String {
    let rows = |table: &(String, u64)| format!("{} {}", table.1, table.0);
    let is_log = |table: &&(String, u64)| table.0.starts_with("tributary_");
    let rows: Vec<String> = shard.rows.iter().filter(|table| !is_log(table)).map(rows).collect();
    format!("{}: {} bytes, {}, verified", shard.name, shard.bytes, rows.join(", "))
}
