//! Loads a Mastodon export: `following_accounts.csv` and `outbox.json`, as files in one folder.

mod accounts;
mod html;
pub(super) mod outbox;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use tributary::internal::{Fleet, Follow};

use self::accounts::Accounts;
use super::header::ACCOUNT_COLUMNS;
use super::table::Format;
use super::{BATCH_DEADLINE, Source, rows};

const FOLLOWING: [&str; 1] = ["following_accounts.csv"];
const OUTBOX: [&str; 2] = ["outbox.json", "outbox.json.gz"];

/// The options of an import from Mastodon.
#[derive(Args, Debug)]
pub(super) struct Mastodon {
    /// Folder with following_accounts.csv, outbox.json, or both, of one Mastodon account
    #[arg(
        id = "mastodon", long = "mastodon", value_name = "DIR", requires = "user",
        conflicts_with_all = ["follows", "posts"]
    )]
    dir: Option<PathBuf>,
    /// The user that gets the posts and follows: an id, or an account such as alice@example.org
    #[arg(long, value_name = "USER", requires = "mastodon")]
    user: Option<String>,
    /// File with the ids of accounts; new accounts are added to it [default: accounts.csv in the
    /// folder]
    #[arg(long, value_name = "FILE", requires = "mastodon")]
    accounts: Option<PathBuf>,
}

impl Mastodon {
    /// The folder and the user, if the command is to import an export.
    pub(super) fn chosen(&self) -> Option<(&Path, &str)> {
        self.dir.as_deref().zip(self.user.as_deref())
    }

    /// Loads the files. Returns false if rows were refused.
    pub(super) async fn load(&self, fleet: &Fleet, (dir, user): (&Path, &str)) -> Result<bool> {
        let path = self.accounts.clone().unwrap_or_else(|| dir.join("accounts.csv"));
        let mut accounts = Accounts::open(&path)?;
        let owner = accounts.user(user).map_err(|error| anyhow!("--user: {error}"))?;
        let find = |names: &[&str]| names.iter().map(|name| dir.join(name)).find(|p| p.exists());
        let times = fleet.times();
        // Both files are opened before a row is loaded.
        let format = Format::default();
        let open = |path: PathBuf| Source::open(&path, &ACCOUNT_COLUMNS, "follows", &format, times);
        let follows = find(&FOLLOWING).map(open).transpose()?;
        let posts = find(&OUTBOX).map(|path| Source::outbox(&path, owner)).transpose()?;
        if follows.is_none() && posts.is_none() {
            bail!(
                "{} has neither following_accounts.csv nor outbox.json; name the folder with the \
                 unpacked export",
                dir.display()
            );
        }
        let mut complete = true;
        if let Some(file) = follows {
            let parse = |row, _| {
                let followee = accounts.id(&rows::account(row)?)?;
                Ok(Follow { follower: owner, followee })
            };
            let store = async |rows| fleet.load_follows(rows, BATCH_DEADLINE).await;
            complete &= file.load(parse, store).await?;
        }
        if let Some(file) = posts {
            complete &= file.load_posts(fleet).await?;
        }
        accounts.save()?;
        Ok(complete)
    }
}
