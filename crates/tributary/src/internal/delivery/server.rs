//! Two servers with one shard and one log each, and all states that they ever held. They answer the
//! reads of the nodes.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::rngs::StdRng;

use super::{AUTHORS, READERS};
use crate::changes::{Change, ChangePosition, LogIdentity, LogPosition};
use crate::horizon::AHEAD_MS;
use crate::model::{Follow, Hide, Post, PostId, PostKey, UserId, UserList};
use crate::shard::{HeldReads, HeldTables};

pub(super) const SERVERS: usize = 2;

/// The server of a user.
pub(super) fn server_of(user: u64) -> usize {
    usize::try_from(user).unwrap() % SERVERS
}
/// The distance of two transactions in a log.
const GAP: u64 = 10;
/// The time between two changes without a transaction.
pub(super) const LOSS_PAUSE_MS: i64 = 200_000;
/// A post of the next century.
const CENTURY_MS: i64 = 4_102_444_800_000;

/// A post by author and id.
pub(super) type PostOf = (u64, u64);

/// The rows of one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// Time and text.
    pub(super) posts: BTreeMap<PostOf, (i64, String)>,
    /// The follows, mutes and blocks: owner and user.
    pub(super) lists: BTreeMap<UserList, BTreeSet<(u64, u64)>>,
}

/// The rows that a part of a log has changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) all: bool,
    pub(super) users: BTreeSet<u64>,
    pub(super) posts: BTreeSet<PostOf>,
    /// The owners and users of lists.
    pub(super) entries: BTreeSet<(u64, u64)>,
}

/// A log from its begin to its reset.
#[derive(Debug)]
pub(super) struct Epoch {
    pub(super) identity: LogIdentity,
    pub(super) log: Vec<Vec<Change>>,
    /// The rows before the first transaction, and after each.
    pub(super) rows: Vec<Rows>,
    /// Number of transactions that the tables show.
    pub(super) visible: usize,
    /// The numbers of transactions after which rows changed without one, and when.
    losses: BTreeMap<usize, i64>,
}

/// The server of the users whose id has this remainder.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) index: usize,
    pub(super) epochs: Vec<Epoch>,
    /// The ids of deleted posts, by author.
    deleted: Vec<PostOf>,
    /// How often each post was changed.
    pub(super) changes: BTreeMap<PostOf, usize>,
    /// The authors that have ever blocked a reader. The reader gets no event for that.
    pub(super) blocked: BTreeSet<(u64, u64)>,
    texts: u64,
    /// The tables that reads are answered from, and the rows that they hold.
    tables: HeldTables,
    filled: Rows,
}

pub(super) fn position(transactions: usize) -> LogPosition {
    LogPosition(GAP * transactions as u64)
}

fn key((author, post): PostOf, time: i64) -> PostKey {
    PostKey { time, post: PostId(post), author: UserId(author) }
}

impl Rows {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Post(post) | Change::PostEdited(post) => {
                let PostKey { time, post: PostId(id), author: UserId(author) } = post.key;
                self.posts.insert((author, id), (time, post.content.clone()));
            }
            Change::PostGone(PostKey { time, post: PostId(id), author: UserId(author) }) => {
                let at = (*author, *id);
                self.posts.retain(|address, (of, _)| *address != at || of != time);
            }
            Change::Follow(Follow { follower, followee }) => {
                self.set(UserList::Follows, (*follower, *followee), true);
            }
            Change::Unfollow(Follow { follower, followee }) => {
                self.set(UserList::Follows, (*follower, *followee), false);
            }
            Change::Hide(Hide { list, owner, user }) => self.set(*list, (*owner, *user), true),
            Change::Unhide(Hide { list, owner, user }) => self.set(*list, (*owner, *user), false),
            _ => {}
        }
    }

    /// Changes the tables from the rows that they hold to these rows.
    fn fill(&self, tables: &mut HeldTables, old: &Self) {
        let key_of = |(of, (time, _)): (&PostOf, &(i64, String))| key(*of, *time);
        let gone = old.posts.iter().filter(|(of, row)| self.posts.get(*of) != Some(*row));
        let stored = self.posts.iter().filter(|(of, row)| old.posts.get(*of) != Some(*row));
        let gone: Vec<PostKey> = gone.map(key_of).collect();
        let stored = stored.map(|(of, row)| Post::new(key_of((of, row)), row.1.clone()));
        tables.change_posts(&gone, &stored.collect::<Vec<_>>());
        for list in UserList::ALL {
            let difference = |new: &Self, old: &Self| -> Vec<Follow> {
                let rows = new.list(list).filter(|(owner, user)| !old.has(list, *owner, *user));
                rows.map(|(owner, user)| follow(owner, user)).collect()
            };
            tables.change_list(list, &difference(old, self), &difference(self, old));
        }
    }

    pub(super) fn list(&self, list: UserList) -> impl Iterator<Item = (u64, u64)> {
        self.lists.get(&list).into_iter().flatten().copied()
    }

    pub(super) fn has(&self, list: UserList, owner: u64, user: u64) -> bool {
        self.lists.get(&list).is_some_and(|rows| rows.contains(&(owner, user)))
    }

    /// Whether the reader follows the author and does not hide the author's posts.
    pub(super) fn shows(&self, reader: u64, author: u64) -> bool {
        let [follows, mutes, blocks] = UserList::ALL.map(|list| self.has(list, reader, author));
        follows && !mutes && !blocks
    }

    fn set(&mut self, list: UserList, (owner, user): (UserId, UserId), is_stored: bool) {
        let rows = self.lists.entry(list).or_default();
        match is_stored {
            true => rows.insert((owner.0, user.0)),
            false => rows.remove(&(owner.0, user.0)),
        };
    }

    pub(super) fn posts_of(&self, author: u64) -> impl DoubleEndedIterator<Item = Post> {
        self.posts
            .range((author, 0)..=(author, u64::MAX))
            .map(|(of, (time, text))| Post::new(key(*of, *time), text.clone()))
    }
}

