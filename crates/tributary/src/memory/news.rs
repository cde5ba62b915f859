//! The newest changes of one log, in log order, so that a reader can learn what has become
//! visible since a position.
//!
//! The changes of one author, or of one reader's follow list, form a chain from the newest to the
//! oldest. A request therefore costs a look-up for each author that it asks for, and the changes
//! that it gets, whatever else is in the log. The oldest changes are dropped when the share of the
//! budget is used up; a position before them is a gap.
//!
//! A post is returned as it is now: a request after an edit returns the new text for the older
//! change too, and a request after a deletion returns only the deletion. Posts above the horizon
//! of a request are not returned (see [`super::future`]), but their deletions are: a page that was
//! read later, or at a node with another clock, may have shown them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::budget::Usage;
use super::future::Marks;
use super::tail::{TailKey, TailPost};
use crate::changes::{ChangePosition, LogPosition};
use crate::model::{PostId, PostKey, ShardId, UserId, UserList};

/// About the bytes of a change without its text: the change, its chain, and free space.
const ITEM_BYTES: usize = 160;
/// Changes of one request. More are a gap: a page is cheaper then, and the writer waits for this
/// walk.
const WALK_MAX: usize = 50_000;
/// About the bytes of a text apart from its own: its entry in the map, counters, free space.
const TEXT_BYTES: usize = 160;

/// The user or the shard that a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// The posts of this author.
    Author(UserId),
    /// The follow list of this reader.
    Reader(UserId),
    /// The authors of this log that block this user.
    Blocked(UserId),
    /// All posts and follow lists of this shard.
    Shard(ShardId),
    /// All follow lists of this shard.
    Readers(ShardId),
}

impl Subject {
    /// The author of a post. Other subjects have none.
    pub(crate) fn author(self) -> UserId {
        match self {
            Self::Author(author) => author,
            _ => UserId(0),
        }
    }
}

/// A change of one log, without its place.
#[derive(Clone, Debug)]
pub(crate) enum NewsChange {
    /// The post has become visible.
    Post(TailPost),
    /// The post has another text.
    Edited(TailPost),
    /// The post is no longer visible.
    Gone(TailKey),
    /// The reader follows this user.
    Follow(UserId),
    /// The reader does not follow this user any more.
    Unfollow(UserId),
    /// The reader mutes or blocks this user.
    Hide(UserList, UserId),
    /// The reader does not mute or block this user any more.
    Unhide(UserList, UserId),
    /// The subject changed in an unknown way.
    Unknown,
}

/// A change as a request gets it.
#[derive(Clone, Debug)]
pub(crate) struct NewsItem {
    /// The position right after the change.
    pub(crate) position: ChangePosition,
    /// The end of its transaction.
    pub(crate) at: LogPosition,
    pub(crate) subject: Subject,
    pub(crate) change: NewsChange,
}

/// The request cannot be answered: changes after its position were dropped or are unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap;

/// The part of a log that a request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewsRange<'a> {
    /// Only changes after this position.
    pub(crate) since: ChangePosition,
    /// Only changes of transactions up to this position.
    pub(crate) until: LogPosition,
    /// Each subject once.
    pub(crate) subjects: &'a [Subject],
    /// The shards that own the subjects.
    pub(crate) shards: &'a [ShardId],
    /// Only changes of posts up to this key, if later ones are hidden.
    pub(crate) horizon: Option<PostKey>,
    /// At most this many changes, the oldest ones.
    pub(crate) limit: usize,
}

/// How much of the news of a log is retained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retained {
    /// Changes before this position are dropped.
    pub(crate) floor: ChangePosition,
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
    /// The arrival of the changes at the floor, or the start.
    pub(crate) since: Instant,
}

/// The newest changes of one log. One writer, many readers.
#[derive(Debug)]
pub(crate) struct News(RwLock<Changes>);

#[derive(Debug)]
struct Changes {
    items: VecDeque<Item>,
    /// The number of the first item; numbers begin at 1 and rise by one.
    first: u64,
    /// The number of the newest item of each subject.
    newest: HashMap<Subject, u64>,
    /// The posts of the items as they are now; a deleted one is absent.
    posts: HashMap<(UserId, PostId), Stored>,
    /// Changes before this position are dropped.
    floor: ChangePosition,
    /// When the change at the floor was added.
    since: Instant,
    /// Shards that changed without a transaction, and the position right after it.
    lost_at: HashMap<ShardId, ChangePosition>,
    marks: Marks,
    bytes: usize,
}

