//! Translates fill requests to SQL statements, and the rows that they return to answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mysql_async::Row;

use crate::model::{Post, ShardId, UserId};
use crate::moment::TimeUnit;
use crate::shard::ShardError;
use crate::shard::mysql::database::Database;
use crate::shard::mysql::statements::{AUTHORS_PER_STATEMENT, Statements};
use crate::shard::mysql::{field, key_of, text_of};
use crate::shard::source::{FillAnswer, FillRequest, FillTarget, RowBytes};

/// The statements that answer a batch of fill requests.
#[derive(Debug, Default)]
pub(super) struct FillPlan {
    statements: Vec<String>,
    /// The shard and the kind of each statement.
    kinds: Vec<(ShardId, StatementKind)>,
}

#[derive(Clone, Copy, Debug)]
enum StatementKind {
    Tails(TimeUnit),
    Follows,
    Handles,
}

/// The requests to one shard: users, each with the number of rows to read. That is one row more
/// than requested, to find out whether there are more.
#[derive(Default)]
struct ShardRequests {
    tails: BTreeMap<UserId, u64>,
    follows: BTreeMap<UserId, u64>,
}

/// The rows of all statements, by shard and user.
#[derive(Debug)]
pub(super) struct FillRows<'a> {
    plan: &'a FillPlan,
    bytes: RowBytes,
    /// Whether all rows were within the limit.
    is_whole: bool,
    posts: HashMap<(ShardId, UserId), Vec<Post>>,
    follows: HashMap<(ShardId, UserId), Vec<UserId>>,
    handles: HashMap<(ShardId, UserId), String>,
}

impl FillPlan {
    pub(super) fn new(
        shards: &[(ShardId, Arc<Database>)],
        requests: &[FillRequest],
    ) -> Result<Self, ShardError> {
        let mut by_shard: BTreeMap<ShardId, ShardRequests> = BTreeMap::new();
        for request in requests {
            let of_shard = by_shard.entry(request.shard).or_default();
            let (users, count) = match request.target {
                FillTarget::Tail { depth } => (&mut of_shard.tails, depth),
                FillTarget::Follows { max } => (&mut of_shard.follows, max),
            };
            let rows = users.entry(request.user).or_default();
            *rows = (*rows).max(u64::from(count) + 1);
        }
        let mut plan = Self::default();
        for (shard, requests) in by_shard {
            let elsewhere =
                || ShardError::Unavailable("a requested shard is not on this server".into());
            let database = shards.iter().find(|(id, _)| *id == shard).ok_or_else(elsewhere)?;
            let statements = database.1.statements().map_err(ShardError::Unavailable)?;
            plan.add(shard, &statements, requests);
        }
        Ok(plan)
    }

    fn add(&mut self, shard: ShardId, statements: &Statements, requests: ShardRequests) {
        let Statements { fills, unit, .. } = statements;
        let (tails, follows): (Vec<_>, Vec<_>) =
            (requests.tails.into_iter().collect(), requests.follows.into_iter().collect());
        for users in tails.chunks(AUTHORS_PER_STATEMENT) {
            // Handles are read before the rows that may exceed the limit.
            if let Some(sql) = fills.handles(users) {
                self.push(shard, StatementKind::Handles, sql);
            }
            self.push(shard, StatementKind::Tails(*unit), fills.tails(users));
        }
        for users in follows.chunks(AUTHORS_PER_STATEMENT) {
            self.push(shard, StatementKind::Follows, fills.follows(users));
        }
    }

    fn push(&mut self, shard: ShardId, kind: StatementKind, sql: String) {
        self.statements.push(sql);
        self.kinds.push((shard, kind));
    }

    pub(super) fn statements(&self) -> &[String] {
        &self.statements
    }

    /// Takes the rows of the statements, of at most about `bytes_max` bytes.
    pub(super) fn rows(&self, bytes_max: usize) -> FillRows<'_> {
        FillRows {
            plan: self,
            bytes: RowBytes::new(bytes_max),
            is_whole: true,
            posts: HashMap::new(),
            follows: HashMap::new(),
            handles: HashMap::new(),
        }
    }
}

impl FillRows<'_> {
    /// Whether all rows were within the limit.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Takes one row of a statement. Returns false if the limit is reached, and no more rows must
    /// be read.
    pub(super) fn add(&mut self, statement: usize, row: &Row) -> Result<bool, mysql_async::Error> {
        let Some((shard, kind)) = self.plan.kinds.get(statement).copied() else { return Ok(true) };
        match kind {
            StatementKind::Tails(unit) => {
                let post = Post { key: key_of(unit, row)?, content: text_of(row, 3) };
                self.is_whole = self.bytes.take_post(&post);
                let posts = self.posts.entry((shard, post.key.author)).or_default();
                if self.is_whole || posts.is_empty() {
                    posts.push(post);
                }
            }
            StatementKind::Follows => {
                self.is_whole = self.bytes.take_follow();
                let follows = self.follows.entry((shard, UserId(field(row, 0)?))).or_default();
                follows.push(UserId(field(row, 1)?));
            }
            StatementKind::Handles => {
                self.handles.insert((shard, UserId(field(row, 0)?)), text_of(row, 1));
            }
        }
        Ok(self.is_whole)
    }

    /// The answers to `requests`, from the rows that were read.
    pub(super) fn answers(mut self, requests: &[FillRequest]) -> Vec<FillAnswer> {
        // The rows of one author come newest first. With several authors, a server may return the
        // parts of a `UNION ALL` in any order.
        if !self.is_whole && requests.len() > 1 {
            return vec![FillAnswer::TooLarge; requests.len()];
        }
        for posts in self.posts.values_mut() {
            posts.sort_by_key(|post| std::cmp::Reverse(post.key));
        }
        self.follows.values_mut().for_each(|follows| follows.sort_unstable());
        requests.iter().map(|request| self.answer(request)).collect()
    }

    fn answer(&self, request: &FillRequest) -> FillAnswer {
        let user = (request.shard, request.user);
        match request.target {
            FillTarget::Tail { depth } => {
                // A tail and its audit can be in one batch.
                let all = self.posts.get(&user).map_or(&[][..], Vec::as_slice);
                let posts = all.get(..to_usize(depth)).unwrap_or(all).to_vec();
                let complete = self.is_whole && posts.len() == all.len();
                FillAnswer::Tail { posts, complete, handle: self.handles.get(&user).cloned() }
            }
            FillTarget::Follows { .. } if !self.is_whole => FillAnswer::TooLarge,
            FillTarget::Follows { max } => match self.follows.get(&user) {
                Some(follows) if follows.len() > to_usize(max) => FillAnswer::TooLong,
                follows => FillAnswer::Follows(follows.cloned().unwrap_or_default()),
            },
        }
    }
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
