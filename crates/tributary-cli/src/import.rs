//! `tributary import`: loads follows and posts from CSV files into their owning shards.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use csv::{ByteRecord, ReaderBuilder};
use flate2::read::MultiGzDecoder;
use indicatif::ProgressBar;
use tributary::internal::{Fleet, Follow, Loaded, ShardError};
use tributary::{Post, PostKey};

use crate::{DATA_FOLDER, DataSource, Outcome, progress, say};

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

const FOLLOW_COLUMNS: [&str; 2] = ["follower_user_id", "followed_user_id"];
const POST_COLUMNS: [&str; 4] = ["tweet_id", "user_id", "content", "timestamp"];

#[derive(Args, Debug)]
#[command(
    after_help = "The rows are loaded into the folder tributary-data, or into the shards that \
    --config or --data names. The files are CSV with a header line, plain or gzipped. Columns of \
    follows: follower_user_id,followed_user_id. Columns of posts: \
    tweet_id,user_id,content,timestamp, where timestamp is in milliseconds since 1970. Running an \
    import again neither loses nor duplicates a row."
)]
pub(crate) struct Import {
    #[command(flatten)]
    source: DataSource,
    /// CSV file of follows
    #[arg(long, value_name = "FILE", required_unless_present = "posts")]
    follows: Option<PathBuf>,
    /// CSV file of posts
    #[arg(long, value_name = "FILE")]
    posts: Option<PathBuf>,
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
        let mut complete = true;
        if let Some(path) = &self.follows {
            let rows = CsvRows::open(path, &FOLLOW_COLUMNS, "follows", follow)?;
            complete &=
                rows.load(async |rows| fleet.load_follows(rows, BATCH_DEADLINE).await).await?;
        }
        if let Some(path) = &self.posts {
            let rows = CsvRows::open(path, &POST_COLUMNS, "posts", post)?;
            complete &=
                rows.load(async |rows| fleet.load_posts(rows, BATCH_DEADLINE).await).await?;
        }
        Ok(if complete { Outcome::Done } else { Outcome::Partial })
    }
}

/// Reads the rows of one CSV file.
struct CsvRows<T> {
    what: &'static str,
    reader: csv::Reader<Box<dyn BufRead>>,
    /// The index in the file of each column that `parse` expects.
    columns: Vec<usize>,
    parse: fn(&[&[u8]]) -> Result<T, String>,
    bar: ProgressBar,
    refused: usize,
    path: String,
    /// Whether lines end with CR LF. The CSV reader then counts the LF as part of the next line,
    /// so its line number of a row is too low by one.
    crlf: bool,
}

impl<T> CsvRows<T> {
    fn open(
        path: &Path,
        columns: &[&str],
        what: &'static str,
        parse: fn(&[&[u8]]) -> Result<T, String>,
    ) -> Result<Self> {
        let name = || path.display().to_string();
        let file = File::open(path).with_context(name)?;
        let bar = progress(file.metadata().with_context(name)?.len(), "bytes", what);
        let mut file = decompressed(bar.wrap_read(file)).with_context(name)?;
        let start = file.fill_buf().with_context(name)?;
        let crlf = start.split(|byte| *byte == b'\n').next().is_some_and(|l| l.ends_with(b"\r"));
        // `flexible`: a row with a wrong number of fields is refused by itself and does not end
        // the import.
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(file);
        let header = reader.byte_headers().with_context(name)?.clone();
        let mut found = Vec::new();
        for column in columns {
            match header.iter().position(|field| field == column.as_bytes()) {
                Some(index) => found.push(index),
                None => bail!("{} has no column `{column}` in its header line", name()),
            }
        }
        Ok(Self { what, reader, columns: found, parse, bar, refused: 0, path: name(), crlf })
    }