impl Touched {
    fn add(&mut self, change: &Change) {
        match change {
            Change::Post(Post { key, .. }) | Change::PostEdited(Post { key, .. }) => {
                self.posts.insert((key.author.0, key.post.0));
            }
            Change::PostGone(key) => {
                self.posts.insert((key.author.0, key.post.0));
            }
            Change::Follow(Follow { follower, followee })
            | Change::Unfollow(Follow { follower, followee }) => {
                self.entries.insert((follower.0, followee.0));
            }
            Change::Hide(hide) | Change::Unhide(hide) => {
                self.entries.insert((hide.owner.0, hide.user.0));
            }
            Change::AuthorUnknown(user) | Change::ReaderUnknown(user) => {
                self.users.insert(user.0);
            }
            _ => self.all = true,
        }
    }
}

impl Epoch {
    /// The number of whole transactions up to a position, and of changes of the next one.
    fn count_at(&self, at: ChangePosition) -> (usize, usize) {
        let count = usize::try_from(at.after.0 / GAP).unwrap().min(self.log.len());
        // Otherwise it is the mark of a loss.
        let is_within = at.after.0 % GAP == GAP - 1;
        (count, if is_within { usize::try_from(at.changes).unwrap() } else { 0 })
    }

    /// Whether rows changed without a transaction after this position. The clocks of nodes differ
    /// by less than the time between two such changes.
    pub(super) fn is_before_loss(&self, at: ChangePosition) -> bool {
        self.losses.iter().any(|(count, now_ms)| {
            let is_marked = i64::from(at.changes) * 1_000 > now_ms - LOSS_PAUSE_MS / 2;
            position(*count) > at.after || (position(*count) == at.after && !is_marked)
        })
    }

    pub(super) fn rows_at(&self, at: ChangePosition) -> Rows {
        let (count, changes) = self.count_at(at);
        let mut rows = self.rows[count].clone();
        let next = self.log.get(count).into_iter().flatten();
        next.take(changes).for_each(|change| rows.apply(change));
        rows
    }

    /// The changes after a position in the first `until` transactions.
    pub(super) fn touched(&self, after: ChangePosition, until: usize) -> Touched {
        let (count, changes) = self.count_at(after);
        let mut touched = Touched::default();
        let whole = self.log.get(count..until.max(count)).unwrap_or_default();
        whole.iter().flatten().skip(changes).for_each(|change| touched.add(change));
        touched
    }

    pub(super) fn end(&self) -> usize {
        self.log.len()
    }
}

impl Server {
    pub(super) fn new(index: usize) -> Self {
        let mut rows = Rows::default();
        for reader in READERS.into_iter().filter(|reader| server_of(*reader) == index) {
            for author in 0..AUTHORS / 2 {
                rows.set(UserList::Follows, (UserId(reader), UserId(author)), true);
            }
        }
        let (epochs, changes) = (Vec::new(), BTreeMap::new());
        let (deleted, tables, filled) = (Vec::new(), HeldTables::new(), Rows::default());
        let blocked = BTreeSet::new();
        let mut server =
            Self { index, epochs, deleted, changes, blocked, texts: 0, tables, filled };
        server.begin(rows, false);
        server
    }

    /// The log is reset. With the weakness, the new log has the identity of the old one.
    pub(super) fn reset(&mut self, keeps_identity: bool) {
        let rows = self.now().rows.last().unwrap().clone();
        self.show(usize::MAX);
        self.begin(rows, keeps_identity);
    }

