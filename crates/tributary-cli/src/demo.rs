//! `tributary demo`: generates a social graph once, then serves it, with the routes for operators
//! on the same address.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use tributary::internal::folders::FolderRows;
use tributary::internal::now_ms;
use tributary::{OpenError, Tributary, UserId};
use tributary_bench::demo::{NetworkSize, follows, names, posts};
use tributary_server::Web;

use crate::serve::{Listen, cursor_keys, serve};
use crate::{DEMO_FOLDER, DataSource, Outcome, progress, say};

const SIZE: NetworkSize = NetworkSize { users: 10_000, posts: 300_000, shards: 4 };
/// The readers that the first page suggests.
const EXAMPLES: usize = 6;
/// A file that marks a folder as complete data of the demo.
const MARKER_FILE: &str = "demo";

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Folder for the data
    #[arg(long, value_name = "DIR", default_value = DEMO_FOLDER)]
    data: PathBuf,
    #[command(flatten)]
    listen: Listen,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let source = DataSource { config: None, data: Some(self.data.clone()) };
        let config = source.load(DEMO_FOLDER)?;
        let bound = self.listen.bind(&config).await?.with_admin_routes();
        if !self.data.join(MARKER_FILE).exists() {
            if fs::read_dir(&self.data).is_ok_and(|mut files| files.next().is_some()) {
                let text = format!(
                    "{} holds data that is not the demo's; name another folder with --data",
                    self.data.display()
                );
                return Err(OpenError::Prerequisite(text).into());
            }
            let data = self.data.clone();
            tokio::task::spawn_blocking(move || make(&data, SIZE)).await??;
        }
        let tributary = Tributary::open(&config).await?;
        let readers = readers(&tributary).await;
        let reader = readers.first().copied().unwrap_or(UserId::from(1));
        let web = Web::new(config.write.enabled).with_examples(readers);
        let bound = bound.cursor_keys(cursor_keys(&config)?).with_web(web);
        let url = bound.url();
        let folder = fs::canonicalize(&self.data).unwrap_or(self.data);
        say(format_args!(
            "Tributary serves the home timelines of {} users\n\n  \
             in a browser: {url}/home/{reader}\n  \
             as JSON:      curl '{url}/v1/users/{reader}/feed?limit=5'\n\n\
             The data is in {}; delete the folder to start again with new data. Ctrl-C stops the \
             server.",
            SIZE.users,
            folder.display()
        ));
        serve(bound, tributary).await;
        Ok(Outcome::Done)
    }
}

/// The first users with more followees than one page of the follow list, as examples.
async fn readers(tributary: &Tributary) -> Vec<UserId> {
    let limit = tributary::Limit::DEFAULT;
    let mut readers = Vec::new();
    for id in (1..=SIZE.users).map(UserId::from) {
        if readers.len() == EXAMPLES {
            break;
        }
        let page = tributary.following(id, UserId::from(0), limit).await;
        if page.is_ok_and(|page| page.next.is_some()) {
            readers.push(id);
        }
    }
    readers
}

/// Makes the folder with the demo's data.
fn make(data: &Path, size: NetworkSize) -> Result<(), OpenError> {
    let bar = progress(0, "rows", "generating a social graph");
    let rows = || {
        let graph = follows(size);
        let (posts, names) = (posts(size, &graph, now_ms()), names(size));
        bar.set_length((graph.len() + posts.len() + names.len()) as u64);
        FolderRows { shards: size.shards, follows: graph, posts, names }
    };
    FolderRows::build(data, MARKER_FILE, rows, |added| bar.inc(added as u64))?;
    bar.finish_and_clear();
    Ok(())
}
