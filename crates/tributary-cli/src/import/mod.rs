//! `tributary import`: loads follows and posts from files into their owning shards.
//!
//! A row is stored as it is meant, or refused with its line and the correction. A refused row does
//! not stop the import: all other rows are loaded.

pub(crate) mod decoders;
mod header;
mod input;
mod mastodon;
mod mysql;
mod ndjson;
mod records;
mod rows;
mod table;
mod time;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;

use self::header::{Column, FOLLOW_COLUMNS, POST_COLUMNS};
use self::input::Input;
use self::mastodon::Mastodon;
use self::mastodon::outbox::Outbox;
use self::ndjson::Objects;
use self::records::Lines;
use self::rows::{PostTimesOfFile, Row};
use self::table::{Format, Table};
use crate::{DATA_FOLDER, DataSource, Outcome, progress, say};
use tributary::UserId;
use tributary::internal::{Fleet, Loaded, PostTimes, ShardError, now_ms};

/// Rows in one round; all shards commit their parts of a round at the same time.
const BATCH_ROWS: usize = 10_000;
/// Bytes of rows in one round. This bounds memory when posts are long.
const BATCH_BYTES: usize = 8 << 20;
/// The time limit of a shard for its part of a round.
const BATCH_DEADLINE: Duration = Duration::from_secs(60);
/// Longest accepted text of a post, in bytes. Our own tables cannot hold longer texts.
const CONTENT_BYTES_MAX: usize = 1 << 20;
/// Refused rows that are printed one by one; further ones are only counted.
const SHOWN_MAX: usize = 20;

#[derive(Args, Debug)]
#[command(
    after_help = "The rows are loaded into the folder tributary-data, or into the shards that \
    --config or --data names. A file is CSV with a header line, or NDJSON if its name ends with \
    .ndjson or .jsonl; both may be gzipped, and UTF-16 is known by its byte-order mark. Columns of \
    follows: follower_user_id,followed_user_id. Columns of posts: \
    tweet_id,user_id,content,timestamp; the columns reply_to_user_id,reply_to_tweet_id, \
    repost_of_user_id,repost_of_tweet_id and edited_at are optional. A timestamp is in seconds, \
    milliseconds or microseconds since 1970, or a date such as 2025-11-24T16:00:00Z; all times of \
    a column have one form, and lie between the year 2000 and tomorrow. A row that cannot be stored as it is meant is refused with \
    its line, all others are loaded, and the exit code is 4. Running an import again neither loses \
    nor duplicates a row."
)]
pub(crate) struct Import {
    #[command(flatten)]
    source: DataSource,
    /// File of follows
    #[arg(long, value_name = "FILE", required_unless_present_any = ["posts", "mastodon"])]
    follows: Option<PathBuf>,
    /// File of posts
    #[arg(long, value_name = "FILE")]
    posts: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    mastodon: Mastodon,
}

impl Import {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let mut config = self.source.load(DATA_FOLDER)?;
        // Servers abort a statement after this time. A batch may take longer than a usual read.
        config.request.deadline_ms = u64::try_from(BATCH_DEADLINE.as_millis())?;
        // Loading does not use the write path, so the tables need not fulfil its requirements.
        config.write.enabled = false;
        let fleet = Fleet::open_to_load(&config).await?;
        for shard in fleet.health() {
            if let Err(why) = shard.state {
                bail!("shard {} cannot be reached ({why}); no rows were imported", shard.name);
            }
        }
        fleet.loadable()?;
        let complete = match self.mastodon.chosen() {
            Some(export) => self.mastodon.load(&fleet, export).await?,
            None => self.load_files(&fleet).await?,
        };
        Ok(if complete { Outcome::Done } else { Outcome::Partial })
    }

    /// Loads the files. Returns false if rows were refused.
    async fn load_files(&self, fleet: &Fleet) -> Result<bool> {
        if self.format.has_header_option() && self.follows.is_some() && self.posts.is_some() {
            bail!("--header names the columns of one file; import follows and posts one by one");
        }
        let times = fleet.times();
        let open =
            |path: &PathBuf, columns, what| Source::open(path, columns, what, &self.format, times);
        // Both files are opened before a row is loaded, so that a wrong option loads nothing.
        let follows = self.follows.as_ref().map(|path| open(path, &FOLLOW_COLUMNS, "follows"));
        let posts = self.posts.as_ref().map(|path| open(path, &POST_COLUMNS, "posts"));
        let (follows, posts) = (follows.transpose()?, posts.transpose()?);
        let mut complete = true;
        if let Some(file) = follows {
            let parse = |row, _| rows::follow(&row);
            let store = async |rows| fleet.load_follows(rows, BATCH_DEADLINE).await;
            complete &= file.load(parse, store).await?;
        }
        if let Some(file) = posts {
            complete &= file.load_posts(fleet).await?;
        }
        Ok(complete)
    }
}

/// Reads the rows of one file and loads them.
struct Source {
    what: &'static str,
    path: String,
    rows: Rows,
    bar: ProgressBar,
    /// Rows are counted by activities of an outbox instead of lines.
    has_activities: bool,
    refused: usize,
    /// The last line that was read.
    line: u64,
}

enum Rows {
    Table(Box<Table>),
    Objects(Objects),
    Outbox(Outbox),
    /// The file could not be read to its end.
    Failed,
}

