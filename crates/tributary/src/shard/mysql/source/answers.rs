//! Translates fill requests to SQL statements, and the rows that they return to answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mysql_async::Row;

use crate::model::{FOLLOWEES_MAX, Post, ShardId, UserId, UserList, UserNames};
use crate::moment::TimeUnit;
use crate::shard::ShardError;
use crate::shard::mysql::database::Database;
use crate::shard::mysql::names::named;
use crate::shard::mysql::statements::{AUTHORS_PER_STATEMENT, Statements};
use crate::shard::mysql::{field, post_of};
use crate::shard::source::{FillAnswer, FillRequest, FillTarget, RowBytes, UserLists};

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
    Listed(UserList),
    Names,
}

/// The requests to one shard: users, each with the number of rows to read. That is one row more
/// than requested, to find out whether there are more.
#[derive(Default)]
struct ShardRequests {
    tails: BTreeMap<UserId, u64>,
    lists: BTreeMap<UserList, BTreeMap<UserId, u64>>,
}

impl ShardRequests {
    fn list(&mut self, list: UserList, owner: UserId, count: u64) {
        let rows = self.lists.entry(list).or_default().entry(owner).or_default();
        *rows = count.max(*rows);
    }
}

/// The rows of all statements, by shard and user.
#[derive(Debug)]
pub(super) struct FillRows<'a> {
    plan: &'a FillPlan,
    bytes: RowBytes,
    /// Whether all rows were within the limit.
    is_whole: bool,
    posts: HashMap<(ShardId, UserId), Vec<Post>>,
    lists: HashMap<(ShardId, UserId), UserLists>,
    /// Whether all rows of lists were within the limit.
    are_lists_whole: bool,
    names: HashMap<(ShardId, UserId), UserNames>,
}

impl FillPlan {
    pub(super) fn new(
        shards: &[(ShardId, Arc<Database>)],
        requests: &[FillRequest],
    ) -> Result<Self, ShardError> {
        let mut by_shard: BTreeMap<ShardId, ShardRequests> = BTreeMap::new();
        for request in requests {
            let of_shard = by_shard.entry(request.shard).or_default();
            match request.target {
                FillTarget::Tail { depth } => {
                    let rows = of_shard.tails.entry(request.user).or_default();
                    *rows = (u64::from(depth) + 1).max(*rows);
                    of_shard.list(UserList::Blocks, request.user, FOLLOWEES_MAX as u64 + 1);
                }
                FillTarget::Follows { max } => UserList::ALL
                    .into_iter()
                    .for_each(|list| of_shard.list(list, request.user, u64::from(max) + 1)),
            }
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
        // Lists and names are read before the posts, which may exceed the limit.
        for (list, owners) in requests.lists {
            let owners: Vec<_> = owners.into_iter().collect();
            for owners in owners.chunks(AUTHORS_PER_STATEMENT) {
                if let Some(sql) = fills.listed(list, owners) {
                    self.push(shard, StatementKind::Listed(list), sql);
                }
            }
        }
        let tails: Vec<_> = requests.tails.into_iter().collect();
        for users in tails.chunks(AUTHORS_PER_STATEMENT) {
            if let Some(sql) = fills.names(users) {
                self.push(shard, StatementKind::Names, sql);
            }
            self.push(shard, StatementKind::Tails(*unit), fills.tails(users));
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
            lists: HashMap::new(),
            are_lists_whole: true,
            names: HashMap::new(),
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
                let post = post_of(unit, row)?;
                self.is_whole = self.bytes.take_post(&post);
                let posts = self.posts.entry((shard, post.key.author)).or_default();
                if self.is_whole || posts.is_empty() {
                    posts.push(post);
                }
            }
            StatementKind::Listed(list) => {
                self.is_whole = self.bytes.take_users(list, 1);
                self.are_lists_whole = self.is_whole;
                let lists = self.lists.entry((shard, UserId(field(row, 0)?))).or_default();
                lists.of(list).push(UserId(field(row, 1)?));
            }
            StatementKind::Names => {
                let (user, names) = named(row)?;
                self.names.insert((shard, user), names);
            }
        }
        Ok(self.is_whole)
    }

    /// The answers to `requests`, from the rows that were read.
    pub(super) fn answers(mut self, requests: &[FillRequest]) -> Vec<FillAnswer> {
        // The rows of one author come newest first. With several authors, a server may return the
        // parts of a `UNION ALL` in any order.
        if !self.are_lists_whole || !self.is_whole && requests.len() > 1 {
            return vec![FillAnswer::TooLarge; requests.len()];
        }
        for posts in self.posts.values_mut() {
            posts.sort_by_key(|post| std::cmp::Reverse(post.key));
        }
        for lists in self.lists.values_mut() {
            UserList::ALL.into_iter().for_each(|list| lists.of(list).sort_unstable());
        }
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
                let lists = self.lists.get(&user);
                let blocks = lists.map(|lists| lists.blocks.clone()).unwrap_or_default();
                if blocks.len() > FOLLOWEES_MAX {
                    return FillAnswer::TooLarge;
                }
                let names = self.names.get(&user).cloned();
                FillAnswer::Tail { posts, complete, names, blocks }
            }
            FillTarget::Follows { max } => match self.lists.get(&user) {
                Some(lists) if lists.is_longer_than(to_usize(max)) => FillAnswer::TooLong,
                lists => FillAnswer::Follows(lists.cloned().unwrap_or_default()),
            },
        }
    }
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
