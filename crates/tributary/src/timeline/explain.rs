//! How a page of a home timeline was read: which plan was chosen and why, what was read from memory
//! and what from each shard, and how long each step took.
//!
//! [`crate::Tributary::explain`] reads a page and explains it. All figures are of that read alone:
//! it shares no query with other requests.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::ReadError;
use crate::model::{ShardId, UserId};

/// Whether an explained page may be read from memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryUse {
    /// As for any other page.
    #[default]
    AsUsual,
    /// The page is read from the databases alone. It has the same posts.
    Off,
}

/// How a page of a home timeline was read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// The reader.
    pub reader: UserId,
    /// The shard of the reader, which has the follow list.
    pub reader_shard: ShardId,
    /// Where the posts of the page come from.
    pub source: PageSource,
    /// The search in memory of the last attempt, if there was one.
    pub search: Option<MemorySearch>,
    /// The followees; `None` if the follow list could not be read or is too long.
    pub followees: Option<usize>,
    /// Whether the page reflects the freshness token of the request; `None` without a token.
    pub reached_token: Option<bool>,
    /// Every shard, in configured order.
    pub shards: Vec<ShardPart>,
    /// The waves of simultaneous queries, in order; first that for the follow list, if any.
    pub waves: Vec<Wave>,
    /// The steps in order. Their times add up to `time`.
    pub steps: Vec<Step>,
    /// The time of the whole read.
    pub time: Duration,
    /// Why there is no page.
    pub error: Option<ReadError>,
}

/// Where the posts of a page come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageSource {
    /// Memory had all of it, and no database was queried.
    Memory,
    /// Memory had a part of it.
    Both,
    /// All of it was read from databases.
    Databases,
}

impl PageSource {
    /// The name in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Both => "memory_and_databases",
            Self::Databases => "databases",
        }
    }
}

/// How posts were looked for in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemorySearch {
    /// The way.
    pub method: SearchMethod,
    /// Authors whose cached posts were looked at.
    pub tails: usize,
    /// Posts that were found, one more than the page has room for at most.
    pub posts: usize,
}

/// The ways to look for posts in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SearchMethod {
    /// The newest times of all followees are compared, and authors are read from the newest down;
    /// with the reason why the recent log was not scanned.
    Heads(NotScanned),
    /// The recent log was scanned down from the cursor.
    RecentLog,
    /// Posts above the cursor were looked for.
    Newer,
}

/// Why the recent log was not scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotScanned {
    /// The page starts at the newest post, where the newest times suffice.
    NewestPage,
    /// Memory answers for a part of the followees only.
    PartOfFollowees,
    /// Few followees have posted after the cursor, so their newest times exclude most of them.
    FewNewer,
    /// Too many followees may have posts that the recent log does not list.
    Unlisted,
    /// The scan would have cost more than reading the authors.
    Slow,
    /// The recent log ends before the page is complete.
    TooShort,
}

impl SearchMethod {
    /// The name in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heads(_) => "newest_times",
            Self::RecentLog => "recent_log",
            Self::Newer => "newer_posts",
        }
    }
}

/// The reason for the choice, in a sentence.
impl fmt::Display for SearchMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Heads(NotScanned::NewestPage) => {
                "the page starts at the newest post, where the newest time of each followee shows \
                 which of them to read"
            }
            Self::Heads(NotScanned::PartOfFollowees) => {
                "memory answers for a part of the followees, whose newest times are compared"
            }
            Self::Heads(NotScanned::FewNewer) => {
                "few followees have posted after the cursor, so their newest times exclude most \
                 of them"
            }
            Self::Heads(NotScanned::Unlisted) => {
                "too many followees may have posts that the recent log does not list"
            }
            Self::Heads(NotScanned::Slow) => {
                "a scan of the recent log would have taken longer than reading the followees"
            }
            Self::Heads(NotScanned::TooShort) => "the recent log ends before the page is complete",
            Self::RecentLog => {
                "nearly all followees have posted after the cursor, so the recent log is scanned \
                 down from it"
            }
            Self::Newer => "the page leads to newer posts, which are read upwards from the cursor",
        })
    }
}