#[derive(Debug)]
struct Item {
    at: LogPosition,
    added: Instant,
    index: u32,
    subject: Subject,
    /// The number of the subject's previous item, or 0.
    previous: u64,
    kind: Kind,
    /// The latest time of all plain posts before this one.
    plain_before: i64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Post(TailKey),
    Edited(TailKey),
    Gone(TailKey),
    /// The post has another time, and the item before this one in the chain or earlier stored it.
    Moved {
        from: TailKey,
        to: TailKey,
    },
    Follow(UserId),
    Unfollow(UserId),
    Hide(UserList, UserId),
    Unhide(UserList, UserId),
    Unknown,
}

/// The current text of a post.
#[derive(Debug)]
struct Stored {
    post: TailPost,
    /// The number of the newest item that stored it.
    number: u64,
}

impl News {
    fn read(&self) -> RwLockReadGuard<'_, Changes> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Changes> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops everything: the log begins, or begins again, at this position. `clock` is the time, as
    /// a value of the time column.
    pub(crate) fn begin(&self, floor: ChangePosition, clock: i64, usage: &Usage) {
        let mut changes = self.write();
        let before = changes.size();
        let marks = Marks::begin(clock);
        *changes = Changes { floor, first: 1, marks, ..Changes::empty() };
        usage.change(before, changes.size());
    }

    /// Adds the changes of a transaction that ends at `at`, each with its index in the
    /// transaction. `clock` is the time, as a value of the time column. Drops the oldest changes
    /// beyond `bytes_max`.
    pub(crate) fn add(
        &self,
        (at, clock): (LogPosition, i64),
        added: impl IntoIterator<Item = (u32, Subject, NewsChange)>,
        (usage, bytes_max): (&Usage, usize),
    ) {
        let mut changes = self.write();
        let (before, now) = (changes.size(), Instant::now());
        for (index, subject, change) in added {
            let plain_before = changes.marks.plain();
            changes.mark((at, clock), subject, &change);
            changes.push((at, index), (now, plain_before), subject, change);
        }
        while changes.size().0 > bytes_max && changes.drop_oldest() {}
        let plain = changes.marks.plain();
        let floor = changes.items.front().map_or(plain, |item| item.plain_before);
        changes.marks.prune(floor, bytes_max);
        usage.change(before, changes.size());
    }

    /// Records that the shard changed without a transaction, right before `position`. `clock` is
    /// the time, as a value of the time column.
    pub(super) fn lose(&self, shard: ShardId, position: ChangePosition, clock: i64) {
        let mut changes = self.write();
        changes.lost_at.insert(shard, position);
        changes.marks.doubt_shard(shard, position.after, clock);
    }

    /// Records the times of the newest posts of all authors of these shards, from a load that has
    /// all changes up to `low`.
    pub(crate) fn load(
        &self,
        shards: &[ShardId],
        low: LogPosition,
        heads: impl Iterator<Item = (ShardId, UserId, i64)>,
        usage: &Usage,
    ) {
        let mut changes = self.write();
        let before = changes.size();
        changes.marks.load(shards, low, heads);
        usage.change(before, changes.size());
    }

    /// Forgets which authors have posts of the future, as a fault would.
    #[cfg(test)]
    pub(crate) fn forget_marks(&self) {
        self.write().marks.forget();
    }

    /// Those of the authors that may have posts which become visible above a horizon without a
    /// change of the log. The horizon belongs to the position `since`.
    ///
    /// # Errors
    /// [`Gap`] if changes since the position were dropped, or if posts that are hidden at the
    /// horizon may be plain here.
    pub(crate) fn with_future(
        &self,
        (since, horizon): (ChangePosition, PostKey),
        authors: impl Iterator<Item = (UserId, ShardId)>,
    ) -> Result<Vec<UserId>, Gap> {
        let changes = self.read();
        if since < changes.floor || changes.plain_up_to(since) > horizon.time {
            return Err(Gap);
        }
        let mut found = Vec::new();
        for (author, shard) in authors {
            if changes.marks.may_be_unmarked(shard, horizon.time) {
                return Err(Gap);
            }
            if changes.marks.may_have(author, shard, horizon.time) {
                found.push(author);
            }
        }
        Ok(found)
    }

