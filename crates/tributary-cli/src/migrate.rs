//! `tributary migrate`: creates the tables that the write path needs, and prints what it created.

use anyhow::{Result, bail};
use clap::Args;
use tributary::OpenError;
use tributary::internal::{ShardError, migrate};

use crate::{DATA_FOLDER, DataSource, Outcome, say};

#[derive(Args, Debug)]
#[command(
    after_help = "Creates the table `tributary_writes` in every shard, and the tables `followers` \
    and `tweets` in every empty database. It also creates the tables of mutes, blocks and read \
    markers, and the columns of the posts table for references and edits, if the configuration \
    names them. Nothing else is changed. The account needs the CREATE privilege, and ALTER and \
    INDEX for the posts table."
)]
pub(crate) struct Migrate {
    #[command(flatten)]
    source: DataSource,
}

impl Migrate {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let config = self.source.load(DATA_FOLDER)?;
        let migrated = migrate(&config, |found| {
            say(format_args!(
                "{}: {} {}",
                found.shard,
                found.table,
                if found.made { "made" } else { "was there" }
            ));
        });
        match migrated.await {
            Ok(()) => Ok(Outcome::Done),
            Err(ShardError::Unavailable(text)) => {
                bail!("{text}; run the command again to continue")
            }
            Err(error) => Err(OpenError::Prerequisite(error.to_string()).into()),
        }
    }
}