/// The part of one shard in a page.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardPart {
    /// The shard.
    pub shard: ShardId,
    /// Followees of the reader on this shard.
    pub followees: usize,
    /// Followees whose posts were looked for in memory.
    pub in_memory: usize,
    /// Of these, those whose cached posts end above the end of the page.
    pub too_short: usize,
    /// Whether the shard was queried.
    pub queried: bool,
    /// Why it was queried, or why not. Never empty.
    pub reasons: Vec<Reason>,
    /// Costs of the queries of all waves.
    pub cost: Cost,
    /// The sum of the waits for a connection.
    pub waited: Duration,
    /// The sum of the times of the queries.
    pub time: Duration,
    /// Posts on the page.
    pub posts: usize,
    /// Of these, those from memory.
    pub posts_from_memory: usize,
    /// Whether its posts are on the page.
    pub state: PartState,
    /// The log of its server or file; `None` without memory.
    pub log: Option<LogState>,
}

/// Whether the posts of a shard are on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartState {
    /// All that belong there.
    Complete,
    /// As memory had them at this time, in ms since 1970: the shard does not answer.
    Stale(i64),
    /// None of them: the shard did not answer.
    Missing,
}

/// Why a shard was queried, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The reader has no followees on the shard.
    NoFollowees,
    /// Memory has all that the page needs.
    AllInMemory,
    /// The page ended before anything was needed from this shard.
    NotNeeded,
    /// It has the follow list of the reader, which was not read from memory.
    FollowList,
    /// Memory does not know these followees.
    Unknown(usize),
    /// The cached posts of these followees end above the end of the page.
    TooShort(usize),
    /// The process has no memory.
    NoMemory,
    /// The request turned memory off.
    MemoryOff,
    /// Memory does not follow the log at the moment.
    NotFollowed,
    /// Memory has not reached the freshness token of the request in time.
    TokenNotReached,
    /// The shard was missing on an earlier page, so it continues at a place of its own.
    MissingBefore,
    /// Memory does not know whether older posts follow below a page of newer ones.
    OlderPosts,
    /// The follow list could not be read, so it is not known which shards are needed.
    NoFollowList,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let followees = |number: &usize| if *number == 1 { "followee" } else { "followees" };
        match self {
            Self::NoFollowees => f.write_str("the reader has no followees on this shard"),
            Self::AllInMemory => f.write_str("memory has all that the page needs"),
            Self::NotNeeded => f.write_str("the page needs nothing from it"),
            Self::FollowList => {
                f.write_str("it has the follow list of the reader, which was not read from memory")
            }
            Self::Unknown(number) => {
                write!(f, "memory does not know {number} {}", followees(number))
            }
            Self::TooShort(number) => {
                let of = followees(number);
                write!(f, "the cached posts of {number} {of} do not reach the end of the page")
            }
            Self::NoMemory => f.write_str("memory is off"),
            Self::MemoryOff => f.write_str("the request turned memory off"),
            Self::NotFollowed => f.write_str("memory does not follow the log at the moment"),
            Self::TokenNotReached => f.write_str("memory has not reached the freshness token"),
            Self::MissingBefore => f.write_str("the shard was missing on an earlier page"),
            Self::OlderPosts => f.write_str("memory does not know whether older posts follow"),
            Self::NoFollowList => f.write_str("the follow list could not be read"),
        }
    }
}

/// The cost of queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Statements.
    pub statements: u64,
    /// Rows that the database returned.
    pub rows: u64,
    /// Rows that the storage engine read, by the `Handler_read` counters of the database. `None`
    /// for SQLite, and if a server does not provide them.
    pub rows_examined: Option<u64>,
}

impl Cost {
    pub(super) fn add(&mut self, other: Self) {
        self.statements += other.statements;
        self.rows += other.rows;
        if let Some(rows) = other.rows_examined {
            *self.rows_examined.get_or_insert_default() += rows;
        }
    }
}

/// The log that memory follows for a shard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogState {
    /// The name of the server, or of the shard for a file.
    pub name: String,
    /// Whether memory was used for it, and how far.
    pub trust: LogTrust,
    /// The position that memory had reached before the read. The page reflects all changes up to
    /// it. `None` before the log is known.
    pub position: Option<String>,
}