    /// Loads all rows and prints the counts. Returns false if rows were refused.
    async fn load(
        mut self,
        store: impl AsyncFn(Vec<T>) -> Result<Loaded, ShardError>,
    ) -> Result<bool> {
        let start = Instant::now();
        let (mut added, mut present) = (0, 0);
        loop {
            let (rows, lines) = self.next_batch().with_context(|| {
                format!("{}: stopped after {} rows", self.path, added + present + self.refused)
            })?;
            if rows.is_empty() {
                break;
            }
            let loaded = store(rows).await.with_context(|| {
                format!(
                    "stopped after {} {}; run the command again to continue",
                    added + present,
                    self.what
                )
            })?;
            added += loaded.added;
            present += loaded.present;
            for refused in loaded.refused {
                let line = lines.get(refused.index).copied().unwrap_or_default();
                self.refuse(line, &refused.reason);
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
        Ok(self.refused == 0)
    }

    /// The next valid rows and their line numbers; empty at the end of the file. Refuses invalid
    /// rows.
    fn next_batch(&mut self) -> Result<(Vec<T>, Vec<u64>)> {
        let (mut rows, mut lines, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut record = ByteRecord::new();
        let fields_expected = self.reader.byte_headers()?.len();
        while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            if !self.reader.read_byte_record(&mut record)? {
                break;
            }
            let line = record.position().map_or(0, csv::Position::line) + u64::from(self.crlf);
            let parsed = if record.len() == fields_expected {
                let fields: Vec<&[u8]> =
                    self.columns.iter().map(|column| &record[*column]).collect();
                (self.parse)(&fields)
            } else {
                Err(format!("{} fields instead of {fields_expected}", record.len()))
            };
            match parsed {
                Ok(row) => {
                    bytes += record.as_slice().len();
                    rows.push(row);
                    lines.push(line);
                }
                Err(reason) => self.refuse(line, &reason),
            }
        }
        Ok((rows, lines))
    }

    /// Counts a refused row, and prints its line and the reason if few rows were refused so far.
    fn refuse(&mut self, line: u64, reason: &str) {
        self.refused += 1;
        let text = match self.refused {
            count if count <= SHOWN_MAX => format!("{}: line {line}: {reason}", self.what),
            count if count == SHOWN_MAX + 1 => {
                format!("{}: more rows were refused; they are only counted", self.what)
            }
            _ => return,
        };
        self.bar.suspend(|| drop(writeln!(std::io::stderr(), "{text}")));
    }
}

/// The content of a file, decompressed if it is gzipped.
fn decompressed(file: impl Read + 'static) -> std::io::Result<Box<dyn BufRead>> {
    const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
    let mut file = BufReader::with_capacity(1 << 16, file);
    if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(file))));
    }
    Ok(Box::new(file))
}

fn follow(fields: &[&[u8]]) -> Result<Follow, String> {
    let [follower, followee] = fields else { return Err("not two fields".into()) };
    let follower = id(follower, FOLLOW_COLUMNS[0])?;
    Ok(Follow { follower, followee: id(followee, FOLLOW_COLUMNS[1])? })
}

fn post(fields: &[&[u8]]) -> Result<Post, String> {
    let [post, author, content, time] = fields else { return Err("not four fields".into()) };
    let (post, author) = (id(post, POST_COLUMNS[0])?, id(author, POST_COLUMNS[1])?);
    if content.len() > CONTENT_BYTES_MAX {
        return Err(format!("content is longer than {CONTENT_BYTES_MAX} bytes"));
    }
    let content = std::str::from_utf8(content).map_err(|error| format!("content: {error}"))?;
    let time = std::str::from_utf8(time).ok().and_then(|text| text.parse().ok());
    let time = time.ok_or("timestamp is not a number of milliseconds")?;
    let key = PostKey { time, post, author };
    Ok(Post::new(key, content))
}

fn id<T: FromStr>(field: &[u8], column: &str) -> Result<T, String> {
    let text = std::str::from_utf8(field).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{column} is not an id below 2^63"))
}