    /// The posts of the author that became visible in the log, or got another time, after the
    /// position.
    pub(crate) fn posts_since(
        &self,
        author: UserId,
        since: ChangePosition,
    ) -> Result<HashSet<PostId>, Gap> {
        let changes = self.read();
        let mut numbers = Vec::new();
        changes.chain(Subject::Author(author), since, LogPosition(u64::MAX), &mut numbers);
        if since < changes.floor || numbers.len() > WALK_MAX {
            return Err(Gap);
        }
        let post = |item: &Item| match item.kind {
            Kind::Post((_, post)) => Some(PostId(post)),
            _ => None,
        };
        Ok(numbers.iter().filter_map(|number| changes.item(*number)).filter_map(post).collect())
    }

    /// Whether one of the authors stopped blocking the reader in a transaction up to `until`, after
    /// the position `since`, or whether that is not known any more. The author's earlier posts then
    /// became visible.
    pub(crate) fn is_unblocked_by(
        &self,
        authors: &[UserId],
        reader: UserId,
        (since, until): (ChangePosition, LogPosition),
    ) -> bool {
        let (changes, mut numbers) = (self.read(), Vec::new());
        changes.chain(Subject::Blocked(reader), since, until, &mut numbers);
        if since < changes.floor || numbers.len() > WALK_MAX {
            return true;
        }
        let blocker = |item: &Item| match item.kind {
            Kind::Unhide(_, author) => Some(author),
            _ => None,
        };
        let items = numbers.iter().filter_map(|number| changes.item(*number));
        let blockers: HashSet<UserId> = items.filter_map(blocker).collect();
        !blockers.is_empty() && authors.iter().any(|author| blockers.contains(author))
    }

    /// The changes of a range, oldest first. Cost: a look-up for each subject, and the changes of
    /// the subjects since the position.
    ///
    /// # Errors
    /// [`Gap`] if changes since the position were dropped, or one of them is unknown.
    pub(crate) fn of(&self, range: NewsRange<'_>) -> Result<Vec<NewsItem>, Gap> {
        self.read().of(range)
    }

    /// How much is retained.
    pub(crate) fn retained(&self) -> Retained {
        let changes = self.read();
        let ((bytes, count), floor, since) = (changes.size(), changes.floor, changes.since);
        Retained { floor, changes: count, bytes, since }
    }
}

impl Default for News {
    fn default() -> Self {
        Self(RwLock::new(Changes::empty()))
    }
}

impl Changes {
    fn empty() -> Self {
        Self {
            items: VecDeque::new(),
            first: 0,
            newest: HashMap::new(),
            posts: HashMap::new(),
            floor: ChangePosition::default(),
            since: Instant::now(),
            lost_at: HashMap::new(),
            marks: Marks::default(),
            bytes: 0,
        }
    }

    /// Bytes and number of changes.
    fn size(&self) -> (usize, usize) {
        (self.bytes + self.marks.bytes(), self.items.len())
    }

    /// Marks the author of a post that is dated ahead, and those that an unknown change concerns.
    fn mark(&mut self, (at, clock): (LogPosition, i64), subject: Subject, change: &NewsChange) {
        match (subject, change) {
            (Subject::Author(author), NewsChange::Post(post) | NewsChange::Edited(post)) => {
                self.marks.note(author, post.key.0, clock);
            }
            (Subject::Author(author), NewsChange::Unknown) => self.marks.doubt_author(author),
            (Subject::Shard(shard), NewsChange::Unknown) => {
                self.marks.doubt_shard(shard, at, clock);
            }
            _ => {}
        }
    }

    /// The latest time of all plain posts up to the position.
    fn plain_up_to(&self, since: ChangePosition) -> i64 {
        let after = self.items.partition_point(|item| !item.is_after(since));
        self.items.get(after).map_or(self.marks.plain(), |item| item.plain_before)
    }

    /// Adds a change of the transaction that ends at `at` and arrives now.
    fn push(
        &mut self,
        (at, index): (LogPosition, u32),
        (added, plain_before): (Instant, i64),
        subject: Subject,
        change: NewsChange,
    ) {
        let number = self.first + self.items.len() as u64;
        let kind = match change {
            NewsChange::Post(post) => Kind::Post(self.store(subject, post, number)),
            NewsChange::Edited(post) => Kind::Edited(self.store(subject, post, number)),
            NewsChange::Gone(key) => {
                // A transaction may store a post at another time before it removes the old time.
                let place = post_of(subject, key);
                let stored = self.posts.get(&place).filter(|stored| stored.post.key != key);
                let stored_at = stored.and_then(|stored| self.item(stored.number));
                match stored.filter(|_| stored_at.is_some_and(|item| item.at == at)) {
                    Some(stored) => Kind::Moved { from: key, to: stored.post.key },
                    None => {
                        self.forget(place);
                        Kind::Gone(key)
                    }
                }
            }
            NewsChange::Follow(user) => Kind::Follow(user),
            NewsChange::Unfollow(user) => Kind::Unfollow(user),
            NewsChange::Hide(list, user) => Kind::Hide(list, user),
            NewsChange::Unhide(list, user) => Kind::Unhide(list, user),
            NewsChange::Unknown => Kind::Unknown,
        };
        let previous = self.newest.insert(subject, number).unwrap_or_default();
        self.items.push_back(Item { at, added, index, subject, previous, kind, plain_before });
        self.bytes += ITEM_BYTES;
    }