    fn begin(&mut self, rows: Rows, keeps_identity: bool) {
        let number = if keeps_identity { self.epochs.len() - 1 } else { self.epochs.len() };
        let identity = LogIdentity(1_000 * (self.index + 1) as u64 + number as u64);
        self.epochs.push(Epoch {
            identity,
            log: Vec::new(),
            rows: vec![rows],
            visible: 0,
            losses: BTreeMap::new(),
        });
    }

    pub(super) fn now(&self) -> &Epoch {
        self.epochs.last().unwrap()
    }

    pub(super) fn now_mut(&mut self) -> &mut Epoch {
        self.epochs.last_mut().unwrap()
    }

    /// The tables show this many further transactions.
    pub(super) fn show(&mut self, count: usize) {
        let epoch = self.now_mut();
        epoch.visible = epoch.visible.saturating_add(count).min(epoch.end());
    }

    /// Answers a read that a node has sent. Sometimes the server reports less than the tables show.
    pub(super) fn answer(&mut self, held: &HeldReads, number: usize, chance: &mut StdRng) {
        let epoch = self.epochs.last().unwrap();
        let rows = &epoch.rows[epoch.visible];
        rows.fill(&mut self.tables, &self.filled);
        self.filled.clone_from(rows);
        self.tables.set_position(epoch.identity, position(epoch.visible));
        let unreported = match chance.random_range(0..20) {
            0 => epoch.visible,
            1..4 => chance.random_range(0..3).min(epoch.visible),
            _ => 0,
        };
        held.report(position(epoch.visible - unreported), position(epoch.end()));
        held.answer(number, &self.tables);
    }

    /// One transaction with up to eight changes.
    pub(super) fn write(&mut self, chance: &mut StdRng, now_ms: i64) {
        let (mut rows, mut changes) = (self.now().rows.last().unwrap().clone(), Vec::new());
        if chance.random_ratio(1, 300) {
            self.change_unseen(&mut rows, chance, now_ms);
            changes.push(Change::ShardUnknown);
        } else {
            let most = if chance.random_bool(0.2) { 8 } else { 2 };
            for _ in 0..chance.random_range(1..=most) {
                self.change(&mut rows, &mut changes, (chance, now_ms));
            }
            if chance.random_ratio(1, 60) {
                self.change_unknown(&mut rows, &mut changes, (chance, now_ms));
            }
        }
        for change in &changes {
            if let Change::Post(Post { key, .. })
            | Change::PostEdited(Post { key, .. })
            | Change::PostGone(key) = change
            {
                *self.changes.entry((key.author.0, key.post.0)).or_default() += 1;
            }
        }
        let epoch = self.now_mut();
        epoch.log.push(changes);
        epoch.rows.push(rows);
    }

    /// Rows change without a transaction.
    pub(super) fn lose(&mut self, chance: &mut StdRng, now_ms: i64) {
        let mut rows = self.now().rows.last().unwrap().clone();
        self.change_unseen(&mut rows, chance, now_ms);
        let epoch = self.now_mut();
        *epoch.rows.last_mut().unwrap() = rows;
        epoch.losses.insert(epoch.end(), now_ms);
    }

    /// Changes that the log does not contain.
    fn change_unseen(&mut self, rows: &mut Rows, chance: &mut StdRng, now_ms: i64) {
        let mut unseen = Vec::new();
        for _ in 0..3 {
            self.change(rows, &mut unseen, (chance, now_ms));
        }
        // All posts of the shard may come again.
        self.changes.values_mut().for_each(|count| *count += 1);
        for change in unseen {
            if let Change::Post(Post { key, .. }) = change {
                self.changes.insert((key.author.0, key.post.0), 2);
            }
        }
    }

    /// A change of one user that the log contains without its content.
    fn change_unknown(
        &mut self,
        rows: &mut Rows,
        changes: &mut Vec<Change>,
        (chance, now_ms): (&mut StdRng, i64),
    ) {
        let reader = READERS.into_iter().find(|reader| server_of(*reader) == self.index);
        match (chance.random_bool(0.5), reader) {
            (true, Some(reader)) => {
                rows.lists.entry(UserList::Follows).or_default().retain(|(own, _)| *own != reader);
                let author = UserId(chance.random_range(0..AUTHORS));
                rows.set(UserList::Follows, (UserId(reader), author), true);
                changes.push(Change::ReaderUnknown(UserId(reader)));
            }
            _ => {
                let author = self.author(chance);
                let post = self.post(author, time(chance, now_ms), chance);
                self.changes.insert((author, post.key.post.0), 2);
                rows.apply(&Change::Post(post));
                changes.push(Change::AuthorUnknown(UserId(author)));
            }
        }
    }

