//! `tributary delete-user`: deletes every row that names a user, on all shards, and verifies it.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use tributary::internal::{Fleet, ShardError, fleet};
use tributary::{OpenError, Tributary, UserId};

use crate::{DATA_FOLDER, DataSource, Outcome, progress, say};

/// The time limit of one statement. Without an index it reads a whole table.
const STATEMENT_MAX: Duration = Duration::from_secs(300);

#[derive(Args, Debug)]
#[command(
    after_help = "Deletes the user's posts, also hidden ones, their idempotency keys, reposts \
    without a text, the follows, mutes and blocks in both directions, the read marker, and the row \
    in the table of users if the configuration has one. Replies, reposts with a text and read \
    markers of other users stay without the reference to the user's posts. It prints the number \
    of rows on each shard before and after. The exit code is 4 if rows are left. Run the command \
    again to continue after an error. A folder of embedded shards must not be in use."
)]
pub(crate) struct DeleteUser {
    /// Id of the user
    user: UserId,
    #[command(flatten)]
    source: DataSource,
    /// Print the number of rows, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

impl DeleteUser {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let mut config = self.source.load(DATA_FOLDER)?;
        // Servers abort a statement after this time.
        config.request.deadline_ms = u64::try_from(STATEMENT_MAX.as_millis())?;
        // The tables need not fulfil the requirements of the write path.
        config.write.enabled = false;
        let reading = Tributary::open_read_only(&config).await?;
        for shard in reading.health() {
            if let Err(why) = shard.state {
                bail!("shard {} cannot be reached ({why}); nothing was deleted", shard.name);
            }
        }
        let found = self.count(fleet(&reading)).await?;
        reading.close().await;
        if self.dry_run {
            say(format_args!("Dry run: {found} rows of user {} would be deleted", self.user));
            return Ok(Outcome::Done);
        }
        let fleet = Fleet::open_to_load(&config).await?;
        let bar = progress(found, "rows", "deleting");
        let count = |rows| bar.inc(rows as u64);
        let outcome = fleet.delete_user_rows(self.user, STATEMENT_MAX, count).await;
        bar.finish_and_clear();
        outcome.map_err(failed)?;
        let left = self.count(&fleet).await?;
        say(format_args!("Deleted {} rows of user {}", found.saturating_sub(left), self.user));
        match left {
            0 => Ok(Outcome::Done),
            left => {
                say(format_args!(
                    "{left} rows are left: another program has written them in the meantime. Stop \
                     it, and run the command again"
                ));
                Ok(Outcome::Partial)
            }
        }
    }

    /// Prints the rows of each shard, and returns their number.
    async fn count(&self, fleet: &Fleet) -> Result<u64> {
        let found = fleet.count_user_rows(self.user, STATEMENT_MAX).await.map_err(failed)?;
        let mut total = 0;
        for shard in found {
            let rows: u64 = shard.columns.iter().map(|(_, rows)| rows).sum();
            say(format_args!("{}: {rows} rows", shard.shard));
            total += rows;
            for (column, rows) in shard.columns {
                let scan = column.scanned.map_or(String::new(), |scanned| {
                    format!(" (without an index: each statement reads about {scanned} rows)")
                });
                let stay = if column.rows_stay() { " (the rows stay without the id)" } else { "" };
                say(format_args!("  {}.{}: {rows}{stay}{scan}", column.table, column.column));
            }
        }
        Ok(total)
    }
}

fn failed(error: ShardError) -> anyhow::Error {
    match error {
        ShardError::Faulty(text) => OpenError::Prerequisite(text).into(),
        error => anyhow!("{error}; run the command again to continue"),
    }
}