    fn store(&mut self, subject: Subject, post: TailPost, number: u64) -> TailKey {
        let key = post.key;
        self.forget(post_of(subject, key));
        self.bytes += TEXT_BYTES + post.body.len();
        self.posts.insert(post_of(subject, key), Stored { post, number });
        key
    }

    fn forget(&mut self, post: (UserId, PostId)) {
        if let Some(stored) = self.posts.remove(&post) {
            self.bytes -= TEXT_BYTES + stored.post.body.len();
        }
    }

    /// Returns false if there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(item) = self.items.pop_front() else { return false };
        let number = self.first;
        self.first += 1;
        self.bytes -= ITEM_BYTES;
        self.floor = ChangePosition::within(item.at, item.index);
        self.since = item.added;
        let floor = self.floor;
        self.lost_at.retain(|_, position| *position > floor);
        if let Entry::Occupied(newest) = self.newest.entry(item.subject)
            && *newest.get() == number
        {
            newest.remove();
        }
        if let Kind::Post(key) | Kind::Edited(key) = item.kind {
            let post = post_of(item.subject, key);
            if self.posts.get(&post).is_some_and(|stored| stored.number == number) {
                self.forget(post);
            }
        }
        true
    }

    fn of(&self, range: NewsRange<'_>) -> Result<Vec<NewsItem>, Gap> {
        let is_lost =
            |shard: &ShardId| self.lost_at.get(shard).is_some_and(|lost| range.since < *lost);
        if range.since < self.floor || range.shards.iter().any(is_lost) {
            return Err(Gap);
        }
        let mut numbers = Vec::new();
        for subject in range.subjects {
            self.chain(*subject, range.since, range.until, &mut numbers);
            if numbers.len() > WALK_MAX {
                return Err(Gap);
            }
        }
        numbers.sort_unstable();
        let items = numbers.iter().filter_map(|number| self.item(*number));
        if items.clone().any(|item| matches!(item.kind, Kind::Unknown)) {
            return Err(Gap);
        }
        let now = items.filter_map(|item| self.as_it_is_now(item, range.horizon));
        Ok(now.take(range.limit).collect())
    }

    /// Adds the numbers of the subject's items after `since` of transactions up to `until`, newest
    /// first.
    fn chain(
        &self,
        subject: Subject,
        since: ChangePosition,
        until: LogPosition,
        numbers: &mut Vec<u64>,
    ) {
        let mut number = self.newest.get(&subject).copied().unwrap_or_default();
        while let Some(item) = self.item(number).filter(|item| item.is_after(since)) {
            if item.at <= until {
                numbers.push(number);
            }
            number = item.previous;
        }
    }

    fn item(&self, number: u64) -> Option<&Item> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.items.get(index)
    }

    /// The item with the current text of its post. `None` if the post was deleted since, or if
    /// the horizon hides it.
    fn as_it_is_now(&self, item: &Item, horizon: Option<PostKey>) -> Option<NewsItem> {
        let shows = |(time, post): TailKey| {
            let Subject::Author(author) = item.subject else { return true };
            horizon.is_none_or(|horizon| PostKey { time, post: PostId(post), author } <= horizon)
        };
        let stored = |key| {
            let stored = self.posts.get(&post_of(item.subject, key));
            let stored = stored.filter(|stored| stored.post.key == key && shows(key));
            stored.map(|stored| stored.post.clone())
        };
        let change = match item.kind {
            Kind::Post(key) => NewsChange::Post(stored(key)?),
            Kind::Edited(key) => NewsChange::Edited(stored(key)?),
            Kind::Gone(key) => NewsChange::Gone(key),
            Kind::Moved { from, to } if !shows(to) => NewsChange::Gone(from),
            Kind::Moved { .. } => return None,
            Kind::Follow(user) => NewsChange::Follow(user),
            Kind::Unfollow(user) => NewsChange::Unfollow(user),
            Kind::Hide(list, user) => NewsChange::Hide(list, user),
            Kind::Unhide(list, user) => NewsChange::Unhide(list, user),
            Kind::Unknown => NewsChange::Unknown,
        };
        let position = ChangePosition::within(item.at, item.index);
        Some(NewsItem { position, at: item.at, subject: item.subject, change })
    }
}

