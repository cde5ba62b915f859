//! `tributary migrate`: makes the tables that writing needs, and says what it did.

use anyhow::{Result, bail};
use clap::Args;

use super::{DATA_FOLDER, DataSource, Outcome, say};
use crate::shard::{Migrated, OpenError, ShardError, migrate};

#[derive(Args, Debug)]
#[command(
    after_help = "Makes `tributary_writes` in every shard, and `followers` and `tweets` where a \
    database is empty. What is there is not changed. The account needs the right to CREATE."
)]
pub(super) struct Migrate {
    #[command(flatten)]
    source: DataSource,
}

impl Migrate {
    pub(super) async fn run(self) -> Result<Outcome> {
        let config = self.source.load(DATA_FOLDER)?;
        let tell = |Migrated { shard, table, made }| {
            say(format_args!("{shard}: {table} {}", if made { "made" } else { "was there" }));
        };
        match migrate(&config, tell).await {
            Ok(()) => Ok(Outcome::Done),
            Err(ShardError::Unavailable(text)) => bail!("{text}; run it again to go on"),
            Err(error) => Err(OpenError::Prerequisite(error.to_string()).into()),
        }
    }
}
