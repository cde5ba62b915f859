//! From requests to statements, and from rows to answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mysql_async::Row;

use crate::model::{Post, ShardId, UserId};
use crate::moment::TimeUnit;
use crate::shard::ShardError;
use crate::shard::mysql::database::Database;
use crate::shard::mysql::statements::{AUTHORS_PER_STATEMENT, Statements};
use crate::shard::mysql::{field, key_of, text_of};
use crate::shard::source::{FillAnswer, FillRequest, FillTarget};

/// The statements that grant some requests.
#[derive(Debug, Default)]
pub(super) struct Plan {
    statements: Vec<String>,
    /// What each of them reads.
    reads: Vec<(ShardId, Read)>,
}

#[derive(Clone, Copy, Debug)]
enum Read {
    Tails(TimeUnit),
    Follows,
    Handles,
}

/// What is asked of a shard: users, and how many rows of each. One more than was wished for tells
/// whether there are more.
#[derive(Default)]
struct Asked {
    tails: BTreeMap<UserId, u64>,
    follows: BTreeMap<UserId, u64>,
}

/// What was read, by the shard and the user.
#[derive(Default)]
struct Found {
    posts: HashMap<(ShardId, UserId), Vec<Post>>,
    follows: HashMap<(ShardId, UserId), Vec<UserId>>,
    handles: HashMap<(ShardId, UserId), String>,
}

impl Plan {
    pub(super) fn new(
        shards: &[(ShardId, Arc<Database>)],
        requests: &[FillRequest],
    ) -> Result<Self, ShardError> {
        let mut asked: BTreeMap<ShardId, Asked> = BTreeMap::new();
        for request in requests {
            let asked = asked.entry(request.shard).or_default();
            let (users, count) = match request.target {
                FillTarget::Tail { depth } => (&mut asked.tails, depth),
                FillTarget::Follows { max } => (&mut asked.follows, max),
            };
            let rows = users.entry(request.user).or_default();
            *rows = (*rows).max(u64::from(count) + 1);
        }
        let mut plan = Self::default();
        for (shard, asked) in asked {
            let elsewhere = || ShardError::Unavailable("a shard is not on this server".into());
            let database = shards.iter().find(|(id, _)| *id == shard).ok_or_else(elsewhere)?;
            let statements = database.1.statements().map_err(ShardError::Unavailable)?;
            plan.read(shard, &statements, asked);
        }
        Ok(plan)
    }

    fn read(&mut self, shard: ShardId, statements: &Statements, asked: Asked) {
        let Statements { fills, unit, .. } = statements;
        let (tails, follows): (Vec<_>, Vec<_>) =
            (asked.tails.into_iter().collect(), asked.follows.into_iter().collect());
        for users in tails.chunks(AUTHORS_PER_STATEMENT) {
            self.push(shard, Read::Tails(*unit), fills.tails(users));
            if let Some(sql) = fills.handles(users) {
                self.push(shard, Read::Handles, sql);
            }
        }
        for users in follows.chunks(AUTHORS_PER_STATEMENT) {
            self.push(shard, Read::Follows, fills.follows(users));
        }
    }

    fn push(&mut self, shard: ShardId, read: Read, sql: String) {
        self.statements.push(sql);
        self.reads.push((shard, read));
    }

    pub(super) fn statements(&self) -> &[String] {
        &self.statements
    }

    /// The answers, from the rows of each of the statements.
    pub(super) fn answers(
        &self,
        rows: &[Vec<Row>],
        requests: &[FillRequest],
    ) -> Result<Vec<FillAnswer>, ShardError> {
        let mut found = Found::default();
        for ((shard, read), rows) in self.reads.iter().zip(rows) {
            for row in rows {
                found.add(*shard, *read, row)?;
            }
        }
        found.sort();
        Ok(requests.iter().map(|request| found.answer(request)).collect())
    }
}

impl Found {
    fn add(&mut self, shard: ShardId, read: Read, row: &Row) -> Result<(), mysql_async::Error> {
        match read {
            Read::Tails(unit) => {
                let post = Post { key: key_of(unit, row)?, content: text_of(row, 3) };
                self.posts.entry((shard, post.key.author)).or_default().push(post);
            }
            Read::Follows => {
                let follows = self.follows.entry((shard, UserId(field(row, 0)?))).or_default();
                follows.push(UserId(field(row, 1)?));
            }
            Read::Handles => {
                self.handles.insert((shard, UserId(field(row, 0)?)), text_of(row, 1));
            }
        }
        Ok(())
    }

    /// Servers need not keep the order of the parts of a `UNION ALL`.
    fn sort(&mut self) {
        for posts in self.posts.values_mut() {
            posts.sort_by_key(|post| std::cmp::Reverse(post.key));
        }
        self.follows.values_mut().for_each(|follows| follows.sort_unstable());
    }

    fn answer(&self, request: &FillRequest) -> FillAnswer {
        let user = (request.shard, request.user);
        match request.target {
            FillTarget::Tail { depth } => {
                let found = self.posts.get(&user).map_or(&[][..], Vec::as_slice);
                let posts = found.get(..to_usize(depth)).unwrap_or(found).to_vec();
                let complete = posts.len() == found.len();
                FillAnswer::Tail { posts, complete, handle: self.handles.get(&user).cloned() }
            }
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