/// How far memory was used for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogTrust {
    /// Memory has what the databases hold.
    Fresh,
    /// The databases do not answer; memory has what they held at this time, in ms since 1970.
    Stale(i64),
    /// Memory was not used.
    Unused,
}

/// Queries to several shards at the same time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Wave {
    /// The kind of data that was read.
    pub kind: WaveKind,
    /// Users or posts that were asked for.
    pub asked: usize,
    /// The queries of each shard.
    pub queries: Vec<ShardQueries>,
    /// The time until all shards had answered.
    pub time: Duration,
}

/// The kind of data that a wave reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaveKind {
    /// The users that the reader follows.
    FollowList,
    /// Which of the authors block the reader.
    Blocks,
    /// The key of one post of each author, from the cursor on.
    Heads,
    /// Several posts of each author, with their texts.
    Posts,
    /// All posts down to the last head that can be on the page, with their texts.
    Span,
    /// The texts of posts whose keys are known.
    Texts,
    /// The oldest post of each author: whether there are older posts below a page of newer ones.
    Oldest,
}

impl WaveKind {
    /// The name in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::FollowList => "follow_list",
            Self::Blocks => "blocks",
            Self::Heads => "newest_posts",
            Self::Posts => "posts",
            Self::Span => "posts_down_to_cut",
            Self::Texts => "texts",
            Self::Oldest => "oldest_posts",
        }
    }

    /// Why this is read, in a sentence.
    pub fn reason(self) -> &'static str {
        match self {
            Self::FollowList => "the follow list was not read from memory",
            Self::Blocks => "posts of authors that block the reader are not on the page",
            Self::Heads => {
                "there are more authors than posts on a page, so one key of each shows which of \
                 them can be on it"
            }
            Self::Posts => "few authors can be on the page, so several posts of each are read",
            Self::Span => "the newest times show how far down the page reaches at most",
            Self::Texts => "the keys of the page are known, and some texts are not",
            Self::Oldest => "a page of newer posts must say whether older ones follow it",
        }
    }
}

/// The queries of one wave to one shard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardQueries {
    /// The shard.
    pub shard: ShardId,
    /// Their cost.
    pub cost: Cost,
    /// The wait for a connection.
    pub waited: Duration,
    /// The time from then to the last answer.
    pub time: Duration,
    /// Why the shard did not answer.
    pub failure: Option<Failure>,
}

/// Why a shard did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// A short name of the kind.
    pub kind: &'static str,
    /// The reason as in the log. It may contain addresses and names of accounts.
    pub reason: String,
}

/// A step of a read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Step {
    /// The kind of work.
    pub kind: StepKind,
    /// The time that it took.
    pub time: Duration,
}

/// The kind of work of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepKind {
    /// Waits until memory has reached the freshness token.
    Token,
    /// Waits until the databases show the freshness token.
    Visible,
    /// Finds the follow list, in memory or by a query, and decides what is read from memory.
    Plan,
    /// Looks for posts in memory.
    Memory,
    /// The wave with this index.
    Wave(usize),
    /// Merges the answers and computes cursors.
    Merge,
    /// Queries the ends of the logs, for the token of the answer.
    LogEnds,
}

impl StepKind {
    /// The name in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Visible => "visible",
            Self::Plan => "plan",
            Self::Memory => "memory",
            Self::Wave(_) => "wave",
            Self::Merge => "merge",
            Self::LogEnds => "log_ends",
        }
    }
}

impl Explanation {
    /// The cost of all waves together.
    pub fn cost(&self) -> Cost {
        let mut total = Cost::default();
        self.waves.iter().flat_map(|wave| &wave.queries).for_each(|of| total.add(of.cost));
        total
    }

    /// The shards that are missing from the page, each with the last failure.
    pub fn failures(&self) -> BTreeMap<ShardId, &Failure> {
        let queries = self.waves.iter().flat_map(|wave| &wave.queries);
        queries.filter_map(|of| Some((of.shard, of.failure.as_ref()?))).collect()
    }
}