impl Item {
    fn is_after(&self, since: ChangePosition) -> bool {
        ChangePosition::within(self.at, self.index) > since
    }
}

/// The post with this key of the author that is the subject.
fn post_of(subject: Subject, (_, post): TailKey) -> (UserId, PostId) {
    (subject.author(), PostId(post))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::horizon::horizon_at;

    const CLOCK: i64 = 10;
    const ANN: Subject = Subject::Author(UserId(1));
    const BOB: Subject = Subject::Author(UserId(2));
    const HOME: ShardId = ShardId(0);

    struct Kept(News, Usage);

    impl Kept {
        fn new() -> Self {
            let kept = Self(News::default(), Usage::default());
            kept.0.begin(ChangePosition::after(LogPosition(10)), CLOCK, &kept.1);
            kept
        }

        fn add(&self, at: u64, changes: &[(Subject, NewsChange)]) {
            let changes = (0..)
                .zip(changes)
                .map(|(index, (subject, change))| (index, *subject, change.clone()));
            self.0.add((LogPosition(at), CLOCK), changes, (&self.1, 20 * ITEM_BYTES));
        }

        /// The changes since a position, as words.
        fn since(&self, since: ChangePosition, subjects: &[Subject]) -> Result<String, Gap> {
            self.up_to(None, since, subjects)
        }

        /// The same up to a horizon.
        fn up_to(
            &self,
            horizon: Option<i64>,
            since: ChangePosition,
            subjects: &[Subject],
        ) -> Result<String, Gap> {
            let (until, shards, limit) = (LogPosition(u64::MAX), &[HOME][..], usize::MAX);
            let horizon = horizon.map(horizon_at);
            let range = NewsRange { since, until, subjects, shards, horizon, limit };
            let items = self.0.of(range)?;
            let words = items.iter().map(|item| match &item.change {
                NewsChange::Post(post) => format!("+{}", post.body),
                NewsChange::Edited(post) => format!("={}", post.body),
                NewsChange::Gone((_, post)) => format!("-{post}"),
                change => format!("{change:?}"),
            });
            Ok(words.collect::<Vec<_>>().join(" "))
        }
    }

    fn at(after: u64) -> ChangePosition {
        ChangePosition::after(LogPosition(after))
    }

    fn post(id: u64, body: &str) -> NewsChange {
        NewsChange::Post(TailPost { key: (5, id), body: body.into() })
    }

    fn edited(id: u64, body: &str) -> NewsChange {
        NewsChange::Edited(TailPost { key: (5, id), body: body.into() })
    }

    #[test]
    fn changes_of_the_asked_subjects_are_returned_in_log_order() {
        let news = Kept::new();
        news.add(20, &[(ANN, post(1, "a")), (BOB, post(2, "b")), (ANN, post(3, "c"))]);
        news.add(30, &[(BOB, edited(2, "B"))]);
        assert_eq!(news.since(at(10), &[ANN, BOB]), Ok("+a +B +c =B".into()));
        assert_eq!(news.since(at(10), &[ANN]), Ok("+a +c".into()));
        assert_eq!(news.since(at(15), &[BOB]), Ok("+B =B".into()));
        assert_eq!(news.since(at(20), &[ANN, BOB]), Ok("=B".into()));
        assert_eq!(news.since(at(30), &[ANN, BOB]), Ok(String::new()));
        let within = ChangePosition::within(LogPosition(20), 0);
        assert_eq!(news.since(within, &[ANN, BOB]), Ok("+B +c =B".into()));
        assert_eq!(news.since(at(9), &[ANN]), Err(Gap));
    }

    #[test]
    fn a_deleted_post_is_no_longer_returned_and_a_moved_one_is_not_deleted() {
        let news = Kept::new();
        news.add(20, &[(ANN, post(1, "a")), (ANN, post(2, "b"))]);
        news.add(30, &[(ANN, NewsChange::Gone((5, 1)))]);
        assert_eq!(news.since(at(10), &[ANN]), Ok("+b -1".into()));
        let moved = NewsChange::Post(TailPost { key: (6, 2), body: "b6".into() });
        news.add(40, &[(ANN, moved), (ANN, NewsChange::Gone((5, 2)))]);
        assert_eq!(news.since(at(30), &[ANN]), Ok("+b6".into()));
        // It was moved back by an unknown change, and then deleted.
        news.add(50, &[(ANN, NewsChange::Unknown)]);
        news.add(60, &[(ANN, NewsChange::Gone((5, 2)))]);
        assert_eq!(news.since(at(50), &[ANN]), Ok("-2".into()));
    }

    #[test]
    fn dropped_and_unknown_changes_are_gaps() {
        let news = Kept::new();
        for number in 0..100 {
            news.add(20 + number, &[(ANN, post(number, "text"))]);
        }
        let floor = news.0.retained().floor;
        assert!(floor > at(100) && floor < at(119), "{floor:?}");
        assert_eq!(news.since(at(floor.after.0), &[BOB]), Err(Gap));
        assert_eq!(news.since(floor, &[BOB]), Ok(String::new()));
        assert!(news.since(floor, &[ANN]).is_ok_and(|words| words.starts_with("+text +text")));
        assert!(news.1.bytes() <= 20 * ITEM_BYTES);
        news.add(130, &[(ANN, NewsChange::Unknown)]);
        assert_eq!(news.since(at(119), &[ANN]), Err(Gap));
        assert_eq!(news.since(at(119), &[BOB]), Ok(String::new()));
        assert_eq!(news.since(at(130), &[ANN]), Ok(String::new()));
        let lost = ChangePosition::after_loss(LogPosition(130), 7);
        news.0.lose(HOME, lost, CLOCK);
        assert_eq!(news.since(at(130), &[BOB]), Err(Gap));
        assert_eq!(news.since(lost, &[BOB]), Ok(String::new()));
    }

    #[test]
    fn posts_above_the_horizon_are_not_returned_and_their_deletions_are() {
        let news = Kept::new();
        let post = |time, id, body: &str| TailPost { key: (time, id), body: body.into() };
        news.add(
            20,
            &[(ANN, NewsChange::Post(post(5, 1, "a"))), (ANN, NewsChange::Post(post(30, 2, "b")))],
        );
        news.add(30, &[(ANN, NewsChange::Edited(post(30, 2, "B")))]);
        assert_eq!(news.up_to(Some(29), at(10), &[ANN]), Ok("+a".into()));
        assert_eq!(news.up_to(Some(30), at(10), &[ANN]), Ok("+a +B =B".into()));
        // The first post moves to the future, and both are deleted.
        let moved = [(ANN, NewsChange::Post(post(40, 1, "a40"))), (ANN, NewsChange::Gone((5, 1)))];
        news.add(40, &moved);
        assert_eq!(news.up_to(Some(29), at(30), &[ANN]), Ok("-1".into()));
        assert_eq!(news.up_to(Some(40), at(30), &[ANN]), Ok("+a40".into()));
        news.add(50, &[(ANN, NewsChange::Gone((30, 2))), (ANN, NewsChange::Gone((40, 1)))]);
        assert_eq!(news.up_to(Some(29), at(40), &[ANN]), Ok("-2 -1".into()));
    }

    #[test]
    fn authors_of_posts_of_the_future_are_found_for_every_position() {
        let news = Kept::new();
        news.0.load(&[HOME], LogPosition(10), std::iter::empty(), &news.1);
        let with_future = |since, horizon| {
            let authors = [UserId(1), UserId(2)].map(|author| (author, HOME)).into_iter();
            news.0.with_future((at(since), horizon_at(horizon)), authors)
        };
        let post = |time| NewsChange::Post(TailPost { key: (time, 1), body: "".into() });
        news.add(20, &[(ANN, post(CLOCK + 90)), (BOB, post(CLOCK))]);
        assert_eq!(with_future(10, CLOCK + 60), Ok(vec![UserId(1)]));
        assert_eq!(with_future(20, CLOCK + 91), Ok(vec![]));
        assert_eq!(with_future(20, CLOCK - 1), Err(Gap), "the post of this time is plain here");
        assert_eq!(with_future(10, CLOCK - 1), Err(Gap), "older posts are plain, too");
        assert_eq!(with_future(9, CLOCK + 60), Err(Gap));
        let ids = |since| news.0.posts_since(UserId(1), at(since)).map(|posts| posts.len());
        assert_eq!((ids(10), ids(20), ids(9)), (Ok(1), Ok(0), Err(Gap)));
    }
}