impl Source {
    fn open(
        path: &Path,
        columns: &'static [Column],
        what: &'static str,
        format: &Format,
        times: &PostTimes,
    ) -> Result<Self> {
        let name = || path.display().to_string();
        let file = File::open(path).with_context(name)?;
        let bar = progress(file.metadata().with_context(name)?.len(), "bytes", what);
        let input = Input::open(file, &bar).with_context(name)?;
        let rows = if is_ndjson(path) {
            if format.is_for_csv() {
                bail!(
                    "{} is NDJSON by its name; --dialect, --delimiter, --quote and --header are \
                     for CSV only",
                    name()
                );
            }
            Rows::Objects(Objects::new(input, columns, &format.columns))
        } else {
            let clock = (times, time::Plausible::new(now_ms()));
            match Table::open(input, columns, format, clock).with_context(name)? {
                Ok(table) => Rows::Table(Box::new(table)),
                Err(reason) => bail!("{} {reason}", name()),
            }
        };
        Ok(Self { what, path: name(), rows, bar, has_activities: false, refused: 0, line: 0 })
    }

    /// The posts of a Mastodon account.
    fn outbox(path: &Path, owner: UserId) -> Result<Self> {
        let name = || path.display().to_string();
        let file = File::open(path).with_context(name)?;
        let bar = progress(file.metadata().with_context(name)?.len(), "bytes", "posts");
        let rows = Rows::Outbox(Outbox::open(file, &bar, owner).with_context(name)?);
        let (what, path) = ("posts", name());
        Ok(Self { what, path, rows, bar, has_activities: true, refused: 0, line: 0 })
    }

    /// Loads all rows as posts. A post that the shards cannot store completely is refused.
    async fn load_posts(self, fleet: &Fleet) -> Result<bool> {
        let mut times = PostTimesOfFile::new(fleet.times(), now_ms());
        let parse = |row, line| {
            let post = rows::post(row, line, &mut times)?;
            fleet.storable(&post).map(|()| post)
        };
        let store = async |rows| fleet.load_posts(rows, BATCH_DEADLINE).await;
        self.load(parse, store).await
    }

    /// Loads all rows and prints the counts. Returns false if rows were refused.
    async fn load<T>(
        mut self,
        mut parse: impl FnMut(Row, u64) -> Result<T, String>,
        store: impl AsyncFn(Vec<T>) -> Result<Loaded, ShardError>,
    ) -> Result<bool> {
        let start = Instant::now();
        let (mut added, mut present) = (0, 0);
        loop {
            let (rows, lines) = self.next_batch(&mut parse);
            if rows.is_empty() {
                break;
            }
            let loaded = store(rows).await.with_context(|| {
                format!(
                    "{}: stopped after {} {}; run the command again to continue",
                    self.path,
                    added + present,
                    self.what
                )
            })?;
            added += loaded.added;
            present += loaded.present;
            for refused in loaded.refused {
                if let Some(lines) = lines.get(refused.index) {
                    self.refuse(lines, &refused.reason);
                }
            }
        }
        self.bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        let rate = (added + present) as f64 / seconds.max(0.001);
        say(format_args!(
            "{}: {added} added, {present} already there, {} refused in {seconds:.1} s \
             ({rate:.0} rows/s)",
            self.what, self.refused
        ));
        if let Rows::Outbox(outbox) = &self.rows {
            say(format_args!("skipped activities: {}", outbox.skipped));
        }
        Ok(self.refused == 0)
    }

    /// The next valid rows and their lines; empty at the end of the file. Refuses invalid rows.
    fn next_batch<T>(
        &mut self,
        parse: &mut impl FnMut(Row, u64) -> Result<T, String>,
    ) -> (Vec<T>, Vec<Lines>) {
        let (mut rows, mut all_lines, mut bytes) = (Vec::new(), Vec::new(), 0);
        while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some((lines, row)) = self.next() else { break };
            let parsed = row.and_then(|row| {
                bytes += row.iter().flatten().map(String::len).sum::<usize>();
                parse(row, lines.first)
            });
            match parsed {
                Ok(row) => {
                    rows.push(row);
                    all_lines.push(lines);
                }
                Err(reason) => self.refuse(&lines, &reason),
            }
        }
        (rows, all_lines)
    }

    /// The next row, or the reason why it is refused; `None` at the end of the file. If the file
    /// cannot be read further, its rest is refused.
    fn next(&mut self) -> Option<(Lines, Result<Row, String>)> {
        let next = match &mut self.rows {
            Rows::Table(table) => table.next(),
            Rows::Objects(objects) => objects.next(),
            Rows::Outbox(outbox) => outbox.next(),
            Rows::Failed => Ok(None),
        };
        match next {
            Ok(Some((lines, row))) => {
                self.line = lines.last;
                Some((lines, row))
            }
            Ok(None) => None,
            Err(error) => {
                self.rows = Rows::Failed;
                let line = self.line + 1;
                let reason = format!(
                    "the file cannot be read from here: {error}; the rows above are imported, so \
                     repair the file and import it again"
                );
                Some((Lines { first: line, last: line }, Err(reason)))
            }
        }
    }

    /// Counts a refused row, and prints its line and the reason if few rows were refused so far.
    fn refuse(&mut self, lines: &Lines, reason: &str) {
        self.refused += 1;
        let lines = match self.has_activities {
            true => format!("activity {}", lines.first),
            false => lines.to_string(),
        };
        let text = match self.refused {
            count if count <= SHOWN_MAX => format!("{}: {lines}: {reason}", self.path),
            count if count == SHOWN_MAX + 1 => {
                format!("{}: more rows were refused; they are only counted", self.path)
            }
            _ => return,
        };
        self.bar.suspend(|| drop(writeln!(std::io::stderr(), "{text}")));
    }
}

/// Whether the name of a file says that it is NDJSON, perhaps gzipped.
fn is_ndjson(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    [".ndjson", ".jsonl"].iter().any(|ending| name.ends_with(ending))
}