    fn author(&self, chance: &mut StdRng) -> u64 {
        chance.random_range(0..AUTHORS / 2) * 2 + self.index as u64
    }

    fn post(&mut self, author: u64, time: i64, chance: &mut StdRng) -> Post {
        let free = |id: &u64| !self.changes.contains_key(&(author, *id));
        let mut id = chance.random_range(0..1_000_000);
        while !free(&id) {
            id += 1;
        }
        Post::new(key((author, id), time), self.text())
    }

    fn text(&mut self) -> String {
        self.texts += 1;
        format!("text {} of {}", self.texts, self.index)
    }

    /// A change of a post or of a follow, as one row of a statement makes it.
    fn change(
        &mut self,
        rows: &mut Rows,
        changes: &mut Vec<Change>,
        (chance, now_ms): (&mut StdRng, i64),
    ) {
        let before = changes.len();
        let author = self.author(chance);
        let own: Vec<PostKey> = rows.posts_of(author).map(|post| post.key).collect();
        let some = own.get(chance.random_range(0..own.len().max(1))).copied();
        match (chance.random_range(0..100), some) {
            (0..15, Some(old)) => {
                changes.push(Change::PostEdited(Post::new(old, self.text())));
            }
            (15..30, Some(old)) => {
                let key = PostKey { time: time(chance, now_ms), ..old };
                changes.push(Change::PostGone(old));
                changes.push(Change::Post(Post::new(key, self.text())));
            }
            (30..45, Some(old)) => {
                changes.push(Change::PostGone(old));
                self.deleted.push((author, old.post.0));
            }
            (45..50, Some(old)) => {
                changes.push(Change::PostGone(old));
                changes.push(Change::Post(Post::new(old, self.text())));
            }
            (50..55, _) => {
                let gone = self.deleted.pop().filter(|post| !rows.posts.contains_key(post));
                let time = time(chance, now_ms);
                changes
                    .extend(gone.map(|post| Change::Post(Post::new(key(post, time), self.text()))));
            }
            (55..68, _) => self.change_follow(rows, changes, chance),
            (68..70, _) => self.change_hide(rows, changes, chance),
            _ => changes.push(Change::Post(self.post(author, time(chance, now_ms), chance))),
        }
        changes[before..].iter().for_each(|change| rows.apply(change));
    }

    fn change_follow(&self, rows: &Rows, changes: &mut Vec<Change>, chance: &mut StdRng) {
        let own = READERS.into_iter().find(|reader| server_of(*reader) == self.index);
        let Some(reader) = own else { return };
        let followee = chance.random_range(0..AUTHORS);
        let follow = follow(reader, followee);
        let mut changed = match rows.has(UserList::Follows, reader, followee) {
            true => vec![Change::Unfollow(follow), Change::Follow(follow)],
            false => vec![Change::Follow(follow), Change::Unfollow(follow)],
        };
        if chance.random_bool(0.7) {
            changed.truncate(1);
        }
        changes.extend(changed);
    }

    /// A reader mutes or blocks an author or ends that, or the last author of the server a reader.
    fn change_hide(&mut self, rows: &Rows, changes: &mut Vec<Change>, chance: &mut StdRng) {
        let own = READERS.into_iter().find(|reader| server_of(*reader) == self.index);
        let blocker = AUTHORS - SERVERS as u64 + self.index as u64;
        let reader = READERS[chance.random_range(0..READERS.len())];
        let (list, owner, user) = match (chance.random_range(0..4), own) {
            (0, _) | (_, None) => (UserList::Blocks, blocker, reader),
            (1, Some(own)) => (UserList::Blocks, own, chance.random_range(0..AUTHORS)),
            (_, Some(own)) => (UserList::Mutes, own, chance.random_range(0..AUTHORS)),
        };
        if owner == blocker {
            self.blocked.insert((owner, user));
        }
        let hide = Hide { list, owner: UserId(owner), user: UserId(user) };
        changes.push(match rows.has(list, owner, user) {
            true => Change::Unhide(hide),
            false => Change::Hide(hide),
        });
    }
}

/// An entry of a list.
fn follow(owner: u64, user: u64) -> Follow {
    Follow { follower: UserId(owner), followee: UserId(user) }
}

/// Times tie, are late, are ahead by less than a minute, are due soon, and are far ahead.
fn time(chance: &mut StdRng, now_ms: i64) -> i64 {
    let second = now_ms / 1_000 * 1_000;
    match chance.random_range(0..10) {
        0..4 => second - chance.random_range(0..3) * 7_000,
        4 => second + chance.random_range(0..AHEAD_MS),
        5..9 => second + AHEAD_MS + chance.random_range(-1..12) * 1_000,
        _ => CENTURY_MS,
    }
}
