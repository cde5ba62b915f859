//! `tributary export`: a user's posts and follows as files that `tributary import` reads.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::Value;
use tributary::internal::{fleet, rfc3339_ms};
use tributary::posts::{PostAddress, References};
use tributary::{Limit, OpenError, PageRequest, Post, Tributary, UserId};

use crate::{DATA_FOLDER, DataSource, Outcome, say};

#[derive(Args, Debug)]
#[command(
    after_help = "Makes the folder DIR with the files posts.ndjson and follows.ndjson, or .csv. The \
    posts are those that pages show, newest first; the follows are the users that the user \
    follows. `tributary import --posts FILE --follows FILE` reads the files; CSV needs \
    --dialect csv. A folder of embedded shards can be in use."
)]
pub(crate) struct Export {
    /// Id of the user
    user: UserId,
    /// New folder for the files
    #[arg(value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    source: DataSource,
    /// Form of the files
    #[arg(long, value_enum, default_value_t = Form::Ndjson)]
    format: Form,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    Ndjson,
    Csv,
}

impl Export {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let config = self.source.load(DATA_FOLDER)?;
        let tributary = Tributary::open_read_only(&config).await?;
        if self.to.symlink_metadata().is_ok() {
            let text = format!("{} exists already; name a new folder", self.to.display());
            return Err(OpenError::Prerequisite(text).into());
        }
        // It gets its name once it is complete. Built from its components, because a path may end
        // with a slash.
        let mut making = self.to.components().collect::<PathBuf>().into_os_string();
        making.push(".making");
        let making = PathBuf::from(making);
        if let Some(parent) = making.parent() {
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        fs::create_dir(&making).with_context(|| {
            let folder = making.display();
            format!("{folder}: if an earlier export was interrupted, remove this folder")
        })?;
        let exported = self.write(&tributary, &making).await;
        tributary.close().await;
        let named = exported.and_then(|counts| {
            fs::rename(&making, &self.to).with_context(|| self.to.display().to_string())?;
            Ok(counts)
        });
        let (posts, follows) = named.inspect_err(|_| drop(fs::remove_dir_all(&making)))?;
        say(format_args!("{posts} posts and {follows} follows in {}", self.to.display()));
        Ok(Outcome::Done)
    }

    /// Writes both files. Returns the numbers of posts and follows.
    async fn write(&self, tributary: &Tributary, dir: &Path) -> Result<(usize, usize)> {
        let limit = Limit::new(Limit::MAX).unwrap_or(Limit::DEFAULT);
        let times = fleet(tributary).times();
        let header = format!("tweet_id,user_id,timestamp,{},content", OPTIONAL.join(","));
        let mut file = self.file(dir, "posts", &header)?;
        let (mut posts, mut request) = (0, PageRequest::default().limit(limit));
        loop {
            let page = tributary.author_timeline(self.user, &request).await?;
            for post in &page.posts {
                let time = Timestamp::from_microsecond(times.epoch_us(post.key.time))
                    .with_context(|| format!("post {} has no time", post.key.post))?;
                writeln!(file, "{}", self.format.post(post, time))?;
            }
            self.check(tributary, page.missing.iter().next().copied())?;
            posts += page.posts.len();
            let Some(next) = page.next else { break };
            request = request.from(next);
        }
        file.into_inner()?.sync_all()?;
        let mut file = self.file(dir, "follows", "follower_user_id,followed_user_id")?;
        let (mut follows, mut from) = (0, UserId::from(0));
        loop {
            let page = tributary.following(self.user, from, limit).await?;
            self.check(tributary, page.missing.iter().next().copied())?;
            for followee in &page.followees {
                writeln!(file, "{}", self.format.follow(self.user, *followee))?;
            }
            follows += page.followees.len();
            let Some(next) = page.next else { break };
            from = next;
        }
        file.into_inner()?.sync_all()?;
        Ok((posts, follows))
    }

    fn check(&self, tributary: &Tributary, missing: Option<tributary::ShardId>) -> Result<()> {
        let Some(shard) = missing else { return Ok(()) };
        let shard = tributary.shard_name(shard);
        bail!(
            "shard {shard} does not answer, so the export of user {} is incomplete; run the \
               command again",
            self.user
        )
    }

    /// A new file, with a header line if it is CSV.
    fn file(&self, dir: &Path, name: &str, header: &str) -> Result<BufWriter<File>> {
        let ending = match self.format {
            Form::Ndjson => "ndjson",
            Form::Csv => "csv",
        };
        let path = dir.join(format!("{name}.{ending}"));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut file = BufWriter::new(file);
        if matches!(self.format, Form::Csv) {
            writeln!(file, "{header}")?;
        }
        Ok(file)
    }
}

impl Form {
    /// A line for a post. The time is in UTC with six digits, which every time column can hold.
    fn post(self, post: &Post, time: Timestamp) -> String {
        let (id, author, time) = (post.key.post, post.key.author, format!("{time:.6}"));
        let optional = optional(post);
        match self {
            Self::Ndjson => {
                let content = Value::from(post.content.as_str());
                let member = |(name, value): (&&str, Option<String>)| {
                    value.map_or(String::new(), |value| format!("\"{name}\":\"{value}\","))
                };
                let optional: String = OPTIONAL.iter().zip(optional).map(member).collect();
                format!(
                    "{{\"tweet_id\":\"{id}\",\"user_id\":\"{author}\",\"timestamp\":\"{time}\",\
                     {optional}\"content\":{content}}}"
                )
            }
            Self::Csv => {
                let optional = optional.map(Option::unwrap_or_default).join(",");
                format!("{id},{author},{time},{optional},{}", quoted(&post.content))
            }
        }
    }

    fn follow(self, follower: UserId, followee: UserId) -> String {
        match self {
            Self::Ndjson => format!(
                "{{\"follower_user_id\":\"{follower}\",\"followed_user_id\":\"{followee}\"}}"
            ),
            Self::Csv => format!("{follower},{followee}"),
        }
    }
}

/// The columns that most posts have no value in.
const OPTIONAL: [&str; 5] = [
    "reply_to_user_id",
    "reply_to_tweet_id",
    "repost_of_user_id",
    "repost_of_tweet_id",
    "edited_at",
];

/// The values of a post in these columns.
fn optional(post: &Post) -> [Option<String>; 5] {
    let author = |at: Option<PostAddress>| at.map(|at| at.author.to_string());
    let id = |at: Option<PostAddress>| at.map(|at| at.post.to_string());
    let References { reply_to, repost_of } = post.references;
    let edited_at = post.edited_at.map(rfc3339_ms);
    [author(reply_to), id(reply_to), author(repost_of), id(repost_of), edited_at]
}

/// A text in quotes, as RFC 4180 has it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
